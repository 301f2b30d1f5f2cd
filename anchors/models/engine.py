"""Rollouts of one trace from many boundaries, computing every distinct sequence of tokens once.

1. The trace is run once. It gives the next-token distribution after each of its tokens, so a rollout that repeats the
   trace costs nothing until it draws another token: it then shares the first k tokens of the trace and has one own.
2. Rollouts with the same k and own tokens, from whichever boundary, form one row of `decoding.Rows`: the row feeds one
   token, every rollout on it draws from the same distribution by its own uniforms, and the row splits where they differ.
3. Groups of equal rollouts are let in together while fewer than `batch_size` rows and four times as many rollouts are
   in flight, so that those rollouts bound the memory.
4. A tie is decided in double precision from that row's tokens alone (`ties`).
So a rollout depends on (seed, trace, position, sample) and not on batch size, order or interruption. In bfloat16 and
float16 rounding is coarser than any useful margin, so there the promise holds for an unchanged batch only.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from anchors.models.attention_pass import LayerCache, TracePass
from anchors.models.base import Completion, Job, Sampling
from anchors.models.decoding import Group, Rows
from anchors.models.endings import Endings
from anchors.models.lean import lean_forward
from anchors.models.randomness import stream
from anchors.models.row_pass import RowPass
from anchors.models.sampling import MARGIN, Odds, draw_tokens, next_token_odds
from anchors.models.ties import Referee
from anchors.models.tokens import token_spans

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

log = logging.getLogger(__name__)

FEW, AHEAD = 4, 8
LOGITS = 1 << 23  # how many are held at once

Finished = tuple[Job, Completion]
Sequences = Callable[[int], tuple[int, list[int]]]


@dataclass
class Tally:
    """What a draw did: tokens generated, rows fed to the model for them, and distributions decided again for a tie."""

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
    jobs: Iterable[Job],
    *,
    sampling: Sampling,
    seed: int,
    batch_size: int,
    tally: Tally | None = None,
) -> Iterator[Finished]:
    """Yield the completion of every job as it finishes; jobs of one text that follow each other share a cache.

    Texts with fewer than `FEW` jobs are not worth a cache of their own: they run together, each over its own prefix.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; at least one rollout must be in flight")
    tally = Tally() if tally is None else tally
    loose: list[Job] = []
    for (text, blocked), group in groupby(jobs, key=lambda job: (job.text, job.blocked)):
        together = list(group)
        if len(together) < FEW and not blocked:
            loose += together
            continue
        yield from Draws(model, text, together, sampling, seed, tally).run(batch_size)
    if loose:
        text = loose[0].text if len({job.text for job in loose}) == 1 else None
        yield from Draws(model, text, loose, sampling, seed, tally).run(batch_size)
    log.debug("%s: %s", model.name, tally)


