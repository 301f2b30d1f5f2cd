"""The statistics of the closest prior study: partners, signed differences, permutation within sentence, percentile."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, ttest_1samp

from anchors.transfer import transfer_anchors
from anchors.transfer.pairs import Cell, PairRow, cells, pair_statistics, partner_of
from tests.made_up import NO, SIZE, YES, BlackBox, build_trace, planted, rollouts, written
from tests.scripted import SAME_TEXT


def cell(kept: float, replaced: float, n: int = 20) -> Cell:
    return Cell((round(kept * n), n), (round(replaced * n), n))


PLAIN = cell(0.5, 0.5)


@pytest.mark.parametrize(
    ("anchor", "anchors", "missing", "partner"),
    [
        (5, [5], [], 4),
        (5, [5, 4], [], 6),
        (5, [5], [4, 6], 3),
        (5, [5, 3, 4, 6, 7], [], 2),
        (5, [5, *range(1, 10)], [], None),
        (0, [0], [], 1),
        (9, [9, 8], [], 7),
        (5, [5], [1, 2, 3, 4, 6, 7, 8], 9),
        (5, [5], [1, 2, 3, 4, 6, 7, 8, 9], None),
    ],
)
def test_the_partner_is_the_nearest_measured_sentence_within_four(anchor, anchors, missing, partner):
    importance = np.zeros(12 if anchor == 5 else 10)
    importance[missing] = np.nan
    assert partner_of(anchor, anchors, importance) == partner


def test_importance_and_d_by_hand():
    assert cell(0.75, 0.25).importance == 0.5 and np.isnan(Cell((3, 4), (0, 0)).importance)
    row = PairRow(0, -1.0, cell(0.25, 0.75), cell(0.5, 0.25))
    assert row.d == pytest.approx(0.75)


def test_a_small_example_by_hand():
    """Three traces: one anchor of each sign and one whose only neighbours are anchors or too far."""
    first = [PLAIN, cell(0.9, 0.4), cell(0.6, 0.5), PLAIN]
    second = [cell(0.2, 0.7), cell(0.5, 0.4), PLAIN, cell(0.55, 0.5)]
    third = [cell(0.9, 0.1)]
    traces = [([1], [1.0], first), ([0, 3], [-1.0, 1.0], second), ([0], [1.0], third)]
    found = pair_statistics(traces)
    d = [0.5 - 0.0, 0.5 + 0.1, 0.05 - 0.0]
    assert found["pairs"] == 3 and found["mean d"] == pytest.approx(np.mean(d))
    means = [d[0], (d[1] + d[2]) / 2]
    assert found["trace means"].value == pytest.approx(np.mean(means))
    interval = ttest_1samp(means, 0).confidence_interval(0.95)
    assert (found["trace means"].low, found["trace means"].high) == pytest.approx(tuple(interval))
    percentiles = [3.5 / 4, np.mean([0.5 / 4, 2.5 / 4]), 0.5]
    assert found["percentile"] == pytest.approx(np.mean(percentiles))
    assert found["percentile interval"][0] < found["percentile"] < found["percentile interval"][1]


def test_the_second_partner_is_the_next_nearest():
    """The nearest partner moves with the anchor, the next one does not: d rests on the choice, and both are shown."""
    row = [cell(0.5, 0.5), cell(0.9, 0.4), cell(0.8, 0.3), PLAIN]
    assert partner_of(1, [1], np.zeros(4), rank=1) == 2 and partner_of(0, [0], np.zeros(1), rank=1) is None
    found = pair_statistics([([1], [1.0], row)] * 3)
    assert found["mean d"] == pytest.approx(0.5) and found["second partner"]["mean d"] == pytest.approx(0.0)
    assert found["second partner"]["pairs"] == 3 and np.isfinite(found["second partner"]["p within sentence"])
    lonely = pair_statistics([([0], [1.0], row[:2])] * 2)
    assert lonely["pairs"] == 2 and lonely["second partner"]["pairs"] == 0


def test_an_effect_is_seen_and_chance_is_not():
    big = [([3], [1.0], [PLAIN] * 3 + [cell(0.9, 0.1)] + [PLAIN] * 3)] * 4
    found = pair_statistics(big)
    assert found["p within sentence"] < 0.005 and found["percentile"] == pytest.approx(6.5 / 7)
    none = pair_statistics([([3], [1.0], [PLAIN] * 7)] * 4)
    assert none["p within sentence"] == 1.0 and none["percentile"] == pytest.approx(0.5)
    assert none["percentile p"] == 1.0


def test_nothing_to_pair_is_not_measured():
    found = pair_statistics([([0], [1.0], [PLAIN])])
    assert found["pairs"] == 0 and np.isnan(found["mean d"]) and np.isnan(found["p within sentence"])
    assert np.isnan(found["trace means"].value)


def test_the_permutation_p_is_uniform_where_nothing_matters():
    rng, p = np.random.default_rng(0), []
    for seed in range(200):
        traces = []
        for _ in range(3):
            rates = rng.uniform(0.2, 0.8, 9)
            row = [Cell((int(rng.binomial(60, r)), 60), (int(rng.binomial(40, r)), 40)) for r in rates]
            traces.append(([2, 6], [1.0, -1.0], row))
        p.append(pair_statistics(traces, seed=seed)["p within sentence"])
    assert kstest(p, "uniform").pvalue > 0.001
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.11


def test_cells_count_kept_and_replaced_rollouts():
    trace = build_trace(words=[4] * 3)
    own = [s.text for s in trace.sentences]
    other = "Quite another thing to say."
    rows = [
        [f" {own[0]}{YES}", f" {other}{NO}", f" {other}{YES}", NO, NO, f" {other}{YES}"],
        [f" {other}{YES}", f" {own[1]}{NO}", f" {other}{NO}", f" {other}{YES}"],
        [YES, NO],
        [],
    ]
    found = cells(rollouts(trace, rows), "7", SAME_TEXT)
    assert found[0] == Cell((1, 2), (1, 3)), "even samples kept, odd ones replaced; an end at once is a replacement"
    assert found[1] == Cell((1, 1), (1, 1)) and found[2] == Cell((0, 0), (0, 1))
    assert np.isnan(found[2].importance)


def test_the_preset_runs_on_a_black_box():
    """Every continuation of this reader writes something else, so kept and replaced differ by the sentence's chance."""
    traces = [build_trace(i) for i in range(3)]
    scores = [written(t, planted(t, {5: (2.0, 0.0)})[0], [5]) for t in traces]
    reader = BlackBox({t.sentences[5].text: 0.25 for t in traces})
    run = transfer_anchors(scores, reader=reader, preset="pairs", n=16, similarity=SAME_TEXT)
    assert run.pairs is not None and run.pairs["pairs"] == 3
    assert run.pairs["mean d"] == pytest.approx(0.25) == run.pairs["trace means"].value
    assert run.pairs["percentile"] == pytest.approx((SIZE - 0.5) / SIZE)
    plain = transfer_anchors(scores, reader=reader, n=16, similarity=SAME_TEXT)
    assert plain.pairs is None and "pairs preset" in str(run) and "pairs preset" not in str(plain)


