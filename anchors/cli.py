"""The command line: every command takes and leaves a run directory, and the same command continues a stopped one.

Exit codes: 0 done, 1 failed, 2 wrong use.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from anchors.lab.commands import lab
from anchors.models.base import CapabilityError

logger = logging.getLogger(__name__)

INTERRUPTED = 130  # what typer exits with on Ctrl-C

app = typer.Typer(add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(lab, name="lab")

ModelName = Annotated[str, typer.Option("--model", "-m", help="lab/NAME, a hub id or a local directory")]
Out = Annotated[Path, typer.Option("--out", "-o", help="run directory")]
N = Annotated[int, typer.Option("-n", help="rollouts a boundary")]
Seed = Annotated[int, typer.Option(help="the same seed gives the same numbers")]
Json = Annotated[bool, typer.Option("--json", help="print machine-readable results")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar and no log")]
TraceFile = Annotated[Path, typer.Argument(help="trace file (.json, .jsonl, .txt) or math-rollouts folder")]
RunFolder = Annotated[Path, typer.Argument(help="run directory")]


@app.command()
def demo(
    out: Out = Path("demo"),
    model: ModelName = "lab/reasoner",
    n: N = 100,
    seed: Annotated[int | None, typer.Option(help="which problem and which rollouts; fresh by default")] = None,
    quiet: Quiet = False,
) -> None:
    """Let the shipped model reason on a fresh problem, score every sentence by every method, write a report."""
    from anchors.demo import run_demo

    _logging(quiet)
    seed = time.time_ns() % 10**6 if seed is None else seed
    result = run_demo(out, model=model, n=n, seed=seed, progress=not quiet)
    _show(result.trace, result.scores)
    for line in result.summary:
        typer.echo(line)


@app.command()
def write(
    prompts: Annotated[str, typer.Argument(help="a prompt, or a .jsonl file with prompt and perhaps target a line")],
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", "-o", help="trace file to write (.jsonl)")],
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Let a model reason on one or many prompts and store its traces, ready for `anchors score`."""
    from anchors.datasets import write_jsonl
    from anchors.models import load_model
    from anchors.resampling import write_traces

    _logging(quiet)
    given = [{"prompt": prompts}]
    if prompts.endswith(".jsonl"):
        given = [json.loads(line) for line in Path(prompts).read_text(encoding="utf-8").splitlines() if line.strip()]
    if any("prompt" not in record for record in given):
        raise ValueError(f"{prompts}: every line needs a prompt")
    targets = [record.get("target") for record in given]
    written = write_traces([record["prompt"] for record in given], load_model(model), targets=targets, seed=seed)
    write_jsonl(written, out)
    for trace in written:
        typer.echo(f"{trace.id}\t{len(trace)} sentences\tanswer {trace.answer}\ttarget {trace.target}")


