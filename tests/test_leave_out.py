"""Attention without each of many key ranges, against a masked softmax for each of them in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from anchors.models import leave_out, load_model, suffixes
from anchors.models.attention_pass import Call
from anchors.models.leave_out import Cut, attention_without
from anchors.suppression import suppress
from anchors.trace import Trace

SIZE = 40


def by_masks(call, cuts, heads):
    key, value = (t.repeat_interleave(call.query.shape[1] // t.shape[1], 1) for t in (call.key, call.value))
    scores = call.query @ key.transpose(-1, -2) * call.scaling
    for cut in [None, *cuts]:
        seen = torch.ones(call.query.shape[1], SIZE, SIZE, dtype=torch.bool).tril()
        if cut is not None:
            seen[heads, :, cut.start : cut.end] = False
        weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), -1).nan_to_num(0.0)
        yield (weights @ value)[:, :, 0 if cut is None else cut.first :]


@pytest.mark.parametrize("kv_heads, heads", [(4, [0, 1, 2, 3]), (2, [0, 1, 2, 3]), (2, [1, 2]), (1, [3])])
@pytest.mark.parametrize("held", [1, 1 << 21])
@pytest.mark.parametrize("edges", [[0, 5, 6, 17, 30], [3, 9, 20, 39, 40]])
def test_equals_a_mask_a_cut(monkeypatch, kv_heads, heads, held, edges):
    monkeypatch.setattr(leave_out, "HELD", held)
    torch.manual_seed(0)
    query, key, value = (2 * torch.randn(1, n, SIZE, 8, dtype=torch.float64) for n in (4, kv_heads, kv_heads))
    call = Call(0, query, key, value, 0.3, None, None)
    cuts = [Cut(b - 1 if len(heads) == 4 else a, a, b) for a, b in itertools.pairwise(edges)]
    plain, *wanted = by_masks(call, cuts, heads)
    found = list(attention_without(call, plain, cuts, heads))
    assert len(found) == len(wanted) == len(cuts)
    for ours, mask in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, mask, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_our_own_forward_and_the_known_first_layer_change_no_number(
    checkpoints, problem_trace, monkeypatch, architecture
):
    """Lean or through the module, first layer known or computed, packed or not, one thread or two: one number."""
    model = load_model(checkpoints[architecture])
    trace = Trace.from_text(problem_trace.prompt, problem_trace.reasoning[: problem_trace.sentences[5].end], answer="5")
    wanted = suppress(trace, model, resamples=2)
    assert suffixes.lean_suffixes(model) is not None

    def same(**options):
        found = suppress(trace, model, resamples=2, **options)
        np.testing.assert_allclose(found.values, wanted.values, atol=2e-5)
        if found.matrix is not None:
            np.testing.assert_allclose(found.matrix, wanted.matrix, atol=1e-6)

    same(answer_only=True)
    for size in (1, 7, 256):
        monkeypatch.setitem(suffixes.TOKENS, "cpu", size)
        same()
    torch.set_num_threads(2)
    try:
        same()
    finally:
        torch.set_num_threads(1)
    monkeypatch.setattr(suffixes, "lean_suffixes", lambda _model: None)
    same()
    same(answer_only=True)
    monkeypatch.setattr("anchors.suppression.leaves_out", lambda _call: False)
    same()
    monkeypatch.undo()
    monkeypatch.setattr("anchors.suppression.leaves_out", lambda _call: False)
    same()
