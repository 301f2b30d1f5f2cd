"""Agreement of profiles and its ceiling, against enumeration, scipy and simulations with known truth."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from anchors import stats


def se(rate, n):
    return math.sqrt(rate * (1 - rate) / n)


def noise_pairs(rng, sizes):
    return [(rng.normal(size=n), rng.normal(size=n)) for n in sizes]


def test_importing_the_statistics_imports_neither_scipy_nor_torch():
    code = "import sys, anchors.stats; sys.exit('scipy' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_listed_name_exists_and_none_is_private():
    assert all(hasattr(stats, name) and not name.startswith("_") for name in stats.__all__)


def naive_tau_b(x, y):
    pairs = list(itertools.combinations(range(len(x)), 2))
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in pairs]
    untied_x, untied_y = sum(a != 0 for a, _ in signs), sum(b != 0 for _, b in signs)
    return sum(a * b for a, b in signs) / math.sqrt(untied_x * untied_y)


def test_kendall_equals_its_formula_with_ties_and_drops_pairs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 5, 12).astype(float), rng.integers(0, 5, 12).astype(float)
        found = stats.kendall([*x, np.nan, 3], [*y, 1, np.nan])
        assert found.value == pytest.approx(naive_tau_b(x, y))
        assert found.p == pytest.approx(scipy.stats.kendalltau(x, y).pvalue)
        assert found.n == 12 and found.low < found.value < found.high
    perfect = stats.kendall(range(10), range(10))
    assert perfect.value == perfect.high == 1 > perfect.low > 0
    assert np.isnan(stats.kendall([1, 1, 1, 1, 1], [1, 2, 3, 4, 5])[:4]).all()
    assert np.isnan(stats.kendall([1, 2, 3, 4], [1, 2, 3, 4]).value)
    assert stats.kendall([1.0, np.nan], [1.0, 2.0]).n == 1


def test_kendall_covers():
    rng, rho, hits, n = np.random.default_rng(1), 0.5, 0, 600
    truth = 2 / math.pi * math.asin(rho)
    for _ in range(n):
        x = rng.normal(size=30)
        low, high = stats.kendall(x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=30))[1:3]
        hits += low <= truth <= high
    assert 0.93 <= hits / n <= 0.98


def test_trace_correlations_are_those_of_each_trace():
    pairs = noise_pairs(np.random.default_rng(2), [8, 3, 12])
    pairs[2][0][4] = np.nan
    found = stats.trace_correlations(pairs)
    assert found[0] == pytest.approx(scipy.stats.spearmanr(*pairs[0]).statistic)
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(scipy.stats.spearmanr(*(np.delete(side, 4) for side in pairs[2])).statistic)
    assert stats.trace_correlations(pairs, stats.kendall)[0] == pytest.approx(naive_tau_b(*pairs[0]))
    with pytest.raises(ValueError, match="trace 0 have shapes"):
        stats.trace_correlations([([1.0, 2.0], [1.0])])


def bca(x, level, draws):
    """Efron 1987, equation 6.8 with the jackknife's acceleration."""
    normal = scipy.stats.norm
    z0 = normal.ppf((np.mean(draws < x.mean()) + np.mean(draws <= x.mean())) / 2)
    left_out = np.array([np.delete(x, i).mean() for i in range(len(x))])
    u = left_out.mean() - left_out
    a = (u**3).sum() / (6 * (u**2).sum() ** 1.5)
    z = z0 + normal.ppf([(1 - level) / 2, (1 + level) / 2])
    return np.quantile(draws, normal.cdf(z0 + z / (1 - a * z)))


def test_mean_rank_correlation_agrees_with_its_formulas():
    rng = np.random.default_rng(3)
    r = np.tanh(rng.exponential(0.5, 14) - 0.1)
    found = stats.mean_rank_correlation([*r, np.nan], resamples=20_000)
    assert found.value == pytest.approx(r.mean()) and found.traces == 14
    draws = rng.choice(r, (20_000, 14)).mean(1)
    assert np.allclose(found.bootstrap, bca(r, 0.95, draws), atol=0.008)
    plain = stats.mean_rank_correlation(r, kind="percentile", resamples=20_000)
    assert np.allclose(plain.bootstrap, np.quantile(draws, [0.025, 0.975]), atol=0.008)
    expected = scipy.stats.ttest_1samp(np.arctanh(r), 0).confidence_interval()
    assert np.allclose(found.fisher, np.tanh([expected.low, expected.high]))
    assert found.fisher_value == pytest.approx(math.tanh(np.arctanh(r).mean()))


