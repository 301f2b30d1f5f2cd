"""`anchors report` and `anchors check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anchors.commands.options import RunFolder, quiet_logging


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (report, check):
        app.command()(command)


def report(
    run: RunFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file; with several traces their ids are added")],
) -> None:
    """Write the report of a run as one self-contained HTML file a trace."""
    from anchors.report import write_report
    from anchors.rollouts import Rollouts
    from anchors.scoring import scores_folder, stored_scores

    runs = Rollouts.open(run)
    for rollouts in runs:
        name = scores_folder(run, rollouts.trace).name
        path = out if len(runs) == 1 else out.with_name(f"{out.stem}-{name}{out.suffix or '.html'}")
        drawn = rollouts if rollouts.cost().rollouts else None
        typer.echo(str(write_report(rollouts.trace, stored_scores(run, rollouts.trace), path, rollouts=drawn)))


def check(model: Annotated[str, typer.Argument(help="lab/NAME, a hub id or a local directory")]) -> None:
    """Is this model safe to measure? Prints what was found; fails when a check does."""
    from anchors.models import load_model
    from anchors.models.checks import check_model

    quiet_logging(quiet=True)
    found = check_model(load_model(model, check=False))
    typer.echo(str(found))
    if not found.passed:
        raise typer.Exit(1)
