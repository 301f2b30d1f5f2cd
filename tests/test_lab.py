"""The lab: a world that keeps its promises, exact truth against simulation, training that resumes, a model that learned."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchors.lab import world_trace
from anchors.lab.truth import (
    answer_distribution,
    boundary_distributions,
    exact_counterfactual_importance,
    exact_resampling_importance,
)
from anchors.lab.worlds import ROLES, load_world, read, write
from anchors.lab.worlds.expression import WORLD, ExpressionWorld, evaluate
from anchors.splitting import split_sentences
from anchors.taxonomy import CATEGORIES


@given(st.integers(0, 10**9))
@settings(max_examples=200, deadline=None)
def test_the_expression_world_keeps_its_promises(seed):
    rng = random.Random(seed)
    problem = WORLD.problem(rng)
    assert "*" in problem[3:] and 5 <= len(problem) <= 9
    assert evaluate(problem, multiply_first=True) != evaluate(problem, multiply_first=False)
    written = write(WORLD, problem, rng)
    answer = WORLD.answer(written.end)
    assert answer is not None and len(answer) == 1
    for state in written.states:
        finished = WORLD.answer(state) is not None
        assert sum(move.probability for move in WORLD.moves(state)) == pytest.approx(0 if finished else 1)
        for move in WORLD.moves(state):
            assert move.category in CATEGORIES and move.role in ROLES
    texts = [written.reasoning[a:b] for a, b in split_sentences(written.reasoning)]
    assert [text.strip() for text in texts] == [move.text for move in written.moves]
    assert read(WORLD, problem, texts) == list(written.states)
    slips = [move for move in written.moves if move.state.event.startswith("slip")]
    plans = [move for move in written.moves if move.state.event in ("right plan", "wrong plan", "reconsider")]
    if not slips and plans[-1].state.multiply_first:
        assert answer == WORLD.gold(problem)


def test_gold_is_ordinary_arithmetic():
    rng = random.Random(0)
    for _ in range(200):
        problem = WORLD.problem(rng)
        assert int(WORLD.gold(problem)) == eval("".join(map(str, problem))) % 10


def test_read_stops_before_a_sentence_the_world_cannot_write():
    problem = (2, "+", 3, "*", 4)
    assert len(read(WORLD, problem, ["We need 2 + 3 * 4 modulo 10.", "I will multiply first.", "2 + 3 = 5."])) == 3
    assert len(read(WORLD, problem, [""])) == 1


def test_unknown_world_is_named():
    with pytest.raises(ValueError, match="no world is called 'nowhere'"):
        load_world("nowhere")


@pytest.mark.slow
def test_exact_truth_against_simulated_continuations():
    """10^5 simulated continuations over the boundaries of a trace with a wrong plan, a slip and a check."""
    rng = random.Random(11)
    while True:
        problem = WORLD.problem(rng)
        written = write(WORLD, problem, rng)
        events = {state.event.split()[0] for state in written.states if state.event}
        if {"slip", "reconsider", "check"} <= events:
            break
    per_state = 100_000 // len(written.states)
    for state in written.states:
        exact = answer_distribution(WORLD, state)
        assert sum(exact.values()) == pytest.approx(1)
        found = Counter(WORLD.answer(write(WORLD, problem, rng, state=state).end) for _ in range(per_state))
        for answer in exact | found:
            p = exact.get(answer, 0.0)
            assert abs(found[answer] / per_state - p) <= 4.5 * np.sqrt(p * (1 - p) / per_state) + 1e-12


def test_importance_is_exact_where_it_can_be_worked_out_by_hand():
    world = ExpressionWorld(slip=0.0, check=0.0, reconsider=0.0, filler=0.0, filler_between=0.0)
    problem = (2, "+", 3, "*", 4)
    states = read(world, problem, ["We need 2 + 3 * 4 modulo 10.", "I will multiply first.", "3 * 4 = 2."])
    np.testing.assert_allclose(exact_resampling_importance(world, states, "4"), [0, 0.5, 0])
    np.testing.assert_allclose(exact_counterfactual_importance(world, states, "4"), [np.nan, 1.0, np.nan])
    answers, rows = boundary_distributions(world, states)
    assert answers == ["0", "4"]
    np.testing.assert_allclose(rows, [[0.5, 0.5], [0.5, 0.5], [0, 1], [0, 1]])


@pytest.mark.slow
def test_fillers_and_restatements_have_no_importance():
    rng = random.Random(4)
    for _ in range(30):
        problem = WORLD.problem(rng)
        written = write(WORLD, problem, rng)
        importance = exact_resampling_importance(WORLD, written.states, WORLD.gold(problem))
        for move, value, before in zip(written.moves, importance, written.states, strict=False):
            if move.role == "restatement" or (move.state.event == "filler" and before.phase == "filler"):
                assert value == pytest.approx(0, abs=1e-12)


def test_world_traces_carry_their_categories_and_target():
    trace = world_trace(WORLD, seed=2)
    assert trace.categories[0] == "problem_setup" and trace.target is not None
    assert trace.text.endswith(f"</think>\nThe answer is {trace.answer}.")
    assert world_trace(WORLD, seed=2) == trace and world_trace(WORLD, seed=3) != trace
