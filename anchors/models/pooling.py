"""Attention averaged over token spans, in blocks of queries and heads that stay in cache.

1. The weights of a block are computed, [head, query, key], over the keys up to its last query only.
2. They give the block's output, and their rows are summed by target span: a block touches few spans, so what is left
   is a fraction of the weights.
3. Columns are summed by source span as differences of running sums.
4. Heads are finished one group after the other and handed over, so that a caller need not keep them all.
So memory is linear in the length of the text whatever the number of heads, and a block's working set is bounded by
`ELEMENTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anchors.models.attention_pass import Call, View, repeat_heads, scaled, visible, weights

ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Attention weights held at once; on a CPU a few megabytes, because fresh memory costs page faults."""

QUERY_BLOCK = 256

Visit = Callable[[int, Tensor], None]
"""Takes a head and its means [target, source]."""


def attend_pooled(
    call: Call, spans: Sequence[tuple[int, int]], free: View, cut: View, heads: Sequence[int], visit: Visit
) -> Float[Tensor, "row head token width"]:
    """Attention of one whole text; `visit` is given each head's means A[i, j] over rows of span i and columns of span j.

    `heads` have the view `cut`, all others `free`; an empty span has zeros.
    """
    budget, size, every = ELEMENTS.get(call.query.device.type, ELEMENTS["cpu"]), *call.query.shape[2:0:-1]
    key, value = (repeat_heads(t, every) for t in (call.key, call.value))
    edges = torch.tensor(list(spans), device=key.device).reshape(-1, 2)
    out = torch.empty_like(call.query, memory_format=torch.contiguous_format)[..., : value.shape[-1]]
    block = max(1, min(QUERY_BLOCK, budget // size))
    blocks = [slice(a, min(a + block, size)) for a in range(0, size, block)]
    touched = [_rows(spans, queries, key) for queries in blocks]
    plain = call.window is None and free.hidden is None and (cut.hidden is None or not heads)
    group = max(1, budget // (block * size))
    for h in range(0, every, group):
        some = slice(h, min(h + group, every))
        blocked = [head in heads for head in range(some.start, some.stop)]
        pooled = torch.zeros(len(blocked), len(spans), len(spans), device=key.device, dtype=torch.float64)
        for queries, (targets, rows) in zip(blocks, touched, strict=True):
            seen = None if plain else _seen(call, queries, free, cut, blocked)
            attention = _weights(call, call.query[0, some, queries], key[0, some, : queries.stop], seen)
            out[0, some, queries] = torch.matmul(attention.to(value.dtype), value[0, some, : queries.stop])
            pooled[:, targets] += _columns(torch.matmul(rows, attention), edges)
        for head, means in enumerate(pooled.to(torch.promote_types(key.dtype, torch.float32)), start=h):
            visit(head, means)
    return out


def _weights(call: Call, query: Tensor, key: Tensor, seen: Tensor | None) -> Float[Tensor, "head query key"]:
    """Attention weights of the last queries of a text; without `seen` they are causal, and only the end has a mask."""
    if seen is not None:
        return weights(call, query, key, seen)
    scores = scaled(call, torch.matmul(query, key.transpose(-1, -2)))
    size = query.shape[-2]
    future = torch.ones(size, size, dtype=torch.bool, device=query.device).triu(1)
    scores[..., -size:].masked_fill_(future, -torch.inf)
    return torch.softmax(scores, dim=-1)


def _seen(call: Call, queries: slice, free: View, cut: View, blocked: list[bool]) -> Bool[Tensor, "#head query key"]:
    """What each head of a group sees, less the keys its view hides."""
    allowed = visible(free.positions[queries], free.positions[: queries.stop], call.window)
    views = (cut, free) if any(blocked) and not all(blocked) else (cut if all(blocked) else free,)
    seen = [allowed if v.hidden is None else allowed & ~v.hidden[: allowed.shape[1]] for v in views]
    return seen[0][None] if len(views) == 1 else torch.stack([seen[0] if b else seen[1] for b in blocked])


def _rows(
    spans: Sequence[tuple[int, int]], queries: slice, like: Tensor
) -> tuple[list[int], Float[Tensor, "target query"]]:
    """The spans with tokens among these queries, and 1 / length of each at its own tokens."""
    bounds = np.array(spans, dtype=int).reshape(-1, 2).clip(queries.start, queries.stop)
    targets = np.flatnonzero(bounds[:, 0] < bounds[:, 1]).tolist()
    out = torch.zeros(len(targets), queries.stop - queries.start, device=like.device)
    for row, i in zip(out, targets, strict=True):
        row[slice(*(bounds[i] - queries.start))] = 1 / (spans[i][1] - spans[i][0])
    return targets, out.to(torch.promote_types(like.dtype, torch.float32))


def _columns(
    rows: Float[Tensor, "head target key"], edges: Int[Tensor, "source 2"]
) -> Float[Tensor, "head target source"]:
    """Mean over the columns of every span; columns past the last key are zero."""
    running = torch.nn.functional.pad(rows.double().cumsum(-1), (1, 0))
    at = edges.clamp(max=rows.shape[-1])
    lengths = (edges[:, 1] - edges[:, 0]).clamp(min=1)
    return (running[..., at[:, 1]] - running[..., at[:, 0]]) / lengths
