"""The ratio of two paired means, such as the share of the writer's effect that a reader retains.

1. Numerator and denominator come from the same traces; a trace that lacks one is left out.
2. Where Student's interval of the denominator reaches 0 the ratio is not defined: any ratio would fit. It is NaN then.
3. Fieller's interval is exact for normal traces; the paired bootstrap assumes no shape but needs more traces.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.stats.intervals import quantile_interval, t_interval
from anchors.stats.types import Numbers, Seed


class Ratio(NamedTuple):
    """A ratio of paired means, its interval and the traces used; NaN where the denominator may be 0."""

    value: float
    low: float
    high: float
    traces: int


def fieller(numerator: Numbers, denominator: Numbers, *, level: float = 0.95) -> Ratio:
    """Ratio of paired means, mean(numerator) / mean(denominator), with Fieller's interval.

    All R with (m_N - R m_D)^2 <= t^2 (v_N - 2 R c + R^2 v_D), where v and c are the variances and the covariance of the
    means and t has n - 1 degrees of freedom (Fieller 1954). One value [trace] each, in the same unit; the ratio has
    none. Pairs with a NaN are dropped; NaN with fewer than two, or where the denominator's interval reaches 0.

    Raises:
        ValueError: numerator and denominator differ in length.

    >>> found = fieller([0.5, 0.6, 0.4, 0.5], [1.0, 1.1, 0.9, 1.0])
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.5, 0.425, 0.557)
    """
    from scipy.special import stdtrit

    x = _paired(numerator, denominator)
    n = x.shape[1]
    if not _defined(x[1], level):
        return Ratio(np.nan, np.nan, np.nan, n)
    (m_n, m_d), ((v_n, c), (_, v_d)) = x.mean(1), np.cov(x) / n
    t2 = stdtrit(n - 1, (1 + level) / 2) ** 2
    a, half_b = m_d**2 - t2 * v_d, m_n * m_d - t2 * c
    root = np.sqrt(max(half_b**2 - a * (m_n**2 - t2 * v_n), 0.0))
    return Ratio(float(m_n / m_d), float((half_b - root) / a), float((half_b + root) / a), n)


def paired_ratio_bootstrap(
    numerator: Numbers, denominator: Numbers, *, level: float = 0.95, resamples: int = 5000, seed: Seed = 0
) -> Ratio:
    """Ratio of paired means with a percentile bootstrap interval over traces.

    Traces are redrawn with both of their values. One value [trace] each, in the same unit. Pairs with a NaN are
    dropped; NaN with fewer than two, or where Student's interval of the denominator reaches 0, as in `fieller`.

    Raises:
        ValueError: numerator and denominator differ in length.

    >>> found = paired_ratio_bootstrap([0.5, 0.6, 0.4, 0.5], [1.0, 1.1, 0.9, 1.0])
    >>> round(found.value, 3), 0.44 < found.low < 0.5 < found.high < 0.55
    (0.5, True)
    """
    x = _paired(numerator, denominator)
    n = x.shape[1]
    if not _defined(x[1], level):
        return Ratio(np.nan, np.nan, np.nan, n)
    picks = np.random.default_rng(seed).integers(n, size=(resamples, n))
    tops, bottoms = x[:, picks].mean(-1)
    value = float(x[0].mean() / x[1].mean())
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = quantile_interval(tops / bottoms, estimate=value, level=level)
    return Ratio(value, float(low), float(high), n)


def _paired(numerator: Numbers, denominator: Numbers) -> Float[np.ndarray, "part trace"]:
    parts = [np.atleast_1d(np.asarray(x, dtype=float)) for x in (numerator, denominator)]
    if parts[0].shape != parts[1].shape:
        raise ValueError(f"{len(parts[0])} numerators and {len(parts[1])} denominators; give one of each a trace")
    x = np.stack(parts)
    return x[:, ~np.isnan(x).any(0)]


def _defined(denominator: Float[np.ndarray, " trace"], level: float) -> bool:
    low, high = t_interval(denominator, level=level)
    return bool(low > 0 or high < 0)
