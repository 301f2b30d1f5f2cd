"""More rollouts of other meaning: the same rollouts a longer run would hold, and no bias."""

import numpy as np
import pytest

from anchors import counterfactual_importance, resample
from anchors.alternatives import DIFFERENT, FIRST, different_firsts, join_alternatives, seek_alternatives
from anchors.lab import world_trace
from anchors.lab.oracle import WorldModel, same_event
from anchors.lab.truth import exact_counterfactual_importance, read_trace
from anchors.lab.worlds import load_world
from anchors.outcomes import first_sentence
from anchors.rollouts import Rollouts

WORLD = load_world("expression")
MODEL = WorldModel(WORLD)
SAME = same_event(WORLD)


@pytest.fixture(scope="module")
def trace():
    return world_trace(WORLD, seed=5)


@pytest.fixture(scope="module")
def rollouts(trace):
    return resample(trace, MODEL, n=20, seed=0, progress=False)


@pytest.fixture(scope="module")
def found(rollouts):
    return seek_alternatives(rollouts, MODEL, wanted=15, most=600, similarity=SAME)


def test_alternatives_are_rollouts_of_a_longer_run(trace, rollouts, found):
    longer = resample(trace, MODEL, n=200, seed=0, progress=False)
    for k in range(len(trace)):
        known = {r.sample: r for r in longer.at(k)}
        for rollout in found.at(k):
            assert rollout.sample >= 20, "a plain rollout must not be counted twice"
            if rollout.sample < 200:
                assert rollout == known[rollout.sample]


def test_every_boundary_has_enough_or_has_been_asked_often_enough(trace, rollouts, found):
    firsts = Rollouts(rollouts.store, trace, kind=FIRST)
    for k in range(len(trace)):
        have = different_firsts(rollouts, k, SAME).sum() + different_firsts(found, k, SAME).sum()
        assert have >= 15 or len(firsts.at(k)) >= 600
        assert len(firsts.at(k)) < 600 + 32
    some = [k for k in range(len(trace)) if different_firsts(rollouts, k, SAME).sum() < 5 and len(found.at(k)) > 5]
    assert some, "no boundary was topped up, so this test shows nothing"


def test_all_that_was_asked_and_differs_is_kept(trace, rollouts, found):
    firsts = Rollouts(rollouts.store, trace, kind=FIRST)
    for k in range(len(trace)):
        differing = {
            r.sample for r in firsts.at(k) if not SAME.same(trace.sentences[k].text, [first_sentence(r.text)])[0]
        }
        assert differing <= {r.sample for r in found.at(k)}


@pytest.mark.slow
def test_counterfactual_scores_come_closer_to_truth_and_cover_it():
    plain_errors, errors, inside = [], [], []
    for seed in range(5):
        trace = world_trace(WORLD, seed=100 + seed)
        rollouts = resample(trace, MODEL, n=20, seed=seed, progress=False)
        more = seek_alternatives(rollouts, MODEL, wanted=15, most=256, similarity=SAME)
        exact = exact_counterfactual_importance(WORLD, read_trace(WORLD, trace).states, str(trace.answer))
        plain = counterfactual_importance(rollouts, similarity=SAME)
        scores = counterfactual_importance(rollouts, similarity=SAME, alternatives=more)
        both = ~np.isnan(plain.values) & ~np.isnan(exact)
        plain_errors += np.abs(plain.values - exact)[both].tolist()
        errors += np.abs(scores.values - exact)[both].tolist()
        measured = ~np.isnan(scores.values) & ~np.isnan(exact)
        assert measured.sum() >= both.sum()
        inside += ((scores.low <= exact + 1e-9) & (exact - 1e-9 <= scores.high))[measured].tolist()
    assert np.mean(errors) < 0.8 * np.mean(plain_errors)
    assert np.mean(inside) > 0.92


def test_alternatives_touch_nothing_but_the_replaced_side(rollouts, found):
    plain = counterfactual_importance(rollouts, similarity=SAME)
    scores = counterfactual_importance(rollouts, similarity=SAME, alternatives=found)
    for name in ("p_before", "p_after", "headroom", "different_trajectories_fraction", "overdeterminedness"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(scores, name))
    assert scores.details["alternatives"] == found.cost().rollouts > 0
    none = Rollouts(rollouts.store, rollouts.trace, kind="nothing")
    np.testing.assert_array_equal(
        counterfactual_importance(rollouts, similarity=SAME, alternatives=none).values, plain.values
    )


def test_a_killed_search_goes_on_to_the_same_end(trace, tmp_path, found):
    class Killed(WorldModel):
        left = 3

        def generate(self, jobs, **options):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            yield from super().generate(jobs, **options)

    run = resample(trace, MODEL, n=20, seed=0, progress=False, out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        seek_alternatives(run, Killed(WORLD), wanted=15, most=600, similarity=SAME)
    again = Rollouts.open(tmp_path / "run")[0]
    ended = seek_alternatives(again, MODEL, wanted=15, most=600, similarity=SAME)
    assert [ended.at(k) for k in range(len(trace))] == [found.at(k) for k in range(len(trace))]
    assert ended.kind == DIFFERENT


def test_another_model_is_refused(trace, rollouts):
    with pytest.raises(ValueError, match="drawn by"):
        seek_alternatives(rollouts, WorldModel(load_world("expression", slip=0.2)), similarity=SAME)
    with pytest.raises(ValueError, match="how they were drawn"):
        seek_alternatives(Rollouts.from_texts(trace, [["x"]] * (len(trace) + 1)), MODEL, similarity=SAME)


def test_alternatives_of_another_trace_are_refused(rollouts):
    other = Rollouts.from_texts(world_trace(WORLD, seed=77), [["x"]])
    with pytest.raises(ValueError, match="alternatives are of trace"):
        join_alternatives(rollouts, other)
