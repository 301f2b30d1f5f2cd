"""Runs of the same traces from several machines, as one.

1. Every stored setting determines the rollouts (model, weights, dtype, sampling, seed) and must be equal, but for the rule
   of stopping: it decides how many were drawn, not which. One adaptive run makes the merged one adaptive. The number of
   rollouts a boundary is no setting, so runs of different n merge.
2. The rows of all runs are read in the order of their keys, side by side. Equal keys must have equal rollouts, since the
   same seed gives the same rollout: they are stored once. The first that differs is named and nothing is made.
3. Traces that only some runs hold are kept. Scores are left out: `anchors score` computes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from heapq import merge
from itertools import groupby, islice, repeat
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from anchors.opening import fresh_run
from anchors.rollouts import Rollouts
from anchors.store import BATCH, STOP, Store
from anchors.trace import Trace

Row = tuple[str, int, int, int, str, str]


class Merged(NamedTuple):
    """What a merged run holds, and how many rollouts more than one run had."""

    path: Path
    traces: int
    rollouts: int
    duplicates: int


def merge_runs(runs: Sequence[str | Path], *, out: str | Path) -> Merged:
    """Make the run directory `out` of the rollouts of all `runs`.

    Raises:
        ValueError: there are fewer than two runs, `out` exists, settings or traces differ, or a rollout differs.
    """
    if len({Path(run).resolve() for run in runs}) < max(2, len(runs)):
        raise ValueError(f"{len(runs)} run directories were named; give two or more different ones")
    with ExitStack() as stack:
        stores = [stack.enter_context(closing(_opened(run))) for run in runs]
        settings, traces = _settings(stores), _traces(stores)
        with fresh_run(out) as place, closing(Store(place, settings)) as store:
            store.claim(traces)
            read = sum(
                _copy(stores, trace, store) for trace in tqdm(traces, desc="merge", unit=" traces", disable=None)
            )
            kept = store.read("select count(*) from rollouts")[0][0]
    return Merged(Path(out), len(traces), kept, read - kept)


def _copy(stores: Sequence[Store], trace: Trace, out: Store) -> int:
    """Store the rollouts of a trace that any of the stores has; how many rows they have together."""
    rows = _Counted(stores, trace)
    while batch := list(islice(rows, BATCH)):
        out.insert(trace, batch)
    return rows.read


def _opened(run: str | Path) -> Store:
    found = Rollouts.open(run)
    if not found:
        raise ValueError(f"{run} holds no trace; leave it out")
    return found[0].store


def _settings(stores: Sequence[Store]) -> dict[str, Any]:
    """The settings all runs share, and the rule of stopping of the first run that has one.

    Raises:
        ValueError: one that determines the rollouts differs.
    """
    first, all_of = stores[0], [store.settings for store in stores]
    for store, other in zip(stores[1:], all_of[1:], strict=True):
        keys = sorted((all_of[0].keys() | other.keys()) - {STOP})
        changed = [key for key in keys if (key in all_of[0], all_of[0].get(key)) != (key in other, other.get(key))]
        if changed:
            lines = "; ".join(f"{key} is {_said(all_of[0], key)} and {_said(other, key)}" for key in changed)
            raise ValueError(f"{first.folder} and {store.folder} hold rollouts made with different settings: {lines}")
    return next((settings for settings in all_of if STOP in settings), all_of[0])


def _said(settings: dict[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "absent"


def _traces(stores: Sequence[Store]) -> list[Trace]:
    """The traces of all runs, each once, in the order they are met."""
    found: dict[str, tuple[Trace, Store]] = {}
    for store in stores:
        for trace in store.traces():
            known, where = found.setdefault(trace.id, (trace, store))
            if (known.text, known.boundaries) != (trace.text, trace.boundaries):
                what = "text" if known.text != trace.text else "sentences"
                raise ValueError(f"the {what} of trace {trace.id!r} differ between {where.folder} and {store.folder}")
    return [trace for trace, _ in found.values()]


class _Counted(Iterator[Row]):
    """The rollouts of a trace in all stores, each key once; `read` counts all rows."""

    def __init__(self, stores: Sequence[Store], trace: Trace) -> None:
        self.read, self.trace = 0, trace
        sides = [zip(store.rows(trace), repeat(store)) for store in stores]
        self.groups = groupby(merge(*sides, key=_key), key=_key)

    def __next__(self) -> Row:
        _, group = next(self.groups)
        (row, store), *others = group
        self.read += 1 + len(others)
        for other, where in others:
            if other != row:
                raise ValueError(
                    f"rollout ({row[1]}, {row[2]}) of trace {self.trace.id!r} differs between {store.folder} and "
                    f"{where.folder} (kind {row[0]!r}), but the same seed gives the same rollout: one of the runs was "
                    "made by other code or another model. Use one of them"
                )
        return row


def _key(item: tuple[Row, Store]) -> tuple[str, int, int]:
    return item[0][:3]
