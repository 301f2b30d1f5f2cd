"""How much each sentence matters to the outcome, from stored rollouts or from forced answers.

1. Boundary i is before sentence i: its rollouts write that sentence anew. Boundary i + 1 keeps it.
2. Resampling importance compares the two boundaries. Counterfactual importance compares kept with only those rollouts
   of boundary i whose first sentence means something else.
3. Forced importance asks for the probability of an answer right after each boundary, exactly, with no rollouts.
4. Positive supports the outcome, under `compat="paper"` too; a KL has no sign, so `difference` is beside it.
5. `n` is the smaller of the two samples compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from anchors.alternatives import join_alternatives
from anchors.forced import BOXED, AnswerStub
from anchors.models.base import CapabilityError, Model
from anchors.outcomes import Outcome, Tally, tally_answers
from anchors.reuse import passes_on, replaced_difference, reuse_rollouts
from anchors.rollouts import Rollouts
from anchors.scores import Scores, method
from anchors.similarity import Similarity, default_similarity
from anchors.stats import (
    Arrivals,
    anytime_interval,
    anytime_p,
    anytime_proportion,
    bootstrap_interval,
    difference_interval,
    entropy,
    fisher_p,
    kl_divergence,
    null_floor,
    permutation_p,
    wilson_interval,
)
from anchors.trace import Trace
from anchors.trajectories import firsts_of, other_meanings

Metric = Literal["probability", "kl"]

ASSURANCE = 0.99
"""Permutation p-values are reported at this upper confidence limit; see `stats.permutation_p`."""


@dataclass(frozen=True)
class _Rule:
    """The options a comparison of two samples depends on, with `compat` resolved."""

    metric: Metric
    alpha: float
    level: float
    seed: int
    answered_only: bool
    compat: str | None
    adaptive: bool

    @classmethod
    def of(
        cls,
        metric: str,
        alpha: float | None,
        level: float,
        seed: int,
        answered_only: bool,
        compat: str | None,
        adaptive: bool,
    ) -> _Rule:
        if metric not in ("probability", "kl"):
            raise ValueError(f"metric is {metric!r}; use 'probability' or 'kl'")
        if compat not in (None, "paper"):
            raise ValueError(f"compat is {compat!r}; use None or 'paper'")
        if metric == "kl" and adaptive:
            raise ValueError(
                "no interval of a KL holds for rollouts drawn until anchors were known; use metric='probability', "
                "or draw a full sweep (stop=None) into another run directory"
            )
        alpha = (1e-9 if compat else 0.5) if alpha is None else alpha
        answered_only = answered_only or compat == "paper"
        return cls(metric, alpha, level, seed, answered_only, compat, adaptive)  # type: ignore[arg-type]

    def outcome(self, outcome: Outcome | None) -> Outcome | None:
        return "target" if self.compat and outcome is None else outcome


@dataclass(frozen=True)
class _Sample:
    """One side of the comparison at every sentence: answer counts, and how many of how many reached the outcome."""

    counts: Int[np.ndarray, "sentence answer"]
    k: Int[np.ndarray, " sentence"]
    n: Int[np.ndarray, " sentence"]

    @classmethod
    def of(cls, tally: Tally, boundaries: list[int], where: list[np.ndarray] | None = None) -> _Sample:
        masks = where if where is not None else [None] * len(boundaries)
        pairs = list(zip(boundaries, masks, strict=True))
        reached = np.array([tally.reached(b, mask) for b, mask in pairs], dtype=int).reshape(-1, 2)
        counts = np.array([tally.counts(b, mask) for b, mask in pairs], dtype=int)
        return cls(counts, reached[:, 0], reached[:, 1])

    @property
    def rate(self) -> Float[np.ndarray, " sentence"]:
        with np.errstate(invalid="ignore"):
            return self.k / np.where(self.n > 0, self.n, np.nan)

    def __add__(self, other: _Sample) -> _Sample:
        return _Sample(self.counts + other.counts, self.k + other.k, self.n + other.n)


@method("resampling", needs="rollouts", unit="probability")
def resampling_importance(
    rollouts: Rollouts,
    *,
    outcome: Outcome | None = None,
    metric: Metric = "probability",
    alpha: float | None = None,
    level: float = 0.95,
    seed: int = 0,
    answered_only: bool = False,
    reuse: bool | None = None,
    compat: Literal["paper"] | None = None,
) -> Scores:
    """What keeping a sentence rather than writing it anew does to the answer (Thought Anchors, 2506.19143).

    "probability": P(outcome | boundary i + 1) - P(outcome | boundary i), Newcombe interval, Fisher exact p.
    "kl": KL(answers at i || answers at i + 1) in nats with `alpha` added to every count (default 0.5), bootstrap
    interval, permutation p at its 99 % upper limit, and the floor two equal distributions would show.

    `answered_only` drops rollouts without an answer. `reuse` counts a rollout that wrote the trace's own next sentence
    at the next boundary too (`anchors.reuse`): the same quantity from more rollouts, as share replaced times (kept -
    replaced), which is not p_after - p_before of the enlarged samples; MOVER interval, Fisher's p of kept against
    replaced; n and extras are those of the enlarged samples. It is the default where the run was adaptive
    (`resample(stop=...)`); interval and p are then those that hold at any time (`stats.sequences`).

    `compat="paper"`: answered only, alpha 1e-9, the target as default outcome, 0.0 where nothing was measured. Extras:
    p_before, p_after, answered_before, answered_after, headroom (entropy of the answers before the sentence, nats), and
    with "kl" the signed difference.

    Raises:
        ValueError: no rollouts, an unknown metric, an outcome the trace does not have, `reuse` with "kl" or `compat`, or "kl" of
            an adaptive run.

    >>> trace = Trace.from_text("2 + 2?", "It is an easy sum. So it is four.", answer="4")
    >>> box = [" \\\\boxed{4}"] * 20, [" \\\\boxed{5}"] * 20
    >>> scores = resampling_importance(Rollouts.from_texts(trace, [box[0] + box[1], box[0] + box[1], box[0] + box[0]]))
    >>> scores.values.tolist(), scores.anchors()
    ([0.0, 0.5], [1])
    """
    rule = _Rule.of(metric, alpha, level, seed, answered_only, compat, rollouts.adaptive)
    reuse = rule.adaptive and not rule.compat if reuse is None else reuse
    drawn, rollouts = rollouts, _reused(rollouts, rule, reuse)
    tally = tally_answers(rollouts, outcome=rule.outcome(outcome), answered_only=rule.answered_only)
    here = list(range(len(rollouts.trace)))
    before, after = _Sample.of(tally, here), _Sample.of(tally, _kept(tally, rule))
    if reuse:
        replaced = _Sample.of(tally, here, [~passes_on(rollouts, i) for i in here])
        numbers = _replaced_difference(before, after, replaced, rule)
    else:
        numbers = _divergence(before, after, rule) if metric == "kl" else _difference(after, before, rule)
    extras = _context(tally, rule) | ({"difference": after.rate - before.rate} if metric == "kl" else {})
    return _scores(drawn, "resampling", rule, numbers, extras, {"outcome": tally.outcome, "reuse": reuse})


@method("counterfactual", needs="rollouts", unit="probability")
def counterfactual_importance(
    rollouts: Rollouts,
    *,
    similarity: Similarity | None = None,
    outcome: Outcome | None = None,
    metric: Metric = "probability",
    alpha: float | None = None,
    level: float = 0.95,
    seed: int = 0,
    answered_only: bool = False,
    reuse: bool | None = None,
    alternatives: Rollouts | None = None,
    compat: Literal["paper"] | None = None,
) -> Scores:
    """What a sentence does to the answer, against rollouts that wrote a different meaning in its place (2506.19143).

    "probability": P(outcome | kept) - P(outcome | different), kept = rollouts of boundary i + 1, different = rollouts
    of boundary i whose first sentence `similarity` does not find the same (one that stops reasoning at once is
    different). "kl": KL(answers of different || answers of kept and similar). NaN where no rollout is different.

    `alternatives` are further rollouts of other meaning (`seek_alternatives`): they count as different and nowhere else.
    `details["similarity"]` names the comparison used. `reuse`, `compat="paper"` as in `resampling_importance`; the published
    accuracy has the opposite sign. Extras: p_removed, different_trajectories_fraction with its Wilson interval,
    overdeterminedness, and those of `resampling_importance`.

    >>> trace = Trace.from_text("2 + 2?", "It is an easy sum. So it is four.", answer="4")
    >>> rows = [[" It is an easy sum.</think>\\\\boxed{4}"] * 9 + [" Cats sleep all day.</think>\\\\boxed{5}"] * 9]
    >>> scores = counterfactual_importance(Rollouts.from_texts(trace, rows + [[" \\\\boxed{4}"] * 9] * 2))
    >>> float(scores.values[0]), float(scores.different_trajectories_fraction[0])
    (1.0, 0.5)
    """
    rule = _Rule.of(metric, alpha, level, seed, answered_only, compat, rollouts.adaptive)
    reuse = rule.adaptive and not rule.compat if reuse is None else reuse
    similarity = default_similarity() if similarity is None else similarity
    drawn, rollouts = rollouts, _reused(rollouts, rule, reuse)
    plain_tally = tally_answers(rollouts, outcome=rule.outcome(outcome), answered_only=rule.answered_only)
    plain_firsts = firsts_of(rollouts)
    tally, plain = plain_tally, [np.ones(len(codes), dtype=bool) for codes in plain_tally.codes]
    if alternatives is not None:
        rollouts, plain = join_alternatives(rollouts, alternatives)
        tally = tally_answers(rollouts, outcome=rule.outcome(outcome), answered_only=rule.answered_only)
    here, firsts, after = list(range(len(rollouts.trace))), firsts_of(rollouts), _kept(tally, rule)
    different = other_meanings(rollouts.trace, firsts, similarity)
    if reuse:  # what passed on is kept, whatever its first sentence looks like
        different = [mask & ~passes_on(rollouts, i) for i, mask in enumerate(different)]
    kept, removed = _Sample.of(tally, after, [plain[k] for k in after]), _Sample.of(tally, here, different)
    if metric == "kl":
        similar = _Sample.of(tally, here, [~mask & p for mask, p in zip(different, plain, strict=False)])
        numbers = _divergence(removed, kept + similar, rule, measured=kept.n > 0)
    else:
        numbers = _difference(kept, removed, rule)
    plainly = np.array(
        [int((m & p)[u].sum()) for m, p, u in zip(different, plain, tally.used, strict=False)], dtype=int
    )
    extras = _context(plain_tally, rule) | _trajectories(plain_firsts, plain_tally, plainly, rule)
    extras |= {"p_removed": removed.rate}
    extras |= {"difference": kept.rate - removed.rate} if metric == "kl" else {}
    details = {"outcome": tally.outcome, "similarity": similarity.name, "threshold": similarity.threshold}
    details |= {"reuse": reuse, "alternatives": 0 if alternatives is None else alternatives.cost().rollouts}
    return _scores(drawn, "counterfactual", rule, numbers, extras, details)


def _kept(tally: Tally, rule: _Rule) -> list[int]:
    """The boundary that keeps each sentence: the next one, for the paper's KL the next that has rollouts."""
    last = len(tally.codes) - 1
    if not (rule.compat and rule.metric == "kl"):
        return list(range(1, last + 1))
    return [next((k for k in range(i + 1, last + 1) if len(tally.codes[k])), last) for i in range(last)]


