"""Is a run directory sound? What is wrong with it, and what to do.

1. The file is opened for reading alone and nothing is changed: SQLite's own check of its pages and indices, the schema, the
   digest of the settings, the records of traces, then every rule a rollout must keep, as one query each.
2. Stored scores must be of the run's traces and made from rollouts of its settings.
3. A finding is a problem, or a note: what a killed process leaves behind is no damage.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from anchors.migrations import SCHEMA, checksum, create, found_schema, settings_digest, stored_settings
from anchors.opening import connect_as_is, connect_to_read, require_run
from anchors.sqlite import STORE
from anchors.store import read_text
from anchors.trace import Trace

WORST: Final = 20
"""Lines of SQLite's own check that are shown."""


@dataclass(frozen=True)
class Finding:
    """Something about a run: what it is and what to do; `problem` is False for what needs nothing done."""

    what: str
    remedy: str
    problem: bool = True

    def __str__(self) -> str:
        return f"{'problem' if self.problem else 'note'}: {self.what}. {self.remedy}"


@dataclass(frozen=True)
class Examination:
    """What was found in a run, and how many traces and rollouts could be read."""

    run: Path
    findings: tuple[Finding, ...]
    traces: int
    rollouts: int

    @property
    def sound(self) -> bool:
        return not any(finding.problem for finding in self.findings)


def examine_run(run: str | Path) -> Examination:
    """Check a run directory without changing it.

    Raises:
        ValueError: it is no run directory.
    """
    folder = Path(run)
    require_run(folder)
    findings, traces, rollouts = list(_left_behind(folder)), {}, 0
    again = f"Run anchors doctor {folder} --repair to keep all readable rollouts"
    try:
        findings += _file(folder, again)
        if not any(finding.problem for finding in findings):
            with closing(connect_to_read(folder)) as db:
                findings += _settings(db, folder)
                traces, wrong = _traces(db, again)
                findings += [*wrong, *_rows(db, traces, again), *_scores(folder, traces, stored_settings(db))]
                rollouts = db.execute("select count(*) from rollouts").fetchone()[0]
    except (sqlite3.Error, ValueError) as error:
        findings.append(Finding(f"{folder / STORE} cannot be read: {error}", again))
    return Examination(folder, tuple(findings), len(traces), rollouts)


def _left_behind(folder: Path) -> Iterator[Finding]:
    wal = folder / f"{STORE}-wal"
    if wal.exists() and wal.stat().st_size:
        yield Finding(
            f"{wal.name} holds {wal.stat().st_size:,} bytes: the run is open in another process, or one was killed",
            "Nothing is lost: the next command that opens the run takes them over; never delete this file",
            problem=False,
        )
    for damaged in sorted(folder.glob(f"{STORE}.damaged-*")):
        if not damaged.name.endswith("-wal"):
            yield Finding(
                f"{damaged.name} is what a repair put aside", "Delete it once the run is whole", problem=False
            )


def _file(folder: Path, again: str) -> Iterator[Finding]:
    """The file as SQLite sees it, and its schema."""
    with closing(connect_as_is(folder)) as db:
        lines = [line for (line,) in db.execute(f"pragma integrity_check({WORST})") if line != "ok"]
        for line in lines:
            yield Finding(f"SQLite's integrity check: {' '.join(line.split())}", again)
        if lines:
            return
        schema = found_schema(db)
        if schema == SCHEMA:
            yield from _layout(db, again)
    if schema > SCHEMA:
        yield Finding(f"the schema is {schema}, this version reads up to {SCHEMA}", "Update anchors")
    elif schema == 0:
        yield Finding("it has no tables: nothing was stored yet", "Start the run", problem=False)
    elif schema < SCHEMA:
        yield Finding(
            f"the schema is {schema}", f"The next command that opens the run brings it to {SCHEMA}", problem=False
        )


def _layout(db: sqlite3.Connection, again: str) -> Iterator[Finding]:
    """Tables and indices that are missing, or not as this version makes them."""
    query = "select name, type, sql from sqlite_master where sql is not null"
    with closing(sqlite3.connect(":memory:")) as fresh:
        create(fresh)
        wanted, found = ({row[0]: row[1:] for row in side.execute(query)} for side in (fresh, db))
    for name, (kind, text) in wanted.items():
        if name not in found:
            yield Finding(f"it lacks the {kind} {name}", again)
        elif found[name] != (kind, text):
            yield Finding(f"its {kind} {name} is not as this version makes it", again)


def _settings(db: sqlite3.Connection, folder: Path) -> Iterator[Finding]:
    settings = stored_settings(db)
    digest = db.execute("select value from settings where key = 'digest'").fetchone()
    if digest is not None and digest[0] != settings_digest(settings):
        yield Finding(
            f"the settings were edited since the rollouts were drawn: they say {settings}",
            f"Put them back; if the edit is right, anchors doctor {folder} --repair accepts it",
        )


