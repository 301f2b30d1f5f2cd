"""`anchors vote`: one answer from many traces of a prompt, by majority, by confidence, and online."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anchors.commands.options import MODELS, Json, Quiet, Seed, complete_model, one_of, quiet_logging
from anchors.printable import cell

if TYPE_CHECKING:
    from anchors.confidence import Definition
    from anchors.online import StoredTrace
    from anchors.trace import Trace

SHORTEST, PART, PUBLISHED = 8, 6, 2048


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(vote)


def vote(
    traces: Annotated[Path | None, typer.Argument(help="trace file (.jsonl, .json); traces of one prompt vote together")] = None,
    prompts: Annotated[str | None, typer.Option(help="or a prompt, or a .jsonl file with prompt and perhaps target a line")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help=MODELS, autocompletion=complete_model)] = None,
    n: Annotated[int, typer.Option("-n", help="traces drawn a prompt, or the budget with --online")] = 32,
    weight: Annotated[str, typer.Option(help="lowest, tail, mean or bottom confidence; higher is more certain")] = "lowest",
    top: Annotated[float, typer.Option(help="share of the most confident traces a filtered vote keeps")] = 0.1,
    window: Annotated[int | None, typer.Option(help="tokens in a group and in the tail; default: a sixth of a trace")] = None,
    online: Annotated[bool, typer.Option("--online", help="stop traces that lose confidence (stored ones: replay it)")] = False,
    warm_up: Annotated[int, typer.Option(help="whole traces that set the online threshold")] = 16,
    consensus: Annotated[float, typer.Option(help="share of the votes at which drawing ends; 0: never")] = 0.95,
    seed: Seed = 0,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Vote with many traces of one prompt: majority, weighted by confidence, the most confident only, and online."""
    from tqdm.auto import tqdm

    from anchors.confidence import KINDS
    from anchors.models import load_model
    from anchors.online import EarlyStop
    from anchors.spending import watched

    quiet_logging(quiet)
    if (traces is None) == (prompts is None):
        raise ValueError("give either a trace file or --prompts, and not both")
    if model is None and (prompts is not None or online):
        raise ValueError("--prompts and --online need --model; without one, stored traces are counted by majority only")
    loaded = None if model is None else load_model(model)
    chosen: dict[str, Any] = {"weight": one_of("weight", weight, KINDS), "top": top, "window": window}
    if online:
        chosen["rule"] = EarlyStop(min(warm_up, max(1, n // 2)), top, n, consensus or None)
    if traces is not None:
        asked = [partial(_stored, prompt, group, loaded, chosen) for prompt, group in _by_prompt(traces).items()]
    else:
        asked = [partial(_drawn, prompt, gold, loaded, chosen, n, seed) for prompt, gold in _prompts(str(prompts))]
    with tqdm(asked, desc="vote", unit=" prompts", disable=quiet or None) as bar, watched(bar):
        found = [count() for count in bar]
    if json_output:
        typer.echo(json.dumps(found))
        return
    for record in found:
        _show(record)
    if len(found) > 1:
        _summary(found)


def _prompts(given: str) -> list[tuple[str, str | None]]:
    if not given.endswith(".jsonl"):
        return [(given, None)]
    from anchors.datasets import read_prompts

    return read_prompts(given)


def _by_prompt(path: Path) -> dict[str, list[Trace]]:
    from anchors.datasets import load_traces

    groups: dict[str, list[Trace]] = {}
    for trace in load_traces(path):
        groups.setdefault(trace.prompt, []).append(trace)
    return groups


def _stored(prompt: str, group: list[Trace], model: Any, chosen: dict[str, Any]) -> dict[str, Any]:
    """The votes of stored traces; without a model nothing is known of their confidence."""
    from anchors.online import regrouped, replay_online, stored_traces
    from anchors.voting import vote as count

    gold = next((trace.target for trace in group if trace.target is not None), None)
    if model is None:
        rows = [_row("majority", count([trace.answer for trace in group]), gold, None)]
        return {"prompt": prompt, "target": gold, "traces": len(group), "window": None, "votes": rows}
    read = stored_traces(group, model)
    rule = _definition(read, chosen["window"])
    read = regrouped(read, rule)
    rows = _offline(read, gold, chosen)
    if "rule" in chosen:
        rows.append(_online_row(replay_online(read, rule=chosen["rule"]), gold))
    return _record(prompt, gold, read, rule, rows)


def _drawn(prompt: str, gold: str | None, model: Any, chosen: dict[str, Any], n: int, seed: int) -> dict[str, Any]:
    """The votes of freshly drawn traces; online, only the warm-up is drawn whole."""
    from anchors.online import draw_traces, regrouped, vote_online

    online = chosen.get("rule")
    traces = draw_traces(prompt, model, n if online is None else online.warm_up, seed=seed)
    rule = _definition(traces, chosen["window"])
    traces = regrouped(traces, rule)
    if online is None:
        return _record(prompt, gold, traces, rule, _offline(traces, gold, chosen))
    found = vote_online(prompt, model, rule=online, definition=rule, seed=seed, warm_up=traces)
    return _record(prompt, gold, traces, rule, [_online_row(found, gold)])


def _definition(traces: list[StoredTrace], window: int | None) -> Definition:
    """The window asked for, else a sixth of the middle trace, between 8 and the published 2048 tokens."""
    from statistics import median

    from anchors.confidence import Definition

    if window is None:
        middle = int(median(len(trace.confidence.tokens) for trace in traces))
        window = min(PUBLISHED, max(SHORTEST, middle // PART))
    return Definition(window=window, tail=window)


def _offline(traces: list[StoredTrace], gold: str | None, chosen: dict[str, Any]) -> list[dict[str, Any]]:
    from anchors.voting import vote as count

    kind, top = chosen["weight"], chosen["top"]
    answers, tokens = [trace.answer for trace in traces], sum(trace.cost for trace in traces)
    weights = [trace.confidence.of(kind) for trace in traces]
    return [
        _row("majority", count(answers), gold, tokens),
        _row(f"weighted by {kind}", count(answers, weights), gold, tokens),
        _row(f"top {top:.0%} by {kind}", count(answers, weights, top=top), gold, tokens),
    ]


def _online_row(found: Any, gold: str | None) -> dict[str, Any]:
    row = _row(f"online, until {found.ended}", found.vote, gold, found.spent)
    saved = found.saved if found.saved == found.saved else None
    return row | {"traces": len(found.traces), "stopped": found.stopped, "saved": saved, "threshold": found.threshold}


def _row(method: str, found: Any, gold: str | None, tokens: int | None) -> dict[str, Any]:
    from anchors.answers import same_answer

    right = None if gold is None else found.answer is not None and same_answer(found.answer, gold)
    share = found.consensus if found.consensus == found.consensus else None
    counts = {name: getattr(found, name) for name in ("voters", "no_answer", "unmeasured", "filtered")}
    row = {"vote": method, "answer": found.answer, "share": share, **counts, "tied": list(found.tied)}
    return row | {"right": right, "tokens": tokens}


def _record(
    prompt: str, gold: str | None, traces: list[StoredTrace], rule: Definition, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    lengths = [len(trace.confidence.tokens) for trace in traces]
    share = rule.window * len(lengths) / max(1, sum(lengths))
    made = {"prompt": prompt, "target": gold, "traces": len(traces), "window": rule.window, "window share": share}
    return made | {"votes": rows}


def _show(record: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    about = f"{record['traces']} traces, target {record['target']!r}"
    if record["window"] is not None:
        about += f", windows of {record['window']} tokens ({record['window share']:.0%} of a trace)"
    table = Table(title=cell(f"{record['prompt'].strip()[:60]!r}: {about}"), title_justify="left", box=SIMPLE_HEAD)
    for name in ("vote", "answer", "share", "voters", "dropped", "tokens", "right"):
        table.add_column(name, justify="left" if name in ("vote", "answer") else "right")
    for row in record["votes"]:
        share = "" if row["share"] is None else f"{row['share']:.2f}{' tied' if row['tied'] else ''}"
        dropped = row["no_answer"] + row["unmeasured"] + row["filtered"] + row.get("stopped", 0)
        right = "" if row["right"] is None else "yes" if row["right"] else "no"
        tokens = "" if row["tokens"] is None else f"{row['tokens']:,}"
        if row.get("saved") is not None:
            tokens += f" ({row['saved']:.0%} saved)"
        table.add_row(row["vote"], cell(str(row["answer"])), share, str(row["voters"]), str(dropped), tokens, right)
    Console().print(table)


def _summary(found: list[dict[str, Any]]) -> None:
    """Right votes and tokens of every way to vote, over all prompts with a target."""
    judged = [row for record in found for row in record["votes"] if row["right"] is not None]
    names = dict.fromkeys(row["vote"].partition(",")[0] for row in judged)
    for name in names:
        rows = [row for row in judged if row["vote"].partition(",")[0] == name]
        tokens = "" if rows[0]["tokens"] is None else f", {sum(row['tokens'] for row in rows):,} tokens"
        typer.echo(f"{name}: {sum(row['right'] for row in rows)} of {len(rows)} right{tokens}")
