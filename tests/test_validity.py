"""Validity of traces, the 2x2 table and phi, and trace length against complexity."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy import stats

from anchors.lab.mazes import optimal_length
from anchors.lab.regimes import document
from anchors.lab.worlds import load_world, write
from anchors.validity import length_complexity, valid_trace, validity_table


def made(rng, n, *, together):
    valid = rng.random(n) < 0.5
    right = np.where(rng.random(n) < together, valid, rng.random(n) < 0.5)
    return valid, right


def test_phi_is_the_correlation_of_the_two_marks_and_p_is_fishers():
    valid, right = made(np.random.default_rng(0), 200, together=0.5)
    found = validity_table(valid, right)
    assert found.phi == pytest.approx(np.corrcoef(valid, right)[0, 1])
    assert found.p == pytest.approx(stats.fisher_exact(found.counts).pvalue, rel=1e-6)
    assert found.counts.sum() == found.n == 200
    assert found.counts.tolist() == [
        [int((valid & right).sum()), int((valid & ~right).sum())],
        [int((~valid & right).sum()), int((~valid & ~right).sum())],
    ]
    assert found.right_given_valid == pytest.approx(right[valid].mean())
    assert found.right_given_invalid == pytest.approx(right[~valid].mean())
    assert found.low < found.phi < found.high


def test_the_interval_of_phi_covers_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        found = validity_table(*made(rng, 120, together=0.4), seed=rng)
        hits += found.low <= 0.4 <= found.high
    assert 180 <= hits <= 198


def test_an_empty_row_leaves_phi_undefined_and_mismatched_marks_are_an_error():
    found = validity_table([True, True, True], [True, False, True])
    assert np.isnan([found.phi, found.low, found.high, found.right_given_invalid]).all()
    with pytest.raises(ValueError, match="one of each a trace"):
        validity_table([True], [True, False])


def test_length_that_follows_only_the_answer_has_no_partial_correlation():
    rng = np.random.default_rng(2)
    answer = rng.integers(2, 30, size=400)
    complexity = answer + rng.normal(0, 4, size=400)
    lengths = answer + rng.normal(0, 4, size=400)
    found = length_complexity(lengths, complexity, answer_lengths=answer)
    assert found.spearman.value == pytest.approx(stats.spearmanr(lengths, complexity).statistic)
    assert found.spearman.low > 0.5
    assert found.partial.low < 0 < found.partial.high
    apart = length_complexity(complexity, complexity, answer_lengths=answer)
    assert apart.partial.value == pytest.approx(1)
    assert length_complexity(lengths, complexity).partial.n == 0


@pytest.mark.parametrize("name", ["maze", "expression", "recall", "alchemy"])
def test_traces_without_mistakes_are_valid_and_those_of_other_problems_are_not(name):
    quiet = {
        "maze": {"hasty": 0.0, "slip": 0.0},
        "expression": {"slip": 0.0},
        "recall": {"wrong": 0.0},
        "alchemy": {"slip": 0.0, "right_rule": 1.0},
    }
    world, rng = load_world(name, **quiet[name]), random.Random(0)
    for _ in range(8):
        problem, other = world.problem(rng), world.problem(rng)
        text = write(world, problem, rng).reasoning
        assert valid_trace(world, problem, text)
        assert problem == other or not valid_trace(world, other, text)
        assert not valid_trace(world, problem, text[: len(text) // 2].rsplit(".", 1)[0])


@pytest.mark.parametrize("name", ["maze", "expression"])
def test_one_wrong_step_makes_a_trace_invalid(name):
    world, rng, seen = load_world(name), random.Random(1), 0
    while seen < 10:
        problem = world.problem(rng)
        written = write(world, problem, rng)
        slipped = any(move.is_step and move.role == "anchor" for move in written.moves)
        if slipped:
            seen += 1
            assert not valid_trace(world, problem, written.reasoning)


def test_swapped_targets_have_invalid_traces():
    world, rng = load_world("maze", plans=1), random.Random(3)
    found = []
    for _ in range(20):
        target = document(world, rng, "swapped")
        found.append(valid_trace(world, world.parse(target.prompt), target.completion.split("\n</think>")[0]))
    assert not any(found)


def test_maze_traces_grow_with_the_plan_they_find():
    world, rng = load_world("maze", plans=1, length=(4, 5)), random.Random(4)
    problems = [world.problem(rng) for _ in range(36)]
    lengths = [len(write(world, p, rng).moves) for p in problems]
    found = length_complexity(lengths, [optimal_length(p) for p in problems])
    assert found.spearman.low > 0.3
