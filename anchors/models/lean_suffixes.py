"""Suffixes laid end to end through a Llama, Qwen2 or Qwen3 without the module's overhead, on the module's own weights.

1. Only for models whose blocks `lean` recognises and reproduces, on CPUs; every other one runs through its module.
2. In the first layer run, queries, keys and values are left out where the attention is known (`Suffix.entry`).
3. In the last layer only the tokens whose hidden states are wanted have a query and an MLP; the others lend their keys
   and values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from anchors.models.attention_pass import Call
from anchors.models.lean import Block, LeanForward, Linear, Norm, lean_forward, rotate

if TYPE_CHECKING:
    from anchors.models.lens import LensModel
    from anchors.models.suffixes import SuffixPass


def lean_suffixes(model: LensModel) -> LeanSuffixes | None:
    """Our own forward of suffixes where it is the model's."""
    lean = lean_forward(model) if model.device.type == "cpu" else None
    return LeanSuffixes(lean) if isinstance(lean, LeanForward) else None


class LeanSuffixes:
    """The standard block over many tokens."""

    def __init__(self, lean: LeanForward) -> None:
        self.lean = lean

    @torch.inference_mode()
    def __call__(
        self, ids: Int[Tensor, " token"], positions: Int[Tensor, " token"], run: SuffixPass
    ) -> Float[Tensor, "wanted width"]:
        """Final hidden states of the tokens wanted, in order."""
        blocks, (cos, sin) = self.lean.blocks, self.lean.rotary_at(positions)
        x = F.embedding(ids, self.lean.embedding) if run.entering is None else run.entering[0].clone()
        for index in range(run.first, len(blocks)):
            block, wanted = blocks[index], run.wanted if index == len(blocks) - 1 else slice(None)
            attended = self._attended(index, block, x, run, wanted, cos, sin)
            x = _add(x[wanted], rearrange(attended[0], "head token width -> token (head width)"), block.out)
            y = _normalised(x, block.after)
            x = _add(x, block.gated(y), block.down)
        return _normalised(x if run.first < len(blocks) else x[run.wanted], self.lean.norm)

    def _attended(
        self, index: int, block: Block, x: Tensor, run: SuffixPass, wanted: Tensor | slice, cos: Tensor, sin: Tensor
    ) -> Float[Tensor, "1 head wanted width"]:
        if index == run.first and run.entries is not None:
            return run.entries[:, :, wanted]
        x = _normalised(x, block.before)
        shape = (1, len(x), -1, self.lean.head_width)
        key, value = (F.linear(x, *p).view(shape)[0] for p in (block.key, block.value))
        query = F.linear(x[wanted], *block.query).view(len(x[wanted]), *shape[2:])
        if block.head_norms is not None:
            query, key = _normalised(query, block.head_norms[0]), _normalised(key, block.head_norms[1])
        query, key = rotate(query, cos[wanted], sin[wanted]), rotate(key, cos, sin)
        query, key, value = (t.transpose(0, 1)[None] for t in (query, key, value))
        return run.attend(Call(index, query, key, value, block.scaling, block.window, None))


def _add(x: Tensor, y: Tensor, linear: Linear) -> Tensor:
    """x + y W' + b, in place."""
    x = x.addmm_(y, linear[0].T)
    return x if linear[1] is None else x.add_(linear[1])


def _normalised(x: Tensor, norm: Norm) -> Tensor:
    if x.dtype == torch.float64:
        # transformers normalises in float32 whatever the weights; the same operations keep comparisons exact.
        single = x.float()
        return norm[0] * (single * torch.rsqrt(single.pow(2).mean(-1, keepdim=True) + norm[1])).double()
    scale = torch.rsqrt(torch.linalg.vecdot(x, x) / x.shape[-1] + norm[1])
    return (x * scale[..., None]).mul_(norm[0])
