"""Rollouts: right distribution, and the same numbers for any batch size, order and interruption."""

from __future__ import annotations

import copy
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from anchors.lab import world_trace
from anchors.lab.worlds import load_world
from anchors.models import climbing, load_model, loops, row_loops
from anchors.models.attention_pass import TracePass
from anchors.models.base import Job, Sampling
from anchors.models.engine import Tally, draw
from anchors.models.lens import LensModel
from anchors.models.randomness import stream, uniforms
from anchors.models.sampling import sample
from anchors.models.tokens import token_spans

SHORT = Sampling(1.0, 0.9, 10)


def all_jobs(trace, n, *, trace_id="t"):
    return [Job(trace.text, end, trace_id, k, s) for k, end in enumerate(trace.boundaries) for s in range(n)]


def drawn(model, jobs, *, sampling=None, seed=0, batch_size=256):
    found = model.generate(jobs, sampling=sampling or SHORT, seed=seed, batch_size=batch_size)
    return collected(found)


def collected(found):
    return {(job.trace, job.position, job.sample): completion for job, completion in found}


def test_rollouts_do_not_depend_on_batch_size_or_order(tiny, problem_trace):
    jobs = all_jobs(problem_trace, 3)
    whole = drawn(tiny, jobs)
    assert len(whole) == len(jobs)
    shuffled = list(jobs)
    random.Random(0).shuffle(shuffled)
    assert drawn(tiny, shuffled, batch_size=7) == whole
    some = jobs[:: len(jobs) // 4]
    alone = drawn(tiny, some, batch_size=1)
    assert alone == {key: whole[key] for key in alone}


def with_loops(monkeypatch, compiled):
    """Compiled loops at once, or none as where numba is not installed."""
    pytest.importorskip("numba", reason="numba is not installed, so no loop is compiled")
    monkeypatch.setattr(loops, "process", loops.Process(tried=not compiled))
    assert (loops.load() is not None) == compiled


def test_rollouts_do_not_depend_on_compiled_loops_or_when_they_come(tiny, problem_trace, monkeypatch):
    jobs, runs = all_jobs(problem_trace, 6), []
    for compiled in (True, False):
        with_loops(monkeypatch, compiled)
        runs.append(drawn(tiny, jobs))
    monkeypatch.setattr(loops, "SOON", 300)
    monkeypatch.setattr(loops, "process", loops.Process())
    assert runs[0] == runs[1] == drawn(tiny, jobs)
    assert (loops.loaded() is not None) == loops.suit(tiny)


def test_rollouts_do_not_depend_on_how_far_ahead_they_are_drawn_on_their_text(monkeypatch):
    """On a trace of the model's own world a fifth of the draws repeat it, over several sentences."""
    trace, model = world_trace(load_world("expression"), seed=3), load_model("lab/reasoner")
    jobs, few = all_jobs(trace, 8), Sampling(1.0, 0.95, 40, stop=("answer",))
    tallies = []
    for block, stretch in ((64, 16), (5, 2), (1, 1)):
        monkeypatch.setattr(climbing, "BLOCK", block)
        monkeypatch.setattr(climbing, "STRETCH", stretch)
        tallies.append(Tally())
        found = collected(draw(model, jobs, sampling=few, seed=0, batch_size=64, tally=tallies[-1]))
        assert found == (whole := found if len(tallies) == 1 else whole)
    assert len({(tally.generated, tally.computed) for tally in tallies}) == 1
    assert tallies[0].computed < 0.9 * tallies[0].generated
    assert {c.finish for c in whole.values()} == {"stop", "length"}


@pytest.mark.slow
def test_one_and_two_threads_agree(tiny, problem_trace, monkeypatch):
    with_loops(monkeypatch, True)
    monkeypatch.setattr(row_loops, "SHARE", 100)
    jobs, before = all_jobs(problem_trace, 2), torch.get_num_threads()
    workers, used = row_loops._workers, []
    monkeypatch.setattr(row_loops, "_workers", lambda process: used.append(process) or workers(process))
    try:
        torch.set_num_threads(1)
        one = drawn(tiny, jobs)
        assert not used
        torch.set_num_threads(2)
        assert drawn(tiny, jobs) == one
        assert used
    finally:
        torch.set_num_threads(before)


def test_a_text_is_encoded_once_however_often_it_is_opened(tiny, problem_trace, monkeypatch):
    jobs, read, encode = all_jobs(problem_trace, 8), Counter(), tiny.encode
    monkeypatch.setattr(tiny, "encode", lambda text: read.update([text]) or encode(text))
    found = drawn(tiny, [*(j for j in jobs if j.sample < 4), None, *(j for j in jobs if j.sample >= 4)])
    assert set(read) == {problem_trace.text[:end] for end in {len(problem_trace.text), *problem_trace.boundaries}}
    assert set(read.values()) == {1}
    assert found == drawn(tiny, jobs)


def test_texts_drawn_together_equal_texts_drawn_alone(tiny, problem_trace):
    texts = [problem_trace.before(i) for i in (3, 6, 9)]
    jobs = [Job(text, len(text), f"text {i}", 0, s) for i, text in enumerate(texts) for s in range(2)]
    together = drawn(tiny, jobs)
    for i, text in enumerate(texts):
        shared = [Job(text, len(text), f"text {i}", 0, s) for s in range(5)]
        alone = drawn(tiny, shared)
        assert all(alone[key] == together[key] for key in alone if key in together)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_rows_of_many_texts_run_together_and_equal_each_text_alone(checkpoints, problem_trace, architecture):
    """Three trunks and some loose prefixes at once, one of the trunks with a sentence blocked."""
    model, ends = load_model(checkpoints[architecture]), problem_trace.boundaries
    texts = [problem_trace.text, problem_trace.text[: ends[7]], problem_trace.text[: ends[4]]]
    parts = [[Job(t, ends[k], f"t{i}", k, s) for k in (2, 3, 4) for s in range(4)] for i, t in enumerate(texts)]
    parts[1] = [replace(job, blocked=(problem_trace.spans[1],)) for job in parts[1]]
    loose = [Job(problem_trace.text[: ends[k]], ends[k], "loose", k, 0) for k in (5, 6)]
    alone = {}
    for part in (*parts, loose):
        alone |= drawn(load_model(checkpoints[architecture]), part)
    for batch_size in (2, 256):
        assert drawn(model, [*parts[0], *loose, *parts[1], *parts[2]], batch_size=batch_size) == alone


def test_texts_are_opened_one_by_one_where_memory_is_short(tiny, problem_trace, monkeypatch):
    from anchors.models import engine

    ends = problem_trace.boundaries
    jobs = [Job(problem_trace.text[: ends[k]], ends[k], "t", k, s) for k in range(3, 8) for s in range(4)]
    whole = drawn(tiny, jobs)
    monkeypatch.setattr(engine, "OPEN", 0)
    assert drawn(tiny, jobs) == whole


def test_a_stream_may_wait_for_rollouts_in_flight_and_says_when_it_waits_for_none(tiny, problem_trace):
    jobs, ends = all_jobs(problem_trace, 3), problem_trace.boundaries
    whole, found, asked = drawn(tiny, jobs), {}, 0

    def stream():
        nonlocal asked
        for k in range(len(ends)):
            yield from (job for job in jobs if job.position == k)
            while sum(key[1] == k for key in found) < 2:
                asked += 1
                yield None

    for job, completion in tiny.generate(stream(), sampling=SHORT, seed=0):
        found[job.trace, job.position, job.sample] = completion
    assert found == whole and asked > len(ends)

    with pytest.raises(ValueError, match="waits for rollouts, but none is in flight"):
        list(tiny.generate(iter(lambda: None, 1), sampling=SHORT, seed=0))


def test_a_trunk_is_kept_until_the_weights_change_and_never_under_a_hook(checkpoints, problem_trace, monkeypatch):
    from anchors.models import trunks

    model, ids = load_model(checkpoints["llama"]), list(range(5, 25))
    first = trunks.trunk_of(model, ids)
    assert trunks.trunk_of(model, ids[:12]) is first
    assert trunks.trunk_of(model, [*ids, 3]) is not first
    handle = model.module.model.norm.register_forward_hook(lambda _m, _x, y: y + 1)
    assert trunks.trunk_of(model, ids) is not first
    handle.remove()
    with torch.no_grad():
        model.module.model.norm.weight += 1
    assert not torch.equal(trunks.trunk_of(model, ids).hidden, first.hidden)
    monkeypatch.setattr(trunks, "KEPT", 0)
    assert trunks.trunk_of(model, ids) is not trunks.trunk_of(model, ids)


def test_seed_trace_position_and_sample_each_change_the_stream():
    base = stream(0, "a", 1, 2)
    assert len({base, stream(1, "a", 1, 2), stream(0, "b", 1, 2), stream(0, "a", 2, 2), stream(0, "a", 1, 3)}) == 5
    draws = uniforms(np.full(20_000, base, dtype=np.uint64), np.arange(20_000, dtype=np.uint64), 0)
    assert abs(draws.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.6, 0.95), (1.3, 0.5)])
