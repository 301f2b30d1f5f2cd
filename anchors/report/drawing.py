"""Numbers, tints and SVG paths of the report: pure functions from arrays to strings.

1. A `Scale` maps a value to a tint: around zero where a method has both signs or starts near it, else over its range.
2. A strip is one SVG a method, in sentence units; a few paths carry all its bars, however long the trace.
3. Lines, such as compression curves, are one path each, with a band for the one that matters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from anchors.scores import Scores

HUGE = 1e300

ISOLATE_END = "\u2069"
_ISOLATES = re.compile("([\u2066-\u2069])")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def clean(text: str) -> str:
    """Text with control characters and lone surrogates as U+FFFD, so that it can be written and read as UTF-8 HTML.

    Its direction marks are closed, so that no text can reorder what stands around it: an isolate left open would take the
    end of the element's own, and an end without a beginning would close it early.
    """
    return _closed(_UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n")))


def _closed(text: str) -> str:
    """Text whose bidirectional isolates are balanced; an end that closes nothing becomes U+FFFD."""
    depth, parts = 0, _ISOLATES.split(text)
    for k in range(1, len(parts), 2):
        if parts[k] != ISOLATE_END:
            depth += 1
        elif depth:
            depth -= 1
        else:
            parts[k] = "\ufffd"
    return "".join(parts) + ISOLATE_END * depth


def number(value: float, *, signed: bool = False) -> str:
    """A value at the precision a reader can use: three decimals below 10, three digits at the extremes."""
    size = abs(value)
    if math.isnan(value):
        return "not measured"
    if size > HUGE:
        text = "∞"
    elif size == 0:
        return "0"
    elif size < 0.0005 or size >= 1e5:
        text = f"{size:.1e}"
    else:
        text = f"{size:.{3 if size < 10 else 1}f}"
    return ("−" if value < 0 else "+" if signed else "") + text


class Scale(NamedTuple):
    """The values that map to no tint and to full tint; `diverging` scales are symmetric about zero."""

    low: float
    high: float
    diverging: bool

    @classmethod
    def of(cls, values: np.ndarray) -> Scale:
        """Zero-based where zero is in reach of the data, else over the data's range."""
        found = values[np.isfinite(values)]
        if not found.size:
            return cls(0.0, 1.0, False)
        low, high = float(found.min()), float(found.max())
        if low < 0:
            return cls(0.0, max(high, -low), True)
        if low > high / 2 and low < high:
            return cls(low, high, False)
        return cls(0.0, high or 1.0, False)

    def tint(self, value: float) -> tuple[str, float]:
        """(class, strength in [0, 1]) of a value; NaN has the class `nan`."""
        if math.isnan(value):
            return "nan", 0.0
        strength = (abs(value) - self.low) / (self.high - self.low)
        return ("neg" if value < 0 else "pos"), round(min(max(strength, 0.0), 1.0), 3)


class Strip(NamedTuple):
    """The SVG paths of one method's row, x in sentences and y in [0, 100] downwards, and its axis labels."""

    positive: str
    negative: str
    intervals: str
    floor: str
    unmeasured: str
    zero: float
    top: str
    bottom: str


def strip(scores: Scores) -> Strip:
    """The row of one method: bars, interval whiskers, null floor, and ticks where nothing was measured."""
    low, high = axis(scores)

    def y(value: float) -> float:
        return round(100 * (high - min(max(value, low), high)) / (high - low), 1)

    base = y(max(low, 0.0))
    places = [(i, float(v)) for i, v in enumerate(scores.values) if not math.isnan(v)]
    pairs = ((i, float(scores.low[i]), float(scores.high[i])) for i, _ in places)
    return Strip(
        positive="".join(_bar(i, y(v), base) for i, v in places if v >= 0),
        negative="".join(_bar(i, y(v), base) for i, v in places if v < 0),
        intervals="".join(f"M{i + 0.5:g} {y(a):g}V{y(b):g}" for i, a, b in pairs if b > a),
        floor="".join(f"M{i} {y(f):g}h1" for i, f in enumerate(scores.floor) if not math.isnan(f)),
        unmeasured="".join(f"M{i + 0.3:g} {base:g}h.4" for i in np.flatnonzero(~scores.measured)),
        zero=base,
        top=number(high),
        bottom=number(low),
    )


