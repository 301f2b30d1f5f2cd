"""The trunk of a text: its tokens, run once, which the rollouts from all its boundaries share.

1. Hidden states give the distribution after each of its tokens; keys and values are what its rollouts attend to.
2. A double-precision pass beside it measures by how much float32 is off (`ties`), and decides ties.
3. The last trunks of a model are kept, up to `KEPT` bytes, so that the rounds of an adaptive sweep run a trace once. They
   are dropped when the weights have changed, and not kept at all for a module with hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from anchors.models.attention_pass import LayerCache, TracePass
from anchors.models.sampling import MARGIN
from anchors.models.ties import Referee, untouched, weights_state

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

KEPT = 256 << 20

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Trunk:
    """What one run over a text left: `ids` its tokens, `cut` those nobody may attend to, `margin` the error of a logit."""

    ids: list[int]
    cut: Spans
    hidden: Float[Tensor, "token width"]
    cache: list[LayerCache]
    referee: Referee
    margin: float

    @cached_property
    def bytes(self) -> int:
        """Memory it holds; the double-precision pass beside it has twice as much."""
        held = [self.hidden, *(t for layer in self.cache for t in layer)]
        return (3 if self.referee.doubles else 1) * sum(t.numel() * t.element_size() for t in held)


def trunk_of(model: LensModel, ids: Sequence[int], cut: Spans = ()) -> Trunk:
    """The trunk of some tokens: a kept one that begins with them, or a new one."""
    held = _kept(model) if untouched(model.module) else []
    found = next((t for t in held if t.cut == cut and t.ids[: len(ids)] == ids), None)
    if found is None:
        found = _grown(model, list(ids), cut)
    else:
        held.remove(found)
    held.append(found)
    while held and sum(t.bytes for t in held) > KEPT:
        held.pop(0)
    return found


def bare_trunk(model: LensModel, probe: Sequence[int]) -> Trunk:
    """No tokens to share; the margin is measured on those of `probe`."""
    return _grown(model, [], (), probe)


def _grown(model: LensModel, ids: list[int], cut: Spans, probe: Sequence[int] = ()) -> Trunk:
    """Run `ids`, or a probe where there are none, and keep what belongs to `ids`."""
    read, run = ids or list(probe), TracePass(record=True, cut=cut)
    hidden, referee = model.hidden(read, run), Referee(model, ids, cut)
    margin = referee.margin(MARGIN.get(model.dtype, 0.0), read, hidden)
    cache = [LayerCache(*(t[:, : len(ids)] for t in run.recorded[n])) for n in range(model.layers)]
    return Trunk(ids, cut, hidden[: len(ids)], cache, referee, margin)


def _kept(model: LensModel) -> list[Trunk]:
    """The trunks kept of a model as it is now, the last used at the end."""
    state = weights_state(model)
    if model.kept_trunks is None or model.kept_trunks[0] != state:
        model.kept_trunks = (state, [])
    return model.kept_trunks[1]