def test_draws_follow_the_truncated_softmax(temperature, top_p):
    """Chi-square against probabilities computed with a sort."""
    from scipy.stats import chi2

    n, vocabulary = 40_000, 12
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1)) * 2
    streams = np.array([stream(0, "t", 0, s) for s in range(n)], dtype=np.uint64)
    found = sample(
        logits.expand(n, -1),
        Sampling(temperature, top_p, 1),
        streams=streams,
        steps=np.zeros(n, dtype=np.uint64),
        margin=0.0,
    )
    p = torch.softmax(logits.double() / temperature, -1).numpy()
    order = np.argsort(-p)
    keep = order[np.cumsum(p[order]) - p[order] < top_p]
    expected = np.zeros(vocabulary)
    expected[keep] = n * p[keep] / p[keep].sum()
    observed = np.bincount(found.ids, minlength=vocabulary)
    assert observed[expected == 0].sum() == 0
    statistic = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    assert chi2.sf(statistic, len(keep) - 1) > 1e-4


@pytest.mark.parametrize("vocabulary", [1, 2, 7, 300])
def test_compiled_draws_are_those_of_the_tensors(vocabulary, monkeypatch):
    logits = 3 * torch.randn(40, vocabulary, generator=torch.Generator().manual_seed(1))
    counters = {"streams": np.arange(40, dtype=np.uint64) * 977, "steps": np.arange(40)}
    options = [(Sampling(temperature, top_p, 1), margin) for temperature, top_p, margin in
               ((1.0, 1.0, 2e-5), (0.7, 0.9, 0.0), (1.3, 0.5, 0.2))]  # fmt: skip
    with_loops(monkeypatch, True)
    compiled = [sample(logits, how, margin=margin, **counters) for how, margin in options]
    with_loops(monkeypatch, False)
    for (how, margin), (ids, ties) in zip(options, compiled, strict=True):
        again = sample(logits, how, margin=margin, **counters)
        assert (again.ids == ids).all() and (again.ties == ties).all()
    assert vocabulary == 1 or (compiled[2].ties.any() and not compiled[1].ties.any())


