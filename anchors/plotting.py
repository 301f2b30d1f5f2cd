"""Paper-style figures: every function draws one, on the Axes it is given or on a new one, and returns the Axes.

1. Figures are sized for one column (3.3 in) and set in 7 pt; everything but matrix cells stays vector.
2. Blue supports the outcome, orange works against it; categories and answers use the Okabe-Ito hues.
3. matplotlib is imported on use, and its global state (rcParams, current figure) is never touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from anchors.answers import NO_ANSWER, answer_classes
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.stats import spearman, t_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMN = 3.3  # inches
OWN = "anchors"  # marks figures made here, whose height may follow their legend
SUPPORTS, OPPOSES, INK, QUIET, FLOOR = "#1f77be", "#de7814", "#1b1c1e", "#7a7e84", "#b0307a"
ANSWERS = ("#1f77be", "#d55e00", "#009e73", "#c4669b", "#a68a00", "#7a5fc0")
OTHER, NONE = "#8a8d91", "#d4d6d8"
CATEGORIES = {
    "problem_setup": "#8a7a5c",
    "plan_generation": "#0c7fc4",
    "fact_retrieval": "#009e73",
    "active_computation": "#5f7f99",
    "result_consolidation": "#8a63d2",
    "uncertainty_management": "#d9640f",
    "final_answer_emission": "#c4669b",
    "self_checking": "#a08400",
}
SHORT = {
    "problem_setup": "setup",
    "plan_generation": "plan",
    "fact_retrieval": "fact",
    "active_computation": "compute",
    "result_consolidation": "result",
    "uncertainty_management": "uncertain",
    "final_answer_emission": "answer",
    "self_checking": "check",
}


def importance_profile(scores: Scores, ax: Axes | None = None) -> Axes:
    """Every sentence's score with its interval, categories as colours, anchors as diamonds, and the null floor."""
    ax = _axes(ax, height=1.75)
    x = np.flatnonzero(scores.measured)
    ax.axhline(0, color=QUIET, lw=0.5, zorder=1)
    _whiskers(ax, scores, x)
    for category in _ordered(scores.categories):
        here = [i for i in x if scores.categories[i] == category]
        label = None if category is None else _plain(SHORT.get(category, category), 18)
        ax.scatter(here, scores.values[here], s=9, color=_colour(category), label=label, zorder=3, linewidths=0)
    if not np.isnan(scores.floor).all():
        steps = np.append(scores.floor, scores.floor[-1])
        ax.step(
            np.arange(len(scores) + 1) - 0.5, steps, where="post", color=FLOOR, lw=0.8, label="null floor", zorder=2
        )
    found, label = _anchors(scores)
    hollow = {"facecolors": "none", "edgecolors": INK, "linewidths": 0.8}
    ax.scatter(found, scores.values[found], marker="D", s=30, label=label, zorder=4, **hollow)
    ax.set_xlim(-0.8, len(scores) - 0.2)
    _words(ax, x="sentence", y=_quantity(scores))
    _legend_below(ax)
    return ax


def category_means(scores: Sequence[Scores], ax: Axes | None = None) -> Axes:
    """Mean score of each taxonomy category over traces: a dot a trace, the mean of trace means and its 95 % t interval.

    Raises:
        ValueError: there are no scores, or no sentence has both a category and a measured score.
    """
    means = _trace_means(scores)
    if not means:
        raise ValueError("no measured sentence has a category; label the trace with trace.with_categories(...) first")
    ax = _axes(ax, height=0.5 + 0.2 * len(means))
    ax.axvline(0, color=QUIET, lw=0.5, zorder=1)
    for y, (category, values) in enumerate(means.items()):
        low, high = t_interval(np.array(values))
        ax.scatter(values, np.full(len(values), y), s=6, color=_colour(category), alpha=0.45, linewidths=0, zorder=2)
        ax.plot([low, high], [y, y], color=INK, lw=1, zorder=3)
        ax.scatter([np.mean(values)], [y], s=18, color=_colour(category), edgecolors=INK, linewidths=0.7, zorder=4)
    ax.set_yticks(range(len(means)), [_plain(category.replace("_", " "), 30) for category in means])
    ax.invert_yaxis()
    _words(ax, x=_quantity(scores[0]), y="")
    return ax


def _trace_means(scores: Sequence[Scores]) -> dict[str, list[float]]:
    """The mean of every trace that has a category, for each category, in taxonomy order."""
    _some(scores)
    means: dict[str, list[float]] = {}
    for category in _ordered([c for s in scores for c in s.categories if c is not None]):
        masks = [s.measured & np.array([c == category for c in s.categories]) for s in scores]
        found = [float(s.values[mask].mean()) for s, mask in zip(scores, masks, strict=True) if mask.any()]
        if category is not None and found:
            means[category] = found
    return means


