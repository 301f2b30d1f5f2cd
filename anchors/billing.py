"""What a run will cost, from a few rollouts drawn first.

1. Lengths: some rollouts are drawn whole at boundaries spread over the traces. Mean tokens at the boundaries between them lie
   on straight lines, since later boundaries have less left to write.
2. Rates: a draw of many rollouts takes start + a steps + c tokens, one step a token of the longest. Three draws of different
   shape give the three numbers: one token, the whole rollouts, and a batch as wide as the run's.
3. Schedule: batches keep their width until nothing waits, then run empty; the steps of that are counted on the lengths found.
4. Memory: traces, and a batch of rollouts as long as the longest drawn (`anchors.memory`), against what is free.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.memory import CLEARLY, Estimate, resampling_memory
from anchors.models.base import Job, Model, Sampling
from anchors.rollouts import Rollout, Rollouts
from anchors.trace import Trace

PROBED_BOUNDARIES: Final = 8
PROBED_SAMPLES: Final = 2
WIDE: Final = 256
"""Rollouts in flight unless `batch_size` says otherwise; the batch the rate is measured with has no more."""
WIDE_TOKENS: Final = 64


@dataclass(frozen=True)
class Bill:
    """What a run will cost: `rollouts` still to draw, the tokens and seconds they should take, and their price.

    `limited` counts boundaries so close to the model's context that a rollout there may end at its limit. `at_most`: the
    run may stop before it has drawn them all. `memory` is its peak in bytes where the model runs here, and `shortage` says
    by what that is more than is free.
    """

    rollouts: int
    stored: int
    tokens: int
    seconds: float
    price: float | None = None
    limited: int = 0
    at_most: bool = False
    memory: int | None = None
    shortage: str | None = None

    def __str__(self) -> str:
        parts = [f"{self.rollouts:,} rollouts ({self.stored:,} more stored)", f"about {self.tokens:,} tokens"]
        parts.append(f"about {duration(self.seconds)}")
        if self.price is not None:
            parts.append(f"about {self.price:.2f} at the given price")
        if self.limited:
            parts.append(f"{self.limited} boundaries leave less than max_new_tokens of context: rollouts may end there")
        if self.memory is not None:
            parts.append(f"about {self.memory / 2**20:,.0f} MB of memory")
        if self.shortage is not None:
            parts.append(f"WILL NOT FIT: {self.shortage}")
        return ("at most " if self.at_most else "") + ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(3.0), duration(600.0), duration(7200.0)
    ('3.0 s', '10 min', '2.0 h')
    """
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Rates(NamedTuple):
    """Seconds a draw takes: for each trace, for each step of one token a rollout, and for each token."""

    start: float
    step: float
    token: float


class Probe(NamedTuple):
    """What one draw took: traces, steps (tokens of the longest rollout), tokens and seconds."""

    traces: int
    steps: int
    tokens: int
    seconds: float


