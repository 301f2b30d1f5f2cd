"""Transfer figures of the report: the writer-by-reader heat map, and retention as intervals around zero.

1. The heat map is a table whose cells are tinted, so that it reads, prints and speaks without a script.
2. A cell whose gate failed is hatched: its number is no finding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from anchors.report.drawing import Scale, clean, number
from anchors.transfer import Mean, Retention, TransferMatrix


def heat_map(found: TransferMatrix) -> dict[str, Any]:
    """Rows of (writer, cells); a cell is (class, strength, number, interval, verdict)."""
    scale = Scale.of(found.values)
    rows = [(clean(w), [_cell(found, w, r, scale) for r in found.readers]) for w in found.writers]
    gaps = [(clean(f"{a} → {b} less {b} → {a}"), number(gap, signed=True)) for (a, b), gap in found.gaps.items()]
    return {"readers": [clean(r) for r in found.readers], "rows": rows, "gaps": gaps}


def _cell(found: TransferMatrix, writer: str, reader: str, scale: Scale) -> tuple[str, float, str, str, str]:
    run = found.cells[writer][reader]
    d = run.retention[0].reader
    kind, strength = scale.tint(d.value)
    interval = "" if math.isnan(d.low) else f"[{number(d.low, signed=True)}, {number(d.high, signed=True)}]"
    hatched = " void" if run.verdict == "gate failed" else ""
    return kind + hatched, strength, number(d.value, signed=True), interval, run.verdict


class Whisker(NamedTuple):
    """One interval in percent of the figure's width: its name, its kind, and where it begins, lies and ends."""

    name: str
    kind: str
    low: float
    at: float
    high: float
    text: str


class Forest(NamedTuple):
    """Intervals one under the other, and where zero lies."""

    rows: list[Whisker]
    zero: float
    left: str
    right: str


def forest(retention: Sequence[Retention]) -> Forest | None:
    """Effect of the anchors over their controls, in the reader and in the writer, one operation after the other."""
    named = [(r.operation.replace("_", " by "), kind, m) for r in retention for kind, m in _sides(r)]
    if not named:
        return None
    ends = np.array([x for _, _, m in named for x in (m.low, m.value, m.high)] + [0.0])
    ends = ends[np.isfinite(ends)]
    low, high = float(ends.min()), float(ends.max())
    low, high = (low, high) if high > low else (low - 1, high + 1)

    def place(x: float) -> float:
        return round(100 * (x - low) / (high - low), 2)

    rows = []
    for name, kind, m in named:
        begin, at, end = map(place, _ends(m))
        rows.append(Whisker(clean(f"{name}, {kind}"), kind, begin, at, end, number(m.value, signed=True)))
    return Forest(rows, place(0.0), number(low, signed=True), number(high, signed=True))


def _sides(r: Retention) -> list[tuple[str, Mean]]:
    sides = [("reader", r.reader), ("writer", r.writer)]
    return [(kind, mean) for kind, mean in sides if mean is not None and not math.isnan(mean.value)]


def _ends(mean: Mean) -> tuple[float, float, float]:
    """The interval, or the value alone where there is none."""
    bounded = math.isfinite(mean.low) and math.isfinite(mean.high)
    return (mean.low, mean.value, mean.high) if bounded else (mean.value, mean.value, mean.value)
