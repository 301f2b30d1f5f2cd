"""Locks and errors of a run's SQLite file.

1. A transaction that may write takes the lock first, and waits for other processes with growing, jittered pauses.
2. What SQLite reports is said once, with the path and what to do. A failed transaction leaves nothing behind.
"""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final, TypeVar

STORE: Final = "rollouts.sqlite"

PATIENCE: Final = 300.0
"""Seconds a writer waits for the others before it gives up."""
BUSY: Final = 2.0
"""Seconds SQLite itself waits for a lock."""

LOCKED: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
FULL: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
UNWRITABLE: Final = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, *FULL)

_SIGNS: Final = re.compile("decode to UTF-8|^no such (table|column|index)|function raised exception")
"""Messages by which a file that SQLite takes for sound shows its damage: its statements are right for a sound one."""
_pauses = random.SystemRandom()
T = TypeVar("T")


def begin(db: sqlite3.Connection) -> None:
    """Start a transaction that may write, after those of other processes."""
    patiently(lambda: db.execute("begin immediate"))


def patiently(action: Callable[[], T]) -> T:
    """What `action` returns once no other process locks the file; pauses grow to a second and are jittered."""
    end = time.monotonic() + PATIENCE
    for tries in count():
        try:
            return action()
        except sqlite3.OperationalError as error:
            if error_code(error) not in LOCKED or time.monotonic() > end:
                raise
        time.sleep(_pauses.uniform(0, min(1.0, 0.01 * 2 ** min(tries, 10))))
    raise AssertionError("counting does not end")


@contextmanager
def explained(folder: Path | None) -> Iterator[None]:
    """Errors of SQLite inside, said with the path and what to do."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise explanation(error, folder) from error


def explanation(error: sqlite3.Error | UnicodeDecodeError, folder: Path | None) -> Exception:
    """An error of SQLite as one that says where it happened and what to do; others are returned as they are."""
    code, path = error_code(error), "the store in memory" if folder is None else folder / STORE
    if code in FULL:
        return OSError(
            f"the disk of {path} is full or failing ({error}). Everything stored before is intact: free some space and run "
            "the same command again"
        )
    if code in LOCKED:
        return TimeoutError(
            f"other processes kept {path} locked for {PATIENCE:.0f} seconds. What is stored is intact: stop them, or wait "
            "and run the same command again"
        )
    if code in UNWRITABLE:
        return ValueError(
            f"cannot write the run directory {folder}: {error}. It can be read; to add to it make it writable (and free "
            "some space if its disk is full), or copy it to a writable place"
        )
    if code == sqlite3.SQLITE_NOTADB:
        return ValueError(f"{path} is not a rollout store: {error}. Use another run directory")
    if code in DAMAGED or isinstance(error, sqlite3.IntegrityError | UnicodeDecodeError) or _SIGNS.search(str(error)):
        return ValueError(
            f"{path} is damaged: {error}. Run anchors doctor {folder} --repair to keep all readable rollouts"
        )
    return error


def error_code(error: Exception) -> int:
    """The primary result code; 0 for errors that SQLite did not report."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
