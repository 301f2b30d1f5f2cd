"""The sentence graph: the strongest effects of one sentence on another, as arcs over the trace.

1. An edge runs from a source to a later or earlier target; cells without an effect or a measurement are no edges.
2. Where cells have p-values, edges are ranked by them and carry the false-discovery rate they imply; else by size.
3. An arc is thick at its source and thin at its target, which shows direction without colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anchors.report.drawing import number
from anchors.scores import Scores
from anchors.stats import benjamini_hochberg_adjusted

MOST = 400  # edges a graph ships
FDR = 0.05
WIDTH, HEIGHT = 1000, 240


class Edge(NamedTuple):
    """An effect of `source` on `target`; NaN where it has no interval or no test. q is its adjusted p."""

    source: int
    target: int
    value: float
    low: float
    high: float
    p: float
    q: float


class Graph(NamedTuple):
    """The edges of one method, best first; `shown` of them at first, out of `cells` that were measured."""

    edges: list[Edge]
    shown: int
    cells: int
    tested: bool


def graph(scores: Scores) -> Graph:
    """Every edge of a method with a matrix: by p where cells are tested, else by size."""
    matrix = scores.matrix
    if matrix is None:
        raise ValueError(f"{scores.method} has no matrix, so no sentence graph")
    blank = np.full(matrix.shape, np.nan)
    low, high, p = (scores.extras.get(f"matrix_{name}", blank) for name in ("low", "high", "p"))
    q = benjamini_hochberg_adjusted(p.ravel()).reshape(p.shape)
    measured = ~np.isnan(matrix) & ~np.eye(len(matrix), dtype=bool)
    target, source = np.nonzero(measured & (matrix != 0))
    tested = bool((~np.isnan(p)).any())
    sizes = -np.abs(matrix[target, source])
    order = np.lexsort((sizes, p[target, source])) if tested else np.argsort(sizes, kind="stable")
    places = [(int(target[i]), int(source[i])) for i in order[:MOST]]
    edges = [Edge(s, t, *(float(m[t, s]) for m in (matrix, low, high, p, q))) for t, s in places]
    shown = sum(e.q <= FDR for e in edges) if tested else min(len(edges), max(8, min(len(matrix), 60)))
    return Graph(edges, shown, int(measured.sum()), tested)


def arcs(found: Graph, size: int) -> list[tuple[str, float, str]]:
    """(class, strength, path) of the edges shown at first, in a box of WIDTH by HEIGHT, weakest first."""
    shown = found.edges[: found.shown]
    peak = max((abs(e.value) for e in shown), default=1.0)
    return [("neg" if e.value < 0 else "pos", _strength(e, peak), arc(e, size)) for e in reversed(shown)]


def _strength(edge: Edge, peak: float) -> float:
    return round(0.25 + 0.65 * abs(edge.value) / peak, 2)


def arc(edge: Edge, size: int, *, thick: float = 5.0) -> str:
    """The outline of one arc: half an ellipse out, and back by a lower one that meets it at the target.

    >>> arc(Edge(0, 1, 1.0, 0.0, 0.0, 0.0, 0.0), 2)
    'M247.5 240A251.1 166.7 0 0 1 750 240A248.6 164.2 0 0 0 252.5 240z'
    """
    a, b = ((i + 0.5) / size * WIDTH for i in (edge.source, edge.target))
    side = 1 if b > a else -1
    half = side * thick / 2
    tall = (HEIGHT - 4) * math.sqrt(abs(b - a) / WIDTH)
    sweep = 1 if b > a else 0
    outer = radii((abs(b - a) + thick / 2) / 2, tall)
    inner = radii(max((abs(b - a) - thick / 2) / 2, 0.1), tall - thick / 2)
    return f"M{a - half:g} {HEIGHT}A{outer} 0 0 {sweep} {b:g} {HEIGHT}A{inner} 0 0 {1 - sweep} {a + half:g} {HEIGHT}z"


def radii(wide: float, tall: float) -> str:
    """Radii of half an ellipse, a little too small: SVG widens them to the chord, keeping their ratio.

    Radii rounded up would make less than half an ellipse, whose ends meet the axis askew.
    """
    less = max(wide - 0.2, 0.1)
    return f"{less:.1f} {max(tall, 1.0) * less / wide:.1f}"


def record(found: Graph) -> list[list[float | int | None]]:
    """The edges as JSON data: source, target, and p and q where cells are tested; values are in the matrix."""
    tests = [[_rounded(e.p), _rounded(e.q)] if found.tested else [] for e in found.edges]
    return [[e.source, e.target, *test] for e, test in zip(found.edges, tests, strict=True)]


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def in_words(found: Graph) -> str:
    """What the graph shows at first."""
    edges = "edge" if found.shown == 1 else "edges"
    if found.tested:
        return f"{found.shown} {edges} at a false-discovery rate of {FDR:.0%}, of {found.cells} pairs tested"
    weakest: Sequence[Edge] = found.edges[: found.shown][-1:]
    at_least = f", each at least {number(abs(weakest[0].value))}" if weakest else ""
    return f"the {found.shown} strongest {edges} of {found.cells} pairs{at_least}; they have no p-values"
