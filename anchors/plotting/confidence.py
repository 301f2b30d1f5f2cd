"""Confidence along a trace: token by token with its groups, or sentence by sentence.

1. Tokens are a thin line, the group mean a thick one that stands at the last token of its window.
2. The lowest group has a triangle, the tenth of lowest groups dots: the trace's `lowest` and `bottom` confidence.
3. Sentence means are steps over their tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anchors.plotting.palette import LIGHT
from anchors.plotting.style import FLOOR, INK, OPPOSES, SUPPORTS, axes_of, legend_below, quantity, words
from anchors.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anchors.confidence import TraceConfidence

TOKENS = "#a3b4c4"
STEP = LIGHT["a2"]


def confidence_trace(found: Scores | TraceConfidence, ax: Axes | None = None, *, bottom: float = 0.1) -> Axes:
    """Confidence along a trace, its lowest places marked; of `Scores` by sentence, of `TraceConfidence` by token.

    `bottom` is the share of groups that count as the lowest ones (`Definition.bottom`).

    Raises:
        ValueError: no token of the trace was measured.
    """
    if isinstance(found, Scores):
        return _by_sentence(found, axes_of(ax, height=1.6))
    if not len(found.tokens):
        raise ValueError("the trace has no measured token; read it with read_traces([trace], model)")
    ax = axes_of(ax, height=1.9)
    ax.plot(np.arange(len(found.tokens)), found.tokens, color=TOKENS, lw=0.5, label="token", zorder=1)
    _steps(ax, found)
    if len(found.groups) and len(found.groups) + found.window - 1 == len(found.tokens):
        _groups(ax, found, bottom)
    ax.set_xlim(-0.5, len(found.tokens) - 0.5)
    words(ax, x="token", y="confidence\n(nats)")
    legend_below(ax)
    return ax


def _steps(ax: Axes, found: TraceConfidence) -> None:
    """The mean of every sentence over its tokens."""
    if found.sentences is None or found.spans is None:
        return
    starts, ends = np.array(found.spans).reshape(-1, 2).T
    ax.hlines(found.sentences, starts - 0.5, ends - 0.5, color=STEP, lw=1.1, label="sentence mean", zorder=2)


def _groups(ax: Axes, found: TraceConfidence, bottom: float) -> None:
    places = np.arange(len(found.groups)) + found.window - 1
    ax.plot(places, found.groups, color=SUPPORTS, lw=1.3, label=f"group of {found.window}", zorder=3)
    low = np.argsort(found.groups, kind="stable")[: max(1, int(bottom * len(found.groups)))]
    ax.scatter(places[low], found.groups[low], s=7, color=OPPOSES, linewidths=0, label=f"bottom {bottom:.0%}", zorder=4)
    first = low[:1]
    ax.scatter(
        places[first], found.groups[first], marker="v", s=26, color=FLOOR, linewidths=0, label="lowest", zorder=5
    )


def _by_sentence(scores: Scores, ax: Axes) -> Axes:
    """A line with its interval as a band."""
    x = np.arange(len(scores))
    ax.plot(x, scores.values, color=SUPPORTS, lw=1, marker="o", ms=1.8, zorder=3)
    if np.nanmax(scores.high - scores.low, initial=0) > 0:
        ax.fill_between(x, scores.low, scores.high, color=SUPPORTS, alpha=0.2, linewidth=0, zorder=2)
    lowest = [i for i in np.argsort(scores.values)[:3] if scores.measured[i]]
    mark = {"marker": "v", "s": 18, "color": OPPOSES, "edgecolors": INK, "linewidths": 0.3}
    ax.scatter(lowest, scores.values[lowest], label="three lowest", zorder=4, **mark)
    words(ax, x="sentence", y=quantity(scores))
    legend_below(ax)
    return ax
