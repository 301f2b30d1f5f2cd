"""How a run's file is opened: to write where that is possible, else to read.

1. A file that is opened to write gets its tables, or is brought to this schema (`anchors.migrations`).
2. One that cannot be written is read as it is: SQLite makes an index of the WAL beside it, or needs none if the WAL is empty.
3. Where neither works, or the schema is an earlier one, a temporary copy is read.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

from anchors.migrations import SCHEMA, create, found_schema, migrate
from anchors.sqlite import BUSY, STORE, UNWRITABLE, begin, error_code, explained, patiently

logger = logging.getLogger(__name__)


def connect(folder: Path | None) -> sqlite3.Connection:
    """Open or create a run's file and bring it to this schema; one that cannot be written is opened for reading."""
    if folder is None:
        db = sqlite3.connect(":memory:")
        with db:
            create(db)
        return db
    path = _path(folder)
    exists = path.exists()
    with explained(folder):
        db = sqlite3.connect(path, timeout=BUSY)
        try:
            patiently(lambda: db.execute("pragma journal_mode = wal"))
            _prepare(db, folder)
        except sqlite3.Error as error:
            db.close()
            if exists and error_code(error) in UNWRITABLE:
                return connect_to_read(folder)
            raise
        except BaseException:
            db.close()
            raise
        return db


def require_run(folder: Path) -> None:
    """ValueError where a folder is no run directory."""
    if not (folder / STORE).exists():
        raise ValueError(f"{folder} is not a run directory: it has no {STORE}")


def _path(folder: Path) -> Path:
    """The file of a run directory, which is made where there is none."""
    path = folder / STORE
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            foreign = [p.name for p in folder.iterdir() if not p.name.startswith(STORE)]
        except OSError as error:
            raise ValueError(f"cannot write the run directory {folder}: {error}. Use a writable one") from error
        if foreign and not path.exists():
            raise ValueError(
                f"{folder} is not a run directory (it holds {foreign[0]!r} and no {STORE}); use an empty one"
            )
    return path


def _prepare(db: sqlite3.Connection, folder: Path) -> None:
    """Create the tables of an empty file, or bring an older one to this schema; one process at a time."""
    if _schema(db, folder) == SCHEMA:
        return
    begin(db)
    with db:
        schema = _schema(db, folder)
        if schema == 0:
            create(db)
        elif schema != SCHEMA:
            _migrate(db, schema, folder)
    if 0 < schema < SCHEMA:
        _compact(db, folder)


def _schema(db: sqlite3.Connection, folder: Path) -> int:
    try:
        return found_schema(db)
    except ValueError as error:
        raise ValueError(f"{folder / STORE} is not a rollout store: {error}. Use another run directory") from error


def _migrate(db: sqlite3.Connection, schema: int, folder: Path) -> None:
    try:
        migrate(db, schema)
    except ValueError as error:
        raise ValueError(f"{folder} cannot be opened: {error}. anchors doctor {folder} says more") from error


def _compact(db: sqlite3.Connection, folder: Path) -> None:
    """Give back the room of the earlier tables; it is only room, so a run without enough for that goes on."""
    try:
        db.execute("vacuum")
    except sqlite3.OperationalError as error:
        logger.warning("%s keeps the room of its earlier tables for new rollouts: %s", folder / STORE, error)


def connect_to_read(folder: Path, **options: Any) -> sqlite3.Connection:
    """Open a run's file for reading alone; `options` go to `sqlite3.connect`."""
    with explained(folder):
        try:
            db = connect_as_is(folder, **options)
            if _schema(db, folder) == SCHEMA:
                return db
            db.close()
        except sqlite3.OperationalError as error:
            if error_code(error) not in UNWRITABLE:
                raise
        return _copied(folder, **options)


def connect_as_is(folder: Path, **options: Any) -> sqlite3.Connection:
    """Open a run's file for reading whatever its schema, and without its WAL's index where that cannot be made."""
    path = folder / STORE
    uri, wal = path.resolve().as_uri(), path.with_name(f"{STORE}-wal")
    still = "&immutable=1" if not wal.exists() or wal.stat().st_size == 0 else ""
    for mode in ("?mode=ro", f"?mode=ro{still}"):
        db = sqlite3.connect(uri + mode, uri=True, timeout=BUSY, **options)
        try:
            db.execute("select count(*) from sqlite_master").fetchone()
            return db
        except sqlite3.OperationalError as error:
            db.close()
            if mode.endswith(still) or error_code(error) not in UNWRITABLE:
                raise
    raise AssertionError("one of the modes returns or raises")


def _copied(folder: Path, **options: Any) -> sqlite3.Connection:
    """A temporary copy of a file that cannot be opened where it is, brought to this schema and closed to writing."""
    db = sqlite3.connect("", **options)
    with TemporaryDirectory() as place:
        for name in (STORE, f"{STORE}-wal"):
            if (folder / name).exists():
                copyfile(folder / name, Path(place) / name)
        with closing(sqlite3.connect(Path(place) / STORE)) as copy:
            copy.backup(db)
    _prepare(db, folder)
    db.execute("pragma query_only = on")
    return db


@contextmanager
def fresh_run(out: str | Path) -> Iterator[Path]:
    """A directory to make a run in, which becomes `out` when nothing failed.

    Raises:
        ValueError: `out` holds something already.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; name a run directory that does not exist")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as place:
        made = Path(place) / "run"
        yield made
        made.rename(out)
