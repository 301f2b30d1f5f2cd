"""Figures of matrices: sentence to sentence, heads, methods against each other, writers against readers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from anchors.plotting.style import (
    INK,
    QUIET,
    SUPPORTS,
    axes_of,
    colour_bar,
    diverging,
    ink_on,
    legend_below,
    name_of,
    plain,
    signed,
    some,
    words,
)
from anchors.scores import Scores
from anchors.stats import spearman

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anchors.transfer import TransferMatrix

MARKS = {"transfers": "✓", "does not transfer": "✗", "inconclusive": "?", "gate failed": "–"}


def matrix(scores: Scores, ax: Axes | None = None) -> Axes:
    """The sentence-to-sentence matrix of suppression or effects: source columns, target rows, blank where not measured.

    Raises:
        ValueError: the scores have no matrix.
    """
    if scores.matrix is None:
        raise ValueError(f"the {scores.method} scores have no matrix; use those of suppress(trace, model)")
    ax = axes_of(ax, height=2.7)
    sizes = np.abs(scores.matrix[np.isfinite(scores.matrix) & (scores.matrix != 0)])
    bound = float(np.percentile(sizes, 99)) if sizes.size else 1.0
    signed = bool(np.nanmin(scores.matrix, initial=0.0) < 0)
    colours = {"cmap": diverging(), "vmin": -bound} if signed else {"cmap": "Blues", "vmin": 0.0}
    image = ax.imshow(scores.matrix, vmax=bound, interpolation="nearest", rasterized=True, **colours)
    label = str(scores.details.get("matrix unit", scores.unit))
    colour_bar(ax, image, label=label, extend="both" if signed else "max")
    words(ax, x="source sentence", y="target sentence")
    return ax


def kurtosis(scores: Scores, ax: Axes | None = None) -> Axes:
    """Kurtosis of every attention head's vertical scores by layer, with the receiver heads marked.

    Raises:
        ValueError: the scores have no `kurtosis[layer, head]`.
    """
    if "kurtosis" not in scores.extras:
        raise ValueError(f"the {scores.method} scores have no kurtosis; use those of receiver_heads(trace, model)")
    ax, table = axes_of(ax, height=1.75), np.asarray(scores.kurtosis, dtype=float)
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
    words(ax, x="layer", y="kurtosis")
    legend_below(ax)
    return ax


def agreement(scores: Sequence[Scores], ax: Axes | None = None) -> Axes:
    """Spearman correlation between every two methods over the sentences both measured, written in the cells.

    Raises:
        ValueError: there are fewer than two scores.
    """
    some(scores)
    if len(scores) < 2:
        raise ValueError(f"only {scores[0].method} was given; agreement needs the scores of at least two methods")
    ax = axes_of(ax, height=1.0 + 0.32 * len(scores))
    table = np.array([[spearman(a.values, b.values).value for b in scores] for a in scores])
    table[np.triu_indices(len(scores))] = np.nan
    image = ax.imshow(table[1:, :-1], cmap=diverging(), vmin=-1, vmax=1, aspect="auto")
    for i, j in np.argwhere(~np.isnan(table)):
        ax.text(
            j,
            i - 1,
            signed(float(table[i, j])),
            ha="center",
            va="center",
            fontsize=6.5,
            color=ink_on(float(table[i, j])),
        )
    names = [name_of(s) for s in scores]
    ax.set_yticks(range(len(names) - 1), names[1:])
    ax.set_xticks(range(len(names) - 1), names[:-1], rotation=30, ha="right", rotation_mode="anchor")
    words(ax, x="", y="")
    colour_bar(ax, image, label="Spearman correlation")
    return ax


def transfer_heat_map(matrix: TransferMatrix, ax: Axes | None = None) -> Axes:
    """The reader's d of the primary operation for every writer and reader, with a mark for each verdict.

    Colours are centred on 0; a writer that reads its own traces is framed. Cells without a number were not measured.
    """
    writers, readers = matrix.writers, matrix.readers
    ax = axes_of(ax, height=1.15 + 0.34 * len(writers))
    table = matrix.values
    finite = np.abs(table[np.isfinite(table)])
    bound = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    image = ax.imshow(table, cmap=diverging(), vmin=-bound, vmax=bound, aspect="auto")
    for i, w in enumerate(writers):
        for j, r in enumerate(readers):
            run = matrix.cells[w][r]
            d = "n/a" if np.isnan(table[i, j]) else signed(float(table[i, j]))
            ink = INK if np.isnan(table[i, j]) else ink_on(float(table[i, j]) / bound)
            ax.text(j, i, f"{d}\n{MARKS[run.verdict]}", ha="center", va="center", fontsize=6.5, color=ink)
            if w == r:
                ax.add_patch(_frame(i, j))
    ax.set_xticks(range(len(readers)), [_model(r) for r in readers], rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(writers)), [_model(w) for w in writers])
    words(ax, x="reader", y="writer")
    ax.set_title(_key(matrix), fontsize=6, loc="right", pad=4)
    run = matrix.cells[writers[0]][readers[0]]
    unit = "nats a token" if run.outcome == "forced" else "probability"
    colour_bar(ax, image, label=f"effect of anchors over controls\n({run.retention[0].operation}, {unit})")
    return ax


def _frame(row: int, column: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.47, row - 0.44), 0.94, 0.88, fill=False, edgecolor=INK, linewidth=0.8)


def _model(name: str) -> str:
    return plain(name.removeprefix("lab/"), 22)


def _key(matrix: TransferMatrix) -> str:
    """What the marks that occur mean."""
    found = {run.verdict for row in matrix.cells.values() for run in row.values()}
    return "   ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items() if verdict in found)