@app.command()
def score(
    traces: TraceFile,
    model: ModelName,
    out: Out,
    methods: Annotated[str, typer.Option(help="comma-separated")] = "resample,forced,attention,suppress,confidence",
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the bill and stop")] = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score every sentence of one or many traces."""
    from anchors.datasets import load_traces
    from anchors.models import load_model
    from anchors.resampling import plan_resampling
    from anchors.scoring import score_traces

    _logging(quiet)
    found, loaded = load_traces(traces), load_model(model)
    sampling = _sampling(loaded.sampling, temperature, top_p, max_new_tokens)
    more: dict[str, Any] = {"reuse": reuse, "alternatives": alternatives}
    options: dict[str, Any] = {"n": n, "seed": seed, "sampling": sampling, "out": out, "price": price}
    if dry_run:
        bill = plan_resampling(found, loaded, **options)
        typer.echo(json.dumps(bill.__dict__) if json_output else str(bill))
        return
    for rollouts, scores in score_traces(found, loaded, methods=methods, progress=not quiet, **more, **options):
        if json_output:
            typer.echo(json.dumps({"trace": rollouts.trace.id, "scores": [_record(s) for s in scores]}))
        else:
            _show(rollouts.trace, scores)
    typer.echo(f"run directory: {out}  (anchors report {out} -o report.html)", err=json_output)


def _single(method: str) -> Callable[..., None]:
    """A command that runs one method of `score`."""

    def command(
        traces: TraceFile, model: ModelName, out: Out, n: N = 100, seed: Seed = 0, json_output: Json = False,
        quiet: Quiet = False,
    ) -> None:  # fmt: skip
        score(traces, model, out, methods=method, n=n, seed=seed, json_output=json_output, quiet=quiet)

    return command


for _name, _method, _help in (
    ("resample", "resample", "Draw rollouts and score sentences by resampling."),
    ("attend", "attention", "Score sentences by receiver heads."),
    ("suppress", "suppress", "Score sentences by blocking attention to them."),
    ("confidence", "confidence", "Score sentences by the model's confidence."),
):
    app.command(_name, help=_help)(_single(_method))


@app.command()
def transfer(
    runs: Annotated[list[Path], typer.Argument(help="run directories of one writer")],
    reader: Annotated[str, typer.Option("--reader", help="lab/NAME, a hub id or a local directory")],
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
    out: Annotated[Path | None, typer.Option("--out", "-o", help="also write everything found to this JSON file")] = None,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Test whether a writer's anchors carry the answer in a reader, against matched control sentences.

    Uses the rollouts of the runs, else their stored scores. Finished traces are kept in transfer/ of the first run.
    """
    from anchors.models import load_model
    from anchors.transfer import Calipers, transfer_anchors
    from anchors.transfer.measure import OUTCOMES

    _logging(quiet)
    given = [item for run in runs for item in _scored(run, method)]
    if not given:
        raise ValueError(f"no {method} scores in {', '.join(map(str, runs))}; run anchors score first")
    loose = {"category": False, "numbers": False} if relaxed else {}
    choices = {"outcome": _one_of("outcome", outcome, OUTCOMES), "preset": _one_of("preset", preset, ("pairs",))}
    found = transfer_anchors(
        given, reader=load_model(reader), writer=_writer(given[0], writer), method=method, k=k, controls=controls, n=n,
        answer=None if answer == "own" else answer, operations=None if operations is None else _listed(operations),
        calipers=Calipers(**loose), compressors="all" if curve else (), corrupt=corrupt, seed=seed,
        out=runs[0] / "transfer", progress=not quiet, **choices,
    )  # fmt: skip
    if out is not None:
        found.save(out)
    typer.echo(json.dumps(found.to_json()) if json_output else str(found))


def _scored(run: Path, method: str) -> Iterator[Any]:
    """Each trace's rollouts where the method is computed from them and there are some, else its stored scores."""
    from anchors.rollouts import Rollouts
    from anchors.scoring import REUSING, stored_scores

    for rollouts in Rollouts.open(run):
        if method in REUSING and rollouts.cost().rollouts:
            yield rollouts
        else:
            yield from (s for s in stored_scores(run, rollouts.trace) if s.method == method)


def _writer(given: Any, name: str | None) -> Any:
    """The writer's model: the one named, else the shipped one that the run says it was made with, else None."""
    from anchors.models import lab_models, load_model
    from anchors.rollouts import Rollouts

    if name is not None:
        return load_model(name)
    made = given.store.settings if isinstance(given, Rollouts) else given.details
    stored = str(made.get("model", ""))
    if not stored.startswith("lab/") or stored.removeprefix("lab/") not in lab_models():
        return None
    model = load_model(stored)
    if made.get("weights", model.fingerprint) == model.fingerprint:
        return model
    logger.warning("the run was made with other weights of %s; its effect in the writer is not measured", stored)
    return None


def _one_of(name: str, value: str | None, known: Sequence[str]) -> Any:
    if value is not None and value not in known:
        raise ValueError(f"{name} is {value!r}; use {', '.join(known)}")
    return value


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]


@app.command()
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
) -> None:  # fmt: skip
    """Keep a share of every trace of a run, by the writer's anchors or by any other compressor."""
    from anchors.compression import compress_trace
    from anchors.models import load_model
    from anchors.rollouts import Rollouts
    from anchors.scoring import stored_scores

    _logging(quiet=True)
    leak = _one_of("leak", leak, ("keep", "strip"))
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
            typer.echo(f"trace {trace.id}, {found.method}: {_kept(found, trace)}\n{found.trace.reasoning.strip()}\n")


def _every(trace: Any, given: dict[str, Any], *, json_output: bool) -> None:
    """Every compressor on one trace: a table, and why others are left out."""
    from rich.console import Console

    from anchors.compression import COMPRESSORS, compress_trace
    from anchors.table import compressors_table
    from anchors.transfer import EVERY

    found, left = [], {}
    for name in dict.fromkeys([*EVERY, *COMPRESSORS]):
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
        typer.echo(f"left out: {why}")


def _kept(found: Any, trace: Any) -> str:
    share = found.tokens / found.full_tokens if found.full_tokens else 0.0
    size = f"{found.tokens} of {found.full_tokens} {found.counted} ({share:.0%})"
    return size if found.kept is None else f"{len(found.kept)} of {len(trace)} sentences, {size}"


def _compressed(trace: Any, found: Any) -> dict[str, Any]:
    record = {name: getattr(found, name) for name in found._fields if name != "trace"}
    share = found.tokens / found.full_tokens if found.full_tokens else 0.0
    return {"trace": trace.id, **record, "share": share, "reasoning": found.trace.reasoning}


@app.command()
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


@app.command()
def check(model: Annotated[str, typer.Argument(help="lab/NAME, a hub id or a local directory")]) -> None:
    """Is this model safe to measure? Prints what was found; fails when a check does."""
    from anchors.models import load_model
    from anchors.models.checks import check_model

    _logging(quiet=True)
    found = check_model(load_model(model, check=False))
    typer.echo(str(found))
    if not found.passed:
        raise typer.Exit(1)


def _logging(quiet: bool) -> None:
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(message)s")
    for name in ("httpx", "transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


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


@contextmanager
def _errors() -> Iterator[None]:
    """One line a failure: 2 for a wrong value or a missing extra, 1 for everything that failed on its own."""
    from anchors.extras import MissingExtra

    try:
        yield
    except (ValueError, FileNotFoundError, MissingExtra) as error:
        typer.echo(f"anchors: {error}", err=True)
        sys.exit(2)
    except (CapabilityError, OSError) as error:
        typer.echo(f"anchors: {error}", err=True)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code != INTERRUPTED:
            raise
        typer.echo("anchors: interrupted; finished rollouts are stored, the same command continues", err=True)
        sys.exit(1)


def main() -> None:
    """The `anchors` command."""
    with _errors():
        app(standalone_mode=True)