def _difference(kept: _Sample, removed: _Sample, rule: _Rule) -> dict[str, np.ndarray]:
    """Kept minus removed, with Newcombe's interval and Fisher's p."""
    values = kept.rate - removed.rate
    if rule.compat:
        values = np.where((kept.n > 0) & (removed.n > 0), values, 0.0)
    if rule.adaptive:
        arrivals = Arrivals(np.zeros_like(removed.n), removed.n, removed.k, kept.n, kept.k)
        (low, high), p = anytime_interval(arrivals, level=rule.level), anytime_p(arrivals)
    else:
        low, high = difference_interval(kept.k, kept.n, removed.k, removed.n, level=rule.level)
        p = fisher_p(kept.k, kept.n, removed.k, removed.n)
    n, floor = np.minimum(kept.n, removed.n), np.where(np.isnan(p), np.nan, 0.0)
    return {"values": values, "low": low, "high": high, "n": n, "p": p, "floor": floor}


def _reused(rollouts: Rollouts, rule: _Rule, reuse: bool) -> Rollouts:
    if not reuse:
        return rollouts
    if rule.compat or rule.metric == "kl":
        what = "compat='paper'" if rule.compat else "metric 'kl', whose two samples would share rollouts"
        raise ValueError(f"reuse is not defined for {what}; leave it out")
    return reuse_rollouts(rollouts)


