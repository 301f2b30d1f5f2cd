"""Sweeps that stop early: the same rollouts as a full sweep's, whatever interrupts them, and honest scores."""

from __future__ import annotations

import random

import numpy as np
import pytest

from anchors import Rollouts, Trace, counterfactual_importance, resample, resample_traces, resampling_importance
from anchors.effects import sentence_effects
from anchors.lab import world_trace
from anchors.lab.oracle import WorldModel, same_event
from anchors.lab.truth import truth_scores
from anchors.lab.worlds import load_world
from anchors.resampling import plan_resampling
from anchors.stopping import Anchors

WORLD = load_world("alchemy")
MODEL = WorldModel(WORLD)
STOP = Anchors(k=5)


class Shuffled(WorldModel):
    """Yields in any order, and is killed after `left` rollouts."""

    def __init__(self, left, seed):
        super().__init__(WORLD)
        self.left, self.rng = left, random.Random(seed)

    def generate(self, jobs, **options):
        jobs = list(jobs)
        self.rng.shuffle(jobs)
        for drawn in super().generate(jobs, **options):
            if self.left <= 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield drawn


@pytest.fixture(scope="module")
def trace():
    return world_trace(WORLD, seed=3)


@pytest.fixture(scope="module")
def adaptive(trace):
    return resample(trace, MODEL, stop=STOP, progress=False)


class Streamed(WorldModel):
    """Takes its jobs one by one as a stream and finishes them late, the newest first."""

    live = True

    def __init__(self, world, held=7):
        super().__init__(world)
        self.held, self.pauses = held, 0

    def generate(self, jobs, **options):
        waiting = []
        for job in jobs:
            if job is None:
                self.pauses += 1
            else:
                waiting.append(job)
            if job is None or len(waiting) > self.held:
                yield from super().generate([waiting.pop()], **options)
        while waiting:
            yield from super().generate([waiting.pop()], **options)


def everything(run):
    return [run.at(k) for k in range(len(run.trace) + 1)]


def test_an_adaptive_run_holds_the_first_rollouts_of_a_full_one(trace, adaptive):
    full = resample(trace, MODEL, n=100, progress=False)
    for k, rows in enumerate(everything(adaptive)):
        assert rows == full.at(k)[: len(rows)]
    assert adaptive.cost().tokens < 0.5 * full.cost().tokens
    assert len(set(adaptive.counts())) > 1
    assert adaptive.adaptive and not full.adaptive
    assert adaptive.provenance()["stop"]["k"] == 5 and adaptive.provenance()["stop"]["n"] == 100


def test_a_stream_of_rounds_draws_what_rounds_one_by_one_do(adaptive):
    traces = [adaptive.trace, *(world_trace(WORLD, seed=s) for s in (4, 5))]
    apart = resample_traces(traces, MODEL, stop=STOP, progress=False)
    model = Streamed(WORLD)
    together = resample_traces(traces, model, stop=STOP, progress=False)
    assert [everything(run) for run in together] == [everything(run) for run in apart]
    assert model.pauses > 0


def test_kills_and_order_change_nothing(trace, adaptive, tmp_path):
    for seed in range(3):
        killed = 0
        while True:
            model = Shuffled(random.Random(f"{seed} {killed}").randrange(5, 60), seed)
            try:
                ended = resample(trace, model, stop=STOP, out=tmp_path / str(seed), progress=False)
                break
            except KeyboardInterrupt:
                killed += 1
        assert killed >= 2
        assert everything(ended) == everything(adaptive)
    again = resample(trace, MODEL, stop=STOP, out=tmp_path / "0", progress=False)
    assert again.cost() == adaptive.cost()


def test_many_traces_share_rounds_and_not_decisions(trace, adaptive):
    other = world_trace(WORLD, seed=8)
    runs = resample_traces([other, trace], MODEL, stop=STOP, progress=False)
    assert everything(runs[1]) == everything(adaptive)
    assert everything(runs[0]) == everything(resample(other, MODEL, stop=STOP, progress=False))


