"""The file a run keeps its rollouts in: one SQLite database in the run directory, which survives anything.

1. WAL with full synchronisation: after kill -9 at most the rollouts in flight and those of the last quarter second are lost.
2. Any number of processes write one run: a transaction takes the lock before its first read and waits for it with growing,
   jittered pauses. The key of a rollout is unique, so one that is drawn twice is stored once.
3. The settings that determine the numbers are stored with their digest; opening a run under others is refused, naming the
   difference. A rule of stopping changes no rollout: the last one is noted, and the run stays marked as adaptive.
4. A run that cannot be written can be read (`anchors.opening`), and errors say the path and what to do (`anchors.sqlite`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from anchors.migrations import RESERVED, checksum, seal, settings_digest, stored_settings
from anchors.opening import connect
from anchors.sqlite import begin, explained, explanation
from anchors.trace import Trace

STOP: Final = "stop"
"""The setting that holds the rule an adaptive run stopped by."""
BATCH: Final = 5000
"""Rows read or written at a time where there may be millions."""

COLUMNS: Final = "trace, kind, position, sample, tokens, finish, text, checksum"
"""Of a rollout; `trace` is its number."""
INSERT: Final = (
    f"insert into rollouts ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?) "
    "on conflict (trace, kind, position, sample) do nothing"
)


class Store:
    """One run directory's SQLite file; `path=None` keeps it in memory.

    Raises:
        ValueError: the run was made with other `settings`, or by a later version; the directory is no run's, or cannot be
            written; the file is damaged.
        OSError: the disk is full or fails.
        TimeoutError: other processes kept the file locked for `PATIENCE` seconds.
    """

    def __init__(self, path: str | Path | None, settings: Mapping[str, Any] | None = None) -> None:
        self.folder = None if path is None else Path(path)
        self.db = connect(self.folder)
        if settings is not None:
            try:
                self._check(json.loads(json.dumps(dict(settings), sort_keys=True)))
            except BaseException:
                self.db.close()
                raise

    @property
    def settings(self) -> dict[str, Any]:
        with explained(self.folder):
            return stored_settings(self.db)

    def _check(self, wanted: dict[str, Any]) -> None:
        """Store the settings, or refuse when others are there; one process at a time."""
        if not self._absent(wanted):
            return
        with self.writing() as db:
            rows = [(key, json.dumps(wanted[key], sort_keys=True)) for key in self._absent(wanted)]
            db.executemany("insert into settings values (?, ?)", rows)
            seal(db)

    def _absent(self, wanted: Mapping[str, Any]) -> list[str]:
        """The settings that are not stored yet."""
        rows = dict(self.read("select key, value from settings"))
        stored = {key: json.loads(value) for key, value in rows.items() if key not in RESERVED}
        if rows.get("digest", settings_digest(stored)) != settings_digest(stored):
            raise ValueError(
                f"the settings of {self.folder} were edited since its rollouts were drawn. Put them back, or use another "
                f"run directory; if the edit is right, anchors doctor {self.folder} --repair accepts it"
            )
        changed = [key for key in wanted if key in stored and stored[key] != wanted[key]]
        if changed:
            lines = "; ".join(f"{key} was {stored[key]!r}, now {wanted[key]!r}" for key in changed)
            raise ValueError(
                f"{self.folder} holds rollouts made with other settings: {lines}. Use another run directory"
            )
        return [key for key in wanted if key not in stored]

    def note(self, key: str, value: Any) -> None:
        """Store a setting that later runs may change, in place of what it was."""
        with self.writing() as db:
            db.execute("insert or replace into settings values (?, ?)", (key, json.dumps(value, sort_keys=True)))
            seal(db)

    def claim(self, traces: Sequence[Trace]) -> None:
        """Make this the run of these traces; refuse a run that holds others, saying what changed."""
        if not self._unclaimed(traces):
            return
        with self.writing() as db:
            rows = [(stored_text(t.id), json.dumps(t.to_json())) for t in self._unclaimed(traces)]
            db.executemany("insert into traces (id, record) values (?, ?)", rows)

    def _unclaimed(self, traces: Sequence[Trace]) -> list[Trace]:
        """Those of the traces that are not stored yet."""
        stored = {trace.id: trace for trace in self.traces()}
        for trace in traces:
            old = stored.get(trace.id)
            if stored and (old is None or old.text != trace.text or old.boundaries != trace.boundaries):
                raise ValueError(
                    f"{self.folder} holds another trace: {_changed(stored, trace)}. Use another run directory"
                )
        return [] if stored else list(traces)

    def traces(self) -> list[Trace]:
        """All traces of the run, in the order they were added."""
        found = []
        for number, record in self.read("select number, record from traces order by number"):
            try:
                found.append(Trace.from_json(json.loads(record)))
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"trace {number} of {self.folder} cannot be read: {error!r}. Run anchors doctor {self.folder}"
                ) from error
        return found

    def insert(self, trace: Trace, rows: Iterable[tuple[str, int, int, int, str, str]]) -> None:
        """Store rollouts of a trace as (kind, position, sample, tokens, finish, text); one that is there stays as it is."""
        number = self._number(trace)
        found = [(number, *row[:-1], stored_text(row[-1])) for row in rows]
        with self.writing() as db:
            db.executemany(INSERT, [(*row, checksum(*row)) for row in found])

    def _number(self, trace: Trace) -> int:
        query, key = "select number from traces where id = ?", (stored_text(trace.id),)
        rows = self.read(query, key)
        if not rows:
            self.claim([trace])
            rows = self.read(query, key)
        return rows[0][0]

    def read(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple]:
        """All rows of a query."""
        try:
            return self.db.execute(query, parameters).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise explanation(error, self.folder) from error

    def rows(self, trace: Trace) -> Iterator[tuple[str, int, int, int, str, str]]:
        """All rollouts of a trace as `insert` takes them, by kind, position and sample, however many there are."""
        query = (
            "select kind, position, sample, tokens, finish, text from rollouts "
            "where trace = (select number from traces where id = ?) order by kind, position, sample"
        )
        for row in self.stream(query, (stored_text(trace.id),)):
            yield (*row[:-1], read_text(row[-1]))

    def stream(self, query: str, parameters: Sequence[Any] = ()) -> Iterator[tuple]:
        """The rows of a query, `BATCH` of them in memory."""
        with explained(self.folder):
            cursor = self.db.execute(query, parameters)
            while rows := cursor.fetchmany(BATCH):
                yield from rows

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside is of one moment, whatever other processes write."""
        with explained(self.folder):
            self.db.execute("begin")
            with self.db:
                yield

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that keeps other writers out from its first read on, and leaves nothing when it fails."""
        with explained(self.folder):
            begin(self.db)
            with self.db:
                yield self.db

    def close(self) -> None:
        self.db.close()


def _changed(stored: Mapping[str, Trace], trace: Trace) -> str:
    """What differs between a trace and the ones a run holds."""
    twin = next((t for t in stored.values() if t.reasoning == trace.reasoning), None)
    if twin is not None and twin.prompt != trace.prompt:
        return f"the prompt was {twin.prompt[-60:]!r}, now {trace.prompt[-60:]!r}"
    if trace.id in stored:
        same = stored[trace.id].text == trace.text
        return f"the {'sentences' if same else 'text'} of {trace.id!r} changed"
    return f"it holds {', '.join(map(repr, list(stored)[:5]))}, not {trace.id!r}"


def stored_text(text: str) -> str | bytes:
    """Text as SQLite takes it: as it is, or as bytes where lone surrogates keep it from being UTF-8.

    >>> stored_text("x = 3"), stored_text("broken \\ud83d")
    ('x = 3', b'broken \\xed\\xa0\\xbd')
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def read_text(stored: Any) -> str:
    """What `stored_text` was given.

    Raises:
        ValueError: the bytes are no text.
    """
    if isinstance(stored, str):
        return stored
    try:
        return str(stored, "utf-8", "surrogatepass")
    except (UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"a stored text cannot be read ({error}); run anchors doctor on its run") from error
