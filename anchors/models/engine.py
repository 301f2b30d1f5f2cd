"""Rollouts of one trace from many boundaries over one shared key-value cache.

1. The trace is prefilled once. A row continues the prefix `text[:end]`: it sees the shared cache up to the tokens its
   own tokenisation has in common with the trace, and keeps what differs, and what it writes, in a slot of its own.
2. Rows of all boundaries decode together, one token a step; a finished row's slot goes to the next job at once.
3. A token is drawn by `sampling.sample`. A tie is decided from logits computed for that row alone, from scratch.
So a rollout depends on (seed, trace, position, sample) and not on batch size, order or interruption. In bfloat16 and
float16 rounding is coarser than any useful margin, so there the promise holds for an unchanged batch only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from anchors.models.attention_pass import Call, LayerCache, TracePass, scaled, visible, within
from anchors.models.base import Completion, Job, Sampling
from anchors.models.randomness import stream
from anchors.models.sampling import MARGIN, sample
from anchors.models.tokens import token_spans

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

GROWTH, FEW = 64, 4


@dataclass(slots=True)
class Row:
    """One rollout in flight: its prefix, of which `shared` tokens lie in the trace cache, and the tokens written.

    `fed` counts the tokens of prefix and writing that went through the model into the row's own slot.
    """

    job: Job
    prefix: list[int]
    shared: int
    stream: int
    limit: int
    written: list[int] = field(default_factory=list)
    fed: int = 0

    @property
    def next_token(self) -> int:
        own = self.fed + self.shared
        return self.prefix[own] if own < len(self.prefix) else self.written[own - len(self.prefix)]

    @property
    def samples_now(self) -> bool:
        """Whether feeding the next token yields the distribution of a new one."""
        return self.shared + self.fed + 1 == len(self.prefix) + len(self.written)


class SharedPass:
    """Attention of one new token a row over the shared trace cache, cut at the row's boundary, and the row's slot."""

    def __init__(self, trace: list[LayerCache], rows: int, cut: Sequence[tuple[int, int]] = ()) -> None:
        self.trace, self.cut = trace, cut
        self.slots = rows
        kv_heads, _, width = trace[0].keys.shape
        empty = trace[0].keys.new_zeros(rows, kv_heads, GROWTH, width)
        self.own = [LayerCache(empty.clone(), empty.clone()) for _ in trace]
        device = empty.device
        self.shared = torch.zeros(rows, dtype=torch.long, device=device)
        self.fed = torch.zeros(rows, dtype=torch.long, device=device)

    def prepare(self, shared: list[int], fed: list[int]) -> None:
        """Set how much of the trace every active row sees and how many own tokens it has; grow the slots if needed."""
        self.shared = torch.tensor(shared, device=self.shared.device)
        self.fed = torch.tensor(fed, device=self.shared.device)
        self.reach, self.length = int(self.shared.max()), int(self.fed.max()) + 1
        room = self.own[0].keys.shape[2]
        if self.length > room:
            pad = (0, 0, 0, room)
            self.own = [LayerCache(*(torch.nn.functional.pad(t, pad) for t in layer)) for layer in self.own]

    def attend(self, call: Call) -> Tensor:
        rows = len(self.shared)
        own, slots = self.own[call.layer], torch.arange(rows, device=self.shared.device)
        own.keys[slots, :, self.fed] = call.key[:, :, 0]
        own.values[slots, :, self.fed] = call.value[:, :, 0]
        trace_keys, trace_values = (t[:, : self.reach] for t in self.trace[call.layer])
        own_keys, own_values = (t[:rows, :, : self.length] for t in own)
        groups = call.query.shape[1] // own_keys.shape[1]
        query = rearrange(call.query, "row (kv group) 1 width -> row kv group width", group=groups)
        scores_trace = torch.einsum("rkgw,ktw->rkgt", query, trace_keys)
        scores_own = torch.einsum("rkgw,rktw->rkgt", query, own_keys)
        attention = self._weights(call, torch.cat([scores_trace, scores_own], dim=-1)).to(own_values.dtype)
        out = torch.einsum("rkgt,ktw->rkgw", attention[..., : self.reach], trace_values)
        out = out + torch.einsum("rkgt,rktw->rkgw", attention[..., self.reach :], own_values)
        return rearrange(out, "row kv group width -> row (kv group) 1 width")

    def _weights(self, call: Call, scores: Tensor) -> Tensor:
        device = scores.device
        position = (self.shared + self.fed)[:, None]
        trace_at = torch.arange(self.reach, device=device)
        own_at = torch.arange(self.length, device=device)
        in_trace = visible(position, trace_at, call.window) & (trace_at < self.shared[:, None, None])
        in_own = within(self.fed[:, None] - own_at, call.window)
        for a, b in self.cut:
            in_trace[..., a:b] = False
            own = self.shared[:, None] + own_at
            in_own &= (own < a) | (own >= b)
        allowed = torch.cat([in_trace[:, 0], in_own], dim=-1)[:, None, None]
        return torch.softmax(scaled(call, scores).masked_fill(~allowed, -torch.inf), dim=-1)

    def move(self, source: int, target: int) -> None:
        """Copy a row's slot, so that active rows stay contiguous."""
        for layer in self.own:
            for tensor in layer:
                tensor[target] = tensor[source]


