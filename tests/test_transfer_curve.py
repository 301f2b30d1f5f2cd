"""Compression curves: areas by hand, their two extremes, gains with Holm's levels, and deletion the other way round."""

from __future__ import annotations

import numpy as np
import pytest

from anchors.scores import Scores
from anchors.stats import holm_adjusted, sign_flip_p
from anchors.transfer import transfer_anchors
from anchors.transfer.curve import ARMS, TraceCurve, compare_curves, trace_curves
from anchors.transfer.measure import Ask
from tests.made_up import SIZE, BlackBox, Reader, build_trace, planted, planted_run, written
from tests.scripted import SAME_TEXT

BUDGETS = (0.25, 0.5, 1.0)


def rows(curves, *, start=0.0, end=1.0, arm="raw"):
    """One dictionary a trace from outcomes [trace][compressor][budget]; the other arms are empty."""
    found = []
    for outcome in curves:
        outcome = np.array(outcome, dtype=float)
        empty = TraceCurve(0.0, 1.0, np.full(outcome.shape, np.nan), np.full(outcome.shape, np.nan))
        found.append({name: empty for name in ARMS} | {arm: TraceCurve(start, end, outcome, outcome / 2)})
    return found


def compare(curves, compressors, *, budgets=BUDGETS, **options):
    found = compare_curves(rows(curves, **options), compressors=compressors, budgets=budgets, seed=0)
    return {curve.compressor: curve for curve in found}


def test_the_area_is_the_trapezoid_by_hand():
    found = compare([[[0.2, 0.6, 1.0]], [[0.4, 0.8, 1.0]]], ["first"])["first"]
    mean = np.array([0.3, 0.7, 1.0])
    by_hand = 0.25 * mean[0] / 2 + 0.25 * (mean[0] + mean[1]) / 2 + 0.5 * (mean[1] + mean[2]) / 2
    assert found.area == pytest.approx(by_hand) and found.area_low <= found.area <= found.area_high
    assert [p.budget for p in found.points] == list(BUDGETS)
    assert [p.outcome.value for p in found.points] == pytest.approx(mean)
    assert [p.accuracy for p in found.points] == pytest.approx(mean / 2)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (-9.0, -2.0)])
def test_nothing_until_the_end_is_0_and_everything_at_once_is_1(start, end):
    budgets, tiny = tuple(np.linspace(0.01, 1.0, 100)), 0.006
    late = [start] * 99 + [end]
    found = compare([[late, [end] * 100]] * 3, ["late", "early"], budgets=budgets, start=start, end=end)
    assert found["late"].area == pytest.approx(0.0, abs=tiny) and found["early"].area == pytest.approx(1.0, abs=tiny)


def test_all_compressors_are_measured_against_the_same_whole_trace():
    """One that never gets to the whole trace is not flattered by an end of its own."""
    found = compare([[[0.5, 0.75, 1.0], [0.25, 0.25, 0.25]]] * 3, ["first", "equations"])
    assert found["equations"].area == pytest.approx(0.25 * 0.25 / 2 + 0.75 * 0.25)


def test_without_a_scaffold_areas_are_undefined():
    curves = [[[0.1, 0.2, 0.3], [0.3, 0.2, 0.3]]] * 3
    traces = rows(curves)
    for i, end in enumerate((1.0, -1.0, 0.5)):
        traces[i]["raw"] = traces[i]["raw"]._replace(end=end)
    found = compare_curves(traces, compressors=["anchors", "first"], budgets=BUDGETS, seed=0)
    assert all(np.isnan(c.area) and np.isnan(c.gain) and np.isnan(c.gain_low) for c in found)
    assert [p.outcome.value for p in found[0].points] == pytest.approx([0.1, 0.2, 0.3]), "outcomes are still shown"
    alone = compare([[[0.1, 0.5, 1.0]]], ["first"])["first"]
    assert np.isnan(alone.area), "one trace has no interval of its scaffold"


def noisy(rng, traces, levels):
    return [[np.clip([a + 0.05 * rng.normal(), a + 0.1, 1.0], 0, 1) for a in levels] for _ in range(traces)]


def test_the_gain_is_the_anchors_area_less_the_others():
    curves = noisy(np.random.default_rng(0), 9, [0.8, 0.5, 0.75, 0.85])
    names = ["anchors", "random", "first", "last"]
    found = compare(curves, names)
    for name in names[1:]:
        assert found[name].gain == pytest.approx(found["anchors"].area - found[name].area)
        assert found[name].gain_low <= found[name].gain <= found[name].gain_high
    assert found["random"].gain > 0.1 and found["random"].gain_low > 0 > found["last"].gain
    assert np.isnan(found["anchors"].gain) and np.isnan(found["anchors"].p)
    without = compare([row[1:] for row in curves], names[1:])
    assert all(np.isnan(c.gain) and np.isnan(c.p) for c in without.values()) and without["random"].area > 0


