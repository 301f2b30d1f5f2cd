"""The power law, against known curves."""

from __future__ import annotations

import numpy as np
import pytest

from anchors.budget import fit_power_law


@pytest.mark.parametrize(("a", "b", "c"), [(0.8, 0.5, 0.5), (0.4, 0.1, 1.5), (1.0, 0.6, 0.3)])
def test_a_power_law_is_recovered(a, b, c):
    budgets = [2**k for k in range(9)]
    curve = [a - b * n**-c for n in budgets]
    fit = fit_power_law(budgets, curve)
    assert float(fit.a) == pytest.approx(a, abs=0.02) and float(fit.c) == pytest.approx(c, rel=0.12)
    assert np.abs(fit.at(budgets) - curve).max() < 0.01


def test_several_curves_are_fitted_as_each_alone_and_the_asymptote_is_a_share():
    rng, budgets = np.random.default_rng(0), [1, 2, 4, 8, 16, 32]
    curves = np.clip(0.9 - 0.5 * np.array(budgets) ** -0.4 + rng.normal(0, 0.02, (12, 6)), 0, 1)
    together = fit_power_law(budgets, curves)
    assert together.a.shape == (12,) and ((together.a >= 0) & (together.a <= 1)).all()
    for i in (0, 5, 11):
        assert together.a[i] == pytest.approx(float(fit_power_law(budgets, curves[i]).a))


def test_a_flat_curve_ends_where_it_is():
    fit = fit_power_law([1, 2, 4, 8], [0.3, 0.3, 0.3, 0.3])
    assert float(fit.a) == pytest.approx(0.3) and float(fit.b) == pytest.approx(0.0)


def test_impossible_budgets_are_refused():
    with pytest.raises(ValueError, match="at least three"):
        fit_power_law([1, 2], [0.1, 0.2])