def draw(
    model: LensModel, jobs: Iterable[Job], *, sampling: Sampling, seed: int, batch_size: int
) -> Iterator[tuple[Job, Completion]]:
    """Yield the completion of every job as it finishes; jobs of one text that follow each other share a cache.

    Texts with fewer than `FEW` jobs are not worth a cache of their own: they run together, each over its own prefix.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; at least one rollout must be in flight")
    loose: list[Job] = []
    for (text, blocked), group in groupby(jobs, key=lambda job: (job.text, job.blocked)):
        together = list(group)
        if len(together) < FEW and not blocked:
            loose += together
            continue
        yield from _draw_text(model, text, together, sampling, seed, batch_size)
    if len({job.text for job in loose}) == 1:
        yield from _draw_text(model, loose[0].text, loose, sampling, seed, batch_size)
    elif loose:
        yield from _draw_loose(model, loose, sampling, seed, batch_size)


def _draw_text(
    model: LensModel, text: str, jobs: list[Job], sampling: Sampling, seed: int, batch_size: int
) -> Iterator[tuple[Job, Completion]]:
    encoded = model.encode(text[: max(job.end for job in jobs)])
    trace_ids, cut = encoded.ids, token_spans(encoded.offsets, jobs[0].blocked).spans
    model.check_length(len(trace_ids) + 1, what="the longest prefix with one new token")
    cache = _prefill(model, trace_ids, cut)
    prefixes = {end: _prefix(model, text[:end], trace_ids) for end in sorted({job.end for job in jobs})}
    rows = (_row(model, job, *prefixes[job.end], sampling, seed) for job in jobs)
    yield from _decode(model, SharedPass(cache, min(batch_size, len(jobs)), cut), rows, sampling)


def _prefill(model: LensModel, ids: list[int], cut: Sequence[tuple[int, int]]) -> list[LayerCache]:
    run = TracePass(record=True, cut=cut)
    model.hidden(ids, run)
    return [run.recorded[layer] for layer in range(model.layers)]


def _draw_loose(
    model: LensModel, jobs: list[Job], sampling: Sampling, seed: int, batch_size: int
) -> Iterator[tuple[Job, Completion]]:
    prefixes = [_prefix(model, job.prefix, [])[0] for job in jobs]
    model.check_length(max(map(len, prefixes)) + 1, what="the longest prefix with one new token")
    cache = _prefill(model, prefixes[0][:1], ())
    rows = (_row(model, job, ids, 0, sampling, seed) for job, ids in zip(jobs, prefixes, strict=True))
    yield from _decode(model, SharedPass(cache, min(batch_size, len(jobs))), rows, sampling)


def _row(model: LensModel, job: Job, ids: list[int], shared: int, sampling: Sampling, seed: int) -> Row:
    key = stream(seed, job.trace, job.position, job.sample)
    return Row(job, ids, shared, key, min(sampling.max_new_tokens, model.context - len(ids)))


def _decode(
    model: LensModel, run: SharedPass, waiting: Iterator[Row], sampling: Sampling
) -> Iterator[tuple[Job, Completion]]:
    """Keep as many rows in flight as the pass has slots, until none is left."""
    batch_size = run.slots
    rows = list(islice(waiting, batch_size))
    while rows:
        _step(model, run, rows, sampling)
        yield from _collect(model, run, rows, sampling)
        rows += islice(waiting, batch_size - len(rows))


def _prefix(model: LensModel, prefix: str, trace_ids: list[int]) -> tuple[list[int], int]:
    """Token ids of a prefix and how many of them are taken from the shared cache (never the last one)."""
    ids = model.encode(prefix).ids
    if not ids:
        raise ValueError(f"{model.name} has no beginning-of-text token, so it cannot continue an empty prefix")
    common = next((i for i, (a, b) in enumerate(zip(ids, trace_ids, strict=False)) if a != b), len(ids))
    return ids, min(common, len(ids) - 1)


def _step(model: LensModel, run: SharedPass, rows: list[Row], sampling: Sampling) -> None:
    """Feed one token to every row, and draw the next one where the prefix is complete."""
    run.prepare([row.shared for row in rows], [row.fed for row in rows])
    ids = torch.tensor([[row.next_token] for row in rows], device=model.device)
    positions = (run.shared + run.fed)[:, None]
    hidden = model.run_module(ids, positions, run)[:, 0]
    drawing = [i for i, row in enumerate(rows) if row.samples_now]
    if drawing:
        chosen = _draw_tokens(model, hidden[drawing], [rows[i] for i in drawing], sampling, run.cut)
        for i, token in zip(drawing, chosen, strict=True):
            rows[i].written.append(int(token))
    for row in rows:
        row.fed += 1


def _draw_tokens(
    model: LensModel, hidden: Tensor, rows: list[Row], sampling: Sampling, cut: Sequence[tuple[int, int]]
) -> np.ndarray:
    streams = np.array([row.stream for row in rows], dtype=np.uint64)
    steps = np.array([len(row.written) for row in rows], dtype=np.uint64)
    margin = MARGIN.get(model.dtype, 0.0) / min(1.0, sampling.temperature)
    drawn = sample(model.unembed(hidden), sampling, streams=streams, steps=steps, margin=margin)
    for i in np.flatnonzero(drawn.ties):
        alone = model.hidden([*rows[i].prefix, *rows[i].written], TracePass(cut=cut))[-1:]
        pick = slice(i, i + 1)
        redrawn = sample(model.unembed(alone), sampling, streams=streams[pick], steps=steps[pick], margin=0.0)
        drawn.ids[i] = redrawn.ids[0]
    return drawn.ids


def _collect(
    model: LensModel, run: SharedPass, rows: list[Row], sampling: Sampling
) -> Iterator[tuple[Job, Completion]]:
    """Remove finished rows, keep the rest contiguous, and yield the completions."""
    for i in range(len(rows) - 1, -1, -1):
        finish = _finished(model, rows[i], sampling)
        if finish is None:
            continue
        row = rows[i]
        yield row.job, _completion(model, row, finish, sampling)
        last = rows.pop()
        if last is not row:
            run.move(len(rows), i)
            rows[i] = last


def _finished(model: LensModel, row: Row, sampling: Sampling) -> Literal["stop", "length"] | None:
    if not row.written:
        return "length" if row.limit < 1 else None
    if row.written[-1] in model.end_ids:
        return "stop"
    if sampling.stop:
        longest = max(len(s) for s in sampling.stop)
        tail = model.decode(row.written[-longest - 4 :])
        if any(s in tail for s in sampling.stop):
            return "stop"
    return "length" if len(row.written) >= row.limit else None


def _completion(model: LensModel, row: Row, finish: Literal["stop", "length"], sampling: Sampling) -> Completion:
    written = row.written[:-1] if row.written and row.written[-1] in model.end_ids else row.written
    context = row.prefix[-8:]
    text = model.decode([*context, *written])[len(model.decode(context)) :]
    cuts = [text.index(s) + len(s) for s in sampling.stop if s in text]
    return Completion(text[: min(cuts)] if cuts else text, len(row.written), finish)
