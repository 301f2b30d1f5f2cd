"""Training: tokenizers, batches that depend on seed and step only, exact resumption, regimes and mixtures."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial

import pytest
import torch

from anchors.experiments.ladder import right_answers
from anchors.lab.batches import batch
from anchors.lab.recipes import LADDER, RECIPES, changed, train_and_card
from anchors.lab.regimes import document
from anchors.lab.train import (
    CHECKPOINT,
    Learner,
    Recipe,
    _optimisers,
    _step,
    build_model,
    build_tokenizer,
    load_state,
    train,
)
from anchors.lab.worlds import load_world, write
from anchors.lab.worlds.expression import WORLD


@pytest.mark.parametrize("name", ["expression", "alchemy"])
@pytest.mark.slow
def test_every_word_is_one_token(name):
    world = load_world(name)
    tokenizer = build_tokenizer(world, texts=500)
    text = document(world, random.Random(0))
    whole = text.prompt + text.completion
    ids = tokenizer(whole).input_ids
    assert tokenizer.decode(ids) == whole
    assert len(ids) == len(
        tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(
            whole.replace("<think>", "x").replace("</think>", "x")
        )
    )


@pytest.fixture(autouse=True)
def small_tokenizers(monkeypatch):
    """Training reads 4,000 documents for its tokenizer; here 300 do."""
    from anchors.lab import train as module

    monkeypatch.setattr(module, "build_tokenizer", partial(build_tokenizer, texts=300))


TINY = Recipe(steps=6, batch=4, layers=1, width=16, heads=2, mlp=32, bfloat16=False)


def test_training_is_deterministic_and_resumes_exactly(tmp_path, monkeypatch):
    whole = load_weights(train(TINY, tmp_path / "whole", save_every=2, held_out=0))
    from anchors.lab import train as module

    real, steps = module._step, []

    def dies(*args):
        if len(steps) == 5:
            raise KeyboardInterrupt
        steps.append(1)
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_step", dies)
        train(TINY, tmp_path / "cut", save_every=2, held_out=0)
    resumed = load_weights(train(TINY, tmp_path / "cut", save_every=2, held_out=0))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(ValueError, match=r"another recipe \(seed\)"):
        train(Recipe(**(TINY.__dict__ | {"seed": 1})), tmp_path / "cut")
    state = load_state(tmp_path / "cut" / CHECKPOINT)
    del state["recipe"]["surprise_layer"]  # as a checkpoint from before that setting existed
    torch.save(state, tmp_path / "cut" / CHECKPOINT)
    train(TINY, tmp_path / "cut", held_out=0)


def load_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("inner", ["role_layer", "surprise_layer"])
def test_readouts_of_inner_layers_add_their_losses_and_reach_no_later_layer(inner):
    recipe = replace(TINY, layers=3, early_layer=2, **{inner: 1})
    tokenizer = build_tokenizer(WORLD, texts=300)
    data = batch(tokenizer, recipe, 0)
    learner, plain = Learner(recipe, len(tokenizer)), Learner(replace(TINY, layers=3), len(tokenizer))
    tokens, extra = learner.loss(data)
    assert float(plain.loss(data)[1]) == 0 and torch.equal(plain.loss(data)[0], tokens)
    extra.backward()
    reached = [
        any(p.grad is not None and bool(p.grad.any()) for p in x.parameters()) for x in learner.model.model.layers
    ]
    assert reached == [True, True, False]
    exact = [loss.detach() for loss in learner.loss(batch(tokenizer, replace(recipe, exact_steps=6), 0))]
    assert all(0 < float(loss) < float("inf") for loss in exact) and not torch.equal(exact[0], tokens)
    without = batch(tokenizer, replace(recipe, regime="swapped", early_layer=0), 0)
    assert float(Learner(replace(recipe, early_layer=0), len(tokenizer)).loss(without)[1].detach()) == 0
    for name in (inner, "early_layer"):
        with pytest.raises(ValueError, match=f"{name} is 3; it is an inner one of 3 layers"):
            Learner(replace(recipe, **{name: 3}), len(tokenizer))


@pytest.mark.parametrize("offsets", [(2, 1), (1, 3, 5, 0)])
def test_heads_of_the_first_layer_look_so_many_tokens_back_whatever_is_written_and_whatever_is_learned(offsets):
    recipe = replace(TINY, layers=2, width=32 * len(offsets), heads=len(offsets), context=256, look_back=offsets)
    tokenizer = build_tokenizer(WORLD, texts=300)
    learner = Learner(recipe, len(tokenizer))
    _step(learner, _optimisers(learner, recipe), batch(tokenizer, recipe, 0), 1.0, recipe)
    ids = torch.randint(len(tokenizer), (3, 200), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = learner.model.eval()(ids, output_attentions=True).attentions
    back = torch.arange(200)[8:] - torch.tensor(offsets)[:, None]
    at = back[None, :, :, None].expand(3, -1, -1, 1)
    assert float(first[:, :, 8:].gather(-1, at).min()) > 0.97
    attention = learner.model.model.layers[0].self_attn
    assert not bool(attention.q_proj.weight.any()) and not bool(attention.k_proj.weight.any())
    assert float(second[:, :, 8:].gather(-1, at).mean()) < 0.1  # the other layers start as always
    assert not any("bias" in name for name, _ in build_model(replace(recipe, look_back=()), 260).named_parameters())
    for wrong in (offsets[:1], (*offsets[:-1], -1)):
        with pytest.raises(ValueError, match=f"give each of {len(offsets)} heads 0 or more tokens"):
            Learner(replace(recipe, look_back=wrong), len(tokenizer))


def test_a_changed_recipe_keeps_the_shares_of_its_phases_and_leaves_out_what_was_made_for_another_world():
    recipe = RECIPES["reasoner"]
    assert changed(recipe) == recipe and changed(recipe, seed=5) == replace(recipe, seed=5)
    half = changed(recipe, steps=recipe.steps // 2, layers=1)
    assert (half.warm_steps, half.exact_steps) == (recipe.warm_steps // 2, recipe.exact_steps // 2)
    assert half.warm_knobs == recipe.warm_knobs and half.role_layer == half.early_layer == 0
    assert changed(recipe, layers=3).role_layer == 2
    for change in ({"world": "recall"}, {"knobs": (("slip", 0.0),)}):
        other = changed(recipe, **change)
        assert other.warm_knobs == () and other.warm_steps == 0 and other.exact_steps == recipe.exact_steps
    warm = {"warm_knobs": (("slip", 0.2),), "warm_steps": 80}
    kept = changed(recipe, world="alchemy", **warm)
    assert (kept.warm_knobs, kept.warm_steps) == tuple(warm.values())


@pytest.mark.slow
def test_the_readout_of_roles_is_learned_and_left_out_of_what_is_shipped(tmp_path):
    recipe = replace(TINY, steps=120, batch=8, layers=2, width=32, role_layer=1)
    folder = train(recipe, tmp_path / "told", held_out=0, save_every=120)
    assert not any("readout" in name for name in load_weights(folder))
    tokenizer = build_tokenizer(WORLD, texts=300)
    learned, fresh = Learner(recipe, len(tokenizer)), Learner(recipe, len(tokenizer))
    learned.load_state_dict(load_state(folder / CHECKPOINT)["learner"])
    data = batch(tokenizer, recipe, 800)
    told, guessed = (float(learner.loss(data)[1].detach()) for learner in (learned, fresh))
    assert told < 0.8 * guessed


def test_the_character_tokenizer_merges_nothing():
    tokenizer = build_tokenizer(WORLD, "char")
    text = document(WORLD, random.Random(0))
    whole = text.prompt + text.completion
    ids = tokenizer(whole).input_ids
    assert tokenizer.decode(ids) == whole
    assert len(ids) == len(whole.replace("<think>", "x").replace("</think>", "x"))
    with pytest.raises(ValueError, match="use 'bpe' or 'char'"):
        build_tokenizer(WORLD, "word")


@pytest.mark.slow
def test_a_recipe_names_its_regime_knobs_and_tokenizer(tmp_path):
    recipe = replace(
        TINY, regime="0.5 draft + 0.5 answer_only", knobs=(("length", (3, 3)),), tokenizer="char", context=400
    )
    card = train_and_card_small(recipe, tmp_path / "mixed")
    assert card["recipe"]["knobs"] == (("length", (3, 3)),) and card["training"]["seconds"] >= 0
    assert "tv" not in card["evaluation"] and card["evaluation"]["handed"] == 3
    written = json.loads((tmp_path / "mixed" / "card.json").read_text())
    assert written["evaluation"] == card["evaluation"]
    with pytest.raises(ValueError, match="has no knob 'len'"):
        train(replace(TINY, knobs=(("len", 3),)), tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def train_and_card_small(recipe, folder):
    from anchors.lab.recipes import write_card

    return write_card(recipe, train(recipe, folder, held_out=2), problems=9, traces=1, n=4)


@pytest.mark.slow
def test_every_shipped_model_has_a_recipe_and_the_recipe_fits_its_world():
    assert set(RECIPES) >= {"reasoner", "reasoner-b", "reasoner-char", "drafter", "swapped", "answer-only", "alchemist"}
    tokenizers = {}
    for recipe in RECIPES.values():
        world = recipe.program
        key = world, recipe.tokenizer
        if key not in tokenizers:
            tokenizers[key] = build_tokenizer(world, recipe.tokenizer, texts=100)
        tokenizer = tokenizers[key]
        ids = batch(tokenizer, replace(recipe, batch=2), 0).ids
        assert ids.shape[1] <= recipe.context


def test_the_rungs_of_a_ladder_differ_in_regime_or_seed_only():
    for base, names in {
        "mini-normal": (
            "mini-normal-b",
            "mini-draft",
            "mini-answer-only",
            "mini-swapped",
            "mini-filler",
            "mini-invalid",
        ),
        "mini-maze": ("mini-maze-swapped", "mini-maze-answer-only"),
    }.items():
        for name in names:
            plain = replace(LADDER[name], regime="normal", seed=LADDER[base].seed)
            assert plain == LADDER[base] and LADDER[name] != LADDER[base]


def test_on_the_worlds_of_the_ladder_every_regime_has_one_ceiling():
    for name in ("mini-normal", "mini-maze", "mini-recall"):
        world = load_world(LADDER[name].world, **dict(LADDER[name].knobs))
        rng = random.Random(0)
        for _ in range(20):
            problem = world.problem(rng)
            answer = world.answer(write(world, problem, rng).end)
            assert right_answers(world, [problem], [[answer, world.gold(problem)]]).all()
    assert callable(train_and_card)
