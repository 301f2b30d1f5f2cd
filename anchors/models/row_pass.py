"""Attention of many rows, one new token each, over the trunk each grew from and the tokens it has to itself.

1. A row sees the first `shared` tokens of its trunk and its own tokens, which lie in its slot of a preallocated buffer.
2. The queries of all rows of one trunk meet its keys as one matrix product for every key-value head; a row's own keys meet
   its query alone. The two are mixed exactly (`parts`).
3. Masks are built once a token, not once a layer, and not at all where every row sees everything. Columns of a trunk
   that nobody may see are left out of it.
4. In float32 on a CPU, with numba and without blocked text, own keys are met in a compiled loop instead, without padding or
   masks (`row_loops`), and so are trunks where few rows see little of many of them.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from anchors.models.attention_pass import Call, LayerCache
from anchors.models.parts import Part, fused_part
from anchors.models.row_loops import RowLoops

ROWS, ROOM, CUT = 16, 32, 16
UNTOUCHED = 512 << 20  # bytes that rows get at once on a CPU, where what is not written to takes none
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
HIDDEN = -1e30  # finite, so that a row with nothing to see in one part gets weight zero there and not NaN
NOTHING = -80.0  # its exponential is lost beside 1 in double precision too; that of -1e30 takes twenty times as long


class Seen:
    """A trunk's keys and values without the columns nobody may see, and where in the trunk the others lie."""

    def __init__(self, cache: Sequence[LayerCache], cut: Sequence[tuple[int, int]] = ()) -> None:
        like = cache[0].keys
        seen = torch.ones(like.shape[1], dtype=torch.bool, device=like.device)
        for a, b in cut:
            seen[a:b] = False
        self.at, self.cut = torch.nonzero(seen)[:, 0], cut
        self.cache = [tuple((t[:, self.at] if cut else t)[None] for t in layer) for layer in cache]
        self.visible = torch.cat([seen.new_zeros(1, dtype=torch.long), seen.cumsum(0)]).cpu().numpy()


class Segment(NamedTuple):
    """Rows of one trunk, at these places of the order by trunk: `seen` columns each sees, `reach` at most."""

    trunk: Seen
    places: slice
    seen: Integer[Tensor, " row"]
    reach: int


