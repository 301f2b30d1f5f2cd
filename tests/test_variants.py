"""Variants of one text score as one forward each would score them, in any order and company."""

import numpy as np
import pytest
import torch

from anchors.models.attention_pass import TracePass
from anchors.models.base import Job, Sampling
from anchors.models.suffixes import TOKENS
from anchors.models.tokens import answer_tokens, token_spans
from anchors.models.variants import Variant, score_variants


def variants_of(trace, stub, answer="3"):
    """The whole text, every deletion, every block, every pair of blocks, and a text with nothing in common."""
    whole, spans = trace.prompt + trace.reasoning, trace.spans
    found = [Variant(*stub.force(whole, answer))]
    found += [Variant(*stub.force(whole[:a] + whole[b:], answer)) for a, b in spans]
    found += [Variant(*stub.force(whole, answer), (span,)) for span in spans]
    found += [Variant(*stub.force(whole, answer), pair) for pair in zip(spans, spans[2:], strict=False)]
    return [*found, Variant(*stub.force("Something else. It is short.", answer))]


def alone(model, variant):
    """The same number from one plain forward over the whole text."""
    tokens = model.encode(variant.text)
    first, end = answer_tokens(tokens.offsets, variant.start)
    cut = token_spans(tokens.offsets, variant.blocked).spans
    hidden = model.hidden(tokens.ids, TracePass(cut=cut))
    return model.logprob_of(tokens.ids[first:end], hidden[first - 1 : end - 1])


def test_variants_score_as_one_forward_each(tiny, problem_trace):
    variants = variants_of(problem_trace, tiny.stub)
    found = score_variants(tiny, variants)
    expected = [alone(tiny, variant) for variant in variants]
    np.testing.assert_allclose([s.logprob for s in found], expected, atol=2e-4)


def test_a_blocked_variant_is_the_blocked_score(tiny, problem_trace):
    text, start = tiny.stub.force(problem_trace.prompt + problem_trace.reasoning, "3")
    for span in problem_trace.spans[:4]:
        (expected,) = tiny.score([text], [start], block=span)
        (found,) = score_variants(tiny, [Variant(text, start, (span,))])
        assert found.logprob == pytest.approx(expected.logprob, abs=2e-4)
        assert found.tokens == expected.tokens


def test_order_and_company_do_not_matter(tiny, problem_trace):
    variants = variants_of(problem_trace, tiny.stub)
    together = [s.logprob for s in score_variants(tiny, variants)]
    order = np.random.default_rng(0).permutation(len(variants))
    shuffled = score_variants(tiny, [variants[i] for i in order])
    np.testing.assert_allclose([s.logprob for s in shuffled], np.array(together)[order], atol=2e-4)


def test_small_batches_change_nothing(tiny, problem_trace, monkeypatch):
    variants = variants_of(problem_trace, tiny.stub)
    together = [s.logprob for s in score_variants(tiny, variants)]
    monkeypatch.setitem(TOKENS, "cpu", 1)
    np.testing.assert_allclose([s.logprob for s in score_variants(tiny, variants)], together, atol=2e-4)


def test_a_text_longer_than_the_context_is_refused(tiny):
    text = "word " * 3 * tiny.context
    with pytest.raises(ValueError, match="positions"):
        score_variants(tiny, [Variant(text, len(text) - 2)])


def test_rollouts_with_blocked_sentences_are_those_of_the_blocked_model(tiny, problem_trace):
    text, span = problem_trace.prompt + problem_trace.reasoning, problem_trace.spans[2]
    jobs = [Job(text, len(text), "t", 0, s, (span,)) for s in range(6)]
    sampling = Sampling(temperature=1e-3, top_p=1.0, max_new_tokens=6)
    found = dict(tiny.generate(jobs, sampling=sampling, seed=0))
    tokens = tiny.encode(text)
    cut, ids = token_spans(tokens.offsets, [span]).spans, list(tokens.ids)
    for _ in range(6):
        logits = tiny.unembed(tiny.hidden(ids, TracePass(cut=cut))[-1])
        ids.append(int(torch.argmax(logits)))
        if ids[-1] in tiny.end_ids:
            ids.pop()
            break
    expected = tiny.decode(ids)[len(tiny.decode(tokens.ids)) :]
    assert {c.text for c in found.values()} == {expected}
