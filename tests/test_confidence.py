"""Confidence against its definitions on full logits of a plain eager forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anchors import confidence
from anchors.confidence import sentence_confidence, token_confidence
from anchors.models import CapabilityError, load_model
from anchors.models.tokens import token_spans
from anchors.stats import mean_interval
from tests.test_models import eager


def by_definition(model, text, k):
    """Confidence, entropy and log p of every token, one token at a time."""
    ids = model.encode(text).ids
    logp = torch.log_softmax(eager(model, ids).logits[0].double(), -1).numpy()
    rows = [(np.nan, np.nan, np.nan)]
    for t in range(1, len(ids)):
        row = logp[t - 1]
        largest = sorted(row, reverse=True)[:k]
        rows.append((-sum(largest) / len(largest), -float(np.exp(row) @ row), row[ids[t]]))
    return np.array(rows).T


@pytest.mark.parametrize("k", [1, 20])
def test_token_confidence_equals_its_definition(tiny, problem_trace, k):
    found = token_confidence(problem_trace.text, tiny, k=k)
    for ours, brute in zip(found, by_definition(tiny, problem_trace.text, k), strict=True):
        np.testing.assert_allclose(ours, brute, atol=2e-5)


def test_sentence_confidence_is_the_mean_over_its_tokens(tiny, problem_trace):
    text = problem_trace.text[: problem_trace.boundaries[-1]]
    spans = token_spans(tiny.encode(text).offsets, problem_trace.spans).spans
    expected, entropy, logprob = by_definition(tiny, text, 20)
    found = sentence_confidence(problem_trace, tiny, resamples=200)
    for ours, brute in ((found.values, expected), (found.entropy, entropy), (found.logprob, logprob)):
        np.testing.assert_allclose(ours, [brute[a:b].mean() for a, b in spans], atol=2e-5)
    assert found.n.tolist() == [b - a for a, b in spans]
    assert (found.low <= found.values).all() and (found.values <= found.high).all()
    assert np.isnan(found.p).all()


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    bounds = [mean_interval(rng.normal(size=40), np.random.default_rng(i), resamples=300) for i in range(400)]
    assert 0.90 <= np.mean([low <= 0 <= high for low, high in bounds]) <= 0.97
    assert np.isnan(mean_interval(np.array([1.0, np.nan]), rng, resamples=10)).all()


def test_k_beyond_the_vocabulary_is_the_mean_over_all_of_it(checkpoints, problem_trace):
    model = load_model(checkpoints["llama"])
    whole = token_confidence(problem_trace.text, model, k=model.vocabulary)
    beyond = token_confidence(problem_trace.text, model, k=10 * model.vocabulary)
    np.testing.assert_array_equal(whole.confidence, beyond.confidence)
    np.testing.assert_allclose(beyond.confidence, by_definition(model, problem_trace.text, 10**6)[0], atol=2e-5)
    with pytest.raises(ValueError, match="k is 0"):
        token_confidence(problem_trace.text, model, k=0)


def test_the_first_token_of_a_text_is_not_measured(checkpoints):
    found = token_confidence("We need 3.", load_model(checkpoints["gpt2"]))
    assert all(np.isnan(row[0]) and np.isfinite(row[1:]).all() for row in found)


def test_numbers_do_not_depend_on_the_block_of_rows(checkpoints, problem_trace, monkeypatch):
    model = load_model(checkpoints["gemma2"])
    whole = token_confidence(problem_trace.text, model)
    monkeypatch.setattr(confidence, "ELEMENTS", 7 * model.vocabulary)
    for a, b in zip(whole, token_confidence(problem_trace.text, model), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_what_cannot_be_measured_is_refused(checkpoints, problem_trace):
    class BlackBox:
        name = "a server"

    with pytest.raises(CapabilityError, match="a server gives no log-probabilities"):
        sentence_confidence(problem_trace, BlackBox())
    broken = load_model(checkpoints["llama"])
    with torch.no_grad():
        next(broken.module.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        sentence_confidence(problem_trace, broken)
