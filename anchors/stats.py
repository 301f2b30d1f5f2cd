"""The statistics behind every number: divergences, intervals, tests and corrections, on numpy alone.

1. A sample of answers is a vector of counts [answer]; everything that resamples draws count vectors, never single
   rollouts. Divergences and entropies reduce the last axis and broadcast over the others.
2. Randomness comes from `seed`, an int or a numpy Generator; the same seed gives the same numbers.
3. An empty sample gives NaN (not measured), never 0.
4. scipy is imported on use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

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
    z = _z(level)
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
    a, b = (np.asarray(x, dtype=int) for x in (first, second))
    n_a, n_b = int(a.sum()), int(b.sum())
    if not (n_a and n_b):
        return float("nan")
    pooled = (a + b)[(a + b) > 0]
    observed = float(statistic(a[(a + b) > 0], b[(a + b) > 0]))
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
    a, b = (np.asarray(x, dtype=int) for x in (first, second))
    if not (a.sum() and b.sum()):
        return float("nan")
    pooled = (a + b)[(a + b) > 0] / (a.sum() + b.sum())
    rng = np.random.default_rng(seed)
    draws = (rng.multinomial(int(side.sum()), pooled, size=resamples) for side in (a, b))
    return float(np.mean(statistic(*draws)))


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


def sign_flip_p(values: Numbers, *, resamples: int = 50_000, seed: Seed = 0) -> float:
    """Two-sided p-value that values, one a trace, are symmetric around 0: sign flips with as large a |mean|.

    Exact up to 16 values (2^16 flips), else Monte Carlo with the +1 correction. NaN without values.

    >>> sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0])
    0.0625
    """
    x = np.asarray(values, dtype=float)
    x = x[~np.isnan(x)]
    if not len(x):
        return float("nan")
    threshold = abs(x.sum()) - 1e-9 * np.abs(x).sum()
    if len(x) <= 16:
        sums = np.zeros(1)
        for value in x:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= threshold))
    signs = np.random.default_rng(seed).integers(0, 2, size=(resamples, len(x)), dtype=np.int8) * 2 - 1
    return float((np.sum(np.abs(signs @ x) >= threshold) + 1) / (resamples + 1))


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


def benjamini_hochberg(p: Numbers, *, fdr: float = 0.05) -> Bool[np.ndarray, " test"]:
    """Which tests are rejected at false-discovery rate `fdr` (Benjamini & Hochberg 1995); NaN was not tested.

    >>> benjamini_hochberg([0.01, 0.02, 0.04, 0.9], fdr=0.05).tolist()
    [True, True, False, False]
    """
    p = np.asarray(p, dtype=float)
    ranked = np.sort(p[~np.isnan(p)])
    below = np.flatnonzero(ranked <= fdr * np.arange(1, len(ranked) + 1) / max(len(ranked), 1))
    return p <= (ranked[below[-1]] if len(below) else -1.0)


def holm(p: Numbers, *, level: float = 0.05) -> Bool[np.ndarray, " test"]:
    """Which tests are rejected at family-wise error `level` (Holm 1979); NaN was not tested.

    >>> holm([0.01, 0.02, 0.04, 0.9]).tolist()
    [True, False, False, False]
    """
    p = np.asarray(p, dtype=float)
    ranked = np.sort(p[~np.isnan(p)])
    above = np.flatnonzero(ranked > level / np.arange(len(ranked), 0, -1))
    first = above[0] if len(above) else len(ranked)
    return p <= (ranked[first - 1] if first else -1.0)


def spearman(x: Numbers, y: Numbers, *, level: float = 0.95) -> Correlation:
    """Spearman's rank correlation with its interval; pairs with a NaN are dropped.

    Interval tanh(atanh r -+ z sqrt((1 + r^2 / 2) / (n - 3))) (Bonett & Wright 2000), p from Student's t. Everything is
    NaN with fewer than 4 pairs or a constant side.

    >>> spearman([1, 2, 3, 4, 5], [1, 3, 2, 4, 5]).value
    0.9
    """
    return partial_spearman(x, y, [], level=level)


def partial_spearman(
    x: Numbers,
    y: Numbers,
    covariates: Sequence[Numbers],
    *,
    level: float = 0.95,
) -> Correlation:
    """Spearman's correlation of x and y with the ranks of `covariates` regressed out of both ranks.

    Interval and p as in `spearman`, with n less the number of covariates.

    >>> round(partial_spearman([1, 3, 2, 5, 4, 6], [1, 3, 2, 5, 4, 6], [[1, 2, 3, 4, 5, 6]]).value, 6)
    1.0
    """
    from scipy.stats import rankdata

    columns = np.array([np.asarray(c, dtype=float) for c in (x, y, *covariates)])
    columns = columns[:, ~np.isnan(columns).any(0)]
    n, k = columns.shape[1], len(columns) - 2
    if n - k < 4:
        return Correlation(np.nan, np.nan, np.nan, np.nan, n)
    ranks = rankdata(columns, axis=1) - (n + 1) / 2
    basis = ranks[2:].T
    a, b = (r - basis @ np.linalg.lstsq(basis, r, rcond=None)[0] if k else r for r in ranks[:2])
    scale = np.sqrt((a @ a) * (b @ b))
    if scale < 1e-9 * n**3:
        return Correlation(np.nan, np.nan, np.nan, np.nan, n)
    return _correlation(float(np.clip(round(a @ b / scale, 12), -1, 1)), n, k, level)


def _correlation(r: float, n: int, k: int, level: float) -> Correlation:
    from scipy.special import stdtr

    m = n - k
    # A perfect rank order would have no width: move it halfway to the closest imperfect one (continuity correction).
    edge = 1 - 6 / (m * (m**2 - 1))
    r_in = float(np.clip(r, -edge, edge))
    half = _z(level) * np.sqrt((1 + r_in**2 / 2) / (m - 3))
    low, high = np.tanh(np.arctanh(r_in) - half), np.tanh(np.arctanh(r_in) + half)
    p = 2 * stdtr(m - 2, -abs(r_in) * np.sqrt((m - 2) / (1 - r_in**2)))
    return Correlation(r, min(float(low), r), max(float(high), r), float(p), n)


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; a confidence level lies between 0 and 1 (use 0.95)")
    return NormalDist().inv_cdf((1 + level) / 2)
