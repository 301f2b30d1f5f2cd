"""C9: the least certain stretch of a trace tells right from wrong better than its mean certainty (DeepConf, 2508.15260).

1. One model draws many traces of each problem at a temperature of at least .7. Token confidence comes from one forward a trace.
2. Within each problem: AUROC of right against wrong traces, by the lowest group, the lowest tenth, the tail, the mean.
   Between problems a confidence would only measure which problems are easy.
3. Votes are redrawn from the traces of a problem: filtered, weighted and online, each against the majority vote that the same
   number of generated tokens buys.
4. Where the world says exactly what a sentence is worth: Spearman of sentence confidence with it, right and wrong traces apart.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from anchors.confidence import Definition, auroc_gain, pooled_auroc, read_traces, trace_confidence, within_auroc
from anchors.equal_tokens import Comparison, Pool, compare_votes
from anchors.experiments.base import Claim, Evidence, Finding, Result, Setting, Verdict
from anchors.experiments.ladder import one_model_note, rungs, unit_name, units
from anchors.experiments.verdicts import both, mean_finding, superior
from anchors.online import EarlyStop, StoredTrace, draw_traces
from anchors.stats import spearman, t_interval
from anchors.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anchors.lab.worlds import World
    from anchors.models.lens import LensModel

CLAIM: Final = Claim(
    id="C9",
    title="local confidence",
    statement="The lowest local confidence of a trace flags where it broke down better than its mean confidence, and votes that "
    "leave out traces it flags beat the majority vote.",
    source="2508.15260",
    outcome="AUROC of right against wrong traces within a problem: lowest group less trace mean; and accuracy of the vote of "
    "the top 10 % by lowest group less the majority vote of the same 8 traces",
    margin=0.02,
    rule="holds: both intervals lie above 0; fails: the AUROC gain lies below .02, or the vote's gain below .01; inconclusive if "
    "neither, or if the majority vote leaves less than .01 to gain",
    shows="whether, among traces of one problem by one model, the least certain stretch says more than the mean, and what a vote "
    "gains by it",
    does_not_show="anything between problems, or about a model that errs otherwise: the lab's wrong traces mostly follow a wrong "
    "turn the world plants by chance, and confidence does not depend on which turn was drawn, only on what follows",
)
AUROC, VOTE, ROOM = "AUROC: lowest group - mean", "filtered vote - majority", "room above the majority vote"
LEAST_VOTE: Final = 0.01
WINDOW, WINDOWS, TAIL = 16, (8, 16, 32), 0.1
VOTERS, SIZES, FILTER = 8, (4, 8, 16), "lowest @ 0.1"
COOLEST: Final = 0.7


class Sample(NamedTuple):
    """What one model drew: a pool of traces a problem, and rows of (problem, kind of trace, Spearman) of its sentences."""

    pools: list[Pool]
    sentences: list[tuple[int, str, float]]


def run(setting: Setting) -> Evidence:
    """Draw the traces of every model and measure."""
    from anchors.lab.worlds import load_world

    world, models = load_world("expression"), _models(setting)
    samples = [draw_sample(model, world, setting) for model in models]
    share = float(np.mean([t.answer == pool.gold for s in samples for pool in s.pools for t in pool.traces]))
    temperature = [_sampling(model).temperature for model in models]
    notes = (f"{', '.join(m.name for m in models)}: {share:.2f} right answers; {one_model_note(setting)}",)
    details = {"models": [m.name for m in models], "temperature": temperature, "window": WINDOW, "seed": setting.seed}
    return evidence_of(
        samples, redraws=setting.pick(tiny=4, quick=32, full=64), seed=setting.seed, notes=notes, details=details
    )


def _models(setting: Setting) -> list[LensModel]:
    """One model, the user's or the shipped reasoner; full without one: a model of each of five training seeds."""
    if setting.preset != "full" or setting.model_name:
        return [setting.model("lab/reasoner")]
    from anchors.lab.recipes import LADDER

    return [rung["mini-normal"] for rung in rungs(setting, {"mini-normal": LADDER["mini-normal"]})]


def _sampling(model: LensModel) -> Any:
    return replace(model.sampling, temperature=max(COOLEST, model.sampling.temperature))


def draw_sample(model: LensModel, world: World, setting: Setting) -> Sample:
    """Draw `size` traces of every problem and read their confidences."""
    from tqdm.auto import tqdm

    rng = random.Random(f"C9 {setting.seed}")
    problems = [world.problem(rng) for _ in range(setting.pick(tiny=4, quick=60, full=200))]
    size, read = setting.pick(tiny=16, quick=32, full=64), setting.pick(tiny=4, quick=8, full=16)
    rule, sampling = Definition(window=WINDOW, tail=TAIL), _sampling(model)
    pools, sentences = [], []
    for i, problem in enumerate(tqdm(problems, desc="C9", disable=not setting.progress)):
        prompt, gold = world.prompt(problem), world.gold(problem)
        traces = draw_traces(prompt, model, size, definition=rule, sampling=sampling, seed=setting.seed)
        pools.append(Pool(gold, traces))
        sentences += [(i, *row) for row in sentence_rows(prompt, gold, traces[:read], model, world)]
    return Sample(pools, sentences)


