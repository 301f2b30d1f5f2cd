"""Rollouts of any texts from many boundaries, computing every distinct sequence of tokens once.

1. Each text is run once, as a trunk. It gives the next-token distribution after each of its tokens, so a rollout that repeats
   the text costs nothing until it draws another token: it then shares the first k tokens of the trunk and has one own.
2. Rollouts of a trunk with the same k and own tokens, from whichever boundary, form one row of `decoding.Rows`: the row feeds
   one token, every rollout on it draws from the same distribution by its own uniforms, and the row splits where they differ.
3. Groups of equal rollouts are let in together while fewer than `batch_size` rows and four times as many rollouts are
   in flight, so that those rollouts bound the memory. When none waits the next text is opened, so that rows of many texts
   run together and a step is never emptier than it has to be.
4. Where a stream of jobs comes in rounds, what rows computed is kept in a tree, which later rounds walk without rows (`tree`).
5. A tie is decided in double precision from that row's tokens alone (`ties`).
So a rollout depends on (seed, trace, position, sample) and not on batch size, order or interruption. In bfloat16 and
float16 rounding is coarser than any useful margin, so there the promise holds for an unchanged batch only.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anchors.models.attention_pass import LayerCache, TracePass
from anchors.models.base import Completion, Job, Sampling
from anchors.models.climbing import LOGITS, Climb
from anchors.models.decoding import Rows
from anchors.models.endings import Endings
from anchors.models.lean import Forward, lean_forward
from anchors.models.randomness import stream
from anchors.models.row_pass import RowPass
from anchors.models.sampling import Odds, draw_tokens, next_token_odds
from anchors.models.tokens import in_common, token_spans
from anchors.models.tree import BYTES, NONE, Group, Strand, Walk, tree_of
from anchors.models.trunks import Trunk, bare_trunk, trunk_of

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

log = logging.getLogger(__name__)

FEW, AHEAD, IDLE = 4, 8, 3
OPEN = 1 << 30  # bytes of trunks beyond which no further text is opened

Finished = tuple[Job, Completion]
Strands = Callable[[int], Strand]


@dataclass
class Tally:
    """What a draw did: tokens generated, rows fed to the model for them, and distributions worked out again for a tie."""

    generated: int = 0
    computed: int = 0
    ties: int = 0


class Advance(NamedTuple):
    """The token each rollout drew, whether it goes on, and the rollouts that ended."""

    tokens: np.ndarray
    going: np.ndarray
    finished: list[Finished]


def draw(
    model: LensModel,
    jobs: Iterable[Job | None],
    *,
    sampling: Sampling,
    seed: int,
    batch_size: int,
    tally: Tally | None = None,
) -> Iterator[Finished]:
    """Yield the completion of every job as it finishes; jobs of one text that follow each other share a trunk.

    Texts with fewer than `FEW` jobs are not worth a trunk of their own: they come last, each over its own prefix. A None
    says that what follows depends on rollouts still in flight; the stream is asked again after every token. From the first one
    on, what rows compute is kept for the texts that will be opened again (`tree`).

    Raises:
        ValueError: batch_size < 1, or the stream waits while nothing is in flight.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; at least one rollout must be in flight")
    draws = Draws(model, sampling, seed, batch_size, Tally() if tally is None else tally)
    yield from draws.run(_texts(draws.watched(jobs)))
    log.debug("%s: %s", model.name, draws.tally)


def _texts(jobs: Iterable[Job | None]) -> Iterator[list[Job]]:
    """The jobs of each text, and at the end or at a None those of all texts that have few; nothing where none is left."""
    loose: list[Job] = []
    pauses = count()
    for key, group in groupby(jobs, key=lambda job: next(pauses) if job is None else (job.text, job.blocked)):
        together = [job for job in group if job is not None]
        if isinstance(key, int):
            yield loose
            loose = []
        elif len(together) < FEW and not key[1]:
            loose += together
        else:
            yield together
    if loose:
        yield loose