def matrix(scores: Scores, ax: Axes | None = None) -> Axes:
    """The sentence-to-sentence matrix of suppression or effects: source columns, target rows, blank where not measured.

    Raises:
        ValueError: the scores have no matrix.
    """
    if scores.matrix is None:
        raise ValueError(f"the {scores.method} scores have no matrix; use those of suppress(trace, model)")
    ax = _axes(ax, height=2.7)
    sizes = np.abs(scores.matrix[np.isfinite(scores.matrix) & (scores.matrix != 0)])
    bound = float(np.percentile(sizes, 99)) if sizes.size else 1.0
    signed = bool(np.nanmin(scores.matrix, initial=0.0) < 0)
    colours = {"cmap": _diverging(), "vmin": -bound} if signed else {"cmap": "Blues", "vmin": 0.0}
    image = ax.imshow(scores.matrix, vmax=bound, interpolation="nearest", rasterized=True, **colours)
    label = str(scores.details.get("matrix unit", scores.unit))
    _colour_bar(ax, image, label=label, extend="both" if signed else "max")
    _words(ax, x="source sentence", y="target sentence")
    return ax


def kurtosis(scores: Scores, ax: Axes | None = None) -> Axes:
    """Kurtosis of every attention head's vertical scores by layer, with the receiver heads marked.

    Raises:
        ValueError: the scores have no `kurtosis[layer, head]`.
    """
    if "kurtosis" not in scores.extras:
        raise ValueError(f"the {scores.method} scores have no kurtosis; use those of receiver_heads(trace, model)")
    ax, table = _axes(ax, height=1.75), np.asarray(scores.kurtosis, dtype=float)
    layers, heads = np.indices(table.shape)
    shifted = layers + (heads - (table.shape[1] - 1) / 2) / max(table.shape[1], 1) * 0.6
    ax.scatter(shifted.ravel(), table.ravel(), s=5, color=QUIET, alpha=0.7, linewidths=0, label="head")
    chosen = np.asarray(scores.extras.get("heads", np.empty((0, 2))), dtype=int).reshape(-1, 2)
    if len(chosen):
        i, j = chosen.T
        ax.scatter(
            shifted[i, j], table[i, j], s=14, color=SUPPORTS, linewidths=0, label=f"receiver head ({len(chosen)})"
        )
    ax.locator_params(axis="x", integer=True)
    _words(ax, x="layer", y="kurtosis")
    _legend_below(ax)
    return ax


def agreement(scores: Sequence[Scores], ax: Axes | None = None) -> Axes:
    """Spearman correlation between every two methods over the sentences both measured, written in the cells.

    Raises:
        ValueError: there are fewer than two scores.
    """
    _some(scores)
    if len(scores) < 2:
        raise ValueError(f"only {scores[0].method} was given; agreement needs the scores of at least two methods")
    ax = _axes(ax, height=1.0 + 0.32 * len(scores))
    table = np.array([[spearman(a.values, b.values).value for b in scores] for a in scores])
    table[np.triu_indices(len(scores))] = np.nan
    image = ax.imshow(table[1:, :-1], cmap=_diverging(), vmin=-1, vmax=1, aspect="auto")
    for i, j in np.argwhere(~np.isnan(table)):
        ax.text(
            j,
            i - 1,
            f"{table[i, j]:+.2f}".replace("-", "−"),
            ha="center",
            va="center",
            fontsize=6.5,
            color=_on(float(table[i, j])),
        )
    names = [_name(s) for s in scores]
    ax.set_yticks(range(len(names) - 1), names[1:])
    ax.set_xticks(range(len(names) - 1), names[:-1], rotation=30, ha="right", rotation_mode="anchor")
    _words(ax, x="", y="")
    _colour_bar(ax, image, label="Spearman correlation")
    return ax


def answer_distribution(rollouts: Rollouts, ax: Axes | None = None) -> Axes:
    """Shares of the five commonest answers, other answers and no answer along the boundaries of a trace.

    Raises:
        ValueError: there are no rollouts.
    """
    boundaries, shares, labels = _shares(rollouts)
    ax = _axes(ax, height=1.8)
    own = int(rollouts.trace.answer is None or labels[0] != _plain(rollouts.trace.answer, 18))
    colours = [*ANSWERS[own : own + len(labels) - 2], OTHER, NONE]  # the first hue is the own answer's alone
    used = [k for k in range(len(labels)) if shares[k].any()]
    areas = ax.stackplot(boundaries, shares[used], colors=[colours[k] for k in used], labels=[labels[k] for k in used])
    for area in areas:
        area.set_linewidth(0)
    ax.set_xlim(boundaries[0], max(boundaries[-1], boundaries[0] + 1))
    ax.set_ylim(0, 1)
    _words(ax, x="boundary (0 is the prompt alone)", y="share of rollouts")
    _legend_below(ax)
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
    return list(found), shares, [*(_plain(a, 18) for a in shown), "other", "no answer"]


