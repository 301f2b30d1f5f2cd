"""The positive control: a planted sentence is found by a reader that uses its trace, and not by one that does not."""

from __future__ import annotations

import numpy as np
import pytest

from anchors.transfer import transfer_anchors
from anchors.transfer.measure import Ask
from anchors.transfer.planted import planted_effects, planted_trace, statement
from tests.made_up import SIZE, BlackBox, Reader, build_trace, halves, planted_run, step
from tests.scripted import SAME_TEXT

SAID = "We are left with 7."
PLACE = {12: SAID}


def test_the_statement_is_the_traces_own_last_one_or_a_plain_one():
    trace = build_trace(texts={3: "So it is 7 then.", 9: SAID, 12: "Not 17 or 71."})
    assert statement(trace, "7") == SAID
    assert statement(trace, "5") == "The answer is 5.", "the traces own answer is not the outcome asked about"
    assert statement(build_trace(), "7") == "The answer is 7."


def test_the_statement_takes_the_place_of_the_middle_sentence():
    trace = build_trace(texts=PLACE)
    text = planted_trace(trace, "7")
    assert len(text) == SIZE // 2 + 1 and text.sentences[-1].text == SAID
    assert text.reasoning.startswith(trace.reasoning[: trace.sentences[SIZE // 2].start])
    assert text.prompt == trace.prompt


@pytest.mark.parametrize(("outcome", "effect"), [("forced", 1.5), ("free", 0.25), ("handover", 0.25)])
def test_the_effect_is_over_controls_of_the_same_text(outcome, effect):
    trace = build_trace(texts=PLACE)
    control = trace.sentences[SIZE // 2 - 1].text
    reader = Reader(weights={SAID: 1.5, control: 0.5}, chances={SAID: 0.25, control: 0.125}, alone=0.25)
    singles = np.zeros(SIZE)
    singles[SIZE // 2 - 1] = 0.125
    found = planted_effects(trace, Ask(reader, outcome, "7", 16, 0), singles)
    cost = {"forced": 0.25, "free": 0.0625, "handover": 0.0625}[outcome]
    assert found == pytest.approx([effect, cost]), "the heavy sentence is one of the two controls"


def test_a_trace_of_three_sentences_has_no_room():
    trace = build_trace(words=(4, 4, 4))
    assert planted_effects(trace, Ask(Reader(), "forced", "7", 4, 0), np.zeros(3)) is None


def test_a_run_reports_it_in_the_gate():
    scores, weights, _ = planted_run([{5: (2.0, 1.0 + i / 10)} for i in range(4)], texts=PLACE)
    seen = transfer_anchors(scores, reader=Reader(weights=weights | {SAID: 2.0}), similarity=SAME_TEXT, n=4)
    blind = transfer_anchors(scores, reader=Reader(weights=weights), similarity=SAME_TEXT, n=4)
    assert seen.gate.conditions[-1].passed is True and "by +2.000" in seen.gate.conditions[-1].found
    assert blind.gate.conditions[-1].passed is False and "bars a verdict of absence" in str(blind)


def test_a_handover_plants_too():
    traces = [build_trace(i, texts=PLACE) for i in range(3)]
    runs = [halves(t, step(4), step(4)) for t in traces]
    chances = {t.sentences[4].text: 0.25 for t in traces} | {SAID: 0.25}
    run = transfer_anchors(runs, reader=BlackBox(chances, alone=0.25), method="resampling", outcome="handover", n=16)
    assert "by +0.250" in run.gate.conditions[-1].found and run.gate.conditions[-1].passed
