"""`anchors transfer` and `anchors compress`: what a run's anchors do in another model, and what to keep of a trace."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from anchors.commands.options import (
    MODELS,
    Gpus,
    Json,
    Quiet,
    Ray,
    RunFolder,
    Seed,
    Workers,
    complete_model,
    listed,
    loading,
    one_of,
    quiet_logging,
)
from anchors.models.base import CapabilityError
from anchors.printable import printable

logger = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (transfer, compress):
        app.command()(command)


def transfer(
    runs: Annotated[list[Path], typer.Argument(help="run directories of one writer")],
    reader: Annotated[str, typer.Option("--reader", help=MODELS, autocompletion=complete_model)],
    writer: Annotated[str | None, typer.Option(help="the model that wrote; default: the run's own, if it is lab/NAME")] = None,
    method: Annotated[str, typer.Option(help="which scores name the anchors")] = "counterfactual",
    outcome: Annotated[str | None, typer.Option(help="forced, free or handover; default: forced where possible")] = None,
    operations: Annotated[str | None, typer.Option(help="comma-separated, the first is primary: delete,block,...")] = None,
    k: Annotated[int, typer.Option("-k", help="anchors a trace")] = 3,
    controls: Annotated[int, typer.Option(help="matched control sets a trace")] = 5,
    n: Annotated[int, typer.Option("-n", help="continuations of the reader")] = 50,
    answer: Annotated[str, typer.Option(help="whose support is tested: own, target, or a text")] = "own",
    curve: Annotated[bool, typer.Option("--curve", help="compare every compressor")] = False,
    corrupt: Annotated[bool, typer.Option("--corrupt", help="show the trace shuffled, swapped, filled, ... too")] = False,
    preset: Annotated[str | None, typer.Option(help="pairs: the statistics of the closest prior study")] = None,
    relaxed: Annotated[bool, typer.Option("--relaxed", help="controls of any category and count of numbers")] = False,
    seed: Seed = 0,
    ray: Ray = None,
    workers: Workers = None,
    gpus_per_worker: Gpus = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="also write everything found to this JSON file")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="also write it as an HTML page")] = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Test whether a writer's anchors carry the answer in a reader, against matched control sentences.

    Uses the rollouts of the runs, else their stored scores. Finished traces are kept in transfer/ of the first run.
    """
    from anchors.transfer import Calipers, transfer_anchors
    from anchors.transfer.measure import OUTCOMES

    quiet_logging(quiet)
    given = [item for run in runs for item in _scored(run, method)]
    if not given:
        raise ValueError(f"no {method} scores in {', '.join(map(str, runs))}; run anchors score first")
    loose = {"category": False, "numbers": False} if relaxed else {}
    choices = {"outcome": one_of("outcome", outcome, OUTCOMES), "preset": one_of("preset", preset, ("pairs",))}
    with loading(ray, workers, gpus_per_worker) as load:
        found = transfer_anchors(
            given, reader=load(reader), writer=_writer(given[0], writer, load), method=method, k=k, controls=controls, n=n,
            answer=None if answer == "own" else answer, operations=None if operations is None else listed(operations),
            calipers=Calipers(**loose), compressors="all" if curve else (), corrupt=corrupt, seed=seed,
            out=runs[0] / "transfer", progress=not quiet, **choices,
        )  # fmt: skip
    if out is not None:
        found.save(out)
    if report is not None:
        from anchors.report import write_transfer_report

        write_transfer_report(found, report)
    typer.echo(json.dumps(found.to_json()) if json_output else printable(str(found)))


def _scored(run: Path, method: str) -> Iterator[Any]:
    """Each trace's rollouts where the method is computed from them and there are some, else its stored scores."""
    from anchors.rollouts import Rollouts
    from anchors.scoring import REUSING, stored_scores

    for rollouts in Rollouts.open(run):
        if method in REUSING and rollouts.cost().rollouts:
            yield rollouts
        else:
            yield from (s for s in stored_scores(run, rollouts.trace) if s.method == method)


