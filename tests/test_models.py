"""Every architecture against transformers itself: plain eager forwards, one full forward a question."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from anchors.lab.worlds import write
from anchors.lab.worlds.expression import WORLD
from anchors.models import CapabilityError, attention_pass, load_model, pooling
from anchors.models.attention_pass import Block, TracePass
from anchors.models.base import Sampling
from anchors.models.checks import check_model
from anchors.models.tokens import token_spans
from anchors.trace import Trace
from tests.conftest import ARCHITECTURES


def eager(model, ids, mask=None):
    """Logits and attentions of the module's own eager forward, with an additive mask per head where one is given."""
    module = model.module
    module.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            return module(torch.tensor([ids]), attention_mask=mask, output_attentions=True, use_cache=False)
    finally:
        module.set_attn_implementation("anchors")


def causal_mask(model, layer_window, size):
    i = torch.arange(size)
    seen = i[:, None] >= i
    if layer_window is not None:
        seen &= i[:, None] - i < layer_window
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)


@pytest.fixture(scope="module")
def trace(problem_trace) -> Trace:
    return problem_trace


def test_logits_equal_hugging_face(tiny, trace):
    ids = tiny.encode(trace.text).ids
    ours = tiny.unembed(tiny.hidden(ids, TracePass()))
    assert torch.allclose(ours, eager(tiny, ids).logits[0], atol=1e-5)


def test_suffix_over_recorded_past_equals_one_forward(tiny, trace):
    ids = tiny.encode(trace.text).ids
    whole, past = tiny.prefill(ids)
    for start in (1, 7, len(ids) - 2):
        suffix = tiny.hidden(ids, TracePass(start=start, past=past))
        assert torch.allclose(suffix, whole[start:], atol=1e-5)


def test_pooled_attention_equals_brute_force(tiny, trace):
    tokens = tiny.encode(trace.text)
    spans = token_spans(tokens.offsets, trace.spans).spans
    pooled = tiny.pooled_attention(trace.text, trace.spans).numpy()
    attentions = eager(tiny, tokens.ids).attentions
    for layer in range(tiny.layers):
        for head in range(tiny.heads):
            full = attentions[layer][0, head].numpy()
            brute = [[full[a:b, c:d].mean() for c, d in spans] for a, b in spans]
            np.testing.assert_allclose(pooled[layer, head], brute, atol=1e-5)


def test_query_blocks_do_not_change_pooling(tiny, trace, monkeypatch):
    whole = tiny.pooled_attention(trace.text, trace.spans)
    monkeypatch.setattr("anchors.models.pooling.QUERY_BLOCK", 5)
    assert torch.allclose(tiny.pooled_attention(trace.text, trace.spans), whole, atol=1e-6)
    monkeypatch.setitem(pooling.ELEMENTS, "cpu", 1)
    assert torch.allclose(tiny.pooled_attention(trace.text, trace.spans), whole, atol=1e-6)


def test_query_blocks_do_not_change_masked_attention(tiny, trace, monkeypatch):
    ids = tiny.encode(trace.text).ids
    block = Block(9, 14, heads=frozenset({(0, 1), (2, 3)}))
    whole = [tiny.hidden(ids, TracePass(**options)) for options in ({}, {"block": block}, {"cut": [(3, 5), (20, 31)]})]
    monkeypatch.setattr(attention_pass, "QUERY_BLOCK", 5)
    for options, wanted in zip(({}, {"block": block}, {"cut": [(3, 5), (20, 31)]}), whole, strict=True):
        assert torch.allclose(tiny.hidden(ids, TracePass(**options)), wanted, atol=1e-5)


def test_a_pooled_block_of_some_heads_is_that_of_the_plain_module(checkpoints, trace):
    model = load_model(checkpoints["qwen3"])
    ids = model.encode(trace.text).ids
    block, found = Block(9, 14, heads=frozenset({(0, 1), (0, 2)})), {}
    each = [(i, i + 1) for i in range(len(ids))]
    run = TracePass(pool=(each, lambda layer, head, means: found.update({(layer, head): means})), block=block)
    hidden = model.hidden(ids, run)
    first = torch.stack([found[0, head] for head in range(model.heads)])
    mask = causal_mask(model, None, len(ids)).repeat(model.heads, 1, 1)
    mask[1:3, :, 9:14] = torch.finfo(torch.float32).min
    brute = eager(model, ids, mask[None]).attentions[0][0]
    seen = torch.ones(len(ids), dtype=torch.bool)
    assert torch.allclose(first[:, seen], brute[:, seen], atol=1e-6)
    assert torch.allclose(hidden, model.hidden(ids, TracePass(block=run.block)), atol=1e-5)


