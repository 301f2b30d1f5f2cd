"""One forward pass's attention, in our hands for every architecture.

1. Hugging Face calls the function registered here with queries and keys already projected, normalised and rotated.
2. The function hands them to the current pass, which knows the positions, what is blocked and what to record.
3. `TracePass` runs the tokens [start, T) of one text over a recorded past: plain, blocked, ablated or pooled.
4. No mask function is registered under our name, so no model builds a mask of its own and none can leak the future.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anchors.models.base import CapabilityError

NAME = "anchors"
QUERY_BLOCK = 512


class LayerCache(NamedTuple):
    """Keys and values of one layer over the tokens of one text: [kv_head, token, width]."""

    keys: Float[Tensor, "kv_head token width"]
    values: Float[Tensor, "kv_head token width"]


class Call(NamedTuple):
    """What a layer asks of its attention: queries over the new tokens' own keys and values, and its settings."""

    layer: int
    query: Float[Tensor, "row head new width"]
    key: Float[Tensor, "row kv_head new width"]
    value: Float[Tensor, "row kv_head new width"]
    scaling: float
    window: int | None
    softcap: float | None


@runtime_checkable
class Pass(Protocol):
    """Decides what one forward pass attends to."""

    def attend(self, call: Call) -> Float[Tensor, "row head new width"]: ...


_current: ContextVar[Pass | None] = ContextVar("anchors_pass", default=None)


@contextmanager
def running(current: Pass) -> Iterator[None]:
    """Route the attention of the forward inside this block through `current`."""
    token = _current.set(current)
    try:
        yield
    finally:
        _current.reset(token)


def attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The function registered with transformers; returns [row, new, head, width]."""
    unsupported = [name for name in ("s_aux", "position_bias", "head_mask") if options.get(name) is not None]
    if unsupported or attention_mask is not None:
        reason = unsupported[0] if unsupported else "an attention mask of its own"
        raise CapabilityError(f"{type(module).__name__} uses {reason}, which this package does not reproduce")
    scaling = float(query.shape[-1] ** -0.5) if scaling is None else scaling
    window, softcap = options.get("sliding_window"), options.get("softcap")
    call = Call(module.layer_idx, query, key, value, scaling, window, softcap)
    current = _current.get()
    if current is None:
        raise CapabilityError(
            "this module's attention is routed through anchors, where padding masks and caches do not act; for "
            "forwards of your own use model.bridge, or module.set_attn_implementation('eager') while they run"
        )
    return rearrange(current.attend(call), "row head new width -> row new head width").contiguous(), None


def register() -> str:
    """Register the attention function with transformers and return its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention_forward)
    return NAME


def repeat_heads(x: Float[Tensor, "*row kv_head token width"], heads: int) -> Float[Tensor, "*row head token width"]:
    """Repeat key/value heads so that every query head has its own (grouped-query attention)."""
    groups = heads // x.shape[-3]
    return x if groups == 1 else x.repeat_interleave(groups, dim=-3)


def scaled(call: Call, products: Tensor) -> Tensor:
    """Attention scores in float32 from query-key products: the layer's scaling, then its soft cap."""
    scores = products.float() * call.scaling
    return scores if call.softcap is None else call.softcap * torch.tanh(scores / call.softcap)


def weights(call: Call, query: Tensor, key: Tensor, allowed: Bool[Tensor, "... query key"]) -> Tensor:
    """Softmax attention weights in float32; a query that may see nothing has weight zero everywhere."""
    scores = scaled(call, torch.matmul(query, key.transpose(-1, -2)))
    scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1) * allowed.any(-1, keepdim=True)


def visible(
    queries: Int[Tensor, "*row query"], keys: Int[Tensor, " key"], window: int | None
) -> Bool[Tensor, "*row query key"]:
    """Causal visibility by position, within the layer's sliding window if it has one."""
    return within(queries[..., None] - keys, window)


def within(distance: Int[Tensor, "*shape"], window: int | None) -> Bool[Tensor, "*shape"]:
    """Which distances from query back to key a layer allows: none into the future, none beyond its window."""
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)


@dataclass
class Block:
    """Key columns [start, end) cut off for every query, in the given layers and (layer, head) pairs; None means all."""

    start: int
    end: int
    layers: frozenset[int] | None = None
    heads: frozenset[tuple[int, int]] | None = None

    def heads_in(self, layer: int, heads: int) -> list[int]:
        """Heads of `layer` that lose the columns."""
        if self.layers is not None and layer not in self.layers:
            return []
        return [h for h in range(heads) if self.heads is None or (layer, h) in self.heads]


