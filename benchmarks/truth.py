"""How near the scores come to exact truth, on traces that small models wrote about worlds that are known exactly.

1. A shipped model reasons on fresh problems of its world; traces the world could have written word for word are kept.
2. Every method scores them, and is compared within each trace with the world's exact importance (Spearman) and with
   the planted roles (AUROC, precision at k). Black-box methods are repeated with fewer rollouts: cost against accuracy.
3. Position, sentence length and headroom are scored the same way: a method is worth what it adds to them. Exact truth
   and rollouts drawn by the world itself are scored too: the first is the best there is, the second the best n can do.
4. Coverage is the share of exact importances inside the 95 % intervals, with rollouts of the world and of the model.
5. On the null world, where nothing is planted, every anchor a method names is false.
6. OUT/WORLD.json holds what the tables show, OUT/WORLD-MEASURE.svg draws it over cost.

Truth is the world's; the rollouts are the model's. What a model has not learned shows as error of every method.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from matplotlib.figure import Figure
from timing import MODELS

from anchors import (
    Rollouts,
    Scores,
    Trace,
    counterfactual_importance,
    forced_importance,
    load_model,
    receiver_heads,
    resample,
    resample_traces,
    resampling_importance,
    seek_alternatives,
    sentence_confidence,
    suppress,
    write_traces,
)
from anchors.alternatives import FIRST
from anchors.lab import world_trace
from anchors.lab.oracle import WorldModel, same_event
from anchors.lab.truth import read_trace
from anchors.lab.worlds import World, answers_here, load_world
from anchors.lab.yardstick import Grade, Planted, grade, plant
from anchors.models import lab_models
from anchors.plotting import accuracy_curves, read_accuracy
from anchors.similarity import default_similarity, lexical
from anchors.stats import benjamini_hochberg, cluster_bootstrap, pooled_mean, wilson_interval

SHORTEST = 6
FEWER = (10, 25, 50)
COLUMNS = {
    "counterfactual": "rho counterfactual",
    "resampling": "rho resampling",
    "size_counterfactual": "rho size, cf.",
    "size_resampling": "rho size, res.",
    "auroc": "AUROC",
    "auroc_idle": "AUROC, idle",
    "precision": "precision at k",
}


class Row(NamedTuple):
    """One method on one trace: its grade, its cost in tokens, and what `inside` says (NaN where it claims nothing)."""

    grade: Grade
    generated: int
    forward: int
    inside: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare scores with the exact truth of the lab's worlds.")
    parser.add_argument("--traces", type=int, default=200)
    parser.add_argument("-n", type=int, default=100, help="rollouts a boundary")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worlds", default="expression,alchemy,null", help="comma-separated")
    parser.add_argument("--alternatives", type=int, default=25, help="rollouts of other meaning a boundary; 0 for none")
    parser.add_argument("--out", type=Path, default=Path("runs/truth"), help="rollouts are kept and continued here")
    options = parser.parse_args()
    for name in options.worlds.split(","):
        started = time.perf_counter()
        if name == "null":
            report_null(options)
        else:
            report_world(name, options)
        print(f"\n{name}: {time.perf_counter() - started:.0f} s", flush=True)


# -- planted worlds ---------------------------------------------------------------------------------------------------


def report_world(name: str, options: argparse.Namespace) -> None:
    """Draw, score and print one world's tables."""
    if MODELS[name].removeprefix("lab/") not in lab_models():
        print(f"truth: {name} skipped, {MODELS[name]} is not built (make zoo)")
        return
    world, model = load_world(name), load_model(MODELS[name])
    planted, written = known_traces(world, model, options.traces, options.seed)
    print(
        f"\n## `{name}`: {model.name}, {len(planted)} traces, {sum(len(p.trace) for p in planted)} sentences, "
        f"{sum(int(p.anchors.sum()) for p in planted)} planted anchors, n = {options.n}; {written} traces written to find them"
    )
    out = options.out / name
    runs = resample_traces([p.trace for p in planted], model, n=options.n, seed=options.seed, out=out)
    rows: dict[str, list[Row]] = {}
    for p, run in zip(planted, runs, strict=True):
        for method, row in score_trace(p, run, model, world, options):
            rows.setdefault(method, []).append(row)
    print_grades(rows)
    print_coverage(rows)
    save_results(name, rows, options)


