"""`anchors experiment`: run one claim or all of them, and show what was found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from anchors.commands.options import Json, Quiet, complete_model, quiet_logging


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(experiment)


def _complete_claim(incomplete: str) -> list[str]:
    from anchors.experiments import CLAIMS

    return [name for name in [*CLAIMS, "all"] if name.lower().startswith(incomplete.lower())]


def experiment(
    claim: Annotated[str, typer.Argument(help="C1 to C11, or all", autocompletion=_complete_claim)],
    quick: Annotated[bool, typer.Option("--quick/--full", help="shipped models in minutes, or retraining")] = True,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="your model instead of the shipped one", autocompletion=complete_model),
    ] = None,
    reader: Annotated[
        str | None, typer.Option(help="your reader instead of the shipped one", autocompletion=complete_model)
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="where results, figures and models are kept")] = Path(
        "runs/experiments"
    ),
    seed: Annotated[int, typer.Option(help="the same seed gives the same numbers")] = 0,
    again: Annotated[bool, typer.Option("--again", help="run claims whose result is already there, too")] = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Test one of the project's claims, or all, by a rule fixed beforehand: holds, fails or inconclusive."""
    from tqdm.auto import tqdm

    from anchors.experiments import CLAIMS, Setting, run_experiment, summary
    from anchors.experiments.base import Result
    from anchors.spending import watched

    quiet_logging(quiet)
    preset = "quick" if quick else "full"
    setting = Setting(preset, seed, model, reader, out, progress=not quiet)
    results = []
    names = list(CLAIMS) if claim == "all" else [claim]
    with tqdm(names, unit=" claims", disable=quiet or None) as bar, watched(bar):
        for name in bar:
            bar.set_description_str(name)
            kept = out / f"{name.upper()}.json"
            stored = Result.load(kept) if claim == "all" and not again and kept.exists() else None
            if stored is not None and _same_run(stored.made, setting):
                results.append(stored)
                continue
            results.append(run_experiment(name, setting))
            if claim == "all" and not quiet:
                found = results[-1]
                bar.write(f"{found.claim.id} {found.verdict.word} ({found.made['seconds']:.0f} s)", file=sys.stderr)
    if json_output:
        typer.echo(json.dumps([r.to_json() for r in results] if claim == "all" else results[0].to_json()))
    elif claim == "all":
        rows = summary(results)
        (out / "summary.md").write_text(markdown(rows), "utf-8")
        _show(rows)
        typer.echo(f"table: {out / 'summary.md'}, results and figures: {out}")
    else:
        typer.echo(str(results[0]))
        typer.echo(f"result and figure: {out / results[0].claim.id}.json, .svg, .png")


def _same_run(made: dict[str, Any], setting: Any) -> bool:
    wanted = (setting.preset, setting.seed, setting.model_name, setting.reader_name)
    return tuple(made[key] for key in ("preset", "seed", "model", "reader")) == wanted


def _effect(row: dict[str, Any]) -> str:
    if row["effect"] != row["effect"]:
        return "not measured"
    text = f"{row['effect']:+.2g} [{row['low']:+.2g}, {row['high']:+.2g}] {row['unit']}"
    return text if row["detectable"] is None else f"{text} (detectable: {row['detectable']:.2g})"


def markdown(rows: list[dict[str, Any]]) -> str:
    """The summary as a markdown table."""
    head = "| claim | verdict | effect [95 %] | n | shows | does not show |\n|---|---|---|---|---|---|\n"
    cells = (
        (
            row["claim"],
            f"**{row['verdict']}**",
            f"{row['finding']}: {_effect(row)}",
            row["n"],
            row["shows"],
            row["does not show"],
        )
        for row in rows
    )
    return head + "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in cells)


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("claim", "verdict", "effect [95 %]", "n", title="claims, each judged by a rule fixed beforehand")
    style = {"holds": "green", "fails": "red", "inconclusive": "yellow"}
    for row in rows:
        word = f"[{style[row['verdict']]}]{row['verdict']}[/]"
        table.add_row(row["claim"], word, f"{row['finding']}: {_effect(row)}", row["n"])
    Console().print(table)
