"""Control sentences: each caliper does what it says, sets are distinct and as large as they can be."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchors.trace import Trace
from anchors.transfer import Calipers
from anchors.transfer.matching import VARIABLES, Covariates, Match, balance, candidates, covariates, match_sets
from tests.made_up import BlackBox, Reader, build_trace

WIDE = Calipers(length=9.0, positions=99, relative=1.0, category=False, answer_mention=False, numbers=False)


def columns(length, *, category=None, mention=None, numbers=None):
    n = len(length)
    return Covariates(
        np.array(length, dtype=float),
        np.arange(n, dtype=float),
        tuple(category or ["x"] * n),
        np.array(mention or [False] * n, dtype=bool),
        np.array(numbers or [0] * n, dtype=float),
    )


@pytest.mark.parametrize(
    ("length", "fits"), [(20, [16, 17, 18, 19, 21, 22, 23, 24]), (10, [8, 9, 11, 12]), (3, [2, 4]), (1, [2])]
)
def test_length_is_within_a_fifth_and_one_token_is_always_allowed(length, fits):
    others = [n for n in range(1, 40) if n != length]
    found = columns([length, *others])
    allowed = candidates(found, 0, (), replace(WIDE, length=0.2))
    assert sorted(int(found.length[i]) for i in allowed) == fits


@pytest.mark.parametrize(("size", "reach"), [(20, 4), (40, 4), (50, 5), (100, 10)])
def test_position_is_within_four_sentences_or_a_tenth_of_the_trace(size, reach):
    found, anchor = columns([5] * size), size // 2
    allowed = candidates(found, anchor, (), replace(WIDE, positions=4, relative=0.1))
    assert sorted(allowed) == [i for i in range(anchor - reach, anchor + reach + 1) if i != anchor]


@pytest.mark.parametrize("flag", ["category", "answer_mention", "numbers"])
def test_flags_ask_for_equality_and_can_be_waived(flag):
    different = {"category": ["x", "x", "y"], "answer_mention": [1, 1, 0], "numbers": [2, 2, 1]}
    name = {"answer_mention": "mention"}.get(flag, flag)
    found = columns([5, 5, 5], **{name: different[flag]})
    assert sorted(candidates(found, 0, (), WIDE)) == [1, 2]
    assert candidates(found, 0, (), replace(WIDE, **{flag: True})) == [1]


def test_nearest_in_length_comes_first_then_in_position():
    found = columns([5, 6, 5, 9, 5, 5, 5])
    assert candidates(found, 4, {5}, WIDE) == [2, 6, 0, 1, 3]


def test_covariates_of_a_trace_are_the_readers():
    texts = {2: "We have 3 of 12.", 5: "So it is 7."}
    trace = build_trace(words=[4, 4, 5, 4, 9, 4], texts=texts)
    found = covariates(trace, Reader(), answer="7")
    assert found.length.tolist() == [4, 4, 5, 4, 9, 4] and found.position.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.mention.tolist() == [False] * 5 + [True]
    assert found.numbers.tolist() == [0, 0, 2, 0, 0, 1]
    assert set(found.category) == {"active_computation"}
    assert covariates(trace, BlackBox(), answer="7").length.tolist() == [len(s.text) for s in trace.sentences]
    assert covariates(trace, Reader(), answer="12").mention.tolist() == [False, False, True, False, False, True]


def test_sentences_without_a_category_are_labelled_by_rule():
    trace = Trace.from_text("Q\n<think>\n", "Let me first see. Wait, that is wrong. So 3 + 4 = 7. Therefore it is 7.")
    assert set(trace.categories) == {None}
    labels = covariates(trace, Reader(), answer="7").category
    assert None not in labels and len(set(labels)) > 1


def test_a_mention_is_a_word_not_a_part_of_one():
    trace = build_trace(words=[4] * 4, texts={1: "We say 17 now.", 2: "We say 7 now.", 3: "We say 7.0 now."})
    assert covariates(trace, Reader(), answer="7").mention.tolist() == [False, False, True, True]


Case = tuple[Covariates, list[int], set[int], Calipers]


@st.composite
def cases(draw) -> Case:
    n = draw(st.integers(2, 9))
    length = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    mention = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    anchors = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=min(4, n), unique=True))
    taken = draw(st.sets(st.integers(0, n - 1), max_size=2))
    positions = draw(st.integers(1, 6))
    return columns(length, mention=mention), anchors, taken, Calipers(positions=positions, length=0.4)


@given(cases(), st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_the_assignment_is_the_largest_and_every_control_fits(case, sets):
    found, anchors, taken, calipers = case
    match = match_sets(found, anchors, taken=taken, sets=sets, calipers=calipers, seed=3)
    options = [candidates(found, a, {*anchors, *taken}, calipers) for a in anchors]
    largest = max(len({c for c in row if c is not None}) for row in _assignments(options))
    assert len(match.anchors) == largest and sorted((*match.anchors, *match.unmatched)) == sorted(anchors)
    assert len(match.sets) <= sets and bool(match.sets) == bool(largest)
    for row in match.sets:
        assert len(set(row)) == len(row) == largest and not set(row) & {*anchors, *taken}
        assert all(c in candidates(found, a, (), calipers) for a, c in zip(match.anchors, row, strict=True))
    distinct = {frozenset(row) for row in match.sets}
    assert len(distinct) == len(match.sets), "removing the same sentences twice is one control set, not two"
    kept = [o for a, o in zip(anchors, options, strict=True) if a in match.anchors]
    possible = {frozenset(row) for row in itertools.product(*kept) if len(set(row)) == len(row)} if largest else set()
    assert distinct <= possible and len(distinct) == min(sets, len(possible))
    again = match_sets(found, anchors, taken=taken, sets=sets, calipers=calipers, seed=3)
    assert again == match


def _assignments(options):
    """Every way to give anchors different controls or none."""
    for row in itertools.product(*[[None, *o] for o in options]):
        given = [c for c in row if c is not None]
        if len(set(given)) == len(given):
            yield row


def test_an_anchor_gives_up_its_nearest_control_so_that_another_is_matched():
    found = columns([10, 10, 10, 12])
    match = match_sets(found, [0, 3], calipers=Calipers(positions=2, length=0.2), sets=9)
    assert match.unmatched == () and set(match.anchors) == {0, 3}
    assert {frozenset(row) for row in match.sets} == {frozenset({1, 2})}


def test_other_named_anchors_are_never_controls():
    found = columns([5] * 10)
    match = match_sets(found, [4], taken=[2, 3, 5, 6], calipers=Calipers(), sets=9)
    assert {row[0] for row in match.sets} == {0, 1, 7, 8}


def test_another_seed_draws_other_sets_but_keeps_the_nearest():
    found = columns([5, 6, 5, 6, 5, 6, 5, 6, 5, 6])
    drawn = [match_sets(found, [4, 5], calipers=WIDE, sets=4, seed=seed).sets for seed in range(4)]
    assert len({row[1:] for row in drawn}) > 1 and len({row[0] for row in drawn}) == 1


def test_many_anchors_with_the_same_few_controls_are_matched_in_time():
    """Twelve anchors share twelve controls: drawn blindly one assignment in 18,000 has no control twice."""
    found = columns([5] * 24)
    started = time.perf_counter()
    match = match_sets(found, list(range(12)), calipers=WIDE, sets=5)
    assert time.perf_counter() - started < 5
    assert {frozenset(row) for row in match.sets} == {frozenset(range(12, 24))}


def test_at_least_one_set_is_asked_for():
    with pytest.raises(ValueError, match="controls is 0"):
        match_sets(columns([5] * 4), [1], sets=0, calipers=WIDE)


def test_balance_is_the_standardised_difference_by_hand():
    first = columns([4, 6, 5, 8], category=["x", "y", "x", "x"], numbers=[1, 0, 2, 0])
    second = columns([3, 3, 7], mention=[True, False, True])
    found = {
        b.variable: b.difference
        for b in balance([(first, Match((1,), ((0,), (2,)), ())), (second, Match((2,), ((0,),), (1,)))])
    }
    assert tuple(found) == VARIABLES

    def by_hand(anchors, controls):
        spread = np.sqrt((np.var(anchors) + np.var(controls)) / 2)
        return (np.mean(anchors) - np.mean(controls)) / spread

    assert found["length"] == pytest.approx(by_hand([6, 7], [4.5, 3]))
    assert found["position"] == pytest.approx(by_hand([1, 2], [1, 0]))
    assert found["same category"] == pytest.approx(by_hand([1, 1], [0, 1]))
    assert found["answer mention"] == pytest.approx(by_hand([0, 1], [0, 1])) == 0.0
    assert found["numbers"] == pytest.approx(by_hand([0, 0], [1.5, 0]))


def test_a_difference_without_spread_is_not_called_balance():
    found = columns([4] * 4)
    values = {b.variable: b.difference for b in balance([(found, Match((1,), ((0,), (3,)), ()))])}
    assert np.isnan(values["position"]) and values["length"] == 0.0
    assert balance([(found, Match((), (), (1,)))]) == ()