def axis(scores: Scores) -> tuple[float, float]:
    """The drawn range: the values, their floors, and intervals as far as twice the values reach."""
    values = scores.values[np.isfinite(scores.values)]
    if not values.size:
        return 0.0, 1.0
    reach = 2 * float(np.abs(values).max()) or 1.0
    drawn = np.concatenate([values, scores.low, scores.high, scores.floor])
    drawn = np.clip(drawn[~np.isnan(drawn)], -reach, reach)
    scale = Scale.of(values)
    low, high = min(scale.low, float(drawn.min())), max(0.0, float(drawn.max()))
    return (low, high) if high > low else (low, low + 1.0)


def _bar(i: int, top: float, base: float) -> str:
    if top == base:
        return ""
    return f"M{i + 0.12:g} {base:g}V{top:g}h.76V{base:g}z"


def areas(counts: Int[np.ndarray, "boundary answer"]) -> list[str]:
    """Stacked shares of answers along the boundaries, one path an answer; boundaries without rollouts are gaps."""
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    edges = 100 * (1 - np.concatenate([np.zeros((len(counts), 1)), np.cumsum(shares, axis=1)], axis=1))
    runs = _runs(np.flatnonzero(totals > 0))
    return ["".join(_area(run, edges[:, k], edges[:, k + 1]) for run in runs) for k in range(counts.shape[1])]


def _runs(found: Int[np.ndarray, " boundary"]) -> list[list[int]]:
    cuts = np.flatnonzero(np.diff(found) > 1) + 1
    return [list(map(int, run)) for run in np.split(found, cuts) if len(run)]


def _area(run: list[int], lower: np.ndarray, upper: np.ndarray) -> str:
    if np.allclose(lower[run], upper[run]):
        return ""
    there = " ".join(f"{k} {upper[k]:.1f}" for k in run)
    back = " ".join(f"{k} {lower[k]:.1f}" for k in reversed(run))
    return f"M{there} {back}z"


class Lines(NamedTuple):
    """Lines in a square of 100 by 100, y downwards: (class, path) each, the band of the last one, and the axis labels."""

    paths: list[tuple[str, str]]
    band: str
    top: str
    bottom: str


def lines(
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    band: tuple[Sequence[float], Sequence[float]] | None,
) -> Lines:
    """Lines over x in [0, 1]; a band wider than half the lines' range on either side is cut. NaN breaks a line."""
    found = np.array([y for _, _, ys in series for y in ys], dtype=float)
    found = found[np.isfinite(found)]
    low, high = (float(found.min()), float(found.max())) if found.size else (0.0, 1.0)
    room = (high - low) / 2 or 0.5
    ends = np.array([] if band is None else [*band[0], *band[1]], dtype=float)
    ends = np.clip(ends[np.isfinite(ends)], low - room, high + room)
    low, high = float(min(ends.min(initial=low), low)), float(max(ends.max(initial=high), high))
    low, high = (low, high) if high > low else (low - room, high + room)

    def point(x: float, y: float) -> str:
        return f"{100 * x:g} {100 * (high - min(max(y, low), high)) / (high - low):.1f}"

    paths = [(kind, _line([(x, y) for x, y in zip(xs, ys, strict=True)], point)) for kind, xs, ys in series]
    edge = ""
    if band is not None and series and np.isfinite([*band[0], *band[1]]).all():
        xs = series[-1][1]
        there, back = zip(xs, band[1], strict=True), reversed(list(zip(xs, band[0], strict=True)))
        edge = "M" + " ".join(point(x, y) for x, y in [*there, *back]) + "z"
    return Lines(paths, edge, number(high), number(low))


def _line(points: Sequence[tuple[float, float]], point: Callable[[float, float], str]) -> str:
    path, pen = "", "M"
    for x, y in points:
        path, pen = (path + pen + point(x, y), "L") if math.isfinite(y) else (path, "M")
    return path
