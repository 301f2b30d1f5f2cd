"""Inference over traces: the trace is the independent unit, never the sentence.

1. Resample whole traces for an interval.
2. Flip the signs of whole traces for a test of no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from anchors.stats.intervals import quantile_interval
from anchors.stats.types import Interval, Numbers, Seed


def cluster_bootstrap(
    groups: Sequence[Numbers],
    statistic: Callable[[list[np.ndarray]], float] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: Seed = 0,
) -> Interval:
    """Percentile interval over redrawn groups (traces, problems): the group is the unit of inference.

    `statistic` takes a list of groups and defaults to the mean of group means. Under about 20 groups it covers too
    little; print `t_interval` of the group means beside it.

    >>> low, high = cluster_bootstrap([[0.1, 0.3], [0.4], [0.9, 0.7]])
    >>> round(float(low), 3), round(float(high), 3)
    (0.2, 0.8)
    """
    arrays = [np.asarray(group, dtype=float) for group in groups]
    if not arrays or any(len(a) == 0 for a in arrays):
        raise ValueError(f"got {len(arrays)} groups, some or all empty; give at least one value for every trace")
    picks = np.random.default_rng(seed).integers(len(arrays), size=(resamples, len(arrays)))
    if statistic is None:
        means = np.array([a.mean() for a in arrays])
        return quantile_interval(means[picks].mean(1), estimate=means.mean(), level=level)
    draws = [statistic([arrays[i] for i in row]) for row in picks]
    return quantile_interval(draws, estimate=statistic(arrays), level=level)


def pooled_mean(groups: Sequence[Numbers]) -> float:
    """The mean over all values of all groups, as a statistic for `cluster_bootstrap`: large groups count for more.

    >>> pooled_mean([[0.0, 0.0, 0.0], [1.0]])
    0.25
    """
    return float(np.concatenate(groups).mean())


def sign_flip_p(values: Numbers, *, resamples: int = 50_000, seed: Seed = 0) -> float:
    """Two-sided p-value that values, one a trace, are symmetric around 0: sign flips with as large a |mean|.

    Exact up to 20 values (2^20 flips), else Monte Carlo with the +1 correction. NaN without values.

    >>> sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0])
    0.0625
    """
    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x)]
    if not len(x):
        return float("nan")
    threshold = abs(x.sum()) - 1e-9 * np.abs(x).sum()
    if len(x) <= 20:
        sums = np.zeros(1)
        for value in x:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= threshold))
    signs = np.random.default_rng(seed).integers(0, 2, size=(resamples, len(x)), dtype=np.int8) * 2 - 1
    return float((np.sum(np.abs(signs @ x) >= threshold) + 1) / (resamples + 1))