def test_a_draw_ahead_that_finds_no_token_is_left_to_who_comes_there():
    from anchors.models.sampling import draw_tokens, next_token_odds

    odds, strict = next_token_odds(torch.zeros(2, 4000), Sampling()), Sampling(1.0, 1e-9, 1)
    given = {"streams": np.arange(2, dtype=np.uint64), "steps": np.zeros(2, dtype=np.int64), "margin": 0.0}
    odds.nodes[:, 1] += 1e-3  # one token above all others, hardly ever drawn
    found = draw_tokens(odds, np.arange(2), strict, surely=False, **given)
    assert found.ties.any()
    with pytest.raises(ValueError, match="no token was accepted in 1000 draws"):
        draw_tokens(odds, np.arange(2), strict, **given)


def test_rollouts_follow_the_models_softmax_from_any_prefix(tiny, problem_trace):
    from scipy.stats import chi2

    end, n = problem_trace.boundaries[5], 3000
    jobs = [Job(problem_trace.text, end, "t", 5, s) for s in range(n)]
    found = Counter(c.text for c in drawn(tiny, jobs, sampling=Sampling(1.0, 1.0, 1)).values())
    prefix = problem_trace.text[:end]
    ids = tiny.encode(prefix).ids
    p = tiny.logprobs(prefix)[-1].exp().double().numpy()
    expected: Counter[str] = Counter()
    head = tiny.decode(ids)
    for token, mass in enumerate(p):
        text = "" if token in tiny.end_ids else tiny.decode([*ids, token])[len(head) :]
        expected[text] += n * mass
    common = [text for text, mass in expected.items() if mass >= 5]
    statistic = sum((found[t] - expected[t]) ** 2 / expected[t] for t in common)
    assert chi2.sf(statistic, len(common)) > 1e-4


