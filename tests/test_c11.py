"""C11: the interaction paired by trace, the verdict rule and its error rate, seeds as units, and a tiny run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from anchors.experiments import Evidence, Finding, Result, Setting, run_experiment
from anchors.experiments.c11_regime import CLAIM, INTERACTION, NORMAL, draw, findings, judge
from anchors.models import lab_models
from tests.transfers import a_transfer, with_values

ARMS = (NORMAL, "draft", "swapped", "answer-only")


RUN = a_transfer()


def simulated(d, writer=None):
    return with_values(RUN, d, writer)


def evidence(effect, half, *, gate="", values=(0.1, 0.2, 0.3)):
    rows = (Finding(INTERACTION, effect, effect - half, effect + half, 16, "traces", "of probability", 0.1, values),)
    return Evidence(rows, {}, (), {"gate": gate})


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (evidence(0.2, 0.1), "holds"),
        (evidence(0.0, 0.03), "fails"),
        (evidence(-0.2, 0.1), "fails"),
        (evidence(0.1, 0.2), "inconclusive"),
        (evidence(0.2, 0.1, gate="no anchors to transfer"), "inconclusive"),
        (evidence(float("nan"), 0.1, values=()), "inconclusive"),
    ],
)
def test_the_rule_gives_the_known_verdict(found, word):
    assert judge(found).word == word


def rung(rng, effects, traces=12):
    """A transfer run a regime over the same traces, with a share of the trace in common."""
    common = rng.normal(0, 0.1, traces)
    return {arm: simulated((common + rng.normal(effects.get(arm, 0.0), 0.1, traces)).tolist()) for arm in ARMS}


def test_the_interaction_is_paired_by_trace():
    one = rung(np.random.default_rng(0), {NORMAL: 0.3, "draft": 0.2})
    d = {arm: run.retention[0].reader.traces for arm, run in one.items()}
    primary, *rest = findings([one])
    by_hand = d[NORMAL] - (d["swapped"] + d["answer-only"]) / 2
    assert primary.name == INTERACTION and primary.values == pytest.approx(tuple(by_hand))
    names = [f.name for f in rest]
    assert names[:3] == ["normal - draft", "normal - swapped", "normal - answer-only"]
    assert rest[0].effect == pytest.approx((d[NORMAL] - d["draft"]).mean())
    assert rest[3].name == "d in the normal reader" and rest[3].effect == pytest.approx(d[NORMAL].mean())


def test_traces_one_reader_lacks_are_left_out_of_the_pairs():
    one = rung(np.random.default_rng(1), {NORMAL: 0.3})
    run = one["swapped"]
    one["swapped"] = simulated(run.retention[0].reader.traces[:8].tolist())
    assert findings([one])[0].n == 8


def test_with_several_rungs_the_seed_is_the_unit():
    rng = np.random.default_rng(2)
    rungs = [rung(rng, {NORMAL: 0.3}, traces=5) for _ in range(5)]
    primary = findings(rungs)[0]
    assert (primary.n, primary.of) == (5, "seeds")


def test_error_rates_of_the_rule():
    rng, held = np.random.default_rng(3), {"none": 0, "planted": 0}
    for _ in range(40):
        for name, effects in {"none": {}, "planted": {NORMAL: 0.2}}.items():
            rows = findings([rung(rng, effects)])
            held[name] += judge(Evidence(rows, details={"gate": ""})).word == "holds"
    assert held["none"] <= 4 and held["planted"] >= 36


@pytest.mark.skipif("swapped" not in lab_models(), reason="the readers are not built")
@pytest.mark.slow
def test_a_tiny_run_leaves_its_json_and_figure(tmp_path):
    result = run_experiment("C11", Setting(preset="tiny", out=tmp_path))
    assert result.verdict.word in ("holds", "fails", "inconclusive") and result.claim == CLAIM
    stored = json.loads((tmp_path / "C11.json").read_text())
    rows = stored["tables"]["readers"]
    assert [row["name"] for row in rows][:3] == [NORMAL, "draft", "swapped"] and rows[0]["reader"] == "lab/reasoner-b"
    assert all(0 <= row["gold"] <= 1 for row in rows) and (tmp_path / "C11.svg").exists()
    labels = [t.get_text() for t in draw(Result.load(tmp_path / "C11.json")).get_yticklabels()]
    assert labels[0].startswith("normal (right alone") and len(labels) == len(rows)
