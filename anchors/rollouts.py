"""The store of rollouts: one SQLite file in the run directory, which survives anything and knows what is missing.

1. A rollout is a row keyed by (trace, kind, position, sample); writing one twice is a no-op.
2. WAL with full synchronisation: after kill -9 at most the rollouts in flight and those of the last quarter second are lost.
3. The settings that determine the numbers are stored; opening a run under others is refused, naming the difference.
   A rule of stopping changes no rollout: the last one is noted, and the run stays marked as adaptive.
4. Answers are not stored: they are a pure function of the text and can be read again under another rule.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from anchors.answers import NO_ANSWER, extract_answer
from anchors.models.base import Completion, Job
from anchors.trace import Trace

SCHEMA = 1
STORE = "rollouts.sqlite"
STOP = "stop"
"""The setting that holds the rule an adaptive run stopped by."""

_TABLES = """
create table if not exists settings (key text primary key, value text not null);
create table if not exists traces (number integer primary key, id text unique not null, record text not null);
create table if not exists rollouts (
    trace text not null, kind text not null, position integer not null, sample integer not null,
    text text not null, tokens integer not null, finish text not null,
    primary key (trace, kind, position, sample)
) without rowid;
"""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One stored continuation of the prefix that ends at boundary `position` (0 = before sentence 0)."""

    position: int
    sample: int
    text: str
    tokens: int
    finish: Literal["stop", "length"]

    @classmethod
    def of(cls, job: Job, completion: Completion) -> Rollout:
        """What a model wrote for a job."""
        return cls(job.position, job.sample, completion.text, completion.tokens, completion.finish)


class Cost(NamedTuple):
    """What a store holds."""

    rollouts: int
    tokens: int