def _traces(db: sqlite3.Connection, again: str) -> tuple[dict[int, Trace], list[Finding]]:
    """The traces that can be read, by number, and what is wrong with the others."""
    found, wrong = {}, []
    for number, name, record in db.execute("select number, id, record from traces order by number"):
        try:
            found[number] = stored_trace(read_text(name), record)
        except (ValueError, TypeError, KeyError) as error:
            wrong.append(Finding(f"the record of trace {name!r} cannot be read: {error!r}", again))
    return found, wrong


def stored_trace(name: str, record: str) -> Trace:
    """A trace from its row.

    Raises:
        ValueError, TypeError, KeyError: the record is no trace, or another one than the row says.
    """
    trace = Trace.from_json(json.loads(record))
    if trace.id != name:
        raise ValueError(f"it says its id is {trace.id!r}")
    return trace


RULES: Final = {
    "of a trace the run does not hold": "trace not in (select number from traces)",
    "at a boundary their trace does not have": "position < 0 or position > coalesce(last_boundary(trace), position)",
    "with a sample or tokens that are no count": "typeof(sample) != 'integer' or sample < 0 "
    "or typeof(tokens) != 'integer' or tokens < 0",
    "that end neither by stop nor by length": "finish not in ('stop', 'length')",
    "whose text is no text": "typeof(text) not in ('text', 'blob')",
}
"""What no rollout may be; a repair leaves such rows out."""

_OTHERS: Final = (
    "select trace, kind, position, sample, tokens, finish, cast(text as blob), checksum from rollouts where not ("
    + " or ".join(f"({rule})" for rule in RULES.values())
    + ")"
)


def know_boundaries(db: sqlite3.Connection, traces: Mapping[int, Trace]) -> None:
    """Let SQL ask for the last boundary of a trace, as `RULES` do; null for one that is unknown."""
    last = {number: len(trace) for number, trace in traces.items()}
    db.create_function("last_boundary", 1, last.get)


def _rows(db: sqlite3.Connection, traces: Mapping[int, Trace], again: str) -> Iterator[Finding]:
    know_boundaries(db, traces)
    for what, rule in RULES.items():
        count, first = db.execute(f"select count(*), min(number) from rollouts where {rule}").fetchone()
        if count:
            key = db.execute("select trace, kind, position, sample from rollouts where number = ?", (first,)).fetchone()
            yield Finding(f"{count} rollouts {what}; the first is (trace number, kind, position, sample) {key}", again)
    altered = sum(not unaltered(row) for row in db.execute(_OTHERS))
    if altered:
        yield Finding(f"{altered} rollouts changed after they were written", again)
    gaps, first = db.execute(
        "select count(*), min(position) from (select position from rollouts where kind = 'free' "
        "group by trace, position having max(sample) + 1 > count(*))"
    ).fetchone()
    if gaps:
        yield Finding(
            f"{gaps} boundaries lack a sample below their last one, the first at position {first}",
            "The run was stopped while it drew; the same command draws them",
            problem=False,
        )


def well_typed(row: tuple) -> bool:
    """Whether the first values of a row (trace, kind, position, sample, tokens, finish, text) are of the right types."""
    types = (int, str, int, int, int, str, str | bytes)
    return all(isinstance(value, kind) for value, kind in zip(row, types, strict=False))


def unaltered(row: tuple) -> bool:
    """Whether the checksum at the end of a row is that of the rest."""
    *rest, stored = row
    return well_typed(row) and checksum(*rest) == stored


def _scores(folder: Path, traces: Mapping[int, Trace], settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Stored scores that cannot be read, or are of another trace or other settings."""
    from anchors.scores import Scores

    texts = {trace.id: (trace.text, trace.boundaries) for trace in traces.values()}
    for path in sorted(folder.glob("scores/*/*.npz")):
        try:
            scores = Scores.load(path)
        except (ValueError, OSError) as error:
            yield Finding(f"{path} cannot be read: {error}", "Delete it; the same command makes it again")
            continue
        wrong = _differences(scores, settings)
        if texts.get(scores.trace.id) != (scores.trace.text, scores.trace.boundaries):
            wrong.append(f"it is of trace {scores.trace.id!r}, whose sentences the run does not hold")
        if wrong:
            yield Finding(
                f"{path} was not made from this run: {'; '.join(wrong)}", "Delete it; the same command makes it again"
            )


def _differences(scores: Any, settings: Mapping[str, Any]) -> list[str]:
    """Settings of the run that scores say were others."""
    said = {"model": "model", "sampling": "sampling", "rollout seed": "seed"}
    pairs = [(key, scores.details.get(key), settings.get(name)) for key, name in said.items()]
    return [f"{key} {a!r}, the run has {b!r}" for key, a, b in pairs if None not in (a, b) and a != b]
