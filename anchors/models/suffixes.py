"""Suffixes of texts that share a beginning, run together over one recorded cache.

1. A suffix takes the keys and values of its first tokens from the cache; only its own tokens are run.
2. Suffixes are laid end to end in one row of tokens, so nothing is padded: outside attention a token acts alone.
3. Attention goes suffix by suffix. Cutting all attention to a token equals deleting its key, so a hidden token is left
   out altogether unless its own distribution is wanted or some layer or head still sees it.
4. Layers before the first that hides anything would repeat the plain forward: they are left out, and the plain
   forward's hidden states enter after them (`LateModel`). In that layer queries, keys and values are the plain
   forward's too, so its attention may be given with the suffix (`leave_out`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from anchors.models.attention_pass import (
    Block,
    Call,
    LayerCache,
    TracePass,
    View,
    attend_heads,
    current_pass,
)
from anchors.models.lean_suffixes import lean_suffixes
from anchors.spending import spend

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

T = TypeVar("T")

TOKENS = {"cpu": 512, "cuda": 1 << 15}
"""Tokens run together; a longer suffix runs alone. On a CPU small batches stay in cache."""


@dataclass(frozen=True, slots=True)
class Suffix:
    """Tokens `ids` at ascending `positions` after the first `shared` tokens of a cache.

    No token sees an own token flagged `hidden`, in the layers and heads `block` names (None: in all). `entry` is the
    attention of these tokens in the first layer run, where it is known. The hidden states of the last `wanted` are
    asked for.
    """

    ids: Int[np.ndarray, " token"]
    positions: Int[np.ndarray, " token"]
    shared: int
    hidden: Bool[np.ndarray, " token"]
    block: Block | None = None
    entry: Float[Tensor, "1 head token width"] | None = None
    wanted: int | None = None

    @property
    def kept(self) -> int:
        return len(self.ids) if self.wanted is None else self.wanted

    def views(self, device: torch.device) -> tuple[View, View]:
        """What heads see that hide nothing, and those that hide the hidden tokens."""
        hidden = np.concatenate([np.zeros(self.shared, dtype=bool), self.hidden])
        free = View.of(self.shared, self.positions, None, device)
        return free, View.of(self.shared, self.positions, hidden, device)

    def heads_in(self, layer: int, heads: int) -> list[int]:
        return list(range(heads)) if self.block is None else self.block.heads_in(layer, heads)


class SuffixPass:
    """Attention of suffixes laid end to end; `entering` are the hidden states that enter layer `first`."""

    def __init__(
        self,
        cache: Sequence[LayerCache],
        suffixes: Sequence[Suffix],
        device: torch.device,
        first: int,
        entering: Tensor | None,
    ) -> None:
        self.cache, self.suffixes, self.first, self.entering = cache, suffixes, first, entering
        self.views = [suffix.views(device) for suffix in suffixes]
        self.sizes, self.kept = [len(suffix.ids) for suffix in suffixes], [suffix.kept for suffix in suffixes]

    @cached_property
    def entries(self) -> Float[Tensor, "1 head token width"] | None:
        """Attention in the first layer run, if it is known."""
        found = [suffix.entry for suffix in self.suffixes if suffix.entry is not None]
        return torch.cat(found, dim=2) if len(found) == len(self.suffixes) else None

    @cached_property
    def wanted(self) -> Int[Tensor, " wanted"] | slice:
        """Where among all tokens those are whose hidden states are asked for."""
        if self.kept == self.sizes:
            return slice(None)
        ends = np.cumsum(self.sizes)
        return torch.from_numpy(np.concatenate([np.arange(e - n, e) for e, n in zip(ends, self.kept, strict=True)]))

    def attend(self, call: Call) -> Float[Tensor, "row head new width"]:
        """Attention of all tokens, or, given queries of those wanted only, of these."""
        if call.layer == self.first and self.entries is not None:
            return self.entries
        past = self.cache[call.layer] if self.cache else None
        asked = self.sizes if call.query.shape[2] == call.key.shape[2] else self.kept
        split = zip((call.query, call.key, call.value), (asked, self.sizes, self.sizes), strict=True)
        parts = zip(*(t.split(sizes, dim=2) for t, sizes in split), strict=True)
        outs = []
        for suffix, views, (query, key, value) in zip(self.suffixes, self.views, parts, strict=True):
            own = call._replace(query=query, key=key, value=value)
            outs.append(attend_heads(own, past, *views, suffix.heads_in(call.layer, query.shape[1])))
        return torch.cat(outs, dim=2)


def run_suffixes(
    model: LensModel, cache: Sequence[LayerCache], suffixes: Iterable[Suffix], *, late: LateModel | None = None
) -> Iterator[Float[Tensor, "token width"]]:
    """Final hidden states of every suffix's tokens wanted, in order, as one forward each would give them.

    Raises:
        ValueError: one of them is NaN or infinite.
    """
    limit = TOKENS.get(model.device.type, TOKENS["cpu"])
    lean = lean_suffixes(model)
    for batch in packed(suffixes, lambda suffix: len(suffix.ids), limit):
        ids, positions = (
            torch.from_numpy(np.concatenate([getattr(suffix, name) for suffix in batch])).to(model.device)
            for name in ("ids", "positions")
        )
        first, entering = (0, None) if late is None else (late.first, late.entering[positions][None])
        run = SuffixPass(cache, batch, model.device, first, entering)
        spend(read=len(ids))
        if lean is not None:
            hidden = lean(ids, positions, run)
        else:
            module = None if late is None else late.module
            hidden = model.run_module(ids[None], positions[None], run, module=module)[0, run.wanted]
        if not bool(torch.isfinite(hidden).all()):
            raise ValueError(f"{model.name} returned NaN or infinite hidden states; load it with dtype=torch.float32")
        yield from hidden.split(run.kept)


def packed(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Runs of items that follow each other and together have at most `limit`; one that has more is alone.

    >>> list(packed([2, 3, 9, 1], int, 5))
    [[2, 3], [9], [1]]
    """
    held: list[T] = []
    total = 0
    for item in items:
        if held and total + size(item) > limit:
            yield held
            held, total = [], 0
        held.append(item)
        total += size(item)
    if held:
        yield held


