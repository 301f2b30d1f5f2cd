"""Online voting: by hand on made-up traces, and live against replay of the same traces on a model."""

from __future__ import annotations

import numpy as np
import pytest

from anchors.answers import extract_answer
from anchors.confidence import Definition, trace_confidence
from anchors.lab.worlds import load_world
from anchors.models import CapabilityError, load_model
from anchors.models.base import Job, Sampling
from anchors.online import (
    EarlyStop,
    StoredTrace,
    draw_traces,
    online_threshold,
    replay_online,
    stored_traces,
    vote_online,
)
from anchors.resampling import write_traces
from anchors.streaming import completion_of, stream_rollout
from anchors.voting import vote

WINDOW = Definition(window=2)


def made(answer, tokens, definition=WINDOW):
    """A stored trace with these token confidences; it costs one end token more."""
    return StoredTrace(answer, trace_confidence(tokens, definition=definition), len(tokens) + 1)


WARM = [made("a", [5, 5, 5]), made("b", [3, 3, 3]), made("a", [4, 4, 4]), made("b", [9, 1, 1])]


def test_the_threshold_is_the_percentile_of_the_lowest_groups():
    lowest = [5, 3, 4, 1]
    for top in (0.1, 0.5, 0.9):
        found = online_threshold(WARM, rule=EarlyStop(warm_up=4, top=top))
        assert found == pytest.approx(np.percentile(lowest, 100 * (1 - top)))


def test_a_replay_by_hand():
    rule = EarlyStop(warm_up=4, top=0.5, budget=8, consensus=None)  # threshold 3.5
    further = [
        made("b", [4, 4, 2, 9, 9, 9]),  # groups 4, 3: stops at its third token
        made("b", [6, 6, 6]),
        made(None, [7, 7]),
        made("c", [9]),  # never fills a group: runs to its end and has no weight
    ]
    found = replay_online([*WARM, *further], rule=rule)
    assert found.threshold == 3.5 and found.ended == "budget"
    assert [t.stopped for t in found.traces] == [False] * 4 + [True, False, False, False]
    assert [t.spent for t in found.traces] == [4, 4, 4, 4, 3, 4, 3, 2]
    assert found.vote.support == {"a": 9.0, "b": 6.0}  # warm-up traces below the threshold do not vote
    assert (found.vote.no_answer, found.vote.unmeasured, found.stopped) == (1, 1, 1)
    assert (found.spent, found.full) == (28, 32) and found.saved == pytest.approx(4 / 32)


def test_drawing_ends_with_the_consensus():
    more = [made("a", [6, 6, 6]) for _ in range(20)]
    rule = EarlyStop(warm_up=4, top=0.9, budget=24, consensus=0.85)
    found = replay_online([*WARM, *more], rule=rule)
    voters = [t for t in WARM if t.confidence.lowest >= found.threshold]
    drawn = len(found.traces) - 4
    for k in (drawn - 1, drawn):
        support = {"a": 6.0 * k, "b": 0.0}
        for trace in voters:
            support[trace.answer] += trace.confidence.lowest
        assert (support["a"] / sum(support.values()) >= 0.85) == (k == drawn)
    assert found.ended == "consensus" and found.vote.consensus >= 0.85 and found.full == 24 * 4
    agreed = [made("a", [5, 5, 5])] * 4
    assert len(replay_online([*agreed, *more], rule=rule).traces) == 4  # the warm-up itself may decide


def test_the_public_implementation_keeps_ninety_percent_and_never_agrees():
    rule = EarlyStop(warm_up=4, budget=30, compat="deepconf")
    assert (rule.top, rule.consensus) == (0.9, None)
    traces = [made("a", [5, 5, 5])] * 30
    found = replay_online(traces, rule=rule)
    assert found.ended == "budget" and len(found.traces) == 30 and found.saved == 0


def test_the_budget_cuts_the_stored_traces():
    found = replay_online([*WARM, *WARM], rule=EarlyStop(warm_up=2, budget=5, consensus=None))
    assert len(found.traces) == 5 and found.full == 20


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="4 traces do not make a warm-up of 16"):
        replay_online(WARM)
    with pytest.raises(ValueError, match="no warm-up trace fills a window of 9 tokens, the longest has 3"):
        replay_online([made("a", [1, 2, 3], Definition(window=9))], rule=EarlyStop(warm_up=1))
    for options, said in (
        ({"warm_up": 9, "budget": 8}, "warm_up is 9"),
        ({"top": 0.0}, "top is 0.0"),
        ({"consensus": 1.5}, "consensus is 1.5"),
    ):
        with pytest.raises(ValueError, match=said):
            EarlyStop(**options)


