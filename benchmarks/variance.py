"""Two ways to spend fewer tokens that were not built, and what each would save.

1. Ending a rollout early: the share of tokens that follow the first one from which on the answer read off the text never
   changes again. No rule that looks at the text so far can save more.
2. Paired randomness: rollouts of neighbouring boundaries share the uniform of every place in the text. Printed is the share of
   the variance of P(after) - P(before) it removes, over all rollouts and over those that leave the trace at the boundary,
   beside what reusing rollouts that pass on (`reuse=True`) removes, which needs no pairing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


import numpy as np
from savings import long_traces
from timing import MODELS

from anchors import Rollouts, load_model, resample_traces, resampling_importance
from anchors.answers import extract_answer
from anchors.lab.worlds import load_world
from anchors.models import climbing, engine
from anchors.models.sampling import Draw
from anchors.stopping import leaves_at

SETTINGS = tuple((name, world) for world, name in MODELS.items())
FEWEST = 20


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what early ends and paired randomness would save.")
    parser.add_argument("--traces", type=int, default=12)
    parser.add_argument("-n", type=int, default=100)
    options = parser.parse_args()
    for name, world in SETTINGS:
        model = load_model(name)
        traces = list(long_traces(load_world(world), options.traces))
        plain = resample_traces(traces, model, n=options.n, progress=False)
        again = resample_traces(traces, model, n=options.n, seed=1, progress=False)
        with shared_uniforms():
            paired = resample_traces(traces, model, n=options.n, progress=False)
        print(
            f"{name}, {len(traces)} traces, n = {options.n}\n"
            f"  tokens after the answer is there: {np.mean([late_share(run, model) for run in plain]):.3f}\n"
            f"  variance of a difference removed, independent: {removed(plain):+.3f} of all, {removed(plain, left=True):+.3f} "
            f"of those that left\n"
            f"  variance of a difference removed, paired:      {removed(paired):+.3f} of all, {removed(paired, left=True):+.3f} "
            f"of those that left\n"
            f"  variance of a difference removed, reuse:       {reuse_removes(plain, again):+.3f} of all (two sweeps)",
            flush=True,
        )


def late_share(run: Rollouts, model: Any) -> float:
    """Share of a run's tokens that come after its rollouts' answers are there to stay."""
    total = late = 0
    for k in range(len(run.trace) + 1):
        for rollout in run.at(k)[::10]:
            ids, answer = model.encode(rollout.text).ids, extract_answer(rollout.text)
            needed = len(ids)
            while needed and extract_answer(model.decode(ids[: needed - 1])) == answer:
                needed -= 1
            total, late = total + rollout.tokens, late + rollout.tokens - needed
    return late / total


@contextmanager
def shared_uniforms() -> Iterator[None]:
    """Give a rollout the uniforms of (seed, trace, sample, place in the text). Draws too close to call are not redrawn."""
    stream, advance, draw, ahead = engine.stream, engine.Draws.advance, engine.draw_tokens, climbing.draw_tokens
    at: dict[str, np.ndarray] = {}

    def noted(self: Any, odds: Any, rows: Any, rollouts: Any, sizes: Any, strand: Any) -> Any:
        at["places"] = sizes
        return advance(self, odds, rows, rollouts, sizes, strand)

    def placed(odds: Any, rows: Any, sampling: Any, *, streams: Any, **_: Any) -> Any:
        return draw(odds, rows, sampling, streams=streams, steps=at["places"], margin=0.0)

    def unsure(odds: Any, rows: Any, *_: Any, **__: Any) -> Draw:
        return Draw(np.zeros_like(rows), np.ones(len(rows), dtype=bool))  # so every draw goes through `advance`

    engine.stream = lambda seed, trace, position, sample: stream(seed, trace, 0, sample)
    engine.Draws.advance, engine.draw_tokens, climbing.draw_tokens = noted, placed, unsure
    try:
        yield
    finally:
        engine.stream, engine.Draws.advance, engine.draw_tokens, climbing.draw_tokens = stream, advance, draw, ahead


def removed(runs: Sequence[Rollouts], *, left: bool = False) -> float:
    """2 cov(after, before) / (var(after) + var(before)), summed over sentences; of rollouts that left the trace if asked."""
    shared = whole = 0.0
    for run in runs:
        hits = [outcomes(run, k) for k in range(len(run.trace) + 1)]
        for k, (before, after) in enumerate(pairwise(hits)):
            some = leavers(run, k) if left else np.ones(len(before), dtype=bool)
            if some.sum() > FEWEST:
                shared += 2 * np.cov(before[some], after[some])[0, 1]
                whole += before[some].var() + after[some].var()
    return shared / whole


def outcomes(run: Rollouts, k: int) -> np.ndarray:
    """Whether each sample of a boundary reaches the trace's own answer, in the order of samples."""
    return np.array(
        [float(extract_answer(r.text) == run.trace.answer) for r in sorted(run.at(k), key=lambda r: r.sample)]
    )


def leavers(run: Rollouts, k: int) -> np.ndarray:
    trace = run.trace
    rollouts = sorted(run.at(k), key=lambda r: r.sample)
    return np.array([leaves_at(r.text, k, trace.text, trace.boundaries) == k for r in rollouts])


def reuse_removes(first: Sequence[Rollouts], second: Sequence[Rollouts]) -> float:
    """1 - the variance of importances with reuse over that without, from the differences of two independent sweeps."""
    spread = {
        reuse: sum(
            float(
                np.nansum(
                    (resampling_importance(a, reuse=reuse).values - resampling_importance(b, reuse=reuse).values) ** 2
                )
            )
            for a, b in zip(first, second, strict=True)
        )
        for reuse in (False, True)
    }
    return 1 - spread[True] / spread[False]


if __name__ == "__main__":
    main()