def test_rollouts_of_the_reader_that_are_given_are_used():
    trace = build_trace()
    values, _ = planted(trace, {5: (2.0, 0.0)})
    rows = [[NO] * 8] * 6 + [[YES] * 8] * (SIZE - 5)
    reader = BlackBox()
    run = transfer_anchors(
        written(trace, values, [5]), reader=reader, preset="pairs", n=8, similarity=SAME_TEXT,
        reader_runs=[rollouts(trace, rows)],
    )  # fmt: skip
    assert run.pairs is not None and run.pairs["mean d"] == 1.0
    assert run.gate.conditions[0].found.endswith("0.00"), "P(outcome) without the trace is read from them too"


@pytest.mark.slow
def test_neighbours_share_no_rollout_so_the_permutation_keeps_its_level():
    """Anchor and partner are adjacent, as they mostly are; nothing is planted."""
    trace, fired = build_trace(words=[4] * 4), 0
    for repetition in range(120):
        rng = np.random.default_rng(repetition)
        pairs = []
        for _ in range(8):
            rows = [[YES if rng.random() < 0.5 else NO for _ in range(24)] for _ in range(5)]
            pairs.append(([1], [1.0], cells(rollouts(trace, rows), "7", SAME_TEXT)))
        fired += pair_statistics(pairs, seed=repetition)["p within sentence"] < 0.05
    assert fired <= 120 * 0.05 + 3 * np.sqrt(120 * 0.05 * 0.95)
