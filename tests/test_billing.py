"""The bill against a model whose clock is known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from anchors.billing import Probe, Rates, _stretched, fit_rates, predicted_seconds
from anchors.models.base import Completion, Sampling
from anchors.resampling import plan_resampling, resample, resample_traces
from anchors.trace import Trace

TEXT = " ".join(f"This is sentence number {i} of a trace." for i in range(12))


class Clock:
    """A model that takes start a text, step a step of one token a rollout in flight, and token a token."""

    name, sampling = "clock", Sampling(1.0, 1.0, 400)

    def __init__(self, rates, width):
        self.rates, self.width, self.now = rates, width, 0.0

    def generate(self, jobs, *, sampling, seed, batch_size=256):
        jobs = list(jobs)
        rng = np.random.default_rng([seed, len(jobs)])
        expected = [10 + 15 * (12 - job.position) for job in jobs]
        lengths = np.minimum(sampling.max_new_tokens, rng.poisson(expected) + 1)
        slots = np.zeros(min(self.width, len(jobs)))
        for length in lengths:
            slots[slots.argmin()] += length
        self.now += self.rates.start + self.rates.step * slots.max() + self.rates.token * lengths.sum()
        for job, length in zip(jobs, lengths, strict=True):
            yield job, Completion("x", int(length), "stop")


@pytest.mark.parametrize(
    "rates, n", [(Rates(0.5, 0.02, 0.0002), 30), (Rates(0.01, 0.001, 0.002), 30), (Rates(2.0, 0.05, 0.0), 60)]
)
def test_the_bill_tells_the_time_and_tokens_of_the_run(monkeypatch, rates, n):
    model = Clock(rates, 256)
    monkeypatch.setattr("anchors.billing.time.perf_counter", lambda: model.now)
    trace = Trace.from_text("?", TEXT, answer="1")
    bill = plan_resampling([trace], model, n=n)
    before = model.now
    tokens = resample(trace, model, n=n, progress=False).cost().tokens
    assert bill.tokens == pytest.approx(tokens, rel=0.1)
    assert bill.seconds == pytest.approx(model.now - before, rel=0.25)


class SharingClock:
    """A local model: computes each distinct sequence of letters off the text once, a step for the longest in flight."""

    name, sampling = "sharing clock", Sampling(1.0, 1.0, 400)
    pooled_attention = None

    def __init__(self, rates, letters):
        self.rates, self.letters, self.now, self.known = rates, letters, 0.0, set()

    def generate(self, jobs, *, sampling, seed, batch_size=256):
        jobs = list(jobs)
        rng = np.random.default_rng([seed, len(jobs)])
        odds = [0.9, *[0.1 / (len(self.letters) - 1)] * (len(self.letters) - 1)]
        sequences, longest, opened = set(), 0, {job.trace for job in jobs} - self.known
        for job in jobs:
            length = min(sampling.max_new_tokens, 1 + rng.poisson(10 + 3 * (12 - job.position)))
            text = "".join(rng.choice(list(self.letters), length, p=odds))
            sequences |= {(job.trace, job.position, text[:k]) for k in range(1, length + 1)}
            longest = max(longest, length)
            yield job, Completion(text, length, "stop")
        self.known |= opened
        self.now += self.rates.start * len(opened) + self.rates.step * longest + self.rates.token * len(sequences)


@pytest.mark.parametrize("n", [10, 60])
@pytest.mark.parametrize("traces, letters", [(1, "QXZ"), (5, "QXZ"), (1, "QXZ*%&$#")])
def test_the_bill_counts_what_rollouts_share(monkeypatch, traces, letters, n):
    model = SharingClock(Rates(0.5, 0.002, 0.001), letters)
    monkeypatch.setattr("anchors.billing.time.perf_counter", lambda: model.now)
    given = [Trace.from_text(f"? {i}", TEXT, answer="1") for i in range(traces)]
    bill = plan_resampling(given, model, n=n)
    model.known.clear()
    before = model.now
    tokens = sum(run.cost().tokens for run in resample_traces(given, model, n=n, progress=False))
    assert bill.tokens == pytest.approx(tokens, rel=0.1)
    assert bill.seconds == pytest.approx(model.now - before, rel=0.25)


def test_the_longest_of_many_is_longer_than_that_of_few():
    rng = np.random.default_rng(0)
    drawn = np.sort(20 * (1 + rng.pareto(4, 250)))
    many = _stretched(rng.choice(drawn, 4000), drawn.tolist(), 10_000)
    expected = 20 * (1 + np.median([rng.pareto(4, 4000).max() for _ in range(99)]))
    assert many.max() == pytest.approx(expected, rel=0.3) and many.max() > 1.3 * drawn.max()
    assert _stretched(rng.choice(drawn, 4000), drawn.tolist(), 90).max() <= max(90, np.sort(many)[-2])


def test_the_rates_come_back_from_three_draws():
    rates = Rates(0.3, 0.01, 0.0005)
    shapes = ((1, 1, 1), (1, 60, 500), (1, 64, 9000))
    probes = [Probe(*shape, float(np.dot(rates, shape))) for shape in shapes]
    np.testing.assert_allclose(fit_rates(probes), rates, rtol=1e-6)
    fast = [Probe(1, 1, 1, 1.0), Probe(1, 60, 500, 0.9), Probe(1, 64, 9000, 0.8)]
    assert min(fit_rates(fast)) >= 0


def test_steps_are_counted_until_the_last_rollout_ends():
    lengths = np.array([10.0, 10.0, 10.0, 40.0])
    assert predicted_seconds(Rates(1.0, 1.0, 0.0), lengths, 2, 2) == 2 + 50
    assert predicted_seconds(Rates(0.0, 1.0, 0.0), lengths, 1, 256) == 40
    assert predicted_seconds(Rates(0.0, 0.0, 2.0), lengths, 1, 256) == 140
    shared = predicted_seconds(Rates(0.0, 1.0, 1.0), lengths, 1, 1, share=0.5)
    assert shared == 50 + 35, "two rollouts stay in one sequence, and half of the tokens are computed"
