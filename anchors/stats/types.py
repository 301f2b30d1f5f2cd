"""The words the statistics share: what counts as numbers, a seed, a statistic, an interval, a correlation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Numbers = np.ndarray | Sequence[Any] | np.number | float | int
Seed = int | Sequence[int] | np.random.Generator
Statistic = Callable[[np.ndarray, np.ndarray], Any]


class Interval(NamedTuple):
    """Lower and upper end of a confidence interval, elementwise."""

    low: Any
    high: Any


class Correlation(NamedTuple):
    """A rank correlation, its interval, its two-sided p-value and the number of pairs it was computed on."""

    value: float
    low: float
    high: float
    p: float
    n: int
