"""How good a score is, against what was planted: rank agreement with exact importance, and detection of anchors.

1. `plant` reads a trace by its world: planted roles and exact importance of every sentence.
2. `grade` compares any array of one number per sentence with them, within the trace.
3. A sentence that was not measured (NaN) ranks last: it was not found. Rank correlations leave it out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from anchors.lab.truth import (
    answer_distribution,
    exact_counterfactual_importance,
    exact_headroom,
    exact_resampling_importance,
    read_trace,
)
from anchors.lab.worlds import World
from anchors.stats import auroc, spearman
from anchors.trace import Trace

DIGITS = 12
"""Exact values are rounded, so that zeros are equal zeros."""


class Planted(NamedTuple):
    """A trace with its planted roles, P(its answer) at the S + 1 boundaries, and exact importance and headroom."""

    trace: Trace
    roles: tuple[str, ...]
    p: Float[np.ndarray, " boundary"]
    resampling: Float[np.ndarray, " sentence"]
    counterfactual: Float[np.ndarray, " sentence"]
    headroom: Float[np.ndarray, " sentence"]

    @property
    def anchors(self) -> Bool[np.ndarray, " sentence"]:
        return np.array([role == "anchor" for role in self.roles])

    @property
    def idle(self) -> Bool[np.ndarray, " sentence"]:
        """Sentences planted as restatement, filler or decoy; a few have a small effect, since they take another's place."""
        return np.array([role in ("restatement", "filler", "decoy") for role in self.roles])


class Grade(NamedTuple):
    """How one method did on one trace; NaN where the trace cannot say.

    `counterfactual`, `resampling`: Spearman with exact importance, signed where the method is signed. `size_*`: the
    same of absolute values. `auroc`: planted anchors against all other sentences. `auroc_idle`: against sentences planted to
    do nothing. `precision`: share of planted anchors among the k highest, k being the number of planted anchors.
    """

    counterfactual: float
    resampling: float
    size_counterfactual: float
    size_resampling: float
    auroc: float
    auroc_idle: float
    precision: float


def plant(trace: Trace, world: World) -> Planted:
    """Planted roles and exact importance of a trace with an answer of its own.

    Raises:
        ValueError: the trace is off the world's program or has no answer.
    """
    if trace.answer is None:
        raise ValueError(f"trace {trace.id} has no answer of its own, so its sentences support nothing")
    reading = read_trace(world, trace)
    states, answer = reading.states, trace.answer
    p = np.array([answer_distribution(world, state).get(answer, 0.0) for state in states])
    return Planted(
        trace=trace,
        roles=tuple(move.role for move in reading.moves),
        p=p,
        resampling=np.round(exact_resampling_importance(world, states, answer), DIGITS),
        counterfactual=np.round(exact_counterfactual_importance(world, states, answer), DIGITS),
        headroom=exact_headroom(world, states),
    )


def grade(values: Float[np.ndarray, " sentence"], planted: Planted, *, signed: bool = True) -> Grade:
    """Compare one number per sentence with what was planted; `signed=False` for methods without direction."""
    size = np.abs(values) if signed else values
    found = np.where(np.isnan(size), -np.inf, size)
    anchors, idle = planted.anchors, planted.idle
    return Grade(
        counterfactual=spearman(values, planted.counterfactual).value if signed else np.nan,
        resampling=spearman(values, planted.resampling).value if signed else np.nan,
        size_counterfactual=spearman(size, np.abs(planted.counterfactual)).value,
        size_resampling=spearman(size, np.abs(planted.resampling)).value,
        auroc=auroc(found, anchors),
        auroc_idle=auroc(found, anchors, among=anchors | idle),
        precision=precision(found, anchors),
    )


def precision(
    values: Float[np.ndarray, " sentence"], positive: Bool[np.ndarray, " sentence"], *, k: int | None = None
) -> float:
    """Expected share of positives among the k highest, ties broken at random; k defaults to the number of positives.

    >>> precision(np.array([0.9, 0.1, 0.1]), np.array([True, True, False]))
    0.75
    """
    k = int(positive.sum()) if k is None else min(k, len(values))
    if not k:
        return float("nan")
    edge = np.sort(values)[-k]
    above, tied = values > edge, values == edge
    hits = positive[above].sum() + positive[tied].mean() * (k - above.sum())
    return float(hits / k)
