"""Where a curve ends that grows with the number of samples by a power law (pass@N, majority@N: `anchors.voting`).

A curve is fitted by a - b N^-c: least squares in a and b for every c of a grid. `a` is what no budget exceeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from anchors.stats import Numbers

EXPONENTS: Final = np.geomspace(0.1, 4.0, 60)


class PowerLaw(NamedTuple):
    """The fit a - b N^-c; arrays [curve] where several curves were fitted."""

    a: Any
    b: Any
    c: Any

    def at(self, n: Numbers) -> Any:
        """The fitted share at a budget of n samples (one curve)."""
        return self.a - self.b * np.asarray(n, dtype=float) ** -self.c


def fit_power_law(budgets: Sequence[int], shares: Numbers) -> PowerLaw:
    """Least-squares fit of a - b N^-c to one curve [budget] or several [curve budget], a within [0, 1].

    c is the best of `EXPONENTS`, from .1 to 4: a curve that grows more slowly has no asymptote that its budgets could show.

    Raises:
        ValueError: fewer than three budgets.

    >>> fit = fit_power_law([1, 2, 4, 8, 16], [0.9 - 0.5 * n**-1.0 for n in (1, 2, 4, 8, 16)])
    >>> round(float(fit.a), 2), round(float(fit.b), 2)
    (0.9, 0.5)
    """
    n, y = np.asarray(budgets, dtype=float), np.atleast_2d(np.asarray(shares, dtype=float))
    if len(n) < 3:
        raise ValueError(f"budgets are {list(budgets)}; three parameters need at least three")
    best: list[np.ndarray] = []
    for c in EXPONENTS:
        x = n**-c
        centred = x - x.mean()
        b = -(y - y.mean(1, keepdims=True)) @ centred / (centred @ centred)
        a = np.clip(y.mean(1) + b * x.mean(), 0.0, 1.0)
        b = (a[:, None] - y) @ x / (x @ x)  # the best b for that a
        error = ((a[:, None] - b[:, None] * x - y) ** 2).sum(1)
        best.append(np.stack([error, a, b, np.full_like(a, c)]))
    grid = np.stack(best)
    chosen = grid[:, 0].argmin(0)
    _, a, b, c = grid[chosen, :, np.arange(y.shape[0])].T
    several = np.ndim(shares) > 1
    return PowerLaw(*((a, b, c) if several else (a[0], b[0], c[0])))
