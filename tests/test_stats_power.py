"""Power and the smallest detectable effect, against the specification's table, statsmodels and plain simulation."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from anchors import stats

EFFECTS = (0.0, 0.03, 0.05, 0.10)
TABLE = {
    (20, 20): (0.05, 0.13, 0.30, 0.86),
    (20, 50): (0.04, 0.22, 0.53, 0.98),
    (40, 50): (0.04, 0.43, 0.86, 1.0),
    (10, 100): (0.08, 0.14, 0.35, 0.89),
    (40, 100): (0.06, 0.58, 0.96, 1.0),
    (80, 100): (0.05, 0.87, 1.0, 1.0),
}
"""systems.md section T: (traces, rollouts) -> power at each of EFFECTS, 400 simulations a cell."""


def table(simulations, **design):
    """Chi-square of the table against ours; a cell's variance is that of both simulations and of two decimals."""
    total = 0.0
    for (traces, rollouts), row in TABLE.items():
        for effect, stated in zip(EFFECTS, row, strict=True):
            ours = stats.simulate_power(
                traces, rollouts, effect=effect, simulations=simulations, seed=1, **design
            ).value
            variance = max(ours * (1 - ours), 0.004) * (1 / 400 + 1 / simulations) + 0.01**2 / 12
            total += (ours - stated) ** 2 / variance
    return total


def test_the_power_table_of_the_specification_is_reproduced():
    """24 cells: a chi-square above 43 has p < .01. A design with half the spread between traces is told apart."""
    assert table(800) < 43
    assert table(300, between_sd=0.025) > 80


def test_power_agrees_with_a_plain_simulation():
    rng, rejected, n = np.random.default_rng(0), 0, 1500
    for _ in range(n):
        trace = rng.normal(0.06, 0.05, 8)
        values = []
        for mean in trace:
            difference = rng.normal(mean, 0.06, 3)
            arms = [rng.binomial(60, p) / 60 for p in (0.5 + difference / 2, 0.5 - difference / 2)]
            control = [rng.binomial(60, 0.5, 3) / 60 for _ in range(2)]
            values.append(np.mean(arms[0] - arms[1] - (control[0] - control[1])))
        rejected += stats.sign_flip_p(values) <= 0.05
    ours = stats.simulate_power(8, 60, effect=0.06, simulations=3000)
    assert 0.1 < ours.value < 0.9
    assert ours.value == pytest.approx(rejected / n, abs=3 * math.sqrt(0.25 / n + 0.25 / 3000))
    assert ours.error == pytest.approx(math.sqrt(ours.value * (1 - ours.value) / 3000))


@pytest.mark.parametrize("traces", [8, 30])
def test_the_null_fires_at_the_level(traces):
    for rate in (0.5, 0.2):
        found = stats.simulate_power(traces, 100, effect=0.0, rate=rate, simulations=3000, seed=2)
        assert 0.03 <= found.value <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 3000)


def test_power_grows_with_the_design_and_is_seeded():
    def power(traces=20, rollouts=50, **design):
        return stats.simulate_power(traces, rollouts, **{"effect": 0.05, **design}).value

    base = power()
    assert power(traces=40) > base and power(rollouts=200) > base and power(pairs=8) > base
    assert power(between_sd=0.2) < base and power(sentence_sd=0.3) < base and power(level=0.01) < base
    assert power(effect=-0.05) == pytest.approx(base, abs=0.06)
    assert power(seed=4) == power(seed=4)
    with pytest.raises(ValueError, match="0 rollouts"):
        power(rollouts=0)
    with pytest.raises(ValueError, match=r"rate is 1\.0"):
        power(rate=1.0)


@pytest.mark.parametrize("n", [6, 15, 60])
def test_the_detectable_effect_of_a_t_test_agrees_with_statsmodels(n):
    solver = pytest.importorskip("statsmodels.stats.power").TTestPower()
    expected = 0.3 * solver.solve_power(nobs=n, alpha=0.05, power=0.8)
    found = stats.minimum_detectable_effect(sd=0.3, n=n, test="t", simulations=6000)
    assert found.effect == pytest.approx(expected, rel=0.03)
    assert found.low < found.effect < found.high and found.high / found.low < 1.1


@pytest.mark.parametrize("n", [8, 25])
def test_the_detectable_effect_of_sign_flips_is_found_as_often_as_it_says(n):
    found = stats.minimum_detectable_effect(sd=2.0, n=n, seed=1)
    rng, simulations = np.random.default_rng(1), 600
    p = [stats.sign_flip_p(row, resamples=2000) for row in rng.normal(found.effect, 2.0, (simulations, n))]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.8, abs=3 * math.sqrt(0.16 / simulations) + 0.02)


def test_the_resolution_of_the_detectable_effect_holds():
    """The interval is where other seeds fall."""
    exact = stats.minimum_detectable_effect(sd=1.0, n=10, test="t", simulations=40_000).effect
    found = [stats.minimum_detectable_effect(sd=1.0, n=10, test="t", simulations=400, seed=s) for s in range(60)]
    assert 0.85 <= np.mean([f.low <= exact <= f.high for f in found]) <= 1
    assert np.mean([f.high - f.low for f in found]) == pytest.approx(3.92 * np.std([f.effect for f in found]), rel=0.4)


def test_the_detectable_effect_of_values_is_that_of_their_spread():
    values = np.random.default_rng(3).normal(0.1, 0.4, 18)
    find = functools.partial(stats.minimum_detectable_effect, simulations=800)
    found = find([*values, np.nan])
    assert found == find(sd=float(values.std(ddof=1)), n=18)
    assert found.traces == 18 and found.power == 0.8
    assert find(values, n=72).effect == pytest.approx(found.effect / 2, rel=0.1)
    assert find(values, power=0.95).effect > found.effect
    assert find(values, level=0.01).effect > found.effect


def test_what_cannot_be_detected_is_infinite_and_what_was_not_measured_is_nan():
    assert stats.minimum_detectable_effect(sd=1.0, n=5).effect == math.inf
    assert stats.minimum_detectable_effect(sd=1.0, n=6).effect < 3
    assert stats.minimum_detectable_effect([0.25] * 8).effect == 0.0
    assert stats.minimum_detectable_effect([0.25] * 3).effect == math.inf
    assert np.isnan(stats.minimum_detectable_effect([0.2, np.nan]).effect)
    assert np.isnan(stats.minimum_detectable_effect([]).effect)


def test_a_detectable_effect_needs_a_design():
    for wrong, match in (
        ({}, "give the values of a run"),
        ({"sd": 1.0}, "n is None"),
        ({"sd": -1.0, "n": 9}, r"sd is -1\.0"),
        ({"sd": 1.0, "n": 1}, "at least 2 traces"),
        ({"sd": 1.0, "n": 9, "test": "z"}, "test is 'z'"),
        ({"sd": 1.0, "n": 9, "power": 1.0}, r"power is 1\.0"),
    ):
        with pytest.raises(ValueError, match=match):
            stats.minimum_detectable_effect(**wrong)