def sentence_rows(
    prompt: str, gold: str, traces: Sequence[StoredTrace], model: LensModel, world: World
) -> list[tuple[str, float]]:
    """(kind, Spearman of sentence confidence with exact resampling importance) of every trace on the world's program.

    Importance is signed: for the trace's own answer, and in wrong traces also for the right one.
    """
    from anchors.lab.truth import exact_resampling_importance, read_trace

    written = [Trace.from_text(prompt, t.text, target=gold) for t in traces if t.answer is not None]
    rows = []
    for trace, found in zip(written, read_traces(written, model), strict=True):
        try:
            states = read_trace(world, trace).states
        except ValueError:  # the trace left the program: nothing says what its sentences are worth
            continue
        outcomes = {"right": gold} if trace.answer == gold else {"wrong, own": trace.answer, "wrong, gold": gold}
        for kind, answer in outcomes.items():
            assert answer is not None and found.sentences is not None
            worth = np.round(exact_resampling_importance(world, states, answer), 12)
            rows.append((kind, spearman(found.sentences, worth).value))
    return rows


def evidence_of(
    samples: Sequence[Sample],
    *,
    redraws: int,
    seed: int = 0,
    notes: Sequence[str] = (),
    details: dict[str, Any] | None = None,
) -> Evidence:
    """Findings and tables of what was drawn; the unit is the problem, or the training seed where there are several models."""
    flat = [_Flat.of(sample.pools) for sample in samples]
    votes = {n: [_votes(s.pools, n, redraws, seed) for s in samples] for n in SIZES}
    findings = (
        _gain(AUROC, flat, "lowest"),
        _vote(VOTE, votes[VOTERS], FILTER),
        _room(votes[VOTERS]),
        _gain("AUROC: lowest tenth of the groups - mean", flat, "bottom"),
        _gain("AUROC: tail - mean", flat, "tail"),
        _vote("weighted vote - majority", votes[VOTERS], "weighted lowest"),
        _vote("online low - majority at its tokens", votes[SIZES[-1]], "online low"),
        _vote("online high - majority at its tokens", votes[SIZES[-1]], "online high"),
        *(_worth(kind, samples) for kind in ("right", "wrong, own", "wrong, gold")),
    )
    tables = {
        "auroc": [_separation(name, flat, seed) for name in flat[0].columns],
        "windows": [_window(window, flat, seed) for window in WINDOWS],
        "votes": [row for n in SIZES for row in _vote_rows(n, votes[n])],
    }
    share = np.mean([t.confidence.share for f in flat for t in f.traces])
    warning = f"windows of {WINDOW} tokens cover {share:.2f} of a trace on average; pooled AUROCs measure difficulty"
    saved = [found["online low"].saved.mean() for found in votes[SIZES[-1]]]
    more = f"online (low) spares {np.mean(saved):.0%} of the tokens of {SIZES[-1]} traces"
    return Evidence(findings, tables, (*notes, warning, more), details or {})


class _Flat(NamedTuple):
    """All traces of a model with their problem, whether they are right, and what may tell; columns [trace]."""

    traces: list[StoredTrace]
    problems: list[int]
    right: list[bool]
    columns: dict[str, np.ndarray]

    @classmethod
    def of(cls, pools: Sequence[Pool]) -> _Flat:
        traces = [t for pool in pools for t in pool.traces]
        kinds = {k: np.array([t.confidence.of(k) for t in traces]) for k in ("lowest", "bottom", "tail", "mean")}
        kinds["log p of what was drawn"] = np.array([t.logprob for t in traces])
        kinds["shortness"] = -np.array([float(t.cost) for t in traces])
        problems = [i for i, pool in enumerate(pools) for _ in pool.traces]
        return cls(traces, problems, [t.answer == pool.gold for pool in pools for t in pool.traces], kinds)


def _gain(name: str, flat: Sequence[_Flat], kind: str) -> Finding:
    found = [auroc_gain(f.columns[kind], f.columns["mean"], f.right, f.problems).values for f in flat]
    return mean_finding(name, units([np.array(v) for v in found]), of=unit_name(flat), unit="of AUROC")


def _votes(pools: Sequence[Pool], n: int, redraws: int, seed: int) -> dict[str, Comparison]:
    warm_up = n // 2
    rules = {"low": EarlyStop(warm_up, 0.1, n), "high": EarlyStop(warm_up, 0.9, n)} if n >= VOTERS else {}
    return {c.method: c for c in compare_votes(pools, n=n, redraws=redraws, rules=rules, seed=seed)}


