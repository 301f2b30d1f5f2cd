"""Attention scores against naive loops, scipy, and the attentions of a plain eager forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anchors.attention import (
    ablate_heads,
    fisher_kurtosis,
    receiver_heads,
    shared_receiver_heads,
    top_heads,
    vertical_scores,
)
from anchors.models import load_model
from anchors.models.attention_pass import TracePass
from anchors.models.base import Sampling
from anchors.models.tokens import token_spans
from anchors.stats import benjamini_hochberg
from anchors.trace import Trace
from tests.test_models import eager


class Reader:
    """A white box with made-up pooled attention."""

    name, sampling = "made up", Sampling()

    def __init__(self, attention):
        self.attention = torch.tensor(attention)
        self.layers, self.heads = self.attention.shape[:2]

    def pooled_attention(self, text, spans):
        return self.attention

    def generate(self, jobs, *, sampling, seed):
        raise NotImplementedError

    encode = logprobs = score = generate


def plain_trace(size):
    return Trace.from_text("Q\n<think>\n", "".join(f"Sentence number {i}. " for i in range(size)), answer="1")


def distance_only(rng, size=30, noise=0.3):
    """Attention that falls with distance and differs within a distance by noise only."""
    distance = np.arange(size)[:, None] - np.arange(size)
    return np.where(distance >= 0, np.exp(noise * rng.normal(size=(size, size))) / (1.0 + np.maximum(distance, 0)), 0)


def naive_vertical(matrix, proximity):
    size = len(matrix)
    columns = [[matrix[i, j] for i in range(j + proximity, size) if not np.isnan(matrix[i, j])] for j in range(size)]
    return np.array([np.mean(column) if column else np.nan for column in columns])


@pytest.mark.parametrize("proximity", [1, 4, 7])
def test_vertical_scores_equal_naive_loops(proximity):
    rng = np.random.default_rng(0)
    attention = rng.random((2, 3, 11, 11))
    attention[:, :, 5, :] = attention[:, :, :, 5] = np.nan
    found = vertical_scores(attention, proximity=proximity)
    for layer, head in np.ndindex(2, 3):
        np.testing.assert_allclose(found[layer, head], naive_vertical(attention[layer, head], proximity))
    assert np.isnan(found[..., -proximity:]).all() and np.isnan(found[..., 5]).all()
    with pytest.raises(ValueError, match="proximity is 0"):
        vertical_scores(attention, proximity=0)


def test_fisher_kurtosis_equals_scipy():
    from scipy.stats import kurtosis

    scores = np.random.default_rng(1).gamma(1.0, size=(4, 5, 20))
    scores[:, :, -4:] = np.nan
    scores[0, 0, 3] = np.nan
    np.testing.assert_allclose(fisher_kurtosis(scores), kurtosis(scores, axis=-1, nan_policy="omit"), rtol=1e-12)


def test_kurtosis_is_not_measured_where_it_cannot_be():
    few = np.array([[1.0, 2.0, 3.0, np.nan, np.nan], [np.nan] * 5, [2.0] * 5, [1.0, 2.0, 3.0, 9.0, np.nan]])
    assert np.isnan(fisher_kurtosis(few)).tolist() == [True, True, True, False]


def test_top_heads_orders_and_skips_the_unmeasured():
    kurtosis = np.array([[1.0, np.nan, 3.0], [3.0, -1.0, 2.0]])
    assert top_heads(kurtosis, top=3) == [(0, 2), (1, 0), (1, 2)]
    assert len(top_heads(kurtosis, top=99)) == 5


@pytest.mark.parametrize("architecture", ["qwen2", "gemma3"])
def test_receiver_heads_equal_brute_force(checkpoints, problem_trace, architecture):
    from scipy.stats import kurtosis

    model = load_model(checkpoints[architecture])
    tokens = model.encode(problem_trace.text)
    spans = token_spans(tokens.offsets, problem_trace.spans).spans
    attentions = [layer[0].double().numpy() for layer in eager(model, tokens.ids).attentions]
    pooled = np.array(
        [[[[h[a:b, c:d].mean() for c, d in spans] for a, b in spans] for h in heads] for heads in attentions]
    )
    vertical = np.array([[naive_vertical(m, 4) for m in heads] for heads in pooled])
    peaks = kurtosis(vertical, axis=-1, nan_policy="omit")
    best = np.argsort(-peaks, axis=None)[:3]
    chosen = [tuple(map(int, divmod(i, model.heads))) for i in best]

    found = receiver_heads(problem_trace, model, resamples=200)
    assert list(map(tuple, found.heads.tolist())) == chosen
    np.testing.assert_allclose(found.kurtosis, peaks, rtol=1e-3)
    mean = np.mean([pooled[pair] for pair in chosen], axis=0)
    np.testing.assert_allclose(found.values, naive_vertical(mean, 4), atol=1e-6)
    below = np.tri(len(mean), k=-1, dtype=bool)
    np.testing.assert_allclose(found.matrix[below], mean[below], atol=1e-6)
    assert np.isnan(found.matrix[~below]).all()
    assert found.n.tolist() == [max(0, len(mean) - 4 - j) for j in range(len(mean))]
    assert found.details["heads chosen on"] == "this trace"
    measured = found.n >= 2
    assert (found.low[measured] <= found.values[measured]).all()
    assert (found.values[measured] <= found.high[measured]).all()


def test_recency_null_holds_its_level_and_finds_a_planted_column():
    rng, trace = np.random.default_rng(2), plain_trace(30)
    p, planted = [], []
    for k in range(300):
        attention = distance_only(rng)
        found = receiver_heads(trace, Reader(attention[None, None]), resamples=199, seed=k, heads=[(0, 0)])
        p.append(found.recency_p[~np.isnan(found.recency_p)])
        assert np.isnan(found.recency_p[-4:]).all()
        if k < 20:
            attention[12:, 8] *= 2
            marked = receiver_heads(trace, Reader(attention[None, None]), resamples=999, seed=k, heads=[(0, 0)])
            planted.append(bool(benjamini_hochberg(marked.recency_p[:-4], fdr=0.05)[8]))
    p = np.concatenate(p)
    assert (p <= 0.05).mean() <= 0.05
    assert (p <= 0.01).mean() <= 0.012
    assert np.mean(planted) >= 0.95


def test_the_null_expects_what_distance_alone_gives():
    attention = distance_only(np.random.default_rng(3), noise=0.0)
    found = receiver_heads(plain_trace(30), Reader(attention[None, None]), resamples=99)
    np.testing.assert_allclose(found.floor[:-4], found.values[:-4])
    assert (found.recency_p[:-4] == 1).all()


def test_attention_ranks_sentences_and_names_no_anchors():
    """Where the answer hangs on nothing (`null`) attention still concentrates, so it must not claim an effect."""
    from anchors.lab import world_trace
    from anchors.lab.worlds import load_world

    model = load_model("lab/null")
    for seed in range(5):
        found = receiver_heads(world_trace(load_world("null"), seed=seed), model, resamples=200)
        assert np.isnan(found.p).all() and len(found.top(3)) == 3
        with pytest.raises(ValueError, match=r"no p-values.*top\(k\)"):
            found.anchors()


def test_sentences_without_tokens_are_not_measured():
    attention = distance_only(np.random.default_rng(4), size=12)
    for empty in (0, 5, 11):
        attention[empty, :] = attention[:, empty] = np.nan
    found = receiver_heads(plain_trace(12), Reader(attention[None, None]), resamples=99, heads=[(0, 0)])
    assert np.flatnonzero(np.isnan(found.values)).tolist() == [0, 5, 7, 8, 9, 10, 11]
    assert np.array_equal(np.isnan(found.recency_p), np.isnan(found.values))


def test_short_traces_and_wrong_options_are_refused(checkpoints, problem_trace):
    model = Reader(np.random.default_rng(0).random((1, 2, 4, 4)))
    with pytest.raises(ValueError, match=r"4 sentences.*proximity=4"):
        receiver_heads(plain_trace(4), model)
    with pytest.raises(ValueError, match="top is 0"):
        receiver_heads(plain_trace(8), model, top=0)
    wide = Reader(np.random.default_rng(0).random((1, 2, 8, 8)))
    for heads, words in (([], "empty"), ([(0, 2)], r"\(0, 2\)"), ([(-1, 0)], r"\(-1, 0\)")):
        with pytest.raises(ValueError, match=words):
            receiver_heads(plain_trace(8), wide, heads=heads)
    few = receiver_heads(plain_trace(6), Reader(np.random.default_rng(0).random((1, 2, 6, 6))))
    assert few.details["heads chosen on"].startswith("all heads") and len(few.heads) == 2


def test_heads_fixed_by_the_caller_are_used():
    attention = np.random.default_rng(5).random((2, 3, 10, 10))
    found = receiver_heads(plain_trace(10), Reader(attention), heads=[(1, 2), (0, 1), (1, 2)])
    assert found.heads.tolist() == [[1, 2], [0, 1]]
    mean = (attention[1, 2] + attention[0, 1]) / 2
    np.testing.assert_allclose(found.values, naive_vertical(mean, 4))
    assert found.details["heads chosen on"] == "the caller's"


def test_shared_receiver_heads_average_kurtosis_over_traces():
    rng = np.random.default_rng(6)
    attentions = {size: rng.random((2, 3, size, size)) for size in (9, 12)}
    traces = [plain_trace(size) for size in attentions]

    class Several(Reader):
        def pooled_attention(self, text, spans):
            return torch.tensor(attentions[len(spans)])

    model = Several(attentions[9])
    kurtoses = [fisher_kurtosis(vertical_scores(a, proximity=4)) for a in attentions.values()]
    order = np.argsort(-np.mean(kurtoses, axis=0), axis=None)[:2]
    assert shared_receiver_heads(traces, model, top=2) == [tuple(map(int, divmod(i, 3))) for i in order]
    with pytest.raises(ValueError, match="0 traces"):
        shared_receiver_heads([], model)
    with pytest.raises(ValueError, match="proximity=4"):
        shared_receiver_heads([plain_trace(3)], model)


def test_ablate_heads_equals_manual_ablation(checkpoints, problem_trace):
    model = load_model(checkpoints["llama"])
    heads = [(0, 1), (2, 3)]
    text, start = model.stub.force(problem_trace.prompt + problem_trace.reasoning, problem_trace.answer)
    tokens = model.encode(text)
    first = next(i for i, (_, end) in enumerate(tokens.offsets) if end > start)

    def logprob(ablate):
        logp = torch.log_softmax(model.unembed(model.hidden(tokens.ids, TracePass(ablate=frozenset(ablate)))), -1)
        return sum(float(logp[t - 1, tokens.ids[t]]) for t in range(first, len(tokens.ids)))

    found = ablate_heads(problem_trace, model, heads, controls=3)
    assert found.base == pytest.approx(logprob([]), abs=1e-4)
    assert found.ablated == pytest.approx(logprob(heads), abs=1e-4)
    assert found.effect == pytest.approx(logprob([]) - logprob(heads), abs=2e-4)
    assert abs(found.effect) > 1e-3
    assert found.random.shape == (3,) and not np.allclose(found.random, found.base)
    assert np.array_equal(ablate_heads(problem_trace, model, heads, controls=3).random, found.random)
    for wrong in ([], [(0, 4)], [(3, 0)]):
        with pytest.raises(ValueError, match="heads"):
            ablate_heads(problem_trace, model, wrong)
