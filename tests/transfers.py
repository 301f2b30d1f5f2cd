"""Transfer runs built by hand from drawn numbers, for what shows them: figures and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from anchors.transfer import (
    Balance,
    Condition,
    Contrast,
    Controls,
    Curve,
    CurvePoint,
    Gate,
    Mean,
    Rank,
    Retention,
    Shift,
    Transfer,
    TransferMatrix,
    shift_trend,
)
from anchors.transfer.retention import mean_over_traces

BUDGETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SHAPES = {
    "anchors": 0.25, "reader_anchors": 0.2, "random": 1.0, "random_position": 0.8, "first": 1.6, "last": 0.7,
    "stride": 1.1, "length": 1.3, "bm25": 0.9, "gzip": 1.4, "spirit": 0.3, "greedy": 0.5,
}  # fmt: skip
WAYS = {
    "none": -4.7, "full": -0.2, "shuffled": -1.1, "numbers altered": -6.6, "numbers altered in controls": -0.4,
    "swapped": -6.4, "filler": -5.3, "answer only": -3.8, "anchors only": -1.1, "quoted": -0.3,
}  # fmt: skip


@cache
def a_mean(value: float, *, spread: float = 0.1, traces: int = 12, seed: int = 0) -> Mean:
    """A mean over traces whose values are drawn, then centred on `value`."""
    drawn = np.random.default_rng(seed).normal(0.0, spread, traces)
    return mean_over_traces(value + drawn - drawn.mean())


def a_gate(*, passed: bool = True) -> Gate:
    return Gate(
        (
            Condition("reader alone", "P(outcome) without the trace is 0.41", True, "too often"),
            Condition(
                "scaffold", "the whole trace moves the reader", passed, "the reader does no better with the trace"
            ),
            Condition("negative control", "not measured", True if passed else None, "no random sentences"),
        )
    )


def retentions(d: float, traces: int) -> tuple[Retention, ...]:
    writer = a_mean(0.5, traces=traces, seed=1)
    per_token = a_mean(d / 30, spread=0.01, traces=traces)
    reader = a_mean(d, traces=traces)
    parts = (a_mean(d + 0.1, traces=traces), a_mean(0.1, traces=traces), per_token)
    return (
        Retention("delete", reader, writer, *parts, (d / 0.5, d / 0.5 - 0.2, d / 0.5 + 0.2), None),
        Retention(
            "replace_reader", a_mean(d / 2, traces=traces, seed=2), None, *parts, None, None, "not given: writer=model"
        ),
    )


def curves(traces: int, *, arms: Sequence[str] = ("raw", "stripped", "deletion")) -> tuple[Curve, ...]:
    found = []
    for arm in arms:
        for k, (name, power) in enumerate(SHAPES.items()):
            points = []
            for b in BUDGETS:
                kept = 1 - b if arm == "deletion" else b
                mean = a_mean(-4.7 + 4.5 * kept**power, spread=0.6, traces=traces, seed=k)
                points.append(CurvePoint(b, mean, float(kept**power)))
            area = float("nan") if arm == "stripped" else 1 / (1 + power)
            best = name == "anchors"
            gain = (float("nan"),) * 4 if best else (0.8 - area, 0.7 - area, 0.9 - area, 0.02 if power > 1 else 0.4)
            found.append(Curve(name, arm, tuple(points), area, area - 0.08, area + 0.08, *gain))
    return tuple(found)


def some_controls(traces: int) -> Controls:
    outcomes = {name: a_mean(v, spread=0.8, traces=traces, seed=k) for k, (name, v) in enumerate(WAYS.items())}
    contrasts = (
        Contrast("scaffold", "full - none", a_mean(4.5, spread=0.8, traces=traces), 0.001),
        Contrast("order", "full - shuffled", a_mean(0.9, spread=0.8, traces=traces), 0.21),
    )
    return Controls(outcomes, contrasts, {"copied": 0.4, "explicit": 0.6, "silent": 0.0})


def a_rank(traces: int) -> Rank:
    means = [a_mean(v, traces=traces, seed=k) for k, v in enumerate((0.62, 0.48, 0.4, 0.71))]
    return Rank(
        "the reader's own counterfactual scores", *means[:3], 0.001, 0.8, 0.7, 0.75, 0.83, 0.6, 0.3, 0.01, means[3]
    )


def a_transfer(d: float = 0.3, *, traces: int = 12, **changes: Any) -> Transfer:
    """A run whose primary d is given; `changes` replace any other field."""
    fields: dict[str, Any] = {
        "writer": "lab/reasoner",
        "reader": "lab/reasoner-b",
        "method": "counterfactual",
        "outcome": "forced",
        "verdict": "transfers" if d > 0.1 else "inconclusive",
        "reason": f"the anchors move the reader by {d:+.3f} nats a token more than their controls do",
        "gate": a_gate(),
        "rank": a_rank(traces),
        "retention": retentions(d, traces),
        "balance": (Balance("length", 0.06), Balance("position", -0.38)),
        "curve": curves(traces),
        "controls": some_controls(traces),
        "pairs": None,
        "anchors": 20,
        "unmatched": 4,
        "traces": traces,
        "excluded": ("t9: the writer's scores name no anchor at fdr 0.05",),
        "details": {
            "trace ids": [f"t{i}" for i in range(traces)],
            "n": 50,
            "not measured": [],
            "P(answered), whole trace and none": [float("nan")] * 2,
            "secondary tests, Holm p": {"percentile": 0.2},
        },
    }
    return Transfer(**(fields | changes))


def a_matrix() -> TransferMatrix:
    names = ("lab/reasoner", "lab/reasoner-b", "lab/swapped")
    d = np.array([[0.9, 0.52, -0.21], [0.47, 0.8, float("nan")], [0.05, -0.03, 0.1]])
    failed = {"verdict": "gate failed", "gate": a_gate(passed=False)}
    rows = {
        w: {r: a_transfer(float(d[i, j]), **(failed if "swapped" in r else {})) for j, r in enumerate(names)}
        for i, w in enumerate(names)
    }
    return TransferMatrix(names, names, rows)


def a_shift(axis: str = "task", *, slope: float = -0.2, levels: int = 3) -> Shift:
    return shift_trend(axis, {f"{axis} level {i}": a_transfer(0.6 + slope * i) for i in range(levels)})


def with_values(run: Transfer, d: Sequence[float], writer: Sequence[float] | None = None) -> Transfer:
    """The same run with other d, one a trace, in reader and writer; only the values, no interval or test of them."""
    empty = (float("nan"),) * 6
    means = [None if x is None else Mean(*empty, np.array(x, dtype=float)) for x in (d, writer)]
    primary = run.retention[0]._replace(reader=means[0], writer=means[1])
    ids = [f"t{i}" for i in range(len(d))]
    return replace(run, retention=(primary,), traces=len(d), details=run.details | {"trace ids": ids})
