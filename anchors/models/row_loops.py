"""Attention of rows in one compiled loop a layer, where numba is installed: each row over exactly the keys it sees.

1. Own keys are met there. A row's trunk is, too, where matrix products over trunks would be many and small: then the
   trunks lie side by side in a pool, which is made anew when no more fit behind the last one.
2. In float32 on a CPU, while no open text has blocked characters; everything else goes through tensor calls (`row_pass`).
3. Rows are independent, so as many threads as torch has share them where there is enough to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from anchors.models import loops
from anchors.models.attention_pass import Call, LayerCache
from anchors.models.parts import Part

if TYPE_CHECKING:
    from anchors.models.row_pass import Seen

FEW = 1 << 17  # numbers of keys to a product over one trunk, below which the call costs more than what it computes
SHARE = 1 << 19  # numbers of keys that are worth a thread
POOL = 64 << 20  # bytes of trunks beyond which they are not copied side by side

Ranges = Integer[np.ndarray, "2 row"]


class RowLoops:
    """What every row sees in this step, for the compiled loop."""

    def __init__(self, compiled: ModuleType, numbers: int) -> None:
        self.compiled, self.numbers = compiled, numbers  # in the keys of one token
        self.pool: list[LayerCache] | None = None
        self.bytes: int | None = None
        self.first: dict[int, int] = {}  # column of the pool where each trunk begins
        self.end = 0

    @staticmethod
    def of(own: Sequence[LayerCache], rows: int) -> RowLoops | None:
        """The loops for such rows, of which so many are fed now; None where they do not run, or not yet."""
        like = own[0].keys
        compiled = loops.after(rows) if loops.suit(like) else None
        return None if compiled is None else RowLoops(compiled, like.shape[1] * like.shape[3])

    def forget(self) -> None:
        """Trunks were opened or let go."""
        self.bytes = None

    def prepare(
        self,
        trunks: Mapping[int, Seen],
        trunk: Integer[np.ndarray, " row"],
        shared: Integer[np.ndarray, " row"],
        fed: Integer[np.ndarray, " row"],
    ) -> None:
        """Set the trunk of every row, how much of it the row sees, and its own tokens before the new one."""
        self.shared, self.fed = shared, fed
        if self.bytes is None:
            self.bytes = sum(
                t.numel() * t.element_size() for seen in trunks.values() for pair in seen.cache for t in pair
            )
        few = int(shared.sum()) * self.numbers < FEW * len(set(trunk.tolist()))
        self.trunks_too = few and self.bytes < POOL
        if self.trunks_too:
            self._join(trunks)
            self.start = np.array([self.first[n] for n in trunk.tolist()])
        self.order = np.argsort(trunk, kind="stable")  # so that a trunk stays in the cache while its rows are met
        self._ranges: dict[int | None, tuple[Ranges, Ranges, np.ndarray]] = {}

    def _join(self, trunks: Mapping[int, Seen]) -> None:
        """Put the trunks that are not in the pool yet behind the last one there, or all into a new pool with room for as many."""
        new = [n for n in trunks if n not in self.first]
        if not new:
            return
        sizes = {n: held.cache[0][0].shape[2] for n, held in trunks.items()}
        if self.pool is None or self.end + sum(sizes[n] for n in new) > self.pool[0].keys.shape[1]:
            room, like = 2 * sum(sizes.values()), next(iter(trunks.values())).cache
            self.pool = [LayerCache(*(t.new_empty(t.shape[1], room, t.shape[3]) for t in layer)) for layer in like]
            self.first, self.end, new = {}, 0, list(trunks)
        for n in new:
            place = slice(self.end, self.end + sizes[n])
            for pool, held in zip(self.pool, trunks[n].cache, strict=True):
                for target, tensor in zip(pool, held, strict=True):
                    target[:, place] = tensor[0]
            self.first[n], self.end = place.start, place.stop

    def ranges(self, window: int | None) -> tuple[Ranges, Ranges, Integer[np.ndarray, " row"]]:
        """From where up to where every row sees its own tokens, and columns of the pool; all that rows see up to each, in order."""
        if window not in self._ranges:
            behind = np.zeros_like(self.fed) if window is None else np.maximum(self.fed + 1 - window, 0)
            own, trunk = np.stack([behind, self.fed + 1]), np.zeros((2, len(self.fed)), dtype=np.int64)
            if self.trunks_too:
                least = 0 if window is None else np.maximum(self.shared + self.fed + 1 - window, 0)
                trunk = self.start + np.stack([np.minimum(least, self.shared), self.shared])
            seen = own[1] - own[0] + trunk[1] - trunk[0]
            self._ranges[window] = own, trunk, np.cumsum(seen[self.order])
        return self._ranges[window]

    def copy(
        self,
        own: Sequence[LayerCache],
        sources: Integer[np.ndarray, " copy"],
        targets: Integer[np.ndarray, " copy"],
        tokens: Integer[np.ndarray, " copy"],
    ) -> None:
        """Copy the first tokens of rows to other rows."""
        for held in (t for layer in own for t in layer):
            self.compiled.copy_rows(held.numpy(), sources, targets, tokens)

    def attend(self, call: Call, query: Tensor, own: LayerCache) -> Part:
        """[row, kv head, group, width]: over own tokens, the new one kept among them, and over trunks where `trunks_too`."""
        out, log_sum = query.new_empty(query.shape), query.new_empty(query.shape[:-1])
        pool = self.pool[call.layer] if self.trunks_too and self.pool is not None else LayerCache(*(t[0] for t in own))
        new = [t.contiguous().numpy() for t in (query, call.key[:, :, 0], call.value[:, :, 0])]
        (mine, trunk, seen), held, kept = self.ranges(call.window), [t.numpy() for t in own], [t.numpy() for t in pool]
        scale, softcap = np.float32(call.scaling), np.float32(call.softcap or 0.0)
        given = (self.order, *new, *held, mine, *kept, trunk, scale, softcap, out.numpy(), log_sum.numpy())
        _spread(self.compiled.attend, given, seen, query.shape[2] * self.numbers)
        return Part(out, log_sum)


def _spread(loop: Callable[..., None], given: Sequence[Any], seen: Integer[np.ndarray, " row"], numbers: int) -> None:
    """Run a loop over all rows, in several threads where there is work for them; rows are dealt out by what they see.

    `seen` counts keys up to and with each row, of so many numbers each.
    """
    threads = min(torch.get_num_threads(), int(seen[-1]) * numbers // SHARE)
    if threads < 2:
        loop(0, len(seen), *given)
        return
    edges = [0, *np.searchsorted(seen, seen[-1] * np.arange(1, threads) / threads).tolist(), len(seen)]
    list(_workers(os.getpid()).map(lambda a, b: loop(a, b, *given), edges[:-1], edges[1:]))


@cache
def _workers(process: int) -> ThreadPoolExecutor:
    """Threads of this process, since those of one it was forked from are gone."""
    return ThreadPoolExecutor(thread_name_prefix=f"rows {process}")
