"""pass@N, majority@N and the power law, against enumeration and known curves."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from anchors.budget import fit_power_law, majority_at, pass_at


def test_pass_at_n_is_the_share_of_subsets_with_a_right_sample():
    marks = np.array([[1, 0, 0, 1, 0, 0], [0] * 6, [1] * 6], dtype=bool)
    found = pass_at(marks, [1, 2, 3, 6])
    for row, shares in zip(marks, found, strict=True):
        for n, share in zip([1, 2, 3, 6], shares, strict=True):
            assert share == pytest.approx(np.mean([any(s) for s in combinations(row, n)]))


def share_of_vote(sample, gold):
    names = {name for name in sample if name is not None}
    top = max((sample.count(name) for name in names), default=0)
    winners = [name for name in names if sample.count(name) == top]
    return winners.count(gold) / len(winners) if winners else 0.0


def test_majority_at_n_is_the_mean_over_subsets_with_ties_shared():
    rows = [["3", "3", "5", "5", "7", None], ["1", None, None, "2", "2", "1"], [None] * 6]
    found = majority_at(rows, ["3", "2", "4"], [1, 2, 4, 6], seed=0)
    for row, gold, shares in zip(rows, ["3", "2", "4"], found, strict=True):
        for n, share in zip([1, 2, 4, 6], shares, strict=True):
            exact = np.mean([share_of_vote(list(s), gold) for s in combinations(row, n)])
            assert share == pytest.approx(exact, abs=1e-9 if n in (1, 6) else 0.1)


def test_any_of_several_right_answers_counts():
    assert majority_at([["a", "a", "b"]], [["a", "c"]], [3]).tolist() == [[1.0]]


def test_majority_is_flat_where_the_most_frequent_answer_is_always_wrong():
    row = ["9"] * 60 + ["4"] * 4
    curve = majority_at([row], ["4"], [1, 4, 16, 64], seed=1)[0]
    assert curve[0] == 4 / 64 and curve[-1] == 0 and pass_at([[a == "4" for a in row]], [64])[0, 0] == 1


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
    for bad in ([0, 1], [4], []):
        with pytest.raises(ValueError, match="between 1 and the 3 samples"):
            pass_at([[True, False, True]], bad)
    with pytest.raises(ValueError, match="at least three"):
        fit_power_law([1, 2], [0.1, 0.2])