def test_mean_rank_correlation_of_odd_input():
    perfect = stats.mean_rank_correlation([1.0, 1.0, 0.5])
    assert np.isfinite([*perfect.bootstrap, *perfect.fisher]).all()
    assert stats.mean_rank_correlation([0.25, 0.25]).bootstrap == (0.25, 0.25)
    one = stats.mean_rank_correlation([0.3, np.nan])
    assert one.value == 0.3 and np.isnan([*one.bootstrap, *one.fisher]).all()
    assert np.isnan(stats.mean_rank_correlation([np.nan]).value)
    assert stats.mean_rank_correlation([0.1, 0.5, 0.2], seed=1) == stats.mean_rank_correlation([0.1, 0.5, 0.2], seed=1)
    with pytest.raises(ValueError, match=r"correlation is 1\.2"):
        stats.mean_rank_correlation([0.1, 1.2])
    with pytest.raises(ValueError, match="use 'bca' or 'percentile'"):
        stats.mean_rank_correlation([0.1], kind="basic")


def test_intervals_of_a_mean_correlation_cover():
    rng, n = np.random.default_rng(4), 400
    truth = np.tanh(rng.normal(0.3, 0.3, 200_000)).mean()
    hits = np.zeros(2)
    for _ in range(n):
        found = stats.mean_rank_correlation(np.tanh(rng.normal(0.3, 0.3, 25)), resamples=400, seed=rng)
        hits += [
            found.bootstrap.low <= truth <= found.bootstrap.high,
            found.fisher.low <= math.tanh(0.3) <= found.fisher.high,
        ]
    assert 0.90 <= hits[0] / n <= 0.975
    assert 0.92 <= hits[1] / n <= 0.98


def test_within_trace_permutation_agrees_with_enumeration():
    a, b = np.array([0.3, 0.1, 0.9, 0.4]), np.array([1.0, 2.0, 2.0, 0.5])
    c, d = np.array([5.0, 3.0, 4.0, 1.0]), np.array([2.0, 1.0, 4.0, 3.0])
    sums = [
        [scipy.stats.spearmanr(list(p), y).statistic for p in itertools.permutations(x)] for x, y in ((a, b), (c, d))
    ]
    null = np.add.outer(*map(np.array, sums)).ravel()
    observed = scipy.stats.spearmanr(a, b).statistic + scipy.stats.spearmanr(c, d).statistic
    expected = np.mean(np.abs(null) >= abs(observed) - 1e-9)
    assert 0.05 < expected < 0.95
    assert stats.within_trace_permutation_p([(a, b), (c, d)], resamples=40_000) == pytest.approx(expected, abs=0.01)


def test_within_trace_permutation_is_uniform_under_the_null():
    rng, n = np.random.default_rng(5), 600
    p = np.array(
        [stats.within_trace_permutation_p(noise_pairs(rng, [6, 9, 5]), resamples=199, seed=rng) for _ in range(n)]
    )
    for level in (0.05, 0.2, 0.5, 0.8):
        assert abs((p <= level).mean() - level) <= 3 * se(level, n)


def test_within_trace_permutation_sees_agreement_of_either_sign_and_only_within_traces():
    rng = np.random.default_rng(6)
    pairs = [(x, x + rng.normal(size=10)) for x in rng.normal(size=(6, 10))]
    assert stats.within_trace_permutation_p(pairs) < 0.01
    assert stats.within_trace_permutation_p([(a, -b) for a, b in pairs]) < 0.01
    same = [(a, a) for a, _ in pairs]
    assert stats.within_trace_permutation_p(same, resamples=199) == 1 / 200
    apart = [(a + 10 * i, b + 10 * i) for i, (a, b) in enumerate(noise_pairs(rng, [8] * 10))]
    assert scipy.stats.spearmanr(*map(np.concatenate, zip(*apart, strict=True))).pvalue < 1e-6
    assert stats.within_trace_permutation_p(apart) > 0.05
    assert stats.within_trace_permutation_p(pairs, seed=3) == stats.within_trace_permutation_p(pairs, seed=3)
    assert np.isnan(stats.within_trace_permutation_p([([1.0, 2.0], [1.0, 2.0])]))


def test_top_k_overlap_agrees_with_enumeration():
    a = [np.array([0.3, 0.1, 0.9, 0.4]), np.array([5.0, 3.0, 4.0, 1.0, 2.0])]
    b = [np.array([0.9, 0.1, 0.8, 0.2]), np.array([1.0, 5.0, 4.0, 3.0, 2.0])]

    def shared(x, y):
        return len({*np.argsort(x)[-2:]} & {*np.argsort(y)[-2:]})

    counts = [[shared(list(p), y) for p in itertools.permutations(x)] for x, y in zip(a, b, strict=True)]
    null = np.add.outer(*map(np.array, counts)).ravel()
    observed = sum(map(shared, a, b))
    found = stats.top_k_overlap(a, b, 2)
    assert found.value == observed / 4
    assert found.expected == pytest.approx(null.mean() / 4)
    assert found.p == pytest.approx(np.mean(null >= observed))
    assert 0 < found.p < 1 and found.traces == 2


