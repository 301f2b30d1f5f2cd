"""One token a row through a Llama, Qwen2 or Qwen3 without the module's overhead, on the module's own weights.

1. `lean_forward` recognises the standard block: RMSNorm, q/k/v projections (q/k-norm in Qwen3), rotary positions,
   grouped-query attention, SwiGLU, in float32 or float64, with no hook on any part of it. Rotary tables are the
   module's own. With compiled loops (`loops`) what is left between two matrix products is one of them.
2. Before it is used on a model it must reproduce the module's hidden states on a probe; else, and for every other
   architecture, the module itself is run. A log line says which.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from anchors.models import loops
from anchors.models.attention_pass import Call, TracePass
from anchors.models.row_pass import RowPass
from anchors.models.ties import untouched

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

log = logging.getLogger(__name__)

Linear = tuple[Tensor, Tensor | None]
Norm = tuple[Tensor, float]
Forward = Callable[[Int[Tensor, " row"], RowPass], Float[Tensor, "row width"]]

KNOWN = frozenset({"llama", "qwen2", "qwen3"})
STATIC_ROTARY = frozenset({"default", "linear", "llama3", "yarn"})
PARTS = {
    "": {"embed_tokens", "layers", "norm", "rotary_emb"},
    "layer": {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
    "attention": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj", "act_fn"},
}
PROBE, TOLERANCE = 6, 1e-3

_verdicts: WeakKeyDictionary[LensModel, bool] = WeakKeyDictionary()


def lean_forward(model: LensModel) -> Forward:
    """How to run one token a row: our own forward where it is the model's, else the module's."""
    if not _recognised(model.module):
        log.info("%s: rows run through the %s module", model.name, type(model.module).__name__)
        return ModuleForward(model)
    lean = LeanForward(model)
    if model not in _verdicts:
        gap = _gap(model, lean)
        _verdicts[model] = gap <= TOLERANCE
        log.info("%s: own forward differs from the module's by %.1e of the hidden state", model.name, gap)
    if _verdicts[model]:
        return lean
    log.warning("%s: own forward does not reproduce the module's; rows run through the module", model.name)
    return ModuleForward(model)


class ModuleForward:
    """The Hugging Face module, its attention routed through the pass."""

    def __init__(self, model: LensModel) -> None:
        self.model = model

    def __call__(self, ids: Int[Tensor, " row"], run: RowPass) -> Float[Tensor, "row width"]:
        return self.model.run_module(ids[:, None], run.positions[:, None], run)[:, 0]


class Block(NamedTuple):
    """One layer's modules' parameters, read anew for every draw, so that changed weights are seen."""

    before: Norm
    query: Linear
    key: Linear
    value: Linear
    head_norms: tuple[Norm, Norm] | None
    out: Linear
    after: Norm
    gate: Linear
    up: Linear
    down: Linear
    scaling: float
    window: int | None

    def gated(self, y: Tensor) -> Tensor:
        """What goes into the last projection of the MLP."""
        return F.silu(F.linear(y, *self.gate), inplace=True).mul_(F.linear(y, *self.up))


class LeanForward:
    """The standard block, written out."""

    def __init__(self, model: LensModel) -> None:
        base = model.module.base_model
        self.rotary, self.embedding, self.norm = base.rotary_emb, base.embed_tokens.weight, _norm(base.norm)
        self.blocks = [_block(layer) for layer in base.layers]
        self.norms = [*(block.before for block in self.blocks[1:]), self.norm]  # what follows every block
        self.head_width = base.layers[0].self_attn.head_dim
        self.tables = self._rotary(512)

    def _rotary(self, size: int) -> tuple[Tensor, Tensor]:
        at = torch.arange(size, device=self.embedding.device)[None]
        with torch.inference_mode():
            cos, sin = self.rotary(self.embedding[:1, None], at)
        return cos[0, :, None], sin[0, :, None]

    def rotary_at(self, positions: Int[Tensor, " token"]) -> tuple[Tensor, Tensor]:
        """Cosines and sines at some positions."""
        last = int(positions.max())
        if last >= len(self.tables[0]):
            self.tables = self._rotary(2 * last)
        cos, sin = (table[positions] for table in self.tables)
        return cos, sin

    @torch.inference_mode()
    def __call__(self, ids: Int[Tensor, " row"], run: RowPass) -> Float[Tensor, "row width"]:
        cos, sin = self.rotary_at(run.positions)
        x = F.embedding(ids, self.embedding)
        y = _normalised(x, self.blocks[0].before)
        for index, (block, norm) in enumerate(zip(self.blocks, self.norms, strict=True)):
            y = _added(x, self._attention(index, block, y, cos, sin, run), block.after)
            y = _added(x, F.linear(block.gated(y), *block.down), norm)
        return y

    def _attention(self, index: int, block: Block, x: Tensor, cos: Tensor, sin: Tensor, run: RowPass) -> Tensor:
        shape = (len(x), -1, self.head_width)
        query, key, value = (F.linear(x, *p).view(shape) for p in (block.query, block.key, block.value))
        if block.head_norms is not None:
            query, key = _normalised(query, block.head_norms[0]), _normalised(key, block.head_norms[1])
        query, key = _rotated(query, cos, sin), _rotated(key, cos, sin)
        call = Call(index, query[:, :, None], key[:, :, None], value[:, :, None], block.scaling, block.window, None)
        return F.linear(run.attend(call).view(len(x), -1), *block.out)


def _block(layer: Any) -> Block:
    attention, mlp = layer.self_attn, layer.mlp
    linear = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    linear += (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    query, key, value, out, gate, up, down = ((p.weight, p.bias) for p in linear)
    norms = (_norm(attention.q_norm), _norm(attention.k_norm)) if hasattr(attention, "q_norm") else None
    before, after = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
    window = getattr(attention, "sliding_window", None)
    return Block(before, query, key, value, norms, out, after, gate, up, down, attention.scaling, window)


def _norm(norm: Any) -> Norm:
    return norm.weight, norm.variance_epsilon


def _normalised(x: Tensor, norm: Norm) -> Tensor:
    return F.rms_norm(x, norm[0].shape, *norm)


def _added(x: Tensor, more: Tensor, norm: Norm) -> Tensor:
    """Add `more` to `x` in place, and return the sum normalised."""
    compiled = loops.loaded_for(x)
    if compiled is None:
        return _normalised(x.add_(more), norm)
    out = torch.empty_like(x)
    weight, epsilon = norm[0].detach().numpy(), np.float32(norm[1])
    compiled.add_and_norm(x.numpy(), more.numpy(), weight, epsilon, out.numpy())
    return out


def _rotated(x: Float[Tensor, "row head width"], cos: Tensor, sin: Tensor) -> Float[Tensor, "row head width"]:
    """`rotate`, in place where that is compiled."""
    compiled = loops.loaded_for(x)
    if compiled is None:
        return rotate(x, cos, sin)
    compiled.rotate(x.numpy(), cos.numpy(), sin.numpy())
    return x


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: x cos + rotate_half(x) sin."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat([-high, low], dim=-1).mul_(sin).addcmul_(x, cos)


def _recognised(module: Any) -> bool:
    base = module.base_model
    config = module.config
    if config.model_type not in KNOWN or next(module.parameters()).dtype not in (torch.float32, torch.float64):
        return False
    if not untouched(module):
        return False
    if _children(base) != PARTS[""] or getattr(base.rotary_emb, "rope_type", "") not in STATIC_ROTARY:
        return False
    return config.hidden_act == "silu" and all(map(_standard_layer, base.layers))


def _standard_layer(layer: Any) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    projections = [getattr(attention, name, None) for name in PARTS["attention"]]
    projections += [getattr(mlp, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    return (
        _children(layer) == PARTS["layer"]
        and _children(attention) - {"q_norm", "k_norm"} == PARTS["attention"]
        and _children(mlp) == PARTS["mlp"]
        and all(type(p) is torch.nn.Linear for p in projections)
    )


def _children(module: Any) -> set[str]:
    return {name for name, _ in module.named_children()}


def _gap(model: LensModel, forward: Forward) -> float:
    """Largest difference of hidden states on a probe, half of it shared and half fed token by token, over their size."""
    size = min(2 * PROBE, model.context)
    ids = [(7 * i + 3) % model.vocabulary for i in range(size)]
    run = TracePass(record=True)
    wanted = model.hidden(ids, run)
    shared = size // 2
    cache = [run.recorded[layer] for layer in range(model.layers)]
    rows = RowPass(cache)
    rows.grow(0, cache)
    found = []
    for fed in range(size - shared):
        rows.prepare(np.full(2, shared), np.full(2, fed))
        found.append(forward(torch.full((2,), ids[shared + fed], device=model.device), rows)[1])
    return float((torch.stack(found) - wanted[shared:]).abs().max() / wanted.abs().max())
