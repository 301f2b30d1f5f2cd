"""What sampling more buys: pass@N, majority@N, and where a curve ends that grows by a power law.

1. n samples of every problem are drawn once; N of them are a random subset, so every N uses all of them.
2. pass@N asks whether any of N is right, majority@N whether the most frequent answer is; samples without an answer do not
   vote, and ties are shared.
3. A curve is fitted by a - b N^-c: least squares in a and b for every c of a grid. `a` is what no budget exceeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.stats import Numbers, Seed

EXPONENTS: Final = np.geomspace(0.1, 4.0, 60)
DRAWS: Final = 200


class PowerLaw(NamedTuple):
    """The fit a - b N^-c; arrays [curve] where several curves were fitted."""

    a: Any
    b: Any
    c: Any

    def at(self, n: Numbers) -> Any:
        """The fitted share at a budget of n samples (one curve)."""
        return self.a - self.b * np.asarray(n, dtype=float) ** -self.c


def pass_at(right: Numbers, budgets: Sequence[int]) -> Float[np.ndarray, "problem budget"]:
    """pass@N of each problem: the chance that one of N of its samples is right.

    1 - C(n - c, N) / C(n, N) with c of n samples right (2107.03374, eq. 1). `right` is [problem sample].

    Raises:
        ValueError: a budget is below 1 or above the number of samples.

    >>> pass_at([[True, False, False, False]], [1, 2, 4]).round(6).tolist()
    [[0.25, 0.5, 1.0]]
    """
    from scipy.special import gammaln

    marks = np.asarray(right, dtype=bool)
    n, sizes = marks.shape[1], _budgets(budgets, marks.shape[1])
    wrong = n - marks.sum(1)[:, None]
    with np.errstate(invalid="ignore"):
        log = gammaln(wrong + 1) - gammaln(wrong - sizes + 1) - gammaln(n + 1) + gammaln(n - sizes + 1)
    return 1.0 - np.where(sizes > wrong, 0.0, np.exp(np.where(sizes > wrong, 0.0, log)))


def majority_at(
    answers: Sequence[Sequence[str | None]],
    gold: Sequence[Sequence[str] | str],
    budgets: Sequence[int],
    *,
    seed: Seed = 0,
) -> Float[np.ndarray, "problem budget"]:
    """majority@N of each problem: the chance that the most frequent of N of its answers is right.

    `answers` is [problem][sample], None where a sample has no answer; `gold` is the right answer of each problem, or all
    the right ones. Subsets without replacement are drawn `DRAWS` times; with N = 1 or all samples the value is exact.

    Raises:
        ValueError: a budget is below 1 or above the number of samples.

    >>> majority_at([["3", "3", "5", "5", "5", None]], ["5"], [1, 6]).round(3).tolist()
    [[0.5, 1.0]]
    """
    rng = np.random.default_rng(seed)
    return np.array([_majority(row, right, budgets, rng) for row, right in zip(answers, gold, strict=True)])


def _majority(
    row: Sequence[str | None], gold: Sequence[str] | str, budgets: Sequence[int], rng: np.random.Generator
) -> list[float]:
    sizes = _budgets(budgets, len(row))
    counts = Counter(row)
    names = sorted(counts, key=str)
    right = np.array([name is not None and (name == gold if isinstance(gold, str) else name in gold) for name in names])
    votes = np.array([name is not None for name in names])
    pool = np.array([counts[name] for name in names])
    found = []
    for size in sizes:
        if size == 1:
            found.append(float(pool[right].sum() / len(row)))
            continue
        drawn = pool[None] if size == len(row) else rng.multivariate_hypergeometric(pool, size, size=DRAWS)
        found.append(float(_wins(drawn * votes, right).mean()))
    return found


def _wins(counts: np.ndarray, right: np.ndarray) -> Float[np.ndarray, " draw"]:
    """The share of the most frequent answers that is right, 0 where nobody votes."""
    top = (counts == counts.max(1, keepdims=True)) & (counts > 0)
    return (top & right).sum(1) / np.maximum(top.sum(1), 1)


def _budgets(budgets: Sequence[int], samples: int) -> np.ndarray:
    sizes = np.asarray(budgets, dtype=int)
    if sizes.size == 0 or sizes.min() < 1 or sizes.max() > samples:
        raise ValueError(f"budgets are {list(budgets)}; each must lie between 1 and the {samples} samples there are")
    return sizes


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
