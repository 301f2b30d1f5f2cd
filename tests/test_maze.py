"""The maze world: generators, A* as a program, exact truth against simulation, and the validator of any trace."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchors.answers import extract_answer
from anchors.lab.mazes import (
    GENERATORS,
    PERFECT,
    Maze,
    cells,
    distances,
    draw_maze,
    has_detour,
    neighbours,
    optimal_length,
    shortest_plans,
    valid_plan,
)
from anchors.lab.truth import answer_distribution, dependency_graph
from anchors.lab.worlds import ROLES, load_world, read, write
from anchors.lab.worlds.maze import FAULTS, WORLD, Fault, MazeWorld, validate
from anchors.splitting import split_sentences
from anchors.taxonomy import CATEGORIES

CAREFUL = MazeWorld(hasty=0.0, slip=0.0)
OPEN = Maze(3, frozenset({(1, 1)}), (0, 0), (2, 1))
LEFT = ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2))
DETOUR = Maze(4, frozenset(cells(4)) - frozenset(LEFT), (2, 0), (1, 2))
CLEAN = (
    "We go from 0 0 to 2 1.",
    "Close 0 0 cost 0 plus 3.",
    "Create 1 0 cost 1 plus 2.",
    "Create 0 1 cost 1 plus 2.",
    "Close 1 0 cost 1 plus 2.",
    "Create 2 0 cost 2 plus 1.",
    "Close 2 0 cost 2 plus 1.",
    "Create 2 1 cost 3 plus 0.",
    "Close 2 1 cost 3 plus 0.",
    "The plan is east east south.",
)


def texts_of(reasoning):
    return [reasoning[a:b].strip() for a, b in split_sentences(reasoning)]


@given(st.integers(0, 10**9))
@settings(max_examples=60, deadline=None)
def test_the_maze_world_keeps_its_promises(seed):
    rng = random.Random(seed)
    problem = WORLD.problem(rng)
    assert WORLD.parse(WORLD.prompt(problem)) == problem
    written = write(WORLD, problem, rng)
    answer = WORLD.answer(written.end)
    assert answer is not None and valid_plan(problem, answer)
    assert extract_answer(written.reasoning + WORLD.ending(answer)) == answer
    for state in written.states:
        moves = WORLD.moves(state)
        finished = WORLD.answer(state) is not None
        assert sum(move.probability for move in moves) == pytest.approx(0 if finished else 1)
        assert len({move.text for move in moves}) == len(moves) == len({move.state.event for move in moves})
        for move in moves:
            assert move.category in CATEGORIES and move.role in ROLES
            assert not move.text or (len(move.text) >= 10 and move.text.endswith(".") and ". " not in move.text)
    assert texts_of(written.reasoning) == [move.text for move in written.moves]
    found = read(WORLD, problem, texts_of(written.reasoning))
    assert found == list(written.states)
    assert [state.event for state in found] == [state.event for state in written.states]
    faults = [fault.kind for fault in validate(problem, texts_of(written.reasoning))]
    assert faults in ([], ["not lowest f"], ["wrong cost"])
    assert len(faults) == sum(state.event.startswith("slip") for state in written.states) or faults == ["not lowest f"]


@given(st.integers(0, 10**9), st.sampled_from(list(GENERATORS)))
@settings(max_examples=40, deadline=None)
def test_without_errors_every_plan_is_shortest_and_no_sentence_is_faulty(seed, task):
    rng = random.Random(seed)
    world = replace(CAREFUL, tasks=(task,), length=(3, 6), plans=1)
    problem = world.problem(rng)
    written = write(world, problem, rng)
    answer = world.answer(written.end)
    assert answer is not None and valid_plan(problem, answer)
    assert len(answer.split()) == optimal_length(problem)
    assert validate(problem, texts_of(written.reasoning)) == []
    assert valid_plan(problem, world.gold(problem)) and len(world.gold(problem).split()) == optimal_length(problem)


@pytest.mark.parametrize("task", GENERATORS)
def test_generators_give_solvable_mazes(task):
    rng = random.Random(0)
    for size in (3, 4, 5, 7) * 8:
        free = GENERATORS[task](size, rng)
        assert free <= set(cells(size))
        maze = draw_maze(task, size, rng)
        assert maze.start != maze.goal and not {maze.start, maze.goal} & maze.blocked
        assert 1 <= optimal_length(maze) < size * size
        if task in PERFECT:
            corridors = sum(len(neighbours(maze, cell)) for cell in distances(maze)) / 2
            assert len(distances(maze)) == size * size - len(maze.blocked) == corridors + 1
            assert shortest_plans(maze) == 1
        if task == "searchformer":
            assert 0.3 <= len(maze.blocked) / size**2 <= 0.5 and optimal_length(maze) >= size
        if task == "drunkard":
            assert len(free) == size * size // 2


def test_wilson_draws_the_four_trees_of_four_rooms_equally_often():
    rng = random.Random(1)
    counts = Counter(GENERATORS["wilson"](3, rng) for _ in range(2000))
    assert len(counts) == 4 and max(abs(n - 500) for n in counts.values()) < 4.5 * np.sqrt(2000 * 3 / 16)


def test_problems_have_what_the_knobs_ask():
    rng = random.Random(2)
    assert all(shortest_plans(WORLD.problem(rng)) >= 2 for _ in range(20))
    world = load_world("maze", detour=True, tasks=("searchformer", "wilson"), length=(4, 5))
    for problem in [world.problem(rng) for _ in range(6)]:
        assert shortest_plans(problem) == 1 or has_detour(problem)
    with pytest.raises(ValueError, match="no `searchformer` maze of size 3 with 99 shortest plans"):
        draw_maze("searchformer", 3, rng, plans=99)
    with pytest.raises(ValueError, match="use one or more of wilson"):
        load_world("maze", tasks=("prim",))
    with pytest.raises(ValueError, match="at least 3"):
        load_world("maze", length=(2, 4))


def test_prompts_that_are_no_question_are_refused():
    assert WORLD.parse(WORLD.prompt(OPEN)) == OPEN
    empty = OPEN._replace(blocked=frozenset())
    assert WORLD.prompt(empty) == "Go from 0 0 to 2 1 on a 3 by 3 grid without walls.\n<think>\n"
    assert WORLD.parse(WORLD.prompt(empty)) == empty
    with pytest.raises(ValueError, match="not a question of `maze`"):
        WORLD.parse("Find 2 + 3 * 4 modulo 10.\n<think>\n")
    with pytest.raises(ValueError, match="two free cells"):
        WORLD.parse(WORLD.prompt(OPEN._replace(blocked=frozenset({(0, 0)}))))
    with pytest.raises(ValueError, match="inside the grid"):
        WORLD.parse(WORLD.prompt(OPEN._replace(goal=(3, 0))))
    with pytest.raises(ValueError, match="no way leads"):
        WORLD.parse(WORLD.prompt(OPEN._replace(blocked=frozenset({(1, 0), (1, 1), (0, 2)}))))


def test_noise_touches_the_question_only():
    noisy = MazeWorld(noise=0.5)
    assert noisy.prompt(OPEN) == noisy.prompt(OPEN) != WORLD.prompt(OPEN)
    assert "<unk>" in MazeWorld(noise=1.0, noise_kind="modify").prompt(OPEN)
    with pytest.raises(ValueError, match="not a question"):
        noisy.parse(noisy.prompt(OPEN))


def test_gold_prefers_lower_cost_then_rows():
    square = Maze(3, frozenset(), (0, 0), (2, 2))
    assert shortest_plans(square) == 6
    assert WORLD.gold(square) == "east east south south"
    assert WORLD.gold(OPEN) == "east east south"
    assert not valid_plan(square, "east") and not valid_plan(square, "") and not valid_plan(OPEN, "south east east")


@pytest.mark.slow
def test_exact_truth_against_simulated_continuations():
    """2 * 10^4 simulated continuations over the boundaries of a trace with a tie, a slip, a check and a restart."""
    world, rng = load_world("maze", slip=0.1, check=0.7), random.Random(3)
    problem = DETOUR
    while True:
        written = write(world, problem, rng)
        events = {state.event.split()[0] for state in written.states if state.event}
        ties = [move for move in written.moves if move.role == "anchor" and move.state.event.startswith("close")]
        if {"slip", "check", "restart"} <= events and ties:
            break
    assert has_detour(problem) and shortest_plans(problem) == 2
    per_state = 20_000 // len(written.states)
    for state in written.states:
        exact = answer_distribution(world, state)
        assert sum(exact.values()) == pytest.approx(1)
        found = Counter(world.answer(write(world, problem, rng, state=state).end) for _ in range(per_state))
        for answer in exact | found:
            p = exact.get(str(answer), 0.0)
            assert abs(found[answer] / per_state - p) <= 4.5 * np.sqrt(p * (1 - p) / per_state) + 1e-12


def test_a_tie_decides_the_plan_where_it_can_be_worked_out_by_hand():
    ring = Maze(3, frozenset({(1, 1)}), (0, 0), (2, 2))
    exact = answer_distribution(CAREFUL, CAREFUL.start(ring))
    assert exact == pytest.approx({"east east south south": 0.5, "south south east east": 0.5})
    hasty = MazeWorld(hasty=1.0, slip=0.0, check=0.0)
    states = read(hasty, OPEN, CLEAN[:4])
    assert [move.text for move in hasty.moves(states[-1])] == ["Close 1 0 cost 1 plus 2.", "Close 0 1 cost 1 plus 2."]


def test_two_orders_of_the_same_events_are_one_state():
    ring = Maze(3, frozenset({(1, 1)}), (0, 0), (2, 2))
    start = [
        "We go from 0 0 to 2 2.",
        "Close 0 0 cost 0 plus 4.",
        "Create 1 0 cost 1 plus 3.",
        "Create 0 1 cost 1 plus 3.",
    ]
    east = ["Close 1 0 cost 1 plus 3.", "Create 2 0 cost 2 plus 2."]
    south = ["Close 0 1 cost 1 plus 3.", "Create 0 2 cost 2 plus 2."]
    one, other = (read(WORLD, ring, start + rest)[-1] for rest in (east + south, south + east))
    assert one == other and hash(one) == hash(other) and one.event != other.event


def test_a_plan_hangs_on_the_creates_along_it():
    careful = replace(CAREFUL, check=0.0)
    state, moves = careful.start(OPEN), []
    for text in CLEAN:
        moves.append(next(move for move in careful.moves(state) if move.text == text))
        state = moves[-1].state
    graph = dependency_graph(moves)
    assert list(np.flatnonzero(graph[9])) == [0, 2, 5, 7, 8]
    assert list(np.flatnonzero(graph[5])) == [4] and list(np.flatnonzero(graph[4])) == [2]


@given(st.integers(0, 10**9))
@settings(max_examples=8, deadline=None)
def test_the_draft_form_survives_splitting_and_keeps_the_truth(seed):
    rng, knobs = random.Random(seed), {"length": (3, 3), "plans": 1}
    draft, whole = load_world("maze", format="draft", **knobs), load_world("maze", **knobs)
    problem = draft.problem(rng)
    written = write(draft, problem, rng)
    assert texts_of(written.reasoning) == [move.text for move in written.moves]
    assert read(draft, problem, texts_of(written.reasoning)) == list(written.states)
    exact = answer_distribution(draft, draft.start(problem))
    assert exact == pytest.approx(answer_distribution(whole, whole.start(problem)))


CORRUPTED = (
    ({2: "Create one zero."}, Fault(2, "parse")),
    ({2: "Create 1 1 cost 1 plus 1."}, Fault(2, "invalid neighbour")),
    ({2: "Create 0 -1 cost 1 plus 4."}, Fault(2, "parse")),
    ({3: "Create 2 2 cost 1 plus 1."}, Fault(3, "invalid neighbour")),
    ({5: "Create 0 0 cost 2 plus 3."}, Fault(5, "already closed")),
    ({4: "Close 0 0 cost 0 plus 3."}, Fault(4, "already closed")),
    ({4: "Close 2 2 cost 1 plus 1."}, Fault(4, "not in open")),
    ({3: "Create 0 1 cost 2 plus 2."}, Fault(3, "wrong cost")),
    ({3: "Create 0 1 cost 1 plus 3."}, Fault(3, "wrong cost")),
    ({4: "Close 1 0 cost 0 plus 2."}, Fault(4, "wrong cost")),
    ({2: "Create 1 0 cost 3 plus 2.", 4: "Close 1 0 cost 3 plus 2."}, Fault(4, "not lowest f")),
    ({8: "Let me check the plan."}, Fault(9, "goal not closed")),
)


@pytest.mark.parametrize(("changes", "fault"), CORRUPTED)
def test_the_validator_finds_every_kind_of_fault(changes, fault):
    assert validate(OPEN, CLEAN) == []
    assert fault in validate(OPEN, [changes.get(i, text) for i, text in enumerate(CLEAN)])


def test_the_validator_replays_whole_traces():
    assert {fault.kind for _, fault in CORRUPTED} == set(FAULTS)
    assert validate(OPEN, []) == [Fault(0, "goal not closed")]
    again = [*CLEAN, "Let me check the plan.", "A shorter plan exists.", "Start again from 0 0.", *CLEAN[1:]]
    assert validate(OPEN, again) == []
    assert validate(OPEN, again[:13]) == [Fault(13, "goal not closed")]
    other = validate(OPEN._replace(start=(2, 2), goal=(0, 2), blocked=frozenset({(1, 2)})), CLEAN)
    assert other[0] == Fault(1, "not in open") and other[-1] == Fault(9, "goal not closed")
