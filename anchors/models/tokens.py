"""Character spans to token spans, by one rule: a token belongs to the span that holds its first character.

A byte-level token such as " So" therefore goes to the sentence it opens, and one such as ".\\n\\n" to the sentence it
closes. Tokens that reach past their span are counted, never dropped.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class TokenSpans(NamedTuple):
    """Half-open token ranges, one a character span, and how many tokens straddle the end of their span."""

    spans: list[tuple[int, int]]
    straddling: int


def in_common(a: Sequence[object], b: Sequence[object]) -> int:
    """How many items two sequences begin with in common.

    >>> in_common("their", "these")
    3
    """
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


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


def answer_tokens(offsets: Sequence[tuple[int, int]], start: int) -> tuple[int, int]:
    """The tokens that hold the characters from `start` on, to be scored: one that merges with what precedes counts too.

    This differs from `token_spans` on purpose: a first token left out would take its probability with it, silently.

    >>> answer_tokens([(0, 2), (2, 4), (4, 7)], 3)
    (1, 3)

    Raises:
        ValueError: no token holds them, or the first one has no token before it to be predicted from.
    """
    first = bisect_right([end for _, end in offsets], start)
    if first == len(offsets):
        raise ValueError(f"no token covers the text from character {start} on, so it cannot be scored; give an answer")
    if first == 0:
        raise ValueError("the scored text begins at the first token, which nothing predicts; give it some text before")
    return first, len(offsets)
