"""`anchors doctor`, `merge`, `export` and `import`: what can be done with a run directory besides drawing and scoring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from anchors.commands.options import Json, Out, Quiet, RunFolder, quiet_logging


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(doctor)
    app.command()(merge)
    app.command("export")(export)
    app.command("import")(import_)


def doctor(
    run: RunFolder,
    repair: Annotated[
        bool, typer.Option("--repair", help="put a fresh file of all readable rollouts in place; the damaged one is kept")
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Check a run directory: what is wrong, and what to do. Exit code 1 where there is a problem."""
    from anchors.integrity import examine_run
    from anchors.salvage import repair_run

    quiet_logging(quiet)
    repaired = repair_run(run) if repair else None
    found = examine_run(run)
    if json_output:
        typer.echo(json.dumps(_record(found, repaired)))
    else:
        if repaired is not None:
            typer.echo(f"repaired: {repaired.rollouts:,} rollouts of {repaired.traces} traces are in {run}")
            for what, count in repaired.left_out.items():
                typer.echo(f"left out: {count} {what}")
            typer.echo(f"the damaged file is {repaired.damaged}")
        for finding in found.findings:
            typer.echo(str(finding))
        state = "sound" if found.sound else "not sound"
        typer.echo(f"{run} is {state}: {found.traces} traces, {found.rollouts:,} rollouts can be read")
    if not found.sound:
        raise typer.Exit(1)


def _record(found: Any, repaired: Any) -> dict[str, Any]:
    record = {"run": str(found.run), "sound": found.sound, "traces": found.traces, "rollouts": found.rollouts}
    record["findings"] = [{"what": f.what, "remedy": f.remedy, "problem": f.problem} for f in found.findings]
    if repaired is not None:
        record["repair"] = repaired._asdict() | {"damaged": str(repaired.damaged)}
    return record


def merge(
    runs: Annotated[list[Path], typer.Argument(help="run directories of the same traces, made under the same settings")],
    out: Out,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Make one run of several, from several machines; settings that determine rollouts must be equal."""
    from anchors.merging import merge_runs

    quiet_logging(quiet)
    found = merge_runs(runs, out=out)
    _say(found, f"; {found.duplicates:,} were in more than one run", json_output=json_output)


def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="file to write: .jsonl, or .parquet (extra: tables)")],
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write settings, traces and rollouts of a run to one file, without loss."""
    from anchors.exchange import export_run

    quiet_logging(quiet)
    _say(export_run(run, out), json_output=json_output)


def import_(
    file: Annotated[Path, typer.Argument(help="what anchors export wrote: .jsonl or .parquet")],
    out: Out,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a run directory from a file that anchors export wrote."""
    from anchors.exchange import import_run

    quiet_logging(quiet)
    _say(import_run(file, out=out), json_output=json_output)


def _say(found: Any, more: str = "", *, json_output: bool) -> None:
    """What was written, and where."""
    if json_output:
        typer.echo(json.dumps(found._asdict() | {"path": str(found.path)}))
    else:
        typer.echo(f"{found.path}: {found.rollouts:,} rollouts of {found.traces} traces{more}")
