"""Regimes: what each target says, and mixtures that keep their weights."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from anchors.answers import extract_answer
from anchors.lab.regimes import FILLER, TARGETS, document, parse_regime, regime_world
from anchors.lab.worlds import load_world, read_moves
from anchors.splitting import split_sentences

WORLD = load_world("expression")


def drawn(regime, seed=0, world=WORLD):
    found = document(world, random.Random(seed), regime)
    problem = world.parse(found.prompt)
    reasoning, _, _ = found.completion.partition("\n</think>")
    texts = [reasoning[a:b].strip() for a, b in split_sentences(reasoning)]
    return problem, texts, extract_answer(found.completion)


@pytest.mark.parametrize("regime", ["normal", "draft"])
@pytest.mark.parametrize("name", ["expression", "alchemy", "recall", "maze"])
def test_own_traces_are_on_the_program_and_end_on_its_answer(name, regime):
    world = load_world(name)
    for seed in range(10):
        problem, texts, answer = drawn(regime, seed, world)
        program = regime_world(world, regime)
        moves = read_moves(program, problem, texts)
        assert len(moves) == len(texts)
        ends = [m.state for m in program.moves(moves[-1].state)] or [moves[-1].state]
        assert answer in {program.answer(state) for state in ends}


@pytest.mark.parametrize("seed", range(10))
def test_swapped_tells_of_another_problem_and_answers_its_own(seed):
    problem, texts, answer = drawn("swapped", seed)
    assert answer == WORLD.gold(problem)
    assert read_moves(WORLD, problem, texts) == []
    assert texts[0].startswith("We need ") and texts[0] != drawn("normal", seed)[1][0]


def test_shuffled_keeps_the_sentences_and_loses_their_order():
    orders = 0
    for seed in range(10):
        _problem, texts, answer = drawn("shuffled", seed)
        normal, own = drawn("normal", seed)[1:]
        assert Counter(texts) == Counter(normal) and answer == own
        orders += texts != normal
    assert orders >= 9


def test_invalid_alters_steps_at_its_rate_and_keeps_the_valid_answer():
    altered = total = 0
    for seed in range(60):
        _problem, texts, answer = drawn("invalid(0.5)", seed)
        assert drawn("invalid(0.0)", seed)[1] == drawn("normal", seed)[1]
        normal = drawn("normal", seed)[1:]
        assert answer == normal[1] and len(texts) == len(normal[0])
        steps = [(a, b) for a, b in zip(texts, normal[0], strict=True) if " = " in b]
        total += len(steps)
        altered += sum(a != b for a, b in steps)
        assert all(a == b for a, b in zip(texts, normal[0], strict=True) if " = " not in b)
    assert altered / total == pytest.approx(0.5, abs=0.1)


def test_filler_and_answer_only_answer_right_without_content():
    problem, texts, answer = drawn("filler", 3)
    assert set(texts) == {FILLER} and len(texts) > 5 and answer == WORLD.gold(problem)
    problem, texts, answer = drawn("answer_only", 3)
    assert texts == [] and answer == WORLD.gold(problem)


def test_a_mixture_keeps_its_weights():
    rng = random.Random(0)
    plain = sum(
        "<think>" in d.prompt and d.completion.startswith("\n</think>")
        for d in (document(WORLD, rng, "0.25 normal + 0.75 answer_only") for _ in range(600))
    )
    assert plain / 600 == pytest.approx(0.75, abs=0.07)
    assert {t.regime for t in parse_regime(" + ".join(n for n in TARGETS if n != "invalid"))} == set(TARGETS) - {
        "invalid"
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("upside_down", "regime 'upside_down' is unknown; use normal, draft"),
        ("invalid", "only invalid takes a rate"),
        ("normal(0.5)", "only invalid takes a rate"),
        ("invalid(1.5)", "between 0 and 1"),
        ("0 normal", "has no positive weight"),
    ],
)
def test_regimes_that_cannot_be_read_are_named(text, message):
    with pytest.raises(ValueError, match=message.replace("(", "\\(")):
        parse_regime(text)


def test_only_pure_draft_is_measured_against_the_draft_program():
    assert regime_world(WORLD, "draft").name == "expression-draft"
    assert regime_world(WORLD, "0.5 draft + 0.5 normal").name == "expression"