class RowPass:
    """Keys and values of trunks and of every row; a `Pass` for the model's own module too."""

    def __init__(self, like: Sequence[LayerCache]) -> None:
        self.trunks: dict[int, Seen] = {}
        kv_heads, _, width = like[0].keys.shape
        self.own = [LayerCache(*(like[0].keys.new_zeros(0, kv_heads, ROOM, width) for _ in "kv")) for _ in like]
        self.device = like[0].keys.device
        self.used = 0  # tokens of the longest row there has been
        self.keep = False
        self.kept: Float[Tensor, "row part kv_head width"] | None = None  # of the last tokens, layer after layer
        self.loops: RowLoops | None = None

    def grow(self, number: int, cache: Sequence[LayerCache], cut: Sequence[tuple[int, int]] = ()) -> None:
        """Add a trunk, of which nobody sees the tokens in `cut`."""
        self.trunks[number] = Seen(cache, cut)
        self._forget_pool()

    def fell(self, number: int) -> None:
        """Let go of a trunk."""
        del self.trunks[number]
        self._forget_pool()

    def _forget_pool(self) -> None:
        if self.loops is not None:
            self.loops.forget()

    def reserve(self, rows: int, tokens: int) -> None:
        """Make room for this many rows of this many tokens each, doubling what there is."""
        held, _, room, _ = self.own[0].keys.shape
        used, self.used = self.used, max(self.used, tokens)
        if rows <= held and tokens <= room:
            return
        if held:
            rows = max(rows, 2 * held) if rows > held else held
            tokens = max(tokens, 2 * room) if tokens > room else room
        else:
            rows, tokens = self._first_room(rows, tokens)
        for index, layer in enumerate(self.own):  # one after the other, so that old and new never lie side by side
            self.own[index] = LayerCache(*(_larger(t, rows, tokens, used) for t in layer))

    def _first_room(self, rows: int, tokens: int) -> tuple[int, int]:
        """Rows and tokens to begin with: on a CPU as many as fit in memory that costs nothing yet."""
        rows, tokens = max(rows, ROWS), max(tokens, ROOM)
        if self.device.type == "cpu":
            size = sum(t.shape[1] * t.shape[3] * t.element_size() for layer in self.own for t in layer)
            while 2 * rows * tokens * size <= UNTOUCHED:
                rows, tokens = (2 * rows, tokens) if rows <= tokens else (rows, 2 * tokens)
        return rows, tokens

    def fill(self, row: int, cache: Sequence[LayerCache]) -> None:
        """Set a row's first own tokens."""
        size = cache[0].keys.shape[1]
        for own, given in zip(self.own, cache, strict=True):
            for target, source in zip(own, given, strict=True):
                target[row, :, :size] = source

    def plant(self, rows: np.ndarray, places: np.ndarray, past: Float[Tensor, "token part kv_head width"]) -> None:
        """Set own tokens of any rows: the keys and values of each, layer after layer, at its place in its row."""
        at, place = (torch.from_numpy(x).to(self.device) for x in (rows, places))
        for part, tensor in enumerate(t for layer in self.own for t in layer):
            tensor[at, :, place] = past[:, part]

    def copy(self, sources: np.ndarray, targets: np.ndarray, tokens: Integer[np.ndarray, " copy"]) -> None:
        """Copy the first tokens of rows to other rows; no target may be a source."""
        if not len(sources):
            return
        if self.loops is not None:
            self.loops.copy(self.own, sources, targets, tokens)
            return
        most = int(tokens.max())
        a, b = (torch.from_numpy(x).to(self.device) for x in (sources, targets))
        for layer in self.own:
            for tensor in layer:
                tensor[b, :, :most] = tensor[a, :, :most]

    def prepare(
        self,
        shared: Integer[np.ndarray, " row"],
        fed: Integer[np.ndarray, " row"],
        trunk: Integer[np.ndarray, " row"] | None = None,
    ) -> None:
        """Set how much of which trunk (None for the only one) every row sees, and how many own tokens it has already."""
        self.rows, self.length = len(shared), int(fed.max()) + 1
        self.reserve(self.rows, self.length)
        self.kept = None
        if self.keep:
            kv_heads, width = self.own[0].keys.shape[1::2]
            self.kept = self.own[0].keys.new_empty(self.rows, 2 * len(self.own), kv_heads, width)
        trunk = np.full_like(shared, min(self.trunks)) if trunk is None else trunk
        self.shared, self.fed = (torch.from_numpy(x).to(self.device) for x in (shared, fed))
        self.positions = self.shared + self.fed
        if self.loops is None:
            self.loops = RowLoops.of(self.own, self.rows)
        self.looped = None if any(held.cut for held in self.trunks.values()) else self.loops
        if self.looped is not None:
            self.looped.prepare(self.trunks, trunk, shared, fed)
        self.segments = []
        if self.looped is None or not self.looped.trunks_too:
            self._sort(trunk, shared)
        if self.looped is None:
            self.slots = torch.arange(self.rows, device=self.device)
            self.near = _near(fed, self.length)
            self.long = torch.from_numpy(np.flatnonzero(fed >= self.near)).to(self.device)

    def _sort(self, trunk: Integer[np.ndarray, " row"], shared: Integer[np.ndarray, " row"]) -> None:
        """Put rows in the order of their trunks."""
        self.sorted = bool((np.diff(trunk) >= 0).all())
        order = np.argsort(trunk, kind="stable")
        self.segments = self._segments(trunk[order], shared[order])
        self.order = torch.from_numpy(order).to(self.device)
        self.back = torch.argsort(self.order)
        self._trunk_masks: dict[int | None, list[Tensor | None]] = {}
        self._own_masks: dict[int | None, Tensor | None] = {}

    def _segments(self, trunk: np.ndarray, shared: np.ndarray) -> list[Segment]:
        """The rows of every trunk they see something of; both arguments in the order by trunk."""
        edges = [0, *(np.flatnonzero(np.diff(trunk)) + 1), len(trunk)]
        found = []
        for a, b in pairwise(edges):
            held = self.trunks[int(trunk[a])]
            seen = held.visible[shared[a:b]]
            found.append(Segment(held, slice(a, b), torch.from_numpy(seen).to(self.device), int(seen.max())))
        return found

    def trunk_masks(self, window: int | None, query: Tensor) -> list[Tensor | None]:
        """What to add to scores over every segment [row and group, reach]; all layers of a window have the same."""
        if window not in self._trunk_masks:
            found = [self._trunk_mask(s, window, query.shape[2], query.dtype) for s in self.segments]
            self._trunk_masks[window] = found
        return self._trunk_masks[window]

    def own_mask(self, window: int | None) -> Tensor | None:
        """What to add to scores over own tokens [row, length]."""
        if window not in self._own_masks:
            self._own_masks[window] = self._own_mask(window)
        return self._own_masks[window]

    def _trunk_mask(self, segment: Segment, window: int | None, groups: int, dtype: torch.dtype) -> Tensor | None:
        allowed = torch.arange(segment.reach, device=self.device) < segment.seen[:, None]
        if window is not None:
            positions = self.positions[self.order[segment.places]]
            allowed &= positions[:, None] - segment.trunk.at[: segment.reach] < window
        mask = self._additive(allowed)
        if mask is None:
            return None
        return mask.repeat_interleave(groups, dim=0).to(torch.promote_types(dtype, torch.float32))[None, None]

    def _own_mask(self, window: int | None) -> Tensor | None:
        at = torch.arange(self.length, device=self.device)
        distance = self.fed[:, None] - at
        allowed = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        for segment in self.segments:
            rows = self.order[segment.places]
            for a, b in segment.trunk.cut:
                position = self.shared[rows, None] + at
                allowed[rows] &= (position < a) | (position >= b)
        return self._additive(allowed)

    def _additive(self, allowed: Tensor) -> Tensor | None:
        if bool(allowed.all()):
            return None
        return torch.zeros(allowed.shape, device=self.device).masked_fill_(~allowed, HIDDEN)

    def attend(self, call: Call) -> Float[Tensor, "row head 1 width"]:
        """Attention of one new token a row, whose keys and values are kept in the rows' slots."""
        own = self.own[call.layer]
        if self.kept is not None:
            for part, tensor in enumerate((call.key, call.value)):
                self.kept[:, 2 * call.layer + part] = tensor[:, :, 0]
        query = call.query.reshape(self.rows, own.keys.shape[1], -1, own.keys.shape[3])  # row, kv head, group, width
        part = self._over_own(call, query, own) if self.looped is None else self.looped.attend(call, query, own)
        if any(segment.reach for segment in self.segments):
            part = part.mixed_with(self._over_trunks(call, query))
        return part.out.reshape(call.query.shape)

    def _over_trunks(self, call: Call, query: Tensor) -> Part:
        """Every row over the trunk it grew from, trunk by trunk."""
        groups, one = query.shape[2], len(self.segments) == 1
        rows = (query if one or self.sorted else query[self.order]).transpose(0, 1).flatten(1, 2)[None]
        found = []  # rows, their places and sums are: 1, kv head, row and group, width
        for segment, mask in zip(self.segments, self.trunk_masks(call.window, query), strict=True):
            here = rows[:, :, segment.places.start * groups : segment.places.stop * groups]
            found.append(_over_trunk(call, here, segment, mask))
        part = found[0] if one else Part(*(torch.cat(t, dim=2) for t in zip(*found, strict=True)))
        out, log_sum = (t[0].unflatten(1, (-1, groups)).transpose(0, 1) for t in part)
        return Part(out, log_sum) if one or self.sorted else Part(out[self.back], log_sum[self.back])

    def _over_own(self, call: Call, query: Tensor, own: LayerCache) -> Part:
        """All rows over their first `near` own tokens, the new one kept among them, then the few longer ones over the rest."""
        own.keys[self.slots, :, self.fed] = call.key[:, :, 0]
        own.values[self.slots, :, self.fed] = call.value[:, :, 0]
        mask = self.own_mask(call.window)
        near, far = slice(0, self.near), slice(self.near, self.length)
        keys, values = (t[: self.rows, :, near] for t in own)
        part = _part(call, query, keys, values, None if mask is None else mask[:, None, None, near])
        if len(self.long):
            keys, values = (t[self.long, :, far] for t in own)
            rest = None if mask is None else mask[self.long, None, None, far]
            found = _part(call, query[self.long], keys, values, rest)
            found = Part(part.out[self.long], part.log_sum[self.long]).mixed_with(found)
            part.out[self.long], part.log_sum[self.long] = found
        return part


