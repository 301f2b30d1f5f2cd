"""Character spans to token spans, by one rule: a token belongs to the span that holds its first character.

A byte-level token such as " So" therefore goes to the sentence it opens, and one such as ".\\n\\n" to the sentence it
closes. Tokens that reach past their span are counted, never dropped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple


class TokenSpans(NamedTuple):
    """Half-open token ranges, one a character span, and how many tokens straddle the end of their span."""

    spans: list[tuple[int, int]]
    straddling: int


def token_spans(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> TokenSpans:
    """Map contiguous character spans to token ranges; a span inside one token of its predecessor is empty.

    >>> token_spans([(0, 2), (2, 4), (4, 7)], [(0, 3), (3, 7)])
    TokenSpans(spans=[(0, 2), (2, 3)], straddling=1)
    """
    starts = [start for start, _ in offsets]
    ranges = [(bisect_left(starts, a), bisect_left(starts, b)) for a, b in spans]
    straddling = sum(
        end > first and offsets[end - 1][1] > b for (first, end), (_, b) in zip(ranges, spans, strict=True)
    )
    return TokenSpans(ranges, straddling)
