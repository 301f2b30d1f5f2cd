"""Statistics against brute force, scipy and simulation of what they promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from anchors import stats


def naive_kl(p, q, alpha):
    support = [i for i in range(len(p)) if p[i] + q[i] > 0]
    n_p, n_q, v = sum(p), sum(q), len(support)
    total = 0.0
    for i in support:
        a, b = (p[i] + alpha) / (n_p + alpha * v), (q[i] + alpha) / (n_q + alpha * v)
        total += a * math.log(a / b)
    return max(total, 0.0)


@pytest.mark.parametrize("alpha", [1e-9, 0.5, 1.0])
def test_kl_equals_its_formula_and_vectorises(alpha):
    rng = np.random.default_rng(0)
    p, q = rng.integers(0, 5, (40, 6)), rng.integers(0, 5, (40, 6))
    expected = [naive_kl(a, b, alpha) for a, b in zip(p.tolist(), q.tolist(), strict=True)]
    assert np.allclose(stats.kl_divergence(p, q, alpha=alpha), expected)


def test_divergences_of_an_empty_side_are_not_measured():
    assert np.isnan(stats.kl_divergence([0, 0], [1, 2]))
    assert np.isnan(stats.total_variation([0, 0], [1, 2]))
    assert np.isnan(stats.entropy([0, 0]))
    assert stats.kl_divergence([3, 4], [3, 4]) == 0
    assert stats.kl_divergence([3, 4], [7, 0], alpha=0.0) == np.inf
    with pytest.raises(ValueError, match=r"alpha is -1\.0"):
        stats.kl_divergence([1], [1], alpha=-1.0)


def test_released_null_levels_are_reproduced():
    """methods.md 1.4: two samples of 100 of one distribution, alpha 1e-9: mean KL .010 with 2 answers."""
    floor = stats.null_floor([50, 50], [50, 50], lambda a, b: stats.kl_divergence(a, b, alpha=1e-9), resamples=4000)
    assert floor == pytest.approx(0.010, abs=0.001)


def test_entropy_agrees_with_scipy():
    counts = np.random.default_rng(1).integers(0, 9, (20, 5)) + np.eye(20, 5, dtype=int)
    assert np.allclose(stats.entropy(counts), scipy.stats.entropy(counts, axis=1))
    assert stats.entropy([5, 5], miller_madow=True) == pytest.approx(math.log(2) + 1 / 20)


def test_wilson_agrees_with_scipy():
    for k, n in [(0, 5), (3, 7), (10, 10), (44, 100)]:
        expected = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        assert np.allclose(stats.wilson_interval(k, n), (expected.low, expected.high))
    assert np.isnan(stats.wilson_interval(0, 0)).all()


def coverage(interval, n1, n2, ps):
    """Exact coverage of an interval for p1 - p2, weighted over all tables."""
    k1, k2 = np.meshgrid(np.arange(n1 + 1), np.arange(n2 + 1), indexing="ij")
    low, high = interval(k1, n1, k2, n2)
    found = []
    for p1, p2 in ps:
        weight = np.outer(scipy.stats.binom.pmf(range(n1 + 1), n1, p1), scipy.stats.binom.pmf(range(n2 + 1), n2, p2))
        found.append(weight[(low <= p1 - p2) & (p1 - p2 <= high)].sum())
    return np.array(found)


@pytest.mark.parametrize("sizes", [(100, 100), (50, 100), (20, 100), (30, 30)])
def test_intervals_of_proportions_cover_exactly_as_promised(sizes):
    ps = np.random.default_rng(2).uniform(0.05, 0.95, (120, 2))
    found = coverage(stats.difference_interval, *sizes, ps)
    assert 0.94 <= found.mean() <= 0.97
    assert found.min() > 0.91


def test_wilson_covers():
    n, ps = 100, np.linspace(0.05, 0.95, 60)
    low, high = stats.wilson_interval(np.arange(n + 1), n)
    found = [scipy.stats.binom.pmf(range(n + 1), n, p)[(low <= p) & (p <= high)].sum() for p in ps]
    assert 0.94 <= np.mean(found) <= 0.965


def test_fisher_agrees_with_scipy():
    rng = np.random.default_rng(3)
    n1, n2 = rng.integers(1, 60, 50), rng.integers(1, 60, 50)
    k1, k2 = rng.integers(0, n1 + 1), rng.integers(0, n2 + 1)
    expected = [
        scipy.stats.fisher_exact([[a, n - a], [b, m - b]]).pvalue for a, n, b, m in zip(k1, n1, k2, n2, strict=True)
    ]
    assert np.allclose(stats.fisher_p(k1, n1, k2, n2), expected)
    assert np.isnan(stats.fisher_p(0, 0, 1, 2))


@pytest.mark.parametrize("sizes", [(100, 100), (10, 100), (30, 30)])
def test_fisher_keeps_its_level(sizes):
    n1, n2 = sizes
    k1, k2 = np.meshgrid(np.arange(n1 + 1), np.arange(n2 + 1), indexing="ij")
    p = stats.fisher_p(k1, n1, k2, n2)
    for rate, level in itertools.product(np.linspace(0.02, 0.98, 25), (0.05, 0.01, 0.0025)):
        weight = np.outer(*(scipy.stats.binom.pmf(range(n + 1), n, rate) for n in sizes))
        assert weight[p <= level].sum() <= level


@pytest.mark.parametrize("alpha", [1e-9, 0.5])
def test_permutation_keeps_its_level(alpha):
    rng, n = np.random.default_rng(4), 1500
    p = np.empty(n)
    for i in range(n):
        rates = rng.dirichlet(np.full(rng.integers(2, 7), 0.8))
        sides = rng.multinomial(100, rates), rng.multinomial(rng.integers(10, 101), rates)
        p[i] = stats.permutation_p(*sides, lambda a, b: stats.kl_divergence(a, b, alpha=alpha), seed=rng)
    for level in (0.2, 0.05, 0.01):
        assert (p <= level).mean() <= level + 2.5 * math.sqrt(level * (1 - level) / n)
    assert (p <= 0.05).mean() > 0.02


def test_permutation_with_two_answers_is_exact():
    """Equal sizes: a KL orders the tables as Fisher's test does."""
    for a, b in [(50, 70), (20, 22), (3, 40)]:
        expected = scipy.stats.fisher_exact([[a, 100 - a], [b, 100 - b]]).pvalue
        assert stats.permutation_p([a, 100 - a], [b, 100 - b], stats.total_variation) == pytest.approx(expected)


