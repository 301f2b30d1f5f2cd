"""All pairs of models, shift axes and interactions, on runs whose d are planted."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from anchors.transfer import interaction, shift_trend, transfer_anchors, transfer_matrix
from anchors.transfer.controls import compare_controls
from anchors.transfer.results import Transfer
from tests.made_up import Reader, build_trace, planted, written
from tests.scripted import SAME_TEXT
from tests.simulated import run, spread


@pytest.fixture(scope="module")
def models():
    """Two models that write and read, one that only reads. Each one's own anchor weighs 1 nat in it."""
    traces = {name: [build_trace(10 * i + j) for j in range(3)] for i, name in enumerate("ab")}
    anchor = {name: [t.sentences[5].text for t in row] for name, row in traces.items()}
    weights = {
        "a": {s: 1.0 for s in anchor["a"]} | {s: 0.25 for s in anchor["b"]},
        "b": {s: 0.75 for s in anchor["a"]} | {s: 1.0 for s in anchor["b"]},
        "c": {s: -0.5 for s in anchor["a"]},
    }
    runs = {
        name: [written(t, planted(t, {5: (2.0, 0.0)})[0], [5], details={"model": name}) for t in row]
        for name, row in traces.items()
    }
    return runs, {name: Reader(weights=w, name=name) for name, w in weights.items()}


@pytest.fixture(scope="module")
def matrix(models):
    return transfer_matrix(*models, n=4, similarity=SAME_TEXT)


def test_every_writer_meets_every_reader(matrix):
    assert (matrix.writers, matrix.readers) == (("a", "b"), ("a", "b", "c"))
    np.testing.assert_allclose(matrix.values, [[1.0, 0.75, -0.5], [0.25, 1.0, 0.0]])
    assert all(matrix.cells[w][r].writer == w and matrix.cells[w][r].reader == r for w in "ab" for r in "abc")


def test_every_pair_has_its_writers_effect(matrix):
    writers = [matrix.cells[w][r].retention[0].writer for w in "ab" for r in "abc"]
    assert [w.value for w in writers] == pytest.approx([1.0] * 6)
    ratio = matrix.cells["a"]["b"].retention[0].ratio
    assert ratio is not None and ratio[0] == pytest.approx(0.75)


def test_the_gap_is_one_direction_less_the_other(matrix):
    assert set(matrix.gaps) == {("a", "b")} and matrix.gaps["a", "b"] == pytest.approx(0.75 - 0.25)


def test_a_matrix_reads_and_stores(matrix):
    lines = str(matrix).splitlines()
    assert lines[0].split() == ["writer", "\\", "reader", "a", "b", "c"]
    assert re.split("  +", lines[1]) == ["a", "+1.000 transfers", "+0.750 transfers", "-0.500 gate failed"]
    assert lines[0].index(" b") == lines[1].index(" +0.750") == lines[2].index(" +1.000")
    stored = json.loads(json.dumps(matrix.to_json(), allow_nan=False))
    assert stored["b"]["a"]["retention"][0]["reader"]["value"] == pytest.approx(0.25)


def test_a_matrix_needs_writers_and_readers(models):
    runs, readers = models
    for given in (({}, readers), (runs, {})):
        with pytest.raises(ValueError, match="a matrix needs at least one of each"):
            transfer_matrix(*given)


LEVELS = {"ID": 1.0, "CMP": 0.7, "POOD": 0.4, "OOD": 0.1}


def axis(rng, levels=LEVELS, traces=12, sd=0.2, **changed):
    return {name: run(spread(rng, d, sd, traces), **changed) for name, d in levels.items()}


def test_falling_retention_has_a_falling_slope_and_a_trend():
    found = shift_trend("task", axis(np.random.default_rng(0)))
    assert found.levels == tuple(LEVELS) and found.axis == "task"
    assert (
        found.slope.value == pytest.approx(-0.3, abs=0.06)
        and found.slope.low < found.slope.value < found.slope.high < 0
    )
    assert found.trend is not None and found.trend.p < 0.001 and found.trend.blocks == 12
    assert [m.value for m in found.values] == pytest.approx(list(LEVELS.values()), abs=0.15)


def test_the_trend_has_a_direction():
    """The order is stated before the run: retention that rises with distance is no evidence for it."""
    rising = dict(zip(LEVELS, reversed(LEVELS.values()), strict=True))
    found = shift_trend("task", axis(np.random.default_rng(1), rising))
    assert found.slope.low > 0 and found.trend is not None and found.trend.p > 0.99


@pytest.mark.slow
def test_a_flat_axis_is_rarely_called_a_trend():
    rng, flat = np.random.default_rng(2), dict.fromkeys(LEVELS, 0.5)
    found = [shift_trend("seed", axis(rng, flat, traces=8)) for _ in range(40)]
    assert sum(f.trend.p <= 0.05 for f in found if f.trend) <= 7
    assert sum(f.slope.low <= 0 <= f.slope.high for f in found) >= 31


