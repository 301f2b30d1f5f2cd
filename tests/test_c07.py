"""C7: cells against completions written by hand, the figures of made-up grids, the verdict, and the run."""

from __future__ import annotations

import random

import numpy as np
import pytest

from anchors.experiments import Evidence, Finding, Result, Setting
from anchors.experiments import c07_shift as c07
from anchors.experiments.c07_shift import (
    CERTAIN,
    CLAIM,
    CMP,
    GATES,
    LENGTH,
    NOISE,
    PRIMARY,
    TREND,
    cell,
    draw,
    draw_elements,
    evidence_of,
    grid,
    judge,
    larger_grid,
    recipe_of,
    shipped_name,
)
from anchors.lab.worlds import load_world, write
from anchors.models import lab_models
from anchors.models.base import Completion, Sampling

SHIPPED = {"mini-alchemy-id", "mini-alchemy-cmp"} <= set(lab_models())


class Scripted:
    """A model that answers by a rule: "right" writes the gold draft, "rotates" applies rotate whatever it is asked."""

    name, sampling = "scripted", Sampling(1.0, 1.0, 64)

    def __init__(self, rule: str, rot_n: int = 5) -> None:
        self.rule, self.world = rule, load_world("alchemy", format="draft", rot_n=rot_n, **CERTAIN)

    def generate(self, jobs, *, sampling, seed):
        for job in jobs:
            yield job, Completion(self.answer(job.prefix), 10, "stop")

    def answer(self, prompt: str) -> str:
        try:
            element, tasks = self.world.parse(prompt)
        except ValueError:
            return "lost."
        if self.rule == "rotates":
            tasks = ("rotate",) * len(tasks)
        if self.rule == "backwards":
            tasks = tasks[::-1]
        written = write(self.world, (element, tasks), random.Random(0))
        return written.reasoning + self.world.ending(self.world.gold((element, tasks)))


def test_a_certain_problem_has_one_completion():
    world = load_world("alchemy", format="draft", **CERTAIN)
    problem = (tuple("ABCD"), ("rotate", "shift"))
    texts = {write(world, problem, random.Random(s)).reasoning for s in range(20)}
    assert texts == {"rotate, shift. rotate: 5 ahead. rotate: F G H I. shift: first to end. shift: G H I F."}


def test_cells_compare_with_the_gold_completion():
    elements = [e[:4] for e in draw_elements(6)]
    assert cell(Scripted("right"), elements, (("rotate", "rotate"),), {})[0].min() == 1
    wrong = cell(Scripted("rotates"), elements, (("rotate", "shift"),), {})
    assert wrong[0].max() == 0 and wrong[1, 0].min() > 0 and wrong[2, 0].max() < 1


def test_commuting_operations_are_right_for_the_wrong_reason_and_others_are_not():
    found = grid({("order", 5): Scripted("backwards")}, draw_elements(8))
    assert found[5, "order", "commuting"][0].mean(-1).tolist() == [0, 0, 1]  # chain, reasoning, answer
    assert found[5, "order", "not commuting"][0, 2].mean() < 0.2
    rows = {row["level"]: row for row in evidence_of([_made_up() | found]).tables["cells"]}
    assert rows["commuting"]["only answer right"] == 1 and rows["commuting"]["only reasoning right"] == 0


def test_rot_13_twice_is_a_copy():
    world = load_world("alchemy", rot_n=13)
    for element in draw_elements(5):
        assert world.gold((element, ("rotate", "rotate"))) == " ".join(element)
        assert load_world("alchemy").gold((element, ("rotate", "rotate"))) != " ".join(element)


def test_noise_changes_the_question_and_never_the_gold():
    elements = [e[:4] for e in draw_elements(20)]
    noised = cell(Scripted("right"), elements, (("rotate", "rotate"),), {"noise": 0.2})
    exact = noised[0, 0]
    assert 0 < exact.mean() < 0.6  # right where no word was hit


def test_shorter_tests_share_the_first_letters():
    elements = draw_elements(50)
    assert len({e[:4] for e in elements}) == 50 and all(len(e) == 6 for e in elements)


def test_recipes_train_what_they_say():
    recipe = recipe_of("cmp", 13)
    knobs = dict(recipe.knobs)
    assert knobs["rot_n"] == 13 and ("shift", "shift") not in knobs["tasks"] and recipe.regime == "draft"
    assert shipped_name("order", 5) == "mini-alchemy-order"
    load_world("alchemy", **knobs)


