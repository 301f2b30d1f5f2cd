"""A fresh file of all that can be read of a damaged run.

1. Rows are read in ranges of their numbers; a range that fails is halved until the rows that cannot be read are alone.
   A file of schema 1 has no row numbers: it is read from the front and from the back, up to the damage.
2. Rows that break a rule of `anchors.integrity` are left out: they will be drawn again.
3. The fresh file is checked, the damaged one is linked as rollouts.sqlite.damaged-N with its WAL, and the fresh one takes its
   place in one rename. The damaged one is never written.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count, islice
from pathlib import Path
from shutil import copyfile
from typing import Any, NamedTuple

from anchors.integrity import RULES, know_boundaries, stored_trace, unaltered, well_typed
from anchors.migrations import RESERVED, SCHEMA, checksum, create, seal
from anchors.opening import connect_as_is, require_run
from anchors.sqlite import DAMAGED, STORE, error_code, explanation
from anchors.store import BATCH, COLUMNS, INSERT, read_text
from anchors.trace import Trace

logger = logging.getLogger(__name__)

_LOST = "restore a copy, or begin a new run: the same seed draws the same rollouts"
_FIRST_COLUMNS = COLUMNS.removesuffix(", checksum")  # those of schema 1


class Repair(NamedTuple):
    """What was kept, what was left out and why, and where the damaged file is."""

    damaged: Path
    traces: int
    rollouts: int
    left_out: dict[str, int]


def repair_run(run: str | Path) -> Repair:
    """Put a fresh file of all readable rollouts in place of a run's file, which is kept beside it.

    Raises:
        ValueError: it is no run directory, it cannot be written, or not even its traces can be read.
        TimeoutError: another process, or a store in this one, has the run open.
    """
    folder = Path(run)
    require_run(folder)
    fresh = folder / f"{STORE}.fresh"
    fresh.unlink(missing_ok=True)
    try:
        with _alone(folder) as old, closing(sqlite3.connect(fresh)) as new:
            with new:
                traces, left = _salvaged(old, new)
            (state,) = new.execute("pragma integrity_check").fetchone()
            rollouts = new.execute("select count(*) from rollouts").fetchone()[0]
        if state != "ok" or not traces:
            raise ValueError(f"nothing of {folder} can be salvaged ({state}, {len(traces)} traces); {_LOST}")
        return Repair(
            _exchanged(folder, fresh), len(traces), rollouts, {what: count for what, count in left.items() if count}
        )
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if error_code(error) in DAMAGED or isinstance(error, UnicodeDecodeError):
            raise ValueError(f"nothing of {folder / STORE} can be salvaged: {error}; {_LOST}") from error
        raise explanation(error, folder) from error
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[sqlite3.Connection]:
    """The damaged file, opened for reading alone; refused while another process has it open.

    What that process wrote would go to the file put aside. The connection that asks is closed while the reading one is open:
    the last one to close would write the WAL into the file.
    """
    with closing(sqlite3.connect(folder / STORE, timeout=0.2)) as asking:
        try:
            asking.execute("select count(*) from sqlite_master").fetchone()
            asking.execute("pragma locking_mode = exclusive")
            asking.execute("begin exclusive")
            asking.execute("rollback")
            asking.execute("pragma locking_mode = normal")
            asking.execute("select count(*) from sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            if error_code(error) == sqlite3.SQLITE_BUSY:
                raise TimeoutError(f"{folder} is open elsewhere; stop what uses it, then repair") from error
            logger.info("%s cannot be locked: %s", folder, error)
        old = connect_as_is(folder)
    with closing(old):
        yield old


def _salvaged(old: sqlite3.Connection, new: sqlite3.Connection) -> tuple[dict[int, Trace], Counter[str]]:
    """Copy what can be read, in the caller's transaction; what was left out is counted by reason."""
    schema, left = _schema(old), Counter[str]()
    new.execute("begin")
    create(new)
    new.executemany("insert or replace into settings values (?, ?)", _settings(old, left))
    seal(new)
    traces = _traces(old, new, left)
    numbers: dict[Any, int] = {trace.id: number for number, trace in traces.items()}
    if schema == 1:
        rows = ((numbers.get(row[0], -1), *row[1:]) for row in _both_ends(old, left))
        rows = ((*row, checksum(*row)) for row in rows if _whole(row, left))
    else:
        rows = _ranges(old, COLUMNS, "rollouts", left)
        rows = (row for row in rows if _whole(row, left))
    while batch := list(islice(rows, BATCH)):
        new.executemany(INSERT, batch)
    know_boundaries(new, traces)
    for what, rule in RULES.items():
        dropped = new.execute(f"delete from rollouts where {rule}").rowcount
        if dropped:
            left[f"rollouts {what}"] += dropped
    return traces, left