def known_traces(world: World, model: Any, wanted: int, seed: int) -> tuple[list[Planted], int]:
    """Traces the model wrote that follow the program to its end, and how many were written for them."""
    rng, found, written = random.Random(f"truth {seed}"), list[Planted](), 0
    while len(found) < wanted and written < 20 * wanted:
        problems = [world.problem(rng) for _ in range(wanted)]
        prompts, golds = [world.prompt(p) for p in problems], [world.gold(p) for p in problems]
        for trace in write_traces(prompts, model, targets=golds, seed=seed + written):
            written += 1
            if len(found) < wanted and trace.id not in {p.trace.id for p in found}:
                found += follows(world, trace)
    if len(found) < wanted:
        raise ValueError(f"{model.name} wrote {len(found)} traces of the world in {written}; {wanted} are needed")
    return found, written


def follows(world: World, trace: Trace) -> list[Planted]:
    """The planted trace, if it is long enough and on the program."""
    try:
        ends = answers_here(world, read_trace(world, trace).states[-1])
    except ValueError:
        return []
    return [plant(trace, world)] if trace.answer in ends and len(trace) >= SHORTEST else []


def score_trace(
    planted: Planted, run: Rollouts, model: Any, world: World, options: argparse.Namespace
) -> Iterator[tuple[str, Row]]:
    """Every method on one trace."""
    n, trace = options.n, planted.trace
    tokens = len(model.encode(trace.text).ids)
    for k in (*(f for f in FEWER if f < n), n):
        yield from black_box(planted, first(run, k), world, f"n = {k}", tokens)
    yield from other_filters(planted, run, f"n = {n}", tokens)
    yield from topped_up(planted, run, model, world, options, tokens)
    own = resample(trace, WorldModel(world), n=n, seed=options.seed, progress=False)
    yield from black_box(planted, own, world, f"world's own rollouts, n = {n}", tokens)
    yield from white_box(planted, model, tokens)
    yield from baselines(planted)


def first(run: Rollouts, n: int) -> Rollouts:
    """The first n rollouts of every boundary, in memory."""
    return run.held(r for k in range(len(run.trace) + 1) for r in run.at(k)[:n])


def black_box(planted: Planted, run: Rollouts, world: World, words: str, tokens: int) -> Iterator[tuple[str, Row]]:
    generated = run.cost().tokens
    cost = generated, generated + tokens
    for reuse in (False, True):
        tail = f"{words}{', reuse' if reuse else ''}"
        scores = resampling_importance(run, reuse=reuse)
        yield f"resampling, {tail}", Row(grade(scores.values, planted), *cost, inside(scores, planted.resampling))
        scores = counterfactual_importance(run, similarity=same_event(world), reuse=reuse)
        yield (
            f"counterfactual, {tail}",
            Row(grade(scores.values, planted), *cost, inside(scores, planted.counterfactual)),
        )


def topped_up(
    planted: Planted, run: Rollouts, model: Any, world: World, options: argparse.Namespace, tokens: int
) -> Iterator[tuple[str, Row]]:
    """Counterfactual importance with further rollouts of other meaning, all that was drawn for them in the cost."""
    if not options.alternatives:
        return
    same = same_event(world)
    more = seek_alternatives(run, model, wanted=options.alternatives, similarity=same)
    tried = Rollouts(run.store, run.trace, kind=FIRST).cost().tokens + more.cost().tokens
    generated = run.cost().tokens + tried
    for reuse in (False, True):
        scores = counterfactual_importance(run, similarity=same, reuse=reuse, alternatives=more)
        row = Row(grade(scores.values, planted), generated, generated + tokens, inside(scores, planted.counterfactual))
        yield f"counterfactual, n = {options.n}, {options.alternatives} alternatives{', reuse' if reuse else ''}", row


def other_filters(planted: Planted, run: Rollouts, words: str, tokens: int) -> Iterator[tuple[str, Row]]:
    generated = run.cost().tokens
    for similarity in {s.name: s for s in (lexical(), default_similarity())}.values():
        scores = counterfactual_importance(run, similarity=similarity)
        row = Row(grade(scores.values, planted), generated, generated + tokens, inside(scores, planted.counterfactual))
        yield f"counterfactual, {similarity.name} filter, {words}", row