def test_scores_of_an_adaptive_run_say_so_and_hold_at_any_time(adaptive):
    scores = resampling_importance(adaptive)
    assert scores.details["reuse"] is True and scores.details["interval"] == "at any time"
    assert scores.details["stop"]["minimum"] == STOP.minimum
    plain = resampling_importance(adaptive, reuse=False)
    assert plain.details["reuse"] is False and plain.details["interval"] == "at any time"
    measured = ~np.isnan(scores.values)
    assert (scores.low <= scores.values)[measured].all() and (scores.values <= scores.high)[measured].all()
    assert (scores.high - scores.low)[measured].mean() < (plain.high - plain.low)[measured].mean()
    changed = counterfactual_importance(adaptive, similarity=same_event(WORLD))
    assert changed.details["reuse"] is True and changed.details["interval"] == "at any time"
    fixed = adaptive.held([])
    with fixed.store.db:
        fixed.store.db.execute("delete from settings where key = 'stop'")
    fixed.add(r for row in everything(adaptive) for r in row)
    narrow = resampling_importance(fixed, reuse=True)
    np.testing.assert_array_equal(narrow.values, scores.values)
    assert (narrow.high - narrow.low)[measured].mean() < (scores.high - scores.low)[measured].mean()


def test_what_does_not_hold_at_any_time_is_refused(adaptive):
    for function in (resampling_importance, counterfactual_importance):
        with pytest.raises(ValueError, match="no interval of a KL holds"):
            function(adaptive, metric="kl")
    with pytest.raises(ValueError, match="hold for a fixed number"):
        sentence_effects(adaptive)
    assert resampling_importance(adaptive, compat="paper").details["reuse"] is False


@pytest.mark.slow
def test_the_anchors_that_matter_are_found_for_a_fraction_and_intervals_cover():
    found, large, inside, spent, whole = 0, 0, [], 0, 0
    drawn = [world_trace(WORLD, seed=200 + seed) for seed in range(40)]
    known = [(trace, truth_scores(trace, WORLD, kind="resampling").values) for trace in drawn]
    with_large = [pair for pair in known if np.abs(pair[1]).max() >= 0.3]
    for trace, exact in [*with_large[:5], *(pair for pair in known[:3] if np.abs(pair[1]).max() < 0.3)]:
        run = resample(trace, MODEL, stop=STOP, progress=False)
        scores = resampling_importance(run)
        inside += ((scores.low - 1e-9 <= exact) & (exact <= scores.high + 1e-9)).tolist()
        big = set(np.flatnonzero(np.abs(exact) >= 0.3).tolist())
        found, large = found + len(big & set(scores.anchors())), large + len(big)
        own = np.array(run.counts())
        tokens = np.array([np.mean([r.tokens for r in run.at(k)]) for k in range(len(own))])
        spent, whole = spent + (own * tokens).sum(), whole + (100 * tokens).sum()
    assert large >= 4 and found >= large - 1
    assert np.mean(inside) >= 0.97
    assert spent < 0.25 * whole


def test_an_adaptive_run_may_grow_into_a_full_one_and_stays_marked(trace, adaptive, tmp_path):
    resample(trace, MODEL, stop=STOP, out=tmp_path / "run", progress=False)
    grown = resample(trace, MODEL, n=20, out=tmp_path / "run", progress=False)
    assert min(grown.counts()) == 20 and Rollouts.open(tmp_path / "run")[0].adaptive
    assert resampling_importance(grown).details["interval"] == "at any time"


def test_n_is_the_most_a_boundary_gets(trace):
    run = resample(trace, MODEL, n=6, stop=Anchors(minimum=0.01), progress=False)
    assert max(run.counts()) == 6


def test_a_trace_without_an_answer_needs_an_outcome():
    whole = world_trace(WORLD, seed=3)
    trace = Trace.from_text(whole.prompt, whole.reasoning, target="red")
    assert trace.answer is None
    with pytest.raises(ValueError, match="has no answer of its own, so nothing says"):
        resample(trace, MODEL, stop=Anchors(), progress=False)
    run = resample(trace, MODEL, n=5, stop=Anchors(outcome="target"), progress=False)
    assert min(run.counts()) >= 4


def test_the_bill_of_an_adaptive_run_is_an_upper_limit(trace):
    bill = plan_resampling([trace], MODEL, n=30, stop=STOP)
    assert bill.at_most and str(bill).startswith("at most 510 rollouts")
    assert bill.rollouts == 30 * (len(trace) + 1)
