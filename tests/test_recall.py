"""The recall world: its promises over many seeds, exact truth against simulation, drafts, and prompts without facts."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchors.lab.truth import answer_distribution, dependency_graph, exact_resampling_importance
from anchors.lab.worlds import ROLES, World, load_world, read, write
from anchors.lab.worlds.recall import FILLERS, NAMES, PAIRS, SIMILAR, WORLD, RecallWorld
from anchors.splitting import split_sentences
from anchors.taxonomy import CATEGORIES

KNOBS = st.sampled_from(
    [{}, {"tasks": (1,)}, {"tasks": (3,)}, {"tasks": (1, 2, 3)}, {"length": (5, 7)}, {"length": (24, 40)}]
)
PROBLEM = ((("candy", "river"), ("candle", "stone"), ("stone", "4"), ("river", "7"), ("fork", "9")), "candle", 2)


@given(st.integers(0, 10**9), KNOBS, st.sampled_from(["verbose", "draft"]))
@settings(max_examples=300, deadline=None)
@pytest.mark.slow
def test_the_world_keeps_its_promises(seed, knobs, form):
    world, rng = load_world("recall", format=form, **knobs), random.Random(seed)
    assert isinstance(world, World)
    problem = world.problem(rng)
    written = write(world, problem, rng)
    assert world.answer(written.end) in "0123456789"
    for state in written.states:
        moves = world.moves(state)
        assert sum(move.probability for move in moves) == pytest.approx(0 if state.phase == "end" else 1)
        assert len({move.text for move in moves}) == len(moves)
        for move in moves:
            assert move.category in CATEGORIES and move.role in ROLES and move.probability > 0
            assert not move.text or (len(move.text) >= 10 and move.text.endswith(".") and ". " not in move.text)
    texts = [written.reasoning[a:b] for a, b in split_sentences(written.reasoning)]
    assert [text.strip() for text in texts] == [move.text for move in written.moves]
    assert read(world, problem, texts) == [*written.states]
    last = [move for move in written.moves if move.state.event.split()[0] in ("right", "wrong")][-problem[2] :]
    if all(move.role == "needed" for move in last):
        assert world.answer(written.end) == world.gold(problem)


@given(st.integers(0, 10**9), KNOBS)
@settings(max_examples=200, deadline=None)
def test_problems_hold_their_chain_a_second_one_and_a_similar_key(seed, knobs):
    world = load_world("recall", **knobs)
    facts, key, hops = problem = world.problem(random.Random(seed))
    assert world.parse(world.prompt(problem)) == problem
    assert hash(problem) is not None and len(dict(facts)) == len(facts)
    assert hops in world.tasks and world.length[0] <= len(facts) <= world.length[1]

    def ends(word: str) -> list[str]:
        chain = [word]
        while any(k == chain[-1] for k, _ in facts):
            chain += [v for k, v in facts if k == chain[-1]]
        return chain

    assert len(ends(key)) == hops + 1 and ends(key)[-1] == world.gold(problem) and ends(key)[-1].isdigit()
    assert len(ends(SIMILAR[key])) == hops + 1 and ends(SIMILAR[key])[-1] != ends(key)[-1]


def test_gold_is_what_the_prompt_says():
    rng = random.Random(0)
    for _ in range(200):
        problem = WORLD.problem(rng)
        prompt = WORLD.prompt(problem)
        word = re.findall(r"What does (\w+) give in two hops\?", prompt)[0]
        for _ in range(2):
            word = re.findall(rf"\b{word} gives (\w+)\.", prompt)[0]
        assert WORLD.gold(problem) == word


def test_a_meaning_is_one_event():
    """Equal meanings are the same event and equal events the same meaning, at any state of one problem."""
    rng = random.Random(1)
    for _ in range(20):
        problem = WORLD.problem(rng)
        moves = [m for _ in range(20) for s in write(WORLD, problem, rng).states for m in WORLD.moves(s)]
        pairs = {(WORLD.meaning(move.text), move.state.event) for move in moves}
        assert len(pairs) == len({meaning for meaning, _ in pairs}) == len({event for _, event in pairs})
    assert {WORLD.meaning(f" {text}") for text in FILLERS} == {"filler"}


@pytest.mark.slow
def test_exact_truth_against_simulated_continuations():
    """2 * 10^4 simulated continuations over the boundaries of a trace with a decoy, a wrong recall, a doubt and a check."""
    rng = random.Random(11)
    while True:
        problem = WORLD.problem(rng)
        written = write(WORLD, problem, rng)
        if {"decoy", "wrong", "doubt", "check"} <= {state.event.split()[0] for state in written.states if state.event}:
            break
    per_state = 20_000 // len(written.states)
    for state in written.states:
        exact = answer_distribution(WORLD, state)
        assert sum(exact.values()) == pytest.approx(1)
        found = Counter(WORLD.answer(write(WORLD, problem, rng, state=state).end) for _ in range(per_state))
        for answer in exact | found:
            p = exact.get(answer, 0.0)
            assert abs(found[answer] / per_state - p) <= 4.5 * np.sqrt(p * (1 - p) / per_state) + 1e-12


def test_truth_is_exact_where_it_can_be_worked_out_by_hand():
    """Hop 1 can go wrong to river only, hop 2 to 7 or 9 on the right way and to 4 or 9 on the wrong one."""
    world = RecallWorld(length=(5, 5), reconsider=0.0, check=0.0, wrong=0.1, filler=0.0, decoy=0.0)
    found = answer_distribution(world, world.start(PROBLEM))
    expected = {"4": 0.9 * 0.9 + 0.1 * 0.05, "7": 0.9 * 0.05 + 0.1 * 0.9, "9": 0.9 * 0.05 + 0.1 * 0.05}
    assert found == {answer: pytest.approx(p) for answer, p in expected.items()}
    always = RecallWorld(length=(5, 5), reconsider=1.0, check=0.0)
    assert answer_distribution(always, always.start(PROBLEM)) == {"4": pytest.approx(1)}


def test_wrong_recalls_hurt_doubts_help_and_the_rest_does_nothing():
    sentences = [
        "We look for what candle gives in two hops.",
        "This needs some care.",
        "We also see that fork gives 9.",
        "candle gives river.",
        "Wait, that is another fact.",
        "Start again from candle.",
        "candle gives stone.",
        "So we look for stone next.",
        "stone gives 4.",
        "Let me look at the facts again.",
        "Every fact is right.",
        "That leaves 4.",
    ]
    states = read(WORLD, PROBLEM, sentences)
    assert len(states) == len(sentences) + 1 and WORLD.answer(states[-1]) == "4"
    importance = exact_resampling_importance(WORLD, states, "4")
    assert importance[3] < -0.2 and importance[4] > 0.2
    np.testing.assert_allclose(np.delete(importance, [3, 4]), 0, atol=1e-12)


def test_a_sentence_depends_on_the_facts_it_uses():
    world = RecallWorld(length=(5, 5), filler=0.0, decoy=0.0, wrong=0.0, check=1.0)
    moves = write(world, PROBLEM, random.Random(0)).moves
    sources = [list(np.flatnonzero(row)) for row in dependency_graph(moves)]
    assert [move.text.split()[0] for move in moves] == ["We", "candle", "So", "stone", "Let", "Every", "That"]
    assert sources == [[], [0], [1], [2], [1, 3], [1, 3, 4], [3]]


def test_a_draft_has_the_same_answers():
    draft, rng = load_world("recall", format="draft"), random.Random(5)
    for _ in range(50):
        problem = WORLD.problem(rng)
        full, terse = (answer_distribution(world, world.start(problem)) for world in (WORLD, draft))
        assert terse == {answer: pytest.approx(p) for answer, p in full.items()}
    assert draft.name == "recall-draft"


def test_without_context_only_the_question_is_asked():
    bare = load_world("recall", context=False)
    assert bare.prompt(PROBLEM) == "What does candle give in two hops?\n<think>\n"
    assert WORLD.prompt(PROBLEM).endswith(f"fork gives 9. {bare.prompt(PROBLEM)}")
    assert answer_distribution(bare, bare.start(PROBLEM)) == answer_distribution(WORLD, WORLD.start(PROBLEM))
    for prompt in (bare.prompt(PROBLEM), WORLD.prompt(PROBLEM)):
        with pytest.raises(ValueError, match="question without its facts has no answer"):
            bare.parse(prompt)


@given(st.integers(0, 10**9), st.sampled_from(["delete", "modify", "insert", "hybrid"]), st.booleans())
@settings(max_examples=100, deadline=None)
def test_noise_spoils_the_prompt_only_and_is_refused_by_the_parser(seed, kind, context):
    world = load_world("recall", noise=0.2, noise_kind=kind, context=context)
    problem = world.problem(random.Random(seed))
    noised, clean = world.prompt(problem), load_world("recall", context=context).prompt(problem)
    assert noised == world.prompt(problem) and noised.endswith("?\n<think>\n")
    assert world.start(problem) == WORLD.start(problem)
    if context and noised != clean:
        with pytest.raises(ValueError, match="is not a question of `recall`"):
            world.parse(noised)


@pytest.mark.parametrize(
    "prompt",
    [
        "Find 2 + 3 * 4 modulo 10.\n<think>\n",
        "Facts: candle gives river. river gives 7. What does candle give in two hops?",
        "Facts: candle gives river. candle gives 7. What does candle give in one hop?\n<think>\n",
        "Facts: candle gives river. fork gives 7. What does candle give in two hops?\n<think>\n",
        "Facts: candle gives river. river gives 7. What does candle give in nine hops?\n<think>\n",
    ],
)
def test_other_prompts_are_refused(prompt):
    with pytest.raises(ValueError, match="is not a question of `recall` that its facts answer"):
        WORLD.parse(prompt)


def test_names_are_short_words_in_similar_pairs():
    assert len(set(NAMES)) == len(NAMES) == 64
    assert all(re.fullmatch("[a-z]{4,8}", name) for name in NAMES)
    assert all(a[:3] == b[:3] for a, b in PAIRS)


def test_knobs_that_leave_no_problem_are_refused():
    with pytest.raises(ValueError, match=r"length is \(4, 9\); 2 hops need between 5 and 64 facts"):
        RecallWorld(length=(4, 9))
    for tasks in ((), (0, 2), (5,)):
        with pytest.raises(ValueError, match="numbers of hops from 1 to 4"):
            RecallWorld(tasks=tasks)
