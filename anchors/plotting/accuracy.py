"""Accuracy against exact truth over cost: one line a method that was run at several n, one point a method that was not.

1. `benchmarks/truth.py --out FOLDER` writes FOLDER/WORLD.json; `read_accuracy` reads one measure from it.
2. Methods whose names differ only in `n = ...` are one line. What costs nothing (baselines, exact truth itself) is a
   dotted line across the figure, named at its right end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from anchors.plotting.palette import LIGHT
from anchors.plotting.style import ANSWERS, FLOOR, INK, QUIET, axes_of, legend_below, plain, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = {
    "auroc": "AUROC of planted anchors",
    "auroc_idle": "AUROC of planted anchors\nagainst idle sentences",
    "counterfactual": "Spearman with exact\ncounterfactual importance",
    "resampling": "Spearman with exact\nresampling importance",
    "size_counterfactual": "Spearman of sizes with exact\ncounterfactual importance",
    "size_resampling": "Spearman of sizes with exact\nresampling importance",
    "precision": "precision at k",
}
LEFT_OUT = re.compile(r"filter|world's own|alternatives|ties broken")  # variants that would crowd the figure
HUES = {"resampling": ANSWERS[0], "counterfactual": ANSWERS[1]}
LOOKS = {
    "forced answer": ("D", LIGHT["a3"]),
    "suppression, on the answer": ("v", FLOOR),
    "suppression, on later sentences": ("P", LIGHT["a5"]),
    "receiver heads": ("^", LIGHT["a4"]),
    "confidence, low first": ("s", LIGHT["a2"]),
}
SPARE = (("X", QUIET), ("<", INK), (">", LIGHT["a3"]), ("p", LIGHT["a5"]), ("h", LIGHT["a4"]), ("*", LIGHT["a2"]))


class Accuracy(NamedTuple):
    """One method at one cost: its name, forward tokens a trace, and the measure with its 95 % interval over traces."""

    method: str
    tokens: float
    value: float
    low: float
    high: float


def read_accuracy(path: str | Path, *, measure: str = "auroc") -> list[Accuracy]:
    """Every method of a file that `benchmarks/truth.py` wrote, under one measure; those it does not apply to are left out.

    Raises:
        ValueError: no such measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure is {measure!r}; use {', '.join(MEASURES)}")
    rows = json.loads(Path(path).read_text(encoding="utf-8"))["methods"]
    return [Accuracy(row["method"], row["forward"], *row[measure][:3]) for row in rows if row[measure] is not None]


def accuracy_curves(
    found: Sequence[Accuracy], ax: Axes | None = None, *, measure: str = "auroc", every: bool = False
) -> Axes:
    """Accuracy against exact truth over forward tokens a trace, with 95 % intervals over traces.

    Variants of a method (other filters, the world's own rollouts, sought alternatives) are shown with `every`.

    Raises:
        ValueError: there is nothing to draw.
    """
    shown = [a for a in found if every or not LEFT_OUT.search(a.method)]
    if not shown:
        raise ValueError("there is no accuracy to draw; read it with read_accuracy(path) from benchmarks/truth.py")
    ax = axes_of(ax, height=2.15)
    families: dict[str, list[Accuracy]] = {}
    for a in sorted(shown, key=lambda a: a.tokens):
        families.setdefault(_family(a.method), []).append(a)
    spare = iter(SPARE * len(families))
    for name in sorted(families, key=lambda name: (-len(families[name]), name)):
        if families[name][0].tokens > 0:
            _draw(ax, name, families[name], LOOKS.get(name) or next(spare))
    _free(ax, {name: points[0].value for name, points in families.items() if not points[0].tokens})
    ax.set_xscale("log")
    words(ax, x="tokens through the model, a trace", y=MEASURES[measure])
    legend_below(ax)
    return ax


def _family(method: str) -> str:
    return re.sub(r",? ?n = \d+", "", method).strip(", ")


def _draw(ax: Axes, name: str, points: Sequence[Accuracy], look: tuple[str, str]) -> None:
    """A line with its intervals; of the two importances the plain one is hollow, the one with `reuse` filled."""
    base, _, rest = name.partition(", ")
    known = base in HUES and rest in ("", "reuse")
    marker, hue = ("o", HUES[base]) if known else look
    face = "#ffffff" if known and not rest else hue
    line = {"ls": "-" if len(points) > 1 else "", "lw": 1.1, "marker": marker, "ms": 3.6, "mew": 0.9}
    x = [a.tokens for a in points]
    ax.vlines(x, [a.low for a in points], [a.high for a in points], color=hue, lw=0.8, zorder=2)
    ax.plot(x, [a.value for a in points], color=hue, mfc=face, label=plain(name, 34), zorder=3, **line)


def _free(ax: Axes, lines: dict[str, float]) -> None:
    """What costs no tokens: a dotted line each, named at its right end, names pushed apart where they would touch."""
    low, high = ax.get_ylim()
    low, high = min([low, *lines.values()]), max([high, *lines.values()])
    ax.set_ylim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    names = sorted(lines, key=lambda name: lines[name])
    for name, y in zip(names, _apart([lines[name] for name in names], 0.06 * (high - low)), strict=True):
        ax.axhline(lines[name], color=QUIET, lw=0.6, ls=":", zorder=1)
        text = plain(name.partition(": ")[2].partition(",")[0] or name, 22)
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        ax.annotate(text, (1, y), (2, 0), fontsize=5.5, color=INK, va="center", **place)


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """The nearest places, by squares, that are at least `gap` from each other; ascending.

    >>> _apart([0.0, 1.0, 1.0], 0.5)
    [0.0, 0.75, 1.25]
    """
    from scipy.optimize import isotonic_regression

    steps = gap * np.arange(len(places))
    return [float(y) for y in isotonic_regression(np.array(places) - steps).x + steps] if len(places) else []
