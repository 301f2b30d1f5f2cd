"""Evidence and intervals that hold at any time: against direct computation, enumeration, and monitoring after every draw."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from anchors.stats import (
    Arrivals,
    anytime_interval,
    anytime_p,
    anytime_proportion,
    difference_interval,
    log_evidence,
)
from anchors.stats.sequences import BETS, STRENGTH, WEIGHTS


def rows(*counts):
    """Arrivals from (passed, left, left_hit, kept, kept_hit) rows."""
    return Arrivals(*np.array(counts, dtype=int).T)


def directly(row, m, bets):
    """ln e by plain loops on a fine grid of p; the beta mixture by its sequential predictions."""
    passed, left, hit, kept, kept_hit = row
    best = math.inf
    for p in np.linspace(1e-4, 1 - 1e-4, 2000).tolist():
        up, down = p - m, 1 - p + m
        if up <= 0 or down <= 0:
            continue
        capitals = []
        for sign, bet, weight in bets:
            b = bet / down if sign > 0 else -bet / up
            log = passed * math.log(1 - b * m) + hit * math.log(1 - b * down) + (left - hit) * math.log(1 + b * up)
            capitals.append(math.log(weight) + log)
        top = max(capitals)
        capital = top + math.log(sum(math.exp(c - top) for c in capitals))
        ratio = 0.0
        for t in range(kept_hit):
            ratio += math.log((STRENGTH * p + t) / (STRENGTH + t) / p)
        for t in range(kept - kept_hit):
            ratio += math.log((STRENGTH * (1 - p) + t) / (STRENGTH + kept_hit + t) / (1 - p))
        best = min(best, capital + ratio)
    return best


@pytest.mark.parametrize("row", [(60, 40, 4, 100, 90), (0, 12, 6, 9, 3), (5, 0, 0, 7, 7), (0, 20, 0, 20, 20)])
@pytest.mark.parametrize("m", [0.0, 0.3, -0.2])
def test_evidence_is_what_its_definition_says(row, m):
    pairs = list(zip(BETS, WEIGHTS, strict=True))
    both = [(sign, b, w / 2) for sign in (1, -1) for b, w in pairs]
    assert log_evidence(rows(row), m)[0] == pytest.approx(directly(row, m, both), abs=0.02)


@pytest.mark.parametrize("share, p, q", [(0.5, 0.6, 0.2), (1.0, 0.5, 0.5), (0.2, 0.9, 0.4)])
def test_the_mean_of_evidence_against_the_truth_is_at_most_one(share, p, q):
    """Every outcome of 6 arrivals and 4 rollouts of the next boundary, with its probability."""
    arrivals, own, outcomes = 6, 4, []
    for left in range(arrivals + 1):
        kept = own + arrivals - left
        for hit, kept_hit in itertools.product(range(left + 1), range(kept + 1)):
            chance = math.comb(arrivals, left) * share**left * (1 - share) ** (arrivals - left)
            chance *= math.comb(left, hit) * q**hit * (1 - q) ** (left - hit)
            chance *= math.comb(kept, kept_hit) * p**kept_hit * (1 - p) ** (kept - kept_hit)
            outcomes.append((chance, (arrivals - left, left, hit, kept, kept_hit)))
    chances, counts = zip(*outcomes, strict=True)
    assert sum(chances) == pytest.approx(1)
    evidence = np.exp(log_evidence(rows(*counts), share * (p - q)))
    assert 0.1 < np.dot(chances, evidence) <= 1.0
    false = np.exp(log_evidence(rows(*counts), share * (p - q) - 0.6))
    assert np.dot(chances, false) > 1.0


def monitored(share, p, q, looks, runs, seed):
    """Counts after every look of `runs` sequences: one arrival at each of the two boundaries a look."""
    rng = np.random.default_rng(seed)
    left = rng.random((looks, runs)) < share
    hit = left & (rng.random((looks, runs)) < q)
    passed_hit = ~left & (rng.random((looks, runs)) < p)
    own_hit = rng.random((looks, runs)) < p
    looked = np.arange(1, looks + 1)[:, None]
    left, hit = left.cumsum(0), hit.cumsum(0)
    kept = looked + looked - left
    return [
        Arrivals(*x)
        for x in zip(looked - left, left, hit, kept, (passed_hit + own_hit.astype(int)).cumsum(0), strict=True)
    ]


@pytest.mark.parametrize("share, p, q", [(1.0, 0.5, 0.5), (0.4, 0.8, 0.8), (0.7, 0.1, 0.1)])
def test_looking_after_every_rollout_names_no_more_than_its_level(share, p, q):
    ever = np.zeros(200, dtype=bool)
    fixed = np.zeros(200, dtype=bool)
    for counts in monitored(share, p, q, 80, 200, seed=1)[1::2]:
        ever |= anytime_p(counts) <= 0.05
        with np.errstate(invalid="ignore"):
            low, high = difference_interval(counts.kept_hit, counts.kept, counts.left_hit, counts.left)
        fixed |= (low > 0) | (high < 0)
    assert ever.mean() <= 0.05
    assert fixed.mean() > 0.12, "an interval for a fixed number should fail here, or this test shows nothing"


def test_the_interval_covers_when_drawing_stops_at_the_worst_moment():
    """Stop as soon as the interval is away from the truth by as much as can be: it must still cover."""
    share, p, q = 0.5, 0.8, 0.4
    truth, missed = share * (p - q), np.zeros(150, dtype=bool)
    for counts in monitored(share, p, q, 60, 150, seed=2)[4::10]:
        low, high = anytime_interval(counts)
        missed |= (truth < low - 1e-9) | (truth > high + 1e-9)
    assert missed.mean() <= 0.05


def test_intervals_nest_and_mirror_and_leave_out_what_was_not_measured():
    counts = rows((30, 20, 4, 40, 35), (0, 0, 0, 5, 5), (4, 3, 1, 0, 0), (9, 0, 0, 9, 4))
    low, high = anytime_interval(counts)
    wider = anytime_interval(counts, level=0.99)
    assert (wider.low[[0, 3]] <= low[[0, 3]]).all() and (wider.high[[0, 3]] >= high[[0, 3]]).all()
    assert np.isnan(low[[1, 2]]).all() and np.isnan(anytime_p(counts)[[1, 2]]).all()
    flipped = counts._replace(left_hit=counts.left - counts.left_hit, kept_hit=counts.kept - counts.kept_hit)
    np.testing.assert_allclose(anytime_interval(flipped).low[[0, 3]], -high[[0, 3]], atol=1e-3)
    assert counts.difference[3] == 0 and low[3] < 0 < high[3]


def test_the_price_of_any_time_is_less_than_twice_the_width():
    counts = rows((50, 50, 25, 150, 75), (0, 100, 50, 100, 50))
    low, high = anytime_interval(counts)
    with np.errstate(invalid="ignore"):
        fixed = difference_interval(50, 100, 50, 100)
    assert (high - low)[1] < 2 * (fixed.high - fixed.low)
    assert (high - low)[0] < 0.7 * (high - low)[1]


def test_a_proportion_is_covered_at_every_time():
    rng = np.random.default_rng(0)
    hits = (rng.random((100, 300)) < 0.15).cumsum(0)
    missed = np.zeros(300, dtype=bool)
    for n in range(4, 100, 3):
        low, high = anytime_proportion(hits[n - 1], np.full(300, n))
        missed |= (low > 0.15) | (high < 0.15)
    assert missed.mean() <= 0.05
    assert np.isnan(anytime_proportion([0], [0])).all()
