"""The trace shown otherwise: which way each contrast points, Holm over the family, and how a reader recovers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from anchors.models.base import Completion
from anchors.stats import holm_adjusted
from anchors.transfer import Calipers, transfer_anchors
from anchors.transfer.controls import CONTRASTS, compare_controls, corruptions, recovery_classes
from tests.made_up import NO, YES, BlackBox, Reader, build_trace, planted, planted_run, written
from tests.scripted import SAME_TEXT

TEXTS = {
    3: "We now have 3 + 4 = 9.",
    6: "Then there are 12 of them.",
    9: "So we get 5 + 8 = 13.",
    12: "So it must be 7.",
}
LOOSE = Calipers(length=9.0, numbers=False)


@pytest.fixture
def trace():
    return build_trace(texts=TEXTS)


def ways(trace, **options):
    given = {"anchors": [3, 5], "controls": [6], "others": [build_trace(8)], "answer": "7", "length": len}
    return {name: edit.trace for name, edit in corruptions(trace, **(given | options)).items()}


def test_every_way_to_show_a_trace_is_there(trace):
    found = ways(trace, how=lambda text: "Other words.")
    assert set(found) >= {side for contrast in CONTRASTS.values() for side in contrast}
    assert found["none"].reasoning == "" and found["full"] == trace
    assert found["answer only"].reasoning == "The answer is 7."
    assert "must be 7" not in found["stripped"].reasoning and len(found["stripped"]) == 15
    assert [s.text for s in found["anchors only"].sentences] == [trace.sentences[i].text for i in (3, 5)]
    assert len(found["without anchors"]) == 14 and trace.sentences[3].text not in found["without anchors"].reasoning
    assert found["swapped"].reasoning == build_trace(8).reasoning and found["swapped"].prompt == trace.prompt
    assert sorted(s.text for s in found["shuffled"].sentences) == sorted(s.text for s in trace.sentences)
    assert found["filler"].reasoning.strip("… .") == "" and found["paraphrased"].reasoning.startswith("Other words.")
    assert trace.reasoning in found["before the question"].prompt


def changed(trace, edited):
    return [i for i, (a, b) in enumerate(zip(trace.sentences, edited.sentences, strict=True)) if a.text != b.text]


def test_numbers_are_altered_where_the_name_says(trace):
    found = ways(trace)
    assert changed(trace, found["numbers altered"]) == [3, 6, 9, 12]
    assert changed(trace, found["numbers altered in anchors"]) == [3]
    assert changed(trace, found["numbers altered in controls"]) == [6]
    assert len(changed(trace, found["invalid steps"])) == 1


def test_a_way_that_does_not_apply_is_left_out():
    plain = build_trace()
    found = ways(plain, others=[])
    assert not set(found) & {"numbers altered", "invalid steps", "swapped", "paraphrased"}
    assert {"none", "full", "filler", "shuffled"} <= set(found)
    assert "numbers altered in controls" not in ways(build_trace(texts=TEXTS), controls=[5])


def outcomes(rng, size, **levels):
    return [{name: level + 0.01 * rng.normal() for name, level in levels.items()} for _ in range(size)]


def test_contrasts_point_the_way_their_names_say():
    levels = {name: 0.0 for contrast in CONTRASTS.values() for name in contrast}
    good = {"full": 1.0, "paraphrased": 0.9, "numbers altered in controls": 0.8, "anchors only": 0.7, "filler": 0.3,
            "answer only": 0.5, "stripped": 0.6, "without anchors": 0.2, "numbers altered in anchors": 0.1}  # fmt: skip
    rows = outcomes(np.random.default_rng(0), 8, **(levels | good))
    found = compare_controls(rows, [])
    values = {c.name: c.difference.value for c in found.contrasts}
    expected = {"scaffold": 1.0, "content": 1.0, "order": 1.0, "length": 0.3, "leak": 0.5, "stripped": 0.4,
                "paraphrase": 0.1, "anchor specificity": 0.7, "necessity": 0.8, "sufficiency": 0.7}  # fmt: skip
    assert values == pytest.approx(expected, abs=0.03)
    assert {c.name: c.formula for c in found.contrasts}["leak"] == "answer only - none"
    assert found.outcomes["filler"].value == pytest.approx(0.3, abs=0.02)


def test_p_values_are_holms_over_the_family():
    rows = outcomes(np.random.default_rng(1), 7, full=0.02, none=0.0, shuffled=0.018, filler=0.003)
    found = compare_controls(rows, [])
    assert [c.name for c in found.contrasts] == ["scaffold", "order", "length"]
    p = [c.difference.p for c in found.contrasts]
    np.testing.assert_allclose([c.p_holm for c in found.contrasts], holm_adjusted(p))
    assert found.contrasts[0].p_holm == pytest.approx(3 * min(p)) and min(p) == p[0]


def test_traces_without_a_corruption_do_not_enter_its_contrast():
    rows = [
        {"full": 2.0, "none": 0.0, "swapped": 1.5},
        {"full": 3.0, "none": 0.5},
        {"full": 4.0, "none": 1.0, "swapped": 3.0},
    ]
    found = {c.name: c.difference for c in compare_controls(rows, []).contrasts}
    np.testing.assert_allclose(found["content"].traces, [0.5, np.nan, 1.0])
    assert found["content"].n == 2 and found["scaffold"].n == 3 and found["content"].value == 0.75
    assert compare_controls([], []) is None


def test_recovery_is_a_share_of_the_continuations_that_answer():
    found = compare_controls([{"full": 1.0, "none": 0.0}], ["copied", "silent", "copied", "explicit"])
    assert found.recovery == {"copied": 0.5, "explicit": 0.25, "silent": 0.25}
    assert found.unaltered == {}
    both = compare_controls([{"full": 1.0, "none": 0.0}], ["copied"], unaltered=["silent", "silent"])
    assert both.unaltered == {"copied": 0.0, "explicit": 0.0, "silent": 1.0}
    assert compare_controls([{"full": 1.0, "none": 0.0}], []).recovery == {}


SAID = {
    "copied": f" So 9 it is.{NO}",
    "silent": f" So it is done.{YES}",
    "explicit": f" Wait, that is a mistake.{YES}",
    "copied, with doubt": f" Wait, that is a mistake.{NO}",
    "": " I do not know.",
}


def test_what_a_continuation_makes_of_an_altered_number(trace):
    class Author(BlackBox):
        def generate(self, jobs, *, sampling, seed):
            for job in jobs:
                self.jobs.append(job)
                yield job, Completion(list(SAID.values())[job.sample], 5, "stop")

    reader = Author()
    found = recovery_classes(trace, reader, anchors=[5, 3, 9], answer="7", n=5, seed=0)
    assert found == ["copied", "silent", "explicit", "copied"]
    prefix = {job.prefix for job in reader.jobs}.pop()
    before, altered = prefix[: trace.boundaries[3]], prefix[trace.boundaries[3] :].strip()
    assert before == trace.before(3), "the first anchor that has a number is altered, and nothing before it"
    assert re.fullmatch(r"We now have \d \+ \d = \d\.", altered) and altered != TEXTS[3]
    assert recovery_classes(trace, reader, anchors=[5], answer="7", n=5, seed=0) == []
    reader.jobs.clear()
    assert recovery_classes(trace, reader, anchors=[5, 3, 9], answer="7", n=5, seed=0, altered=False) == found
    assert {job.prefix for job in reader.jobs} == {trace.through(3)}, "the baseline goes on from the sentence as it was"


def test_a_run_reads_the_corruptions_of_its_own_anchors():
    """Sentence 3 carries 1 nat and holds numbers; what removes or alters it costs that, the rest costs nothing."""
    scores, weights, traces = planted_run([{3: (2.0, 1.0)}] * 3, texts=TEXTS)
    weights = {TEXTS[3]: 1.0}
    reader = Reader(weights=weights, chances={TEXTS[3]: 0.25})
    run = transfer_anchors(
        scores, reader=reader, corrupt=True, n=8, similarity=SAME_TEXT, paraphrase=lambda text: text, calipers=LOOSE
    )
    assert run.controls is not None and traces[0].id == "t0"
    found = {c.name: c.difference.value for c in run.controls.contrasts}
    expected = {"scaffold": 1, "order": 0, "length": 0, "leak": 0, "stripped": 0, "paraphrase": 0, "necessity": 1,
                "sufficiency": 1}  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["content"] == pytest.approx(0.0), "the swapped traces hold the same sentence"
    assert run.controls.recovery == {"copied": 0.5, "explicit": 0.0, "silent": 0.5}
    assert run.controls.unaltered == {"copied": 0.25, "explicit": 0.0, "silent": 0.75}, (
        "the sentence as it was adds 1/4"
    )
    assert run.controls.outcomes["full"].value == pytest.approx(-8.0)


def test_anchor_specificity_compares_numbers_of_anchors_and_controls():
    texts = {4: "We now have 3 + 4 = 9.", 6: "We now see 5 + 4 = 9."}
    scores, _, _ = planted_run([{4: (2.0, 1.0)}] * 3, texts=texts)
    reader = Reader(weights={texts[4]: 1.0, texts[6]: 0.25})
    run = transfer_anchors(scores, reader=reader, corrupt=True, n=4, similarity=SAME_TEXT, calipers=LOOSE, controls=1)
    found = {c.name: c.difference.value for c in run.controls.contrasts}
    assert found["anchor specificity"] == pytest.approx(0.75)


def test_a_black_box_reads_corruptions_in_continuations():
    trace = build_trace(texts=TEXTS)
    values, _ = planted(trace, {3: (2.0, 1.0)})
    run = transfer_anchors(
        written(trace, values, [3]),
        reader=BlackBox({TEXTS[3]: 0.25}),
        corrupt=True,
        n=8,
        similarity=SAME_TEXT,
        calipers=LOOSE,
    )
    found = {c.name: c.difference.value for c in run.controls.contrasts}
    assert (found["scaffold"], found["necessity"], found["leak"]) == (0.25, 0.25, 0.0)
