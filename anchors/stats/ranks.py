"""Rank correlations of two profiles, each with an interval, a p-value and its number of pairs; AUROC.

1. Pairs with a NaN are dropped; too few pairs or a constant side give NaN.
2. Intervals are symmetric on Fisher's z; a perfect order is moved halfway to the closest imperfect one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from anchors.stats.intervals import two_sided_z
from anchors.stats.types import Correlation, Numbers


def spearman(x: Numbers, y: Numbers, *, level: float = 0.95) -> Correlation:
    """Spearman's rank correlation with its interval; pairs with a NaN are dropped.

    Interval tanh(atanh r -+ z sqrt((1 + r^2 / 2) / (n - 3))) (Bonett & Wright 2000), p from Student's t. Everything is
    NaN with fewer than 4 pairs or a constant side.

    >>> spearman([1, 2, 3, 4, 5], [1, 3, 2, 4, 5]).value
    0.9
    """
    return partial_spearman(x, y, [], level=level)


def partial_spearman(
    x: Numbers,
    y: Numbers,
    covariates: Sequence[Numbers],
    *,
    level: float = 0.95,
) -> Correlation:
    """Spearman's correlation of x and y with the ranks of `covariates` regressed out of both ranks.

    Interval and p as in `spearman`, with n less the number of covariates.

    >>> round(partial_spearman([1, 3, 2, 5, 4, 6], [1, 3, 2, 5, 4, 6], [[1, 2, 3, 4, 5, 6]]).value, 6)
    1.0
    """
    from scipy.stats import rankdata

    columns = np.array([np.asarray(c, dtype=float) for c in (x, y, *covariates)])
    columns = columns[:, ~np.isnan(columns).any(0)]
    n, k = columns.shape[1], len(columns) - 2
    if n - k < 4:
        return Correlation(np.nan, np.nan, np.nan, np.nan, n)
    ranks = rankdata(columns, axis=1) - (n + 1) / 2
    basis = ranks[2:].T
    a, b = (r - basis @ np.linalg.lstsq(basis, r, rcond=None)[0] if k else r for r in ranks[:2])
    scale = np.sqrt((a @ a) * (b @ b))
    if scale < 1e-9 * n**3:
        return Correlation(np.nan, np.nan, np.nan, np.nan, n)
    return _correlation(float(np.clip(round(a @ b / scale, 12), -1, 1)), n, k, level)


def _correlation(r: float, n: int, k: int, level: float) -> Correlation:
    from scipy.special import stdtr

    m = n - k
    # A perfect rank order would have no width: move it halfway to the closest imperfect one (continuity correction).
    edge = 1 - 6 / (m * (m**2 - 1))
    r_in = float(np.clip(r, -edge, edge))
    half = two_sided_z(level) * np.sqrt((1 + r_in**2 / 2) / (m - 3))
    low, high = np.tanh(np.arctanh(r_in) - half), np.tanh(np.arctanh(r_in) + half)
    p = 2 * stdtr(m - 2, -abs(r_in) * np.sqrt((m - 2) / (1 - r_in**2)))
    return Correlation(r, min(float(low), r), max(float(high), r), float(p), n)


def kendall(x: Numbers, y: Numbers, *, level: float = 0.95) -> Correlation:
    """Kendall's rank correlation tau-b with its interval; pairs with a NaN are dropped.

    tau_b = (C - D) / sqrt((C + D + T_x)(C + D + T_y)), C and D the concordant and discordant pairs of pairs, T those
    tied on one side only (Kendall 1945). Interval tanh(atanh tau -+ z sqrt(.437 / (n - 4))) (Fieller, Hartley & Pearson
    1957). p is exact up to 33 untied pairs, else from the normal limit. NaN with fewer than 5 pairs or a constant side.

    >>> round(kendall([1, 2, 3, 4, 5], [1, 3, 2, 4, 5]).value, 6)
    0.8
    """
    from scipy.stats import kendalltau

    z = two_sided_z(level)
    pairs = np.array([np.asarray(c, dtype=float) for c in (x, y)])
    a, b = pairs[:, ~np.isnan(pairs).any(0)]
    n = len(a)
    if n < 5 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Correlation(np.nan, np.nan, np.nan, np.nan, n)
    found: Any = kendalltau(a, b)
    value = float(np.clip(round(found.statistic, 12), -1, 1))
    edge = 1 - 2 / (n * (n - 1))
    middle, half = np.arctanh(np.clip(value, -edge, edge)), z * np.sqrt(0.437 / (n - 4))
    low, high = np.tanh(middle - half), np.tanh(middle + half)
    return Correlation(value, min(float(low), value), max(float(high), value), float(found.pvalue), n)


def auroc(
    values: Float[np.ndarray, " item"],
    positive: Bool[np.ndarray, " item"],
    *,
    among: Bool[np.ndarray, " item"] | None = None,
) -> float:
    """P(a positive ranks above a negative), ties counting half; NaN without both kinds.

    >>> auroc(np.array([0.9, 0.1, 0.1]), np.array([True, True, False]))
    0.75
    """
    from scipy.stats import rankdata

    if among is not None:
        values, positive = values[among], positive[among]
    pos, neg = int(positive.sum()), int((~positive).sum())
    if not pos or not neg:
        return float("nan")
    return float((rankdata(values)[positive].sum() - pos * (pos + 1) / 2) / (pos * neg))
