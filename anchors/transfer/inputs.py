"""What the writer brings: scores of its traces, where possible on two disjoint halves of its rollouts.

1. Given rollouts, the method is computed on all of them (rank agreement), on the even samples (which sentences are
   anchors) and on the odd ones (how large their effect is): selection and estimation never share a rollout.
2. Given scores alone, they select; there is no half left to estimate on, and the gate says so unless the writer is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anchors.rollouts import Rollouts
from anchors.scores import METHODS, Scores
from anchors.similarity import Similarity
from anchors.trace import Trace


class Written(NamedTuple):
    """One trace of the writer: its scores, those anchors are selected by, and those held out (None without rollouts)."""

    scores: Scores
    selecting: Scores
    held_out: Scores | None
    rollouts: Rollouts | None
    answer: str

    @property
    def trace(self) -> Trace:
        return self.scores.trace


class Inputs(NamedTuple):
    """All traces of one writer under one method, and why others were left out."""

    writer: str
    method: str
    written: tuple[Written, ...]
    excluded: tuple[str, ...]


def gather(
    given: Sequence[Scores | Rollouts],
    *,
    method: str,
    outcome: str | Mapping[str, str] | None,
    similarity: Similarity | None,
) -> Inputs:
    """Check what was given and compute what is missing; `outcome` is one answer for all, or one for each trace id.

    Raises:
        ValueError: nothing was given, several methods or writers, a trace twice, or a method that needs no rollouts for
            rollouts.
    """
    ids = [item.trace.id for item in given]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"trace {twice} was given twice; inference is over traces, so give each once")
    methods = {item.method if isinstance(item, Scores) else method for item in given}
    if len(methods) != 1:
        raise ValueError(f"scores of {sorted(methods) or 'no method'} were given; call transfer_anchors once a method")
    writers = {_writer(item) for item in given}
    if len(writers) != 1:
        raise ValueError(f"scores made with {sorted(writers)} were given; call transfer_anchors once a writer")
    (name,) = methods
    written, excluded = [], []
    for item in given:
        answer, reason = _answer(item, outcome)
        if reason:
            excluded.append(f"{item.trace.id}: {reason}")
        else:
            written.append(_written(item, name, answer, similarity))
    return Inputs(writers.pop(), name, tuple(written), tuple(excluded))


def _writer(item: Scores | Rollouts) -> str:
    made = item.details if isinstance(item, Scores) else item.store.settings
    return str(made.get("model", "unknown"))


def _answer(item: Scores | Rollouts, outcome: str | Mapping[str, str] | None) -> tuple[str, str]:
    """The answer whose support is tested, or why there is none."""
    trace = item.trace
    if isinstance(outcome, Mapping):
        outcome = outcome.get(trace.id, "")
        if not outcome:
            return "", "the reader gives no answer of its own"
    answer = trace.target if outcome == "target" else outcome or (trace.answer or trace.target)
    if not answer:
        return "", f"it has no {outcome or 'answer of its own and no target'}"
    scored = item.details.get("outcome") if isinstance(item, Scores) else None
    if scored is not None and not str(scored).endswith(repr(answer)):
        return "", f"it was scored for {scored}, but answer {answer!r} would be measured"
    return answer, ""


def _written(item: Scores | Rollouts, method: str, answer: str, similarity: Similarity | None) -> Written:
    if isinstance(item, Scores):
        return Written(item, item, None, None, answer)
    score = _scorer(method, answer, similarity)
    return Written(score(item), score(half(item, 0)), score(half(item, 1)), item, answer)


def half(rollouts: Rollouts, side: int) -> Rollouts:
    """The rollouts with even (0) or odd (1) samples, in memory; anchors are selected on the even ones."""
    return rollouts.held(r for k in range(len(rollouts.trace) + 1) for r in rollouts.at(k) if r.sample % 2 == side)


def _scorer(method: str, answer: str, similarity: Similarity | None) -> Callable[[Rollouts], Scores]:
    import anchors.importance  # noqa: F401  (the import registers its methods)

    known = METHODS.get(method)
    if known is None or known.needs != "rollouts":
        raise ValueError(
            f"method is {method!r}, which is not computed from rollouts; use 'counterfactual' or 'resampling', or "
            "give its scores instead of rollouts"
        )
    options: dict[str, Any] = {"outcome": answer}
    if method == "counterfactual" and similarity is not None:
        options["similarity"] = similarity
    return lambda rollouts: known.function(rollouts, **options)


def reader_scores(written: Written, method: str, reader: Any, runs: Rollouts | None, similarity: Any) -> Scores | None:
    """The reader's scores of the same trace by the same method; None where that needs rollouts it does not have."""
    if method not in METHODS:
        return None
    if METHODS[method].needs == "rollouts":
        return None if runs is None else _scorer(method, written.answer, similarity)(runs)
    return METHODS[method].function(written.trace, reader)


def select_anchors(scores: Scores, *, k: int, fdr: float, min_gap: int = 1) -> list[int]:
    """Up to k sentences of largest |score| among the writer's anchors, or its top k where it has no null.

    A score of exactly 0 has no direction to test, so it is never chosen. With `min_gap` above 1 a sentence nearer than
    that to a chosen one is passed over: neighbours often say one thing together.
    """
    size = np.abs(scores.values)
    null = not np.isnan(scores.p).all()
    ranked = sorted(scores.anchors(fdr=fdr), key=lambda i: -size[i]) if null else scores.top(len(scores))
    chosen: list[int] = []
    for i in ranked:
        if len(chosen) < k and all(abs(i - j) >= min_gap for j in chosen):
            chosen.append(i)
    return sorted((i for i in chosen if size[i] > 0), key=lambda i: -size[i])


def named(scores: Scores, fdr: float) -> list[int]:
    """The sentences the writer names anchors; none where its method has no null."""
    return [] if np.isnan(scores.p).all() else scores.anchors(fdr=fdr)