def test_permutation_agrees_with_enumeration():
    first, second = np.array([3, 1, 0]), np.array([0, 1, 3])
    labels = np.repeat([0, 1, 2], first + second)
    observed, hits, total = float(stats.kl_divergence(first, second)), 0, 0
    for picked in itertools.combinations(range(8), 4):
        a = np.bincount(labels[list(picked)], minlength=3)
        total += 1
        hits += stats.kl_divergence(a, first + second - a) >= observed - 1e-12
    found = stats.permutation_p(first, second, enough=10**6, resamples=40_000)
    assert found == pytest.approx(hits / total, abs=0.004)


def test_seeds_decide_everything():
    a, b = [20, 30, 50], [30, 30, 40]
    for function in (stats.permutation_p, stats.null_floor):
        assert function(a, b, seed=5) == function(a, b, seed=5)
    kl = stats.kl_divergence
    assert stats.bootstrap_interval([a, b], kl, seed=5) == stats.bootstrap_interval([a, b], kl, seed=5)
    assert stats.bootstrap_interval([a, b], kl, seed=5) != stats.bootstrap_interval([a, b], kl, seed=6)


@pytest.mark.parametrize("answers", [2, 3, 5])
def test_shifted_bootstrap_of_a_divergence_covers(answers):
    rng, n, hits = np.random.default_rng(answers), 400, 0
    for _ in range(n):
        p, q = 0.95 * rng.dirichlet(np.ones(answers), 2) + 0.05 / answers
        sides = [rng.multinomial(100, p), rng.multinomial(100, q)]
        low, high = stats.bootstrap_interval(sides, stats.kl_divergence, kind="shifted", seed=rng)
        hits += low <= (p * np.log(p / q)).sum() <= high
    assert 0.92 <= hits / n <= 0.98