def test_ties_are_decided_by_the_row_alone(checkpoints, problem_trace, monkeypatch):
    """With a huge margin every draw is a tie: the batched path must then equal double precision, row by row."""
    from anchors.models import sampling

    jobs, tally = all_jobs(problem_trace, 1), Tally()
    plain = drawn(load_model(checkpoints["llama"]), jobs)
    monkeypatch.setitem(sampling.MARGIN, torch.float32, 1e9)
    model = load_model(checkpoints["llama"])  # without the trunk it ran under the old margin
    assert collected(draw(model, jobs, sampling=SHORT, seed=0, batch_size=256, tally=tally)) == plain
    assert tally.ties >= 0.9 * tally.generated


@torch.inference_mode()
def plainly(model, job, sampling, seed=0):
    """Token ids of a rollout drawn the plain way: one full double-precision forward a token, the same uniforms."""
    exact = LensModel(copy.deepcopy(model.module).double(), model.tokenizer, name="exact")
    tokens = exact.encode(job.text[: job.end])
    cut = token_spans(exact.encode(job.text).offsets, job.blocked).spans
    key = np.array([stream(seed, job.trace, job.position, job.sample)], dtype=np.uint64)
    written = []
    while len(written) < sampling.max_new_tokens and not (written and written[-1] in model.end_ids):
        logits = exact.unembed(exact.hidden([*tokens.ids, *written], TracePass(cut=cut))[-1:])
        step = np.array([len(written)])
        written.append(int(sample(logits, sampling, streams=key, steps=step, margin=0.0).ids[0]))
    return written


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "gpt2"])
@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.3, 0.9)])
def test_rollouts_equal_the_plain_way_token_for_token(checkpoints, problem_trace, architecture, temperature, top_p):
    model, sampling = load_model(checkpoints[architecture]), Sampling(temperature, top_p, 8)
    jobs = all_jobs(problem_trace, 12)
    found = drawn(model, jobs, sampling=sampling)
    for job in jobs[:: len(jobs) // 5]:
        completion, written = found[job.trace, job.position, job.sample], plainly(model, job, sampling)
        assert completion.tokens == len(written)
        ids = model.encode(job.prefix).ids
        body = written[:-1] if written[-1] in model.end_ids else written
        assert completion.text == model.decode([*ids, *body])[len(model.decode(ids)) :]


def test_blocked_rollouts_equal_the_plain_way(checkpoints, problem_trace):
    model, sampling = load_model(checkpoints["qwen2"]), Sampling(1.0, 1.0, 8)
    spans = tuple(problem_trace.spans[i] for i in (1, 3))
    jobs = [replace(job, blocked=spans) for job in all_jobs(problem_trace, 4) if job.position > 5]
    found, free = (
        drawn(model, jobs, sampling=sampling),
        drawn(model, [replace(j, blocked=()) for j in jobs], sampling=sampling),
    )
    assert found != free
    for job in jobs[:: len(jobs) // 5]:
        assert found[job.trace, job.position, job.sample].tokens == len(plainly(model, job, sampling))


@pytest.mark.slow
def test_every_distinct_sequence_is_computed_once(checkpoints, problem_trace):
    """Near-greedy rollouts coincide a lot: rows fed must number the distinct sequences off the trace, no more."""
    model, sampling, tally = load_model(checkpoints["llama"]), Sampling(0.05, 1.0, 6), Tally()
    jobs = all_jobs(problem_trace, 8)
    for _ in draw(model, jobs, sampling=sampling, seed=0, batch_size=256, tally=tally):
        pass
    trace_ids, fed, generated = model.encode(problem_trace.text).ids, set(), 0
    for position, end in enumerate(problem_trace.boundaries):
        ids = model.encode(problem_trace.text[:end]).ids
        assert ids == trace_ids[: len(ids)]
        for s in range(8):
            written = plainly(model, Job(problem_trace.text, end, "t", position, s), sampling)
            generated += len(written)
            sequences = [(*ids, *written[:k]) for k in range(1, len(written))]
            fed |= {x for x in sequences if list(x) != trace_ids[: len(x)]}
    assert (tally.generated, tally.computed) == (generated, len(fed))
    assert tally.computed < 0.5 * tally.generated


def test_length_limit_and_context_end_are_said(checkpoints, problem_trace):
    model = load_model(checkpoints["gpt2"])
    completions = drawn(model, all_jobs(problem_trace, 2), sampling=Sampling(1.0, 1.0, 3)).values()
    assert all(c.finish == "stop" or c.tokens == 3 for c in completions)
    text = "We" + " need" * 508
    (completion,) = drawn(model, [Job(text, len(text), "t", 0, 0)], sampling=Sampling(1.0, 1.0, 50)).values()
    assert completion.finish == "stop" or len(model.encode(text).ids) + completion.tokens == model.context
    too_long = "We" + " need" * 512
    with pytest.raises(ValueError, match="512 positions"):
        drawn(model, [Job(too_long, len(too_long), "t", 0, 0)])


def test_stop_strings_end_a_rollout_and_are_kept(checkpoints, problem_trace):
    model = load_model(checkpoints["llama"])
    free = drawn(model, all_jobs(problem_trace, 3), sampling=Sampling(1.0, 1.0, 40))
    stopped = drawn(model, all_jobs(problem_trace, 3), sampling=Sampling(1.0, 1.0, 40, stop=(" 4",)))
    for key, completion in free.items():
        cut = completion.text.find(" 4")
        assert stopped[key].text == (completion.text if cut < 0 else completion.text[: cut + 2])


def test_bfloat16_draws_complete(checkpoints, problem_trace):
    model = load_model(checkpoints["qwen3"], dtype=torch.bfloat16)
    assert len(drawn(model, all_jobs(problem_trace, 2))) == 2 * len(problem_trace.boundaries)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_low_temperature_does_not_depend_on_the_batch_either(checkpoints, problem_trace, architecture):
    """Logits divided by 0.01 carry a hundred times their rounding error, so the margin must widen by as much."""
    model, sampling = load_model(checkpoints[architecture]), Sampling(0.01, 0.95, 16)
    jobs = all_jobs(problem_trace, 4)
    whole = drawn(model, jobs, sampling=sampling)
    assert drawn(model, jobs, sampling=sampling, batch_size=5) == whole


def test_an_empty_batch_is_refused(checkpoints, problem_trace):
    with pytest.raises(ValueError, match="batch_size is 0"):
        drawn(load_model(checkpoints["llama"]), all_jobs(problem_trace, 1), batch_size=0)