def _made_up(*, shifted=0.0, cmp=0.0, length=0.0, noise=0.0, home=1.0, size=40, seed=0):
    rng = np.random.default_rng(seed)

    def values(share):
        exact = np.tile((rng.random(size) < share).astype(float), (3, 1))
        return np.stack([exact, 1 - exact, exact])

    shares = {("task", "ID"): home, ("task", "CMP"): cmp, ("task", "POOD"): shifted, ("task", "OOD"): shifted}
    shares |= {("trained", "CMP"): home, ("noise", "0.2"): noise, ("length", "4"): home, ("length", "3"): length}
    return {(5, *key): values(share) for key, share in shares.items()}


@pytest.mark.parametrize(
    ("shares", "word"),
    [
        ({}, "holds"),
        ({"shifted": 0.1, "cmp": 0.2, "length": 0.3, "noise": 0.5}, "holds"),
        ({"cmp": 0.95, "shifted": 0.9, "length": 0.2, "noise": 0.2}, "fails"),
        ({"length": 1.0}, "fails"),
        ({"noise": 1.0}, "fails"),
        ({"home": 0.5}, "inconclusive"),
        ({"cmp": 0.5}, "inconclusive"),
    ],
)
def test_verdicts_on_made_up_grids(shares, word):
    assert judge(evidence_of([_made_up(**shares)])).word == word


def test_without_a_trend_the_drop_is_not_enough():
    found = evidence_of([_made_up()])
    flat = [Finding(TREND, 0.0, -0.1, 0.1, 40, "elements", "", 0.5) if f.name == TREND else f for f in found.findings]
    assert judge(Evidence(tuple(flat))).word == "inconclusive"


def test_a_grid_without_any_shift_rarely_holds():
    words = []
    for seed in range(15):
        equal = {"shifted": 0.9, "cmp": 0.9, "length": 0.9, "noise": 0.9, "home": 0.9}
        words.append(judge(evidence_of([_made_up(**equal, seed=seed)])).word)
    assert words.count("holds") == 0 and words.count("fails") >= 9


def test_findings_are_means_of_the_cells_and_seeds_are_the_unit():
    grids = [_made_up(shifted=0.2, cmp=0.4, seed=s) for s in range(5)]
    found = evidence_of(grids)
    assert (found.primary.n, found.primary.of) == (5, "training seeds")
    means = {
        level: np.mean([g[5, "task", level][0, 0].mean() for g in grids]) for level in ("ID", "CMP", "POOD", "OOD")
    }
    assert found.primary.effect == pytest.approx(means["ID"] - np.mean([means[k] for k in ("CMP", "POOD", "OOD")]))
    assert {f.name for f in found.findings} >= {PRIMARY, CMP, TREND, LENGTH, NOISE, *GATES}
    assert found.finding(TREND).p is not None


def test_the_larger_model_is_read_by_the_full_program():
    rows = larger_grid(Scripted("right"), draw_elements(3))
    by = {(row["axis"], row["level"]): row for row in rows}
    assert by["length", "6"]["answers right"] == 1 and by["operations", "3"]["n"] == 3
    assert by["length", "6"]["on the program"] == 0  # drafts are not sentences of the verbose program


def test_models_that_are_not_shipped_are_named(monkeypatch):
    monkeypatch.setattr(c07, "_shipped", lambda: {("id", 5): Scripted("right"), ("cmp", 5): Scripted("rotates")})
    monkeypatch.setattr(Setting, "model", lambda self, name: Scripted("right"))
    found = c07.run(Setting("tiny"))
    assert "order ROT-5" in found.notes[0] and "id ROT-13" in found.notes[0]
    assert judge(found).word == "inconclusive"  # neither model does what its scenario trained


@pytest.mark.skipif(not SHIPPED, reason="the alchemy models are not in the zoo")
@pytest.mark.slow
def test_it_runs(tmp_path):
    found = c07.run(Setting("tiny"))
    assert found.primary.n == 5 and found.tables["larger model"]
    result = Result(CLAIM, judge(found), found, {})
    assert draw(Result.load(result.save(tmp_path / "C7.json"))).get_title(loc="left").startswith("C7")