class Store:
    """One run directory's SQLite file; `path=None` keeps it in memory."""

    def __init__(self, path: str | Path | None, settings: Mapping[str, Any] | None = None) -> None:
        self.folder = None if path is None else Path(path)
        self.db = _connect(self.folder)
        if settings is not None:
            self._check(json.loads(json.dumps(dict(settings), sort_keys=True)))

    @property
    def settings(self) -> dict[str, Any]:
        rows = self.db.execute("select key, value from settings where key != 'schema'").fetchall()
        return {key: json.loads(value) for key, value in rows}

    def _check(self, wanted: dict[str, Any]) -> None:
        """Store the settings, or refuse when others are there; one process at a time."""
        with self._alone():
            rows = [(key, json.dumps(value, sort_keys=True)) for key, value in wanted.items()]
            self.db.executemany("insert or ignore into settings values (?, ?)", rows)
            stored = self.settings
            changed = [key for key in wanted if stored[key] != wanted[key]]
            if changed:
                lines = "; ".join(f"{key} was {stored[key]!r}, now {wanted[key]!r}" for key in changed)
                raise ValueError(
                    f"{self.folder} holds rollouts made with other settings: {lines}. Use another run directory"
                )

    def note(self, key: str, value: Any) -> None:
        """Store a setting that later runs may change, in place of what it was."""
        with self.db:
            self.db.execute("insert or replace into settings values (?, ?)", (key, json.dumps(value, sort_keys=True)))

    def claim(self, traces: Sequence[Trace]) -> None:
        """Make this the run of these traces; refuse a run that holds others, saying what changed."""
        with self._alone():
            stored = {trace.id: trace for trace in self.traces()}
            for trace in traces:
                old = stored.get(trace.id)
                if stored and (old is None or old.text != trace.text):
                    raise ValueError(
                        f"{self.folder} holds another trace: {_changed(stored, trace)}. Use another run directory"
                    )
            rows = [(t.id, json.dumps(t.to_json())) for t in traces]
            self.db.executemany("insert or ignore into traces (id, record) values (?, ?)", rows)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A transaction that keeps other processes out from its first read on, and leaves nothing when it fails."""
        self.db.execute("begin immediate")
        with self.db:
            yield

    def traces(self) -> list[Trace]:
        """All traces of the run, in the order they were added."""
        rows = self.db.execute("select record from traces order by number").fetchall()
        return [Trace.from_json(json.loads(record)) for (record,) in rows]

    def close(self) -> None:
        self.db.close()


def _changed(stored: Mapping[str, Trace], trace: Trace) -> str:
    """What differs between a trace and the ones a run holds."""
    twin = next((t for t in stored.values() if t.reasoning == trace.reasoning), None)
    if twin is not None and twin.prompt != trace.prompt:
        return f"the prompt was {twin.prompt[-60:]!r}, now {trace.prompt[-60:]!r}"
    if trace.id in stored:
        return f"the text of {trace.id!r} changed"
    return f"it holds {', '.join(map(repr, list(stored)[:5]))}, not {trace.id!r}"


def _connect(folder: Path | None) -> sqlite3.Connection:
    if folder is None:
        db = sqlite3.connect(":memory:")
    else:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            foreign = [p.name for p in folder.iterdir() if p.name != STORE]
            if foreign and not (folder / STORE).exists():
                raise ValueError(
                    f"{folder} is not a run directory (it holds {foreign[0]!r} and no {STORE}); use an empty one"
                )
            db = sqlite3.connect(folder / STORE, timeout=30)
            db.execute("pragma journal_mode = wal")
        except (OSError, sqlite3.OperationalError) as error:
            raise ValueError(f"cannot write the run directory {folder}: {error}. Use a writable one") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{folder / STORE} is not a rollout store: {error}. Use another run directory") from error
    db.executescript(_TABLES)
    found = db.execute("select value from settings where key = 'schema'").fetchone()
    if found is None:
        with db:
            db.execute("insert or ignore into settings values ('schema', ?)", (str(SCHEMA),))
    elif int(found[0]) != SCHEMA:
        raise ValueError(f"{folder} was written with schema {found[0]}, this version reads {SCHEMA}")
    return db


class Rollouts:
    """The rollouts of one trace, grouped by the boundary they continue.

    `kind` is "free" for plain continuations; other kinds (resilience, ...) are kept apart in the same store.
    """

    def __init__(self, store: Store, trace: Trace, *, kind: str = "free") -> None:
        self.store, self.trace, self.kind = store, trace, kind

    @classmethod
    def from_texts(cls, trace: Trace, texts: Sequence[Sequence[str]]) -> Rollouts:
        """Rollouts you already have: `texts[k]` are continuations of boundary k."""
        store = Store(None, {})
        store.claim([trace])
        rollouts = cls(store, trace)
        rollouts.add(
            Rollout(position, sample, text, 0, "stop")
            for position, row in enumerate(texts)
            for sample, text in enumerate(row)
        )
        return rollouts

    def held(self, rows: Iterable[Rollout]) -> Rollouts:
        """Rollouts of the same trace in memory, made under the same settings: a selection, or a regrouping."""
        store = Store(None, self.store.settings)
        store.claim([self.trace])
        found = Rollouts(store, self.trace, kind=self.kind)
        found.add(rows)
        return found

    @classmethod
    def open(cls, path: str | Path, *, kind: str = "free") -> list[Rollouts]:
        """All traces' rollouts of a run directory."""
        if not (Path(path) / STORE).exists():
            raise ValueError(f"{path} is not a run directory: it has no {STORE}")
        store = Store(path)
        return [cls(store, trace, kind=kind) for trace in store.traces()]

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Store rollouts in one transaction; one that is already there is left as it is."""
        rows = [(self.trace.id, self.kind, r.position, r.sample, r.text, r.tokens, r.finish) for r in rollouts]
        with self.store.db as db:
            db.executemany("insert or ignore into rollouts values (?, ?, ?, ?, ?, ?, ?)", rows)

    def at(self, position: int) -> list[Rollout]:
        """The rollouts that continue boundary `position`, by sample."""
        query = (
            "select position, sample, text, tokens, finish from rollouts "
            "where trace = ? and kind = ? and position = ? order by sample"
        )
        return [Rollout(*row) for row in self.store.db.execute(query, (self.trace.id, self.kind, position))]

    def counts(self) -> list[int]:
        """How many rollouts each of the S + 1 boundaries has."""
        query = "select position, count(*) from rollouts where trace = ? and kind = ? group by position"
        found = dict(self.store.db.execute(query, (self.trace.id, self.kind)).fetchall())
        return [found.get(position, 0) for position in range(len(self.trace) + 1)]

    def missing(self, n: int) -> list[tuple[int, int]]:
        """(position, sample) pairs still to draw for n rollouts at every boundary."""
        query = "select position, sample from rollouts where trace = ? and kind = ? and sample < ?"
        done = set(self.store.db.execute(query, (self.trace.id, self.kind, n)).fetchall())
        pairs = ((p, s) for p in range(len(self.trace) + 1) for s in range(n))
        return [pair for pair in pairs if pair not in done]

    def jobs(self, pairs: Iterable[tuple[int, int]]) -> list[Job]:
        """What to ask a model for these (position, sample) pairs."""
        edges, trace = self.trace.boundaries, self.trace
        return [Job(trace.text, edges[position], trace.id, position, sample) for position, sample in pairs]

    def answers(self, position: int, *, extract: Callable[[str], str | None] = extract_answer) -> list[str]:
        """The answer of every rollout at a boundary; `NO_ANSWER` where there is none."""
        found = (extract(rollout.text) for rollout in self.at(position))
        return [NO_ANSWER if answer is None else answer for answer in found]

    def cost(self) -> Cost:
        """Rollouts stored and tokens generated."""
        query = "select count(*), coalesce(sum(tokens), 0) from rollouts where trace = ? and kind = ?"
        return Cost(*self.store.db.execute(query, (self.trace.id, self.kind)).fetchone())

    @property
    def adaptive(self) -> bool:
        """Whether results decided how many were drawn, at any time; only intervals that hold at any time are valid then."""
        return STOP in self.store.settings

    def provenance(self) -> dict[str, Any]:
        """How these rollouts were made, for the details of every score computed from them."""
        settings, cost = self.store.settings, self.cost()
        made = {key: settings[key] for key in ("model", "sampling", STOP) if key in settings}
        if "seed" in settings:
            made["rollout seed"] = settings["seed"]
        return {**made, "rollouts": cost.rollouts, "generated tokens": cost.tokens}

    def __repr__(self) -> str:
        cost = self.cost()
        return f"Rollouts({self.trace.id}, {cost.rollouts} over {len(self.trace) + 1} boundaries, {cost.tokens} tokens)"
