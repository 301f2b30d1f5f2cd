"""The data of training: batches that depend on seed and step only, exact targets, and the roles of sentences."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from anchors.lab.batches import HARDLY, SKIPPED, batch
from anchors.lab.regimes import document, regime_world
from anchors.lab.train import Recipe, build_model, build_tokenizer
from anchors.lab.worlds import ROLES, load_world, read_moves
from anchors.lab.worlds.expression import WORLD

TINY = Recipe(steps=6, batch=4, layers=1, width=16, heads=2, mlp=32, bfloat16=False)


def test_batches_depend_on_seed_and_step_only_and_skip_the_prompt():
    tokenizer = build_tokenizer(WORLD, texts=300)
    ids, labels, forks, chances, roles, surprises = batch(tokenizer, TINY, 3)
    assert torch.equal(ids, batch(tokenizer, TINY, 3).ids)
    assert (roles == SKIPPED).all() and (surprises == SKIPPED).all() and forks.shape == (0, 3) and chances.shape == (0,)
    assert not torch.equal(ids, batch(tokenizer, TINY, 4).ids)
    assert not torch.equal(ids, batch(tokenizer, replace(TINY, seed=1), 3).ids)
    think = tokenizer.convert_tokens_to_ids("<think>")
    for row, target in zip(ids, labels, strict=True):
        start = int((row == think).nonzero()[0])
        assert (target[: start + 2] == SKIPPED).all() and (target[start + 2 :] != SKIPPED).any()
        assert int(target[target != SKIPPED][-1]) == tokenizer.eos_token_id
    assert build_model(TINY, len(tokenizer)).num_parameters() < 50_000


def read_back(tokenizer, world, row, ends):
    """The moves of a row whose sentences end at these tokens, and its text."""
    text = tokenizer.decode(row)
    written = [tokenizer.decode(row[a + 1 : b + 1]).strip() for a, b in pairwise([-1, *ends])]
    written[0] = written[0].split("<think>\n")[1]
    problem = world.parse(text[: text.index("\n<think>\n") + 9])
    return problem, read_moves(world, problem, written), text


KINDS = [
    ("expression", "bpe", "normal"),
    ("expression", "bpe", "draft"),
    ("expression", "char", "normal"),
    ("alchemy", "bpe", "normal"),
]


@pytest.mark.parametrize(("name", "kind", "regime"), KINDS)
def test_roles_stand_at_the_last_token_of_their_sentences(name, kind, regime):
    recipe = replace(TINY, world=name, role_layer=1, tokenizer=kind, regime=regime)
    world = regime_world(load_world(name), regime)
    tokenizer = build_tokenizer(load_world(name), kind, texts=300)
    ids, *_, roles, _ = batch(tokenizer, recipe, 0)
    told = 0
    for row, role in zip(ids, roles, strict=True):
        ends = (role != SKIPPED).nonzero()[:, 0].tolist()
        _, moves, text = read_back(tokenizer, world, row, ends)
        assert [ROLES[r] for r in role[ends]] == [move.role for move in moves]
        assert text[text.index("<think>\n") + 8 : text.index("\n</think>")] == " ".join(move.text for move in moves)
        told += len(moves)
    assert told == (roles != SKIPPED).sum() > 0


@pytest.mark.parametrize(("name", "kind", "regime"), KINDS)
def test_exact_targets_multiply_up_to_the_probability_of_the_trace(name, kind, regime):
    recipe = replace(TINY, world=name, role_layer=1, exact_steps=3, tokenizer=kind, regime=regime)
    world = regime_world(load_world(name), regime)
    tokenizer = build_tokenizer(load_world(name), kind, texts=300)
    plain, data = batch(tokenizer, replace(recipe, exact_steps=0), 3), batch(tokenizer, recipe, 3)
    assert torch.equal(plain.ids, data.ids) and len(batch(tokenizer, recipe, 2).forks) == 0
    at_forks: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    for (row, at, token), chance in zip(data.forks.tolist(), data.chances.tolist(), strict=True):
        at_forks[row, at][token] = chance
    for row, at in (plain.labels != SKIPPED).nonzero().tolist():
        if (row, at) in at_forks:
            assert data.labels[row, at] == SKIPPED and sum(at_forks[row, at].values()) == pytest.approx(1)
            assert len(at_forks[row, at]) > 1
        else:
            assert data.labels[row, at] == data.ids[row, at]
    for index, row in enumerate(data.ids):
        ends = (data.roles[index] != SKIPPED).nonzero()[:, 0].tolist()
        problem, moves, text = read_back(tokenizer, world, row, ends)
        wanted, state = 1.0, world.start(problem)
        ending = text[text.index("\n</think>") :].split("<eos>")[0]
        for move in [*moves, None]:
            due: dict[str, float] = defaultdict(float)
            for option in world.moves(state):
                due[option.text or world.ending(world.answer(option.state))] += option.probability
            wanted *= due[ending if move is None else move.text] if due else 1.0
            state = state if move is None else move.state
        written = [chances[int(row[at])] for (r, at), chances in at_forks.items() if r == index]
        assert math.prod(written) == pytest.approx(wanted, rel=1e-4)


def test_a_warm_world_draws_the_traces_and_the_real_one_sets_their_targets():
    recipe = replace(TINY, exact_steps=6, warm_steps=6, warm_knobs=(("slip", 0.5), ("check", 1.0)))
    tokenizer = build_tokenizer(WORLD, texts=300)
    chances = batch(tokenizer, recipe, 0).chances
    assert bool((chances - 0.96).abs().lt(1e-6).any()) and not bool((chances - 0.5 / 9).abs().lt(1e-6).any())


@pytest.mark.parametrize(("name", "kind", "regime"), KINDS)
def test_surprises_are_the_tokens_the_program_would_hardly_ever_have_written(name, kind, regime):
    recipe = replace(
        TINY, world=name, exact_steps=6, warm_steps=6, warm_knobs=(("slip", 0.5),), surprise_layer=1, tokenizer=kind,
        regime=regime,
    )  # fmt: skip
    tokenizer = build_tokenizer(load_world(name), kind, texts=300)
    data, without = batch(tokenizer, recipe, 0), batch(tokenizer, replace(recipe, exact_steps=0), 0)
    wanted = torch.full_like(data.ids, SKIPPED)
    for (row, at, token), chance in zip(data.forks.tolist(), data.chances.tolist(), strict=True):
        if data.ids[row, at] == token:
            wanted[row, at] = int(chance < HARDLY)
    assert torch.equal(data.surprises, wanted) and {0, 1} <= set(wanted.unique().tolist())
    assert torch.equal(without.surprises, wanted) and not len(without.forks)
    assert torch.equal(without.labels, batch(tokenizer, replace(recipe, exact_steps=0, surprise_layer=0), 0).labels)


def test_states_the_warm_world_made_its_own_way_are_read_by_the_program():
    """Without a check the warm world is at its end after "That leaves 7.", where the program still may check."""
    recipe = replace(TINY, exact_steps=6, warm_steps=6, warm_knobs=(("check", 0.0),))
    tokenizer = build_tokenizer(WORLD, texts=300)
    data = batch(tokenizer, recipe, 0)
    check = tokenizer(" Let").input_ids[0]
    last = [row.tolist().index(tokenizer.convert_tokens_to_ids("</think>")) for row in data.ids]
    due = {(row, at - 1): {} for row, at in enumerate(last)}  # the line break before the closing tag
    for (row, at, token), chance in zip(data.forks.tolist(), data.chances.tolist(), strict=True):
        if (row, at) in due:
            due[row, at][token] = chance
    assert [chances.get(check) for chances in due.values()] == pytest.approx([0.4] * len(last))


def test_every_document_of_a_mixture_is_judged_by_the_program_that_wrote_it():
    recipe = replace(TINY, batch=16, regime="0.5 normal + 0.5 draft", exact_steps=6, warm_steps=6)
    tokenizer = build_tokenizer(WORLD, texts=300)
    data = batch(tokenizer, replace(recipe, warm_knobs=(("slip", 0.5),)), 0)
    drafts = ["We need" not in tokenizer.decode(row) for row in data.ids]
    forked = {row for row, *_ in data.forks.tolist()}
    assert any(drafts) and not all(drafts) and forked == set(range(16))


def test_what_the_program_never_writes_has_no_exact_target():
    recipe = replace(TINY, exact_steps=6, warm_steps=6, knobs=(("slip", 0.0),), warm_knobs=(("slip", 0.9),))
    with pytest.raises(ValueError, match="let exact_steps begin after the warm-up"):
        batch(build_tokenizer(WORLD, texts=300), recipe, 0)


@pytest.mark.parametrize("regime", ["swapped", "shuffled", "invalid(0.5)", "filler", "answer_only"])
def test_traces_that_are_not_the_worlds_own_have_neither_exact_targets_nor_roles_nor_surprises(regime):
    assert document(WORLD, random.Random(0), regime).written is None
    recipe = replace(TINY, regime=regime, exact_steps=6, role_layer=1, surprise_layer=1)
    data = batch(build_tokenizer(WORLD, texts=300), recipe, 0)
    assert (data.roles == SKIPPED).all() and (data.surprises == SKIPPED).all() and not len(data.forks)
