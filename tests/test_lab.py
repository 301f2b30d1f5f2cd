"""The lab: a world that keeps its promises, exact truth against simulation, training that resumes, a model that learned."""

from __future__ import annotations

import json
import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anchors.lab import world_trace
from anchors.lab.train import Recipe, batch, build_model, build_tokenizer, document, train
from anchors.lab.truth import (
    answer_distribution,
    boundary_distributions,
    exact_counterfactual_importance,
    exact_resampling_importance,
)
from anchors.lab.worlds import ROLES, load_world, read, write
from anchors.lab.worlds.expression import WORLD, ExpressionWorld, evaluate
from anchors.models import ZOO, lab_models, load_model
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


def test_every_word_and_digit_is_one_token():
    tokenizer = build_tokenizer(WORLD, texts=1000)
    text = document(WORLD, random.Random(0))
    whole = text.prompt + text.completion
    ids = tokenizer(whole).input_ids
    assert tokenizer.decode(ids) == whole
    assert len(ids) == len(
        tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(
            whole.replace("<think>", "x").replace("</think>", "x")
        )
    )


TINY = Recipe(steps=6, batch=4, layers=1, width=16, heads=2, mlp=32, bfloat16=False)


def test_training_is_deterministic_and_resumes_exactly(tmp_path, monkeypatch):
    whole = load_weights(train(TINY, tmp_path / "whole", save_every=2))
    from anchors.lab import train as module

    real, steps = module._step, []

    def dies(*args):
        if len(steps) == 5:
            raise KeyboardInterrupt
        steps.append(1)
        return real(*args)

    monkeypatch.setattr(module, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path / "cut", save_every=2)
    monkeypatch.undo()
    resumed = load_weights(train(TINY, tmp_path / "cut", save_every=2))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(ValueError, match=r"another recipe \(seed\)"):
        train(Recipe(**(TINY.__dict__ | {"seed": 1})), tmp_path / "cut")


def load_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_batches_depend_on_seed_and_step_only_and_skip_the_prompt():
    tokenizer = build_tokenizer(WORLD, texts=300)
    ids, labels = batch(WORLD, tokenizer, TINY, 3)
    again, _ = batch(WORLD, tokenizer, TINY, 3)
    assert torch.equal(ids, again)
    assert not torch.equal(ids, batch(WORLD, tokenizer, TINY, 4)[0])
    think = tokenizer.convert_tokens_to_ids("<think>")
    for row, target in zip(ids, labels, strict=True):
        start = int((row == think).nonzero()[0])
        assert (target[: start + 2] == -100).all() and (target[start + 2 :] != -100).any()
        assert int(target[target != -100][-1]) == tokenizer.eos_token_id
    assert build_model(TINY, len(tokenizer)).num_parameters() < 50_000


def test_the_shipped_reasoner_is_small_and_what_its_card_says():
    assert "reasoner" in lab_models()
    card = json.loads((ZOO / "reasoner" / "card.json").read_text())
    assert card["evaluation"]["steps_right"] >= 0.95
    assert card["evaluation"]["tv"] <= 0.1
    assert sum(path.stat().st_size for path in (ZOO / "reasoner").iterdir() if path.suffix != ".pt") < 3_000_000


def test_the_cards_figures_are_reproduced_on_a_small_sample():
    from anchors.lab.evaluate import evaluate as measure

    card = json.loads((ZOO / "reasoner" / "card.json").read_text())["evaluation"]
    found = measure(load_model("lab/reasoner"), WORLD, problems=120, traces=2, n=60, seed=1)
    assert found.steps_right >= 0.93
    for share in ("on_program", "gold", "answered"):
        spread = np.sqrt(card[share] * (1 - card[share]) / 120)
        assert abs(getattr(found, share) - card[share]) <= 4 * spread + 0.01
    assert found.tv <= 0.15
