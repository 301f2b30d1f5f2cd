"""C10: the verdict rule on evidence whose verdict is known, its error rate, seeds as units, and a tiny run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import linregress

from anchors.experiments import Evidence, Finding, Result, Setting, run_experiment
from anchors.experiments.c10_transfer import CLAIM, LEVELS, LOSS, SLOPE, UNSHIFTED, draw, findings, judge
from anchors.experiments.transfer_runs import d_by_trace, loss_by_trace, paired
from tests.transfers import a_transfer, with_values

TRACES = 16


RUN = a_transfer()


def simulated(d, writer=None):
    return with_values(RUN, d, writer)


def evidence(d=0.2, d_half=0.1, slope=0.1, slope_half=0.05, *, gate="", levels=()):
    rows = (
        Finding(UNSHIFTED, d, d - d_half, d + d_half, 16, "traces", "of probability", 0.01, (d - 0.1, d, d + 0.1)),
        Finding(LOSS, slope, slope - slope_half, slope + slope_half, 30, "traces", "of probability"),
    )
    return Evidence(rows, {"levels": list(levels)}, (), {"gate": gate})


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (evidence(), "holds"),
        (evidence(d=0.0, d_half=0.04), "fails"),
        (evidence(d=0.1, d_half=0.2), "inconclusive"),
        (evidence(slope=-0.1), "fails"),
        (evidence(slope=0.02), "inconclusive"),
        (evidence(d=float("nan")), "inconclusive"),
        (evidence(gate="nothing to transfer"), "inconclusive"),
    ],
)
def test_the_rule_gives_the_known_verdict(found, word):
    assert judge(found).word == word


def test_a_shut_gate_gives_its_reason():
    assert "nothing to transfer" in judge(evidence(gate="nothing to transfer")).reason


def reading(rng, home, lost, *, writer=0.3, traces=TRACES):
    """One reader: d at home, and what it loses of the writer's d at every level."""
    given = rng.normal(writer, 0.15, traces).tolist()
    found = {"home": simulated(rng.normal(home, 0.15, traces).tolist(), given)}
    for level in LEVELS:
        found[level] = simulated(
            [w - x for w, x in zip(given, rng.normal(lost * level, 0.15, traces), strict=True)], given
        )
    return found


def test_the_slope_is_that_of_the_loss_over_all_traces():
    rng = np.random.default_rng(0)
    one = reading(rng, 0.3, 0.1)
    primary, loss, d = findings([one])
    assert primary.name == UNSHIFTED and primary.n == TRACES and primary.of == "traces"
    assert primary.effect == pytest.approx(np.mean(list(d_by_trace(one["home"]).values())))
    flat = [(level, x) for level in LEVELS for x in loss_by_trace(one[level]).values()]
    assert loss.effect == pytest.approx(linregress(*zip(*flat, strict=True)).slope)
    assert loss.low < 0.1 < loss.high and d.name == SLOPE and d.effect == pytest.approx(-loss.effect, abs=1e-9)


def test_with_several_readers_the_seed_is_the_unit():
    rng = np.random.default_rng(1)
    readings = [reading(rng, 0.3, 0.1, traces=6) for _ in range(5)]
    primary, loss, _ = findings(readings)
    assert (primary.n, primary.of, loss.n, loss.of) == (5, "seeds", 5, "seeds")
    assert primary.values[0] == pytest.approx(readings[0]["home"].retention[0].reader.traces.mean())


def test_error_rates_of_the_rule():
    """No transfer, or one that does not fray, is rarely said to hold; a planted one mostly is."""
    rng, held = np.random.default_rng(2), {"none": 0, "even": 0, "planted": 0}
    for _ in range(40):
        for name, (home, lost) in {"none": (0.0, 0.0), "even": (0.3, 0.0), "planted": (0.3, 0.12)}.items():
            rows = findings([reading(rng, home, lost, traces=10)])
            held[name] += judge(Evidence(rows, details={"gate": ""})).word == "holds"
    assert held["none"] == 0 and held["even"] <= 5 and held["planted"] >= 32


def test_traces_are_paired_by_name():
    names, table = paired({"a": {"x": 1.0, "y": 2.0}, "b": {"y": 3.0, "z": 4.0}})
    assert names == ["y"] and table.tolist() == [[2.0], [3.0]]


@pytest.mark.slow
def test_a_tiny_run_leaves_its_json_and_figure_and_goes_on(tmp_path):
    setting = Setting(preset="tiny", out=tmp_path)
    result = run_experiment("C10", setting)
    assert result.verdict.word in ("holds", "fails", "inconclusive") and result.claim == CLAIM
    assert [f.name for f in result.evidence.findings] == [UNSHIFTED, LOSS, SLOPE]
    stored = json.loads((tmp_path / "C10.json").read_text())
    assert stored["details"]["readers"] == ["lab/reasoner-b"] and (tmp_path / "C10.svg").exists()
    assert "right answers" in stored["notes"][0]
    again = run_experiment("C10", setting)
    assert again.verdict == result.verdict
    np.testing.assert_equal(again.evidence.primary, result.evidence.primary)
    loaded = Result.load(tmp_path / "C10.json")
    assert [t.get_text() for t in draw(loaded).get_xticklabels()] == ["unshifted", "5 digits", "6 digits", "7 digits"]
