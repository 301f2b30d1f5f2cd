"""The command line: every command takes and leaves a run directory, and the same command continues a stopped one.

Exit codes: 0 done, 1 failed, 2 wrong use.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from anchors.commands import experiments, report, scoring, serve, store, transfer, vote
from anchors.commands.lab import lab
from anchors.models.base import CapabilityError

INTERRUPTED = 130  # what typer exits with on Ctrl-C

app = typer.Typer(add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
for module in (scoring, transfer, vote, experiments, report, serve, store):
    module.register(app)
app.add_typer(lab, name="lab")


@contextmanager
def _errors() -> Iterator[None]:
    """One line a failure: 2 for a wrong value or a missing extra, 1 for everything that failed on its own."""
    import sqlite3

    from anchors.extras import MissingExtra
    from anchors.printable import printable

    try:
        yield
    except (ValueError, FileNotFoundError, MissingExtra) as error:
        typer.echo(printable(f"anchors: {error}"), err=True)
        sys.exit(2)
    except (CapabilityError, OSError, sqlite3.Error) as error:
        typer.echo(printable(f"anchors: {error}"), err=True)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code != INTERRUPTED:
            raise
        typer.echo("anchors: interrupted; finished rollouts are stored, the same command continues", err=True)
        sys.exit(1)


def main() -> None:
    """The `anchors` command.

    Threads that wait long for each other by spinning keep a core from other work: beside some, a run takes half as long
    again. The objects that importing torch and transformers makes all stay, so they are searched for garbage less often, and
    not once more at the end.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is loaded, which is later
    gc.set_threshold(100_000, 20, 20)
    atexit.register(gc.freeze)
    with _errors():
        app(standalone_mode=True)