def test_p_and_intervals_of_gains_are_corrected_over_compressors():
    curves = noisy(np.random.default_rng(1), 9, [0.8, 0.5, 0.78, 0.75])
    names = ["anchors", "random", "first", "last"]
    found = compare(curves, names)
    outcome = np.array(curves)
    areas = np.trapezoid(np.concatenate([np.zeros((9, 4, 1)), outcome], 2), [0, *BUDGETS], axis=2)
    p = [sign_flip_p(areas[:, 0] - areas[:, c]) for c in (1, 2, 3)]
    np.testing.assert_allclose([found[n].p for n in names[1:]], holm_adjusted(p))
    pair = compare([[row[0], row[2]] for row in curves], ["anchors", "first"])["first"]
    width = {name: c.gain_high - c.gain_low for name, c in found.items()}
    strictest = min(names[1:], key=lambda n: found[n].p)
    assert strictest == "random"
    rank = sorted(names[1:], key=lambda n: p[names[1:].index(n)]).index("first")
    assert rank == 2 or width["first"] > pair.gain_high - pair.gain_low
    alone = compare([[row[0], row[1]] for row in curves], ["anchors", "random"])["random"]
    assert width["random"] > alone.gain_high - alone.gain_low, "the smallest of three p-values is held to 5 % / 3"


def test_gains_of_equal_compressors_are_rarely_significant():
    rng, fired = np.random.default_rng(2), 0
    for _ in range(100):
        found = compare(noisy(rng, 8, [0.5] * 4), ["anchors", "a", "b", "c"])
        fired += any(found[name].p <= 0.05 for name in "abc")
    assert fired <= 12, "5 % over the family"


def test_only_traces_with_every_measured_compressor_are_compared():
    curves = [[[0.2, 0.6, 1.0], [0.1, 0.1, 1.0]], [[0.4, 0.8, 1.0], [np.nan] * 3], [[0.2, 0.6, 1.0], [0.1, 0.1, 1.0]]]
    found = compare(curves, ["anchors", "first"])
    assert [p.outcome.value for p in found["anchors"].points] == pytest.approx([0.2, 0.6, 1.0])
    never = compare([[row[0], [np.nan] * 3] for row in curves], ["anchors", "first"])
    assert set(never) == {"anchors"} and never["anchors"].points[0].outcome.value == pytest.approx(0.8 / 3)
    apart = compare([[[0.2, 0.6, 1.0], [np.nan] * 3], [[np.nan] * 3, [0.2, 0.6, 1.0]]], ["anchors", "first"])
    assert apart == {}, "no trace has both"


@pytest.fixture(scope="module")
def carried():
    """Sentence 12 carries all of 2 nats; sentences of four words, 16 of them, so a budget of 1/4 keeps four."""
    trace = build_trace()
    values, weights = planted(trace, {12: (2.0, 2.0)})
    reader = Reader(weights=weights)
    found = trace_curves(
        trace, Ask(reader, "forced", "7", 4, 0), compressors=("anchors", "first", "last", "reader_anchors"),
        budgets=BUDGETS, scores=written(trace, values), reader_scores=Scores.of(trace, "reader", -values), seed=0,
    )  # fmt: skip
    return found


def test_what_is_kept_is_read(carried):
    raw = carried["raw"]
    assert (raw.start, raw.end) == (-9.0, -7.0)
    np.testing.assert_allclose(raw.outcome, [[-7, -7, -7], [-9, -9, -7], [-7, -7, -7], [-9, -9, -7]])
    np.testing.assert_allclose(raw.probability, np.exp(2 * raw.outcome))


def test_what_would_be_kept_is_deleted(carried):
    deletion = carried["deletion"]
    assert (deletion.start, deletion.end) == (-7.0, -9.0)
    np.testing.assert_allclose(deletion.outcome, [[-9, -9, -9], [-7, -7, -9], [-9, -9, -9], [-7, -7, -9]])


def test_in_the_deletion_arm_too_a_better_compressor_is_higher(carried):
    found = compare_curves(
        [carried] * 3, compressors=("anchors", "first", "last", "reader_anchors"), budgets=BUDGETS, seed=0
    )
    area = {(c.arm, c.compressor): c.area for c in found}
    for arm in ("raw", "deletion"):
        assert area[arm, "anchors"] == pytest.approx(1 - 0.25 / 2) and area[arm, "first"] == pytest.approx(0.25)
        gains = {c.compressor: c.gain for c in found if c.arm == arm}
        assert gains["first"] == pytest.approx(0.625) and gains["last"] == pytest.approx(0.0)


def test_sentences_that_state_the_answer_go_first_in_the_stripped_arm():
    trace = build_trace(texts={12: "So it must be 7."})
    values, weights = planted(trace, {12: (2.0, 2.0), 3: (1.0, 0.5)})
    found = trace_curves(
        trace, Ask(Reader(weights=weights), "forced", "7", 4, 0), compressors=("anchors",), budgets=(0.25, 1.0),
        scores=written(trace, values), reader_scores=None, seed=0,
    )  # fmt: skip
    np.testing.assert_allclose(found["raw"].outcome, [[-6.5, -6.5]])
    np.testing.assert_allclose(found["stripped"].outcome, [[-8.5, -8.5]])
    assert found["stripped"].end == -8.5 and found["raw"].end == -6.5


