"""Rows in flight: each is one sequence of tokens with the rollouts that have written it so far.

1. A row holds its trunk, the number of trunk tokens it shares and its own tokens, of which the last is yet to be fed.
2. After the draw, rollouts of a row with the same token stay together: the first such child keeps the row's slot in the
   key-value buffer, the others get copies of it.
3. Rows stay contiguous: children and the last rows move into the slots of rows that have none left.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from anchors.models.attention_pass import LayerCache
from anchors.models.lean import Forward
from anchors.models.row_pass import RowPass
from anchors.models.tree import NONE, Fed, Group, Strand, Tree

SHARING = 4


class Rows:
    """The rows in flight, and the `row` of every rollout in flight, in ascending order."""

    def __init__(self, run: RowPass) -> None:
        self.run = run
        self.trunk, self.shared, self.count, self.node = (np.zeros(0, dtype=np.int64) for _ in range(4))
        self.own = np.zeros((0, 32), dtype=np.int64)
        self.rollouts, self.row = (np.zeros(0, dtype=np.int64) for _ in range(2))

    @property
    def sizes(self) -> Integer[np.ndarray, " row"]:
        """Tokens of every row's sequence, the shared ones included."""
        return self.shared + self.count

    @property
    def last(self) -> Integer[np.ndarray, " row"]:
        """The last own token of every row."""
        return self.own[np.arange(len(self.count)), self.count - 1]

    def strand(self, row: int) -> Strand:
        """The tokens of a row."""
        return Strand(int(self.trunk[row]), int(self.shared[row]), self.own[row, : self.count[row]].tolist())

    def have_room(self, group: Group, rows: int) -> bool:
        """Whether a group may join, where `rows` are to be in flight and `SHARING` rollouts for each of them at most."""
        rollouts = len(self.rollouts) + len(group.rollouts)
        return len(self.shared) < rows and rollouts <= SHARING * rows

    def admit(self, group: Group, cache: Sequence[LayerCache]) -> None:
        """Add a row; `cache` holds keys and values of its own tokens but the last."""
        row, (trunk, shared, own) = len(self.shared), group.strand
        size = len(own)
        self._widen(size)
        self.trunk, self.shared = np.append(self.trunk, trunk), np.append(self.shared, shared)
        self.count, self.node = np.append(self.count, size), np.append(self.node, group.node)
        self.own = np.concatenate([self.own, np.zeros((1, self.own.shape[1]), dtype=np.int64)])
        self.own[row, :size] = own
        self.rollouts = np.concatenate([self.rollouts, group.rollouts])
        self.row = np.concatenate([self.row, np.full(len(group.rollouts), row)])
        self.run.reserve(row + 1, size)
        if cache:
            self.run.fill(row, cache)

    def feed(self, forward: Forward) -> Float[Tensor, "row width"]:
        """Run every row's last token and return the hidden states that predict the next ones."""
        self.run.prepare(self.shared, self.count - 1, self.trunk)
        return forward(torch.from_numpy(self.last).to(self.run.device), self.run)

    def record(self, tree: Tree, hidden: Float[Tensor, "row width"], most: int) -> None:
        """Add the tokens just fed to a tree, up to `most` bytes of it; `hidden` are the states they left."""
        if self.run.kept is not None:
            self.node = tree.record(self.node, self.last, Fed(hidden, self.run.kept), most)
        else:
            self.node = np.full_like(self.node, NONE)

    def split(self, tokens: Integer[np.ndarray, " rollout"], going: Bool[np.ndarray, " rollout"]) -> None:
        """Append each going rollout's token to its row, splitting rows by token; drop rows without rollouts."""
        self._widen(int(self.count.max()) + 1)
        wide = int(tokens.max()) + 1
        children, child = np.unique(self.row[going] * wide + tokens[going], return_inverse=True)
        parent, token = np.divmod(children, wide)
        slot = self._slots(parent)
        for name in ("trunk", "shared", "count", "node", "own"):
            held = getattr(self, name)
            placed = np.empty((len(children), *held.shape[1:]), dtype=np.int64)
            placed[slot] = held[parent]
            setattr(self, name, placed)
        self.own[slot, self.count[slot]] = token
        self.count += 1
        order = np.argsort(slot[child], kind="stable")
        self.rollouts, self.row = self.rollouts[going][order], slot[child][order]

    def _slots(self, parent: Integer[np.ndarray, " child"]) -> Integer[np.ndarray, " child"]:
        """A slot below the number of children for each: its parent's where it is the first and that is low enough."""
        kept = np.append(True, parent[1:] != parent[:-1])[: len(parent)] & (parent < len(parent))
        free = np.setdiff1d(np.arange(len(parent)), parent[kept], assume_unique=True)
        slot = parent.copy()
        slot[~kept] = free
        if len(free):
            self.run.reserve(len(parent), 0)
            self.run.copy(parent[~kept], free, self.count[parent[~kept]])
        return slot

    def _widen(self, tokens: int) -> None:
        held = self.own.shape[1]
        if tokens > held:
            self.own = np.pad(self.own, ((0, 0), (0, max(held, tokens - held))))