class LateModel:
    """A module over the same weights that begins at layer `first`, with the hidden states recorded there.

    `entering` are a plain forward's hidden states before that layer, [token, width].
    """

    def __init__(self, model: LensModel, first: int, entering: Float[Tensor, "token width"]) -> None:
        from anchors.models.lens import share_weights

        self.first, self.entering, self.module = first, entering, share_weights(model.module)
        layers = decoder_layers(self.module)
        for index in range(first):
            layers[index] = _Entering(layers[index])


class _Entering(nn.Module):
    """Stands for a layer left out: whatever comes in, what enters the first layer run goes out."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.attention_type = getattr(layer, "attention_type", None)

    def forward(self, hidden_states: Tensor, *_args: Any, **_options: Any) -> Tensor:
        return current_pass().entering


def decoder_layers(module: Any) -> nn.ModuleList:
    """The list of a module's decoder layers."""
    size = module.config.get_text_config().num_hidden_layers
    return next(m for m in module.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == size)


class Prefill(NamedTuple):
    """A plain forward: final hidden states, recorded cache, what layer `first` asked of its attention and got, and the
    model from that layer on (None for layer 0, where nothing is left out, and past the last one)."""

    hidden: Float[Tensor, "token width"]
    past: list[LayerCache]
    first: tuple[Call, Tensor] | None
    late: LateModel | None


def prefill_to(model: LensModel, ids: Sequence[int], first: int) -> Prefill:
    """`model.prefill`, with what is needed to begin at layer `first`."""
    run = TracePass(record=True, watch=first)
    found: list[Tensor] = []
    hooks = []
    if first:
        layer = decoder_layers(model.module)[first - 1]
        hooks.append(layer.register_forward_hook(lambda _layer, _inputs, output: found.append(output[0])))
    try:
        hidden = model.hidden(ids, run)
    finally:
        for hook in hooks:
            hook.remove()
    past = [run.recorded[layer] for layer in range(model.layers)]
    return Prefill(hidden, past, run.watched, LateModel(model, first, found[0]) if first else None)
