"""What the parts of `transfer.py` share: writers and their kept rollouts, readings under one setting, figures of the page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from timing import MODELS

from anchors import Rollouts, load_model
from anchors.experiments.transfer_runs import RELAXED, model_runs
from anchors.lab.oracle import same_event
from anchors.lab.worlds import load_world
from anchors.transfer import Transfer, transfer_anchors

MATRIX, SHARED, SHIFTED, CONTINUATIONS = 12, 28, 16, 24
"""Traces of the matrix, of the reader axes and of the problem axes, and the reader's continuations in all three: traces
differ more than continuations do, so many traces with few continuations say most for their price."""


def writer_runs(world: str, options: argparse.Namespace, *, writer: str | None = None, **knobs: Any) -> list[Rollouts]:
    """Rollouts of the world's writer on fresh problems, kept in the run directory; only traces with an answer."""
    name = writer or MODELS[world].removeprefix("lab/")
    folder = options.out / "-".join([world, name, *(f"{k}={v}" for k, v in sorted(knobs.items()))])
    sizes: dict[str, Any] = {"traces": options.traces, "n": options.n, "seed": options.seed, "out": folder}
    return model_runs(load_world(world, **knobs), load_model(f"lab/{name}"), progress=True, **sizes)


def read(runs: Sequence[Rollouts], reader: str, outcome: str, options: argparse.Namespace, **more: Any) -> Transfer:
    """One transfer run under the benchmark's settings; its readings are kept."""
    world = load_world(more.pop("world", "expression"))
    settings: dict[str, Any] = {"calipers": RELAXED, "n": options.continuations, "similarity": same_event(world)}
    out = options.out / "readings" / reader
    return transfer_anchors(runs, reader=load_model(f"lab/{reader}"), outcome=outcome, out=out, **settings | more)  # type: ignore[arg-type]


def fewer(options: argparse.Namespace, traces: int, **more: Any) -> argparse.Namespace:
    """The same options with at most so many traces, and at most `CONTINUATIONS` a boundary."""
    sizes = {"traces": min(options.traces, traces), "continuations": min(options.continuations, CONTINUATIONS)}
    return argparse.Namespace(**vars(options) | sizes | more)


def save(ax: Any, options: argparse.Namespace, name: str) -> None:
    """One figure of the page, without a date, so that the same numbers give the same file."""
    import matplotlib

    options.figures.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": name}):
        ax.figure.savefig(options.figures / f"{name}.svg", metadata={"Date": None})
    print(f"figure: {options.figures / name}.svg", flush=True)


def interval(mean: Any) -> str:
    return f"{mean.value:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}]"
