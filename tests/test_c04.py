"""C4: the share retained and its verdict on made-up answers, and a tiny run."""

from __future__ import annotations

import numpy as np
import pytest

from anchors.experiments import Setting, run_experiment
from anchors.experiments.c04_invalid import INVALID, NONE, VALID, _arms, _gains, _retention, _share, judge
from anchors.lab.recipes import LADDER
from anchors.stats import fieller
from tests.ladders import evidence, interval, needs


def answers(rng, n, valid, invalid, none):
    return {arm: [rng.random(n) < share] for arm, share in ((VALID, valid), (INVALID, invalid), (NONE, none))}


def judged(right, gain=None):
    exact = _share("retention at rate 1", fieller(*_gains(1.0, right)), "problems")
    paired = right[VALID][0].astype(float) - right[NONE][0]
    half = 1.96 * paired.std(ddof=1) / np.sqrt(len(paired))
    gain = gain or interval("valid - answer only", paired.mean() - half, paired.mean() + half)
    return judge(evidence(exact, gain)).word


@pytest.mark.parametrize(
    ("shares", "n", "word"),
    [
        ((0.95, 0.93, 0.3), 1500, "holds"),
        ((0.95, 0.6, 0.3), 1500, "fails"),
        ((0.95, 0.82, 0.3), 200, "inconclusive"),
        ((0.3, 0.3, 0.3), 1500, "inconclusive"),
    ],
)
def test_the_verdict_follows_the_rule(shares, n, word):
    assert judged(answers(np.random.default_rng(1), n, *shares)) == word


def test_at_the_bar_a_verdict_is_wrong_at_most_one_time_in_twenty_on_each_side():
    rng = np.random.default_rng(0)
    words = [judged(answers(rng, 600, 0.9, 0.2 + 0.8 * 0.7, 0.2)) for _ in range(400)]
    assert words.count("holds") / 400 <= 0.05 and words.count("fails") / 400 <= 0.05


def test_the_bootstrap_agrees_with_fieller_and_both_hold_the_truth():
    exact, drawn = _retention(1.0, answers(np.random.default_rng(3), 4000, 0.9, 0.55, 0.2))
    assert exact.low < 0.5 < exact.high and exact.effect == pytest.approx(drawn.effect)
    assert exact.low == pytest.approx(drawn.low, abs=0.01) and exact.high == pytest.approx(drawn.high, abs=0.01)


def test_full_trains_four_rates_and_quick_takes_the_shipped_two():
    quick, full = _arms(Setting()), _arms(Setting(preset="full"))
    assert [recipe.regime for recipe in full.values()] == [
        "normal",
        *(f"invalid({rate})" for rate in (1.0, 0.75, 0.5, 0.25)),
        "answer_only",
    ]
    assert {name: LADDER[name] for name in quick} == quick


@needs(VALID, NONE, INVALID, "mini-invalid-50")
def test_a_tiny_run_leaves_a_result_and_a_figure(tmp_path):
    result = run_experiment("C4", Setting(preset="tiny", out=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} >= {"C4.json", "C4.svg", "C4.png"}
    rows = {row["arm"]: row for row in result.evidence.tables["arms"]}
    assert rows[VALID]["wrong steps written"] < 0.1 and rows[INVALID]["wrong steps written"] > 0.7
