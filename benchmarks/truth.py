"""How near the scores come to exact truth, on traces a small model wrote about a world that is known exactly.

1. The model reasons on fresh problems; traces that the world could have written word for word are kept.
2. Every method scores them, and is compared with the world's exact importance by Spearman's correlation within each
   trace. Signed methods are compared with their sign and without it, unsigned ones with |truth| only.
3. Position and headroom are scored the same way: a method is worth what it adds to them.
4. Coverage is the share of exact resampling importances inside their 95 % intervals.

Truth is the world's; the intervals are about the model. Their coverage also reflects how well the model learned the
world, so the coverage of the same intervals for rollouts drawn from the world itself is printed beside it.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np

from anchors import (
    Rollouts,
    Trace,
    counterfactual_importance,
    headroom,
    load_model,
    receiver_heads,
    resample_traces,
    resampling_importance,
    sentence_confidence,
    suppress,
    write_trace,
)
from anchors.lab.truth import answer_distribution, exact_counterfactual_importance, exact_resampling_importance
from anchors.lab.worlds import World, load_world, read
from anchors.models import lab_models
from anchors.similarity import default_similarity, lexical
from anchors.stats import cluster_bootstrap, difference_interval, spearman

SHORTEST = 6
DIGITS = 12
LARGE = 0.05


class Known(NamedTuple):
    """A trace with the exact importance of its sentences, and P(its answer) at every boundary."""

    trace: Trace
    p: np.ndarray
    resampling: np.ndarray
    counterfactual: np.ndarray


class Found(NamedTuple):
    """What one method says about one trace; `signed` when positive means support."""

    values: np.ndarray
    signed: bool


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare scores with the exact truth of a world.")
    parser.add_argument("--traces", type=int, default=20)
    parser.add_argument("-n", type=int, default=100, help="rollouts a boundary")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="lab/reasoner")
    options = parser.parse_args()
    if options.model.startswith("lab/") and options.model.removeprefix("lab/") not in lab_models():
        print(f"truth: skipped, {options.model} is not built (make zoo)")
        return
    world, model = load_world("expression"), load_model(options.model)
    known, tried = _known_traces(world, model, options.traces, options.seed)
    sentences = sum(len(k.trace) for k in known)
    print(
        f"truth  {model!r} on `{world.name}`: {len(known)} traces, {sentences} sentences, {options.n} rollouts a boundary; "
        f"{tried} traces were written to find them"
    )
    runs = resample_traces([k.trace for k in known], model, n=options.n, seed=options.seed)
    found = [_score(k.trace, rollouts, model) for k, rollouts in zip(known, runs, strict=True)]
    _print_correlations(known, found)
    _print_coverage(known, runs, options.n, options.seed)


def _known_traces(world: World, model: Any, wanted: int, seed: int) -> tuple[list[Known], int]:
    """Traces the model wrote that follow the program to its end, and how many were written for them."""
    rng, known = random.Random(f"truth {seed}"), []
    for tried in range(1, 20 * wanted + 1):
        problem = world.problem(rng)
        trace = write_trace(world.prompt(problem), model, seed=seed + tried, target=world.gold(problem), id=f"{tried}")
        states = read(world, problem, [s.text for s in trace.sentences])
        if len(trace) >= SHORTEST and len(states) == len(trace) + 1 and trace.answer is not None:
            known.append(_truth(world, trace, trace.answer, states))
        if len(known) == wanted:
            return known, tried
    raise ValueError(f"{model.name} wrote {len(known)} traces of the world in {20 * wanted}; {wanted} are needed")


def _truth(world: World, trace: Trace, answer: str, states: Sequence[Any]) -> Known:
    """Rounded, so that zeros are equal zeros."""
    p = np.array([answer_distribution(world, state).get(answer, 0.0) for state in states])
    exact = (exact_resampling_importance, exact_counterfactual_importance)
    return Known(trace, p, *(np.round(function(world, states, answer), DIGITS) for function in exact))


def _score(trace: Trace, rollouts: Rollouts, model: Any) -> dict[str, Found]:
    similarities = {s.name: s for s in (lexical(), default_similarity())}
    counterfactual = {
        f"counterfactual ({name})": Found(counterfactual_importance(rollouts, similarity=s).values, True)
        for name, s in similarities.items()
    }
    suppressed = suppress(trace, model)
    return {
        "resampling": Found(resampling_importance(rollouts).values, True),
        **counterfactual,
        "suppression, on the answer": Found(suppressed.values, True),
        "suppression, on later sentences": Found(suppressed.outgoing, False),
        "attention": Found(receiver_heads(trace, model).values, False),
        "confidence, low first": Found(-sentence_confidence(trace, model).values, False),
        "baseline: position, early first": Found(-np.arange(len(trace), dtype=float), False),
        "baseline: headroom": Found(headroom(rollouts), False),
    }


def _print_correlations(known: Sequence[Known], found: Sequence[dict[str, Found]]) -> None:
    print("\nmean within-trace Spearman with exact importance [95 %, bootstrap over traces]")
    print(f"{'':<34}{'resampling':<30}{'|resampling|':<30}{'counterfactual':<30}{'|counterfactual|':<30}")
    for method in found[0]:
        cells = ""
        for kind in ("resampling", "counterfactual"):
            for sign in (True, False):
                pairs = [(f[method], getattr(k, kind)) for k, f in zip(known, found, strict=True)]
                cells += f"{_cell(pairs, sign):<30}"
        print(f"{method:<34}{cells}")


def _cell(pairs: Sequence[tuple[Found, np.ndarray]], sign: bool) -> str:
    """Mean Spearman over the traces that have one; an unsigned method has no signed column."""
    if sign and not pairs[0][0].signed:
        return "-"
    values = [_correlation(f, truth, sign) for f, truth in pairs]
    measured = [[v] for v in values if not np.isnan(v)]
    if not measured:
        return "not measured"
    low, high = cluster_bootstrap(measured)
    missing = f" n={len(measured)}" if len(measured) < len(values) else ""
    return f"{np.mean(measured):+.2f} [{low:+.2f}, {high:+.2f}]{missing}"


def _correlation(found: Found, truth: np.ndarray, sign: bool) -> float:
    if sign:
        return spearman(found.values, truth).value
    return spearman(np.abs(found.values) if found.signed else found.values, np.abs(truth)).value


def _print_coverage(known: Sequence[Known], runs: Sequence[Rollouts], n: int, seed: int) -> None:
    print("\ncoverage of the 95 % intervals of resampling importance against the world's exact importance")
    print(f"{'':<34}{'all sentences':<32}{f'|exact| > {LARGE}':<32}")
    rng = np.random.default_rng(seed)
    rows = {"rollouts of the model": [], "rollouts of the world itself": []}
    for k, rollouts in zip(known, runs, strict=True):
        scores = resampling_importance(rollouts)
        rows["rollouts of the model"].append(_inside(k, scores.low, scores.high))
        hits = rng.binomial(n, np.clip(k.p, 0, 1))
        rows["rollouts of the world itself"].append(_inside(k, *difference_interval(hits[1:], n, hits[:-1], n)))
    for words, inside in rows.items():
        large = [i[np.abs(k.resampling) > LARGE] for i, k in zip(inside, known, strict=True)]
        print(f"{words:<34}{_share(inside):<32}{_share([i for i in large if len(i)]):<32}")
    print("the first row also holds the model's distance from the world: it can be low with intervals that are right")


def _inside(known: Known, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    edge = 10.0**-DIGITS
    return (low - edge <= known.resampling) & (known.resampling <= high + edge)


def _share(inside: Sequence[np.ndarray]) -> str:
    """Share over all sentences, with an interval over redrawn traces."""
    if not inside:
        return "none"
    low, high = cluster_bootstrap(inside, lambda groups: float(np.concatenate(groups).mean()))
    flat = np.concatenate(inside)
    return f"{flat.mean():.3f} [{low:.3f}, {high:.3f}] of {len(flat)}"


if __name__ == "__main__":
    main()