def _larger(held: Float[Tensor, "row head token width"], rows: int, room: int, used: int) -> Tensor:
    """The first `used` tokens of every row, with zeros around them."""
    shape = (rows, held.shape[1], room, held.shape[3])
    larger = _untouched(shape, held.dtype) if held.device.type == "cpu" else held.new_zeros(shape)
    larger[: len(held), :, :used] = held[:, :, :used]
    return larger


def _untouched(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory before they are written to; those of torch do."""
    size = math.prod(shape) * dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, max(1, size), **PRIVATE), dtype=torch.uint8)[:size].view(dtype).view(shape)


def _near(fed: Integer[np.ndarray, " row"], length: int) -> int:
    """How many own tokens to attend to in all rows at once: longer rows go on alone, which costs them a copy."""
    cuts = np.arange(CUT, length + CUT, CUT).clip(max=length)
    longer = len(fed) - np.searchsorted(np.sort(fed), cuts)
    return int(cuts[np.argmin(len(fed) * cuts + 3 * longer * (length - cuts))])


def _over_trunk(call: Call, rows: Tensor, segment: Segment, mask: Tensor | None) -> Part:
    if not segment.reach:
        nothing = rows.new_full(rows.shape[:-1], HIDDEN, dtype=torch.promote_types(rows.dtype, torch.float32))
        return Part(torch.zeros_like(rows), nothing)
    keys, values = segment.trunk.cache[call.layer]
    keys, values = keys[:, :, : segment.reach], values[:, :, : segment.reach]
    if call.softcap is None and rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.float64):
        return fused_part(rows, keys, values, scale=call.scaling, mask=mask)
    return _part(call, rows, keys, values, mask)


def _part(call: Call, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Part:
    scores = torch.matmul(query, keys.transpose(-1, -2))
    scores = (scores if scores.dtype == torch.float64 else scores.float()) * call.scaling
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    if mask is not None:
        scores = scores + mask
    top = scores.amax(-1, keepdim=True)
    powers = scores.sub_(top).clamp_(min=NOTHING).exp_()
    total = powers.sum(-1, keepdim=True)
    out = torch.matmul(powers.to(values.dtype), values) / total.to(values.dtype)
    return Part(out, (top + total.log())[..., 0])
