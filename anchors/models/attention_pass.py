"""One forward pass's attention, in our hands for every architecture.

1. Hugging Face calls the function registered here with queries and keys already projected, normalised and rotated.
2. The function hands them to the current pass, which knows the positions, what is blocked and what to record.
3. `TracePass` runs the tokens [start, T) of one text over a recorded past: plain, blocked, ablated or pooled.
4. Tokens see all of their past and, causally, themselves: two fused attentions without a mask, merged by their
   log-sum-exp. Only windows, soft caps and hidden columns need masks, built for one block of queries at a time.
5. No mask function is registered under our name, so no model builds a mask of its own and none can leak the future.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anchors.models.base import CapabilityError
from anchors.models.parts import fused_part, share

NAME = "anchors"
QUERY_BLOCK = 512
MASK_ELEMENTS = 1 << 22
"""Most entries [query, key] of one mask; long texts take smaller blocks of queries."""


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


def current_pass() -> Any:
    """The pass whose forward is running; CapabilityError outside one."""
    current = _current.get()
    if current is None:
        raise CapabilityError(
            "this module's attention is routed through anchors, where padding masks and caches do not act; for "
            "forwards of your own use model.bridge, or module.set_attn_implementation('eager') while they run"
        )
    return current


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
    return rearrange(current_pass().attend(call), "row head new width -> row new head width").contiguous(), None


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
    """Attention scores in at least float32 from query-key products: the layer's scaling, then its soft cap."""
    scores = (products if products.dtype == torch.float64 else products.float()) * call.scaling
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


class View(NamedTuple):
    """What tokens at `positions` see: a cache's first `shared` tokens and, causally, each other, less `hidden` keys.

    `hidden` flags keys, the cache's first, that no query sees; `lead` counts them where they are the first own ones and
    nothing else, and is None where they lie elsewhere. `last` is the last position.
    """

    shared: int
    positions: Int[Tensor, " token"]
    last: int
    hidden: Bool[Tensor, " key"] | None = None
    lead: int | None = 0

    @classmethod
    def of(cls, shared: int, positions: np.ndarray, hidden: np.ndarray | None, device: torch.device) -> View:
        """The view of tokens at ascending `positions`, all at least `shared`."""
        where, last = torch.from_numpy(positions).to(device), int(positions[-1])
        if hidden is None or not hidden.any():
            return cls(shared, where, last)
        lead = int(hidden.sum())
        leads = bool(hidden[shared : shared + lead].all())
        return cls(shared, where, last, torch.from_numpy(hidden).to(device), lead if leads else None)


def attend_view(call: Call, past: LayerCache | None, view: View) -> Float[Tensor, "row head new width"]:
    """Attention of one text's new tokens over what the view shows; zero for a query that may see nothing.

    Fewer queries than keys are those of the last tokens.
    """
    past = None if past is None or not view.shared else LayerCache(*(t[None, :, : view.shared] for t in past))
    if call.query.shape[2] < call.key.shape[2]:
        return _masked(call, past, view)
    if view.lead is not None and call.softcap is None and (call.window is None or view.last < call.window):
        if past is None and not view.lead:
            grouped = call.query.shape[1] != call.key.shape[1]
            return torch.nn.functional.scaled_dot_product_attention(
                call.query, call.key, call.value, is_causal=True, scale=call.scaling, enable_gqa=grouped
            )
        if call.query.device.type == "cpu" and call.query.shape[-1] == call.value.shape[-1]:
            return _merged(call, past, view.lead)
    return _masked(call, past, view)


def _merged(call: Call, past: LayerCache | None, lead: int) -> Tensor:
    """Two attentions, over the past and causally over the own tokens after the first `lead`, as one softmax.

    The first `lead` queries see the past alone, and nothing where there is none.
    """
    before = None if past is None else fused_part(call.query, *past, scale=call.scaling)
    out = torch.zeros_like(call.query) if before is None else before.out
    if lead < call.query.shape[2]:
        own = fused_part(*(t[:, :, lead:] for t in call[1:4]), scale=call.scaling, causal=True)
        both = own.out if before is None else torch.lerp(own.out, out[:, :, lead:], share(before.after(lead), own))
        out[:, :, lead:] = both
    return out


