"""The ladder: problems, answers, units, and models that full trains once and finds again."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from anchors.experiments import ladder as module
from anchors.experiments.base import Setting
from anchors.experiments.ladder import (
    ask,
    difference,
    distinct_problems,
    forced,
    right_answers,
    rungs,
    unit_name,
    units,
)
from anchors.lab.recipes import LADDER, MINI
from anchors.lab.worlds import load_world
from anchors.lab.worlds.expression import ExpressionWorld
from tests.ladders import in_seconds, needs


def test_problems_are_distinct_follow_the_seed_and_run_out_with_an_error():
    world = load_world("expression", length=(3, 3))
    found = distinct_problems(world, 60, seed=1)
    assert len(set(found)) == 60
    assert found == distinct_problems(world, 60, seed=1) != distinct_problems(world, 60, seed=2)
    with pytest.raises(ValueError, match="seems to have 3 problems"):
        distinct_problems(Few(), 4, seed=0)


class Few(ExpressionWorld):
    """A world of three problems."""

    def problem(self, rng):
        return 1, "+", rng.randrange(3), "*", 2


def test_on_mazes_any_plan_that_arrives_is_right():
    world = load_world("maze")
    problem = world.parse("Go from 0 0 to 2 0 on a 3 by 3 grid without walls.\n<think>\n")
    detour = "south east east north"
    marks = right_answers(world, [problem], [["east east", detour, "east", None, "7"]])
    assert marks.tolist() == [[True, True, False, False, False]]
    expression = load_world("expression")
    assert right_answers(expression, [(2, "+", 3, "*", 4)], [["4", "0", None]]).tolist() == [[True, False, False]]


def test_one_rung_has_problems_for_units_and_several_have_seeds():
    first, second = np.array([1.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0])
    assert units([first]).tolist() == [1.0, 0.0, 1.0] and unit_name([first]) == "problems"
    assert (
        units([first, second]).tolist() == pytest.approx([2 / 3, 1 / 3]) and unit_name([first] * 2) == "training seeds"
    )
    found = difference("gain", [first], [second])
    assert (found.effect, found.n, found.of) == (pytest.approx(1 / 3), 3, "problems")
    over = difference("gain", [first, first], [second, first])
    assert over.values == pytest.approx((1 / 3, 0.0)) and over.of == "training seeds"


@needs("mini-normal")
def test_answers_do_not_depend_on_how_many_samples_share_a_pass():
    world = MINI.program
    problems = distinct_problems(world, 3, seed=0)
    prompts = [world.prompt(p) for p in problems]
    (rung,) = rungs(Setting(preset="tiny"), {"mini-normal": MINI})
    few = ask(rung["mini-normal"], prompts, samples=3, temperature=1.0)
    many = ask(rung["mini-normal"], prompts, samples=module.SHARED, temperature=1.0)
    assert [row[:3] for row in many.texts] == few.texts
    assert (many.tokens[:, :3] == few.tokens).all()
    assert all("</think>" in text for row in few.texts for text in row)
    assert right_answers(world, problems, ask(rung["mini-normal"], prompts).answers).mean() > 0.6
    handed = forced(rung["mini-normal"], prompts[:1] * 2, ["2 + 2 = 4. That leaves 4.", "2 + 4 = 6. That leaves 6."])
    assert handed == ["4", "6"]


@pytest.fixture
def hasty(monkeypatch):
    """Two seeds, and tokenizers of 300 documents."""
    from anchors.lab import train

    monkeypatch.setattr(module, "SEEDS", 2)
    monkeypatch.setattr(train, "build_tokenizer", partial(train.build_tokenizer, texts=100))


def test_full_trains_every_arm_once_a_seed_and_finds_it_again(tmp_path, hasty):
    arms = {name: in_seconds(LADDER[name]) for name in ("mini-normal", "mini-draft")}
    setting = Setting(preset="full", out=tmp_path)
    first = rungs(setting, arms)
    assert [sorted(rung) for rung in first] == [["mini-draft", "mini-normal"]] * 2
    weights = {path: path.read_bytes() for path in tmp_path.rglob("model.safetensors")}
    assert len(set(weights.values())) == len(weights) == 4
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoint.pt")}
    rungs(setting, arms)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoint.pt")}
    assert weights == {path: path.read_bytes() for path in weights}
    assert first[0]["mini-normal"].stub.before.endswith("The answer is ")


def test_full_takes_no_models_of_the_users_and_needs_a_folder():
    with pytest.raises(ValueError, match="drop --model"):
        rungs(Setting(preset="full", model_name="lab/reasoner"), LADDER)
    with pytest.raises(ValueError, match="--out"):
        rungs(Setting(preset="full"), LADDER)
