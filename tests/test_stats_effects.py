"""Equivalence, ratios, trends and corrections, against scipy, statsmodels, enumeration and their error rates."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from anchors import stats


def se(rate, n):
    return math.sqrt(rate * (1 - rate) / n)


def test_sign_flips_keep_their_level_for_any_symmetric_noise():
    rng, n = np.random.default_rng(0), 1500
    draws = {"cauchy": rng.standard_cauchy((n, 9)), "signs": rng.choice([-1.0, 0.0, 1.0], (n, 9))}
    for values in draws.values():
        p = np.array([stats.sign_flip_p(row) for row in values])
        assert 0.01 < (p <= 0.05).mean() <= 0.05 + 3 * se(0.05, n)


def test_tost_agrees_with_scipy():
    rng = np.random.default_rng(1)
    for n, margin, level in itertools.product((2, 5, 30), (0.1, 0.5), (0.05, 0.1)):
        x = rng.normal(0.1, 0.3, n)
        sides = (
            scipy.stats.ttest_1samp(x, -margin, alternative="greater").pvalue,
            scipy.stats.ttest_1samp(x, margin, alternative="less").pvalue,
        )
        found = stats.tost([*x, np.nan], margin, level=level)
        assert found.p == pytest.approx(max(sides))
        assert found.equivalent == (-margin < found.low and found.high < margin) == (max(sides) <= level)
        expected = scipy.stats.ttest_1samp(x, 0).confidence_interval(1 - 2 * level)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
        assert found.value == pytest.approx(x.mean()) and found.traces == n


def test_tost_agrees_with_statsmodels():
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    x = np.random.default_rng(2).normal(0.02, 0.1, 14)
    expected = weightstats.DescrStatsW(x).ttost_mean(-0.08, 0.08)[0]
    assert stats.tost(x, 0.08).p == pytest.approx(expected)


@pytest.mark.parametrize("at", [0.2, -0.2])
def test_tost_keeps_its_level_at_the_margin_and_has_power_inside(at):
    rng, n = np.random.default_rng(3), 2000
    wrong = [stats.tost(row, 0.2).equivalent for row in rng.normal(at, 0.15, (n, 12))]
    assert 0.05 - 3 * se(0.05, n) <= np.mean(wrong) <= 0.05 + 3 * se(0.05, n)
    right = [stats.tost(row, 0.2).equivalent for row in rng.normal(0, 0.15, (200, 12))]
    assert np.mean(right) > 0.9


def test_tost_of_odd_input():
    assert stats.tost([0.1, 0.1, 0.1], 0.2)[:2] == (pytest.approx(0.1), 0.0)
    assert stats.tost([0.1, 0.1, 0.1], 0.1).p == stats.tost([0.5, 0.5], 0.5).p == 1.0
    assert stats.tost([0.0, 0.0], 0.1).equivalent
    assert not stats.tost([0.5, 0.5], 0.2).equivalent
    lone = stats.tost([0.0, np.nan], 1.0)
    assert np.isnan(lone.p) and lone.equivalent is False and lone.traces == 1
    assert np.isnan(stats.tost([], 1.0).value)
    for margin in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="margin above 0"):
            stats.tost([1.0, 2.0], margin)
    with pytest.raises(ValueError, match=r"level is 0\.95"):
        stats.tost([1.0, 2.0], 1.0, level=0.95)


def test_fieller_is_all_ratios_a_t_test_does_not_reject():
    rng = np.random.default_rng(4)
    for n, level in itertools.product((4, 12, 40), (0.9, 0.95)):
        d = rng.normal(1.0, 0.3, n)
        a = 0.6 * d + rng.normal(0, 0.3, n)
        found = stats.fieller([*a, 1.0, np.nan], [*d, np.nan, 2.0], level=level)

        def rejects(ratio, a=a, d=d, level=level):
            return scipy.stats.ttest_1samp(a - ratio * d, 0).pvalue - (1 - level)

        low = scipy.optimize.brentq(rejects, found.value - 20, found.value)
        high = scipy.optimize.brentq(rejects, found.value, found.value + 20)
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
        assert found.value == pytest.approx(a.mean() / d.mean()) and found.traces == n
        flipped = stats.fieller(a, -d, level=level)
        assert (flipped.low, flipped.high) == pytest.approx((-high, -low), abs=1e-6)


def test_ratios_are_undefined_where_the_denominator_may_be_zero():
    rng = np.random.default_rng(5)
    d = rng.normal(0.05, 1.0, 10)
    low, high = stats.t_interval(d)
    assert low < 0 < high
    for ratio in (stats.fieller, stats.paired_ratio_bootstrap):
        assert np.isnan(ratio(d + 1, d)[:3]).all()
        assert np.isnan(ratio([1.0], [1.0])[:3]).all() and ratio([1.0], [1.0]).traces == 1
        assert np.isnan(ratio([1.0, np.nan], [1.0, 1.0]).value)
        assert ratio([1.0, 2.0, 3.0], [2.0, 4.0, 6.0], level=0.5)[:3] == pytest.approx((0.5, 0.5, 0.5))
        with pytest.raises(ValueError, match="2 numerators and 1 denominators"):
            ratio([1.0, 2.0], [1.0])


def test_fieller_covers():
    rng, n, hits = np.random.default_rng(6), 3000, 0
    for d, noise in zip(rng.normal(1.0, 0.5, (n, 15)), rng.normal(0, 0.3, (n, 15)), strict=True):
        found = stats.fieller(0.4 * d + noise, d)
        hits += found.low <= 0.4 <= found.high
    assert 0.93 <= hits / n <= 0.97


def test_the_paired_bootstrap_of_a_ratio_covers_and_uses_the_pairing():
    rng, n, hits, widths = np.random.default_rng(7), 500, 0, []
    for _ in range(n):
        d = rng.normal(1.0, 0.5, 40)
        a = 0.4 * d + rng.normal(0, 0.2, 40)
        found, exact = stats.paired_ratio_bootstrap(a, d, resamples=400, seed=rng), stats.fieller(a, d)
        hits += found.low <= 0.4 <= found.high
        widths.append((found.high - found.low) / (exact.high - exact.low))
    assert 0.91 <= hits / n <= 0.975
    assert 0.85 < np.mean(widths) < 1.05
    a, d = rng.normal(1, 0.2, (2, 30))
    assert stats.paired_ratio_bootstrap(a, d, seed=1) == stats.paired_ratio_bootstrap(a, d, seed=1)
    shared = stats.paired_ratio_bootstrap(0.5 * d, d)
    assert shared.high - shared.low < 1e-9


def page_l(rows):
    return sum((j + 1) * r for row in rows for j, r in enumerate(scipy.stats.rankdata(row)))


def test_page_agrees_with_enumeration_and_scipy():
    x = np.array([[0.1, 0.5, 0.4], [0.2, 0.3, 0.9], [0.6, 0.1, 0.7]])
    orders = list(itertools.permutations([1, 2, 3]))
    null = np.array([page_l(rows) for rows in itertools.product(orders, repeat=3)])
    found = stats.page_trend(x)
    assert found.statistic == page_l(x)
    assert found.p == pytest.approx(np.mean(null >= found.statistic))
    assert 0 < found.p < 1 and found.blocks == 3
    rng = np.random.default_rng(8)
    for blocks, levels in ((4, 4), (30, 4)):
        x = rng.normal(size=(blocks, levels))
        order = rng.permutation(levels).tolist()
        ranks = np.argsort(order) + 1
        expected = scipy.stats.page_trend_test(x, predicted_ranks=ranks)
        found = stats.page_trend([*x, np.full(levels, np.nan)], order)
        assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))


def test_page_keeps_its_level_and_is_one_sided():
    rng, n = np.random.default_rng(9), 400
    p = np.array([stats.page_trend(x).p for x in rng.normal(size=(n, 8, 4))])
    assert 0.05 - 3 * se(0.05, n) <= (p <= 0.05).mean() <= 0.05 + 3 * se(0.05, n)
    rising = np.arange(4) + rng.normal(0, 0.5, (8, 4))
    assert stats.page_trend(rising).p < 0.001
    assert stats.page_trend(rising, [3, 2, 1, 0]).p > 0.99
    tied = np.array([stats.page_trend(x).p for x in rng.integers(0, 3, (n, 8, 4))])
    assert (tied <= 0.05).mean() <= 0.05 + 3 * se(0.05, n)


def test_page_refuses_what_has_no_order():
    assert np.isnan(stats.page_trend([[1.0, 2.0, 3.0], [1.0, np.nan, 2.0]]).p)
    with pytest.raises(ValueError, match="at least 3 levels"):
        stats.page_trend([[1.0, 2.0], [2.0, 3.0]])
    with pytest.raises(ValueError, match=r"order is \[1, 2, 3\]"):
        stats.page_trend([[1.0, 2.0, 3.0]], [1, 2, 3])


def observations(rng, groups, slope, spread):
    levels = np.tile(np.arange(4.0), groups)
    member = np.repeat(np.arange(groups), 4)
    base, slopes = rng.normal(0, 0.5, groups)[member], rng.normal(slope, spread, groups)[member]
    return levels, base + slopes * levels + rng.normal(0, 0.3, len(levels)), member


def test_slope_agrees_with_a_plain_bootstrap():
    rng = np.random.default_rng(10)
    full = observations(rng, 15, -0.2, 0.1)
    kept = (rng.random(60) < 0.3 + 0.2 * (full[2] % 3)) | (full[0] == 0)
    levels, values, member = (column[kept] for column in full)
    found = stats.slope_interval([*levels, 1.0], [*values, np.nan], [*member, 99], resamples=4000)
    assert found.value == pytest.approx(np.polyfit(levels, values, 1)[0]) and found.groups == 15
    draws = []
    for picked in rng.integers(0, 15, (4000, 15)):
        rows = np.concatenate([np.flatnonzero(member == g) for g in picked])
        draws.append(scipy.stats.linregress(levels[rows], values[rows]).slope if len(rows) else np.nan)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.012)
    moved = stats.slope_interval(levels + 1e6, values - 1e6, member, resamples=4000)
    assert moved == pytest.approx(found, abs=1e-6)


def test_slope_redraws_fit_their_own_intercept():
    """Two groups far apart: a redraw is the first alone (slope 1), both, or the second alone (slope 3)."""
    levels, values = [0.0, 1.0, 2.0, 10.0, 11.0, 12.0], [5.0, 6.0, 7.0, 0.0, 3.0, 6.0]
    found = stats.slope_interval(levels, values, ["a"] * 3 + ["b"] * 3)
    assert found[:3] == pytest.approx((np.polyfit(levels, values, 1)[0], np.polyfit(levels, values, 1)[0], 3.0))
    high = stats.slope_interval(levels, [5.0, 6.0, 7.0, 50.0, 53.0, 56.0], ["a"] * 3 + ["b"] * 3)
    assert high.low == pytest.approx(1.0)


def test_slope_covers_because_whole_groups_are_redrawn():
    """Every trace stands at one level, so its observations tell the slope less than as many traces would."""
    rng, n, hits, rows = np.random.default_rng(11), 250, 0, 0
    levels, member = np.repeat(np.arange(40) % 4.0, 4), np.repeat(np.arange(40), 4)
    for _ in range(n):
        values = -0.2 * levels + rng.normal(0, 0.5, 40)[member] + rng.normal(0, 0.3, len(levels))
        found = stats.slope_interval(levels, values, member, resamples=400, seed=rng)
        alone = stats.slope_interval(levels, values, np.arange(len(levels)), resamples=400, seed=rng)
        hits += found.low <= -0.2 <= found.high
        rows += alone.low <= -0.2 <= alone.high
    assert 0.90 <= hits / n <= 0.98
    assert rows / n < 0.8


def test_slope_of_odd_input():
    assert np.isnan(stats.slope_interval([1.0, 1.0], [0.0, 1.0], ["a", "b"])[:3]).all()
    assert stats.slope_interval([0.0, 1.0], [0.0, 1.0], ["a", "a"]).groups == 1
    assert np.isnan(stats.slope_interval([], [], []).value)
    two = stats.slope_interval([0.0, 1.0], [0.0, 2.0], ["a", "b"])
    assert two[:3] == pytest.approx((2.0, 2.0, 2.0))
    with pytest.raises(ValueError, match="2 levels, 1 values, 2 groups"):
        stats.slope_interval([0.0, 1.0], [0.0], ["a", "b"])


@pytest.mark.slow
def test_adjusted_p_values_agree_with_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = np.random.default_rng(12)
    for _ in range(20):
        p = np.concatenate([rng.beta(0.3, 1, 12), [0.0, 1.0, 0.02, 0.02]])
        holm, bh = (multitest.multipletests(p, method=m)[1] for m in ("holm", "fdr_bh"))
        assert np.allclose(stats.holm_adjusted(p), holm)
        assert np.allclose(stats.benjamini_hochberg_adjusted(p), bh)
        untested = np.insert(p, 3, np.nan)
        assert np.isnan(stats.holm_adjusted(untested)[3])
        assert np.allclose(np.delete(stats.holm_adjusted(untested), 3), holm)
        assert np.allclose(np.delete(stats.benjamini_hochberg_adjusted(untested), 3), bh)


def test_adjusted_p_values_decide_as_the_corrections_do():
    rng = np.random.default_rng(13)
    for _ in range(50):
        p, level = rng.beta(0.3, 1, 15), rng.uniform(0.01, 0.3)
        assert ((stats.holm_adjusted(p) <= level) == stats.holm(p, level=level)).all()
        assert ((stats.benjamini_hochberg_adjusted(p) <= level) == stats.benjamini_hochberg(p, fdr=level)).all()
    assert stats.holm_adjusted([]).size == stats.benjamini_hochberg_adjusted([]).size == 0


def test_holm_keeps_the_family_wise_error():
    rng, n = np.random.default_rng(14), 2000
    wrong = [(stats.holm_adjusted(row) <= 0.05).any() for row in rng.uniform(size=(n, 8))]
    assert 0.03 <= np.mean(wrong) <= 0.05 + 3 * se(0.05, n)


def test_relative_equivalence_keeps_its_level_at_the_margin_and_finds_what_lies_within():
    """The true mean is exactly a quarter of the reference's: equivalence may be said 5 % of the time."""
    rng, said, found = np.random.default_rng(0), 0, 0
    for _ in range(2000):
        reference = rng.normal(1.0, 0.5, 20)
        said += stats.relative_tost(rng.normal(0.25, 0.3, 20), reference, 0.25).equivalent
        found += stats.relative_tost(rng.normal(0.0, 0.2, 20), reference, 0.25).equivalent
    assert said / 2000 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)
    assert found / 2000 > 0.9


def test_relative_equivalence_refuses_a_margin_that_is_none():
    with pytest.raises(ValueError, match="margin is 0"):
        stats.relative_tost([0.1, 0.2], [1.0, 1.0], 0.0)