def test_top_k_overlap_keeps_its_level_and_finds_overlap():
    rng, n = np.random.default_rng(7), 600
    p = np.array(
        [
            stats.top_k_overlap(*map(list, zip(*noise_pairs(rng, [10, 12, 30]), strict=True)), 3, seed=rng).p
            for _ in range(n)
        ]
    )
    for level in (0.05, 0.2, 0.5):
        assert (p <= level).mean() <= level + 3 * se(level, n)
    assert (p <= 0.5).mean() > 0.2
    same = list(rng.normal(size=(4, 12)))
    found = stats.top_k_overlap(same, same, 3)
    assert found.value == 1 and found.p == pytest.approx(math.comb(12, 3) ** -4.0)


def test_shared_ties_are_no_overlap():
    flat = [np.zeros(20)] * 5
    found = [stats.top_k_overlap(flat, flat, 4, seed=seed) for seed in range(100)]
    assert np.mean([f.value for f in found]) == pytest.approx(0.2, abs=0.03)
    assert np.mean([f.p <= 0.05 for f in found]) <= 0.05 + 3 * se(0.05, 100)


def test_top_k_overlap_leaves_out_what_it_cannot_measure():
    found = stats.top_k_overlap([[1, 2, 3], [1, 2, 3, np.nan]], [[3, 2, 1], [1, np.nan, 3, 4]], 2)
    assert found == stats.top_k_overlap([[1, 2, 3]], [[3, 2, 1]], 2)
    assert found.traces == 1 and found.value == 0.5
    assert np.isnan(stats.top_k_overlap([[1, 2]], [[1, 2]], 2).p)
    with pytest.raises(ValueError, match="k is 0"):
        stats.top_k_overlap([[1, 2]], [[1, 2]], 0)
    with pytest.raises(ValueError, match="a has 1 traces and b has 0"):
        stats.top_k_overlap([[1, 2]], [], 1)


def test_mean_percentile_agrees_with_scipy():
    rng = np.random.default_rng(8)
    profiles = [rng.integers(0, 6, n).astype(float) for n in (7, 12, 20)]
    anchors = [[0, 3], [5], [1, 2, 19]]
    each = [
        np.mean([scipy.stats.percentileofscore(b, b[i], kind="mean") for i in picked]) / 100
        for picked, b in zip(anchors, profiles, strict=True)
    ]
    found = stats.mean_percentile(anchors, profiles)
    assert found.value == pytest.approx(np.mean(each))
    assert (found.low, found.high) == pytest.approx(tuple(stats.t_interval(each)))
    assert found.p == stats.sign_flip_p(np.array(each) - 0.5) and found.traces == 3
    everything = stats.mean_percentile([list(range(len(b))) for b in profiles], profiles)
    assert everything.value == pytest.approx(0.5)


def test_mean_percentile_keeps_its_level_and_finds_anchors():
    rng, n = np.random.default_rng(9), 500
    p = np.array(
        [
            stats.mean_percentile([[int(i)] for i in rng.integers(0, 15, 9)], list(rng.normal(size=(9, 15)))).p
            for _ in range(n)
        ]
    )
    assert 0.05 - 3 * se(0.05, n) <= (p <= 0.05).mean() <= 0.05 + 3 * se(0.05, n)
    profiles = list(rng.normal(size=(9, 15)))
    high = stats.mean_percentile([[int(np.argmax(b))] for b in profiles], profiles)
    assert high.value == pytest.approx(14.5 / 15) and high.p == pytest.approx(2 / 2**9)


def test_mean_percentile_of_odd_input():
    found = stats.mean_percentile([[0], [1], []], [[1.0, np.nan, 2.0], [1.0, np.nan, 2.0], [1.0, 2.0]])
    assert found.traces == 1 and found.value == 0.25 and np.isnan(found.low)
    assert np.isnan(stats.mean_percentile([[]], [[1.0]]).value)
    with pytest.raises(ValueError, match="anchor 3 is none of"):
        stats.mean_percentile([[3]], [[1.0, 2.0]])
    with pytest.raises(ValueError, match="anchors of 1 traces and profiles of 2"):
        stats.mean_percentile([[0]], [[1.0], [2.0]])


def measure(rng, traces, sentences, noise, times, signal=1.0):
    """`times` noisy measurements of the same true scores, [measurement, trace, sentence]."""
    truth = rng.normal(0, signal, (traces, sentences))
    return truth + rng.normal(0, noise, (times, traces, sentences))