def test_block_equals_an_additive_mask_on_the_plain_module(tiny, trace):
    tokens = tiny.encode(trace.text)
    (span,) = token_spans(tokens.offsets, [trace.spans[2]]).spans
    size = len(tokens.ids)
    config = tiny.module.config
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "layer_types", None) and "sliding_attention" in config.layer_types:
        masks = {"full_attention": causal_mask(tiny, None, size), "sliding_attention": causal_mask(tiny, window, size)}
        for mask in masks.values():
            mask[:, span[0] : span[1]] = torch.finfo(torch.float32).min
        mask = {name: m[None, None] for name, m in masks.items()}
    else:
        mask = causal_mask(tiny, None, size)
        mask[:, span[0] : span[1]] = torch.finfo(torch.float32).min
        mask = mask[None, None]
    brute = torch.log_softmax(eager(tiny, tokens.ids, mask).logits[0], -1)
    assert torch.allclose(tiny.logprobs(trace.text, block=trace.spans[2]), brute, atol=1e-5)


def test_head_ablation_zeroes_the_input_of_the_output_projection(tiny, trace):
    ids = tiny.encode(trace.text).ids
    ours = tiny.hidden(ids, TracePass(ablate=frozenset({(1, 2)})))
    name = next(n for n in ("o_proj", "c_proj", "dense") if any(n in m for m, _ in tiny.module.named_modules()))
    projection = [m for n, m in tiny.module.named_modules() if n.endswith(name) and ("attn" in n or "attention" in n)][
        1
    ]

    def zero(_module, inputs):
        (x,) = inputs
        width = x.shape[-1] // tiny.heads
        x = x.clone()
        x[..., 2 * width : 3 * width] = 0
        return (x,)

    handle = projection.register_forward_pre_hook(zero)
    try:
        brute = tiny.hidden(ids, TracePass())
    finally:
        handle.remove()
    assert torch.allclose(ours, brute, atol=1e-6)
    assert not torch.allclose(ours, tiny.hidden(ids, TracePass()), atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_loads_passes_and_stays_close(checkpoints, trace, architecture):
    half = load_model(checkpoints[architecture], dtype=torch.bfloat16)
    full = load_model(checkpoints[architecture])
    assert half.dtype == torch.bfloat16
    p, q = full.logprobs(trace.text), half.logprobs(trace.text)
    assert float((p.exp() * (p - q)).sum(-1).mean()) < 0.05


def test_score_sums_the_logprobs_of_the_forced_text(tiny, trace):
    text, start = tiny.stub.force(trace.before(3), "7")
    (scored,) = tiny.score([text], [start])
    tokens = tiny.encode(text)
    first = next(i for i, (a, _) in enumerate(tokens.offsets) if a >= start)
    logp = tiny.logprobs(text)
    brute = sum(float(logp[t - 1, tokens.ids[t]]) for t in range(first, len(tokens.ids)))
    assert scored.logprob == pytest.approx(brute, abs=1e-4)
    assert scored.tokens == len(tokens.ids) - first


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_bridge_shares_weights_and_agrees(checkpoints, trace, architecture):
    model = load_model(checkpoints[architecture])
    ids = model.encode(trace.text).ids
    ours = model.unembed(model.hidden(ids, TracePass()))
    with torch.no_grad():
        assert torch.allclose(model.bridge(torch.tensor([ids]))[0], ours, atol=1e-4)
    held = load_model(model.bridge)
    assert held.module.get_input_embeddings().weight.data_ptr() == model.module.get_input_embeddings().weight.data_ptr()
    assert torch.allclose(held.unembed(held.hidden(ids, TracePass())), ours, atol=1e-5)


def test_suppression_by_bridge_hooks_agrees(checkpoints, trace):
    """An independent library: TransformerLens hooks on the attention scores of the same weights."""
    model = load_model(checkpoints["qwen2"])
    tokens = model.encode(trace.text)
    (span,) = token_spans(tokens.offsets, [trace.spans[1]]).spans

    def cut(scores, hook):
        scores[..., span[0] : span[1]] = torch.finfo(scores.dtype).min
        return scores

    hooks = [(f"blocks.{layer}.attn.hook_attn_scores", cut) for layer in range(model.layers)]
    with torch.no_grad():
        logits = model.bridge.run_with_hooks(torch.tensor([tokens.ids]), fwd_hooks=hooks)
    brute = torch.log_softmax(logits[0], -1)
    assert torch.allclose(model.logprobs(trace.text, block=trace.spans[1]), brute, atol=1e-4)


def test_check_model_refuses_a_model_that_sees_the_future(checkpoints, monkeypatch):
    def everything(call, past, view):
        return torch.nn.functional.scaled_dot_product_attention(call.query, call.key, call.value, enable_gqa=True)

    model = load_model(checkpoints["llama"])
    monkeypatch.setattr(attention_pass, "attend_view", everything)
    monkeypatch.setattr(pooling, "_weights", lambda call, query, key, _: torch.softmax(query @ key.mT, dim=-1))
    report = check_model(model)
    assert {c.name for c in report.checks if not c.passed} >= {"causality", "attention rows"}
    with pytest.raises(CapabilityError, match="causality"):
        report.require()


def test_check_model_refuses_changed_token_ids(checkpoints):
    model = load_model(checkpoints["llama"])
    ids = model.encode("We need 3.").ids
    model.probe = {"text": "We need 3.", "ids": [*ids[:-1], 0]}
    with pytest.raises(CapabilityError, match="stored token ids"):
        check_model(model).require()


def test_nan_weights_are_refused(checkpoints, trace):
    model = load_model(checkpoints["llama"])
    with torch.no_grad():
        next(model.module.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        model.logprobs(trace.text)
    with pytest.raises(CapabilityError, match="not safe"):
        check_model(model).require()


def test_text_longer_than_the_context_says_what_fits(checkpoints):
    model = load_model(checkpoints["llama"])
    with pytest.raises(ValueError, match=r"601 tokens.*512 positions.*first 512"):
        model.logprobs("We" + " need" * 600)


def test_text_the_tokenizer_cannot_round_trip(checkpoints, tmp_path):
    from transformers import AutoTokenizer

    folder = tmp_path / "lower"
    model = load_model(checkpoints["llama"])
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["llama"])
    record = json.loads(tokenizer.backend_tokenizer.to_str())
    record["normalizer"] = {"type": "Lowercase"}
    model.module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(record))
    broken = load_model(folder, check=False)
    with pytest.raises(ValueError, match="does not reproduce the text: at character 0"):
        broken.encode("We need 3.")
    with pytest.raises(ValueError, match="lone surrogates"):
        model.encode("a \ud800 b")