def _writer(given: Any, name: str | None, load: Callable[[str], Any] | None = None) -> Any:
    """The writer's model: the one named, else the shipped one that the run says it was made with, else None."""
    from anchors.models import lab_models, load_model
    from anchors.rollouts import Rollouts

    load = load or load_model
    if name is not None:
        return load(name)
    made = given.store.settings if isinstance(given, Rollouts) else given.details
    stored = str(made.get("model", ""))
    if not stored.startswith("lab/") or stored.removeprefix("lab/") not in lab_models():
        return None
    model = load(stored)
    if made.get("weights", model.fingerprint) == model.fingerprint:
        return model
    logger.warning("the run was made with other weights of %s; its effect in the writer is not measured", stored)
    return None


def compress(
    run: RunFolder,
    method: Annotated[str, typer.Option(help="a compressor; --all shows which there are")] = "anchors",
    budget: Annotated[float, typer.Option(help="share of the tokens that may stay")] = 0.3,
    reader: Annotated[str | None, typer.Option("--reader", help="whose tokens are counted; default: characters")] = None,
    scores: Annotated[str, typer.Option(help="which stored scores of the run name the anchors")] = "counterfactual",
    leak: Annotated[str, typer.Option(help="keep, or strip sentences that state the answer first")] = "keep",
    marker: Annotated[bool, typer.Option("--marker", help="put [SKIP] where sentences were removed")] = False,
    every: Annotated[bool, typer.Option("--all", help="a table of every compressor that has what it needs")] = False,
    seed: Seed = 0,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Keep a share of every trace of a run, by the writer's anchors or by any other compressor."""
    from anchors.compression import compress_trace
    from anchors.models import load_model
    from anchors.rollouts import Rollouts
    from anchors.scoring import stored_scores

    quiet_logging(quiet)
    leak = one_of("leak", leak, ("keep", "strip"))
    given: dict[str, Any] = {"budget": budget, "leak": leak, "seed": seed, "marker": "[SKIP]" if marker else None}
    given["reader"] = None if reader is None else load_model(reader)
    for rollouts in Rollouts.open(run):
        trace = rollouts.trace
        given["scores"] = next((s for s in stored_scores(run, trace) if s.method == scores), None)
        if every:
            _every(trace, given, json_output=json_output)
            continue
        if given["scores"] is None and method == "anchors":
            raise ValueError(f"no {scores} scores of trace {trace.id} in {run}; run anchors score, or name --scores")
        found = compress_trace(trace, method=method, **given)
        if json_output:
            typer.echo(json.dumps(_compressed(trace, found)))
        else:
            kept = f"{_kept(found, trace)}\n{found.trace.reasoning.strip()}\n"
            typer.echo(printable(f"trace {trace.id}, {found.method}: {kept}"))


def _every(trace: Any, given: dict[str, Any], *, json_output: bool) -> None:
    """Every compressor on one trace: a table, and why others are left out."""
    from rich.console import Console

    from anchors.compression import COMPRESSORS, compress_trace
    from anchors.table import compressors_table

    found, left = [], {}
    for name in COMPRESSORS:
        try:
            found.append(compress_trace(trace, method=name, **given))
        except (ValueError, CapabilityError) as error:
            left[name] = str(error)
    if not found:
        raise ValueError(next(iter(left.values())))
    if json_output:
        rows = [_compressed(trace, c) for c in found]
        typer.echo(json.dumps({"trace": trace.id, "compressed": rows, "left out": left}))
        return
    Console().print(compressors_table(trace, found))
    for why in left.values():
        typer.echo(printable(f"left out: {why}"))


def _kept(found: Any, trace: Any) -> str:
    share = found.tokens / found.full_tokens if found.full_tokens else 0.0
    size = f"{found.tokens} of {found.full_tokens} {found.counted} ({share:.0%})"
    return size if found.kept is None else f"{len(found.kept)} of {len(trace)} sentences, {size}"


def _compressed(trace: Any, found: Any) -> dict[str, Any]:
    record = {name: getattr(found, name) for name in found._fields if name != "trace"}
    share = found.tokens / found.full_tokens if found.full_tokens else 0.0
    return {"trace": trace.id, **record, "share": share, "reasoning": found.trace.reasoning}