def test_cluster_bootstrap_covers_and_takes_a_statistic():
    rng, n, hits = np.random.default_rng(7), 400, 0
    for _ in range(n):
        groups = [rng.normal(rng.normal(0.3, 0.2), 0.1, 5) for _ in range(30)]
        low, high = stats.cluster_bootstrap(groups, resamples=500, seed=rng)
        hits += low <= 0.3 <= high
    assert 0.91 <= hits / n <= 0.97
    groups = [[0.1, 0.2], [0.4], [0.9]]
    plain = stats.cluster_bootstrap(groups)
    same = stats.cluster_bootstrap(groups, lambda rows: float(np.mean([row.mean() for row in rows])))
    assert np.allclose(plain, same)
    with pytest.raises(ValueError, match="at least one value"):
        stats.cluster_bootstrap([])


def test_sign_flips_are_all_tried():
    x = np.array([0.3, -0.1, 0.5, 0.7, 0.2, -0.05])
    flips = [abs(np.dot(signs, x)) for signs in itertools.product([1, -1], repeat=len(x))]
    assert stats.sign_flip_p(x) == pytest.approx(np.mean(np.array(flips) >= abs(x.sum()) - 1e-12))
    large = np.random.default_rng(8).normal(0.2, 1, 40)
    assert stats.sign_flip_p(large) == pytest.approx(scipy.stats.ttest_1samp(large, 0).pvalue, abs=0.02)
    assert np.isnan(stats.sign_flip_p([]))


def test_t_interval_agrees_with_scipy():
    x = np.random.default_rng(9).normal(size=12)
    expected = scipy.stats.ttest_1samp(x, 0).confidence_interval()
    assert np.allclose(stats.t_interval([*x, np.nan]), (expected.low, expected.high))


@pytest.mark.parametrize("seed", range(20))
def test_benjamini_hochberg_agrees_with_scipy(seed):
    p = np.random.default_rng(seed).beta(0.3, 1, 30)
    assert (stats.benjamini_hochberg(p, fdr=0.1) == (scipy.stats.false_discovery_control(p) <= 0.1)).all()


def test_corrections_ignore_what_was_not_tested():
    p = [0.01, np.nan, 0.02, 0.9]
    assert stats.benjamini_hochberg(p, fdr=0.05).tolist() == [True, False, True, False]
    assert stats.holm(p).tolist() == [True, False, True, False]
    assert not stats.benjamini_hochberg([]).size
    assert not stats.holm([np.nan]).any()


def test_holm_is_step_down_bonferroni():
    for seed in range(20):
        p = np.random.default_rng(seed).beta(0.3, 1, 15)
        order, expected = np.argsort(p), np.zeros(15, dtype=bool)
        for rank, i in enumerate(order):
            if p[i] > 0.05 / (15 - rank):
                break
            expected[i] = True
        assert (stats.holm(p) == expected).all()


def test_spearman_agrees_with_scipy_and_drops_pairs():
    rng = np.random.default_rng(10)
    x = rng.normal(size=40)
    y = np.round(x + rng.normal(size=40), 1)
    found, expected = stats.spearman([*x, np.nan, 1], [*y, 2, np.nan]), scipy.stats.spearmanr(x, y)
    assert found.value == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.n == 40
    assert found.low < found.value < found.high
    perfect = stats.spearman(range(10), range(10))
    assert perfect.value == perfect.high == 1 > perfect.low > 0
    assert np.isnan(stats.spearman([1, 1, 1, 1, 1], [1, 2, 3, 4, 5])[:4]).all()
    assert np.isnan(stats.spearman([1, 2, 3], [1, 2, 3]).value)


def test_spearman_covers():
    rng, rho, hits, n = np.random.default_rng(11), 0.5, 0, 1000
    truth = 6 / math.pi * math.asin(rho / 2)
    for _ in range(n):
        x = rng.normal(size=40)
        low, high = stats.spearman(x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=40))[1:3]
        hits += low <= truth <= high
    assert 0.93 <= hits / n <= 0.975


def test_partial_spearman_removes_a_common_cause():
    rng = np.random.default_rng(12)
    z = rng.normal(size=400)
    x, y = z + 0.5 * rng.normal(size=400), z + 0.5 * rng.normal(size=400)
    assert stats.spearman(x, y).value > 0.7
    found = stats.partial_spearman(x, y, [z])
    assert abs(found.value) < 0.15
    r = scipy.stats.spearmanr(np.stack([x, y, z], 1)).statistic
    formula = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert found.value == pytest.approx(formula)
    assert np.isnan(stats.partial_spearman(z, y, [z]).value)
