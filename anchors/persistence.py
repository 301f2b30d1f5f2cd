"""How hard it is to get rid of a sentence: does the model say it again when it is resampled away?

1. A run removes the sentence and rolls out. If the rollout says it again, the run removes that too, at its exact place,
   and rolls out from there, until a rollout no longer says it (abandoned) or `max_rounds` is reached.
2. The first re-appearance is the one removed, so nothing before it says the sentence.
3. All runs of all sentences advance together; a run's randomness depends only on (seed, trace, sentence, round, run).

Source: thought-branches (`fighting back`), whose counterfactual++ pools abandoned and other runs; here they are apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from anchors.answers import NO_ANSWER, extract_answer
from anchors.importance import resampling_importance
from anchors.models.base import Job, Model, Sampling
from anchors.outcomes import Outcome, judge, resolve_outcome, rollout_reasoning, tally_answers
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.similarity import Similarity, default_similarity
from anchors.splitting import split_sentences
from anchors.stats import bootstrap_interval, difference_interval, wilson_interval


@dataclass
class _Run:
    """One attempt to remove a sentence: the text kept so far, and how often the sentence came back."""

    sentence: int
    sample: int
    prefix: str
    returned: int = 0
    final: str = ""
    abandoned: bool = False


def resilience(
    rollouts: Rollouts,
    model: Model,
    *,
    sentences: Sequence[int] | None = None,
    n: int = 30,
    max_rounds: int = 20,
    outcome: Outcome | None = None,
    similarity: Similarity | None = None,
    sampling: Sampling | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Scores:
    """Mean number of times a sentence comes back when it is resampled away, and what its lasting removal does.

    `sentences` defaults to the five of largest |resampling importance|; the others are NaN. Values lie in
    0..max_rounds with a bootstrap interval over the `n` runs. Extras, each with _low and _high: abandoned (share of
    runs); counterfactual_abandoned = P(outcome | kept) - P(outcome | last rollout of the abandoned runs), which is
    counterfactual++; counterfactual_persistent, the same for the runs that never got rid of it (NaN where there is
    none).

    Raises:
        ValueError: `n` or `max_rounds` is below 1, or a sentence does not exist.
    """
    if n < 1 or max_rounds < 1:
        raise ValueError(f"n is {n} and max_rounds is {max_rounds}; both must be at least 1")
    similarity = default_similarity() if similarity is None else similarity
    chosen = _chosen(rollouts, sentences, outcome)
    runs = [_Run(i, r, rollouts.trace.before(i)) for i in chosen for r in range(n)]
    sampling = model.sampling if sampling is None else sampling
    for number in range(max_rounds):
        active = [run for run in runs if not run.abandoned]
        _advance(active, rollouts, model, similarity, number, sampling, seed)
    details = {"similarity": similarity.name, "threshold": similarity.threshold, "runs": n, "max_rounds": max_rounds}
    return _scores(rollouts, runs, outcome, level, seed, details | {"model": model.name, "seed": seed, "level": level})


def _chosen(rollouts: Rollouts, sentences: Sequence[int] | None, outcome: Outcome | None) -> list[int]:
    size = len(rollouts.trace)
    if sentences is None:
        strength = np.abs(resampling_importance(rollouts, outcome=outcome).values)
        order = np.argsort(-np.where(np.isnan(strength), -1.0, strength), kind="stable")
        return sorted(int(i) for i in order[:5] if not np.isnan(strength[i]))
    wrong = [i for i in sentences if not 0 <= i < size]
    if wrong:
        raise ValueError(f"sentence {wrong[0]} does not exist; the trace has sentences 0 to {size - 1}")
    return sorted({int(i) for i in sentences})


def _advance(
    runs: list[_Run],
    rollouts: Rollouts,
    model: Model,
    similarity: Similarity,
    number: int,
    sampling: Sampling,
    seed: int,
) -> None:
    """Roll every run out once; those that say the sentence again lose it and everything after it."""
    trace = rollouts.trace
    jobs = {
        Job(
            run.prefix, len(run.prefix), f"{trace.id}/resilience/{run.sentence}/{number}", run.sentence, run.sample
        ): run
        for run in runs
    }
    for job, completion in model.generate(list(jobs), sampling=sampling, seed=seed) if jobs else ():
        run = jobs[job]
        run.final = completion.text
        place = _mention(completion.text, trace.sentences[run.sentence].text, similarity)
        run.abandoned = place is None
        if place is not None:
            run.returned, run.prefix = run.returned + 1, run.prefix + completion.text[:place]


def _mention(text: str, sentence: str, similarity: Similarity) -> int | None:
    """Where the first sentence of a rollout's reasoning that means `sentence` starts."""
    reasoning = rollout_reasoning(text)
    spans = split_sentences(reasoning)
    if not spans:
        return None
    same = np.asarray(similarity.same(sentence, [reasoning[a:b].strip() for a, b in spans]))
    return spans[int(np.argmax(same))][0] if same.any() else None


def _scores(
    rollouts: Rollouts, runs: list[_Run], outcome: Outcome | None, level: float, seed: int, details: dict
) -> Scores:
    tally = tally_answers(rollouts, outcome=outcome)
    wanted, words = resolve_outcome(rollouts, outcome)
    names = ("values", "abandoned", "counterfactual_abandoned", "counterfactual_persistent")
    columns = {f"{name}{end}": np.full(len(rollouts.trace), np.nan) for name in names for end in ("", "_low", "_high")}
    n = np.zeros(len(rollouts.trace), dtype=int)
    for i in sorted({run.sentence for run in runs}):
        mine = [run for run in runs if run.sentence == i]
        n[i] = len(mine)
        kept = tally.reached(i + 1)
        rows = (
            _returned(mine, level, (seed, i)),
            _share(sum(run.abandoned for run in mine), len(mine), level),
            _contrast(kept, (run.final for run in mine if run.abandoned), wanted, level),
            _contrast(kept, (run.final for run in mine if not run.abandoned), wanted, level),
        )
        for name, row in zip(names, rows, strict=True):
            for end, number in zip(("", "_low", "_high"), row, strict=True):
                columns[name + end][i] = number
    values, low, high = (columns.pop(f"values{end}") for end in ("", "_low", "_high"))
    return Scores.of(
        rollouts.trace,
        "resilience",
        values,
        low=low,
        high=high,
        n=n,
        unit="re-appearances",
        extras=columns,
        details=details | {"outcome": words},
    )


def _returned(runs: list[_Run], level: float, seed: tuple[int, int]) -> tuple[float, float, float]:
    counts = np.bincount([run.returned for run in runs])
    times = np.arange(len(counts))
    low, high = bootstrap_interval([counts], lambda c: c @ times / c.sum(-1), level=level, seed=seed)
    return float(counts @ times / counts.sum()), float(low), float(high)


def _share(k: int, n: int, level: float) -> tuple[float, float, float]:
    low, high = wilson_interval(k, n, level=level)
    return k / n, float(low), float(high)


def _contrast(
    kept: tuple[int, int], finals: Iterable[str], outcome: Outcome, level: float
) -> tuple[float, float, float]:
    """P(outcome | kept) - P(outcome | these last rollouts), with Newcombe's interval."""
    answers = [extract_answer(text) or NO_ANSWER for text in finals]
    if not (answers and kept[1]):
        return np.nan, np.nan, np.nan
    k = int(judge(answers, outcome).sum())
    low, high = difference_interval(*kept, k, len(answers), level=level)
    return kept[0] / kept[1] - k / len(answers), float(low), float(high)
