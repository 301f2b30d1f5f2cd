"""C3: the verdict rule on made-up findings, the pieces of the cross, and a tiny run."""

from __future__ import annotations

import numpy as np
import pytest

from anchors.experiments import Setting, run_experiment
from anchors.experiments.c03_swapped import ARMS, CLAIM, _valid_text, judge
from anchors.experiments.ladder import distinct_problems, right_answers
from anchors.lab.worlds import load_world
from anchors.validity import valid_trace
from tests.ladders import evidence, interval, mean_of, needs, paired


def found(values, normal=(0.3, 0.4), swapped=(0.3, 0.4)):
    return evidence(
        mean_of("expression: swapped - normal", values),
        interval("expression: normal - answer only", *normal),
        interval("expression: swapped - answer only", *swapped),
    )


SAME = [0.0] * 900 + [1.0] * 50 + [-1.0] * 50
WORSE = [0.0] * 700 + [-1.0] * 300
BETTER = [0.0] * 700 + [1.0] * 300


@pytest.mark.parametrize(
    ("case", "word"),
    [
        (found(SAME), "holds"),
        (found(BETTER), "holds"),
        (found(WORSE), "fails"),
        (found(SAME[850:]), "inconclusive"),
        (found(SAME, swapped=(-0.02, 0.1)), "inconclusive"),
        (found(SAME, normal=(-0.2, -0.1), swapped=(-0.2, -0.1)), "fails"),
        (found(SAME, swapped=(-0.2, -0.1)), "fails"),
    ],
)
def test_the_verdict_follows_the_rule(case, word):
    assert judge(case).word == word


def test_equivalence_is_wrongly_claimed_at_most_one_time_in_twenty():
    rng = np.random.default_rng(0)
    words = [judge(found(paired(rng, 800, 0.8 - CLAIM.margin, 0.8))).word for _ in range(400)]
    assert words.count("holds") / 400 <= 0.05 + 0.025


def test_the_handed_trace_is_valid_and_ends_right():
    for name in ("maze", "expression"):
        world = load_world(name)
        problem = distinct_problems(world, 1, seed=3)[0]
        text = _valid_text(world, problem, 0)
        answer = text.rsplit("The answer is ", 1)[1].removesuffix(".")
        assert right_answers(world, [problem], [[answer]]).all()
    quiet = load_world("maze", hasty=0.0, slip=0.0)
    problem = distinct_problems(quiet, 1, seed=3)[0]
    assert valid_trace(quiet, problem, _valid_text(quiet, problem, 0).split("\n</think>")[0])


@needs(*ARMS["maze"], *ARMS["expression"])
@pytest.mark.slow
def test_a_tiny_run_leaves_a_result_and_a_figure(tmp_path):
    result = run_experiment("C3", Setting(preset="tiny", out=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} >= {"C3.json", "C3.svg", "C3.png"}
    assert len(result.evidence.tables["arms"]) == 6 and len(result.evidence.tables["cross"]) == 12
    for row in result.evidence.tables["validity"]:
        assert row["valid right"] + row["valid wrong"] + row["invalid right"] + row["invalid wrong"] == 8
        assert "swapped" not in row["arm"] or row["valid right"] + row["valid wrong"] <= 1
