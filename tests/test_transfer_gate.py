"""Gate and verdict: every condition fails alone, no verdict without the gate, and stated error rates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from anchors.stats import minimum_detectable_effect, relative_tost
from anchors.transfer.gate import allowed_alarms, open_gate
from anchors.transfer.record import Models, Plan
from anchors.transfer.retention import mean_over_traces
from anchors.transfer.trace_reading import read_trace
from tests.made_up import Reader, build_trace, written
from tests.scripted import SAME_TEXT
from tests.simulated import PLAN, of, one, record, run, spread

SIMULATIONS = 200
HALF = mean_over_traces([0.5, 0.5, 0.5])
GAIN = mean_over_traces([1.0, 1.1, 0.9, 1.0])
NONE = mean_over_traces([1.2, -1.1, 0.9, -0.6])
EMPTY = mean_over_traces([])
CALM = np.array([[1.0, -1.0], [-1.0, 1.0]] * 3)
ALARMED = np.ones((6, 20))

NAMES = ("reader alone", "scaffold", "self-effect", "negative control", "positive control")
FAILURES = {
    "hardly ever": ("reader alone", {"alone": mean_over_traces([0.1, 0.15, 0.19])}, False),
    "nearly always": ("reader alone", {"alone": mean_over_traces([0.9, 0.9])}, False),
    "not asked without the trace": ("reader alone", {"alone": EMPTY}, None),
    "nothing to transfer": ("scaffold", {"scaffold": NONE}, False),
    "1 trace leaves no interval": ("scaffold", {"scaffold": mean_over_traces([1.0, np.nan])}, None),
    "no anchors to transfer": ("self-effect", {"self_effect": NONE}, False),
    "give the writer's rollouts": ("self-effect", {"self_effect": None}, None),
    "own effect was not measured": ("self-effect", {"self_effect": mean_over_traces([1.0])}, None),
    "20 of 20 draws": ("negative control", {"random": ALARMED}, False),
    "no random sentences could be matched": ("negative control", {"random": np.full((6, 20), np.nan)}, None),
}


def gate(**changed):
    parts = {
        "alone": HALF,
        "scaffold": GAIN,
        "self_effect": GAIN,
        "random": CALM,
        "planted": GAIN,
        "unit": "nats a token",
    }
    return open_gate(**(parts | changed))


def test_the_gate_is_open_where_every_condition_holds():
    found = gate()
    assert found.passed and found.reason == "" and tuple(c.name for c in found.conditions) == NAMES
    assert "nats a token" in found.conditions[1].found and "0 of 2 draws" in found.conditions[3].found


@pytest.mark.parametrize(("reason", "case"), FAILURES.items())
def test_each_condition_fails_alone_with_its_reason(reason, case):
    name, changed, passed = case
    found = gate(**changed)
    failed = [c for c in found.conditions if not c.passed]
    assert [c.name for c in failed] == [name] and failed[0].passed is passed
    assert not found.passed and reason in found.reason


BLIND = mean_over_traces([0.3, -0.4, 0.2, -0.1])


@pytest.mark.parametrize(("planted", "passed"), [(GAIN, True), (BLIND, False), (EMPTY, None)])
def test_the_positive_control_is_reported_and_shuts_no_gate(planted, passed):
    found = gate(planted=planted)
    assert found.conditions[-1].passed is passed and found.passed and found.reason == ""
    assert found.sensitive is bool(passed)


def test_without_a_positive_control_nothing_is_said_to_be_absent():
    """An effect that is seen needs no proof that one could be seen; one that is not seen does."""
    absent = [0.02, -0.03, 0.01, -0.02, 0.0, 0.03]
    assert run(absent).verdict == "does not transfer"
    blind = run(absent, planted=[0.1, 0.1])
    assert blind.verdict == "inconclusive" and "not even a planted sentence" in blind.reason and blind.gate.passed
    unknown = run(absent, planted=None)
    assert unknown.verdict == "inconclusive" and "planted in 0 traces" in unknown.reason
    assert run([0.5, 0.6, 0.4, 0.5], planted=None).verdict == "transfers"
    assert run([-0.5, -0.6, -0.4, -0.5], planted=None).verdict == "does not transfer", (
        "an effect the other way was seen"
    )


@pytest.mark.parametrize(("alone", "passed"), [(0.15, True), (0.149, False), (0.85, True), (0.851, False)])
def test_the_band_is_of_the_mean_over_traces_and_closed(alone, passed):
    assert gate(alone=mean_over_traces([alone - 0.125, alone + 0.125])).passed is passed


def test_several_failures_are_all_named():
    found = gate(alone=EMPTY, self_effect=NONE)
    assert found.reason.count("; ") == 1 and "no anchors to transfer" in found.reason


@pytest.mark.parametrize("draws", [1, 5, 20, 100])
def test_the_allowed_alarms_are_the_99_percent_limit_of_chance(draws):
    limit = allowed_alarms(draws)
    assert binom.sf(limit, draws, 0.05) <= 0.01 < (binom.sf(limit - 1, draws, 0.05) if limit else 1)


@pytest.mark.parametrize(("alarms", "passed"), [(4, True), (5, False)])
def test_as_many_alarms_as_allowed_pass(alarms, passed):
    random = np.tile([[1.0], [-1.0]], (3, 20))
    random[:, :alarms] = 1.0
    found = gate(random=random).conditions[3]
    assert found.passed is passed and f"{alarms} of 20" in found.found


def test_an_effect_whose_interval_is_above_none_transfers():
    found = run([0.5, 0.6, 0.4, 0.5, 0.55])
    assert found.gate.passed and found.verdict == "transfers"
    assert "move the reader by +0.510 nats a token more than their controls" in found.reason


def test_a_reversed_effect_does_not_transfer():
    found = run([-0.5, -0.6, -0.4, -0.5])
    assert found.verdict == "does not transfer" and "against their sign in the writer" in found.reason


def test_absence_is_shown_only_within_the_margin():
    d = [0.02, -0.03, 0.01, -0.02, 0.0, 0.03]
    found = run(d)
    assert found.verdict == "does not transfer" and found.retention[0].writer is not None
    assert "within 25% of the writer's of none" in found.reason
    assert found.retention[0].writer is not None
    expected = relative_tost(d, found.retention[0].writer.traces, 0.25)
    assert f"p = {expected.p:.2g}" in found.reason and found.retention[0].equivalence == pytest.approx(expected)
    assert run(d, margin=0.01).verdict == "inconclusive", "a narrower margin is not shown by these data"
    assert run(d, writer=[0.02, 0.03] * 3).verdict == "inconclusive", "the margin is a share of the writer's effect"


def test_noise_is_inconclusive_and_says_what_would_have_been_found():
    d = [1.0, -1.2, 0.8, -0.7, 1.1, -0.9]
    found = run(d)
    assert found.verdict == "inconclusive"
    expected = minimum_detectable_effect(d, test="t", simulations=500)
    assert f"an effect of {expected.effect:.3f} nats a token would have been found with probability 80%" in found.reason
    assert expected.effect > 0.5


def test_without_the_writer_absence_cannot_be_shown():
    held = [0.5, 0.25, 4.0]
    rows = [(one(i), record(i, x, writer=None, held_out=held)) for i, x in enumerate([0.01, -0.01, 0.0, 0.01])]
    found = of(rows)
    assert found.gate.passed and found.retention[0].writer is None
    assert found.verdict == "inconclusive" and "without the writer's effect" in found.reason
    moved = of([(one(i), record(i, x, writer=None, held_out=held)) for i, x in enumerate([0.5, 0.6, 0.5])])
    assert moved.verdict == "transfers", "an effect needs no scale to be seen"


def test_without_the_gate_there_is_no_verdict():
    found = run([0.5, 0.6, 0.4, 0.5], alone=0.05)
    assert found.retention[0].reader.low > 0
    assert found.verdict == "gate failed" and found.reason == found.gate.reason and "hardly ever" in found.reason
    unknown = run([0.5, 0.6, 0.4, 0.5], alone=float("nan"))
    assert unknown.verdict == "gate failed" and unknown.gate.conditions[0].passed is None


@pytest.mark.parametrize("measured", [0, 1])
def test_a_primary_operation_hardly_measured_is_inconclusive(measured):
    d = [0.5 if i < measured else np.nan for i in range(4)]
    held = [0.5, 0.25, 4.0]
    found = of([(one(i), record(i, x, writer=None, held_out=held)) for i, x in enumerate(d)])
    assert found.gate.passed
    assert found.verdict == "inconclusive" and f"measured on {measured} traces" in found.reason


@pytest.mark.slow
def test_null_readers_are_rarely_said_to_carry_the_anchors():
    """The gate is open, the writer's anchors are real, and the reader's d is noise: 5 % would be said at most."""
    rng = np.random.default_rng(0)
    verdicts = [run(spread(rng, 0.0, 0.5, 8)).verdict for _ in range(SIMULATIONS)]
    assert "gate failed" not in verdicts
    limit = binom.ppf(0.999, SIMULATIONS, 0.05)
    assert verdicts.count("transfers") <= limit / 2 and verdicts.count("does not transfer") <= limit
    assert verdicts.count("inconclusive") > 0.8 * SIMULATIONS


def test_real_effects_are_found_as_often_as_stated():
    """At its minimum detectable effect a run finds it with the stated power."""
    rng = np.random.default_rng(1)
    effect = minimum_detectable_effect(sd=0.5, n=8, test="t").effect
    hits = [mean_over_traces(spread(rng, effect, 0.5, 8)).low > 0 for _ in range(SIMULATIONS)]
    assert 0.7 < np.mean(hits) < 0.9


@pytest.mark.parametrize("traces", [6, 12])
def test_the_interval_of_a_known_effect_covers_it(traces):
    rng = np.random.default_rng(traces)
    found = [mean_over_traces(spread(rng, 0.4, 0.6, traces)) for _ in range(2000)]
    assert 0.93 <= np.mean([mean.low <= 0.4 <= mean.high for mean in found]) <= 0.97
    boot = np.mean([mean.boot_low <= 0.4 <= mean.boot_high for mean in found])
    assert boot < 0.93, "over few traces the cluster bootstrap covers too little, so the verdict does not rest on it"


@pytest.mark.slow
def test_random_scores_name_sentences_that_move_no_reader(monkeypatch):
    """From scores to d with everything between: random scores, a reader with real but unrelated weights."""
    monkeypatch.setattr("anchors.transfer.trace_reading.RANDOM_DRAWS", 1)
    rng = np.random.default_rng(2)
    traces = [build_trace(i, [4] * 8) for i in range(6)]
    plan = Plan(**(vars(PLAN) | {"k": 2, "controls": 3, "n": 1}))
    fired, values = 0, []
    for _ in range(SIMULATIONS // 3):
        d = []
        for trace in traces:
            weights = {s.text: float(rng.normal()) for s in trace.sentences}
            scores = written(trace, rng.normal(size=8))
            models = Models(Reader(weights=weights), None, SAME_TEXT, None)
            found = read_trace(one(0)._replace(scores=scores, selecting=scores), models, plan, [], None, None)
            d.append(found.effects["delete"][0] - found.effects["delete"][1])
        mean = mean_over_traces(d)
        fired += mean.low > 0 or mean.high < 0
        values.append(mean.value)
    assert fired <= binom.ppf(0.999, SIMULATIONS // 3, 0.05)
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


def test_a_scoreless_writer_fails_the_gate():
    """Scores that name random sentences of a writer whose answers hang on others: no anchors, no verdict."""
    rng = np.random.default_rng(3)
    found = run(spread(rng, 0.0, 0.5, 8), writer=spread(rng, 0.0, 0.5, 8))
    assert found.verdict == "gate failed" and "no anchors to transfer" in found.reason
