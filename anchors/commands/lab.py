"""`anchors lab`: the worlds, their exact truth, and the small models trained on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from anchors.commands.options import Json, Quiet, quiet_logging
from anchors.printable import cell

lab = typer.Typer(no_args_is_help=True, help="Small models and worlds with known causal structure.")


def _complete_lab(incomplete: str) -> list[str]:
    from anchors.lab.worlds import WORLDS
    from anchors.models import lab_models

    return [name for name in [*(f"lab/{name}" for name in lab_models()), *WORLDS] if name.startswith(incomplete)]


def _complete_world(incomplete: str) -> list[str]:
    from anchors.lab.worlds import WORLDS

    return [name for name in WORLDS if name.startswith(incomplete)]


def _complete_recipe(incomplete: str) -> list[str]:
    from anchors.models import lab_models

    return [name for name in lab_models() if name.startswith(incomplete)]


Names = Annotated[bool, typer.Option("--quiet", "-q", help="names only")]
Knobs = Annotated[list[str] | None, typer.Option("--knob", help="NAME=VALUE, the value in JSON: length=[3,3]")]


@lab.command("list")
def list_lab(json_output: Json = False, quiet: Names = False) -> None:
    """The models that ship with the package, and the worlds."""
    from anchors.lab.worlds import WORLDS
    from anchors.models import ZOO, lab_models

    cards = {f"lab/{name}": json.loads((ZOO / name / "card.json").read_text())["summary"] for name in lab_models()}
    worlds = {name: _world_doc(name).splitlines()[0] for name in WORLDS}
    if json_output:
        typer.echo(json.dumps({"models": cards, "worlds": worlds}))
        return
    for name, about in (cards | {f"world {name}": about for name, about in worlds.items()}).items():
        typer.echo(name if quiet else f"{name}\t{about}")


@lab.command()
def show(
    name: Annotated[str, typer.Argument(help="a model (lab/NAME or NAME) or a world", autocompletion=_complete_lab)],
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """The card of a shipped model, or the program of a world."""
    from anchors.lab.worlds import WORLDS
    from anchors.models import ZOO, lab_models

    quiet_logging(quiet)
    model = name.removeprefix("lab/")
    if model in lab_models():
        typer.echo((ZOO / model / ("card.json" if json_output else "README.md")).read_text().rstrip())
    elif name in WORLDS:
        program = _world_doc(name).rstrip()
        typer.echo(json.dumps({"world": name, "program": program}) if json_output else program)
    else:
        known = ", ".join([*lab_models(), *WORLDS])
        raise ValueError(f"no lab model or world is called {name!r}; there are {known}")


def _world_doc(name: str) -> str:
    from importlib import import_module

    return import_module(f"anchors.lab.worlds.{name}").__doc__ or ""


@lab.command()
def sample(
    world: Annotated[str, typer.Option(autocompletion=_complete_world)] = "expression",
    seed: Annotated[int, typer.Option(help="the same seed gives the same traces")] = 0,
    count: int = 1,
    form: Annotated[str, typer.Option("--format", help="verbose or draft")] = "verbose",
    knob: Knobs = None,
    json_output: Annotated[bool, typer.Option("--json", help="no change: it always prints JSON lines")] = False,
    quiet: Quiet = False,
) -> None:
    """Traces a world writes, one JSON line each, ready for `anchors score`."""
    from anchors.lab import world_trace
    from anchors.lab.worlds import load_world

    quiet_logging(quiet)
    written_by = load_world(world, format=form, **_knobs(knob))
    for index in range(count):
        typer.echo(json.dumps(world_trace(written_by, seed=seed + index).to_json()))


def _knobs(given: list[str] | None) -> dict[str, Any]:
    """Knobs from the command line."""
    from anchors.lab.worlds import hashable

    knobs = {}
    for text in given or []:
        name, _equals, value = text.partition("=")
        if name == "format":
            raise ValueError("the format is no knob; use --format draft")
        try:
            knobs[name] = hashable(json.loads(value))
        except json.JSONDecodeError as error:
            raise ValueError(f"--knob {text!r} is not NAME=VALUE with a JSON value, as length=[3,3]") from error
    return knobs


@lab.command()
def truth(
    traces: Annotated[Path, typer.Argument(help="traces on a world's program, as `anchors lab sample` writes them")],
    world: Annotated[
        str | None, typer.Option(help="default: the world named in the trace", autocompletion=_complete_world)
    ] = None,
    knob: Knobs = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Exact importance of every sentence of a trace, with its planted role."""
    from anchors.datasets import load_traces

    quiet_logging(quiet)
    for trace in load_traces(traces):
        name = world or trace.meta.get("world")
        if name is None:
            raise ValueError(f"trace {trace.id} does not name its world; give --world")
        _show_truth(trace, name, knob, json_output)


