"""How far scoring methods agree on which sentences of a trace matter.

1. Agreement of two methods is Spearman's correlation over the sentences both measured.
2. Two methods can agree only because both follow the position of a sentence, or how much was left to decide before it:
   the partial correlation regresses the ranks of both out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from anchors.scores import Scores
from anchors.stats import Correlation, partial_spearman, spearman


class Agreement(NamedTuple):
    """Rank correlations between methods, [method, method], with intervals and p; 1 on the diagonal.

    `partial` holds position constant, and headroom where it was given; `covariates` names them. NaN: not computable.
    """

    methods: tuple[str, ...]
    value: Float[np.ndarray, "method method"]
    low: Float[np.ndarray, "method method"]
    high: Float[np.ndarray, "method method"]
    p: Float[np.ndarray, "method method"]
    n: Int[np.ndarray, "method method"]
    partial: Float[np.ndarray, "method method"]
    partial_low: Float[np.ndarray, "method method"]
    partial_high: Float[np.ndarray, "method method"]
    partial_p: Float[np.ndarray, "method method"]
    covariates: tuple[str, ...]


def agreement(
    scores: Sequence[Scores], *, headroom: Float[np.ndarray, " sentence"] | None = None, level: float = 0.95
) -> Agreement:
    """Spearman's correlation between every two methods on one trace, plain and partial for position and headroom.

    `headroom` is the answer entropy before each sentence (`anchors.importance.headroom`). The intervals treat
    sentences as independent; across traces use `stats.cluster_bootstrap`. Two noisy measurements of the same truth
    agree far less than 1.

    Raises:
        ValueError: fewer than two scores, scores of different traces, or a headroom of another length.
    """
    _check(scores, headroom)
    size = len(scores[0])
    covariates = {"position": np.arange(size, dtype=float)}
    if headroom is not None:
        covariates["headroom"] = np.asarray(headroom, dtype=float)
    plain, partial = _tables(len(scores), size), _tables(len(scores), size)
    for i, s in enumerate(scores):
        plain[4][i, i] = partial[4][i, i] = s.measured.sum()
    for i, j in combinations(range(len(scores)), 2):
        a, b = scores[i].values, scores[j].values
        _fill(plain, i, j, spearman(a, b, level=level))
        _fill(partial, i, j, partial_spearman(a, b, list(covariates.values()), level=level))
    methods = tuple(s.method for s in scores)
    (value, low, high, p, n), (held, held_low, held_high, held_p, _) = plain, partial
    return Agreement(methods, value, low, high, p, n.astype(int), held, held_low, held_high, held_p, tuple(covariates))


def _tables(methods: int, sentences: int) -> list[np.ndarray]:
    """value, low, high, p, n; a method agrees with itself entirely."""
    ones = [np.eye(methods) for _ in range(3)]
    return [*ones, np.zeros((methods, methods)), np.full((methods, methods), sentences)]


def _fill(tables: list[np.ndarray], i: int, j: int, correlation: Correlation) -> None:
    for table, number in zip(tables, correlation, strict=True):
        table[i, j] = table[j, i] = number


def _check(scores: Sequence[Scores], headroom: np.ndarray | None) -> None:
    if len(scores) < 2:
        raise ValueError(f"got {len(scores)} scores; agreement needs at least two methods on the same trace")
    other = next((s for s in scores if s.trace_id != scores[0].trace_id or len(s) != len(scores[0])), None)
    if other is not None:
        raise ValueError(
            f"{other.method} scores trace {other.trace_id} ({len(other)} sentences), {scores[0].method} scores "
            f"{scores[0].trace_id} ({len(scores[0])}); agreement is within one trace"
        )
    if headroom is not None and len(headroom) != len(scores[0]):
        raise ValueError(f"headroom has {len(headroom)} entries for {len(scores[0])} sentences; give one a sentence")
