"""Corrections for many tests: Holm for a family that may hold no false claim, Benjamini-Hochberg for maps.

1. NaN was not tested: it is never rejected, and it does not count in the number of tests.
2. Each correction comes as decisions at a level and as adjusted p-values to be compared with any level.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from anchors.stats.types import Numbers


def benjamini_hochberg(p: Numbers, *, fdr: float = 0.05) -> Bool[np.ndarray, " test"]:
    """Which tests are rejected at false-discovery rate `fdr` (Benjamini & Hochberg 1995); NaN was not tested.

    >>> benjamini_hochberg([0.01, 0.02, 0.04, 0.9], fdr=0.05).tolist()
    [True, True, False, False]
    """
    p = np.asarray(p, dtype=float)
    ranked = np.sort(p[~np.isnan(p)])
    below = np.flatnonzero(ranked <= fdr * np.arange(1, len(ranked) + 1) / max(len(ranked), 1))
    return p <= (ranked[below[-1]] if len(below) else -1.0)


def holm(p: Numbers, *, level: float = 0.05) -> Bool[np.ndarray, " test"]:
    """Which tests are rejected at family-wise error `level` (Holm 1979); NaN was not tested.

    >>> holm([0.01, 0.02, 0.04, 0.9]).tolist()
    [True, False, False, False]
    """
    p = np.asarray(p, dtype=float)
    ranked = np.sort(p[~np.isnan(p)])
    above = np.flatnonzero(ranked > level / np.arange(len(ranked), 0, -1))
    first = above[0] if len(above) else len(ranked)
    return p <= (ranked[first - 1] if first else -1.0)


def holm_adjusted(p: Numbers) -> Float[np.ndarray, " test"]:
    """Holm's adjusted p-values: a test is rejected at family-wise error a when its adjusted p is at most a.

    p~_(i) = max over j <= i of min(1, (m - j + 1) p_(j)), p_(1) <= ... <= p_(m) the m tests made (Holm 1979; Wright
    1992). NaN was not tested and stays NaN.

    >>> holm_adjusted([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted


def benjamini_hochberg_adjusted(p: Numbers) -> Float[np.ndarray, " test"]:
    """Benjamini and Hochberg's adjusted p-values: the smallest false-discovery rate at which a test is rejected.

    p~_(i) = min over j >= i of min(1, m p_(j) / j), p_(1) <= ... <= p_(m) the m tests made (Benjamini & Hochberg 1995;
    Yekutieli & Benjamini 1999). NaN was not tested and stays NaN.

    >>> benjamini_hochberg_adjusted([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.04, 0.04]
    """
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    scaled = p[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted
