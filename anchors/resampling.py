"""Draw the rollouts black-box scores are made of: plan, price, run, resume.

1. Plan: which (boundary, sample) pairs are missing in the run directory.
2. Price: a few of the missing rollouts are drawn first; their lengths and rate give the bill.
3. Run: the rest is drawn batch by batch, and every finished rollout is committed at once.
4. Resume: the same call finds what is missing and draws only that.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from anchors.models.base import Job, Model, Sampling
from anchors.rollouts import STORE, Rollout, Rollouts, Store
from anchors.trace import Trace

CALIBRATION_BOUNDARIES = 5
PROBE_ROWS, PROBE_TOKENS = 256, 8


@dataclass(frozen=True)
class Bill:
    """What a run will cost: `rollouts` still to draw, the tokens and seconds they should take, and their price.

    `limited` counts boundaries so close to the model's context that a rollout there may end at its limit.
    """

    rollouts: int
    stored: int
    tokens: int
    seconds: float
    price: float | None = None
    limited: int = 0

    def __str__(self) -> str:
        parts = [f"{self.rollouts:,} rollouts ({self.stored:,} more stored)", f"about {self.tokens:,} tokens"]
        parts.append(f"about {_duration(self.seconds)}")
        if self.price is not None:
            parts.append(f"about {self.price:.2f} at the given price")
        if self.limited:
            parts.append(f"{self.limited} boundaries leave less than max_new_tokens of context: rollouts may end there")
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def resample(
    trace: Trace,
    model: Model,
    *,
    n: int = 100,
    seed: int = 0,
    sampling: Sampling | None = None,
    out: str | Path | None = None,
    price: float | None = None,
    progress: bool = True,
    **options: Any,
) -> Rollouts:
    """Draw n rollouts from every sentence boundary of a trace (Thought Anchors, 2506.19143, section 3).

    Boundary k is the exact slice before sentence k, boundary S the whole reasoning. Without `out` the rollouts stay
    in memory; with it they go to a run directory that the same call continues. `price` is per million tokens;
    `options` go to `model.generate` (batch_size, ...).

    Raises:
        ValueError: n < 1, the run directory holds another trace, model, sampling or seed, or a prefix does not fit.
    """
    return resample_traces(
        [trace], model, n=n, seed=seed, sampling=sampling, out=out, price=price, progress=progress, **options
    )[0]


def resample_traces(
    traces: Sequence[Trace],
    model: Model,
    *,
    n: int = 100,
    seed: int = 0,
    sampling: Sampling | None = None,
    out: str | Path | None = None,
    price: float | None = None,
    progress: bool = True,
    **options: Any,
) -> list[Rollouts]:
    """`resample` for many traces in one run directory; the bill is drawn up only where progress is shown."""
    _check_n(n)
    sampling = sampling or model.sampling
    runs = open_run(traces, model, seed=seed, sampling=sampling, out=out)
    if progress:
        bill = calibrate(runs, model, n=n, seed=seed, sampling=sampling, price=price, keep=True, **options)
        if bill.rollouts:
            tqdm.write(f"to draw: {bill}", file=sys.stderr)
    pending = [job for run in runs for job in _jobs(run, run.missing(n))]
    if pending:
        by_id = {run.trace.id: run for run in runs}
        bar = tqdm(total=len(pending), desc="rollouts", unit="", disable=None if progress else True)
        with bar:
            for job, rollout in _drawn(model, pending, sampling, seed, options):
                by_id[job.trace].add([rollout])
                bar.update()
    return runs


def open_run(
    traces: Sequence[Trace], model: Model, *, seed: int, sampling: Sampling, out: str | Path | None
) -> list[Rollouts]:
    """Open or create the run directory for these traces, refusing one that was made differently."""
    if len({trace.id for trace in traces}) < len(traces):
        raise ValueError("two traces share an id; give each its own id")
    settings = {
        "model": model.name,
        "weights": getattr(model, "fingerprint", "unknown"),
        "dtype": str(getattr(model, "dtype", "unknown")),
        "sampling": asdict(sampling),
        "seed": seed,
    }
    store = Store(out, settings)
    store.claim(traces)
    return [Rollouts(store, trace) for trace in traces]


def plan_resampling(
    traces: Sequence[Trace],
    model: Model,
    *,
    n: int = 100,
    seed: int = 0,
    sampling: Sampling | None = None,
    out: str | Path | None = None,
    price: float | None = None,
    **options: Any,
) -> Bill:
    """The bill of `resample_traces`, from a short calibration that leaves nothing on disk (`--dry-run`)."""
    sampling = sampling or model.sampling
    exists = out is not None and (Path(out) / STORE).exists()
    runs = open_run(traces, model, seed=seed, sampling=sampling, out=out if exists else None)
    return calibrate(runs, model, n=n, seed=seed, sampling=sampling, price=price, keep=False, **options)


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
    """Draw a few of the missing rollouts, spread over the boundaries, and extrapolate; `keep` stores them."""
    _check_n(n)
    missing = [(run, pair) for run in runs for pair in run.missing(n)]
    stored = sum(run.cost().rollouts for run in runs)
    limited = sum(_limited(run.trace, model, sampling) for run in runs)
    if not missing:
        return Bill(0, stored, 0, 0.0, None if price is None else 0.0, limited)
    first = [(run, pair) for run, pair in missing if pair[1] == missing[0][1][1]]
    picks = np.unique(np.linspace(0, len(first) - 1, CALIBRATION_BOUNDARIES).round().astype(int))
    jobs = [job for i in picks for job in _jobs(first[i][0], [first[i][1]])]
    drawn = list(_drawn(model, jobs, sampling, seed, options))
    by_id = {run.trace.id: run for run in runs}
    for job, rollout in drawn:
        if keep:
            by_id[job.trace].add([rollout])
    done = len(drawn) if keep else 0
    left = len(missing) - done
    tokens = round(left * sum(rollout.tokens for _, rollout in drawn) / len(drawn))
    probe = [job for run, pair in missing[:PROBE_ROWS] for job in _jobs(run, [pair])]
    seconds = tokens * _seconds_per_token(model, probe, sampling, seed, options) if left else 0.0
    cost = None if price is None else tokens * price / 1e6
    return Bill(left, stored + done, tokens, seconds, cost, limited)


def _check_n(n: int) -> None:
    if n < 1:
        raise ValueError(f"n is {n}; at least one rollout a boundary is needed")


def _seconds_per_token(
    model: Model, jobs: Sequence[Job], sampling: Sampling, seed: int, options: dict[str, Any]
) -> float:
    """Rate of a full batch over its first few tokens; these continuations are thrown away."""
    short = replace(sampling, max_new_tokens=min(PROBE_TOKENS, sampling.max_new_tokens))
    started = time.perf_counter()
    tokens = sum(completion.tokens for _, completion in model.generate(jobs, sampling=short, seed=seed, **options))
    return (time.perf_counter() - started) / max(1, tokens)


def _limited(trace: Trace, model: Model, sampling: Sampling) -> int:
    """How many boundaries leave less room than `max_new_tokens`; 0 when the model does not say its context."""
    context, encode = getattr(model, "context", None), getattr(model, "encode", None)
    if context is None or encode is None:
        return 0
    offsets = encode(trace.text[: trace.boundaries[-1]]).offsets
    starts = np.array([start for start, _ in offsets])
    lengths = np.searchsorted(starts, trace.boundaries)
    return int((lengths + sampling.max_new_tokens > context).sum())


def _jobs(run: Rollouts, pairs: Sequence[tuple[int, int]]) -> list[Job]:
    edges, text = run.trace.boundaries, run.trace.text
    return [Job(text, edges[position], run.trace.id, position, sample) for position, sample in pairs]


def _drawn(
    model: Model, jobs: Sequence[Job], sampling: Sampling, seed: int, options: dict[str, Any]
) -> Iterator[tuple[Job, Rollout]]:
    for job, completion in model.generate(jobs, sampling=sampling, seed=seed, **options):
        yield job, Rollout(job.position, job.sample, completion.text, completion.tokens, completion.finish)


def write_trace(prompt: str, model: Model, *, target: str | None = None, **options: Any) -> Trace:
    """Let a model reason on a prompt, through its chat template where it has one, and return its trace.

    A prompt that already holds a think tag is taken as raw text. Options are those of `write_traces`.

    Raises:
        ValueError: the model wrote no reasoning.
    """
    return write_traces([prompt], model, targets=[target], **options)[0]


def write_traces(
    prompts: Sequence[str],
    model: Model,
    *,
    targets: Sequence[str | None] | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
    **options: Any,
) -> list[Trace]:
    """Let a model reason on many prompts at once; a trace depends on (seed, prompt, how often the prompt came before).

    `options` go to `Trace.from_text` (math_aware, ...).

    Raises:
        ValueError: the model wrote no reasoning on one of them.
    """
    render = getattr(model, "render_prompt", lambda text: text)
    texts = [render(prompt) for prompt in prompts]
    jobs = [Job(text, len(text), _digest(text), 0, texts[:i].count(text)) for i, text in enumerate(texts)]
    drawn = {
        (job.text, job.sample): c for job, c in model.generate(jobs, sampling=sampling or model.sampling, seed=seed)
    }
    written = []
    for job, target in zip(jobs, targets or [None] * len(jobs), strict=True):
        completion = drawn[job.text, job.sample]
        meta = {"model": model.name, "seed": seed, "finish": completion.finish}
        written.append(Trace.from_text(job.text, completion.text, target=target, meta=meta, **options))
    return written


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
