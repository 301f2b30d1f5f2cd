"""C8: sparsity and category contrast against brute force, their nulls by simulation, and the verdict on made-up traces."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anchors.experiments import Result, Setting
from anchors.experiments.c08_anchors import (
    ADJUSTED,
    CLAIM,
    GINI,
    HELD_OUT,
    PLAIN,
    Profile,
    adjusted,
    categories_of,
    draw,
    evidence_of,
    gini,
    held_out,
    judge,
    null_gini,
    plain_contrast,
    read_profile,
    run,
    truth_of,
)
from anchors.lab import world_trace
from anchors.lab.worlds import load_world
from anchors.rollouts import Rollouts
from anchors.taxonomy import label_by_rule
from anchors.trace import Trace

PLAN, WORK = "plan_generation", "active_computation"


def made_up(true, rng, *, planned=(), n=40, headroom=None) -> Profile:
    """A trace whose boundaries have the true rates, counted from n rollouts; headroom as given or noise."""
    p = np.asarray(true, dtype=float)
    size = len(p) - 1
    halves = rng.binomial(n // 2, p, (2, size + 1)) / (n // 2)
    trace = Trace.from_text("Q", " ".join(f"Sentence number {i} is here." for i in range(size)), answer="1")
    room = rng.random((2, size)) if headroom is None else np.asarray(headroom, dtype=float)
    categories = tuple(PLAN if i in planned else WORK for i in range(size))
    return Profile(trace, categories, np.diff(halves, axis=1), room, float(halves.mean()), n)


def flat(rng, count=20):
    return [made_up([0.6] * 13, rng, planned=(2, 7)) for _ in range(count)]


def sparse(rng, count=20):
    """One decision at a place of its own in every trace, always a planning sentence."""
    found = []
    for _ in range(count):
        at = int(rng.integers(1, 11))
        found.append(made_up([0.4] * (at + 1) + [0.9] * (12 - at), rng, planned=(at,)))
    return found


def test_gini_is_its_definition():
    rng = np.random.default_rng(0)
    x = rng.exponential(1, 4000)
    assert gini(x) == pytest.approx(0.5, abs=0.02)
    brute = sum(abs(a - b) for a in x[:50] for b in x[:50]) / (2 * 50 * x[:50].sum())
    assert gini(x[:50]) == pytest.approx(brute)
    assert math.isnan(gini(np.zeros(3)))


def test_the_null_gini_is_that_of_rollouts_without_any_effect():
    rng = np.random.default_rng(1)
    for rate in (0.5, 0.9):
        null = [gini(np.abs(made_up([rate] * 13, rng).importance.mean(0))) for _ in range(300)]
        assert np.nanmean(null) == pytest.approx(null_gini(12, 40, rate), abs=0.02)


def test_held_out_effects_are_unbiased():
    rng = np.random.default_rng(2)
    null = [held_out(p) for p in flat(rng, 300)]
    assert abs(np.mean(null)) < 4 * np.std(null) / math.sqrt(300)
    big = [made_up([0.2] * 6 + [0.95] * 7, rng, n=200) for _ in range(40)]
    assert np.mean([held_out(p) for p in big]) == pytest.approx(0.75 / 2, abs=0.03)  # the largest two of twelve


def test_the_adjusted_contrast_is_least_squares_with_a_constant_for_every_trace():
    rng = np.random.default_rng(3)
    profiles = [made_up(rng.random(10), rng, planned=tuple(rng.choice(9, 3, replace=False))) for _ in range(8)]

    def brute(chosen):
        y, x, dummies = [], [], []
        for t, p in enumerate(chosen):
            place = np.linspace(-1, 1, 9)
            for half in (0, 1):
                y += list(p.importance[half])
                x += list(np.stack([p.planned, place, place**2, p.headroom[1 - half]], axis=1))
                dummies += [np.eye(2 * len(chosen))[2 * t + half]] * 9
        return np.linalg.lstsq(np.hstack([x, dummies]), np.array(y), rcond=None)[0][0]

    whole = brute(profiles)
    expected = [8 * whole - 7 * brute(profiles[:t] + profiles[t + 1 :]) for t in range(8)]
    assert adjusted(profiles) == pytest.approx(expected)


def test_the_adjusted_contrast_removes_what_place_and_headroom_explain():
    rng, fake, real = np.random.default_rng(4), [], []
    for _ in range(30):
        rise = np.concatenate([[0.2], 0.2 + np.cumsum(np.linspace(0.12, 0.0, 10))])  # early sentences matter more
        fake.append(made_up(rise, rng, planned=(0, 1, 2), n=100))
        at = int(rng.integers(0, 10))
        real.append(made_up(np.where(np.arange(11) > at, 0.8, 0.4), rng, planned=(at,), n=100))
    assert np.mean([plain_contrast(p) for p in fake]) > 0.05
    assert abs(np.mean(adjusted(fake))) < 0.02
    assert np.mean(adjusted(real)) == pytest.approx(0.4, abs=0.05)


def test_traces_of_one_kind_have_no_contrast_and_too_few_no_regression():
    rng = np.random.default_rng(5)
    assert math.isnan(plain_contrast(made_up([0.5] * 6, rng)))
    assert adjusted([made_up([0.5] * 6, rng, planned=(1,))] * 2) == []
    assert judge(evidence_of([made_up([0.5] * 6, rng, planned=(1,)) for _ in range(2)])).word == "inconclusive"


def test_profiles_are_counted_from_rollouts():
    trace = Trace.from_text("Q", "We go on here. So it is four.", answer="4")
    right, wrong = "</think>\\boxed{4}", "</think>\\boxed{5}"
    rows = [[right, wrong, wrong, wrong], [right, wrong, right, wrong], [right] * 4]
    found = read_profile(Rollouts.from_texts(trace, rows), (PLAN, WORK))
    assert found.importance.tolist() == [[0.5, 0.0], [0.0, 1.0]]
    assert found.headroom[0].tolist() == pytest.approx([math.log(2), 0.0]) and found.headroom[1].tolist() == [0.0, 0.0]
    assert found.rate == pytest.approx((0.5 + 1 + 1 + 0 + 0 + 1) / 6) and found.n == 4
    with pytest.raises(ValueError, match="at least 4 rollouts"):
        read_profile(Rollouts.from_texts(trace, [[right]] * 3), (PLAN, WORK))


def test_categories_come_from_the_world_where_it_could_have_written_the_trace():
    world = load_world("expression")
    trace = world_trace(world, seed=1)
    assert categories_of(trace, world) == trace.categories
    other = Trace.from_text("Q", "First, let me add them. We have 2 + 3 = 5.")
    assert categories_of(other, world) == categories_of(other, None) == tuple(label_by_rule(other))


def test_truth_needs_no_rollouts_and_finds_the_planted_plan():
    world = load_world("expression", length=(3, 3), slip=0.0)
    truth = truth_of([world_trace(world, seed=s) for s in range(20)], world)
    assert len(truth) == 20
    found = evidence_of(flat(np.random.default_rng(6)), truth)
    assert found.finding(f"exact: {PLAIN}").low > 0.05 and found.finding("exact: Gini").low > 0.7


def test_verdicts_on_traces_whose_truth_is_known():
    rng = np.random.default_rng(7)
    found = evidence_of(sparse(rng))
    assert judge(found).word == "holds" and found.finding(HELD_OUT).low > 0.1
    backwards = [Profile(p.trace, p.categories, -p.importance, p.headroom, p.rate, p.n) for p in sparse(rng)]
    assert judge(evidence_of(backwards)).word == "fails"
    words = [judge(evidence_of(flat(rng))).word for _ in range(12)]
    assert words.count("holds") <= 1 and words.count("inconclusive") >= 8


def test_the_verdict_needs_both(tmp_path):
    rng = np.random.default_rng(8)
    unrelated = [
        Profile(p.trace, tuple(PLAN if i == 3 else WORK for i in range(12)), p.importance, p.headroom, p.rate, p.n)
        for p in sparse(rng)
    ]
    found = evidence_of(unrelated)
    assert found.finding(GINI).low > 0 and judge(found).word != "holds"
    assert judge(found).reason.count(ADJUSTED) >= 1


@pytest.mark.slow
def test_it_runs(tmp_path):
    found = run(Setting("tiny", out=tmp_path))
    again = run(Setting("tiny", out=tmp_path))  # from the stored rollouts
    assert found.findings[0].effect == again.findings[0].effect
    assert 1 <= found.primary.n <= 3 and {row["category"] for row in found.tables["categories"]} >= {PLAN, WORK}
    result = Result(CLAIM, judge(found), found, {})
    loaded = Result.load(result.save(tmp_path / "C8.json"))
    assert draw(loaded).get_xlabel() and draw(result).get_yticklabels()
