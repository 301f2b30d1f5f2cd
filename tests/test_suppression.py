"""Suppression against one full forward per blocked sentence, and the paper's quantity against a naive rewriting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from anchors import effect_matrix, suppression
from anchors.models import CapabilityError, load_model, suffixes
from anchors.models.divergence import exact_kl, paper_log_kl
from anchors.models.tokens import token_spans
from anchors.suppression import suppress
from anchors.trace import Trace
from tests.test_models import causal_mask, eager


@pytest.fixture(scope="module")
def trace(problem_trace):
    """The first sentences of a written trace: brute force takes one full forward a sentence."""
    end = problem_trace.sentences[6].end
    return Trace.from_text(problem_trace.prompt, problem_trace.reasoning[:end], answer="5")


def forced(model, trace):
    text, start = model.stub.force(trace.prompt + trace.reasoning, trace.answer)
    tokens = model.encode(text)
    first = next(i for i, (_, end) in enumerate(tokens.offsets) if end > start)
    return text, tokens, first


def full_kl(p, q):
    p, q = (torch.as_tensor(x, dtype=torch.float64) for x in (p, q))
    return (p.exp() * (p - q)).sum(-1).numpy()


def brute_force(model, trace, blocked):
    """Values and matrix; `blocked(text, s)` gives log-probabilities with sentence s cut off, None the plain ones."""
    text, tokens, first = forced(model, trace)
    spans = token_spans(tokens.offsets, trace.spans).spans
    base, size = blocked(text, None), len(trace)
    values, matrix = np.full(size, np.nan), np.full((size, size), np.nan)
    for s in range(size):
        cut = blocked(text, s)
        values[s] = sum(
            float(base[t - 1, tokens.ids[t]] - cut[t - 1, tokens.ids[t]]) for t in range(first, len(tokens.ids))
        )
        kl = full_kl(base, cut)
        for target in range(s + 1, size):
            a, b = spans[target]
            matrix[target, s] = kl[a - 1 : b - 1].mean()
    return values, matrix


def by_logprobs(model, trace, **subset):
    def blocked(text, s):
        return model.logprobs(text) if s is None else model.logprobs(text, block=trace.spans[s], **subset)

    return brute_force(model, trace, blocked)


def agree(found, brute, atol=1e-5):
    values, matrix = brute
    np.testing.assert_allclose(found.values, values, atol=atol)
    np.testing.assert_allclose(found.matrix, matrix, atol=atol)


def test_equals_one_full_forward_a_sentence(tiny, trace):
    found = suppress(trace, tiny, resamples=10)
    agree(found, by_logprobs(tiny, trace))
    assert np.array_equal(np.isnan(found.matrix), ~np.tri(len(trace), k=-1, dtype=bool))
    assert np.nanmax(found.matrix) > 1e-4 and np.nanmin(found.matrix) >= 0
    np.testing.assert_allclose(found.outgoing[:-1], [np.nanmean(column) for column in found.matrix.T[:-1]])
    assert np.isnan(found.outgoing[-1])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_equals_an_additive_mask_on_the_plain_module(checkpoints, trace, architecture):
    model = load_model(checkpoints[architecture])
    _, tokens, _ = forced(model, trace)
    spans = token_spans(tokens.offsets, trace.spans).spans

    def blocked(_text, s):
        mask = causal_mask(model, None, len(tokens.ids))
        if s is not None:
            mask[:, spans[s][0] : spans[s][1]] = torch.finfo(torch.float32).min
        return torch.log_softmax(eager(model, tokens.ids, mask[None, None]).logits[0], -1)

    agree(suppress(trace, model, resamples=10), brute_force(model, trace, blocked))


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2"])
def test_subsets_of_layers_and_heads(checkpoints, trace, architecture):
    model = load_model(checkpoints[architecture])
    everything = suppress(trace, model, resamples=10)
    for subset in (
        {"layers": [1]},
        {"layers": [0, 2]},
        {"heads": [(0, 1), (2, 3)]},
        {"layers": [2], "heads": [(2, 0)]},
    ):
        found = suppress(trace, model, resamples=10, **subset)
        agree(found, by_logprobs(model, trace, **subset))
        assert not np.allclose(found.values, everything.values, atol=1e-4)
    pairs = [(layer, head) for layer in range(model.layers) for head in range(model.heads)]
    agree(suppress(trace, model, resamples=10, heads=pairs), (everything.values, everything.matrix))


def test_the_answer_alone_is_the_same_number_without_the_matrix(tiny, trace):
    whole, found = suppress(trace, tiny, resamples=10), suppress(trace, tiny, answer_only=True)
    np.testing.assert_allclose(found.values, whole.values, atol=1e-6)
    assert found.matrix is None and set(found.extras) == {"answer_logprob"}
    late = suppress(trace, tiny, answer_only=True, layers=[2])
    np.testing.assert_allclose(late.values, suppress(trace, tiny, layers=[2], resamples=10).values, atol=1e-6)
    with pytest.raises(ValueError, match="answer_only"):
        suppress(trace, tiny, answer_only=True, compat="paper")


def test_layers_before_the_first_blocked_one_are_not_run(checkpoints, trace):
    """Layers 0 and 1 run for the base alone."""
    model = load_model(checkpoints["llama"])
    wanted = suppress(trace, model, layers=[2], resamples=10)
    ran = []
    layers = suffixes.decoder_layers(model.module)
    hooks = [layer.self_attn.register_forward_hook(lambda m, *_: ran.append(m.layer_idx)) for layer in layers]
    try:
        again = suppress(trace, model, layers=[2], resamples=10)
    finally:
        for hook in hooks:
            hook.remove()
    assert ran.count(0) == ran.count(1) == 1 and ran.count(2) >= 2
    assert np.array_equal(again.matrix, wanted.matrix, equal_nan=True)


def test_a_block_in_no_layer_changes_nothing(tiny, trace):
    for subset in ({"layers": []}, {"heads": []}):
        found = suppress(trace, tiny, resamples=10, **subset)
        np.testing.assert_allclose(found.values, 0, atol=1e-4)
        assert np.nanmax(found.matrix) < 1e-8


def test_wrong_options_are_refused(checkpoints, trace):
    model = load_model(checkpoints["llama"])
    cases = [
        ({"layers": [3]}, "layer 3 does not exist.*0 to 2"),
        ({"layers": [-1]}, "layer -1"),
        ({"heads": [(0, 4)]}, "head 4 does not exist.*0 to 3"),
        ({"heads": [(0, -1)]}, "head -1"),
    ]
    for options, words in cases:
        with pytest.raises(ValueError, match=words):
            suppress(trace, model, **options)


def test_an_unknown_compat_is_refused(checkpoints, trace):
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match="compat is 'papers'"):
            suppress(trace, load_model(checkpoints["llama"]), compat="papers")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_black_boxes_and_traces_without_an_answer_are_refused(checkpoints, trace):
    class BlackBox:
        name = "a server"

    with pytest.raises(CapabilityError, match="a server cannot block attention"):
        suppress(trace, BlackBox())
    silent = Trace.from_text("Q\n<think>\n", "One thing. Another thing.")
    with pytest.raises(ValueError, match="no answer of its own"):
        suppress(silent, load_model(checkpoints["llama"]))
    assert np.isfinite(suppress(silent, load_model(checkpoints["llama"]), answer="4").values).all()


def test_an_answer_the_tokenizer_merges_with_the_stub_is_scored(checkpoints, trace):
    """A stub that ends inside a token: the token that holds the answer's first character must count."""
    from anchors.forced import AnswerStub

    model = load_model(checkpoints["llama"])
    word = next(
        o for o in model.encode(trace.text).offsets if o[1] - o[0] >= 4 and trace.text[o[0] : o[1]].strip().isalpha()
    )
    piece = trace.text[slice(*word)]
    model.stub = AnswerStub("\n</think>" + piece[:-1], "")
    found = suppress(trace, model, answer=piece[-1], resamples=10)
    text, start = model.stub.force(trace.prompt + trace.reasoning, piece[-1])
    last = model.encode(text).offsets[-1]
    assert last[0] < start < last[1]
    assert found.n.tolist() == [1] * len(trace)
    assert float(found.answer_logprob) < 0 and np.abs(found.values).max() > 0
    (scored,) = model.score([text], [start])
    assert scored.logprob == pytest.approx(float(found.answer_logprob), abs=1e-4) and scored.tokens == 1
    with pytest.raises(ValueError, match="no token covers"):
        suppress(trace, model, answer="", resamples=10)


