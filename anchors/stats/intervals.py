"""Intervals from resampled draws, and of a mean.

1. Bootstrap draws give an interval by their quantiles, or by their quantiles less twice the bootstrap bias.
2. Values of different traces, which are independent, also have Student's interval of their mean.
3. NaN values are left out; too few values leave no interval, which is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float

from anchors.stats.types import Interval, Numbers, Seed


def bootstrap_interval(
    samples: Sequence[Numbers],
    statistic: Callable[..., Any],
    *,
    kind: str = "percentile",
    level: float = 0.95,
    resamples: int = 1000,
    seed: Seed = 0,
) -> Interval:
    """Bootstrap interval of `statistic(*samples)`, every sample a vector of counts redrawn as a multinomial.

    `kind`: "percentile", the quantiles of the resampled statistic; "shifted", those quantiles less twice the bootstrap
    bias, for divergences and entropies, whose plug-in estimates are biased and whose resamples are biased once more.
    NaN where a sample is empty.

    >>> low, high = bootstrap_interval([[60, 40]], lambda counts: counts[..., 0] / counts.sum(-1))
    >>> bool(0.45 < low < 0.6 < high < 0.75)
    True
    """
    counts = [np.asarray(sample, dtype=int) for sample in samples]
    if not all(c.sum() for c in counts):
        return Interval(np.nan, np.nan)
    rng = np.random.default_rng(seed)
    drawn = [rng.multinomial(int(c.sum()), c / c.sum(), size=resamples) for c in counts]
    return quantile_interval(statistic(*drawn), estimate=statistic(*counts), kind=kind, level=level)


def quantile_interval(draws: Numbers, *, estimate: Any, kind: str = "percentile", level: float = 0.95) -> Interval:
    """Interval from bootstrap draws along axis 0: their quantiles, less 2 (mean draw - estimate) when "shifted"."""
    if kind not in ("percentile", "shifted"):
        raise ValueError(f"kind is {kind!r}; use 'percentile' or 'shifted'")
    draws = np.asarray(draws, dtype=float)
    shift = 2 * (draws.mean(0) - estimate) if kind == "shifted" else 0.0
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(low - shift, high - shift)


def mean_interval(values: Numbers, rng: np.random.Generator, *, resamples: int, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of a mean; NaN values are left out, and fewer than two leave no interval.

    >>> mean_interval([2.0, 2.0, float("nan")], np.random.default_rng(0), resamples=10)
    Interval(low=2.0, high=2.0)
    """
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return Interval(float("nan"), float("nan"))
    draws = rng.choice(values, (resamples, len(values))).mean(1)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def t_interval(values: Numbers, *, level: float = 0.95) -> Interval:
    """Student's interval of a mean, NaNs dropped; NaN with fewer than two values.

    >>> [round(float(x), 3) for x in t_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    from scipy.special import stdtrit

    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x)]
    if len(x) < 2:
        return Interval(np.nan, np.nan)
    half = stdtrit(len(x) - 1, (1 + level) / 2) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(x.mean() - half, x.mean() + half)


def two_sided_z(level: float) -> float:
    """The z that leaves (1 - level) / 2 of a standard normal on each side."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; a confidence level lies between 0 and 1 (use 0.95)")
    return NormalDist().inv_cdf((1 + level) / 2)


def measured(values: Numbers) -> Float[np.ndarray, " measured"]:
    """The values that were measured: a flat float array without its NaNs."""
    x = np.asarray(values, dtype=float).ravel()
    return x[~np.isnan(x)]
