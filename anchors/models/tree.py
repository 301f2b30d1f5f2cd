"""What rows off the trunks have computed, so that a text opened again does not compute it again.

1. A node is a token after its parent, which is another node or a place on a trunk. It holds the hidden state the token left
   and its keys and values in every layer. Rows add nodes as they are fed, while there is room (`BYTES`).
2. Rollouts that draw what others drew before them walk from node to node and need no row (`Walk`). Where one draws a
   token nobody fed, it joins the rows with the keys and values of the nodes behind it.
3. Nodes pay where a text is opened again. A stream of jobs tells so by a None; until one has come none is made.
4. The nodes of a trunk end with it, and all of them when the weights change (`trunks`). Where there is no room left, those of
   the trunk opened longest ago make some, if no rollout is on it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from anchors.models.ties import untouched, weights_state

if TYPE_CHECKING:
    from anchors.models.lens import LensModel
    from anchors.models.row_pass import RowPass
    from anchors.models.trunks import Trunk

BYTES = 512 << 20
NONE = -1

_trees: WeakKeyDictionary[LensModel, tuple[list[tuple[int, int]], Tree]] = WeakKeyDictionary()


class Strand(NamedTuple):
    """A sequence of tokens: the first `shared` ones of a trunk, and its own."""

    trunk: int
    shared: int
    own: list[int]


class Group(NamedTuple):
    """Rollouts on one strand, whose last own token is not fed yet; `node` is the tree's place before that token."""

    strand: Strand
    rollouts: Integer[np.ndarray, " rollout"]
    node: int = NONE


class Fed(NamedTuple):
    """What feeding a token to every row left: hidden states, and keys and values, layer after layer."""

    hidden: Float[Tensor, "row width"]
    past: Float[Tensor, "row part kv_head head_width"]


def tree_of(model: LensModel) -> Tree | None:
    """The tree of a model as it is now; None for a module with hooks, of which nothing is kept."""
    if not untouched(model.module):
        return None
    state = weights_state(model)
    held = _trees.get(model)
    if held is None or held[0] != state:
        held = _trees[model] = (state, Tree(model.vocabulary))
    return held[1]