def _replaced_difference(before: _Sample, kept: _Sample, replaced: _Sample, rule: _Rule) -> dict[str, np.ndarray]:
    """Share replaced times kept minus replaced; `n` stays the smaller of the two boundaries."""
    share, sides = (replaced.n, before.n), ((kept.k, kept.n), (replaced.k, replaced.n))
    values, (low, high) = replaced_difference(share, *sides, level=rule.level)
    p = np.where((replaced.n == 0) & ~np.isnan(values), 1.0, fisher_p(*sides[0], *sides[1]))
    if rule.adaptive:
        arrivals = Arrivals(before.n - replaced.n, replaced.n, replaced.k, kept.n, kept.k)
        (low, high), p = anytime_interval(arrivals, level=rule.level), anytime_p(arrivals)
    n, floor = np.minimum(before.n, kept.n), np.where(np.isnan(p), np.nan, 0.0)
    return {"values": values, "low": low, "high": high, "n": n, "p": p, "floor": floor}


def _divergence(p: _Sample, q: _Sample, rule: _Rule, *, measured: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """KL(p || q) at every sentence, with bootstrap interval, permutation p and null floor."""
    compared = (p.n > 0) & (q.n > 0)
    compared &= True if measured is None else measured
    statistic = partial(kl_divergence, alpha=rule.alpha)
    rows = np.full((len(p.n), 5), np.nan)
    for i in np.flatnonzero(compared):
        seen = (p.counts[i] + q.counts[i]) > 0
        pair = (p.counts[i][seen], q.counts[i][seen])
        seeds = [(rule.seed, int(i), use) for use in range(3)]
        value = float(statistic(*pair))
        low, high = bootstrap_interval(pair, statistic, kind="shifted", level=rule.level, seed=seeds[0])
        test = permutation_p(*pair, statistic, assurance=ASSURANCE, seed=seeds[1])
        floor = null_floor(*pair, statistic, seed=seeds[2])
        # The interval is for the true divergence, which the estimate exceeds on average by the floor.
        rows[i] = value, min(max(low, 0.0), value), max(high, value), test, floor
    values = np.where(compared, rows[:, 0], 0.0 if rule.compat else np.nan)
    n = np.where(compared, np.minimum(p.n, q.n), 0)
    return {"values": values, "low": rows[:, 1], "high": rows[:, 2], "n": n, "p": rows[:, 3], "floor": rows[:, 4]}


def _context(tally: Tally, rule: _Rule) -> dict[str, np.ndarray]:
    """P(outcome), P(answered) and answer entropy around every sentence."""
    edges = range(len(tally.codes))
    reached = np.array([tally.reached(k) for k in edges], dtype=float)
    answered = np.array([row.mean() if len(row) else np.nan for row in tally.answered])
    with np.errstate(invalid="ignore"):
        p = reached[:, 0] / np.where(reached[:, 1] > 0, reached[:, 1], np.nan)
    return {
        "p_before": p[:-1],
        "p_after": p[1:],
        "answered_before": answered[:-1],
        "answered_after": answered[1:],
        "headroom": np.array([entropy(tally.counts(k)) for k in edges][:-1]),
    }


def _scores(
    rollouts: Rollouts,
    name: str,
    rule: _Rule,
    numbers: dict[str, np.ndarray],
    extras: Mapping[str, np.ndarray],
    details: Mapping[str, Any],
) -> Scores:
    options = {"metric": rule.metric, "level": rule.level, "answered_only": rule.answered_only, "compat": rule.compat}
    options |= {"interval": "at any time" if rule.adaptive else "fixed number of rollouts"}
    if rule.metric == "kl":
        options |= {"alpha": rule.alpha, "seed": rule.seed}
    full, unit = (f"{name}_kl", "nats") if rule.metric == "kl" else (name, "probability")
    return Scores.of(
        rollouts.trace,
        full,
        numbers.pop("values"),
        unit=unit,
        extras=extras,
        details={**rollouts.provenance(), **details, **options},
        **numbers,
    )


def headroom(rollouts: Rollouts, *, answered_only: bool = False) -> Float[np.ndarray, " sentence"]:
    """Answer entropy before each sentence in nats: how much is left to decide; NaN without rollouts.

    -sum p ln p over answer classes at boundary i, no answer being one of them unless `answered_only`.
    """
    tally = tally_answers(rollouts, outcome=bool, answered_only=answered_only)
    return np.array([entropy(tally.counts(k)) for k in range(len(rollouts.trace))])


def _trajectories(
    firsts: list[list[str]], tally: Tally, different: Int[np.ndarray, " sentence"], rule: _Rule
) -> dict[str, np.ndarray]:
    used = [np.array(row, dtype=object)[mask] for row, mask in zip(firsts, tally.used, strict=False)]
    total, distinct = (np.array([size(row) for row in used]) for size in (len, lambda row: len(set(row))))
    low, high = (anytime_proportion if rule.adaptive else wilson_interval)(different, total, level=rule.level)
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = (different / total, low, high, 1 - distinct / total)
    names = ("different_trajectories_fraction", "different_low", "different_high", "overdeterminedness")
    return dict(zip(names, columns, strict=True))


@method("forced", needs="model", unit="probability")
def forced_importance(
    trace: Trace, model: Model, *, stub: AnswerStub | None = None, outcome: str | None = None
) -> Scores:
    """What a sentence does to the answer the model would give if it had to answer at once.

    P(answer | through i + stub) - P(answer | before i + stub), both exact under the model, so the interval is the
    number. The published variant samples it (2506.19143). `stub` defaults to `model.stub`, else to a closing think tag
    and "Therefore, the final answer is \\boxed{". `outcome`: None, the trace's own answer; "target"; or an answer.
    Extras: logprob [boundary], S + 1 values in nats, and nats [sentence], their differences.

    Raises:
        CapabilityError: the model cannot score text.
        ValueError: there is no answer to force.
    """
    score = getattr(model, "score", None)
    if score is None:
        raise CapabilityError(f"{model.name} cannot score a text; use a local model from load_model")
    stub = stub or AnswerStub(*getattr(model, "stub", None) or BOXED)
    answer = _forced_answer(trace, outcome)
    forced = [stub.force(trace.text[:end], answer) for end in trace.boundaries]
    scored = score([text for text, _ in forced], [start for _, start in forced])
    logprob = np.array([s.logprob for s in scored], dtype=float)
    details = {"outcome": f"answer {answer!r}", "stub": [stub.before, stub.after], "model": model.name}
    extras = {"logprob": logprob, "nats": np.diff(logprob)}
    return Scores.of(trace, "forced", np.diff(np.exp(logprob)), extras=extras, details=details)


def _forced_answer(trace: Trace, outcome: str | None) -> str:
    if callable(outcome):
        raise ValueError("outcome is a function; a forced answer is a text: give the answer itself")
    answer = {None: trace.answer, "target": trace.target}.get(outcome, outcome)
    if not answer:
        which = "target" if outcome == "target" else "answer"
        raise ValueError(f"trace {trace.id} has no {which} to force; name one, for example outcome='42'")
    return answer