def test_unknown_names_are_named(tmp_path):
    with pytest.raises(ValueError, match="no lab model is called 'nobody'"):
        load_model("lab/nobody")
    with pytest.raises(ValueError, match="cannot load"):
        load_model(tmp_path / "absent")
    with pytest.raises(CapabilityError, match="neither a model name nor a TransformerBridge"):
        load_model(object())


def test_a_model_without_attention_is_refused(tmp_path, checkpoints):
    from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM

    folder = tmp_path / "mamba"
    MambaForCausalLM(MambaConfig(vocab_size=420, hidden_size=16, num_hidden_layers=1)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoints["llama"]).save_pretrained(folder)
    with pytest.raises(CapabilityError, match="attention"):
        load_model(folder)


def test_sampling_refuses_nonsense():
    for options in ({"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"max_new_tokens": 0}):
        with pytest.raises(ValueError, match=str(next(iter(options)))):
            Sampling(**options)


def test_import_loads_neither_torch_nor_transformer_lens():
    code = "import sys, anchors; print(sorted({'torch', 'transformer_lens', 'scipy', 'pandas'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_tokens_at_boundaries_are_assigned_once_and_counted(tiny, trace):
    offsets = tiny.encode(trace.text).offsets
    edges = [0, 13, *trace.boundaries, len(trace.text)]
    result = token_spans(offsets, list(itertools.pairwise(edges)))
    assert [b for _, b in result.spans[:-1]] == [a for a, _ in result.spans[1:]]
    assert result.straddling >= 0
    assert write(WORLD, (1, "+", 2, "*", 3), __import__("random").Random(0)).moves


def test_a_forward_outside_a_pass_is_refused(checkpoints):
    """Padding masks and caches would be dropped silently there."""
    model = load_model(checkpoints["llama"])
    with pytest.raises(CapabilityError, match=r"model\.bridge"):
        model.module(torch.tensor([[5, 6]]))


def test_layers_that_cannot_be_blocked_are_refused(checkpoints):
    from anchors.models.lens import LensModel

    model = load_model(checkpoints["llama"])
    model.module.config.layer_types = ["full_attention", "chunked_attention", "full_attention"]
    with pytest.raises(CapabilityError, match="chunked_attention"):
        LensModel(model.module, model.tokenizer, name="mixed")