def confidence_trace(scores: Scores, ax: Axes | None = None) -> Axes:
    """A confidence score along the trace, with its interval as a band and its three lowest sentences marked."""
    ax = _axes(ax, height=1.6)
    x = np.arange(len(scores))
    ax.plot(x, scores.values, color=SUPPORTS, lw=1, marker="o", ms=1.8, zorder=3)
    if np.nanmax(scores.high - scores.low, initial=0) > 0:
        ax.fill_between(x, scores.low, scores.high, color=SUPPORTS, alpha=0.2, linewidth=0, zorder=2)
    lowest = [i for i in np.argsort(scores.values)[:3] if scores.measured[i]]
    ax.scatter(
        lowest, scores.values[lowest], marker="v", s=18, color=OPPOSES, linewidths=0, zorder=4, label="three lowest"
    )
    _words(ax, x="sentence", y=_quantity(scores))
    _legend_below(ax)
    return ax


def _axes(ax: Axes | None, *, height: float) -> Axes:
    """The given Axes, or those of a new figure one column wide that no global state knows of."""
    if ax is None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(COLUMN, height), layout="constrained")
        figure.set_gid(OWN)
        FigureCanvasAgg(figure)
        ax = figure.add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_linewidth(0.6)
    ax.tick_params(labelsize=6.5, width=0.6, length=2.5, pad=2)
    return ax


def _words(ax: Axes, *, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=7, labelpad=2)
    ax.set_ylabel(y, fontsize=6.5, labelpad=3)
    for text in (ax.xaxis.get_offset_text(), ax.yaxis.get_offset_text()):
        text.set_fontsize(6)


def _legend_below(ax: Axes) -> None:
    """A legend under the x label, in as many columns as its words leave room for; a figure made here grows with it."""
    from matplotlib.figure import Figure
    from matplotlib.transforms import ScaledTranslation

    words = ax.get_legend_handles_labels()[1]
    if not words:
        return
    columns = max(1, min(len(words), int(66 / (sum(map(len, words)) / len(words) + 6))))
    under = ax.transAxes + ScaledTranslation(0, -24 / 72, ax.figure.dpi_scale_trans)
    style: dict[str, Any] = {
        "fontsize": 6,
        "frameon": False,
        "handletextpad": 0.3,
        "columnspacing": 0.9,
        "handlelength": 1.2,
    }
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.45, 0), bbox_transform=under, ncols=columns, borderaxespad=0.0, **style
    )
    if isinstance(ax.figure, Figure) and ax.figure.get_gid() == OWN:
        ax.figure.set_figheight(ax.figure.get_figheight() + 0.13 * -(-len(words) // columns))


def _whiskers(ax: Axes, scores: Scores, x: np.ndarray) -> None:
    low, high = (np.where(np.isfinite(e), e, scores.values) for e in (scores.low, scores.high))
    ax.vlines(x, low[x], high[x], color=QUIET, lw=0.7, zorder=2)


def _anchors(scores: Scores) -> tuple[list[int], str]:
    if np.isnan(scores.p).all():
        return scores.top(3), "top 3, not tested"
    return scores.anchors(), "anchor (FDR 5%)"


def _quantity(scores: Scores) -> str:
    name = _name(scores)
    return f"{name}\n({_plain(scores.unit, 40)})" if scores.unit else name


def _name(scores: Scores) -> str:
    return _plain(scores.method.replace("_", " ").replace(" kl", " KL"), 40)


def _ordered(categories: Sequence[str | None]) -> list[str | None]:
    """The categories that occur: taxonomy order, then others by name, then None."""
    order = list(CATEGORIES)
    return sorted(set(categories), key=lambda c: (c is None, order.index(c) if c in order else len(order), c or ""))


def _colour(category: str | None) -> str:
    return QUIET if category is None else CATEGORIES.get(category, INK)


def _colour_bar(ax: Axes, image: Any, *, label: str, extend: str = "neither") -> None:
    bar = ax.figure.colorbar(image, ax=ax, extend=extend, shrink=0.9, pad=0.03, aspect=28)
    bar.ax.tick_params(labelsize=6, width=0.5, length=2)
    bar.outline.set_linewidth(0.4)  # pyright: ignore[reportCallIssue]
    bar.set_label(label, fontsize=6.5)


def _diverging() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("orange_blue", [OPPOSES, "#ffffff", SUPPORTS])


def _on(value: float) -> str:
    return "#ffffff" if value > 0.75 else INK


def _plain(text: str, length: int) -> str:
    """Text that matplotlib draws as it stands: no mathtext, no unprintable characters, at most `length` characters."""
    shown = "".join(c if c.isprintable() else "\ufffd" for c in text)
    shown = shown if len(shown) <= length else shown[: length - 1] + "…"
    return shown.replace("$", r"\$")


def _some(scores: Sequence[Scores]) -> None:
    if not scores:
        raise ValueError("there are no scores to draw; give at least one")