def test_other_traces_a_level_have_a_slope_but_no_crossed_trend():
    levels = axis(np.random.default_rng(3))
    other = replace(levels["OOD"], details={"trace ids": [f"u{i}" for i in range(12)]})
    found = shift_trend("task", levels | {"OOD": other})
    assert found.trend is None and found.slope.groups == 24 and found.slope.high < 0
    two = shift_trend("task", dict(list(levels.items())[:2]))
    assert two.trend is None and two.slope.value < 0


def test_traces_not_measured_at_a_level_leave_the_trend_but_not_the_slope():
    d = {name: spread(np.random.default_rng(4), level, 0.1, 6) for name, level in LEVELS.items()}
    d["POOD"][2] = float("nan")
    found = shift_trend("task", {name: run(values) for name, values in d.items()})
    assert found.trend is not None and found.trend.blocks == 5 and found.slope.groups == 6


def test_an_axis_compares_like_with_like():
    rng = np.random.default_rng(5)
    levels = axis(rng)
    with pytest.raises(ValueError, match="'size' has 1 levels"):
        shift_trend("size", {"small": levels["ID"]})
    free = replace(levels["OOD"], outcome="free")
    with pytest.raises(ValueError, match="compare one outcome and operation"):
        shift_trend("size", levels | {"OOD": free})


def with_order(order: list[float], *, reader: str, ids: list[str] | None = None) -> Transfer:
    """A run whose traces lose so much when their sentences are shuffled."""
    base = run([0.5] * len(order))
    controls = compare_controls([{"full": 1.0, "shuffled": 1.0 - x} for x in order], [])
    details = {"trace ids": ids or [f"t{i}" for i in range(len(order))]}
    return replace(base, reader=reader, controls=controls, details=details)


def test_interaction_is_the_paired_difference_of_contrasts():
    rng = np.random.default_rng(6)
    hard = rng.normal(0.5, 0.3, 10)
    first = with_order((hard + 0.2 + rng.normal(0, 0.01, 10)).tolist(), reader="trained on it")
    second = with_order(hard.tolist(), reader="not")
    found = interaction(first, second, "order")
    assert found.value == pytest.approx(0.2, abs=0.02) and found.low < found.value < found.high
    assert found.high - found.low < 0.05, "paired: what the traces share drops out"
    assert found.p == pytest.approx(2 / 2**10) and found.traces == 10
    back = interaction(second, first, "order")
    assert back.value == pytest.approx(-found.value)


def test_interaction_pairs_traces_by_name():
    first = with_order([0.1, 0.2, 0.3], reader="a", ids=["x", "y", "z"])
    second = with_order([0.3, 0.1, 9.0], reader="b", ids=["z", "x", "w"])
    found = interaction(first, second, "order")
    assert found.traces == 2 and found.value == pytest.approx(0.0)
    with pytest.raises(ValueError, match="a and b share no trace"):
        interaction(first, replace(second, details={"trace ids": ["u", "v", "w"]}), "order")


def test_interaction_needs_the_contrast_in_both():
    first, bare = with_order([0.1, 0.2], reader="a"), run([0.5, 0.5])
    with pytest.raises(ValueError, match="no contrast 'telepathy'; it has order"):
        interaction(first, first, "telepathy")
    with pytest.raises(ValueError, match="the run on reader has no contrast 'order'; it has none"):
        interaction(first, bare, "order")


def test_interaction_of_two_readings():
    """One reader needs sentence 4 before sentence 9, the other does not mind their order."""

    class Ordered(Reader):
        def _score(self, text, start, block):
            found = super()._score(text, start, block)
            a, b = text.find("aaaxaae"), text.find("aaaxaaj")
            return found._replace(logprob=found.logprob - (2.0 if 0 <= b < a else 0.0))

    trace = build_trace()
    scores = written(trace, planted(trace, {5: (2.0, 0.0)})[0], [5])
    weights = {trace.sentences[5].text: 1.0}
    options = {"corrupt": True, "n": 2, "similarity": SAME_TEXT, "seed": _swapping_seed(trace)}
    strict = transfer_anchors(scores, reader=Ordered(weights=weights, name="strict"), **options)
    easy = transfer_anchors(scores, reader=Reader(weights=weights, name="easy"), **options)
    found = interaction(strict, easy, "order")
    assert found.value == pytest.approx(1.0) and found.traces == 1


def _swapping_seed(trace):
    from anchors.interventions import shuffle_sentences

    def swapped(seed):
        text = shuffle_sentences(trace, seed=seed).reasoning
        return text.find(trace.sentences[9].text) < text.find(trace.sentences[4].text)

    return next(seed for seed in range(50) if swapped(seed))
