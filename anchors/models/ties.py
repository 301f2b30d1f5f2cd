"""Draws that float32 cannot decide are decided from double precision, so that no batch shape can turn one.

1. A double-precision copy of the model runs the trace once. How far the float32 log-probabilities are from it, times a
   safety factor, is the margin within which draws count as ties: measured, not assumed.
2. A tie is drawn again from double-precision logits of that row: its own tokens over the double-precision trace.
3. A model of more than `EXACT_UP_TO` parameters, or with hooks or a forward put on it, is not copied: there the row runs
   alone, from scratch, in its own precision, and the margin is `UNMEASURED`. In bfloat16 and float16 rounding is coarser
   than any useful margin: no ties.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from anchors.models.attention_pass import LayerCache, TracePass

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

EXACT_UP_TO = 600_000_000
SAFETY, WORTH = 3.0, 1e-3
PROBED, LOGITS = 1024, 1 << 22  # tokens compared at once, and their logits: a large vocabulary fills memory
UNMEASURED = 1e-4

_copies: WeakKeyDictionary[LensModel, tuple[list[tuple[int, int]], LensModel]] = WeakKeyDictionary()


def double_copy(model: LensModel) -> LensModel:
    """The model in double precision, copied again when its weights have changed since."""
    from anchors.models.lens import LensModel

    state = weights_state(model)
    held = _copies.get(model)
    if held is None or held[0] != state:
        held = (state, LensModel(copy.deepcopy(model.module).double(), model.tokenizer, name=model.name))
        _copies[model] = held
    return held[1]


def weights_state(model: LensModel) -> list[tuple[int, int]]:
    """Where a model's weights lie and how often they were written: equal while none has changed."""
    return [(p.data_ptr(), p._version) for p in model.module.parameters()]


def untouched(module: Any) -> bool:
    """Whether no part of a module carries a hook or a forward put on it from outside."""
    parts = list(module.modules())
    return not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in parts)


class Referee:
    """Decides the ties among rollouts of one text, whose first `shared` tokens are the trace's and the rest their own."""

    def __init__(self, model: LensModel, trace_ids: Sequence[int], cut: Sequence[tuple[int, int]]) -> None:
        self.model, self.trace_ids, self.cut = model, list(trace_ids), cut
        small = sum(p.numel() for p in model.module.parameters()) <= EXACT_UP_TO
        self.doubles = model.dtype == torch.float32 and small and untouched(model.module)
        self.exact = double_copy(model) if self.doubles else model

    def margin(self, floor: float, ids: Sequence[int], hidden: Float[Tensor, "token width"]) -> float:
        """By how much float32 logits may be off, judged by the `hidden` states of `ids`.

        Only differences of tokens with a probability above `WORTH` count: rarer ones hardly weigh in any draw.
        """
        if not self.doubles:
            return max(floor, UNMEASURED) if self.model.dtype == torch.float32 else floor
        exact = self._trace[0] if list(ids) == self.trace_ids else self.exact.hidden(ids, TracePass(cut=self.cut))
        worst, block = 0.0, max(1, min(PROBED, LOGITS // self.model.vocabulary))
        for a in range(0, len(ids), block):
            wanted = torch.log_softmax(self.exact.unembed(exact[a : a + block]), dim=-1)
            found = torch.log_softmax(self.model.unembed(hidden[a : a + block]), dim=-1)
            off = (found - wanted).abs().masked_fill(wanted < torch.tensor(WORTH).log(), 0.0)
            worst = max(worst, float(off.max()))
        return max(floor, SAFETY * worst)

    @cached_property
    def _trace(self) -> tuple[Float[Tensor, "token width"], list[LayerCache]]:
        run = TracePass(record=True, cut=self.cut)
        hidden = self.exact.hidden(self.trace_ids, run)
        return hidden, [run.recorded[layer] for layer in range(self.exact.layers)]

    def logits(self, shared: int, own: Sequence[int]) -> Float[Tensor, "1 vocabulary"]:
        """Next-token logits after the first `shared` tokens of the trace and the row's own."""
        ids = [*self.trace_ids[:shared], *own]
        if not self.doubles or not shared:
            return self.exact.unembed(self.exact.hidden(ids, TracePass(cut=self.cut))[-1:])
        hidden, past = self._trace
        if not own:
            return self.exact.unembed(hidden[shared - 1 : shared])
        return self.exact.unembed(self.exact.hidden(ids, TracePass(start=shared, past=past, cut=self.cut))[-1:])
