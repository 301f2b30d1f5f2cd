"""Figures of one trace or of scores over traces: profile, categories, answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from anchors.answers import NO_ANSWER, answer_classes
from anchors.plotting.palette import SHORT
from anchors.plotting.style import (
    ANSWERS,
    FLOOR,
    INK,
    NONE,
    OTHER,
    QUIET,
    axes_of,
    colour,
    legend_below,
    ordered,
    plain,
    quantity,
    some,
    words,
)
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.stats import t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def importance_profile(scores: Scores, ax: Axes | None = None) -> Axes:
    """Every sentence's score with its interval, categories as colours, anchors as diamonds, and the null floor."""
    ax = axes_of(ax, height=1.75)
    x = np.flatnonzero(scores.measured)
    ax.axhline(0, color=QUIET, lw=0.5, zorder=1)
    _whiskers(ax, scores, x)
    for category in ordered(scores.categories):
        here = [i for i in x if scores.categories[i] == category]
        label = None if category is None else plain(SHORT.get(category, category), 18)
        ax.scatter(here, scores.values[here], s=9, color=colour(category), label=label, zorder=3, linewidths=0)
    if not np.isnan(scores.floor).all():
        steps = np.append(scores.floor, scores.floor[-1])
        ax.step(
            np.arange(len(scores) + 1) - 0.5, steps, where="post", color=FLOOR, lw=0.8, label="null floor", zorder=2
        )
    found, label = _anchors(scores)
    hollow = {"facecolors": "none", "edgecolors": INK, "linewidths": 0.8}
    ax.scatter(found, scores.values[found], marker="D", s=30, label=label, zorder=4, **hollow)
    ax.set_xlim(-0.8, len(scores) - 0.2)
    words(ax, x="sentence", y=quantity(scores))
    legend_below(ax)
    return ax


def category_means(scores: Sequence[Scores], ax: Axes | None = None) -> Axes:
    """Mean score of each taxonomy category over traces: a dot a trace, the mean of trace means and its 95 % t interval.

    Raises:
        ValueError: there are no scores, or no sentence has both a category and a measured score.
    """
    means = _trace_means(scores)
    if not means:
        raise ValueError("no measured sentence has a category; label the trace with trace.with_categories(...) first")
    ax = axes_of(ax, height=0.5 + 0.2 * len(means))
    ax.axvline(0, color=QUIET, lw=0.5, zorder=1)
    for y, (category, values) in enumerate(means.items()):
        low, high = t_interval(np.array(values))
        ax.scatter(values, np.full(len(values), y), s=6, color=colour(category), alpha=0.45, linewidths=0, zorder=2)
        ax.plot([low, high], [y, y], color=INK, lw=1, zorder=3)
        ax.scatter([np.mean(values)], [y], s=18, color=colour(category), edgecolors=INK, linewidths=0.7, zorder=4)
    ax.set_yticks(range(len(means)), [plain(category.replace("_", " "), 30) for category in means])
    ax.invert_yaxis()
    words(ax, x=quantity(scores[0]), y="")
    return ax


def _trace_means(scores: Sequence[Scores]) -> dict[str, list[float]]:
    """The mean of every trace that has a category, for each category, in taxonomy order."""
    some(scores)
    means: dict[str, list[float]] = {}
    for category in ordered([c for s in scores for c in s.categories if c is not None]):
        masks = [s.measured & np.array([c == category for c in s.categories]) for s in scores]
        found = [float(s.values[mask].mean()) for s, mask in zip(scores, masks, strict=True) if mask.any()]
        if category is not None and found:
            means[category] = found
    return means


def answer_distribution(rollouts: Rollouts, ax: Axes | None = None) -> Axes:
    """Shares of the five commonest answers, other answers and no answer along the boundaries of a trace.

    Raises:
        ValueError: there are no rollouts.
    """
    boundaries, shares, labels = _shares(rollouts)
    ax = axes_of(ax, height=1.8)
    own = int(rollouts.trace.answer is None or labels[0] != plain(rollouts.trace.answer, 18))
    colours = [*ANSWERS[own : own + len(labels) - 2], OTHER, NONE]  # the first hue is the own answer's alone
    used = [k for k in range(len(labels)) if shares[k].any()]
    areas = ax.stackplot(boundaries, shares[used], colors=[colours[k] for k in used], labels=[labels[k] for k in used])
    for area in areas:
        area.set_linewidth(0)
    ax.set_xlim(boundaries[0], max(boundaries[-1], boundaries[0] + 1))
    ax.set_ylim(0, 1)
    words(ax, x="boundary (0 is the prompt alone)", y="share of rollouts")
    legend_below(ax)
    return ax


def _shares(rollouts: Rollouts) -> tuple[list[int], Float[np.ndarray, "answer boundary"], list[str]]:
    """Boundaries that have rollouts, the share of every shown answer there, and the answers' labels."""
    own = rollouts.trace.answer
    found = {k: rollouts.answers(k) for k in range(len(rollouts.trace) + 1)}
    found = {k: row for k, row in found.items() if row}
    if not found:
        raise ValueError(f"trace {rollouts.trace.id} has no rollouts; draw some with resample(trace, model)")
    spellings = [*([own] if own else []), *dict.fromkeys(a for row in found.values() for a in row)]
    named = dict(zip(spellings, answer_classes(spellings), strict=True))
    sizes = Counter(named[a] for row in found.values() for a in row if a != NO_ANSWER)
    first = [own] if own in sizes else []
    shown = [*first, *(answer for answer, _ in sizes.most_common() if answer != own)][:5]
    place = {answer: k for k, answer in enumerate(shown)} | {NO_ANSWER: len(shown) + 1}
    shares = np.zeros((len(shown) + 2, len(found)))
    for column, row in enumerate(found.values()):
        for answer in row:
            shares[place.get(named[answer], len(shown)), column] += 1 / len(row)
    return list(found), shares, [*(plain(a, 18) for a in shown), "other", "no answer"]


def _whiskers(ax: Axes, scores: Scores, x: np.ndarray) -> None:
    low, high = (np.where(np.isfinite(e), e, scores.values) for e in (scores.low, scores.high))
    ax.vlines(x, low[x], high[x], color=QUIET, lw=0.7, zorder=2)


def _anchors(scores: Scores) -> tuple[list[int], str]:
    if np.isnan(scores.p).all():
        return scores.top(3), "top 3, not tested"
    return scores.anchors(), "anchor (FDR 5%)"
