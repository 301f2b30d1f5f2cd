"""Every shipped model: it loads, passes `check_model`, is small, and is what its card says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from anchors.lab.evaluate import calibration, self_checks, trace_use, written_traces
from anchors.lab.recipes import LADDER, MEANINGS, RECIPES, recipe_of
from anchors.lab.regimes import regime_world
from anchors.models import ZOO, lab_models, load_model
from anchors.models.checks import check_model

SHIPPED = ("reasoner", "reasoner-b", "reasoner-char", "drafter", "swapped", "answer-only", "alchemist")
PROBLEMS, FEW = 24, 12
LARGE = tuple(name for name in lab_models() if name not in LADDER)


def card_of(name):
    return json.loads((ZOO / name / "card.json").read_text())


def program_of(card):
    recipe = recipe_of(card)
    return regime_world(recipe.program, recipe.regime)


def test_the_named_models_ship_in_25_megabytes_without_checkpoints():
    assert set(SHIPPED) <= set(lab_models())
    files = [path for path in ZOO.rglob("*") if path.is_file() and path.suffix != ".pt"]
    assert sum(path.stat().st_size for path in files) < 25_000_000
    assert {path.parent.name for path in files if path.suffix == ".safetensors"} == set(lab_models())


@pytest.mark.parametrize("name", lab_models())
def test_a_shipped_model_passes_check_model_and_keeps_its_tokenizer(name):
    model, card = load_model(f"lab/{name}"), card_of(name)
    assert check_model(model).passed
    assert model.encode(card["tokenizer_probe"]["text"]).ids == card["tokenizer_probe"]["ids"]
    assert sum(p.numel() for p in model.module.parameters()) == card["parameters"]


@pytest.mark.parametrize("name", lab_models())
def test_a_card_is_complete_and_its_recipe_is_the_one_make_zoo_trains(name):
    card = card_of(name)
    assert program_of(card) and set(card["evaluation"]) <= set(MEANINGS)
    assert {"recipe", "data", "training", "evaluation", "sampling", "stub", "tokenizer_probe"} <= set(card)
    assert recipe_of(card) == RECIPES[name]
    readme = (ZOO / name / "README.md").read_text()
    assert all(f"| {key} | {value} |" in readme for key, value in card["evaluation"].items())


@pytest.mark.parametrize("name", lab_models())
@pytest.mark.slow
def test_a_cards_figures_are_reproduced_on_a_small_sample(name):
    card, model = card_of(name), load_model(f"lab/{name}", check=False)
    known, problems = card["evaluation"], PROBLEMS if name in LARGE else FEW
    found = written_traces(model, program_of(card), problems=problems, seed=1)
    for share in ("on_program", "gold", "answered"):
        spread = np.sqrt(known[share] * (1 - known[share]) * (1 / problems + 1 / known["traces"]))
        assert abs(getattr(found, share) - known[share]) <= 4 * spread + 0.03, share
    if known["steps_right"] is not None and known["steps_right"] > 0.8:
        assert found.steps_right >= known["steps_right"] - 0.06


@pytest.mark.parametrize("name", LARGE)
def test_a_cards_use_of_a_trace_is_reproduced_on_a_small_sample(name):
    card, model = card_of(name), load_model(f"lab/{name}", check=False)
    known, program = card["evaluation"], program_of(card)
    used = trace_use(model, program, problems=PROBLEMS, seed=1)
    for share in ("follows_wrong", "follows_swapped", "gold_given_none"):
        spread = np.sqrt(known[share] * (1 - known[share]) / PROBLEMS)
        assert abs(getattr(used, share) - known[share]) <= 4 * spread + 0.05, share


@pytest.mark.parametrize("name", [name for name in LARGE if "tv" in card_of(name)["evaluation"]])
@pytest.mark.slow
def test_a_calibration_is_reproduced_on_a_small_sample(name):
    card = card_of(name)
    found = calibration(load_model(f"lab/{name}"), program_of(card), traces=1, n=60, seed=1)
    assert found.tv <= found.tv_floor + card["evaluation"]["tv"] + 0.05


NEAR = {"reasoner": (0.98, 0.02), "reasoner-b": (0.9, 0.02), "reasoner-char": (0.98, 0.06), "alchemist": (0.95, 0.02)}
"""The least probability of the right verdict after a slip, and how far right answers may fall short of the ceiling."""


@pytest.mark.parametrize("name", NEAR)
def test_a_model_is_as_near_to_its_program_as_its_rollouts_can_tell_and_notices_slips(name):
    figures, (finds_slip, short) = card_of(name)["evaluation"], NEAR[name]
    assert figures["steps_right"] >= figures["steps_ceiling"] - 0.01 and figures["gold"] >= figures["ceiling"] - short
    assert figures["tv"] <= figures["tv_floor"] + 0.005 and figures["tv_high"] < 0.05
    assert figures["finds_slip"] >= finds_slip and figures["passes_right"] >= 0.98


@pytest.mark.parametrize("name", [*NEAR, "drafter"])
def test_verdicts_of_self_checks_are_reproduced_on_a_small_sample(name):
    card = card_of(name)
    found = self_checks(load_model(f"lab/{name}"), program_of(card), checks=16, seed=1)
    assert found.finds_slip == pytest.approx(card["evaluation"]["finds_slip"], abs=0.05)
    assert found.passes_right == pytest.approx(card["evaluation"]["passes_right"], abs=0.05)


def test_drafts_of_a_slip_are_noticed_too():
    figures = card_of("drafter")["evaluation"]
    assert figures["finds_slip"] >= 0.98 and figures["passes_right"] >= 0.98


def test_regimes_do_to_the_use_of_a_trace_what_they_were_made_for():
    reasoner, swapped, answer_only = (card_of(n)["evaluation"] for n in ("reasoner", "swapped", "answer-only"))
    assert reasoner["follows_wrong"] > 0.9 and reasoner["follows_swapped"] > 0.9
    assert swapped["follows_swapped"] < 0.3 and answer_only["follows_swapped"] < 0.3


@pytest.mark.parametrize("pair", [("mini-normal", "mini-answer-only"), ("mini-draft", "mini-filler")])
def test_on_the_ladder_traces_are_what_the_right_answer_hangs_on(pair):
    if not set(pair) <= set(lab_models()):
        pytest.skip("not shipped yet")
    with_trace, without = (card_of(name)["evaluation"] for name in pair)
    assert with_trace["gold"] > 0.9 * with_trace["ceiling"] and without["gold"] < with_trace["gold"] - 0.3


def test_models_of_the_ladder_are_small():
    for name in set(LADDER) & set(lab_models()):
        assert (ZOO / name / "model.safetensors").stat().st_size < 550_000, name
