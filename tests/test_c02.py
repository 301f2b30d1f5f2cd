"""C2: the verdict rule on made-up findings, its error rates, and a tiny run."""

from __future__ import annotations

import numpy as np
import pytest

from anchors.experiments import Setting, run_experiment
from anchors.experiments.c02_draft import CLAIM, judge
from tests.ladders import evidence, interval, mean_of, needs, paired

GAIN = interval("verbose - answer only", 0.3, 0.5)


def found(values, ratio=(0.40, 0.44), gain=GAIN):
    return evidence(mean_of("draft - verbose", values), interval("token ratio", *ratio), gain)


SAME = [0.0] * 1900 + [1.0] * 50 + [-1.0] * 50
WORSE = [0.0] * 800 + [-1.0] * 200


@pytest.mark.parametrize(
    ("case", "word"),
    [
        (found(SAME), "holds"),
        (found(WORSE), "fails"),
        (found(SAME[1800:]), "inconclusive"),
        (found(SAME, ratio=(0.52, 0.6)), "fails"),
        (found(SAME, ratio=(0.45, 0.55)), "inconclusive"),
        (found(WORSE, gain=interval("verbose - answer only", -0.1, 0.2)), "inconclusive"),
    ],
)
def test_the_verdict_follows_the_rule(case, word):
    assert judge(case).word == word


def test_equivalence_is_wrongly_claimed_at_most_one_time_in_twenty():
    rng = np.random.default_rng(0)
    margin = CLAIM.margin
    at_margin = [judge(found(paired(rng, 1600, 0.95 - margin, 0.95))).word for _ in range(400)]
    equal = [judge(found(paired(rng, 1600, 0.97, 0.97))).word for _ in range(200)]
    assert at_margin.count("holds") / 400 <= 0.05 + 0.025
    assert equal.count("holds") / 200 >= 0.95 and "fails" not in equal


@needs("mini-normal", "mini-normal-b", "mini-draft", "mini-answer-only")
def test_a_tiny_run_leaves_a_result_and_a_figure(tmp_path):
    result = run_experiment("C2", Setting(preset="tiny", out=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} >= {"C2.json", "C2.svg", "C2.png"}
    assert result.evidence.primary.n == 16
    arms = {row["arm"]: row for row in result.evidence.tables["arms"]}
    assert arms["mini-draft"]["trace tokens"] < 0.5 * arms["mini-normal"]["trace tokens"]
    assert arms["mini-answer-only"]["trace tokens"] == 0
