"""C6: the asymptote and its verdict on made-up curves, and a tiny run."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from anchors.experiments import Setting, run_experiment
from anchors.experiments.c06_budget import _asymptotes, _Curves, judge
from anchors.voting import majority_at, pass_at
from tests.ladders import evidence, interval, needs

BUDGETS = [1, 2, 4, 8, 16, 32, 64]


def curves(rng, n, *, reasoner, modes):
    """A reasoner that is right with one chance, and a guesser whose mode is right on a share of the problems."""
    right_mode = rng.random(n) < modes
    rows = [rng.choice(["g", "w", "v"], 64, p=(0.5, 0.3, 0.2) if good else (0.2, 0.5, 0.3)) for good in right_mode]
    answers = [list(map(str, row)) for row in rows]
    marks = np.array(rows) == "g"
    majority = np.array([[majority_at(row, "g", k, draws=200, seed=0) for k in BUDGETS] for row in answers])
    passing = np.array([[pass_at(int(row.sum()), len(row), k) for k in BUDGETS] for row in marks])
    single = (rng.random(n) < reasoner).astype(float)
    return _Curves(majority, passing, single, single, {}, 0.0)


@pytest.mark.parametrize(
    ("reasoner", "modes", "word"), [(0.95, 0.4, "holds"), (0.3, 0.9, "fails"), (0.9, 0.6, "inconclusive")]
)
def test_the_verdict_follows_the_lead_over_the_asymptote(reasoner, modes, word):
    lead, end = _asymptotes([curves(np.random.default_rng(2), 150, reasoner=reasoner, modes=modes)], BUDGETS, 0)
    assert judge(evidence(lead, end)).word == word
    assert end.high >= modes - 0.05, "a power law may overstate where a vote ends, never understate it"
    assert lead.effect + end.effect == pytest.approx(reasoner, abs=0.12)


def test_with_several_rungs_the_seed_is_the_unit():
    rng = np.random.default_rng(0)
    found = [curves(rng, 60, reasoner=0.9, modes=0.4) for _ in range(4)]
    lead, end = _asymptotes(found, BUDGETS, 0)
    assert lead.n == end.n == 4 and lead.of == "training seeds" and len(lead.values) == 4
    assert judge(evidence(lead, end)).word == "holds"


def test_no_interval_gives_no_verdict():
    nothing = interval("reasoner - asymptote of majority@N", float("nan"), float("nan"))
    assert judge(evidence(nothing)).word == "inconclusive"


@needs("mini-normal", "mini-answer-only", "mini-filler")
def test_a_tiny_run_leaves_a_result_and_a_figure(tmp_path):
    result = run_experiment("C6", Setting(preset="tiny", out=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} >= {"C6.json", "C6.svg", "C6.png"}
    curve = result.evidence.tables["curve"]
    assert [row["N"] for row in curve] == [1, 2, 4, 8]
    assert all(a["oracle"] <= b["oracle"] for a, b in pairwise(curve))
    assert curve[0]["majority"] == pytest.approx(curve[0]["oracle"])
    tokens = {row["arm"]: row["tokens"] for row in result.evidence.tables["arms"]}
    assert 0.7 < tokens["mini-filler"] / tokens["mini-normal"] < 1.3