@dataclass
class TracePass:
    """Attention of tokens [start, T) of one text over `past`, the recorded keys and values of tokens [0, start).

    `record` keeps keys and values of the new tokens in `recorded`; `cut` are key columns no query of any layer sees;
    `ablate` zeroes the output of (layer, head) pairs, which is the input of the output projection; `pool` averages
    attention over token spans into `pooled`.
    """

    start: int = 0
    past: Sequence[LayerCache] | None = None
    block: Block | None = None
    cut: Sequence[tuple[int, int]] = ()
    ablate: frozenset[tuple[int, int]] = frozenset()
    pool: Sequence[tuple[int, int]] | None = None
    record: bool = False
    recorded: dict[int, LayerCache] = field(default_factory=dict)
    pooled: dict[int, Float[Tensor, "head target source"]] = field(default_factory=dict)

    def attend(self, call: Call) -> Float[Tensor, "row head new width"]:
        heads = call.query.shape[1]
        if self.record:
            self.recorded[call.layer] = LayerCache(call.key[0], call.value[0])
        key, value = call.key, call.value
        if self.past is not None:
            old = self.past[call.layer]
            rows = (call.query.shape[0], -1, -1, -1)
            key = torch.cat([old.keys[:, : self.start].expand(rows), key], dim=2)
            value = torch.cat([old.values[:, : self.start].expand(rows), value], dim=2)
        key, value = repeat_heads(key, heads), repeat_heads(value, heads)
        blocked = self.block.heads_in(call.layer, heads) if self.block else []
        out = torch.cat(list(self._query_blocks(call, key, value, blocked)), dim=2)
        for layer, head in self.ablate:
            if layer == call.layer:
                out[:, head] = 0
        return out

    def _query_blocks(self, call: Call, key: Tensor, value: Tensor, blocked: list[int]) -> Iterator[Tensor]:
        total = call.query.shape[2]
        keys = torch.arange(key.shape[2], device=key.device)
        if self.pool is not None:
            heads, spans = call.query.shape[1], len(self.pool)
            self.pooled[call.layer] = torch.zeros(heads, spans, spans, device=key.device)
        for a in range(0, total, QUERY_BLOCK):
            query = call.query[:, :, a : a + QUERY_BLOCK]
            positions = torch.arange(self.start + a, self.start + a + query.shape[2], device=key.device)
            reach = int(positions[-1]) + 1
            allowed = visible(positions, keys[:reach], call.window)
            for first, last in self.cut:
                allowed[:, first:last] = False
            if blocked:
                allowed = self._cut(allowed, call.query.shape[1], blocked)
            if self.pool is None:
                yield attend_where(call, query, key[:, :, :reach], value[:, :, :reach], allowed)
                continue
            attention = weights(call, query, key[:, :, :reach], allowed)
            self._pool(call.layer, attention[0], positions)
            yield torch.matmul(attention.to(value.dtype), value[:, :, :reach])

    def _cut(self, allowed: Tensor, heads: int, blocked: list[int]) -> Bool[Tensor, "head query key"]:
        assert self.block is not None
        allowed = allowed.expand(heads, -1, -1).clone()
        allowed[blocked, :, self.block.start : self.block.end] = False
        return allowed

    def _pool(self, layer: int, attention: Float[Tensor, "head query key"], positions: Int[Tensor, " query"]) -> None:
        """Add this block of queries to the sentence means: A[i, j] = mean over rows of i and columns of j."""
        assert self.pool is not None
        first, reach = int(positions[0]), attention.shape[2]
        rows = _membership(self.pool, first, first + len(positions), attention)
        columns = _membership(self.pool, 0, reach, attention)
        self.pooled[layer] += torch.einsum("tq,hqk,sk->hts", rows, attention, columns)


def _membership(spans: Sequence[tuple[int, int]], first: int, last: int, like: Tensor) -> Float[Tensor, "span token"]:
    """1/length of a span at its own tokens inside [first, last), zero elsewhere."""
    out = torch.zeros(len(spans), last - first, device=like.device, dtype=like.dtype)
    for i, (a, b) in enumerate(spans):
        if max(a, first) < min(b, last):
            out[i, max(a, first) - first : min(b, last) - first] = 1 / (b - a)
    return out


def attend_where(
    call: Call, query: Tensor, key: Tensor, value: Tensor, allowed: Bool[Tensor, "... query key"]
) -> Tensor:
    """Attention output where `allowed`, fused unless scores are soft-capped; zero for a query that may see nothing."""
    if call.softcap is not None:
        return torch.matmul(weights(call, query, key, allowed).to(value.dtype), value)
    # Fused attention has no empty rows: such a query is given everything, then zeroed.
    empty = ~allowed.any(-1, keepdim=True)
    mask = (allowed | empty).expand(query.shape[0], query.shape[1], -1, -1) if allowed.dim() == 3 else allowed | empty
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=call.scaling)
    return out.masked_fill(empty, 0.0) if bool(empty.any()) else out