def test_a_compressor_that_lacks_what_it_needs_is_not_measured():
    trace = build_trace()
    found = trace_curves(
        trace, Ask(BlackBox(), "free", "7", 4, 0), compressors=("first", "reader_anchors", "confidence", "draft"),
        budgets=BUDGETS, scores=written(trace, np.ones(SIZE)), reader_scores=None, seed=0,
    )  # fmt: skip
    missing = {arm: np.isnan(curve.outcome).all(1).tolist() for arm, curve in found.items()}
    assert missing["raw"] == [False, True, True, False]
    assert missing["deletion"] == [False, True, True, True], "words that were kept are no sentences to delete"


def test_a_run_has_all_arms_and_the_transfer_gap():
    scores, weights, _ = planted_run([{10: (2.0, 1.0 + i / 10), 4: (0.5, 3.0)} for i in range(4)])
    run = transfer_anchors(
        scores, reader=Reader(weights=weights), compressors=["anchors", "reader_anchors", "random"], n=2, k=1,
        budgets=(0.07, 0.5, 1.0), similarity=SAME_TEXT,
    )  # fmt: skip
    found = {(c.arm, c.compressor): c for c in run.curve}
    assert set(found) == {(arm, name) for arm in ARMS[:3] for name in ("anchors", "reader_anchors", "random")}
    gap = found["raw", "reader_anchors"].gain
    assert gap < 0, "the reader's own scores would have kept its heaviest sentence first"
    full = found["raw", "anchors"].points[-1].outcome.value
    assert full == pytest.approx(-9 + 4.15) and found["raw", "anchors"].points[0].outcome.value == pytest.approx(-7.85)
    handed = transfer_anchors(
        scores, reader=Reader(weights=weights), compressors=["first"], outcome="handover", n=2, similarity=SAME_TEXT
    )
    assert handed.curve[0].points[-1].outcome.value == pytest.approx(full), "whole traces are forced where they can be"


def test_all_means_a_users_own_compressor_too():
    from anchors.compression import COMPRESSORS, compressor

    @compressor("mine", unit="sentence")
    def mine(ctx):
        return np.arange(len(ctx.trace), dtype=float)

    try:
        scores, weights, _ = planted_run([{10: (2.0, 1.0)}] * 2)
        run = transfer_anchors(
            scores, reader=Reader(weights=weights), compressors="all", budgets=(0.5, 1.0), n=2, similarity=SAME_TEXT
        )
        assert "mine" in {c.compressor for c in run.curve}
    finally:
        del COMPRESSORS["mine"]


def test_short_traces_have_the_best_of_all_subsets_as_their_ceiling():
    """Three sentences carry the answer, two of them only together: no ranking of single sentences finds the pair."""
    traces = [build_trace(i, [4] * 6) for i in range(3)]
    scores, weights, together = [], {}, {}
    for trace in traces:
        texts = [s.text for s in trace.sentences]
        weights |= {texts[1]: 1.0}
        together[texts[3], texts[5]] = 4.0
        scores.append(written(trace, [0.0, 2.0, 0.0, 0.1, 0.0, 0.1], [1]))
    scores.append(written(build_trace(9), np.ones(SIZE), [5]))
    run = transfer_anchors(
        scores, reader=Reader(weights=weights, together=together), compressors=["anchors", "first", "best_subset"],
        budgets=(0.17, 0.34, 1.0), n=2, similarity=SAME_TEXT,
    )  # fmt: skip
    short = {c.compressor: c for c in run.curve if c.arm == "short"}
    assert set(short) == {"anchors", "first", "best_subset"}
    best = [p.outcome.value for p in short["best_subset"].points]
    assert best == pytest.approx([-8.0, -5.0, -4.0]) and short["best_subset"].points[0].outcome.n == 3
    assert [p.outcome.value for p in short["anchors"].points] == pytest.approx([-8.0, -8.0, -4.0])
    assert short["best_subset"].area > short["anchors"].area
    raw = {c.compressor: c for c in run.curve if c.arm == "raw"}
    assert "best_subset" not in raw and raw["anchors"].points[0].outcome.n == 4, "the long trace has no best subset"


@pytest.mark.slow
def test_every_compressor_runs_on_a_real_reader(problem_trace):
    from anchors.compression import COMPRESSORS
    from anchors.models import load_model

    every = list(COMPRESSORS)
    values = np.linspace(1.0, 0.1, len(problem_trace))
    scores = written(problem_trace, values)
    model = load_model("lab/reasoner-b", check=False)
    found = trace_curves(
        problem_trace, Ask(model, "forced", problem_trace.answer, 2, 0), compressors=every, budgets=(0.3, 1.0),
        scores=scores, reader_scores=scores, seed=0,
    )  # fmt: skip
    for c, name in enumerate(every):
        assert not np.isnan(found["raw"].outcome[c]).any() and not np.isnan(found["stripped"].outcome[c]).any(), name
    whole = found["raw"].outcome[[n not in ("equations", "answer_line") for n in every], -1]
    np.testing.assert_allclose(whole, found["raw"].end, atol=1e-3)
