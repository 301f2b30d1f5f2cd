"""A killed run goes on where it stopped, equals an undisturbed one, and never takes up a record of something else."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from anchors.similarity import lexical
from anchors.transfer import Calipers, transfer_anchors
from tests.made_up import SIZE, Reader, build_trace, halves, planted, planted_run, step, written
from tests.scripted import SAME_TEXT

OPTIONS = {"n": 4, "similarity": SAME_TEXT, "corrupt": True, "compressors": ["anchors", "first"], "preset": "pairs"}


class Killed(Reader):
    """A reader whose user gives up at the first text of the trace `at`."""

    at = ""

    def _score(self, text, start, block):
        if self.at and self.at in text:
            raise KeyboardInterrupt
        return super()._score(text, start, block)


@pytest.fixture
def given():
    scores, weights, traces = planted_run([{5: (2.0, 1.0 + i / 10), 10: (-1.0, -0.5)} for i in range(4)])
    return scores, weights, traces


def same(a, b):
    return json.dumps(a.to_json(), sort_keys=True) == json.dumps(b.to_json(), sort_keys=True)


def reading(scores, weights, out, **options):
    """A run and how many texts it scored and continued."""
    reader = Reader(weights=weights)
    run = transfer_anchors(scores, reader=reader, out=out, **(OPTIONS | options))
    return run, len(reader.scored) + len(reader.jobs)


def test_a_killed_run_goes_on_with_the_next_trace(given, tmp_path):
    scores, weights, traces = given
    undisturbed, all_reads = reading(scores, weights, None)
    reader = Killed(weights=weights)
    reader.at = traces[2].sentences[0].text
    with pytest.raises(KeyboardInterrupt):
        transfer_anchors(scores, reader=reader, out=tmp_path / "run", **(OPTIONS | {"corrupt": False}))
    assert len(list((tmp_path / "run").iterdir())) == 2
    resumed, rest = reading(scores, weights, tmp_path / "run", corrupt=False)
    plain, plain_reads = reading(scores, weights, None, corrupt=False)
    assert same(resumed, plain) and rest == plain_reads / 2
    assert not list((tmp_path / "run").glob("*.tmp"))
    assert not same(plain, undisturbed) and all_reads > plain_reads


def test_a_finished_run_is_read_not_repeated(given, tmp_path):
    scores, weights, _ = given
    first, _ = reading(scores, weights, tmp_path)
    again, reads = reading(scores, weights, tmp_path)
    assert same(first, again) and reads == 0
    assert again.controls is not None and again.curve and again.pairs is not None


def test_more_traces_read_only_the_new_ones(given, tmp_path):
    scores, weights, _ = given
    options = {"corrupt": False, "preset": None}
    _, half = reading(scores[:2], weights, tmp_path, **options)
    run, rest = reading(scores, weights, tmp_path, **options)
    assert run.traces == 4 and rest == half
    fewer, none = reading(scores[2:], weights, tmp_path, **options)
    assert fewer.traces == 2 and none == 0


def test_what_was_left_out_stays_left_out(given, tmp_path):
    scores, weights, _ = given
    words = [4] * SIZE
    words[5] = 30
    lonely = build_trace(8, words=words)
    scores = [*scores, written(lonely, planted(lonely, {5: (2.0, 1.0)})[0], [5])]
    first, _ = reading(scores, weights, tmp_path)
    again, reads = reading(scores, weights, tmp_path)
    assert same(first, again) and reads == 0 and again.unmatched == 1
    assert again.excluded == ("t8: none of its 16 sentences is close enough to an anchor to be its control",)


CHANGES = {
    "outcome": {"outcome": "free"},
    "operations": {"operations": ["delete", "paraphrase"], "paraphrase": str.upper},
    "k": {"k": 1},
    "controls": {"controls": 2},
    "calipers": {"calipers": Calipers(positions=2)},
    "n": {"n": 8},
    "seed": {"seed": 1},
    "budgets": {"budgets": (0.5, 1.0)},
    "compressors": {"compressors": ["anchors"]},
    "preset": {"preset": None},
    "similarity": {"similarity": lexical()},
    "answer": {"answer": "target"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_changed_plan_does_not_take_up_old_records(given, tmp_path, change):
    """With target 7.0, an equal answer, only the outcome's wording changes, and that is enough."""
    scores, weights, _ = given
    scores = [replace(s, trace=replace(s.trace, target="7.")) for s in scores[:2]]
    _, reads = reading(scores, weights, tmp_path)
    changed, again = reading(scores, weights, tmp_path, **change)
    fresh, _ = reading(scores, weights, None, **change)
    assert reads > 0 and again > 0 and same(changed, fresh)


def test_other_scores_of_the_same_traces_are_read_anew(given, tmp_path):
    scores, weights, traces = given
    first, _ = reading(scores, weights, tmp_path)
    values = [planted(t, {3: (2.0, 0.0)})[0] for t in traces]
    changed = [written(t, v, [3]) for t, v in zip(traces, values, strict=True)]
    other, reads = reading(changed, weights, tmp_path)
    assert reads > 0 and first.retention[0].anchors.value == pytest.approx((1.15 + 0.5) / 2)
    assert other.retention[0].anchors.value == pytest.approx(0.0)


def test_more_rollouts_of_the_writer_are_read_anew(tmp_path):
    traces = [build_trace(i) for i in range(2)]
    weights = {t.sentences[4].text: 1.0 for t in traces} | {t.sentences[11].text: 3.0 for t in traces}
    found = []
    for at in (4, 11):
        runs = [halves(t, step(at), step(at)) for t in traces]
        run, reads = reading(
            runs, weights, tmp_path, method="resampling", corrupt=False, preset=None, operations=["delete"]
        )
        assert reads > 0
        found.append(run.retention[0].anchors.value)
    assert found == pytest.approx([1.0, 3.0])


def test_a_writer_that_is_given_later_is_measured(given, tmp_path):
    scores, weights, _ = given
    alone, _ = reading(scores, weights, tmp_path)
    assert alone.retention[0].writer is None
    both, _ = reading(scores, weights, tmp_path, writer=Reader(weights=weights, name="writer"))
    assert both.retention[0].writer is not None and both.retention[0].ratio is not None


def test_another_reader_has_records_of_its_own(given, tmp_path):
    scores, weights, _ = given
    reading(scores, weights, tmp_path)
    other = transfer_anchors(scores, reader=Reader(weights={}, name="other"), out=tmp_path, **OPTIONS)
    assert other.retention[0].reader.value == 0.0 and len(list(tmp_path.iterdir())) == 8


def test_the_same_call_gives_the_same_numbers(given):
    scores, weights, _ = given
    runs = [reading(scores, weights, None)[0] for _ in range(2)]
    assert same(*runs)
    turned, _ = reading(scores[::-1], weights, None)
    a, b = (r.retention[0].reader.traces for r in (runs[0], turned))
    np.testing.assert_array_equal(a, b[::-1])
