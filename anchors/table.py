"""The terminal's view of scores: the top sentences of every method with bars and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from anchors.printable import cell, printable
from anchors.scores import Scores
from anchors.trace import Trace

if TYPE_CHECKING:
    from anchors.compression import Compressed

WIDTH = 10


def top_sentences(trace: Trace, scores: Sequence[Scores], *, k: int = 3) -> Table:
    """One row a sentence, the k strongest of every method; a star marks an anchor at a false-discovery rate of 5 %."""
    title = cell(f"trace {trace.id}: {len(trace)} sentences, answer {trace.answer!r}, target {trace.target!r}")
    table = Table(
        title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), expand=True
    )
    table.add_column("#", justify="right", no_wrap=True, width=3)
    table.add_column("sentence", overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column("score", justify="right", no_wrap=True, width=9)
    table.add_column("95 % interval", no_wrap=True, width=18)
    table.add_column("", no_wrap=True, width=WIDTH)
    for score in scores:
        starred = set() if np.isnan(score.p).all() else set(score.anchors(fdr=0.05))
        strongest = sorted(score.top(len(trace)), key=lambda i: -abs(score.values[i]))[:k]
        heading = Text(score.method, style="bold", no_wrap=False, overflow="fold")
        table.add_row("", heading.append(f"\n{score.unit}" if score.unit else "", style="not bold dim"))
        for i in strongest:
            table.add_row(
                str(i),
                Text(printable(" ".join(trace.sentences[i].text.split()))),
                f"{rounded(score.values[i])}{'*' if i in starred else ' '}",
                _interval(score, i),
                bar(score.values[i], float(np.nanmax(np.abs(score.values)))),
            )
        table.add_section()
    table.caption = "* anchor at a false-discovery rate of 5 %; positive supports the trace's own answer"
    table.caption_justify = "left"
    return table


def compressors_table(trace: Trace, found: Sequence[Compressed]) -> Table:
    """One row a compressor: how much it kept of the trace, and which sentences; one that keeps words names none."""
    first = found[0]
    title = cell(f"trace {trace.id}: at most {first.budget:.0%} of {first.full_tokens} {first.counted}")
    look: dict[str, Any] = {"header_style": "bold", "box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "expand": True}
    table = Table(title=title, title_justify="left", **look)
    table.add_column("compressor", no_wrap=True)
    for name in ("kept", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("sentences", overflow="fold", ratio=1)
    for c in found:
        share = c.tokens / c.full_tokens if c.full_tokens else 0.0
        kept = "words" if c.kept is None else " ".join(map(str, c.kept)) or "none"
        table.add_row(c.method, str(c.tokens), f"{share:.0%}", kept)
    return table


def _interval(score: Scores, i: int) -> str:
    if np.isnan(score.low[i]):
        return "none"
    return "exact" if score.low[i] == score.high[i] else f"[{score.low[i]:+.3f}, {score.high[i]:+.3f}]"


def rounded(value: float) -> str:
    """Three decimals; one digit where they would all be zero.

    >>> rounded(0.1234), rounded(-2.3e-5), rounded(0.0)
    ('+0.123', '-2e-05', '+0.000')
    """
    return f"{value:+.0e}" if 0 < abs(value) < 0.0005 else f"{value:+.3f}"


def bar(value: float, largest: float) -> str:
    """A bar of at most ten characters, drawn with - for negative values.

    >>> bar(0.5, 1.0), bar(-1.0, 1.0)
    ('█████', '----------')
    """
    length = 0 if not largest > 0 else round(WIDTH * abs(value) / largest)
    return ("█" if value >= 0 else "-") * length
