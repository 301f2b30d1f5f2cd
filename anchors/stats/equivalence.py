"""Evidence that an effect is small: two one-sided tests. A large p-value of a test of no effect is none.

1. State the margin before looking: the smallest effect that would matter.
2. Test from both sides that the mean lies beyond the margin; equivalence is shown when both are rejected.
3. The same decision by interval: the one of twice the level lies within the margin.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from anchors.stats.intervals import measured, t_interval
from anchors.stats.types import Numbers


class Equivalence(NamedTuple):
    """Mean over traces, p that it lies beyond the margin, its 1 - 2 level interval, and the decision at `level`."""

    value: float
    p: float
    low: float
    high: float
    equivalent: bool
    traces: int


def relative_tost(values: Numbers, reference: Numbers, margin: float, *, level: float = 0.05) -> Equivalence:
    """Test that |mean(values)| < margin x mean(reference), the reference being an estimate over the same traces.

    Two one-sided paired t-tests: values + margin x reference above 0, and values - margin x reference below 0; p is the larger
    one (Hauschke, Kieser & Hothorn 1999). The interval is that of `values` alone, of level 1 - 2 level. Pairs with a NaN are
    dropped.

    Raises:
        ValueError: a margin that is not above 0.

    >>> found = relative_tost([0.01, -0.02, 0.0, 0.01], [0.4, 0.5, 0.6, 0.5], 0.25)
    >>> round(found.p, 4), found.equivalent
    (0.0015, True)
    """
    from scipy.special import stdtr

    if not margin > 0:
        raise ValueError(f"margin is {margin}; equivalence needs a margin above 0, as a share of the reference")
    x, y = (np.asarray(column, dtype=float) for column in (values, reference))
    kept = ~np.isnan(x) & ~np.isnan(y)
    x, y = x[kept], y[kept]
    if len(x) < 2:
        return Equivalence(float(x.mean()) if len(x) else np.nan, np.nan, np.nan, np.nan, False, len(x))
    p = 0.0
    for side in (margin * y + x, margin * y - x):
        se = side.std(ddof=1) / np.sqrt(len(side))
        p = max(p, float(stdtr(len(side) - 1, -side.mean() / se)) if se > 0 else float(side.mean() <= 0))
    low, high = t_interval(x, level=1 - 2 * level)
    return Equivalence(float(x.mean()), p, float(low), float(high), p <= level, len(x))


def tost(values: Numbers, margin: float, *, level: float = 0.05) -> Equivalence:
    """Test that |mean| < margin by two one-sided t-tests on values, one a trace, in their unit.

    p = max(P(T > (mean + margin) / se), P(T < (mean - margin) / se)), T Student's t with n - 1 degrees of freedom
    (Schuirmann 1987); equivalent when p <= level. The interval is of level 1 - 2 level (90 %). NaN values are dropped;
    fewer than two show nothing.

    Raises:
        ValueError: a margin that is not above 0, or a level outside (0, .5).

    >>> found = tost([0.01, -0.02, 0.0, 0.01], 0.05)
    >>> round(found.p, 4), found.equivalent
    (0.0029, True)
    """
    from scipy.special import stdtr

    if not margin > 0:
        raise ValueError(f"margin is {margin}; equivalence needs a margin above 0, in the unit of the values")
    if not 0 < level < 0.5:
        raise ValueError(f"level is {level}; two one-sided tests have a level between 0 and .5 (use .05)")
    x = measured(values)
    n = len(x)
    if n < 2:
        return Equivalence(float(x.mean()) if n else np.nan, np.nan, np.nan, np.nan, False, n)
    mean, se = float(x.mean()), float(x.std(ddof=1) / np.sqrt(n))
    if se <= 1e-12 * np.abs(x).max():
        p = float(abs(mean) >= margin * (1 - 1e-9))
    else:
        p = float(stdtr(n - 1, -(margin - abs(mean)) / se))
    low, high = t_interval(x, level=1 - 2 * level)
    return Equivalence(mean, p, float(low), float(high), p <= level, n)
