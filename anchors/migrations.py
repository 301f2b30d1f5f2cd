"""The tables of a run's SQLite file, and how a file of an earlier schema becomes one of this.

1. Schema 2 keys a rollout by the number of its trace. Texts lie in the order they came, and two narrow indices answer what
   is counted; schema 1 kept the texts inside the key's own tree, so that counting read them and inserting moved them.
   The checksum of a row tells one that changed on the disk, which SQLite does not.
2. A migration is one transaction: when it is interrupted, the file is what it was.
3. A file of a later schema is refused.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Final
from zlib import crc32

logger = logging.getLogger(__name__)

SCHEMA: Final = 2

TABLES: Final = (
    "create table if not exists settings (key text primary key, value text not null)",
    "create table if not exists traces (number integer primary key, id text unique not null, record text not null)",
    """create table if not exists rollouts (
    number integer primary key, trace integer not null, kind text not null, position integer not null,
    sample integer not null, tokens integer not null, finish text not null, checksum integer not null, text text not null)""",
)
INDICES: Final = (
    "create unique index if not exists rollouts_key on rollouts (trace, kind, position, sample)",
    "create index if not exists rollouts_tokens on rollouts (trace, kind, position, tokens)",
)
RESERVED: Final = ("schema", "digest")
"""Rows of the table of settings that are about the file itself."""


def settings_digest(settings: Mapping[str, Any]) -> str:
    """What tells settings that were edited by hand from those that were written with the rollouts."""
    return blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16).hexdigest()


def checksum(trace: int, kind: str, position: int, sample: int, tokens: int, finish: str, text: str | bytes) -> int:
    """CRC-32 of a stored rollout: its key as text, then what it holds.

    >>> checksum(1, "free", 0, 0, 3, "stop", "x = 3")
    940474921
    """
    data = text.encode() if isinstance(text, str) else text
    return crc32(data, crc32(f"{trace}/{kind}/{position}/{sample}/{tokens}/{finish}/".encode()))


def stored_settings(db: sqlite3.Connection) -> dict[str, Any]:
    """All settings but those about the file itself."""
    rows = db.execute("select key, value from settings where key not in (?, ?)", RESERVED).fetchall()
    return {key: json.loads(value) for key, value in rows}


def seal(db: sqlite3.Connection) -> None:
    """Store the digest of the settings."""
    db.execute("insert or replace into settings values ('digest', ?)", (settings_digest(stored_settings(db)),))


def found_schema(db: sqlite3.Connection) -> int:
    """The schema of a file, 0 for an empty one.

    Raises:
        ValueError: it has tables, but none that say what it is.
    """
    tables = {name for (name,) in db.execute("select name from sqlite_master where type = 'table'")}
    if not tables:
        return 0
    row = db.execute("select value from settings where key = 'schema'").fetchone() if "settings" in tables else None
    if row is None or not str(row[0]).isdecimal():
        raise ValueError(f"it does not say its schema (tables {', '.join(sorted(tables))})")
    return int(row[0])


def create(db: sqlite3.Connection) -> None:
    """The tables of an empty file."""
    for statement in (*TABLES, *INDICES):
        db.execute(statement)
    db.execute("insert into settings values ('schema', ?)", (str(SCHEMA),))


def _from_1(db: sqlite3.Connection) -> None:
    """Number the traces of rollouts, and lay texts down apart from the keys."""
    db.execute("alter table rollouts rename to rollouts_1")
    db.execute(TABLES[2])
    db.create_function("checksum", 7, checksum, deterministic=True)
    db.execute(
        "insert into rollouts (trace, kind, position, sample, tokens, finish, checksum, text) "
        "select t.number, r.kind, r.position, r.sample, r.tokens, r.finish, "
        "checksum(t.number, r.kind, r.position, r.sample, r.tokens, r.finish, r.text), r.text "
        "from rollouts_1 r join traces t on t.id = r.trace order by r.trace, r.kind, r.position, r.sample"
    )
    before, after = (db.execute(f"select count(*) from {name}").fetchone()[0] for name in ("rollouts_1", "rollouts"))
    if before != after:
        raise ValueError(f"{before - after} of its {before} rollouts are of traces it does not hold")
    db.execute("drop table rollouts_1")
    for statement in INDICES:
        db.execute(statement)


_MIGRATIONS: Final[dict[int, Callable[[sqlite3.Connection], None]]] = {1: _from_1}


def migrate(db: sqlite3.Connection, schema: int) -> None:
    """Bring a file from an earlier schema to this one, inside the caller's transaction.

    Raises:
        ValueError: the schema is later than this version knows, or rows would be lost.
    """
    if schema > SCHEMA or schema not in {*_MIGRATIONS, SCHEMA}:
        raise ValueError(f"it was written with schema {schema}, this version reads up to {SCHEMA}; update anchors")
    for old in range(schema, SCHEMA):
        logger.info("the run is brought from schema %d to %d", old, old + 1)
        _MIGRATIONS[old](db)
        db.execute("update settings set value = ? where key = 'schema'", (str(old + 1),))
        seal(db)
