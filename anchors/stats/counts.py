"""Two samples of answers compared: divergences, intervals of proportions, exact and permutation tests.

1. A sample is a vector of counts [answer]; everything that resamples draws count vectors, never single rollouts.
2. Divergences and entropies reduce the last axis and broadcast over the others.
3. An empty sample gives NaN (not measured), never 0.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from anchors.stats.intervals import two_sided_z
from anchors.stats.types import Interval, Numbers, Seed, Statistic


def kl_divergence(p_counts: Numbers, q_counts: Numbers, *, alpha: float = 0.5) -> Any:
    """KL(p || q) in nats of two samples of counts, with `alpha` added to every answer seen on either side.

    p_a = (c_a + alpha) / (n + alpha V), V the answers seen on either side; clipped at 0 (Thought Anchors, 2506.19143,
    `analyze_rollouts.py`, whose alpha is 1e-9). NaN where a side is empty; `alpha=0` gives inf for an unseen answer.

    >>> round(float(kl_divergence([100, 0], [0, 100], alpha=1e-9)), 4)
    25.3284
    """
    if alpha < 0:
        raise ValueError(f"alpha is {alpha}; a smoothing count cannot be negative (the paper's is 1e-9)")
    p, q = np.broadcast_arrays(np.asarray(p_counts, dtype=float), np.asarray(q_counts, dtype=float))
    seen = (p + q) > 0
    n_p, n_q, v = (x.sum(-1, keepdims=True) for x in (p, q, seen))
    with np.errstate(divide="ignore", invalid="ignore"):
        p_a, q_a = (p + alpha) / (n_p + alpha * v), (q + alpha) / (n_q + alpha * v)
        terms = np.where(seen & (p_a > 0), p_a * np.log(p_a / q_a), 0.0)
    return np.where((n_p > 0) & (n_q > 0), np.maximum(terms.sum(-1, keepdims=True), 0.0), np.nan)[..., 0]


def total_variation(p_counts: Numbers, q_counts: Numbers) -> Any:
    """Total variation 1/2 sum |p - q| between two samples of counts, in [0, 1]; NaN where a side is empty.

    >>> float(total_variation([3, 1], [1, 3]))
    0.5
    """
    p, q = np.asarray(p_counts, dtype=float), np.asarray(q_counts, dtype=float)
    with np.errstate(invalid="ignore"):
        return 0.5 * np.abs(p / p.sum(-1, keepdims=True) - q / q.sum(-1, keepdims=True)).sum(-1)


def entropy(counts: Numbers, *, miller_madow: bool = False) -> Any:
    """Plug-in entropy -sum p ln p of a sample of counts, in nats; NaN where it is empty.

    `miller_madow` adds the first-order bias correction (seen answers - 1) / 2n (Miller 1955).

    >>> round(float(entropy([5, 5])), 4)
    0.6931
    """
    c = np.asarray(counts, dtype=float)
    n = c.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = c / n[..., None]
        plain = -np.where(c > 0, p * np.log(p), 0.0).sum(-1) + 0.0
        correction = ((c > 0).sum(-1) - 1) / (2 * n) if miller_madow else 0.0
    return np.where(n > 0, plain + correction, np.nan)[()]


def wilson_interval(k: Numbers, n: Numbers, *, level: float = 0.95) -> Interval:
    """Score interval of a proportion k / n (Wilson 1927), elementwise; NaN where n is 0.

    >>> [round(float(x), 3) for x in wilson_interval(8, 10)]
    [0.49, 0.943]
    """
    k, n = np.asarray(k, dtype=float), np.asarray(n, dtype=float)
    z = two_sided_z(level)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = k / n
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Interval(np.clip(middle - half, 0.0, p)[()], np.clip(middle + half, p, 1.0)[()])


def difference_interval(k1: Numbers, n1: Numbers, k2: Numbers, n2: Numbers, *, level: float = 0.95) -> Interval:
    """Interval of k1 / n1 - k2 / n2 for independent samples: Newcombe's hybrid score method (1998, method 10).

    low = d - sqrt((p1 - l1)^2 + (u2 - p2)^2), high = d + sqrt((u1 - p1)^2 + (p2 - l2)^2), with Wilson's l and u.

    >>> [round(float(x), 4) for x in difference_interval(56, 70, 48, 80)]
    [0.0524, 0.3339]
    """
    first, second = wilson_interval(k1, n1, level=level), wilson_interval(k2, n2, level=level)
    with np.errstate(divide="ignore", invalid="ignore"):
        p1, p2 = np.asarray(k1, dtype=float) / np.asarray(n1), np.asarray(k2, dtype=float) / np.asarray(n2)
    low = p1 - p2 - np.hypot(p1 - first.low, second.high - p2)
    return Interval(low, p1 - p2 + np.hypot(first.high - p1, p2 - second.low))


def fisher_p(k1: Numbers, n1: Numbers, k2: Numbers, n2: Numbers) -> Any:
    """Two-sided Fisher exact p-value that two independent proportions are equal; NaN where a sample is empty.

    The sum of the hypergeometric probabilities of all tables as unlikely as the observed one. Its real level is 2 to 4
    % at a nominal 5 %, the margin that keeps `anchors(fdr)` below its rate; Boschloo's test would gain 4 to 10 points
    of power at n = 100 and use that margin up.

    >>> round(float(fisher_p(1, 10, 9, 10)), 6)
    0.001093
    """
    k1, n1, k2, n2 = np.broadcast_arrays(*(np.asarray(x, dtype=int) for x in (k1, n1, k2, n2)))
    cells = zip(k1.ravel(), n1.ravel(), k2.ravel(), n2.ravel(), strict=True)
    return np.array([_fisher(*map(int, cell)) for cell in cells], dtype=float).reshape(k1.shape)[()]


@lru_cache(maxsize=1 << 14)
def _fisher(k1: int, n1: int, k2: int, n2: int) -> float:
    if not (n1 and n2):
        return float("nan")
    x = np.arange(max(0, k1 + k2 - n2), min(n1, k1 + k2) + 1)
    log = _log_choose(n1)[x] + _log_choose(n2)[k1 + k2 - x]
    pmf = np.exp(log - log.max())
    return float(pmf[pmf <= pmf[k1 - x[0]] * (1 + 1e-7)].sum() / pmf.sum())


@lru_cache(maxsize=512)
def _log_choose(n: int) -> Float[np.ndarray, " k"]:
    """ln C(n, k) for k = 0..n."""
    log = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    return log[n] - log - log[::-1]


def permutation_p(
    first: Numbers,
    second: Numbers,
    statistic: Statistic = kl_divergence,
    *,
    resamples: int = 40_000,
    enough: int = 20,
    assurance: float | None = None,
    seed: Seed = 0,
) -> float:
    """P-value of `statistic(first, second)` when the labels of two samples of answers are exchangeable.

    Splits of the pooled counts are hypergeometric. Two answers: summed exactly. Otherwise drawn until `enough` splits
    reach the observed value, p = enough / draws (Besag & Clifford 1991), or all are drawn, p = (hits + 1) / (resamples
    + 1); both keep the level. With `assurance` the p drawn is replaced by its upper confidence limit at that level
    (Clopper & Pearson 1934), so that simulation error cannot make a discovery. `statistic` works on the last axis. NaN
    where a side is empty.

    >>> permutation_p([10, 0], [0, 10]) < 0.001, permutation_p([5, 5], [5, 5])
    (True, 1.0)
    """
    a, b = _seen(first, second)
    if not (a.sum() and b.sum()):
        return float("nan")
    pooled, n_a = a + b, int(a.sum())
    observed = float(statistic(a, b))
    threshold = observed - 1e-9 * max(1.0, abs(observed))
    if len(pooled) == 1:
        return 1.0
    if len(pooled) == 2:
        return _exact_split_p(pooled, n_a, statistic, threshold)
    rng, hits, drawn, batch = np.random.default_rng(seed), 0, 0, 500
    while drawn < resamples:
        split = rng.multivariate_hypergeometric(pooled, n_a, size=min(batch, resamples - drawn), method="marginals")
        reached = np.flatnonzero(np.asarray(statistic(split, pooled - split)) >= threshold)
        if hits + len(reached) >= enough:
            draws = drawn + int(reached[enough - hits - 1]) + 1
            return enough / draws if assurance is None else _upper_limit(enough, draws - enough, assurance)
        hits, drawn, batch = hits + len(reached), drawn + len(split), batch * 4
    return (hits + 1) / (resamples + 1) if assurance is None else _upper_limit(hits + 1, resamples - hits, assurance)


def _seen(first: Numbers, second: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Both samples as whole counts of the answers that either has."""
    a, b = (np.asarray(x, dtype=int) for x in (first, second))
    return a[(a + b) > 0], b[(a + b) > 0]