def calibrate(
    runs: Sequence[Rollouts],
    model: Model,
    *,
    n: int,
    seed: int,
    sampling: Sampling,
    price: float | None = None,
    keep: bool = True,
    **options: Any,
) -> Bill:
    """Draw a few of the missing rollouts, spread over traces and boundaries, and extrapolate; `keep` stores them.

    Raises:
        ValueError: with `keep`, the run needs clearly more memory than is free (`anchors.memory.CLEARLY`).
    """
    width = int(options.get("batch_size") or WIDE)
    missing = [(run, pair) for run in runs for pair in run.missing(n)]
    stored = sum(run.cost().rollouts for run in runs)
    limited = sum(_limited(run.trace, model, sampling) for run in runs)
    if not missing:
        return Bill(0, stored, 0, 0.0, None if price is None else 0.0, limited)
    draw = _Draw(getattr(model, "replica", model), seed, options)  # a cluster's replicas share the run, not a probe
    warm = [job for run, pair in missing[:1] for job in run.jobs([pair])]
    probes = [draw(warm, replace(sampling, max_new_tokens=1))[0] for _ in range(2)][1:]
    whole, drawn = draw([job for run, pair in _spread(missing) for job in run.jobs([pair])], sampling)
    by_id = {run.trace.id: run for run in runs}
    for job, rollout in drawn if keep else ():
        by_id[job.trace].add([rollout])
    done = len(drawn) if keep else 0
    left = [(run, pair) for run, pair in missing if not keep or (run.trace.id, *pair) not in _keys(drawn)]
    lengths = _expected(left, drawn)
    seconds = 0.0
    if left:
        wide = [job for run, pair in left[:: max(1, len(left) // min(width, WIDE))] for job in run.jobs([pair])]
        short = replace(sampling, max_new_tokens=min(WIDE_TOKENS, sampling.max_new_tokens))
        probes += [whole, draw(wide, short)[0]]
        seconds = predicted_seconds(fit_rates(probes), lengths, len({run.trace.id for run, _ in left}), width)
        seconds /= getattr(model, "replicas", 1)
    tokens = round(lengths.sum())
    cost = None if price is None else tokens * price / 1e6
    need = _memory(runs, left, drawn, model, width)
    if keep and need is not None:
        need.check(CLEARLY)
    memory, shortage = (None, None) if need is None else (need.peak, need.shortage())
    return Bill(len(left), stored + done, tokens, seconds, cost, limited, memory=memory, shortage=shortage)


class _Draw:
    """Draws rollouts and takes the time."""

    def __init__(self, model: Model, seed: int, options: dict[str, Any]) -> None:
        self.model, self.seed, self.options = model, seed, options

    def __call__(self, jobs: Sequence[Job], sampling: Sampling) -> tuple[Probe, list[tuple[Job, Rollout]]]:
        started = time.perf_counter()
        made = list(self.model.generate(jobs, sampling=sampling, seed=self.seed, **self.options))
        seconds = max(time.perf_counter() - started, 1e-6)  # a coarse clock may not have moved
        lengths = [completion.tokens for _, completion in made]
        probe = Probe(len({job.trace for job in jobs}), max(lengths), sum(lengths), seconds)
        return probe, [(job, Rollout.of(job, completion)) for job, completion in made]


def _spread(missing: Sequence[tuple[Rollouts, tuple[int, int]]]) -> list[tuple[Rollouts, tuple[int, int]]]:
    """The first missing samples of boundaries spread evenly over all that miss some."""
    by_boundary: dict[tuple[str, int], list] = {}
    for run, pair in missing:
        by_boundary.setdefault((run.trace.id, pair[0]), []).append((run, pair))
    rows = list(by_boundary.values())
    picks = np.unique(np.linspace(0, len(rows) - 1, PROBED_BOUNDARIES).round().astype(int))
    return [item for i in picks for item in rows[i][:PROBED_SAMPLES]]


def _keys(drawn: Sequence[tuple[Job, Rollout]]) -> set[tuple[str, int, int]]:
    return {(job.trace, job.position, job.sample) for job, _ in drawn}


def _expected(
    left: Sequence[tuple[Rollouts, tuple[int, int]]], drawn: Sequence[tuple[Job, Rollout]]
) -> Float[np.ndarray, " rollout"]:
    """Expected tokens of each rollout left to draw, by how far along its trace it starts."""
    sizes = {run.trace.id: len(run.trace) for run, _ in left}
    found: dict[float, list[int]] = {}
    for job, rollout in drawn:
        found.setdefault(job.position / max(1, sizes.get(job.trace, job.position)), []).append(rollout.tokens)
    at = sorted(found)
    wanted = [pair[0] / max(1, sizes[run.trace.id]) for run, pair in left]
    return np.interp(wanted, at, [float(np.mean(found[x])) for x in at])


def fit_rates(probes: Sequence[Probe]) -> Rates:
    """Non-negative least squares of seconds = start traces + a steps + c tokens, each draw counted alike.

    >>> fit_rates([Probe(1, 1, 1, 0.111), Probe(1, 50, 400, 1.0), Probe(1, 60, 9000, 9.7)])
    Rates(start=0.1, step=0.01, token=0.001)
    """
    from scipy.optimize import nnls

    rows = np.array([(p.traces, p.steps, p.tokens) for p in probes], dtype=float)
    seconds = np.array([p.seconds for p in probes])
    found, _ = nnls(rows / seconds[:, None], np.ones(len(probes)))
    return Rates(*(round(float(x), 12) for x in found))


def predicted_seconds(rates: Rates, lengths: Float[np.ndarray, " rollout"], traces: int, width: int) -> float:
    """start a trace + a steps + c tokens; steps until the last rollout ends when `width` are in flight."""
    ends = [0.0] * min(width, max(1, len(lengths)))
    for length in lengths:
        heapq.heapreplace(ends, ends[0] + length)
    return float(rates.start * traces + rates.step * max(ends) + rates.token * lengths.sum())


def _memory(
    runs: Sequence[Rollouts],
    left: Sequence[tuple[Rollouts, tuple[int, int]]],
    drawn: Sequence[tuple[Job, Rollout]],
    model: Any,
    width: int,
) -> Estimate | None:
    """What rollouts as long as the longest drawn take, `width` at a time."""
    encode, longest = getattr(model, "encode", None), max(rollout.tokens for _, rollout in drawn)
    if encode is None:
        return None
    traces = {run.trace.id: run.trace for run in runs}
    tokens = [len(encode(trace.text).ids) for trace in traces.values()]
    most = max(len(trace) for trace in traces.values())
    return resampling_memory(model, tokens, most, rollouts=max(1, len(left)), width=width, longest=longest)


def _limited(trace: Trace, model: Model, sampling: Sampling) -> int:
    """How many boundaries leave less room than `max_new_tokens`; 0 when the model does not say its context."""
    context, encode = getattr(model, "context", None), getattr(model, "encode", None)
    if context is None or encode is None:
        return 0
    offsets = encode(trace.text[: trace.boundaries[-1]]).offsets
    starts = np.array([start for start, _ in offsets])
    lengths = np.searchsorted(starts, trace.boundaries)
    return int((lengths + sampling.max_new_tokens > context).sum())