def _masked(call: Call, past: LayerCache | None, view: View) -> Tensor:
    """The same with masks, a block of queries at a time, over the keys within reach of the layer's window."""
    key, value = (
        own if old is None else torch.cat([old, own], dim=2)
        for old, own in zip(past or (None, None), (call.key, call.value), strict=True)
    )
    where = torch.cat([torch.arange(view.shared, device=key.device), view.positions])
    block = max(1, min(QUERY_BLOCK, MASK_ELEMENTS // len(where)))
    parts, lent = [], call.key.shape[2] - call.query.shape[2]
    for a in range(0, call.query.shape[2], block):
        positions = view.positions[lent + a : lent + a + block]
        oldest = 0 if call.window is None else int(torch.searchsorted(where, positions[0] - call.window + 1))
        keys = slice(oldest, view.shared + lent + a + len(positions))
        allowed = visible(positions, where[keys], call.window)
        if view.hidden is not None:
            allowed = allowed & ~view.hidden[keys]
        parts.append(attend_where(call, call.query[:, :, a : a + block], key[:, :, keys], value[:, :, keys], allowed))
    return torch.cat(parts, dim=2)


def attend_heads(
    call: Call, past: LayerCache | None, free: View, cut: View, heads: Sequence[int]
) -> Float[Tensor, "row head new width"]:
    """Attention in which `heads` have the view `cut` and all others the view `free`."""
    every = call.query.shape[1]
    if len(heads) == every:
        return attend_view(call, past, cut)
    out = attend_view(call, past, free)
    if heads:
        own = (repeat_heads(t, every)[:, heads] for t in (call.key, call.value))
        some = call._replace(query=call.query[:, heads], **dict(zip(("key", "value"), own, strict=True)))
        old = None if past is None else LayerCache(*(repeat_heads(t[:, : free.shared], every)[heads] for t in past))
        out[:, heads] = attend_view(some, old, cut)
    return out


@dataclass
class TracePass:
    """Attention of tokens [start, T) of one text over `past`, the recorded keys and values of tokens [0, start).

    `record` keeps keys and values of the new tokens in `recorded`; `cut` are key columns no query of any layer sees;
    `ablate` zeroes the output of (layer, head) pairs, which is the input of the output projection; `pool` is token
    spans and what takes (layer, head, mean attention between them); `watch` names a layer whose call and output are kept in
    `watched`.
    """

    start: int = 0
    past: Sequence[LayerCache] | None = None
    block: Block | None = None
    cut: Sequence[tuple[int, int]] = ()
    ablate: frozenset[tuple[int, int]] = frozenset()
    pool: tuple[Sequence[tuple[int, int]], Callable[[int, int, Tensor], None]] | None = None
    record: bool = False
    watch: int | None = None
    watched: tuple[Call, Tensor] | None = None
    recorded: dict[int, LayerCache] = field(default_factory=dict)

    def attend(self, call: Call) -> Float[Tensor, "row head new width"]:
        if self.record:
            self.recorded[call.layer] = LayerCache(_alone(call.key[0]), _alone(call.value[0]))
        heads = self.block.heads_in(call.layer, call.query.shape[1]) if self.block else []
        blocked = [] if self.block is None else [(self.block.start, self.block.end)]
        free, cut = (self._view(call, columns) for columns in (self.cut, [*self.cut, *blocked]))
        if self.pool is not None:
            from anchors.models.pooling import attend_pooled

            spans, visit = self.pool
            out = attend_pooled(call, spans, free, cut, heads, partial(visit, call.layer))
        else:
            past = None if self.past is None else self.past[call.layer]
            out = attend_heads(call, past, free, cut, heads)
        for layer, head in self.ablate:
            if layer == call.layer:
                out[:, head] = 0
        if call.layer == self.watch:
            self.watched = call, out
        return out

    def _view(self, call: Call, columns: Sequence[tuple[int, int]]) -> View:
        end = self.start + call.query.shape[2]
        hidden = np.zeros(end, dtype=bool)
        for a, b in columns:
            hidden[a:b] = True
        return View.of(self.start, np.arange(self.start, end), hidden, call.query.device)


def _alone(x: Tensor) -> Tensor:
    """The tensor, or a copy where it is part of a larger one (queries, keys and values in one) that it would keep alive."""
    return x if x.untyped_storage().nbytes() == x.nbytes else x.clone()


def attend_where(
    call: Call, query: Tensor, key: Tensor, value: Tensor, allowed: Bool[Tensor, "query key"]
) -> Float[Tensor, "row head query width"]:
    """Attention output where `allowed`, fused unless scores are soft-capped; zero for a query that may see nothing."""
    key, value = (repeat_heads(t, query.shape[1]) for t in (key, value))
    if call.softcap is not None:
        return torch.matmul(weights(call, query, key, allowed).to(value.dtype), value)
    # Fused attention has no empty rows: such a query is given everything, then zeroed.
    empty = ~allowed.any(-1, keepdim=True)
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=allowed | empty, scale=call.scaling
    )
    return out.masked_fill(empty, 0.0) if bool(empty.any()) else out