class Draws:
    """All rollouts over one trace, an entry a job; with `text` None each runs over its own prefix and none is shared."""

    def __init__(
        self, model: LensModel, text: str | None, jobs: list[Job], sampling: Sampling, seed: int, tally: Tally
    ) -> None:
        self.model, self.jobs, self.sampling, self.tally = model, jobs, sampling, tally
        ends = {(job.text, job.end) for job in jobs}
        self.prefixes = {(text, end): _prefix(model, text[:end]) for text, end in ends}
        longest = max(map(len, self.prefixes.values()))
        model.check_length(longest + 1, what="the longest prefix with one new token")
        self.trace_ids, self.cut = ([], ()) if text is None else self._trace(text)
        self.starts = np.array([len(self.prefix(i)) for i in range(len(jobs))])
        self.limits = np.minimum(sampling.max_new_tokens, model.context - self.starts)
        keys = [stream(seed, job.trace, job.position, job.sample) for job in jobs]
        self.streams = np.array(keys, dtype=np.uint64)
        self.endings = Endings(model, sampling)
        self.referee = Referee(model, self.trace_ids, self.cut)
        self.margin = MARGIN.get(model.dtype, 0.0)

    def prefix(self, rollout: int) -> list[int]:
        """Token ids of the text a rollout continues."""
        job = self.jobs[rollout]
        return self.prefixes[job.text, job.end]

    def _trace(self, text: str) -> tuple[list[int], Sequence[tuple[int, int]]]:
        """The tokens to run once: up to the last boundary, and as far beyond as following them may pay."""
        last = max(job.end for job in self.jobs)
        encoded = self.model.encode(text[:last])
        ahead = min(self.sampling.max_new_tokens, AHEAD * len(self.jobs))
        whole = self.model.encode(text).ids if last < len(text) else encoded.ids
        ids = whole if whole[: len(encoded.ids)] == encoded.ids else encoded.ids
        ids = ids[: min(self.model.context, len(encoded.ids) + ahead)]
        return ids, token_spans(encoded.offsets, self.jobs[0].blocked).spans

    def run(self, batch_size: int) -> Iterator[Finished]:
        """Follow the trace as far as it goes, then decode what left it."""
        hidden, cache = self._prefill()
        groups: dict[tuple[int, ...], list[int]] = {}
        yield from self._follow(hidden, self._sort(groups), groups)
        waiting = deque(_pieces(groups, batch_size))
        if waiting:
            rows = Rows(RowPass(cache, self.cut))
            yield from self._decode(rows, waiting, batch_size)

    def _prefill(self) -> tuple[Tensor, list[LayerCache]]:
        """Hidden states and cache of the trace; where there is none, of a prefix, to measure the margin, and no cache."""
        ids = self.trace_ids or next(iter(self.prefixes.values()))
        run = TracePass(record=True, cut=self.cut)
        hidden = self.model.hidden(ids, run)
        self.margin = self.referee.margin(self.margin, ids, hidden)
        shared = len(self.trace_ids)
        return hidden, [LayerCache(*(t[:, :shared] for t in run.recorded[n])) for n in range(self.model.layers)]

    def _sort(self, groups: dict[tuple[int, ...], list[int]]) -> dict[int, list[int]]:
        """Rollouts whose prefix is a start of the trace, by its length; the others go to their groups."""
        shared = {key: _common(ids, self.trace_ids) for key, ids in self.prefixes.items()}
        following: dict[int, list[int]] = {}
        for i, job in enumerate(self.jobs):
            ids, k = self.prefix(i), shared[job.text, job.end]
            if k == len(ids):
                following.setdefault(k, []).append(i)
            else:
                groups.setdefault((k, *ids[k:]), []).append(i)
        return following

    def _follow(
        self, hidden: Tensor, following: dict[int, list[int]], groups: dict[tuple[int, ...], list[int]]
    ) -> Iterator[Finished]:
        """Walk down the trace: every rollout on it draws the token after it, and stays while it draws the trace's own."""
        first, on, odds = 0, np.array([], dtype=np.int64), None
        block = max(1, min(64, LOGITS // self.model.vocabulary))
        for k in range(min(following, default=len(self.trace_ids) + 1), len(self.trace_ids) + 1):
            on = np.concatenate([on, np.array(following.get(k, []), dtype=np.int64)])
            if not len(on):
                odds = None
                continue
            if odds is None or k == first + block:
                first = k
                odds = next_token_odds(self.model.unembed(hidden[k - 1 : k - 1 + block]), self.sampling)
            there = np.full(len(on), k)
            tokens, going, finished = self.advance(
                odds, there - first, on, there, lambda row, first=first: (row + first, [])
            )
            yield from finished
            expected = self.trace_ids[k] if k < len(self.trace_ids) else -1
            for i, token in zip(on[going], tokens[going], strict=True):
                if token != expected:
                    groups.setdefault((k, int(token)), []).append(int(i))
            on = on[going & (tokens == expected)]

    def _decode(self, rows: Rows, waiting: deque[Group], batch_size: int) -> Iterator[Finished]:
        """Feed one token to every row, draw, and let in the next groups, until none is left."""
        forward = lean_forward(self.model)
        block = max(1, LOGITS // self.model.vocabulary)
        while waiting or len(rows.rollouts):
            while waiting and rows.have_room(waiting[0], batch_size):
                group = waiting.popleft()
                rows.admit(group, self._own_cache(group))
            hidden = rows.feed(forward)
            self.tally.computed += len(hidden)
            parts = []
            for a in range(0, len(hidden), block):
                odds = next_token_odds(self.model.unembed(hidden[a : a + block]), self.sampling)
                mine = slice(*np.searchsorted(rows.row, [a, a + block]))
                sizes = rows.sizes[rows.row[mine]]
                part = self.advance(
                    odds, rows.row[mine] - a, rows.rollouts[mine], sizes, lambda row, a=a: rows.sequence(row + a)
                )
                yield from part.finished
                parts.append(part)
            rows.split(*(np.concatenate(x) for x in zip(*((p.tokens, p.going) for p in parts), strict=True)))

    def _own_cache(self, group: Group) -> list[LayerCache]:
        """Keys and values of a group's own tokens but the last, where it starts with more than one."""
        if len(group.own) == 1:
            return []
        run = TracePass(record=True, cut=self.cut)
        self.model.hidden([*self.trace_ids[: group.shared], *group.own[:-1]], run)
        recorded = [run.recorded[layer] for layer in range(self.model.layers)]
        return [LayerCache(*(t[:, group.shared :] for t in layer)) for layer in recorded]

    def advance(
        self, odds: Odds, rows: np.ndarray, rollouts: np.ndarray, sizes: np.ndarray, sequence: Sequences
    ) -> Advance:
        """Draw the next token of rollouts on rows of `odds`, whose sequences hold `sizes` tokens, prefix included."""
        steps = sizes - self.starts[rollouts]
        streams = self.streams[rollouts]
        tokens, ties = draw_tokens(odds, rows, self.sampling, streams=streams, steps=steps, margin=self.margin)
        for row in np.unique(rows[ties]):
            mine = np.flatnonzero(ties & (rows == row))
            exact = next_token_odds(self.referee.logits(*sequence(int(row))), self.sampling)
            redrawn = draw_tokens(
                exact, np.zeros_like(mine), self.sampling, streams=streams[mine], steps=steps[mine], margin=0.0
            )
            tokens[mine] = redrawn.ids
            self.tally.ties += 1

        def written(i: int) -> list[int]:
            shared, own = sequence(int(rows[i]))
            start = self.starts[rollouts[i]]
            return [*self.trace_ids[start:shared], *own[max(0, start - shared) :], int(tokens[i])]

        stopped = self.endings.stopped(tokens, written)
        done = stopped | (steps + 1 >= self.limits[rollouts])
        self.tally.generated += len(tokens)
        finished = []
        for i in np.flatnonzero(done).tolist():
            rollout = int(rollouts[i])
            finish = "stop" if stopped[i] else "length"
            finished.append((self.jobs[rollout], self.endings.completion(self.prefix(rollout), written(i), finish)))
        return Advance(tokens, ~done, finished)


def _pieces(groups: dict[tuple[int, ...], list[int]], batch_size: int) -> Iterator[Group]:
    """Groups by how much of the trace they share, so that rows in flight see about as much; none above a batch."""
    for (shared, *own), members in sorted(groups.items()):
        for a in range(0, len(members), batch_size):
            yield Group(shared, own, np.array(members[a : a + batch_size]))


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _prefix(model: LensModel, prefix: str) -> list[int]:
    ids = model.encode(prefix).ids
    if not ids:
        raise ValueError(f"{model.name} has no beginning-of-text token, so it cannot continue an empty prefix")
    return ids
