"""`anchors report` and `anchors check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from anchors.commands.options import MODELS, Json, Quiet, RunFolder, complete_model, quiet_logging


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (report, check):
        app.command()(command)


def report(
    run: RunFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file; with several traces their ids are added")],
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the report of a run as one self-contained HTML file a trace, and print where it is."""
    from anchors.report import write_report
    from anchors.rollouts import Rollouts
    from anchors.scoring import scores_folder, stored_scores

    quiet_logging(quiet)
    runs = Rollouts.open(run)
    for rollouts in runs:
        name = scores_folder(run, rollouts.trace).name
        path = out if len(runs) == 1 else out.with_name(f"{out.stem}-{name}{out.suffix or '.html'}")
        drawn = rollouts if rollouts.cost().rollouts else None
        written = write_report(rollouts.trace, stored_scores(run, rollouts.trace), path, rollouts=drawn)
        found = {"trace": rollouts.trace.id, "report": str(written), "bytes": written.stat().st_size}
        typer.echo(json.dumps(found) if json_output else str(written))


def check(
    model: Annotated[str, typer.Argument(help=MODELS, autocompletion=complete_model)],
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Is this model safe to measure? Prints what was found, or nothing with --quiet; fails when a check does."""
    from anchors.models import load_model
    from anchors.models.checks import check_model

    quiet_logging(quiet=True)
    found = check_model(load_model(model, check=False))
    if json_output:
        typer.echo(
            json.dumps(found._asdict() | {"passed": found.passed, "checks": [c._asdict() for c in found.checks]})
        )
    elif not quiet:
        typer.echo(str(found))
    if not found.passed:
        raise typer.Exit(1)
