"""How far two noisy profiles can agree at best: split halves and the ceiling they set.

1. Two profiles of one model, from disjoint halves of its rollouts, correlate r within a trace.
2. Spearman and Brown's formula gives from r the reliability of the profile that uses all rollouts.
3. Two models that are alike in truth correlate at most sqrt(r_AA r_BB); a measured correlation is read against that.
4. Intervals redraw traces, the same for every part of a ratio. A ceiling is defined only where both reliabilities are
   above 0 with their intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.stats.intervals import measured
from anchors.stats.profiles import Pair, trace_correlations
from anchors.stats.types import Interval, Numbers, Seed


class Reliability(NamedTuple):
    """Correlation a profile would have with its own repetition, its interval over traces and the traces used."""

    value: float
    low: float
    high: float
    traces: int


class Ceiling(NamedTuple):
    """Largest correlation two noisy profiles can have, and the share of it that was reached; NaN where undefined."""

    value: float
    low: float
    high: float
    share: float
    share_low: float
    share_high: float
    writer: Reliability
    reader: Reliability


def spearman_brown(r: Numbers, *, factor: float = 2.0) -> Any:
    """Reliability of a measurement `factor` times as long as the one whose reliability is r, elementwise.

    f r / (1 + (f - 1) r) (Spearman 1910; Brown 1910). With r the correlation of two halves and f = 2 it is the
    reliability of the whole. A negative r means that nothing was measured; the formula is applied all the same.

    >>> round(float(spearman_brown(0.5)), 4)
    0.6667
    """
    r = np.asarray(r, dtype=float)
    with np.errstate(divide="ignore"):
        return (factor * r / (1 + (factor - 1) * r))[()]


def split_half_reliability(
    halves: Sequence[Pair], *, level: float = 0.95, resamples: int = 2000, seed: Seed = 0
) -> Reliability:
    """Reliability of a profile from two profiles of disjoint halves of its rollouts.

    2 r / (1 + r), r the mean over traces of the within-trace Spearman correlation of the halves. `halves` holds two
    scores [sentence] of every trace. The interval is the percentile bootstrap over traces. NaN traces are dropped.

    >>> found = split_half_reliability([([1, 2, 3, 4], [1, 2, 4, 3]), ([1, 2, 3, 4], [2, 1, 4, 3])])
    >>> round(found.value, 4), found.traces
    (0.8235, 2)
    """
    r = measured(trace_correlations(halves))
    return _reliability(r, r[_picks(len(r), resamples, seed)].mean(1), level)


def reliability_ceiling(
    writer: Sequence[Pair],
    reader: Sequence[Pair],
    agreement: Numbers | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: Seed = 0,
) -> Ceiling:
    """Largest rank correlation that the noise of a writer's and a reader's profile leaves room for.

    rho_max = sqrt(r_AA r_BB) (Spearman 1904), the reliabilities from split halves of the same traces; share = mean
    `agreement` / rho_max, `agreement` one correlation a trace of the two whole profiles. Percentile bootstrap over
    traces, the same traces for all parts. NaN unless the intervals of both reliabilities lie above 0. A trace that any
    part cannot measure is left out of all. Spearman correlations of noisy normal scores fall short of the ceiling by up
    to .02, because ranks attenuate a little more than the scores do.

    Raises:
        ValueError: parts that hold different numbers of traces.

    >>> halves = [([1, 2, 3, 4, 5], [1, 2, 3, 5, 4])] * 3
    >>> found = reliability_ceiling(halves, halves, [0.5, 0.5, 0.5])
    >>> round(found.value, 4), round(found.share, 4)
    (0.9474, 0.5278)
    """
    parts = [trace_correlations(writer), trace_correlations(reader)]
    parts.append(np.zeros(len(parts[0])) if agreement is None else np.atleast_1d(np.asarray(agreement, dtype=float)))
    if len({len(part) for part in parts}) > 1:
        raise ValueError(f"writer, reader and agreement hold {[len(p) for p in parts]} traces; give the same traces")
    r = np.stack(parts)
    r = r[:, ~np.isnan(r).any(0)]
    draws = r[:, _picks(r.shape[1], resamples, seed)].mean(-1)
    a, b = (_reliability(r[i], draws[i], level) for i in (0, 1))
    if not (a.low > 0 and b.low > 0):
        return Ceiling(np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, a, b)
    ceiling = float(np.sqrt(a.value * b.value))
    drawn = np.sqrt(np.prod([np.maximum(spearman_brown(d), 0.0) for d in draws[:2]], axis=0))
    low, high = _ends(drawn, level)
    if agreement is None:
        return Ceiling(ceiling, low, high, np.nan, np.nan, np.nan, a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = draws[2] / drawn
    share = float(r[2].mean() / ceiling)
    share_low, share_high = _ends(shares, level)
    return Ceiling(ceiling, low, high, share, share_low, share_high, a, b)


def _reliability(r: Float[np.ndarray, " trace"], means: Float[np.ndarray, " draw"], level: float) -> Reliability:
    if len(r) < 2:
        return Reliability(float(spearman_brown(r[0])) if len(r) else np.nan, np.nan, np.nan, len(r))
    return Reliability(float(spearman_brown(r.mean())), *_ends(spearman_brown(means), level), len(r))


def _picks(traces: int, resamples: int, seed: Seed) -> np.ndarray:
    """Which traces each resample holds; no resample where there is nothing to redraw."""
    rng = np.random.default_rng(seed)
    return rng.integers(traces, size=(resamples, traces)) if traces > 1 else np.zeros((0, 1), dtype=int)


def _ends(draws: Float[np.ndarray, " draw"], level: float) -> Interval:
    # Order statistics, not interpolated quantiles: a draw whose ceiling is 0 has an infinite share.
    ranked = np.sort(draws)
    last = len(ranked) - 1
    low, high = int(np.floor((1 - level) / 2 * last)), int(np.ceil((1 + level) / 2 * last))
    return Interval(float(ranked[low]), float(ranked[high]))
