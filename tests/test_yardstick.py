"""Grades against what was planted: the truth itself gets full marks, noise gets chance."""

from __future__ import annotations

import numpy as np
import pytest

from anchors import Trace
from anchors.lab import world_trace
from anchors.lab.worlds import load_world
from anchors.lab.yardstick import grade, plant, precision
from anchors.stats import auroc

WORLD = load_world("expression")


def test_exact_truth_gets_full_marks_and_its_negative_the_opposite():
    planted = plant(world_trace(WORLD, seed=3), WORLD)
    best = grade(planted.counterfactual, planted)
    assert best.counterfactual == best.size_counterfactual == pytest.approx(1)
    assert grade(-planted.counterfactual, planted).counterfactual == pytest.approx(-1)
    assert grade(-planted.counterfactual, planted).size_counterfactual == pytest.approx(1)
    perfect = grade(planted.anchors.astype(float), planted, signed=False)
    assert perfect.auroc == perfect.auroc_idle == perfect.precision == 1 and np.isnan(perfect.counterfactual)


@pytest.mark.slow
def test_noise_is_at_chance():
    rng = np.random.default_rng(0)
    planted = [p for p in (plant(world_trace(WORLD, seed=s), WORLD) for s in range(40)) if p.anchors.any()]
    grades = [grade(rng.normal(size=len(p.trace)), p) for p in planted for _ in range(20)]
    assert np.nanmean([g.auroc for g in grades]) == pytest.approx(0.5, abs=0.03)
    assert np.nanmean([g.counterfactual for g in grades]) == pytest.approx(0, abs=0.05)
    share = np.mean([p.anchors.mean() for p in planted])
    assert np.nanmean([g.precision for g in grades]) == pytest.approx(share, abs=0.06)


def test_a_sentence_that_was_not_measured_ranks_last():
    values, positive = np.array([np.nan, 0.0, 0.2]), np.array([True, False, False])
    planted = plant(world_trace(WORLD, seed=3), WORLD)
    hidden = np.where(planted.anchors, np.nan, 1.0)
    assert grade(hidden, planted).auroc == 0 and grade(hidden, planted).precision == 0
    assert auroc(np.where(np.isnan(values), -np.inf, values), positive) == 0


def test_auroc_against_counting_pairs_and_precision_against_random_tie_breaks():
    rng = np.random.default_rng(1)
    for _ in range(30):
        values, positive = rng.integers(0, 4, 9).astype(float), rng.random(9) < 0.4
        pairs = [(a > b) + (a == b) / 2 for a in values[positive] for b in values[~positive]]
        assert auroc(values, positive) == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True)
        if positive.any():
            orders = [np.lexsort((rng.random(9), -values))[: positive.sum()] for _ in range(4000)]
            expected = np.mean([positive[order].mean() for order in orders])
            assert precision(values, positive) == pytest.approx(expected, abs=0.04)
    assert np.isnan(auroc(np.ones(3), np.zeros(3, dtype=bool))) and np.isnan(
        precision(np.ones(3), np.zeros(3, dtype=bool))
    )


def test_traces_that_cannot_be_graded_are_refused():
    with pytest.raises(ValueError, match="has no answer of its own"):
        plant(Trace.from_text("Find 2 + 3 * 4 modulo 10.\n<think>\n", "We need 2 + 3 * 4 modulo 10."), WORLD)
