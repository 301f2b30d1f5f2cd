"""What every world promises, and every draft of it: probabilities, words, roles, reading back, exact truth."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchors.lab.truth import answer_distribution
from anchors.lab.worlds import FORMATS, ROLES, WORLDS, Drafted, either, load_world, perturbed, read, write
from anchors.lab.worlds.alchemy import PAIRS, SHIFTS, AlchemyWorld, apply, rotate
from anchors.lab.worlds.expression import ExpressionWorld
from anchors.splitting import split_sentences
from anchors.taxonomy import CATEGORIES

EVERY = [(name, form) for name in WORLDS for form in FORMATS]


@pytest.mark.parametrize(("name", "form"), EVERY)
@given(seed=st.integers(0, 10**9))
@settings(max_examples=12, deadline=None)
@pytest.mark.slow
def test_every_world_keeps_its_promises(name, form, seed):
    world, rng = load_world(name, format=form), random.Random(seed)
    problem = world.problem(rng)
    assert world.parse(world.prompt(problem)) == problem and world.prompt(problem).endswith("<think>\n")
    written = write(world, problem, rng)
    answer = world.answer(written.end)
    assert answer is not None
    for state in written.states:
        moves, finished = world.moves(state), world.answer(state) is not None
        assert sum(move.probability for move in moves) == pytest.approx(0 if finished else 1)
        assert len({move.text for move in moves if move.text}) == len([m for m in moves if m.text])
        for move in moves:
            assert move.category in CATEGORIES and move.role in ROLES and move.probability > 0
    texts = [written.reasoning[a:b] for a, b in split_sentences(written.reasoning)]
    assert [text.strip() for text in texts] == [move.text for move in written.moves]
    assert read(world, problem, texts) == list(written.states)
    assert sum(answer_distribution(world, written.states[0]).values()) == pytest.approx(1)


PROBABILITIES = [
    (name, field.name, value)
    for name in WORLDS
    for field in fields(load_world(name))
    for value in (0.0, 1.0)
    if isinstance(getattr(load_world(name), field.name), float)
]


@pytest.mark.parametrize(("name", "knob", "value"), PROBABILITIES)
def test_a_knob_of_0_or_1_leaves_no_sentence_without_a_chance(name, knob, value):
    try:
        world = load_world(name, **{knob: value})
    except ValueError as error:  # some knobs exclude an end, and say so
        assert knob in str(error)
        return
    for seed in range(5):
        rng = random.Random(seed)
        for state in write(world, world.problem(rng), rng).states:
            assert all(move.probability > 0 for move in world.moves(state))


def test_knobs_are_taken_together_in_any_order():
    world = load_world("recall", tasks=(4,), length=(9, 12))
    assert world == load_world("recall", length=(9, 12), tasks=(4,)) and (world.tasks, world.length) == ((4,), (9, 12))


def simulated(world, state, n, rng):
    """Answers of n continuations, run together: at every state its share of them splits over the moves at random."""
    crowd, answers = Counter({state: n}), Counter()
    while crowd:
        ahead = Counter()
        for now, many in crowd.items():
            if world.answer(now) is not None:
                answers[world.answer(now)] += many
                continue
            moves = world.moves(now)
            p = np.array([move.probability for move in moves])
            for move, count in zip(moves, rng.multinomial(many, p / p.sum()), strict=True):
                ahead[move.state] += int(count)
        crowd = +ahead
    return answers


@pytest.mark.parametrize("name", WORLDS)
def test_exact_truth_against_100000_simulated_continuations(name):
    world, draws = load_world(name), random.Random(7)
    problem = world.problem(draws)
    written = write(world, problem, draws)
    for state in written.states[:: max(1, len(written.states) // 4)]:
        exact = answer_distribution(world, state)
        found = simulated(world, state, 100_000, np.random.default_rng(1))
        assert set(found) <= set(exact) and found.total() == 100_000
        shares, p = np.array([found[answer] / 1e5 for answer in exact]), np.array(list(exact.values()))
        assert (abs(shares - p) <= 4.5 * np.sqrt(p * (1 - p) / 1e5) + 3e-5).all()


@pytest.mark.parametrize("name", WORLDS)
def test_traces_are_drawn_with_the_probabilities_of_the_moves(name):
    world, draws = load_world(name), random.Random(7)
    problem = world.problem(draws)
    exact = answer_distribution(world, world.start(problem))
    found = Counter(world.answer(write(world, problem, draws).end) for _ in range(1500))
    for answer, p in exact.items():
        assert abs(found[answer] / 1500 - p) <= 4.5 * np.sqrt(p * (1 - p) / 1500) + 3 / 1500


@pytest.mark.parametrize("name", ["expression", "alchemy"])
@pytest.mark.slow
def test_a_draft_is_shorter_and_has_the_same_exact_answers(name):
    verbose, draft, rng = load_world(name), load_world(name, format="draft"), random.Random(2)
    problems = [verbose.problem(rng) for _ in range(8)]
    for problem in problems:
        plain, terse = (answer_distribution(w, w.start(problem)) for w in (verbose, draft))
        assert {a: pytest.approx(p) for a, p in plain.items()} == terse
    lengths = [[len(write(w, p, rng).reasoning) for p in problems] for w in (verbose, draft)]
    assert sum(lengths[1]) < 0.75 * sum(lengths[0])


def test_worlds_and_knobs_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="no world is called 'nowhere'"):
        load_world("nowhere")
    with pytest.raises(ValueError, match="`alchemy` has no knob 'rot'; its knobs are rot_n, length"):
        load_world("alchemy", rot=13)
    with pytest.raises(ValueError, match="no format is called 'long'"):
        load_world("alchemy", format="long")
    with pytest.raises(ValueError, match="it needs '\\*' and others"):
        load_world("expression", tasks=("+", "-"))
    with pytest.raises(ValueError, match="noise_part is 'letters'"):
        load_world("alchemy", noise_part="letters")


@pytest.mark.parametrize("name", WORLDS)
def test_a_prompt_of_another_world_cannot_be_parsed(name):
    with pytest.raises(ValueError, match="is not a question of"):
        load_world(name).parse("What is the capital of France?\n<think>\n")


def test_either_leaves_out_branches_without_weight():
    world = load_world("expression")
    moves = world.moves(world.start((2, "+", 3, "*", 4)))
    assert either(moves, 1.0, lambda: 1 / 0) == tuple(moves)
    assert either(moves, 0.0, lambda: ()) == ()


def test_noise_touches_the_question_only_and_at_its_rate():
    noisy = load_world("alchemy", noise=0.3, noise_kind="modify", noise_part="element")
    problem = (("A", "B", "C", "D"), ("rotate", "shift"))
    assert noisy.gold(problem) == load_world("alchemy").gold(problem)
    prompts = {noisy.prompt((tuple(letters), ("rotate", "shift"))) for letters in ("ABCD", "EFGH", "IJKL", "QRST")}
    assert any("<unk>" in prompt for prompt in prompts)
    assert all(prompt.startswith("Apply rotate then shift to ") for prompt in prompts)
    assert noisy.prompt(problem) == noisy.prompt(problem)
    words = ["w"] * 20_000
    assert perturbed(words, 0.0, random.Random(0)) == words
    assert len(perturbed(words, 0.1, random.Random(0), kind="delete")) == pytest.approx(18_000, abs=200)
    assert perturbed(words, 0.1, random.Random(0), kind="insert").count("<unk>") == pytest.approx(2_000, abs=200)
    with pytest.raises(ValueError, match="kind is 'swap'"):
        perturbed(words, 0.1, random.Random(0), kind="swap")


@pytest.mark.slow
def test_decoys_and_restated_facts_have_no_importance():
    from anchors.lab.truth import exact_counterfactual_importance, exact_resampling_importance

    """Under a plan that is right for sure: a wrong one could be reconsidered in place of a decoy."""
    world, rng, seen = (
        ExpressionWorld(decoy=0.4, redundant=0.7, right_plan=1.0, length=(3, 4), check=0.0),
        random.Random(0),
        Counter(),
    )
    for _ in range(30):
        problem = world.problem(rng)
        written = write(world, problem, rng)
        answer = world.answer(written.end)
        resampling = exact_resampling_importance(world, written.states, answer)
        counterfactual = exact_counterfactual_importance(world, written.states, answer)
        for i, move in enumerate(written.moves):
            if move.role == "decoy" or move.state.event == "again":
                seen[move.role] += 1
                assert resampling[i] == pytest.approx(0, abs=1e-9)
                assert counterfactual[i] == pytest.approx(0, abs=1e-9)
    assert seen["decoy"] > 10 and seen["restatement"] > 10


def test_new_operators_and_lengths_move_the_problem_along_its_axes():
    world, rng = ExpressionWorld(tasks=("max", "min", "*"), length=(6, 8)), random.Random(1)
    problems = [world.problem(rng) for _ in range(50)]
    assert all(6 <= (len(p) + 1) // 2 <= 8 for p in problems)
    assert any("max" in p for p in problems) and not any("+" in p for p in problems)
    assert world.gold((2, "max", 3, "*", 4)) == "2"


# -- alchemy ----------------------------------------------------------------------------------------------------------


def test_alchemy_operations_are_what_the_paper_says():
    element = ("A", "P", "Q", "Z")
    assert rotate(element, 13) == ("N", "C", "D", "M")
    assert apply(element, "shift", rot_n=5) == ("P", "Q", "Z", "A")
    assert apply(element, "reverse", rot_n=5) == ("Z", "Q", "P", "A")
    world = AlchemyWorld()
    assert world.gold((element, ("shift", "reverse"))) != world.gold((element, ("reverse", "shift")))
    assert world.gold((element, ("rotate", "shift"))) == world.gold((element, ("shift", "rotate")))


def test_rot_13_makes_the_published_in_distribution_task_a_copy_and_the_default_does_not():
    element = ("A", "P", "Q", "Z")
    assert AlchemyWorld(rot_n=13).gold((element, ("rotate", "rotate"))) == "A P Q Z"
    assert AlchemyWorld().gold((element, ("rotate", "rotate"))) == "K Z A J"


@pytest.mark.parametrize("level", list(SHIFTS))
def test_the_task_axis_of_the_paper(level):
    train, test = SHIFTS[level]
    assert set(train) | set(test) <= set(PAIRS)
    assert (set(test) <= set(train)) == (level == "ID")
    seen = {op for task in train for op in task}
    assert ({op for task in test for op in task} <= seen) == (level in ("ID", "CMP"))


@pytest.mark.slow
def test_longer_chains_and_elements_are_problems_too():
    world, rng = AlchemyWorld(length=(2, 6), tasks=(("rotate", "shift", "reverse"), ("shift",))), random.Random(0)
    for _ in range(6):
        problem = world.problem(rng)
        assert 2 <= len(problem[0]) <= 6
        answers = answer_distribution(world, world.start(problem))
        assert world.gold(problem) in answers and sum(answers.values()) == pytest.approx(1)


@pytest.mark.slow
def test_an_order_that_does_not_matter_is_a_decoy_without_effect():
    from anchors.lab.truth import exact_counterfactual_importance

    world, found = AlchemyWorld(), {"anchor": [], "decoy": []}
    rng = random.Random(3)
    for _ in range(40):
        problem = world.problem(rng)
        written = write(world, problem, rng)
        values = exact_counterfactual_importance(world, written.states, world.gold(problem))
        for move, value in zip(written.moves, values, strict=True):
            if move.state.event in ("right order", "wrong order"):
                assert (move.role == "decoy") == ("rotate" in problem[1])
                found[move.role].append(abs(value))
    assert len(found["decoy"]) > 5 and max(found["decoy"]) < 0.05
    assert len(found["anchor"]) > 5 and min(found["anchor"]) > 0.06


def test_a_draft_knows_the_knobs_of_its_world():
    draft = load_world("alchemy", format="draft", rot_n=13)
    assert isinstance(draft, Drafted) and draft.rot_n == 13 and draft.name == "alchemy-draft"
