"""Traces read one after the other here, or each on a worker of a cluster.

1. A trace's interventions share one cache and one set of continuations, so a trace is what a worker reads.
2. The driver looks up and stores records; a worker gets what it needs by value, rollouts included, and reads as one process would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from anchors.rollouts import Rollout, Rollouts
from anchors.scores import METHODS, Method
from anchors.trace import Trace
from anchors.transfer.inputs import Written
from anchors.transfer.record import LeftOut, Models, Plan, Record, stored
from anchors.transfer.trace_reading import kept, measured, read_trace, record_path

Given = tuple[Written, Sequence[Trace], Rollouts | None]


class Packed(NamedTuple):
    """The rollouts of one trace as values."""

    trace: Trace
    kind: str
    settings: dict[str, Any]
    rows: list[Rollout]


def pack(rollouts: Rollouts | None) -> Packed | None:
    """Rollouts as values, which another process can be sent."""
    if rollouts is None:
        return None
    rows = [rollout for k in range(len(rollouts.trace) + 1) for rollout in rollouts.at(k)]
    return Packed(rollouts.trace, rollouts.kind, rollouts.store.settings, rows)


def unpack(packed: Packed | None) -> Rollouts | None:
    """The same rollouts in memory."""
    if packed is None:
        return None
    return Rollouts.in_memory(packed.trace, packed.rows, settings=packed.settings, kind=packed.kind)


def read_traces(
    given: Sequence[Given], models: Models, plan: Plan, out: Path | None
) -> Iterator[tuple[int, Record | LeftOut]]:
    """(index, record) of every trace, as they are read; see `read_trace`.

    Raises:
        ValueError: the reader is on a cluster and the writer is not.
    """
    if not hasattr(models.reader, "map"):
        for i, (written, others, runs) in enumerate(given):
            yield i, read_trace(written, models, plan, others, runs, out)
        return
    if models.writer is not None and not hasattr(models.writer, "spec"):
        raise ValueError(f"the reader is on a cluster, so the writer must be: cluster.model({models.writer.name!r})")
    paths = {i: record_path(w, models, plan, o, r, out) for i, (w, o, r) in enumerate(given)}
    known = {i: record for i, path in paths.items() if path is not None and (record := stored(path)) is not None}
    yield from known.items()
    todo = [i for i in range(len(given)) if i not in known]
    there = replace(models, reader=None, writer=getattr(models.writer, "spec", None))
    units = (_packed(given[i], plan) for i in todo)
    options = {"models": there, "plan": plan, "method": METHODS.get(plan.method)}
    for place, (record, lasting) in models.reader.map(_measured_there, units, **options):
        yield todo[place], kept(record, lasting, paths[todo[place]])


def _packed(given: Given, plan: Plan) -> tuple[Any, ...]:
    """What a worker needs of a trace; the others only where they are shown in its place."""
    written, others, runs = given
    return written._replace(rollouts=None), pack(written.rollouts), others if plan.corrupt else (), pack(runs)


def _measured_there(
    unit: tuple[Any, ...], reader: Any, *, models: Models, plan: Plan, method: Method | None
) -> tuple[Record | LeftOut, bool]:
    from anchors.distributed.workers import replica

    if method is not None:
        METHODS.setdefault(plan.method, method)  # a worker has imported none
    written, rollouts, others, runs = unit
    writer = None if models.writer is None else replica(models.writer)
    here = replace(models, reader=reader, writer=writer)
    return measured(written._replace(rollouts=unpack(rollouts)), here, plan, others, unpack(runs))