def _show_truth(trace: Any, name: str, knob: list[str] | None, json_output: bool) -> None:
    from anchors.lab.worlds import hashable, load_world
    from anchors.lab.yardstick import plant

    form = "draft" if name.endswith("-draft") else "verbose"
    knobs = {k: hashable(v) for k, v in trace.meta.get("knobs", {}).items()} | _knobs(knob)
    planted = plant(trace, load_world(name.removesuffix("-draft"), format=form, **knobs))
    columns = {"role": planted.roles, "resampling": planted.resampling, "counterfactual": planted.counterfactual}
    rows = [
        {"sentence": i, "text": sentence.text.strip(), "p_before": planted.p[i], "p_after": planted.p[i + 1]}
        | {key: column[i] for key, column in columns.items()}
        for i, sentence in enumerate(trace.sentences)
    ]
    if json_output:
        clean = [{k: None if v != v else v for k, v in row.items()} for row in rows]
        typer.echo(json.dumps({"trace": trace.id, "answer": trace.answer, "sentences": clean}))
    else:
        _truth_table(trace, rows)


def _truth_table(trace: Any, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=cell(f"exact importance for the answer {trace.answer!r} of {trace.id}"), title_justify="left")
    for heading in ("#", "sentence", "role"):
        table.add_column(heading)
    for heading in ("P(answer) after", "resampling", "counterfactual"):
        table.add_column(heading, justify="right")
    for row in rows:
        other = "-" if row["counterfactual"] != row["counterfactual"] else f"{row['counterfactual']:+.3f}"
        numbers = f"{row['p_after']:.3f}", f"{row['resampling']:+.3f}", other
        table.add_row(str(row["sentence"]), cell(row["text"]), row["role"], *numbers)
    Console().print(table)


@lab.command()
def train(
    out: Annotated[Path, typer.Argument(help="folder for checkpoints and the finished model")],
    recipe: Annotated[
        str, typer.Option(help="a shipped model whose recipe to start from", autocompletion=_complete_recipe)
    ] = "reasoner",
    world: Annotated[
        str | None, typer.Option(help="default: the recipe's, as all that follow", autocompletion=_complete_world)
    ] = None,
    regime: Annotated[str | None, typer.Option(help="normal, draft, swapped, ... or a mixture")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="bpe or char")] = None,
    knob: Knobs = None,
    seed: Annotated[int | None, typer.Option()] = None,
    layers: Annotated[int | None, typer.Option()] = None,
    width: Annotated[int | None, typer.Option()] = None,
    heads: Annotated[int | None, typer.Option()] = None,
    mlp: Annotated[int | None, typer.Option()] = None,
    steps: Annotated[int | None, typer.Option()] = None,
    batch: Annotated[int | None, typer.Option(help="documents a step")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="no change: the card is JSON")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a small model from scratch, or continue where a stopped training left off, and write its card."""
    from anchors.lab.recipes import RECIPES, changed, train_and_card

    quiet_logging(quiet)
    if recipe not in RECIPES:
        raise ValueError(f"no recipe is called {recipe!r}; there are {', '.join(RECIPES)}")
    given = {"world": world, "regime": regime, "tokenizer": tokenizer, "seed": seed, "layers": layers, "width": width}
    given |= {"heads": heads, "mlp": mlp, "steps": steps, "batch": batch, "knobs": tuple(_knobs(knob).items()) or None}
    chosen = changed(RECIPES[recipe], **{name: value for name, value in given.items() if value is not None})
    typer.echo(json.dumps(train_and_card(chosen, out, progress=not quiet), indent=2))
