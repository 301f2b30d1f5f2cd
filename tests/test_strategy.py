"""Strategy features on traces counted by hand, and effect sizes against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anchors.lab import world_trace
from anchors.lab.worlds import load_world
from anchors.stats import cohens_d, mean_absolute_d
from anchors.strategy import BACKTRACK, CHECK, Strategy, strategy_features
from anchors.trace import Trace

HAND = (
    "We need two sums. First 3 + 4 = 7. Then 7 + 5 = 13. Wait, that is wrong. Start again from 7. So 7 + 5 = 12. "
    "I check 12 - 5 = 7."
)


def test_every_feature_counted_by_hand():
    found = strategy_features(Trace.from_text("Q", HAND), count=lambda text: len(text.split()))
    words = 4 + 6 + 6 + 4 + 4 + 6 + 7
    assert found == Strategy(
        sentences=7.0,
        characters=float(len(HAND)),
        tokens=float(words),
        words_a_sentence=words / 7,
        backtrack_rate=2 / 7,  # "Wait", "Start again"
        check_rate=1 / 7,
        equation_rate=4 / 7,
        number_rate=(3 + 3 + 1 + 3 + 3) / words,
        breadth=2.0,  # the two sentences that take back stand together and open one attempt
        depth=4.0,
    )


def test_without_a_count_tokens_are_not_measured_and_nothing_else_is_missing():
    found = strategy_features(Trace.from_text("Q", HAND))
    assert math.isnan(found.tokens)
    assert not any(math.isnan(v) for name, v in found._asdict().items() if name != "tokens")


def test_a_trace_that_never_turns_is_one_attempt_as_long_as_it_is():
    found = strategy_features(Trace.from_text("Q", "We have four. They are even. So we stop here."))
    assert (found.breadth, found.depth, found.backtrack_rate, found.check_rate) == (1.0, 3.0, 0.0, 0.0)


def test_a_trace_without_sentences_is_refused():
    empty = Trace("Q", "", ())
    with pytest.raises(ValueError, match="no sentences"):
        strategy_features(empty)


@pytest.mark.parametrize(
    "text",
    [
        "Wait, maybe not.",
        "Hmm, hold on.",
        "I made a mistake.",
        "That is not right.",
        "Let me redo it.",
        "Alternatively, use x.",
    ],
)
def test_cues_of_taking_back(text):
    assert BACKTRACK.search(text)


@pytest.mark.parametrize(
    "text", ["We add the waiter's tip.", "The startup grows.", "Now we have 7.", "Nothing is left."]
)
def test_words_that_only_look_like_taking_back(text):
    assert not BACKTRACK.search(text) and not CHECK.search(text)


def test_lab_categories_are_found_by_the_cues():
    """In the worlds, doubt is always found, and plain work never counts as doubt or check."""
    for name in ("expression", "alchemy", "recall"):
        for seed in range(30):
            for s in world_trace(load_world(name), seed=seed).sentences:
                doubt = BACKTRACK.search(s.text) is not None
                if s.category == "uncertainty_management":
                    assert doubt, s.text
                if s.category in ("plan_generation", "active_computation", "fact_retrieval", "result_consolidation"):
                    assert not doubt and not CHECK.search(s.text), s.text


def test_cohens_d_is_its_formula_and_its_interval_holds_the_truth():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.8, 1, 40), rng.normal(0, 2, 60)
    pooled = math.sqrt((39 * a.var(ddof=1) + 59 * b.var(ddof=1)) / 98)
    found = cohens_d(a, b)
    assert found.value == pytest.approx((a.mean() - b.mean()) / pooled)
    assert found.low < found.value < found.high and found.traces == (40, 60)
    covered = 0
    for i in range(200):
        x, y = rng.normal(0.5, 1, 50), rng.normal(0, 1, 50)
        low, high = cohens_d(x, y, resamples=300, seed=i)[1:3]
        covered += low <= 0.5 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_pairing_narrows_the_interval_and_leaves_d_alone():
    rng = np.random.default_rng(2)
    base = rng.normal(0, 1, 60)
    a, b = base + 0.3 + rng.normal(0, 0.1, 60), base + rng.normal(0, 0.1, 60)
    free, paired = cohens_d(a, b), cohens_d(a, b, paired=True)
    assert free.value == paired.value
    assert paired.high - paired.low < (free.high - free.low) / 2


def test_cohens_d_of_constants_and_of_too_few():
    assert cohens_d([1, 1, 1], [1, 1]).value == 0
    assert cohens_d([2, 2], [1, 1]).value == math.inf and math.isnan(cohens_d([2, 2], [1, 1]).low)
    assert math.isnan(cohens_d([1.0], [1.0, 2.0]).value)
    with pytest.raises(ValueError, match="NaN"):
        cohens_d([1.0, math.nan], [1.0, 2.0])
    with pytest.raises(ValueError, match="paired"):
        cohens_d([1.0, 2.0, 3.0], [1.0, 2.0], paired=True)


def test_mean_absolute_d_averages_the_features_and_its_floor_is_what_chance_gives():
    rng = np.random.default_rng(3)
    a, b = rng.normal([1.0, -1.0, 0.0], 1, (100, 3)), rng.normal(0, 1, (100, 3))
    found = mean_absolute_d(a, b)
    assert found.value == pytest.approx(np.mean([abs(cohens_d(a[:, i], b[:, i]).value) for i in range(3)]))
    assert found.features[0] > 0 > found.features[1]
    null = [mean_absolute_d(*rng.normal(0, 1, (2, 50, 4)), resamples=200).value for _ in range(60)]
    floor = mean_absolute_d(*rng.normal(0, 1, (2, 50, 4))).floor
    assert floor == pytest.approx(np.mean(null), rel=0.15)
    assert floor == pytest.approx(math.sqrt(2 / math.pi) * math.sqrt(2 / 50), rel=0.15)


def test_mean_absolute_d_refuses_what_it_cannot_average():
    with pytest.raises(ValueError, match="infinite"):
        mean_absolute_d([[1.0], [1.0]], [[2.0], [2.0]])
    with pytest.raises(ValueError, match="shapes"):
        mean_absolute_d([[1.0], [2.0]], [[2.0, 1.0], [2.0, 1.0]])