def _vote(name: str, found: Sequence[dict[str, Comparison]], method: str) -> Finding:
    return mean_finding(name, units([f[method].gain for f in found]), of=unit_name(found), unit="of votes")


def _room(found: Sequence[dict[str, Comparison]]) -> Finding:
    return mean_finding(ROOM, units([1 - f["majority"].accuracy for f in found]), of=unit_name(found), unit="of votes")


def _worth(kind: str, samples: Sequence[Sample]) -> Finding:
    """Mean Spearman over problems, each the mean of its traces of one kind."""
    per_model = []
    for sample in samples:
        per_problem: dict[int, list[float]] = {}
        for problem, found, value in sample.sentences:
            if found == kind and not np.isnan(value):
                per_problem.setdefault(problem, []).append(value)
        per_model.append(np.array([np.mean(v) for v in per_problem.values()], dtype=float))
    kept = [v for v in per_model if len(v)] or [np.empty(0)]
    return mean_finding(
        f"Spearman(confidence, worth), {kind}", units(kept), of=unit_name(samples), unit="of correlation"
    )


def _separation(name: str, flat: Sequence[_Flat], seed: int) -> dict[str, Any]:
    """Within-problem AUROC over all models' problems, with redrawn problems; the pooled figure is a warning."""
    values = np.concatenate([f.columns[name] for f in flat])
    right = np.concatenate([f.right for f in flat])
    problems = [(i, p) for i, f in enumerate(flat) for p in f.problems]
    found = within_auroc(values, right, problems, seed=seed)
    row = {"confidence": name, "auroc": found.value, "low": found.low, "high": found.high, "p": found.p}
    return row | {"problems": found.problems, "asked": found.asked, "pooled": pooled_auroc(values, right)}


def _window(window: int, flat: Sequence[_Flat], seed: int) -> dict[str, Any]:
    rule = Definition(window=window, tail=TAIL)
    read = [trace_confidence(t.confidence.tokens, definition=rule) for f in flat for t in f.traces]
    right = np.concatenate([f.right for f in flat])
    problems = [(i, p) for i, f in enumerate(flat) for p in f.problems]
    row: dict[str, Any] = {"window": window, "share of a trace": float(np.mean([r.share for r in read]))}
    row["unmeasured"] = sum(bool(np.isnan(r.lowest)) for r in read)
    for kind in ("lowest", "bottom"):
        gain = auroc_gain([r.of(kind) for r in read], [r.mean for r in read], right, problems, seed=seed)
        row |= {f"{kind} - mean": gain.value, f"{kind} low": gain.low, f"{kind} high": gain.high}
    return row


def _vote_rows(n: int, found: Sequence[dict[str, Comparison]]) -> list[dict[str, Any]]:
    rows = []
    for method in found[0]:
        gain = units([f[method].gain for f in found])
        low, high = t_interval(gain)
        means = {k: float(np.mean([getattr(f[method], k).mean() for f in found])) for k in Comparison._fields[1:]}
        rows.append(
            {"n": n, "method": method, **means, "gain": float(gain.mean()), "low": float(low), "high": float(high)}
        )
    return rows


def judge(evidence: Evidence) -> Verdict:
    """Both gains above 0, where the majority vote leaves room."""
    assert CLAIM.margin is not None
    room = evidence.finding(ROOM)
    local = superior(evidence.finding(AUROC), matters=CLAIM.margin)
    if local.word != "fails" and not room.effect >= LEAST_VOTE:
        return Verdict("inconclusive", f"the majority vote is wrong in {room.effect:.3f} of redraws: nothing to gain")
    return both(local, superior(evidence.finding(VOTE), matters=LEAST_VOTE))


def draw(result: Result, ax: Axes | None = None) -> Axes:
    """Within-problem AUROC of every confidence with its interval; the pooled figure as an open mark."""
    from anchors.plotting.style import FLOOR, INK, QUIET, axes_of, legend_below, words

    ax = axes_of(ax, height=2.4)
    rows = result.evidence.tables["auroc"][::-1]
    for y, row in enumerate(rows):
        if row["auroc"] is None:
            continue
        ends = [[row["auroc"] - (row["low"] or row["auroc"])], [(row["high"] or row["auroc"]) - row["auroc"]]]
        ax.errorbar(row["auroc"], y, xerr=ends, fmt="o", ms=4, lw=1, color=INK, label=None if y else "within problems")
        ax.plot(row["pooled"], y, "o", ms=4, mfc="none", color=QUIET, label=None if y else "pooled (difficulty)")
    ax.axvline(0.5, color=FLOOR, lw=0.7, ls=":")
    ax.set_yticks(range(len(rows)), [row["confidence"] for row in rows])
    words(ax, x="AUROC, right against wrong traces", y="")
    legend_below(ax)
    return ax
