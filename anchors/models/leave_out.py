"""One layer's attention without each of many key ranges in turn, where queries, keys and values are the plain forward's.

1. Attention over a union of key sets is the mixture of its parts (`parts`).
2. Ranges ascend. The attention to what lies before a range, of all later queries, grows by one piece a range.
3. The attention to what lies after it grows backwards, from the last range. Where not all can be held, the ranges are
   halved: the attention after the first half is kept aside, and each half grows its own.
So S ranges cost about 2 + log2 S attentions at most, and S mixtures, instead of S attentions; what is held is bounded, but
for one attention a halving. Nothing is subtracted, so nothing cancels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from anchors.models.attention_pass import Call, repeat_heads
from anchors.models.parts import Part, fused_part, share

HELD = 1 << 19
"""Attention outputs of ranges held together, or four times those of the text if that is more."""


class Cut(NamedTuple):
    """Keys [start, end) left out for the queries from token `first` on, `start` <= `first` <= `end`."""

    first: int
    start: int
    end: int


def leaves_out(call: Call) -> bool:
    """Whether `attention_without` can take over from this layer: plain causal softmax on a CPU."""
    reaches = call.window is None or call.query.shape[2] <= call.window
    fused = call.query.device.type == "cpu" and call.query.shape[-1] == call.value.shape[-1]
    return reaches and call.softcap is None and fused


def attention_without(
    call: Call, plain: Float[Tensor, "1 head token width"], cuts: Sequence[Cut], heads: Sequence[int]
) -> Iterator[Float[Tensor, "1 head new width"]]:
    """What `call`, causal attention of a whole text, gives from `cut.first` on when `heads` lose the keys of each cut.

    `plain` is the attention of heads that lose nothing, `heads` at least one. Cuts ascend and do not overlap; a query
    left without keys is zero.
    """
    whole = len(heads) == plain.shape[1]
    attention = _Attention(call if whole else _only(call, heads))
    query = attention.call.query[0]
    nothing = torch.full_like(query[..., 0], -torch.inf, dtype=attention.precision)
    before, at = Part(torch.zeros_like(query), nothing), 0
    limit = max(HELD, 4 * query.numel()) // (query.shape[0] * query.shape[2])
    for cut, tail in zip(cuts, attention.tails([cut.end for cut in cuts], limit), strict=True):
        if cut.start > at:
            before.after(cut.start).take_in(attention(slice(cut.start, None), slice(at, cut.start)))
            at = cut.start
        out = before.out[:, cut.first :].clone()
        rest = out[:, cut.end - cut.first :]
        torch.lerp(rest, tail.out, share(tail, before.after(cut.end)), out=rest)
        yield out[None] if whole else _among(plain[:, :, cut.first :], heads, out)


def _only(call: Call, heads: Sequence[int]) -> Call:
    """The same call for some of its heads."""
    key, value = (repeat_heads(t, call.query.shape[1])[:, heads] for t in (call.key, call.value))
    return call._replace(query=call.query[:, heads], key=key, value=value)


def _among(plain: Tensor, heads: Sequence[int], out: Tensor) -> Tensor:
    every = plain.clone()
    every[0, heads] = out
    return every


class _Attention:
    """Fused attention of some queries of a text to some of its keys."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.precision = torch.promote_types(call.query.dtype, torch.float32)

    def __call__(self, queries: slice, keys: slice, *, causal: bool = False) -> Part:
        call = self.call
        parts = call.query[:, :, queries], call.key[:, :, keys], call.value[:, :, keys]
        part = fused_part(*parts, scale=call.scaling, causal=causal)
        return Part(part.out[0], part.log_sum[0])

    def among(self, start: int, end: int) -> Part:
        """Causal attention of tokens [start, end) to each other."""
        if start == end:
            nothing = self.call.query[0, :, :0]
            return Part(nothing, nothing[..., 0].to(self.precision))
        return self(slice(start, end), slice(start, end), causal=True)

    def tails(self, ends: Sequence[int], limit: int) -> Iterator[Part]:
        """For every ascending end, causal attention of the tokens from it on to each other; about `limit` tokens are held."""
        if ends:
            yield from self._tails(ends, self.among(ends[-1], self.call.query.shape[2]), limit)

    def _tails(self, ends: Sequence[int], last: Part, limit: int) -> Iterator[Part]:
        size, half = self.call.query.shape[2], len(ends) // 2
        if not half or sum(size - end for end in ends) <= limit:
            yield from self._grown(ends, last)
            return
        first = self._grown([ends[half - 1], ends[-1]], last)[0]
        yield from self._tails(ends[:half], first, limit)
        yield from self._tails(ends[half:], last, limit)

    def _grown(self, ends: Sequence[int], last: Part) -> list[Part]:
        """The attention from every end on, grown backwards from that of the last."""
        found = [last]
        for end, later in reversed(list(itertools.pairwise(ends))):
            first = self.among(end, later)
            if later < self.call.query.shape[2]:
                tail = self(slice(later, None), slice(end, later))
                tail.take_in(found[-1])
                first = Part(torch.cat([first.out, tail.out], 1), torch.cat([first.log_sum, tail.log_sum], 1))
            found.append(first)
        return found[::-1]