class Draws:
    """All rollouts of one call, an entry a job in the order in which their texts were opened."""

    def __init__(self, model: LensModel, sampling: Sampling, seed: int, batch_size: int, tally: Tally) -> None:
        self.model, self.sampling, self.seed, self.tally = model, sampling, seed, tally
        self.batch_size = batch_size
        self.jobs: list[Job] = []
        self.prefixes: list[list[int]] = []
        self.encoded: dict[tuple[str, int], list[int]] = {}
        self.starts, self.limits, self.trunk = (np.zeros(0, dtype=np.int64) for _ in range(3))
        self.streams = np.zeros(0, dtype=np.uint64)
        self.trunks: dict[int, Trunk] = {}
        self.opened, self.margin = 0, 0.0
        self.endings = Endings(model, sampling)
        self.rows: Rows | None = None
        self.waiting: deque[Group] = deque()
        tree = tree_of(model)
        self.walk = None if tree is None else Walk(tree, self.trunks)
        self.again = False

    def watched(self, jobs: Iterable[Job | None]) -> Iterator[Job | None]:
        """The jobs; a None among them says that texts will be opened again."""
        for job in jobs:
            self.again |= job is None
            yield job

    def run(self, texts: Iterator[list[Job]]) -> Iterator[Finished]:
        """Open texts while there is room, follow each as far as its rollouts do, and decode what left them."""
        forward, more, idle = lean_forward(self.model), True, 0
        while True:
            while more and not self.waiting and self._has_room():
                jobs = next(texts, None)
                more = jobs is not None
                if not jobs:
                    break
                yield from self._open(jobs)
            if self.waiting or self._in_flight():
                idle = 0
                assert self.rows is not None
                yield from self._step(self.rows, forward)
            elif not more:
                return
            elif (idle := idle + 1) > IDLE:
                raise ValueError("the stream of jobs waits for rollouts, but none is in flight; let it end instead")

    def _in_flight(self) -> int:
        """Sequences with rollouts on them, in rows or on nodes."""
        return sum(len(held.shared) for held in (self.rows, self.walk) if held is not None)

    def _has_room(self) -> bool:
        """Whether another text may be opened."""
        held = sum(t.bytes for t in self.trunks.values())
        return not self._in_flight() or (self._in_flight() < self.batch_size and held < OPEN)

    def _open(self, jobs: list[Job]) -> Iterator[Finished]:
        """Run a text, follow it, and put what leaves it among the waiting groups."""
        number, first = self.opened, len(self.jobs)
        self.opened += 1
        self._close()
        prefixes = {place: self._prefix(*place) for place in {(j.text, j.end) for j in jobs}}
        self.model.check_length(max(map(len, prefixes.values())) + 1, what="the longest prefix with one new token")
        trunk = self._trunk(jobs, next(iter(prefixes.values())))
        self.margin = max(self.margin, trunk.margin)
        self.trunks[number] = trunk
        if self.walk is not None:
            self.walk.tree.opened(trunk)
        self._enter(jobs, number, [prefixes[job.text, job.end] for job in jobs])
        groups: dict[tuple[int, ...], list[int]] = {}
        following = self._sort(range(first, len(self.jobs)), trunk, groups)
        if following:
            yield from Climb(self, trunk, number, following, groups).run()
        if not groups:
            del self.trunks[number]
            return
        if self.rows is None:
            self.rows = Rows(RowPass(trunk.cache))
        self.rows.run.grow(number, trunk.cache, trunk.cut)
        self._place(trunk, _pieces(number, groups, self.batch_size))

    def _place(self, trunk: Trunk, groups: Iterable[Group]) -> None:
        """Put groups on their nodes, where their last token has one; the others wait."""
        known = []
        for group in groups:
            if self.walk is None or not trunk.ids:
                self.waiting.append(group)
                continue
            tree, (_, shared, own) = self.walk.tree, group.strand
            before = tree.walk(tree.place(trunk, shared), own[:-1])
            node = tree.walk(before, own[-1:])
            if node == NONE:
                self.waiting.append(group._replace(node=before))
            else:
                known.append(group._replace(node=node))
        if self.walk is not None:
            self.walk.enter(known)

    def _close(self) -> None:
        """Let go of trunks on which no row is left; none waits when a text is opened."""
        live = {n for held in (self.rows, self.walk) if held is not None for n in held.trunk.tolist()}
        for number in self.trunks.keys() - live:
            del self.trunks[number]
            assert self.rows is not None
            self.rows.run.fell(number)

    def _trunk(self, jobs: list[Job], probe: list[int]) -> Trunk:
        """The tokens to run once: up to the last boundary, and as far beyond as following them may pay."""
        if len({job.text for job in jobs}) > 1:
            return bare_trunk(self.model, probe)
        text, last = jobs[0].text, max(job.end for job in jobs)
        start, whole = self._ids(text, last), self._ids(text, len(text))
        ahead = min(self.sampling.max_new_tokens, AHEAD * len(jobs))
        ids = whole if whole[: len(start)] == start else start
        ids = ids[: min(self.model.context, len(start) + ahead)]
        blocked = jobs[0].blocked
        cut = token_spans(self.model.encode(text[:last]).offsets, blocked).spans if blocked else ()
        return trunk_of(self.model, ids, tuple(cut))

    def _ids(self, text: str, end: int) -> list[int]:
        """The tokens of a text up to a character, worked out once."""
        if (text, end) not in self.encoded:
            self.encoded[text, end] = self.model.encode(text[:end]).ids
        return self.encoded[text, end]

    def _prefix(self, text: str, end: int) -> list[int]:
        ids = self._ids(text, end)
        if not ids:
            raise ValueError(f"{self.model.name} has no beginning-of-text token, so it cannot continue an empty prefix")
        return ids

    def _enter(self, jobs: list[Job], number: int, prefixes: list[list[int]]) -> None:
        starts = np.array([len(ids) for ids in prefixes])
        keys = [stream(self.seed, job.trace, job.position, job.sample) for job in jobs]
        self.jobs += jobs
        self.prefixes += prefixes
        self.starts = np.append(self.starts, starts)
        self.limits = np.append(self.limits, np.minimum(self.sampling.max_new_tokens, self.model.context - starts))
        self.trunk = np.append(self.trunk, np.full(len(jobs), number))
        self.streams = np.append(self.streams, np.array(keys, dtype=np.uint64))

    def _sort(self, rollouts: range, trunk: Trunk, groups: dict[tuple[int, ...], list[int]]) -> dict[int, list[int]]:
        """Rollouts whose prefix is a start of the trunk, by its length; the others go to their groups."""
        shared = {id(ids): in_common(ids, trunk.ids) for ids in self.prefixes[rollouts.start : rollouts.stop]}
        following: dict[int, list[int]] = {}
        for i in rollouts:
            ids = self.prefixes[i]
            k = shared[id(ids)]
            if k == len(ids):
                following.setdefault(k, []).append(i)
            else:
                groups.setdefault((k, *ids[k:]), []).append(i)
        return following

    def _step(self, rows: Rows, forward: Forward) -> Iterator[Finished]:
        """Let in the groups there is room for, feed one token to every row, and draw after it and after every node."""
        self._admit(rows)
        hidden, walk = self._feed(rows, forward), self.walk
        fed = len(rows.shared)
        row, rollouts, sizes = rows.row, rows.rollouts, rows.sizes
        if walk is not None and len(walk.node):
            row, rollouts = np.append(row, walk.row + fed), np.append(rollouts, walk.rollouts)
            sizes, hidden = np.append(sizes, walk.sizes), [*hidden, walk.hidden()]
        hidden = torch.cat(hidden) if len(hidden) > 1 else hidden[0]

        def strand(at: int) -> Strand:
            return rows.strand(at) if at < fed or walk is None else walk.strand(at - fed)

        block, parts = max(1, LOGITS // self.model.vocabulary), []
        for a in range(0, len(hidden), block):
            odds = next_token_odds(self.model.unembed(hidden[a : a + block]), self.sampling)
            mine = slice(*np.searchsorted(row, [a, a + block]))
            part = self.advance(odds, row[mine] - a, rollouts[mine], sizes[row[mine]], lambda at, a=a: strand(at + a))
            yield from part.finished
            parts.append(part)
        tokens, going = (np.concatenate(x) for x in zip(*((p.tokens, p.going) for p in parts), strict=True))
        on_rows = len(rows.rollouts)
        if fed:
            rows.split(tokens[:on_rows], going[:on_rows])
        if walk is not None and len(walk.node):
            for group in walk.split(tokens[on_rows:], going[on_rows:]):
                self.waiting.extend(_cut(group, self.batch_size))

    def _feed(self, rows: Rows, forward: Forward) -> list[Tensor]:
        """Feed every row, and note in the tree what it left; nothing where there is no row."""
        if not len(rows.shared):
            return []
        tree, most = None if self.walk is None else self.walk.tree, BYTES if self.again else 0
        rows.run.keep = tree is not None and most > 0 and bool((rows.node != NONE).any())
        hidden = rows.feed(forward)
        if tree is not None:
            rows.record(tree, hidden, most)
        self.tally.computed += len(hidden)
        return [hidden]

    def _admit(self, rows: Rows) -> None:
        """Let in the groups there is room for."""
        known = []
        while self.waiting and rows.have_room(self.waiting[0], self.batch_size):
            group = self.waiting.popleft()
            if group.node > NONE:
                known.append((len(rows.shared), group.node))
            rows.admit(group, self._own_cache(group))
        if known and self.walk is not None:
            self.walk.tree.plant(known, rows.run)

    def _own_cache(self, group: Group) -> list[LayerCache]:
        """Keys and values of a group's own tokens but the last, where it starts with more than one."""
        trunk, shared, own = group.strand
        if len(own) == 1 or group.node > NONE:
            return []
        held = self.trunks[trunk]
        run = TracePass(start=shared, past=held.cache, record=True, cut=held.cut)
        self.model.hidden([*held.ids[:shared], *own[:-1]], run)
        return [run.recorded[layer] for layer in range(self.model.layers)]

    def advance(
        self, odds: Odds, rows: np.ndarray, rollouts: np.ndarray, sizes: np.ndarray, strand: Strands
    ) -> Advance:
        """Draw the next token of rollouts on rows of `odds`, whose strands hold `sizes` tokens, prefix included."""
        steps = sizes - self.starts[rollouts]
        streams = self.streams[rollouts]
        tokens, ties = draw_tokens(odds, rows, self.sampling, streams=streams, steps=steps, margin=self.margin)
        for row in np.unique(rows[ties]):
            mine = np.flatnonzero(ties & (rows == row))
            trunk, shared, own = strand(int(row))
            exact = next_token_odds(self.trunks[trunk].referee.logits(shared, own), self.sampling)
            redrawn = draw_tokens(
                exact, np.zeros_like(mine), self.sampling, streams=streams[mine], steps=steps[mine], margin=0.0
            )
            tokens[mine] = redrawn.ids
            self.tally.ties += 1

        def written(i: int) -> list[int]:
            trunk, shared, own = strand(int(rows[i]))
            start = self.starts[rollouts[i]]
            return [*self.trunks[trunk].ids[start:shared], *own[max(0, start - shared) :], int(tokens[i])]

        stopped = self.endings.stopped(tokens, written)
        done = stopped | (steps + 1 >= self.limits[rollouts])
        self.tally.generated += len(tokens)
        finished = []
        for i in np.flatnonzero(done).tolist():
            rollout = int(rollouts[i])
            finish = "stop" if stopped[i] else "length"
            finished.append((self.jobs[rollout], self.endings.completion(self.prefixes[rollout], written(i), finish)))
        return Advance(tokens, ~done, finished)


def _pieces(trunk: int, groups: dict[tuple[int, ...], list[int]], batch_size: int) -> Iterator[Group]:
    """Groups by how much of the trunk they share, so that rows in flight see about as much; none above a batch."""
    for (shared, *own), members in sorted(groups.items()):
        yield from _cut(Group(Strand(trunk, shared, own), np.array(members)), batch_size)


def _cut(group: Group, batch_size: int) -> Iterator[Group]:
    """A group in pieces of no more rollouts than a batch has rows."""
    for a in range(0, len(group.rollouts), batch_size):
        yield group._replace(rollouts=group.rollouts[a : a + batch_size])