def _schema(old: sqlite3.Connection) -> int:
    """The schema of a file by the columns it has, since the row that says it may be lost.

    Raises:
        ValueError: it is later than this version knows.
    """
    columns = {row[1] for row in old.execute("pragma table_info(rollouts)")}
    if not {"trace", "kind", "position", "sample", "text"} <= columns:
        raise ValueError(f"it has no table of rollouts; {_LOST}")
    return 2 if "number" in columns else 1


def _settings(old: sqlite3.Connection, left: Counter[str]) -> list[tuple[str, str]]:
    """The rows of settings; a file whose settings are lost takes those it is next opened with.

    Raises:
        ValueError: the file is of a later schema.
    """
    try:
        rows = dict(old.execute("select key, value from settings"))
    except sqlite3.DatabaseError:
        left["settings: give those of the run when it is next opened"] += 1
        return []
    if int(rows.get("schema", SCHEMA)) > SCHEMA:
        raise ValueError(f"the schema is {rows['schema']}, this version repairs up to {SCHEMA}; update anchors")
    return [(key, value) for key, value in rows.items() if key not in RESERVED and _is_json(value)]


def _is_json(value: Any) -> bool:
    try:
        json.loads(value)
    except (ValueError, TypeError):
        return False
    return True


def _traces(old: sqlite3.Connection, new: sqlite3.Connection, left: Counter[str]) -> dict[int, Trace]:
    """Copy the traces whose records can be read."""
    found = {}
    for number, name, record in _ranges(old, "number, id, record", "traces", left):
        try:
            found[number] = stored_trace(read_text(name), record)
            new.execute("insert into traces values (?, ?, ?)", (number, name, record))
        except (ValueError, TypeError, KeyError):
            left["records of traces"] += 1
    return found


def _whole(row: tuple, left: Counter[str]) -> bool:
    """Whether a row is as it was written, as far as it can tell: by its checksum, in schema 1 by the types of its values."""
    right = unaltered(row) if len(row) == 8 else well_typed(row)
    left["rollouts that changed after they were written"] += not right
    return right


def _ranges(old: sqlite3.Connection, columns: str, table: str, left: Counter[str]) -> Iterator[tuple]:
    """All readable rows of a table with row numbers; ranges that fail are halved."""
    todo = [(0, _last(old, table))]
    while todo:
        low, high = todo.pop()
        if high - low >= BATCH:
            todo += [(middle, min(middle + BATCH - 1, high)) for middle in range(low, high + 1, BATCH)][::-1]
            continue
        try:
            yield from old.execute(
                f"select {columns} from {table} where number between ? and ? order by number", (low, high)
            ).fetchall()
        except sqlite3.DatabaseError:
            if low == high:
                left[f"unreadable rows of {table}"] += 1
            else:
                middle = (low + high) // 2
                todo += [(middle + 1, high), (low, middle)]


def _last(old: sqlite3.Connection, table: str) -> int:
    """The highest row number; where it cannot be read, as many as the file can hold."""
    with suppress(sqlite3.DatabaseError):
        (number,) = old.execute(f"select max(number) from {table}").fetchone()
        if number is None or isinstance(number, int):
            return number or 0
    pages, size = (old.execute(f"pragma {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return pages * size // 32


def _both_ends(old: sqlite3.Connection, left: Counter[str]) -> Iterator[tuple]:
    """The rows of a file of schema 1 from the front, and, where that fails, from the back."""
    for order in ("", " desc"):
        key = ", ".join(f"{name}{order}" for name in ("trace", "kind", "position", "sample"))
        try:
            yield from old.execute(f"select {_FIRST_COLUMNS} from rollouts order by {key}")
            return
        except sqlite3.DatabaseError:
            left["stretches of unreadable rows"] = 1


def _exchanged(folder: Path, fresh: Path) -> Path:
    """Put the fresh file in place of the damaged one, which stays under another name."""
    path = folder / STORE
    damaged = next(p for n in count(1) if not (p := path.with_name(f"{STORE}.damaged-{n}")).exists())
    for ending in ("", "-wal"):
        source = path.with_name(f"{STORE}{ending}")
        if source.exists() and source.stat().st_size:
            _link(source, damaged.with_name(f"{damaged.name}{ending}"))
    for ending in ("-wal", "-shm"):
        path.with_name(f"{STORE}{ending}").unlink(missing_ok=True)
    fresh.replace(path)
    return damaged


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        copyfile(source, target)
