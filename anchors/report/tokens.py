"""What hiding a sentence did to every later token: packed for the script.

1. Sources that any method marks come first, then those of the largest total effect, as many as `BYTES` hold.
2. A source's effects travel as one byte a token (`matrices.roots`), from the first token after it to the trace's end.
3. Tokens travel as lengths within the text of their sentence as the page shows it, so that no text is sent twice.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from anchors.models.tokens import token_spans
from anchors.report.content import marked
from anchors.report.drawing import clean
from anchors.report.matrices import roots
from anchors.scores import Scores
from anchors.trace import Trace

BYTES = 32_000
PARTS = ("token_effects", "token_sources", "token_offsets")


def record(scores: Sequence[Scores]) -> dict[str, Any] | None:
    """Everything the script draws of effects on tokens; None where no score has them."""
    found = next((k for k, s in enumerate(scores) if set(PARTS) <= set(s.extras)), None)
    if found is None or not len(scores[found].token_sources):
        return None
    trace, effects = scores[found].trace, np.asarray(scores[found].token_effects, dtype=float)
    found_at = places(trace, scores[found].token_offsets)
    rows = {}
    for row in _first(scores, effects, scores[found].token_sources):
        first = int(np.argmax(~np.isnan(effects[row])))
        cells, peak = roots(effects[row, first:])
        rows[int(scores[found].token_sources[row])] = [first, cells, peak]
    return {
        "score": found,
        "sources": rows,
        "ends": found_at.ends,
        "skips": found_at.skips,
        "lengths": base64.b64encode(found_at.lengths.astype("<u2").tobytes()).decode("ascii"),
    }


def _first(scores: Sequence[Scores], effects: np.ndarray, sources: np.ndarray) -> list[int]:
    """The rows that travel: as many as `BYTES` hold, but at least one."""
    wanted = {i for s in scores for i in marked(s).sentences}
    totals = np.nansum(effects, axis=1)
    order = sorted(np.flatnonzero(totals > 0), key=lambda row: (int(sources[row]) not in wanted, -totals[row]))
    sizes = np.cumsum([(~np.isnan(effects[row])).sum() for row in order])
    return [int(row) for row in order[: max(1, int((sizes <= BYTES).sum()))]]


class Places(NamedTuple):
    """Where tokens are in the text the page shows, in characters of their sentence; those of the prompt have no length.

    `ends`: the token after each sentence's last. `skips`: where a sentence's first token begins, past 0 where a token of
    the sentence before reaches into it.
    """

    ends: list[int]
    skips: list[int]
    lengths: Int[np.ndarray, " token"]


def places(trace: Trace, offsets: np.ndarray) -> Places:
    """Character offsets into `trace.text` as places in the shown text of every sentence."""
    ranges = token_spans([(int(a), int(b)) for a, b in offsets], trace.spans).spans
    lengths, skips = np.zeros(len(offsets), dtype=int), []
    for (first, end), (start, stop) in zip(ranges, trace.spans, strict=True):
        text = trace.text[start:stop]
        shown = len(text) - len(text.lstrip())
        edges = np.append(offsets[first:end, 0][:1], offsets[first:end, 1])
        cuts = _cleaned(text, np.clip(edges - start, shown, shown + len(text.strip())))
        lengths[first:end] = np.diff(cuts)
        skips.append(int(cuts[0] - _cleaned(text, np.array([shown]))[0]) if len(cuts) else 0)
    return Places([end for _, end in ranges], skips, lengths)


def _cleaned(text: str, places: np.ndarray) -> np.ndarray:
    """Places in a text as places in what `clean` makes of it, which turns two line ends into one character."""
    if "\r\n" not in text:
        return places
    return np.array([len(clean(text[:place])) for place in places])
