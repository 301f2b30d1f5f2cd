"""How far apart two groups of traces are, in standard deviations.

1. Cohen's d of one feature: difference of the means over the pooled standard deviation.
2. Of many features: the mean of |d|, never the largest, which grows with the number of features looked at.
3. Whole traces are redrawn for the interval; where both groups hold the same problems they are redrawn together.
4. |d| is above 0 by chance alone: `floor` is its mean where the group of a trace says nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.stats.intervals import quantile_interval
from anchors.stats.types import Numbers, Seed

BLOCK: Final = 200


class EffectSize(NamedTuple):
    """A standardised difference, its interval, and the traces of either group."""

    value: float
    low: float
    high: float
    traces: tuple[int, int]


class Shift(NamedTuple):
    """Mean |d| over features, its interval, its floor by chance, and d of every feature."""

    value: float
    low: float
    high: float
    floor: float
    features: tuple[float, ...]


def cohens_d(
    a: Numbers, b: Numbers, *, paired: bool = False, level: float = 0.95, resamples: int = 2000, seed: Seed = 0
) -> EffectSize:
    """d = (mean a - mean b) / sd, sd^2 = ((n_a - 1) var a + (n_b - 1) var b) / (n_a + n_b - 2) (Cohen 1988).

    `a` and `b` hold one value a trace; `paired` says that a[i] and b[i] are of one problem, so that they are redrawn
    together (d itself stays that of two groups). Percentile interval. Equal constants have d 0, others infinite d. NaN with
    fewer than two values in a group.

    Raises:
        ValueError: a value is NaN, or paired groups differ in size.

    >>> found = cohens_d([2.0, 4.0, 6.0], [1.0, 3.0, 5.0])
    >>> found.value, found.traces
    (0.5, (3, 3))
    """
    x, y = (_matrix(np.asarray(side, dtype=float)[:, None]) for side in (a, b))
    if min(len(x), len(y)) < 2:
        return EffectSize(np.nan, np.nan, np.nan, (len(x), len(y)))
    value, draws = float(standardised_difference(x, y)[0]), _redrawn(x, y, paired, resamples, seed)[:, 0]
    if not np.isfinite(draws).all():
        return EffectSize(value, np.nan, np.nan, (len(x), len(y)))
    low, high = quantile_interval(draws, estimate=value, level=level)
    return EffectSize(value, float(low), float(high), (len(x), len(y)))


def mean_absolute_d(
    a: Numbers, b: Numbers, *, paired: bool = False, level: float = 0.95, resamples: int = 2000, seed: Seed = 0
) -> Shift:
    """Mean over features of |d|, for groups `a` and `b` [trace, feature]; see `cohens_d`.

    Features that are one constant in both groups count with |d| = 0. `floor` is the mean of the same statistic over random
    relabellings (within problems where `paired`). The interval is that of the bootstrap less twice its bias, since |d| of
    redrawn traces is larger by chance once more.

    Raises:
        ValueError: a value is NaN, the groups differ in features, hold fewer than two traces, or a feature is one constant
            in each group, but not the same.

    >>> rng = np.random.default_rng(0)
    >>> found = mean_absolute_d(rng.normal(1.0, 1.0, (200, 3)), rng.normal(0.0, 1.0, (200, 3)))
    >>> found.low < 1.0 < found.high, found.floor < 0.2
    (True, True)
    """
    x, y = (_matrix(np.asarray(side, dtype=float)) for side in (a, b))
    if x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"the groups have shapes {x.shape} and {y.shape}; give [trace, feature], at least 2 traces each"
        )
    own = standardised_difference(x, y)
    if not np.isfinite(own).all():
        stuck = int(np.flatnonzero(~np.isfinite(own))[0])
        raise ValueError(f"feature {stuck} is one constant in each group and its d infinite; leave it out")
    value = float(np.abs(own).mean())
    draws = np.abs(_finite(_redrawn(x, y, paired, resamples, seed))).mean(-1)
    low, high = quantile_interval(draws, estimate=value, kind="shifted", level=level)
    floor = float(np.abs(_finite(_relabelled(x, y, paired, max(200, resamples // 10), seed))).mean())
    return Shift(value, max(0.0, float(low)), float(high), floor, tuple(map(float, own)))


def standardised_difference(
    a: Float[np.ndarray, "*draw trace feature"], b: Float[np.ndarray, "*draw other feature"]
) -> Float[np.ndarray, "*draw feature"]:
    """Cohen's d of every feature, as in `cohens_d`: 0 for equal constants, infinite for different ones.

    >>> standardised_difference(np.array([[2.0], [4.0], [6.0]]), np.array([[1.0], [3.0], [5.0]])).tolist()
    [0.5]
    """
    n, m = a.shape[-2], b.shape[-2]
    gap = a.mean(-2) - b.mean(-2)
    sd = np.sqrt(((n - 1) * a.var(-2, ddof=1) + (m - 1) * b.var(-2, ddof=1)) / (n + m - 2))
    size = 1e-12 * np.maximum(np.abs(a).max(-2), np.abs(b).max(-2))
    gap, sd = np.where(np.abs(gap) <= size, 0.0, gap), np.where(sd <= size, 0.0, sd)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((gap == 0) & (sd == 0), 0.0, gap / sd)


def _matrix(values: Float[np.ndarray, "trace feature"]) -> Float[np.ndarray, "trace feature"]:
    if np.isnan(values).any():
        raise ValueError("a value is NaN (not measured); leave out the trace or the feature")
    return values


def _redrawn(
    x: Float[np.ndarray, "trace feature"],
    y: Float[np.ndarray, "other feature"],
    paired: bool,
    resamples: int,
    seed: Seed,
) -> Float[np.ndarray, "draw feature"]:
    """d of redrawn traces; with `paired` the same traces on both sides."""
    if paired and len(x) != len(y):
        raise ValueError(f"paired groups hold {len(x)} and {len(y)} traces; give one of each a problem")
    rng, rows = np.random.default_rng(seed), []
    for size in _blocks(resamples):
        mine = rng.integers(len(x), size=(size, len(x)))
        theirs = mine if paired else rng.integers(len(y), size=(size, len(y)))
        rows.append(standardised_difference(x[mine], y[theirs]))
    return np.concatenate(rows)


def _relabelled(
    x: Float[np.ndarray, "trace feature"],
    y: Float[np.ndarray, "other feature"],
    paired: bool,
    resamples: int,
    seed: Seed,
) -> Float[np.ndarray, "draw feature"]:
    """d of the same traces with their groups exchanged at random; with `paired` within problems."""
    rng, both, rows = np.random.default_rng(seed), np.concatenate([x, y]), []
    for size in _blocks(resamples):
        if paired:
            swap = (rng.random((size, len(x))) < 0.5)[..., None]
            a, b = np.where(swap, y, x), np.where(swap, x, y)
        else:
            order = rng.permuted(np.tile(np.arange(len(both)), (size, 1)), axis=1)
            a, b = both[order[:, : len(x)]], both[order[:, len(x) :]]
        rows.append(standardised_difference(a, b))
    return np.concatenate(rows)


def _blocks(draws: int) -> list[int]:
    """Draws are made `BLOCK` at a time, to bound memory."""
    return [min(BLOCK, draws - start) for start in range(0, draws, BLOCK)]


def _finite(rows: Float[np.ndarray, "draw feature"]) -> Float[np.ndarray, "draw feature"]:
    """Draws in which no feature happened to be constant in both groups."""
    return rows[np.isfinite(rows).all(1)]