def test_exact_kl_is_float64_and_bounded_by_the_largest_log_ratio(checkpoints, trace):
    model = load_model(checkpoints["qwen2"])
    text, _, _ = forced(model, trace)
    base, cut = (model.logprobs(text, block=block) for block in (None, trace.spans[2]))
    kl = exact_kl(base, cut)
    assert kl.dtype == torch.float64
    wanted = full_kl(torch.log_softmax(base.double(), -1), torch.log_softmax(cut.double(), -1))
    np.testing.assert_allclose(kl, wanted, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(exact_kl(base.double(), cut.double()), wanted, atol=1e-12)
    far = torch.full_like(base, -200.0)
    far[:, 7] = 90.0
    np.testing.assert_allclose(exact_kl(base, far), full_kl(base, torch.log_softmax(far.double(), -1)), rtol=1e-6)
    assert (kl <= (base - cut).abs().max(-1).values.double() + 1e-6).all()
    total = (base.exp() - cut.exp()).abs().sum(-1).double() / 2
    assert (kl + 1e-6 >= 2 * total**2).all()
    assert float(exact_kl(base, base).max()) == 0


def test_numbers_do_not_depend_on_the_block_of_rows_and_repeat(checkpoints, trace, monkeypatch):
    model = load_model(checkpoints["gemma3"])
    whole = {compat: suppress(trace, model, compat=compat, resamples=50) for compat in (None, "paper")}
    again = suppress(trace, model, resamples=50)
    assert np.array_equal(again.matrix, whole[None].matrix, equal_nan=True)
    assert np.array_equal(again.matrix_low, whole[None].matrix_low, equal_nan=True)
    monkeypatch.setitem(suppression.ELEMENTS, "cpu", 1)
    monkeypatch.setattr(suppression, "ROWS", 5)
    monkeypatch.setattr(suppression, "HELD", 1)
    monkeypatch.setitem(suffixes.TOKENS, "cpu", 1)
    agree(suppress(trace, model, resamples=50), (whole[None].values, whole[None].matrix), atol=1e-6)
    paper = suppress(trace, model, compat="paper", resamples=50)
    assert np.nanmean(np.abs(paper.matrix - whole["paper"].matrix)) < 0.02


def test_the_intervals_of_the_cells_contain_them(checkpoints, trace):
    found = suppress(trace, load_model(checkpoints["llama"]), resamples=300)
    cells = ~np.isnan(found.matrix_low)
    assert cells.sum() >= 15
    assert (found.matrix_low[cells] <= found.matrix[cells] + 1e-12).all()
    assert (found.matrix[cells] <= found.matrix_high[cells] + 1e-12).all()


def test_intervals_are_the_same_however_many_sources_are_sorted_at_once(monkeypatch):
    spans, effects = [(0, 4), (4, 9), (9, 10), (10, 16)], np.random.default_rng(0).random((3, 16))
    found = []
    for block in (effect_matrix.SORTED, 1):
        monkeypatch.setattr(effect_matrix, "SORTED", block)
        cells = effect_matrix.Cells.of(spans, 200, 0, shift=1)
        cells.add([0, 1, 2], effects)
        done = cells.finished(centred=False)
        found.append((done.low, done.high))
    assert np.array_equal(*found, equal_nan=True) and (~np.isnan(found[0][0])).sum() == 1 + 3
    draws = np.random.default_rng((0, 3)).integers(6, size=(200, 6))
    expected = np.quantile(effects[2, 9:15][draws].mean(1), [0.025, 0.975])
    assert (found[0][0][3, 2], found[0][1][3, 2]) == pytest.approx(tuple(expected))


def test_sorting_a_block_holds_no_more_for_more_sources(monkeypatch):
    sizes, quantile = [], np.quantile
    monkeypatch.setattr(np, "quantile", lambda a, *rest, **how: sizes.append(a.size) or quantile(a, *rest, **how))
    cells = effect_matrix.Cells.of([(i, i + 2) for i in range(100)], 1000, 0, shift=0)
    cells.add(list(range(99)), np.random.default_rng(0).random((99, 102)))
    cells.finished(centred=False)
    assert max(sizes) <= effect_matrix.SORTED


def naive_paper_kept(row, top_p=0.9999, most=100, temperature=0.6):
    """Token -> logit rounded to float16, of the smallest set of mass top_p at the temperature, at most 100 tokens."""
    scaled = row.astype(np.float64) / temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    kept, mass = {}, 0.0
    for token in np.argsort(-p, kind="stable"):
        if mass >= top_p or len(kept) == most:
            break
        kept[int(token)] = float(np.float16(row[token]))
        mass += p[token]
    return kept


def naive_paper_kl(base, cut, temperature=0.6):
    a, b = naive_paper_kept(base), naive_paper_kept(cut)
    union = sorted(a.keys() | b.keys())

    def log_probabilities(kept):
        scaled = [kept.get(token, -1e9) / temperature for token in union]
        top = max(scaled)
        norm = top + math.log(sum(math.exp(x - top) for x in scaled))
        return [x - norm for x in scaled]

    p, q = log_probabilities(a), log_probabilities(b)
    return max(0.0, sum(math.exp(x) * (x - y) for x, y in zip(p, q, strict=True)))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_papers_quantity_equals_a_naive_rewriting(checkpoints, trace, architecture):
    model = load_model(checkpoints[architecture])
    _, tokens, _ = forced(model, trace)
    edges = []
    for a, b in trace.spans:
        stripped = a + len(trace.text[a:b]) - len(trace.text[a:b].lstrip())
        edges.append(len(model.encode(trace.text[:stripped]).ids))
    edges.append(len(model.encode(trace.text[: trace.boundaries[-1]]).ids))
    base = eager(model, tokens.ids).logits[0].numpy()
    size = len(trace)
    matrix, close, large = np.full((size, size), np.nan), [], 0
    for s in range(size - 1):
        mask = causal_mask(model, None, len(tokens.ids))
        mask[:, edges[s] : edges[s + 1]] = torch.finfo(torch.float32).min
        cut = eager(model, tokens.ids, mask[None, None]).logits[0].numpy()
        kl = np.array([naive_paper_kl(base[t], cut[t]) for t in range(edges[-1])])
        ours = np.exp(paper_log_kl(torch.tensor(base[: edges[-1]]), torch.tensor(cut[: edges[-1]])).numpy()) - 1e-9
        close += [abs(x - y) <= 1e-3 * y for x, y in zip(ours, kl, strict=True) if y > 1e-5]
        large += int((kl > 1e3).sum())
        for target in range(s + 1, size):
            matrix[target, s] = np.log(kl[edges[target] : edges[target + 1]] + 1e-9).mean()
    assert large > 0, "the truncation artefact must be reproduced, not avoided"
    assert len(close) > 100 and np.mean(close) >= 0.99
    centred = matrix - np.array([np.nan, *(np.nanmean(row) for row in matrix[1:])])[:, None]
    found = suppress(trace, model, compat="paper", resamples=10)
    gap = np.abs(found.matrix - centred)[np.tri(size, k=-1, dtype=bool)]
    assert gap.mean() <= 0.02 and (gap > 0.05).mean() <= 0.05
    np.testing.assert_allclose([np.nanmean(row) for row in found.matrix[1:]], 0, atol=1e-9)
    assert np.array_equal(np.isnan(found.matrix), np.isnan(matrix))