SAMPLINGS = (
    Sampling(0.8, 1.0, 40),
    Sampling(1.3, 0.8, 40),
    Sampling(1.0, 1.0, 60, stop=("=", ".")),
)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["tempered", "nucleus", "stop"])
def test_a_streamed_rollout_is_the_one_generate_draws(tiny, sampling):
    jobs = [
        Job(text, len(text), "stream", 0, s) for text in ("Find 2 + 3 * 4 modulo 10.\n<think>\n", "We") for s in (0, 1)
    ]
    drawn = dict(tiny.generate(jobs, sampling=sampling, seed=3))
    for job, expected in drawn.items():
        written = list(stream_rollout(job, tiny, sampling=sampling, seed=3))
        found = completion_of([w.id for w in written], job, tiny, sampling=sampling)
        assert found == expected
        logp = tiny.logprobs(job.prefix)[-1:] - written[0].logits.log_softmax(-1)
        assert float(logp.abs().max()) < 1e-4


def test_a_rollout_ends_at_the_context_and_a_streamed_one_too(checkpoints):
    model = load_model(checkpoints["gpt2"])
    text = "Find 2 + 3. " * 200
    text = text[: model.encode(text).offsets[model.context - 5][0]]
    job = Job(text, len(text), "long", 0, 0)
    ((_, expected),) = model.generate([job], sampling=Sampling(1.0, 1.0, 99), seed=0)
    ids = [w.id for w in stream_rollout(job, model, sampling=Sampling(1.0, 1.0, 99), seed=0)]
    assert completion_of(ids, job, model, sampling=Sampling(1.0, 1.0, 99)) == expected and len(ids) <= 5


def test_what_cannot_be_streamed_is_refused(checkpoints):
    model = load_model(checkpoints["gpt2"])
    with pytest.raises(CapabilityError, match="cannot stream"):
        next(stream_rollout(Job("We need", 7, "t", 0, 0, ((0, 2),)), model, sampling=Sampling(), seed=0))
    with pytest.raises(ValueError, match="empty prefix"):
        next(stream_rollout(Job("", 0, "t", 0, 0), model, sampling=Sampling(), seed=0))


@pytest.fixture(scope="module")
def reasoner():
    return load_model("lab/reasoner", check=False)


@pytest.fixture(scope="module")
def prompt():
    import random

    world = load_world("expression")
    return world.prompt(world.problem(random.Random(5)))


DEFINITION = Definition(window=12, tail=16)


@pytest.mark.parametrize(
    "rule", [EarlyStop(6, 0.25, 14, None), EarlyStop(6, 0.7, 14, 0.8), EarlyStop(6, 0.5, 12, compat="deepconf")]
)
def test_live_equals_replay_of_the_same_traces(reasoner, prompt, rule):
    definition = Definition(window=12, compat=rule.compat)
    live = vote_online(prompt, reasoner, rule=rule, definition=definition, seed=4)
    stored = draw_traces(prompt, reasoner, rule.budget, definition=definition, seed=4)
    replayed = replay_online(stored, rule=rule)
    assert live.full is None and np.isnan(live.saved)
    assert [t[:2] + t[3:] for t in live.traces] == [t[:2] + t[3:] for t in replayed.traces]
    whole = [(a.lowest, b.lowest) for a, b in zip(live.traces, replayed.traces, strict=True) if not a.stopped]
    np.testing.assert_allclose(*np.array(whole).T, atol=1.1e-3 if rule.compat else 1e-4)
    assert (live.ended, live.vote.answer, live.spent) == (replayed.ended, replayed.vote.answer, replayed.spent)
    assert replayed.vote.voters == live.vote.voters


def test_a_stopped_trace_computes_no_more_tokens(reasoner, prompt, monkeypatch):
    """Tokens are saved in fact: as many forward passes as tokens written, less the last of every trace."""
    rule = EarlyStop(6, 0.2, 12, None)
    passes = []
    hidden = type(reasoner).hidden
    monkeypatch.setattr(
        type(reasoner), "hidden", lambda self, ids, run: passes.append(run.start) or hidden(self, ids, run)
    )
    found = vote_online(prompt, reasoner, rule=rule, definition=DEFINITION, seed=4)
    further = found.traces[6:]
    assert sum(t.stopped for t in further) >= 2
    single = sum(start > 0 for start in passes)
    assert sum(t.spent - 1 for t in further) <= single + 5 and single <= sum(t.spent for t in further)
    full = sum(t.cost for t in draw_traces(prompt, reasoner, 12, definition=DEFINITION, seed=4))
    assert found.spent < full


def test_drawn_traces_are_those_write_traces_writes(reasoner, prompt):
    drawn = draw_traces(prompt, reasoner, 4, definition=DEFINITION, seed=7)
    written = write_traces([prompt] * 4, reasoner, seed=7)
    assert [t.text for t in drawn] == [t.reasoning + t.ending for t in written]
    assert [t.answer for t in drawn] == [extract_answer(t.text) for t in written]
    read = stored_traces(written, reasoner, definition=DEFINITION)
    assert [t.cost for t in read] == [t.cost for t in drawn]
    for a, b in zip(read, drawn, strict=True):
        np.testing.assert_allclose(a.confidence.tokens, b.confidence.tokens, atol=1e-4)
    assert vote([t.answer for t in drawn]) == vote([t.answer for t in read])
