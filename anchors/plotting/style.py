"""How figures look: sizes, colours, and what every figure does to its Axes.

1. Figures are sized for one column (3.3 in) and set in 7 pt; everything but matrix cells stays vector.
2. Blue supports the outcome, orange works against it; every colour is one of `palette`, which the report reads too.
3. matplotlib is imported on use, and its global state (rcParams, current figure) is never touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from anchors.plotting.palette import CATEGORIES, LIGHT
from anchors.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMN = 3.3  # inches
OWN = "anchors"  # marks figures made here, whose height may follow their legend
SUPPORTS, OPPOSES, INK, QUIET, FLOOR = (LIGHT[name] for name in ("pos", "neg", "fg", "dim", "floor"))
ANSWERS = tuple(LIGHT[f"a{k}"] for k in range(6))
OTHER, NONE = LIGHT["a6"], LIGHT["a7"]


def axes_of(ax: Axes | None, *, height: float) -> Axes:
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


def words(ax: Axes, *, x: str, y: str) -> None:
    ax.set_xlabel(x, fontsize=7, labelpad=2)
    ax.set_ylabel(y, fontsize=6.5, labelpad=3)
    for text in (ax.xaxis.get_offset_text(), ax.yaxis.get_offset_text()):
        text.set_fontsize(6)


def legend_below(ax: Axes) -> None:
    """A legend under the x label, in as many columns as its words leave room for; a figure made here grows with it."""
    from matplotlib.figure import Figure
    from matplotlib.transforms import ScaledTranslation

    labels = ax.get_legend_handles_labels()[1]
    if not labels:
        return
    columns = max(1, min(len(labels), int(66 / (sum(map(len, labels)) / len(labels) + 6))))
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
        ax.figure.set_figheight(ax.figure.get_figheight() + 0.13 * -(-len(labels) // columns))


def quantity(scores: Scores) -> str:
    name = name_of(scores)
    return f"{name}\n({plain(scores.unit, 40)})" if scores.unit else name


def name_of(scores: Scores) -> str:
    return plain(scores.method.replace("_", " ").replace(" kl", " KL"), 40)


def ordered(categories: Sequence[str | None]) -> list[str | None]:
    """The categories that occur: taxonomy order, then others by name, then None."""
    order = list(CATEGORIES)
    return sorted(set(categories), key=lambda c: (c is None, order.index(c) if c in order else len(order), c or ""))


def colour(category: str | None) -> str:
    return QUIET if category is None else CATEGORIES.get(category, INK)


def colour_bar(ax: Axes, image: Any, *, label: str, extend: str = "neither") -> None:
    bar = ax.figure.colorbar(image, ax=ax, extend=extend, shrink=0.9, pad=0.03, aspect=28)
    bar.ax.tick_params(labelsize=6, width=0.5, length=2)
    bar.outline.set_linewidth(0.4)  # pyright: ignore[reportCallIssue]
    bar.set_label(label, fontsize=6.5)


def diverging() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("orange_blue", [OPPOSES, "#ffffff", SUPPORTS])


def ink_on(value: float) -> str:
    return "#ffffff" if value > 0.75 else INK


def plain(text: str, length: int) -> str:
    """Text that matplotlib draws as it stands: no mathtext, no unprintable characters, at most `length` characters."""
    shown = "".join(c if c.isprintable() else "\ufffd" for c in text)
    shown = shown if len(shown) <= length else shown[: length - 1] + "…"
    return shown.replace("$", r"\$")


def whole_outcome(outcome: str, values: Iterable[float], *, between: str = " ") -> str:
    """What readings of a whole trace are in; a hand-over run forces its answer where the reader can."""
    logs = outcome == "forced" or (outcome == "handover" and any(v < 0 for v in values))
    return f"log p of the answer{between}(nats a token)" if logs else "P(answer)"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, the minus as typeset.

    >>> signed(-0.5)
    '−0.50'
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def some(scores: Sequence[Scores]) -> None:
    if not scores:
        raise ValueError("there are no scores to draw; give at least one")
