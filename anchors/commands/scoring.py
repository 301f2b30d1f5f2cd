"""`anchors demo`, `write`, `score` and the commands that run one method of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from anchors.commands.options import (
    Gpus,
    Json,
    Methods,
    ModelName,
    N,
    Out,
    Quiet,
    Ray,
    Seed,
    TraceFile,
    Workers,
    loading,
    quiet_logging,
)
from anchors.printable import printable


def demo(
    out: Out = Path("demo"),
    model: ModelName = "lab/reasoner",
    n: N = 100,
    seed: Annotated[int | None, typer.Option(help="which problem and which rollouts; fresh by default")] = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let the shipped model reason on a fresh problem, score every sentence by every method, write a report."""
    from anchors.demo import run_demo

    quiet_logging(quiet)
    seed = time.time_ns() % 10**6 if seed is None else seed
    result = run_demo(out, model=model, n=n, seed=seed, progress=not quiet)
    if json_output:
        made = {"trace": result.trace.id, "answer": result.trace.answer, "target": result.trace.target, "seed": seed}
        found = {"scores": [_record(s) for s in result.scores], "transfer": result.transfer.to_json()}
        typer.echo(json.dumps(made | found | {"report": str(result.report), "run": str(out / "run")}))
        return
    _show(result.trace, result.scores)
    for line in result.summary:
        typer.echo(printable(line))


def write(
    prompts: Annotated[str, typer.Argument(help="a prompt, or a .jsonl file with prompt and perhaps target a line")],
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", "-o", help="trace file to write (.jsonl)")],
    seed: Seed = 0,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let a model reason on one or many prompts and store its traces, ready for `anchors score`."""
    from anchors.datasets import read_prompts, write_jsonl
    from anchors.models import load_model
    from anchors.resampling import write_traces

    quiet_logging(quiet)
    given = read_prompts(prompts) if prompts.endswith(".jsonl") else [(prompts, None)]
    asked, targets = [prompt for prompt, _ in given], [target for _, target in given]
    written = write_traces(asked, load_model(model), targets=targets, seed=seed, progress=not quiet)
    write_jsonl(written, out)
    for trace in written:
        made = {"trace": trace.id, "sentences": len(trace), "answer": trace.answer, "target": trace.target}
        text = f"{trace.id}\t{len(trace)} sentences\tanswer {trace.answer}\ttarget {trace.target}"
        typer.echo(json.dumps(made) if json_output else printable(text))


def score(
    traces: TraceFile,
    model: ModelName,
    out: Out,
    methods: Methods = "resample,forced,attention,suppress,confidence",
    n: N = 100,
    seed: Seed = 0,
    temperature: Annotated[float | None, typer.Option(help="default: the model's own, else 0.6")] = None,
    top_p: Annotated[float | None, typer.Option(help="default: the model's own, else 0.95")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="default: the model's own, else 16384")] = None,
    price: Annotated[float | None, typer.Option(help="price of a million generated tokens")] = None,
    reuse: Annotated[bool, typer.Option("--reuse", help="count rollouts at every boundary they pass through")] = False,
    alternatives: Annotated[
        int, typer.Option(help="draw until so many rollouts of a boundary mean something else")
    ] = 0,
    stop_anchors: Annotated[
        int,
        typer.Option("--stop-anchors", help="stop once so many anchors are known; -n is then the most a boundary gets"),
    ] = 0,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="rollouts at once; less takes less memory and changes no number")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the bill and stop")] = False,
    ray: Ray = None,
    workers: Workers = None,
    gpus_per_worker: Gpus = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score every sentence of one or many traces."""
    from anchors.datasets import load_traces
    from anchors.forecast import white_box_bill
    from anchors.resampling import plan_resampling
    from anchors.scoring import methods_named, score_traces

    quiet_logging(quiet)
    found = load_traces(traces)
    more: dict[str, Any] = {"reuse": reuse, "alternatives": alternatives}
    options: dict[str, Any] = {"n": n, "seed": seed, "out": out, "price": price}
    if batch_size is not None:
        options["batch_size"] = batch_size
    if stop_anchors:
        from anchors.stopping import Anchors

        options["stop"] = Anchors(k=stop_anchors)
    with loading(ray, workers, gpus_per_worker) as load:
        loaded = load(model)
        options["sampling"] = _sampling(loaded.sampling, temperature, top_p, max_new_tokens)
        if dry_run:
            bill = plan_resampling(found, loaded, **options)
            rows = white_box_bill(found, loaded, methods_named(methods))
            told = bill.__dict__ | {"white_box": {row.method: row.to_json() for row in rows}}
            typer.echo(json.dumps(told) if json_output else "\n".join(map(str, [bill, *rows])))
            return
        for rollouts, scores in score_traces(found, loaded, methods=methods, progress=not quiet, **more, **options):
            if json_output:
                typer.echo(json.dumps({"trace": rollouts.trace.id, "scores": [_record(s) for s in scores]}))
            else:
                _show(rollouts.trace, scores)
    typer.echo(f"run directory: {out}  (anchors report {out} -o report.html)", err=json_output)


SINGLE = (
    ("resample", "resample", "Draw rollouts and score sentences by resampling."),
    ("attend", "attention", "Score sentences by receiver heads."),
    ("suppress", "suppress", "Score sentences by blocking attention to them."),
    ("confidence", "confidence", "Score sentences by the model's confidence."),
)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (demo, write, score):
        app.command()(command)
    for name, method, text in SINGLE:
        app.command(name, help=text)(_single(method))


def _single(method: str) -> Callable[..., None]:
    """A command that runs one method of `score`."""

    def command(
        traces: TraceFile, model: ModelName, out: Out, n: N = 100, seed: Seed = 0, json_output: Json = False,
        quiet: Quiet = False,
    ) -> None:  # fmt: skip
        score(traces, model, out, methods=method, n=n, seed=seed, json_output=json_output, quiet=quiet)

    return command


def _sampling(default: Any, temperature: float | None, top_p: float | None, limit: int | None) -> Any:
    from dataclasses import replace

    given = {"temperature": temperature, "top_p": top_p, "max_new_tokens": limit}
    return replace(default, **{name: value for name, value in given.items() if value is not None})


def _record(scores: Any) -> dict[str, Any]:
    """Scores as JSON: NaN becomes null."""
    columns = {name: getattr(scores, name) for name in ("values", "low", "high", "n", "p", "floor")}
    rows = {k: [None if x != x else x for x in v.tolist()] for k, v in columns.items()}
    return {"method": scores.method, "unit": scores.unit, **rows, "details": dict(scores.details)}


def _show(trace: Any, scores: list[Any]) -> None:
    """A table of the top sentences of every method, with bars and intervals."""
    from rich.console import Console

    from anchors.table import top_sentences

    Console().print(top_sentences(trace, scores))
