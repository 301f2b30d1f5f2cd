"""Does an effect change along an ordered axis, such as the distance of a shift?

1. Page's test asks whether levels follow an order stated before the run; every block has a value at every level.
2. A slope over numbered levels, with whole traces redrawn, says how fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.stats.types import Numbers, Seed


class Trend(NamedTuple):
    """Page's L, its one-sided p that the levels do not follow the order, and the blocks used."""

    statistic: float
    p: float
    blocks: int


class Slope(NamedTuple):
    """A least-squares slope, in units of the value a unit of level, its interval and the groups redrawn."""

    value: float
    low: float
    high: float
    groups: int


def page_trend(matrix: Numbers, order: Sequence[int] | None = None) -> Trend:
    """Page's test that values rise along an order of the levels, one-sided.

    L = sum_j j R_j, R_j the sum over blocks of the within-block rank of the level that is j-th in the order (Page
    1963; `scipy.stats.page_trend_test`: exact for small tables, else the normal limit). `matrix` [block, level], blocks
    being traces or models; `order` lists the levels (columns) from the smallest predicted value to the largest, as
    they stand by default. Blocks with a NaN are left out. Ties take their mean rank, which makes the test cautious.

    Raises:
        ValueError: fewer than 3 levels, or an order that is no permutation of them.

    >>> found = page_trend([[1, 2, 3], [1, 2, 3], [1, 3, 2]])
    >>> found.statistic, round(found.p, 4)
    (41.0, 0.0324)
    """
    from scipy.stats import page_trend_test

    x = np.asarray(matrix, dtype=float)
    if x.ndim != 2 or x.shape[1] < 3:
        raise ValueError(f"the matrix has shape {x.shape}; a trend needs [block, level] with at least 3 levels")
    columns = list(range(x.shape[1])) if order is None else list(order)
    if sorted(columns) != list(range(x.shape[1])):
        raise ValueError(f"order is {columns}; list each of the levels 0 to {x.shape[1] - 1} once, smallest first")
    x = x[~np.isnan(x).any(1)][:, columns]
    if len(x) < 2:
        return Trend(np.nan, np.nan, len(x))
    found = page_trend_test(x)
    return Trend(float(found.statistic), float(found.pvalue), len(x))


def slope_interval(
    levels: Numbers,
    values: Numbers,
    groups: Sequence[Any] | np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: Seed = 0,
) -> Slope:
    """Least-squares slope of values on levels, with a percentile interval over redrawn groups.

    slope = cov(level, value) / var(level) over all observations; `levels`, `values` and `groups` [observation], the
    group (trace, problem) being the unit that is redrawn (Cameron, Gelbach & Miller 2008). Observations with a NaN are
    dropped. NaN with fewer than two groups or one level; redraws that hold one level have no slope and are left out.
    Under about 20 groups the interval covers too little.

    Raises:
        ValueError: the three differ in length.

    >>> found = slope_interval([0, 1, 2, 0, 1, 2], [0.0, 1.0, 2.0, 0.1, 1.1, 2.1], ["p", "p", "p", "q", "q", "q"])
    >>> round(found.value, 6), found.groups
    (1.0, 2)
    """
    x, y = (np.asarray(v, dtype=float) for v in (levels, values))
    if not len(x) == len(y) == len(groups):
        raise ValueError(f"{len(x)} levels, {len(y)} values, {len(groups)} groups; give one of each an observation")
    kept = ~np.isnan(x) & ~np.isnan(y)
    _, member = np.unique(np.asarray(groups)[kept], return_inverse=True)
    x, y = x[kept], y[kept]
    n = int(member.max()) + 1 if len(member) else 0
    if n < 2 or np.ptp(x) == 0:
        return Slope(np.nan, np.nan, np.nan, n)
    # Centred, so that the difference of products below keeps its precision.
    x, y = x - x.mean(), y - y.mean()
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x])
    sums = np.stack([np.bincount(member, term, minlength=n) for term in terms], axis=1)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) @ sums
    low, high = np.nanquantile(_slopes(drawn), [(1 - level) / 2, (1 + level) / 2])
    return Slope(float(_slopes(sums.sum(0))), float(low), float(high), n)


def _slopes(sums: Float[np.ndarray, "*draw term"]) -> Any:
    n, x, y, xy, xx = np.moveaxis(sums, -1, 0)
    spread = n * xx - x * x
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 1e-9 * n * n, (n * xy - x * y) / spread, np.nan)[()]
