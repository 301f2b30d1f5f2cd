"""Figures of a transfer run: retention by operation, the trace shown otherwise, and d along an axis of shift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from anchors.plotting.style import (
    ANSWERS,
    INK,
    QUIET,
    SUPPORTS,
    axes_of,
    legend_below,
    plain,
    signed,
    whole_outcome,
    words,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anchors.transfer import Mean, Shift, Transfer

WRITER = "#a9adb2"
MARKERS = ("o", "s", "D", "^", "v", "P")


def retention_bars(transfer: Transfer, ax: Axes | None = None) -> Axes:
    """Effect of the anchors over their controls in reader and writer, a pair of bars an operation, 95 % intervals.

    The writer has no bar where its effect was not measured in this unit.
    """
    ax = axes_of(ax, height=1.75)
    ax.axhline(0, color=QUIET, lw=0.5, zorder=1)
    for x, r in enumerate(transfer.retention):
        for side, hue, mean in ((-0.19, SUPPORTS, r.reader), (0.19, WRITER, r.writer)):
            if mean is not None and not np.isnan(mean.value):
                ax.bar(x + side, mean.value, width=0.34, color=hue, linewidth=0, zorder=2)
                ax.vlines(x + side, mean.low, mean.high, color=INK, lw=0.9, zorder=3)
    for hue, label in ((SUPPORTS, f"in the reader, {transfer.reader}"), (WRITER, f"in the writer, {transfer.writer}")):
        ax.bar([0], [np.nan], color=hue, label=plain(label, 40))
    names = [plain(r.operation.replace("_", " by "), 20) for r in transfer.retention]
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.6, len(names) - 0.4)
    traces = "1 trace: no interval" if transfer.traces == 1 else f"{transfer.traces} traces"
    words(ax, x=f"how they were taken away ({traces})", y=f"anchors over controls\n({_unit(transfer)})")
    legend_below(ax)
    return ax


def controls_plot(transfer: Transfer, ax: Axes | None = None) -> Axes:
    """Outcome of the reader under every way to show the trace, with 95 % intervals; lines mark it whole and absent.

    Raises:
        ValueError: the run has no such controls.
    """
    if transfer.controls is None or not transfer.controls.outcomes:
        raise ValueError("this run has no corrupted traces; use transfer_anchors(..., corrupt=True)")
    found = transfer.controls.outcomes
    names = sorted(found, key=lambda name: (name not in ("full", "none"), name == "none"))
    ax = axes_of(ax, height=0.5 + 0.13 * len(names))
    for name, hue in (("full", SUPPORTS), ("none", QUIET)):
        if name in found:
            ax.axvline(found[name].value, color=hue, lw=0.6, ls=":", zorder=1)
    for y, name in enumerate(names):
        _point(ax, found[name], float(y), {"full": SUPPORTS, "none": QUIET}.get(name, INK), "o")
    labels = {"full": "whole trace", "none": "no trace"}
    ax.set_yticks(range(len(names)), [plain(labels.get(name, name), 30) for name in names])
    ax.invert_yaxis()
    words(ax, x=whole_outcome(transfer.outcome, (mean.value for mean in found.values())), y="")
    return ax


def shift_plot(shift: Shift | Sequence[Shift], ax: Axes | None = None) -> Axes:
    """The reader's d at every level of one or several axes, nearest first, with 95 % intervals.

    Every axis is a group of rows with a marker of its own; its heading gives the slope a level, with interval, and the
    p of Page's trend where the same traces were read at every level.

    Raises:
        ValueError: no axis is given.
    """
    from anchors.transfer.shift import Shift as One

    shifts: list[Shift] = [shift] if isinstance(shift, One) else list(shift)
    if not shifts:
        raise ValueError("there is no axis to draw; give at least one shift_trend(...)")
    rows = sum(len(s.levels) + 1.4 for s in shifts)
    ax = axes_of(ax, height=0.42 + 0.15 * rows)
    ax.axvline(0, color=QUIET, lw=0.5, zorder=1)
    ticks, top = [], 0.0
    for k, s in enumerate(shifts):
        hue, places = ANSWERS[k % len(ANSWERS)], [top + 1.1 + i for i in range(len(s.levels))]
        _head(ax, s, top + 0.2)
        ax.plot([m.value for m in s.values], places, color=hue, lw=0.7, alpha=0.6, zorder=2)
        for y, mean in zip(places, s.values, strict=True):
            _point(ax, mean, y, hue, MARKERS[k % len(MARKERS)])
        ticks += [(y, plain(level, 20)) for y, level in zip(places, s.levels, strict=True)]
        top += len(s.levels) + 1.4
    ax.set_yticks([y for y, _ in ticks], [name for _, name in ticks])
    ax.set_ylim(top - 0.1, -0.5)
    words(ax, x="anchors over controls in the reader (d)", y="")
    return ax


def _head(ax: Axes, s: Shift, y: float) -> None:
    """The name of an axis among the row labels, its slope and trend inside the plot."""
    trend = "" if s.trend is None or np.isnan(s.trend.p) else f", trend p = {s.trend.p:.2g}"
    slope = "slope not defined"
    if not np.isnan(s.slope.value):
        slope = f"slope {signed(s.slope.value)} [{signed(s.slope.low)}, {signed(s.slope.high)}]"
    place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "va": "center", "color": INK, "zorder": 4}
    ax.text(-0.02, y, plain(s.axis, 20), ha="right", fontsize=6.5, fontweight="bold", **place)
    ax.text(0.01, y, slope + trend, fontsize=6, bbox={"facecolor": "#ffffff", "edgecolor": "none", "pad": 0.6}, **place)


def _point(ax: Axes, mean: Mean, y: float, hue: str, marker: str) -> None:
    ax.plot([mean.low, mean.high], [y, y], color=hue, lw=0.8, zorder=2)
    ax.scatter([mean.value], [y], s=13, color=hue, marker=marker, linewidths=0, zorder=3)


def _unit(transfer: Transfer) -> str:
    return "nats a token" if transfer.outcome == "forced" else "probability"