class Tree:
    """The nodes off all trunks of a model. Places on trunks are numbers below `NONE`, nodes are numbers from 0."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.fed: Fed | None = None
        self._child: dict[int, int] = {}
        self._parent: list[int] = []
        self._token: list[int] = []
        self._place = np.zeros(0, dtype=np.int64)  # the place each node grew from
        self._free: list[int] = []
        self._roots: WeakKeyDictionary[Trunk, int] = WeakKeyDictionary()
        self._next = NONE - 1
        self.walks: WeakSet[Walk] = WeakSet()

    def __len__(self) -> int:
        return len(self._child)

    @property
    def bytes(self) -> int:
        """Memory its nodes take; the tensors that hold them have room for more."""
        return 0 if self.fed is None else len(self) * _bytes_a_node(self.fed)

    def place(self, trunk: Trunk, shared: int) -> int:
        """The place on a trunk after its first `shared` tokens."""
        if trunk not in self._roots:
            self._roots[trunk] = first = self._next
            self._next -= len(trunk.ids) + 1
            weakref.finalize(trunk, _fell, weakref.ref(self), first, self._next)
        return self._roots[trunk] - shared

    def opened(self, trunk: Trunk) -> None:
        """Note that a trunk is used again; the nodes of those used longest ago are dropped first."""
        first = self._roots.pop(trunk, None)
        if first is not None:
            self._roots[trunk] = first

    def find(self, parent: int, token: int) -> int:
        """The node of a token after a place or node; NONE where nobody fed it."""
        return self._child.get(parent * self.vocabulary + token, NONE)

    def walk(self, node: int, tokens: Iterable[int]) -> int:
        """Where some tokens lead from a place or node; NONE where one of them is unknown."""
        for token in tokens:
            node = NONE if node == NONE else self.find(node, token)
        return node

    def path(self, node: int) -> list[int]:
        """The nodes from the trunk to a node, which is the last of them; none for a place on the trunk."""
        found = []
        while node > NONE:
            found.append(node)
            node = self._parent[node]
        return found[::-1]

    def tokens(self, nodes: Sequence[int]) -> list[int]:
        """The token of every node."""
        return [self._token[node] for node in nodes]

    def record(
        self,
        parents: Integer[np.ndarray, " row"],
        tokens: Integer[np.ndarray, " row"],
        fed: Fed,
        most: int,
    ) -> Integer[np.ndarray, " row"]:
        """The node of every row's token, made where there is none yet; NONE after NONE, or where `most` bytes are full.

        Trunks on which no draw has rollouts make room.
        """
        nodes, rows, made = np.full(len(parents), NONE), [], []
        most //= _bytes_a_node(fed)
        if len(self) + len(parents) > most:
            self._make_room(len(self) + len(parents) - most)
        for row, (parent, token) in enumerate(zip(parents.tolist(), tokens.tolist(), strict=True)):
            if parent == NONE:
                continue
            node = self.find(parent, token)
            if node == NONE and len(self) < most:
                node = self._add(parent, token)
                rows.append(row)
                made.append(node)
            nodes[row] = node
        if made:
            self._reserve(fed, most)
            at = np.array(made)
            above = parents[rows]
            self._place[at] = above  # then, where that is a node, its place; parents are older than their children
            self._place[at[above > NONE]] = self._place[above[above > NONE]]
            self._store(rows, made, fed)
        return nodes

    def plant(self, rows: Sequence[tuple[int, int]], run: RowPass) -> None:
        """Give rows the keys and values of their own tokens up to a node: (row, node) pairs."""
        assert self.fed is not None
        paths = [self.path(node) for _, node in rows]
        sizes = [len(path) for path in paths]
        at = torch.tensor([node for path in paths for node in path], device=run.device)
        place = np.concatenate([np.arange(size) for size in sizes])
        run.plant(np.repeat([row for row, _ in rows], sizes), place, self.fed.past[at])

    def _make_room(self, wanted: int) -> None:
        """Drop the nodes of trunks no draw is on, those used longest ago first, until so many are gone."""
        held, busy = len(self), {trunk for walk in self.walks for trunk in walk.trunks.values()}
        for trunk, first in list(self._roots.items()):
            if held - len(self) >= wanted:
                return
            if trunk not in busy:
                self.drop(first, first - len(trunk.ids) - 1)

    def _add(self, parent: int, token: int) -> int:
        if self._free:
            node = self._free.pop()
            self._parent[node], self._token[node] = parent, token
        else:
            node = len(self._parent)
            self._parent.append(parent)
            self._token.append(token)
        self._child[parent * self.vocabulary + token] = node
        return node

    def _reserve(self, like: Fed, most: int) -> None:
        """Room for `most` nodes, where there is less than needed: on a CPU untouched memory costs nothing, but a copy would."""
        held, need = len(self._place), len(self._parent)
        if self.fed is None:
            self.fed = Fed(*(t.new_empty(0, *t.shape[1:]) for t in like))
        if need > held:
            room = max(need, most if like.hidden.device.type == "cpu" else min(most, 2 * need))
            self._place = np.pad(self._place, (0, room - held))
            self.fed = Fed(*(_longer(t, room) for t in self.fed))

    def _store(self, rows: Sequence[int], nodes: Sequence[int], fed: Fed) -> None:
        assert self.fed is not None
        source, target = (torch.tensor(x, device=fed.hidden.device) for x in (rows, nodes))
        for held, tensor in zip(self.fed, fed, strict=True):
            held.index_copy_(0, target, tensor if len(rows) == len(tensor) else tensor[source])

    def drop(self, first: int, last: int) -> None:
        """Forget what grew from the places `first` down to `last`, which is excluded."""
        gone = np.flatnonzero((self._place <= first) & (self._place > last)).tolist()
        for node in gone:
            del self._child[self._parent[node] * self.vocabulary + self._token[node]]
        self._place[gone] = 0
        self._free += gone
        if not self._child:
            self.fed, self._place = None, self._place[:0]
            self._parent, self._token, self._free = [], [], []


def _bytes_a_node(fed: Fed) -> int:
    return sum(t[0].numel() * t.element_size() for t in fed)


def _longer(tensor: Tensor, size: int) -> Tensor:
    longer = tensor.new_empty(size, *tensor.shape[1:])
    longer[: len(tensor)] = tensor
    return longer


def _fell(tree: weakref.ref[Tree], first: int, last: int) -> None:
    """A trunk is gone: so are its nodes."""
    held = tree()
    if held is not None:
        held.drop(first, last)


class Walk:
    """Rollouts on nodes, a row each node, and the `row` of every such rollout, in ascending order.

    `trunks` are all those the draw is on, by number: their nodes stay.
    """

    def __init__(self, tree: Tree, trunks: Mapping[int, Trunk]) -> None:
        self.tree, self.trunks = tree, trunks
        tree.walks.add(self)
        self.trunk, self.shared, self.count, self.node = (np.zeros(0, dtype=np.int64) for _ in range(4))
        self.rollouts, self.row = (np.zeros(0, dtype=np.int64) for _ in range(2))

    @property
    def sizes(self) -> Integer[np.ndarray, " row"]:
        """Tokens of every row's sequence, the shared ones included."""
        return self.shared + self.count

    def strand(self, row: int) -> Strand:
        """The tokens of a row."""
        own = self.tree.tokens(self.tree.path(int(self.node[row])))
        return Strand(int(self.trunk[row]), int(self.shared[row]), own)

    def enter(self, groups: Sequence[Group]) -> None:
        """Add groups, of each of which `node` is the node of its last own token."""
        if not groups:
            return
        new = np.array([(*g.strand[:2], len(g.strand.own), g.node) for g in groups]).T
        for name, column in zip(("trunk", "shared", "count", "node"), new, strict=True):
            setattr(self, name, np.append(getattr(self, name), column))
        sizes, first = [len(g.rollouts) for g in groups], len(self.node) - len(groups)
        self.rollouts = np.concatenate([self.rollouts, *(g.rollouts for g in groups)])
        self.row = np.append(self.row, np.repeat(np.arange(first, first + len(groups)), sizes))

    def hidden(self) -> Float[Tensor, "row width"]:
        """The hidden states that predict what follows every row."""
        assert self.tree.fed is not None
        return self.tree.fed.hidden[torch.from_numpy(self.node).to(self.tree.fed.hidden.device)]

    def split(self, tokens: Integer[np.ndarray, " rollout"], going: Bool[np.ndarray, " rollout"]) -> list[Group]:
        """Go on with each going rollout's token; those for which there is no node leave, in groups."""
        wide = self.tree.vocabulary
        children, child = np.unique(self.row[going] * wide + tokens[going], return_inverse=True)
        parent, token = np.divmod(children, wide)
        above = self.node[parent].tolist()
        node = np.array(list(map(self.tree.find, above, token.tolist())), dtype=np.int64)
        order = np.argsort(child, kind="stable")
        rollouts, child = self.rollouts[going][order], child[order]
        edges = np.searchsorted(child, np.arange(len(children) + 1))
        left = []
        for c in np.flatnonzero(node == NONE).tolist():
            trunk, shared, own = self.strand(int(parent[c]))
            left.append(
                Group(Strand(trunk, shared, [*own, int(token[c])]), rollouts[edges[c] : edges[c + 1]], above[c])
            )
        stays = node != NONE
        self.trunk, self.shared, self.count = (x[parent[stays]] for x in (self.trunk, self.shared, self.count + 1))
        self.node = node[stays]
        self.rollouts, self.row = rollouts[stays[child]], (np.cumsum(stays) - 1)[child[stays[child]]]
        return left