def _upper_limit(hits: int, misses: int, assurance: float) -> float:
    from scipy.special import betaincinv

    return float(betaincinv(hits, misses, assurance)) if misses else 1.0


def _exact_split_p(pooled: np.ndarray, n_a: int, statistic: Statistic, threshold: float) -> float:
    k = np.arange(max(0, n_a - int(pooled[1])), min(n_a, int(pooled[0])) + 1)
    split = np.stack([k, n_a - k], -1)
    log = _log_choose(int(pooled[0]))[k] + _log_choose(int(pooled[1]))[n_a - k]
    pmf = np.exp(log - log.max())
    return float(min(1.0, pmf[np.asarray(statistic(split, pooled - split)) >= threshold].sum() / pmf.sum()))


def null_floor(
    first: Numbers,
    second: Numbers,
    statistic: Statistic = kl_divergence,
    *,
    resamples: int = 400,
    seed: Seed = 0,
) -> float:
    """Mean of `statistic` when samples of these sizes both come from the pooled distribution (parametric bootstrap).

    A divergence of finite samples is positive even where nothing differs; this is by how much. NaN where a side is
    empty.

    >>> 0.0 < null_floor([50, 50], [60, 40]) < 0.02
    True
    """
    a, b = _seen(first, second)
    if not (a.sum() and b.sum()):
        return float("nan")
    pooled = (a + b) / (a + b).sum()
    rng = np.random.default_rng(seed)
    draws = (rng.multinomial(int(side.sum()), pooled, size=resamples) for side in (a, b))
    return float(np.mean(statistic(*draws)))