def white_box(planted: Planted, model: Any, tokens: int) -> Iterator[tuple[str, Row]]:
    trace = planted.trace
    suppressed = suppress(trace, model)
    starts = np.searchsorted([a for a, _ in model.encode(trace.text).offsets], trace.boundaries)
    blocked = tokens + int((tokens - starts[:-1]).sum())
    forced = forced_importance(trace, model)
    nothing = np.full((3, len(trace)), np.nan)
    for name, values, signed, forward in (
        ("forced answer", forced.values, True, int(starts.sum())),
        ("suppression, on the answer", suppressed.values, True, blocked),
        ("suppression, on later sentences", suppressed.outgoing, False, blocked),
        ("receiver heads", receiver_heads(trace, model).values, False, tokens),
        ("confidence, low first", -sentence_confidence(trace, model).values, False, tokens),
    ):
        yield name, Row(grade(values, planted, signed=signed), 0, forward, nothing)


def baselines(planted: Planted) -> Iterator[tuple[str, Row]]:
    trace, nothing = planted.trace, np.full((3, len(planted.trace)), np.nan)
    lengths = np.array([float(len(s.text)) for s in trace.sentences])
    for name, values, signed in (
        ("baseline: position, early first", -np.arange(len(trace), dtype=float), False),
        ("baseline: length, long first", lengths, False),
        ("baseline: headroom (exact)", planted.headroom, False),
        ("ceiling: exact counterfactual", planted.counterfactual, True),
        ("ceiling: exact resampling", planted.resampling, True),
        ("ceiling: exact counterfactual, ties broken", _ties_broken(planted.counterfactual), True),
        ("ceiling: exact resampling, ties broken", _ties_broken(planted.resampling), True),
    ):
        yield name, Row(grade(values, planted, signed=signed), 0, 0, nothing)


def _ties_broken(exact: np.ndarray) -> np.ndarray:
    """Exact values with noise too small to matter: what a perfect estimate of sentences without any effect can reach."""
    return exact + 1e-9 * np.random.default_rng(0).standard_normal(len(exact))


def inside(scores: Scores, exact: np.ndarray) -> np.ndarray:
    """[inside, flagged, exact is not zero] for every sentence that has an exact importance and was measured, else NaN."""
    edge, flagged = 1e-9, np.zeros(len(exact))
    if not np.isnan(scores.p).all():
        flagged[scores.anchors()] = 1
    hit = (scores.low - edge <= exact) & (exact <= scores.high + edge)
    rows = np.array([hit, flagged, np.abs(exact) > edge], dtype=float)
    rows[:, np.isnan(exact) | np.isnan(scores.values)] = np.nan
    return rows


# -- printing ---------------------------------------------------------------------------------------------------------


def print_grades(rows: Mapping[str, Sequence[Row]]) -> None:
    print(
        "\nMean over traces [95 %, bootstrap over traces]. rho: Spearman with exact importance within the trace, signed; "
        "size: of absolute values. AUROC: planted anchors against all other sentences; idle: against restatements, "
        "fillers and decoys. k: the number of planted anchors. Tokens a trace (words for the world's own rollouts).\n"
    )
    head = ["method", *COLUMNS.values(), "generated tokens", "forward tokens"]
    print_row(head)
    print_row(["---"] * len(head))
    for method, found in rows.items():
        cells = [cell([getattr(row.grade, column) for row in found]) for column in COLUMNS]
        costs = [f"{np.mean([getattr(row, kind) for row in found]):,.0f}" for kind in ("generated", "forward")]
        print_row([method, *cells, *costs])


def print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def cell(values: Sequence[float]) -> str:
    """Mean over the traces that have a value, with its interval and their number where some have none."""
    found = estimate(values)
    if found is None:
        return "-"
    mean, low, high, measured = found
    missing = f" ({measured})" if measured < len(values) else ""
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]{missing}"


def estimate(values: Sequence[float]) -> tuple[float, float, float, int] | None:
    """Mean, 95 % interval and number of the traces that have a value; None where none has."""
    measured = [[v] for v in values if not np.isnan(v)]
    if not measured:
        return None
    low, high = cluster_bootstrap(measured)
    return float(np.mean(measured)), float(low), float(high), len(measured)


def save_results(name: str, rows: Mapping[str, Sequence[Row]], options: argparse.Namespace) -> None:
    """OUT/WORLD.json, which `anchors.plotting.read_accuracy` reads, and the figures made of it."""
    methods = [
        {"method": method}
        | {kind: float(np.mean([getattr(row, kind) for row in found])) for kind in ("generated", "forward")}
        | {column: estimate([getattr(row.grade, column) for row in found]) for column in COLUMNS}
        for method, found in rows.items()
    ]
    made = {"world": name, "model": MODELS[name], "traces": options.traces, "n": options.n, "seed": options.seed}
    path = options.out / f"{name}.json"
    path.write_text(json.dumps(made | {"methods": methods}, indent=1) + "\n", encoding="utf-8")
    for measure in ("auroc", "resampling", "counterfactual"):
        ax = accuracy_curves(read_accuracy(path, measure=measure), measure=measure)
        cast(Figure, ax.figure).savefig(options.out / f"{name}-{measure}.svg")
    print(f"\nresults: {path}; figures: {options.out / name}-*.svg")


