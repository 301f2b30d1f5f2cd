"""Votes at equal tokens: by hand, and on made-up pools whose right comparison is known."""

from __future__ import annotations

import numpy as np
import pytest

from anchors.confidence import Definition, trace_confidence
from anchors.equal_tokens import Pool, compare_votes, majority_curve, majority_within
from anchors.online import EarlyStop, StoredTrace
from anchors.voting import majority_at, vote

WINDOW = Definition(window=4, tail=4)


def made(answer, level, rng, *, length=20, dip=0.0):
    """A trace of this confidence whose middle is lower by `dip`."""
    tokens = level + 0.01 * rng.normal(size=length)
    tokens[8:12] -= dip
    return StoredTrace(answer, trace_confidence(tokens, definition=WINDOW), length + 1)


def pools(n_problems, *, p, dip, seed=0, size=24):
    """Problems whose wrong traces dip: local confidence knows, the mean hardly does."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_problems):
        right = rng.random(size) < p
        found.append(Pool("7", [made("7" if r else "3", 6.0, rng, dip=0.0 if r else dip) for r in right]))
    return found


def test_the_curve_is_the_majority_vote_of_every_beginning():
    rng = np.random.default_rng(0)
    for _ in range(50):
        answers = [None if a == 3 else str(a) for a in rng.integers(0, 4, size=9)]
        expected = [vote(answers[:m]).answer == "1" for m in range(10)]
        assert majority_curve(answers, "1").tolist() == expected


def test_expected_tokens_are_equal():
    correct, costs = np.array([0.0, 1.0, 0.0, 1.0]), np.array([10, 30, 20])
    assert [majority_within(correct, costs, t) for t in (0, 5, 10, 25, 40, 50, 60, 99)] == [
        0.0, 0.5, 1.0, 0.5, 0.0, 0.5, 1.0, 1.0,
    ]  # fmt: skip


def test_where_wrong_traces_dip_local_votes_win_and_online_saves_tokens():
    rules = {"low": EarlyStop(4, 0.5, 12, None), "high": EarlyStop(4, 0.9, 12, None)}
    found = {c.method: c for c in compare_votes(pools(20, p=0.4, dip=3.0), n=12, redraws=8, rules=rules)}
    assert found["lowest @ 0.1"].gain.mean() > 0.3
    assert found["lowest @ 0.1"].accuracy.mean() > 0.95
    assert (found["majority"].gain == 0).all() and (found["majority"].tokens == 12 * 21).all()
    assert found["online low"].saved.mean() > 0.1 and found["online low"].gain.mean() > 0.1
    assert (found["online low"].tokens < 12 * 21).all()
    np.testing.assert_allclose(1 - found["online low"].tokens / (12 * 21), found["online low"].saved)


def test_where_confidence_knows_nothing_nothing_is_gained():
    found = {c.method: c for c in compare_votes(pools(30, p=0.6, dip=0.0), n=9, redraws=16)}
    for method in ("weighted lowest", "weighted mean", "lowest @ 0.9"):
        gain = found[method].gain
        assert abs(gain.mean()) < 4 * gain.std() / np.sqrt(30) + 0.02
    assert found["lowest @ 0.1"].gain.mean() < -0.05  # one vote of nine


def test_the_majority_of_redraws_is_the_exact_one():
    many = pools(6, p=0.5, dip=1.0, size=15)
    (found,) = (c for c in compare_votes(many, n=5, redraws=800, kinds=()) if c.method == "majority")
    exact = [majority_at([t.answer for t in pool.traces], "7", 5) for pool in many]
    np.testing.assert_allclose(found.accuracy, exact, atol=4 * 0.5 / np.sqrt(800))


def test_equal_answers_are_counted_together():
    rng = np.random.default_rng(0)
    pool = Pool("0.5", [made(a, 6.0, rng) for a in ("1/2", "0.5", "3", "3", "1/2", None)])
    (found,) = compare_votes([pool], n=6, redraws=2, kinds=())
    assert found.accuracy.tolist() == [1.0]


def test_a_pool_must_hold_what_is_drawn():
    with pytest.raises(ValueError, match="n is 25 and a pool holds 24"):
        compare_votes(pools(1, p=0.5, dip=0.0), n=25)