def test_spearman_brown_predicts_the_longer_measurement():
    rng, noise = np.random.default_rng(10), 1.5
    r = np.corrcoef(*measure(rng, 1, 200_000, noise, 2)[:, 0])[0, 1]
    for factor in (2, 5):
        longer = measure(rng, 1, 200_000, noise / math.sqrt(factor), 2)[:, 0]
        assert stats.spearman_brown(r, factor=float(factor)) == pytest.approx(np.corrcoef(*longer)[0, 1], abs=0.01)
    assert stats.spearman_brown(1.0) == 1 and stats.spearman_brown([0.0, -0.5]).tolist() == [0.0, -2.0]


def test_the_ceiling_is_what_two_models_alike_in_truth_reach():
    """Known: reliability of a whole is s^2 / (s^2 + e^2 / 2), e the noise of a half; ranks attenuate a little more."""
    rng = np.random.default_rng(11)
    halves = measure(rng, 400, 25, 1.0, 4)
    halves[2:] += rng.normal(0, 1.0, halves[2:].shape)
    writer, reader = list(zip(*halves[:2], strict=True)), list(zip(*halves[2:], strict=True))
    whole = list(zip(halves[:2].mean(0), halves[2:].mean(0), strict=True))
    found = stats.reliability_ceiling(writer, reader, stats.trace_correlations(whole))
    assert found.writer.value == pytest.approx(1 / (1 + 0.5), abs=0.03)
    assert found.reader.value == pytest.approx(1 / (1 + 1.0), abs=0.03)
    assert found.value == pytest.approx(math.sqrt(found.writer.value * found.reader.value))
    assert found.share == pytest.approx(1, abs=0.05)
    assert found.low < found.value < found.high and found.share_low < found.share < found.share_high
    assert stats.split_half_reliability(writer) == pytest.approx(found.writer)


@pytest.mark.parametrize(("rollouts", "expected"), [(20, 0.09), (50, 0.26), (100, 0.40)])
def test_the_ceiling_of_the_specification_is_reproduced(rollouts, expected):
    """systems.md T: 30 sentences, true-score sd .06, difference of two proportions of R rollouts."""
    rng = np.random.default_rng(rollouts)
    once, again = measure(rng, 300, 30, math.sqrt(0.5 / rollouts), 2, signal=0.06)
    assert stats.trace_correlations(list(zip(once, again, strict=True))).mean() == pytest.approx(expected, abs=0.04)


def test_the_interval_of_a_reliability_covers():
    rng, n, hits = np.random.default_rng(12), 150, 0
    half = stats.trace_correlations(list(zip(*measure(rng, 2500, 15, 1.0, 2), strict=True))).mean()
    for _ in range(n):
        halves = list(zip(*measure(rng, 20, 15, 1.0, 2), strict=True))
        found = stats.split_half_reliability(halves, resamples=400, seed=rng)
        hits += found.low <= stats.spearman_brown(half) <= found.high
    assert 0.89 <= hits / n <= 0.98


def test_a_ceiling_needs_two_reliable_profiles():
    rng = np.random.default_rng(13)
    good = list(zip(*measure(rng, 12, 15, 0.5, 2), strict=True))
    undefined = 0
    for _ in range(40):
        found = stats.reliability_ceiling(good, noise_pairs(rng, [15] * 12), [0.1] * 12, resamples=300, seed=rng)
        undefined += np.isnan([found.value, found.low, found.share]).all()
        assert found.writer.low > 0 and found.reader.low < found.reader.high
    assert undefined >= 35
    assert np.isnan(stats.reliability_ceiling(good, good).share)
    assert np.isnan(stats.reliability_ceiling(good[:1], good[:1]).value)
    assert np.isnan(stats.split_half_reliability([]).value)
    with pytest.raises(ValueError, match=r"\[12, 11, 12\] traces"):
        stats.reliability_ceiling(good, good[:-1], [0.1] * 12)


def test_a_share_of_a_ceiling_near_zero_is_unbounded_not_an_error():
    """At level .5 a quarter of the redraws of each side may lack reliability: together enough to reach the end."""
    rng, ends = np.random.default_rng(14), []
    for _ in range(150):
        writer, reader = (list(zip(*measure(rng, 8, 8, 2.0, 2), strict=True)) for _ in range(2))
        found = stats.reliability_ceiling(writer, reader, [0.2] * 8, level=0.5, resamples=200, seed=rng)
        ends += [] if np.isnan(found.value) else [(found.share_low, found.share, found.share_high)]
    assert not np.isnan(ends).any()
    assert np.isinf([high for _, _, high in ends]).any()
    assert np.isfinite([middle for _, middle, _ in ends]).all()