def print_coverage(rows: Mapping[str, Sequence[Row]]) -> None:
    print(
        "\nShare of exact importances inside the 95 % interval. False discovery rate at fdr .05: the mean over traces of the "
        "share of named anchors whose exact importance is zero, 0 where none is named [95 %, bootstrap over traces].\n"
    )
    print_row(["method", "coverage", "coverage, exact not 0", "anchors named", "false discovery rate"])
    print_row(["---"] * 5)
    for method, found in rows.items():
        columns = [row.inside[:, ~np.isnan(row.inside[0])] for row in found]
        if not any(c.size for c in columns):
            continue
        hits = [c[0] for c in columns if c.shape[1]]
        moved = [c[0][c[2] == 1] for c in columns if (c[2] == 1).any()]
        named = [1 - c[2][c[1] == 1] for c in columns]
        rates = [[v.mean() if len(v) else 0.0] for v in named]
        rate = f"{np.mean(rates):.3f} [{', '.join(f'{end:.3f}' for end in cluster_bootstrap(rates))}]"
        print_row([method, share(hits), share(moved), f"{sum(map(len, named))}", rate])


def share(groups: Sequence[np.ndarray]) -> str:
    """Share over all sentences, with an interval over redrawn traces."""
    if not groups:
        return "-"
    low, high = cluster_bootstrap(groups, pooled_mean)
    return f"{pooled_mean(groups):.3f} [{low:.3f}, {high:.3f}]"


# -- the null ---------------------------------------------------------------------------------------------------------


def report_null(options: argparse.Namespace) -> None:
    """Anchors named where nothing is planted: every one is false, so the rate over traces must stay under 5 %."""
    world = load_world("null")
    model = load_model("lab/null") if "null" in lab_models() else None
    print(f"\n## `null`: {options.traces} traces, n = {options.n}, anchors at fdr .05\n")
    flags: dict[str, list[bool]] = {}
    for i in range(options.traces):
        trace = world_trace(world, seed=options.seed + i)
        for method, function in null_methods(trace, world, model, options).items():
            flags.setdefault(method, []).append(bool(function()))
    print_row(["method", "traces with an anchor", "share [95 %]"])
    print_row(["---"] * 3)
    for method, found in flags.items():
        low, high = wilson_interval(sum(found), len(found))
        print_row([method, f"{sum(found)} of {len(found)}", f"{np.mean(found):.3f} [{low:.3f}, {high:.3f}]"])


def null_methods(
    trace: Trace, world: World, model: Any, options: argparse.Namespace
) -> Mapping[str, Callable[[], Sequence[int]]]:
    """The anchors each method names; methods that only rank name none and are left out."""
    run = resample(trace, WorldModel(world), n=options.n, seed=options.seed, progress=False)
    same = same_event(world)
    scored: dict[str, Callable[[], Scores]] = {
        "resampling": lambda: resampling_importance(run),
        "resampling, reuse": lambda: resampling_importance(run, reuse=True),
        "resampling KL": lambda: resampling_importance(run, metric="kl"),
        "counterfactual": lambda: counterfactual_importance(run, similarity=same),
        "counterfactual, reuse": lambda: counterfactual_importance(run, similarity=same, reuse=True),
        "counterfactual KL": lambda: counterfactual_importance(run, similarity=same, metric="kl"),
    }
    found: dict[str, Callable[[], Sequence[int]]] = {k: lambda f=f: f().anchors(fdr=0.05) for k, f in scored.items()}
    if model is not None:
        found["attention beyond distance, lab/null (names no anchor)"] = lambda: attended(trace, model)
    return found


def attended(trace: Trace, model: Any) -> list[int]:
    """Sentences looked back at more than their distance explains: a finding about attention, not about the answer."""
    p = receiver_heads(trace, model).recency_p
    tested = np.flatnonzero(~np.isnan(p))
    return tested[benjamini_hochberg(p[tested], fdr=0.05)].tolist()


if __name__ == "__main__":
    main()
