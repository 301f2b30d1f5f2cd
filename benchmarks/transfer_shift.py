"""d along every axis of shift, of the reader and of the problem: the part `shift` of `transfer.py`."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from transfer_shared import SHARED, SHIFTED, fewer, interval, read, save, writer_runs

from anchors import Rollouts, load_model
from anchors.experiments.transfer_runs import world_runs
from anchors.lab.worlds import load_world, perturbed
from anchors.lab.worlds.alchemy import SHIFTS
from anchors.models import lab_models
from anchors.rollouts import Store
from anchors.transfer import Shift, shift_trend


def shift(options: argparse.Namespace) -> None:
    """d along every axis of the reader (the same traces at every level) and of the problem (the world itself writes)."""
    shifts = []
    few = fewer(options, SHARED, out=options.out / "shift")
    for find in (reader_axes, problem_axes, noise_axis, format_axis, task_axis):
        for found in find(few):
            print_shift(found)
            shifts.append(found)
    from anchors.plotting import shift_plot

    save(shift_plot(shifts), options, "transfer_shift")


READER_AXES = {
    "reader: seed": ("reasoner", "reasoner-b"),
    "reader: size": ("reasoner", "mini-small"),
    "reader: tokenizer": ("reasoner", "reasoner-char"),
    "reader: regime": ("reasoner", "drafter", "swapped", "answer-only"),
}
PROBLEM_AXES: dict[str, dict[str, dict[str, Any]]] = {
    "problem: length": {f"{k} digits": {"length": (k, k)} for k in (4, 5, 6, 7)},
    "problem: operators": {
        "trained": {},
        "one new": {"tasks": ("+", "*", "max")},
        "two new": {"tasks": ("*", "max", "min")},
    },
}
NOISE = (0.0, 0.1, 0.2, 0.3)


def built(names: Sequence[str]) -> list[str]:
    """The models that ship; the others are named as left out."""
    missing = [name for name in names if name not in lab_models()]
    if missing:
        print(f"left out, not built (make zoo): {', '.join(missing)}")
    return [name for name in names if name in lab_models()]


def reader_axes(options: argparse.Namespace) -> Iterator[Shift]:
    """The traces of `lab/reasoner`, read by itself and by readers farther and farther from it."""
    runs = writer_runs("expression", options)
    read_by = cache(lambda name: read(runs, name, "handover", options, writer=load_model("lab/reasoner"), itself=True))
    for axis, names in READER_AXES.items():
        levels = {name: read_by(name) for name in built(names)}
        if len(levels) > 1:
            yield shift_trend(axis, levels)


def problem_axes(options: argparse.Namespace) -> Iterator[Shift]:
    """Problems the world writes farther and farther from what `lab/reasoner-b` was trained on (3 to 5 digits, + - *)."""
    for axis, knobs in PROBLEM_AXES.items():
        levels = {level: read(written(options, **k), "reasoner-b", "handover", options) for level, k in knobs.items()}
        yield shift_trend(axis, levels)


def format_axis(options: argparse.Namespace) -> Iterator[Shift]:
    """Traces in the reader's own wording, then in the other one, for a reader of either."""
    for reader, own, other in (("reasoner-b", "verbose", "draft"), ("drafter", "draft", "verbose")):
        levels = {f: read(written(options, format=f), reader, "handover", options) for f in (own, other)}
        yield shift_trend(f"format: {reader}", levels)


def noise_axis(options: argparse.Namespace) -> Iterator[Shift]:
    """Words of the question spoiled for the reader alone: no writer's program can parse what a noisy question asks."""
    runs = written(options)
    levels = {
        f"{rate:.0%} of words": read([noised(run, rate) for run in runs], "reasoner-b", "handover", options)
        for rate in NOISE
    }
    yield shift_trend("problem: noise", levels)


def task_axis(options: argparse.Namespace) -> Iterator[Shift]:
    """DataAlchemy's task axis (2508.01191): readers trained on a restricted set of operations, at each level its own test."""
    readers = {level: options.restricted[level == "CMP"] for level in SHIFTS}
    if len(built(sorted(set(readers.values())))) == len(set(readers.values())):
        levels = {
            level: read(written(options, "alchemy", tasks=SHIFTS[level][1]), name, "handover", options, world="alchemy")
            for level, name in readers.items()
        }
        yield shift_trend("problem: task", levels)


def written(options: argparse.Namespace, world: str = "expression", **knobs: Any) -> list[Rollouts]:
    """Rollouts of the world's own program on traces it wrote under these knobs: an exact writer at any shift."""
    sizes: dict[str, Any] = {"traces": min(options.traces, SHIFTED), "n": options.n, "seed": options.seed}
    return world_runs(load_world(world, **knobs), out=None, **sizes)


def noised(run: Rollouts, rate: float) -> Rollouts:
    """The same rollouts of the same trace, its question spoiled: the writer saw it clean, the reader does not."""
    question, opening, _ = run.trace.prompt.partition(".\n<think>")
    words = perturbed(question.split(), rate, random.Random(f"noise {run.trace.id}"))
    trace = replace(run.trace, prompt=" ".join(words) + run.trace.prompt[len(question) :], id=run.trace.id)
    assert opening, run.trace.prompt
    store = Store(None, run.store.settings)
    store.claim([trace])
    found = Rollouts(store, trace)
    found.add(row for k in range(len(trace) + 1) for row in run.at(k))
    return found


def print_shift(found: Shift) -> None:
    print(f"{found.axis}")
    for level, mean in zip(found.levels, found.values, strict=True):
        print(f"  {level:16s} d {interval(mean)} ({mean.n} traces)")
    trend = (
        "" if found.trend is None else f"; Page trend falling p = {found.trend.p:.2g} over {found.trend.blocks} traces"
    )
    s = found.slope
    print(f"  slope a level {s.value:+.3f} [{s.low:+.3f}, {s.high:+.3f}]{trend}", flush=True)
