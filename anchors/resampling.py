"""Draw the rollouts black-box scores are made of: plan, price, run, resume.

1. Plan: which (boundary, sample) pairs are missing in the run directory.
2. Price: a few of the missing rollouts are drawn first; their lengths and two rates give the bill (`anchors.billing`).
3. Run: the rest is drawn batch by batch, and finished rollouts are committed several times a second. With `stop` it is
   drawn in rounds, each where the ones of its trace before it left a decision open (`anchors.stopping`), for all traces at
   once.
4. Resume: the same call finds what is missing and draws only that.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

from tqdm.auto import tqdm

from anchors.adaptive import AdaptiveSweep
from anchors.billing import Bill, calibrate
from anchors.models.base import Job, Model, Sampling
from anchors.rollouts import STOP, STORE, Rollout, Rollouts, Store
from anchors.spending import watched
from anchors.stopping import Anchors
from anchors.trace import Trace

logger = logging.getLogger(__name__)

COMMIT = 0.25  # seconds
TOGETHER = 48
"""Adaptive sweeps that go on at a time: enough to fill steps, few enough that what they share is still there next round."""


def resample(
    trace: Trace,
    model: Model,
    *,
    n: int = 100,
    seed: int = 0,
    sampling: Sampling | None = None,
    stop: Anchors | None = None,
    out: str | Path | None = None,
    price: float | None = None,
    progress: bool = True,
    **options: Any,
) -> Rollouts:
    """Draw n rollouts from every sentence boundary of a trace (Thought Anchors, 2506.19143, section 3).

    Boundary k is the exact slice before sentence k, boundary S the whole reasoning. Without `out` the rollouts stay
    in memory; with it they go to a run directory that the same call continues. `price` is per million tokens;
    `options` go to `model.generate` (batch_size, ...).

    With `stop=Anchors(k=5)` n is the most a boundary gets, and fewer are drawn as soon as the k anchors are known. The run is
    marked as adaptive: its scores count rollouts at every boundary they pass through, and their intervals and p-values are
    those that hold at any time (`anchors.stats.sequences`).

    Raises:
        ValueError: n < 1, the run directory holds another trace, model, sampling or seed, a prefix does not fit, or `stop`
            asks for anchors of a trace without an answer.
    """
    return resample_traces(
        [trace], model, n=n, seed=seed, sampling=sampling, stop=stop, out=out, price=price, progress=progress, **options
    )[0]


def resample_traces(
    traces: Sequence[Trace],
    model: Model,
    *,
    n: int = 100,
    seed: int = 0,
    sampling: Sampling | None = None,
    stop: Anchors | None = None,
    out: str | Path | None = None,
    price: float | None = None,
    progress: bool = True,
    **options: Any,
) -> list[Rollouts]:
    """`resample` for many traces in one run directory; the bill is drawn up only where progress is shown."""
    _check_n(n)
    sampling = sampling or model.sampling
    runs = open_run(traces, model, seed=seed, sampling=sampling, out=out)
    sweeps = [AdaptiveSweep(run, stop, n) for run in runs] if stop is not None else []
    if runs and stop is not None:
        runs[0].store.note(STOP, asdict(stop) | {"n": n})
    if progress and stop is None:
        bill = calibrate(runs, model, n=n, seed=seed, sampling=sampling, price=price, keep=True, **options)
        if bill.rollouts:
            tqdm.write(f"to draw: {bill}", file=sys.stderr)
    by_id = {run.trace.id: run for run in runs}
    with tqdm(total=0, desc="rollouts", unit="", disable=None if progress else True) as bar:
        spent, sweep_of = 0, {sweep.run.trace.id: sweep for sweep in sweeps}
        for jobs in _calls(model, runs, sweeps, n):
            with _saving(by_id) as save:
                for job, rollout in _drawn(model, _counted(jobs, bar), sampling, seed, options):
                    save(job, rollout)
                    if job.trace in sweep_of:
                        sweep_of[job.trace].take(rollout)
                    spent += rollout.tokens
                    bar.set_postfix_str(f"{spent:,} tokens", refresh=False)
                    bar.update()
    for sweep in sweeps:
        spent = sweep.run.cost()
        logger.info("%s: %d rounds, %d rollouts, %d tokens", sweep.run.trace.id, sweep.rounds, *spent)
    return runs


@contextmanager
def _saving(runs: Mapping[str, Rollouts]) -> Iterator[Callable[[Job, Rollout], None]]:
    """Store rollouts as they come, those of every `COMMIT` seconds in one transaction, and the last ones whatever happens.

    A transaction waits for the disk, several milliseconds, in which a small model draws several rollouts.
    """
    held: dict[str, list[Rollout]] = {}
    last = time.monotonic()

    def flush() -> None:
        nonlocal last
        for trace, rollouts in held.items():
            runs[trace].add(rollouts)
        held.clear()
        last = time.monotonic()

    def save(job: Job, rollout: Rollout) -> None:
        held.setdefault(job.trace, []).append(rollout)
        if time.monotonic() - last >= COMMIT:
            flush()

    try:
        yield save
    finally:
        flush()


def _calls(
    model: Model, runs: Sequence[Rollouts], sweeps: Sequence[AdaptiveSweep], n: int
) -> Iterator[Iterable[Job | None]]:
    """What to ask the model for, call after call: all that is missing, or the rounds of the sweeps that go on.

    A live model gets the rounds as one stream, so that no sweep waits for another one's longest rollout.
    """
    if sweeps and getattr(model, "live", False):
        yield _stream(sweeps)
        return
    before: list[Job] = []
    while (jobs := _pending(runs, sweeps, n)) and jobs != before:
        yield jobs
        before = jobs


def _stream(sweeps: Sequence[AdaptiveSweep]) -> Iterator[Job | None]:
    """The next round of each sweep as soon as its last one is in, None while all of them wait; `TOGETHER` go on at a time.

    The first round is followed by a None too: it tells the model early that there will be others.
    """
    coming, going, told = deque(sweeps), list[AdaptiveSweep](), False
    while coming or going:
        while coming and len(going) < TOGETHER:
            going.append(coming.popleft())
        ready = [sweep for sweep in going if not sweep.waits_for]
        for sweep in ready:
            jobs = sweep.run.jobs(sweep.missing())
            yield from jobs
            if not jobs:
                going.remove(sweep)
            elif not told:
                told = True
                yield None
        if not ready:
            yield None


def _pending(runs: Sequence[Rollouts], sweeps: Sequence[AdaptiveSweep], n: int) -> list[Job]:
    """All that is missing, or one round of every sweep that goes on."""
    if sweeps:
        return [job for sweep in sweeps for job in sweep.run.jobs(sweep.missing())]
    return [job for run in runs for job in run.jobs(run.missing(n))]


def _counted(jobs: Iterable[Job | None], bar: tqdm) -> Iterator[Job | None]:
    """The jobs, added to what a bar expects: a list at once, a stream as it comes."""
    listed = isinstance(jobs, list)
    if listed:
        bar.total = (bar.total or 0) + len(jobs)
    for job in jobs:
        if not listed and job is not None:
            bar.total = (bar.total or 0) + 1
        yield job


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
    stop: Anchors | None = None,
    price: float | None = None,
    **options: Any,
) -> Bill:
    """The bill of `resample_traces`, from a short calibration that leaves nothing on disk (`--dry-run`).

    With `stop` it is the most the run can cost.
    """
    _check_n(n)
    sampling = sampling or model.sampling
    exists = out is not None and (Path(out) / STORE).exists()
    runs = open_run(traces, model, seed=seed, sampling=sampling, out=out if exists else None)
    bill = calibrate(runs, model, n=n, seed=seed, sampling=sampling, price=price, keep=False, **options)
    return replace(bill, at_most=stop is not None)


def _check_n(n: int) -> None:
    if n < 1:
        raise ValueError(f"n is {n}; at least one rollout a boundary is needed")


def _drawn(
    model: Model, jobs: Iterable[Job | None], sampling: Sampling, seed: int, options: dict[str, Any]
) -> Iterator[tuple[Job, Rollout]]:
    for job, completion in model.generate(cast(Iterable[Job], jobs), sampling=sampling, seed=seed, **options):
        yield job, Rollout.of(job, completion)


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
    progress: bool = False,
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
    drawn, written = {}, []
    shown = {"desc": f"writing by {model.name}", "unit": " traces", "disable": None if progress else True}
    with tqdm(total=len(jobs), **shown) as bar, watched(bar):
        for job, completion in model.generate(jobs, sampling=sampling or model.sampling, seed=seed):
            drawn[job.text, job.sample] = completion
            bar.update()
    for job, target in zip(jobs, targets or [None] * len(jobs), strict=True):
        completion = drawn[job.text, job.sample]
        meta = {"model": model.name, "seed": seed, "finish": completion.finish}
        written.append(Trace.from_text(job.text, completion.text, target=target, meta=meta, **options))
    return written


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
