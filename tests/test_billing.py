"""The bill against a model whose clock is known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from anchors.billing import Probe, Rates, fit_rates, predicted_seconds
from anchors.models.base import Completion, Sampling
from anchors.resampling import plan_resampling, resample
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
