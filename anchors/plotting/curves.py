"""Figures of compression: outcome against the tokens kept, and the area under it for every compressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from anchors.plotting.palette import LIGHT
from anchors.plotting.style import (
    ANSWERS,
    INK,
    OPPOSES,
    QUIET,
    SUPPORTS,
    axes_of,
    legend_below,
    plain,
    whole_outcome,
    words,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anchors.transfer import Curve, Transfer

THIN = "#c3c6c9"
AREAS = {"raw": "0 no trace, 1 whole trace", "deletion": "0 lost at the end, 1 lost at once"}
CEILING = "reader_anchors"
BASELINES = {CEILING: INK, "random": OPPOSES, "last": LIGHT["a2"], "length": LIGHT["a5"]}
FEW = len(ANSWERS) - 1


def compression_curves(
    transfer: Transfer, arm: str = "raw", ax: Axes | None = None, compressors: Sequence[str] | None = None
) -> Axes:
    """Outcome of the reader against the share of tokens kept: the writer's anchors with their 95 % band, others thin.

    Of many compressors only the baselines and the one of largest area have a hue of their own; name up to five in
    `compressors` to see just those.

    Raises:
        ValueError: the run has no curves in this arm, or none of a compressor that is named.
    """
    curves = _chosen(transfer, arm, compressors)
    ax = axes_of(ax, height=1.95)
    hues = _hues(curves)
    order = list(hues)
    for curve in sorted((c for c in curves if c.compressor in hues), key=lambda c: order.index(c.compressor)):
        _line(ax, curve, hues[curve.compressor], label=_label(curve))
    quiet = [c for c in curves if c.compressor not in hues]
    for k, curve in enumerate(quiet):
        _line(ax, curve, THIN, label=None if k else f"{len(quiet)} other{'s' * (len(quiet) > 1)}")
    band = next((c for c in curves if c.compressor == "anchors"), None)
    if band is not None:
        x, low, high = zip(*[(p.budget, p.outcome.low, p.outcome.high) for p in band.points], strict=True)
        ax.fill_between(x, low, high, color=SUPPORTS, alpha=0.15, linewidth=0, zorder=1)
    _limits(ax, curves, band)
    stripped = ", answer stripped" if arm == "stripped" else ""
    outcome = whole_outcome(transfer.outcome, (p.outcome.value for c in curves for p in c.points), between="\n")
    words(ax, x=f"share of tokens {'removed' if arm == 'deletion' else 'kept'}{stripped}", y=outcome)
    legend_below(ax)
    return ax


def _chosen(transfer: Transfer, arm: str, compressors: Sequence[str] | None) -> list[Curve]:
    found = [c for c in transfer.curve if c.arm == arm]
    if not found:
        arms = ", ".join(dict.fromkeys(c.arm for c in transfer.curve)) or "none"
        raise ValueError(
            f"there are no compression curves in arm {arm!r} (arms here: {arms}); use "
            "transfer_anchors(..., compressors='all')"
        )
    if compressors is None:
        return found
    missing = [name for name in compressors if name not in {c.compressor for c in found}]
    if missing or not compressors:
        names = ", ".join(c.compressor for c in found)
        raise ValueError(f"no curve of {missing[0] if missing else 'nothing'!r} in arm {arm!r}; there are {names}")
    return [c for c in found if c.compressor in compressors]


def _hues(curves: Sequence[Curve]) -> dict[str, str]:
    """A hue for each compressor that is told apart; anchors are always blue."""
    names = [c.compressor for c in curves]
    if len(names) <= FEW:
        spare = iter(h for h in ANSWERS if h != SUPPORTS)
        return {name: SUPPORTS if name == "anchors" else next(spare) for name in names}
    hues = {"anchors": SUPPORTS, **BASELINES}
    defined = [c for c in curves if not np.isnan(c.area) and c.compressor not in hues]
    if defined:
        hues[max(defined, key=lambda c: c.area).compressor] = LIGHT["a3"]
    return {name: hue for name, hue in hues.items() if name in names}


def _line(ax: Axes, curve: Curve, hue: str, *, label: str | None) -> None:
    x, y = [p.budget for p in curve.points], [p.outcome.value for p in curve.points]
    width, order = (0.6, 2) if hue == THIN else (1.6, 4) if curve.compressor == "anchors" else (0.9, 3)
    ax.plot(x, y, color=hue, lw=width, label=label, ls="--" if curve.compressor == CEILING else "-", zorder=order)


def _limits(ax: Axes, curves: Sequence[Curve], band: Curve | None) -> None:
    """The lines fill the plot; a band wider than half their range on either side is cut."""
    y = np.array([p.outcome.value for c in curves for p in c.points])
    y = y[np.isfinite(y)]
    if not y.size:
        return
    low, high = float(y.min()), float(y.max())
    room = (high - low) / 2 or 0.5
    ends = [] if band is None else [e for p in band.points for e in (p.outcome.low, p.outcome.high) if np.isfinite(e)]
    bottom, top = max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)
    ax.set_ylim(bottom - 0.05 * (top - bottom), top + 0.05 * (top - bottom))


def _label(curve: Curve) -> str:
    return plain(curve.compressor.replace("_", " "), 24)


def compression_areas(transfer: Transfer, arm: str = "raw", ax: Axes | None = None) -> Axes:
    """Normalised area of every compressor with its 95 % interval, largest first.

    0 is no trace and 1 the whole trace at once; in the arm "deletion" 0 is nothing lost before the end, 1 all at once.

    A dot is filled where the area differs from that of the writer's anchors (Holm p below 0.05).

    Raises:
        ValueError: the run has no curves in this arm, or no area is defined in it.
    """
    curves = sorted((c for c in _chosen(transfer, arm, None) if not np.isnan(c.area)), key=lambda c: -c.area)
    if not curves:
        raise ValueError(
            f"no area is defined in arm {arm!r}: with and without the trace the reader's outcome may be the same; "
            "read compression_curves, or give more traces"
        )
    ax = axes_of(ax, height=0.45 + 0.125 * len(curves))
    ax.axvline(0, color=QUIET, lw=0.5, zorder=1)
    for y, curve in enumerate(curves):
        anchors = curve.compressor == "anchors"
        hue = SUPPORTS if anchors else INK
        ax.plot([curve.area_low, curve.area_high], [y, y], color=hue, lw=0.8, zorder=2)
        _dot(ax, curve.area, y, hue, filled=anchors or curve.p < 0.05)
        if anchors:
            ax.axvline(curve.area, color=SUPPORTS, lw=0.6, ls=":", zorder=1)
    if not all(np.isnan(c.p) for c in curves):
        _dot(ax, np.nan, 0, INK, filled=True, label="differs from the anchors")
        _dot(ax, np.nan, 0, INK, filled=False, label="not shown to differ (Holm, 5 %)")
    ax.set_yticks(range(len(curves)), [_label(c) for c in curves])
    ax.invert_yaxis()
    _room(ax, curves)
    words(ax, x=f"area ({AREAS.get(arm, AREAS['raw'])})", y="")
    legend_below(ax)
    return ax


def _dot(ax: Axes, x: float, y: int, hue: str, *, filled: bool, label: str | None = None) -> None:
    faces = hue if filled else "#ffffff"
    ax.scatter([x], [y], s=14, facecolors=faces, edgecolors=hue, linewidths=0.8, zorder=3, label=label)


def _room(ax: Axes, curves: Sequence[Curve]) -> None:
    """Limits that one runaway interval cannot stretch beyond twice the areas' own range."""
    areas = np.array([c.area for c in curves])
    ends = np.array([e for c in curves for e in (c.area_low, c.area_high)])
    low, high = min(0.0, float(areas.min())), max(1.0, float(areas.max()))
    room = high - low
    ends = np.clip(ends[np.isfinite(ends)], low - room / 2, high + room / 2)
    ax.set_xlim(min(low, ends.min(initial=low)) - 0.03 * room, max(high, ends.max(initial=high)) + 0.03 * room)
