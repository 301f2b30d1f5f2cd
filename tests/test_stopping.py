"""The rule that stops a sweep: counts, decisions, and where the next rollouts go."""

from __future__ import annotations

import numpy as np
import pytest

from anchors import resample
from anchors.lab import world_trace
from anchors.lab.oracle import WorldModel
from anchors.lab.worlds import load_world
from anchors.outcomes import tally_answers
from anchors.reuse import passes_on, reuse_rollouts
from anchors.stats import Arrivals
from anchors.stopping import Anchors, Draws, count_arrivals, decide, expected_tokens, leaves_at, next_targets

WORLD = load_world("expression")


def rows(*counts):
    """Arrivals from (passed, left, left_hit, kept, kept_hit) rows."""
    return Arrivals(*np.array(counts, dtype=int).T)


ANCHOR, NOTHING, UNKNOWN = (0, 80, 10, 80, 75), (100, 100, 50, 300, 150), (2, 2, 1, 4, 2)


def test_counts_are_those_of_reused_rollouts():
    trace = world_trace(WORLD, seed=1)
    run = resample(trace, WorldModel(WORLD), n=12, progress=False)
    plain = [r for k in range(len(trace) + 1) for r in run.at(k)]
    leave = [leaves_at(r.text, r.position, trace.text, trace.boundaries) for r in plain]
    boundaries = enumerate(tally_answers(run).hit)
    hits = {(k, r.sample): h for k, row in boundaries for r, h in zip(run.at(k), row, strict=True)}
    hit = [hits[r.position, r.sample] for r in plain]
    draws = Draws(*(np.array(x) for x in ([r.position for r in plain], leave, hit, [r.tokens for r in plain])))
    counts = count_arrivals(draws, len(trace))
    reused = reuse_rollouts(run)
    tally = tally_answers(reused)
    for i in range(len(trace)):
        gone = ~passes_on(reused, i)
        assert (counts.left_hit[i], counts.left[i]) == tally.reached(i, gone)
        assert counts.passed[i] == (~gone).sum()
        assert (counts.kept_hit[i], counts.kept[i]) == tally.reached(i + 1)


def test_named_dropped_and_open():
    found = decide(rows(ANCHOR, NOTHING, UNKNOWN, (0, 0, 0, 0, 0)), Anchors())
    assert found.named.tolist() == [True, False, False, False]
    assert found.dropped.tolist() == [False, True, False, False]
    assert found.open.tolist() == [False, False, True, True]


def test_more_doubt_drops_later_and_a_smaller_minimum_too():
    counts = rows((20, 30, 15, 60, 30))
    assert decide(counts, Anchors()).dropped.all()
    assert not decide(counts, Anchors(doubt=4.0)).dropped.any()
    assert not decide(counts, Anchors(minimum=0.1)).dropped.any()


def test_what_is_surely_smaller_than_k_named_ones_is_dropped():
    some = (0, 60, 26, 60, 36)
    assert decide(rows(ANCHOR, some), Anchors(k=2)).open.tolist() == [False, True]
    huge = (0, 400, 2, 400, 398)
    found = decide(rows(huge, some), Anchors(k=1))
    assert found.dropped.tolist() == [False, True] and not found.open.any()


def test_two_named_sentences_about_the_kth_place_stay_open_until_their_bounds_part():
    near = rows((0, 60, 5, 60, 50), (0, 60, 6, 60, 49))
    assert decide(near, Anchors(k=1)).open.all()
    assert not decide(near, Anchors(k=2)).open.any()
    assert not decide(near, Anchors(k=1, margin=0.9)).open.any()
    apart = rows((0, 400, 4, 400, 396), (0, 400, 120, 400, 280))
    assert not decide(apart, Anchors(k=1)).open.any()


def draws_of(own, *, leave=0, hit=0.5, tokens=10):
    start = np.repeat(np.arange(len(own)), own)
    rank = np.concatenate([np.arange(n) for n in own])
    return Draws(start, np.minimum(start + leave, len(own) - 1), rank % 2 < 2 * hit, np.full(len(start), tokens))


def test_the_first_round_is_equal_and_later_ones_only_add():
    stop = Anchors(first=5)
    own = np.zeros(4, dtype=int)
    empty = Draws(*(np.zeros(0, dtype=t) for t in (int, int, bool, int)))
    first = next_targets(own, empty, stop=stop, n=100)
    assert first is not None and first.tolist() == [5] * 4
    assert next_targets(own, empty, stop=stop, n=3).tolist() == [3] * 4  # type: ignore[union-attr]
    then = next_targets(first, draws_of(first), stop=stop, n=100)
    assert then is not None and (then >= first).all() and then.sum() >= first.sum() + 8
    again = next_targets(first, draws_of(first), stop=stop, n=100)
    np.testing.assert_array_equal(then, again)
    assert next_targets(np.full(4, 3), draws_of([3] * 4), stop=stop, n=3) is None


def test_rollouts_go_to_the_boundaries_of_what_is_open():
    own = np.array([40, 40, 4, 4, 4])
    start = np.repeat(np.arange(5), own)
    hit = np.arange(len(start)) % 2 == 0
    draws = Draws(start, np.minimum(start, 4), np.where(start < 2, True, hit), np.full(len(start), 10))
    target = next_targets(own, draws, stop=Anchors(), n=100)
    assert target is not None
    added = target - own
    assert added[:1].sum() == 0 and added[2:].sum() > 0


def test_nothing_open_stops():
    own = np.full(3, 90)
    start = np.repeat(np.arange(3), own)
    draws = Draws(start, start, np.ones(len(start), dtype=bool), np.full(len(start), 10))
    assert next_targets(own, draws, stop=Anchors(), n=100) is None


def test_expected_tokens_lie_on_a_line_between_boundaries_that_were_drawn_at():
    draws = Draws(*(np.array(x) for x in ([0, 0, 2], [0, 0, 2], [True, True, True], [30, 50, 20])))
    assert expected_tokens(draws, 4).tolist() == [40.0, 30.0, 20.0, 20.0]


@pytest.mark.parametrize(
    "wrong, words",
    [({"k": 0}, "k is 0"), ({"first": 0}, "first is 0"), ({"fdr": 1.0}, "fdr is 1.0"), ({"minimum": 0.0}, "minimum is 0.0"),
     ({"growth": 0.0}, "growth is 0.0"), ({"margin": -1.0}, "margin is -1.0"), ({"doubt": 0.0}, "doubt is 0.0")],
)  # fmt: skip
def test_values_out_of_range_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Anchors(**wrong)
