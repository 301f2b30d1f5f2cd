"""Where the sentences of a reasoning trace begin and end, as character spans that tile the text.

1. A sentence ends after `.`, `?` or `!` before a space or a newline, and before a blank line.
2. White space belongs to the sentence that follows it; at the very end of the text it belongs to the last one.
3. A sentence of fewer than 10 characters joins the next one, or the previous one where it is the last.

This is the rule that made the released data of Thought Anchors (2506.19143), last sentence included: it reproduces the
stored sentences of the public traces. `math_aware=True` also refuses to cut inside LaTeX, after a factorial inside a
formula, after list numbers and after abbreviations.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Final

SHORTEST: Final = 10
"""A sentence with fewer characters than this is joined to its neighbour."""

_CUT = re.compile(r"[.?!](?=[ \n]|\r\n)|\S(?=\s*(?:\n\n|\r\n\r\n))")
_WORD = re.compile(r"\S+")
_MATH = re.compile(r"\\[\\$]|\\[()\[\]]|\$\$|\$|\n[ \t\r]*\n")
_CLOSES: Final = {"\\)": "\\(", "\\]": "\\[", "$$": "$$", "$": "$"}
_ESCAPED: Final = ("\\\\", "\\$")
_INLINE: Final = ("$", "\\(")
_ABBREVIATIONS: Final = "e.g i.e w.r.t a.k.a cf vs Dr Mr Mrs Ms Prof Fig Eq Eqs Sec Thm resp viz"
_WINDOW: Final = 24
"""How many characters on either side of a cut decide whether it is a list number, an abbreviation or a factorial."""

_LISTED = r"(?:(?:\A|\n)[ \t>*#_-]*\d{1,3}|[.?!:]\s+\d{1,2})"
_SHORTENED = rf"(?:\A|[\s(\[,;])(?i:{'|'.join(map(re.escape, _ABBREVIATIONS.split()))})"
_CONTINUES = re.compile(rf"(?:{_LISTED}|{_SHORTENED})\.\Z")
_UNLESS = re.compile(r"(?:(?P<factorial>[\w)}\]]!)|\b(?:etc|approx|al)\.)\Z")
_FORMULA = re.compile(r"\A\s++(?:[-=+*/^<>×·÷≤≥≈)\]]|\\[a-z]|\d)")
_LOWER = re.compile(r"\A\s++[a-z]")


def split_sentences(text: str, *, math_aware: bool = False) -> list[tuple[int, int]]:
    """Spans of the sentences of `text`, tiling it byte for byte, by the rule of the module docstring, in linear time.

    Blank text has no sentences; `\\r\\n` counts as a newline. Source: 2506.19143.

    >>> text = "Let x be 0.5. Then what? So 2x equals one."
    >>> [text[a:b] for a, b in split_sentences(text)]
    ['Let x be 0.5.', ' Then what?', ' So 2x equals one.']
    >>> text = "1. Note $5! + 1 = 121$ here, e.g. by hand."
    >>> [text[a:b] for a, b in split_sentences(text, math_aware=True)]
    ['1. Note $5! + 1 = 121$ here, e.g. by hand.']
    """
    if not text.strip():
        return []
    last = len(text.rstrip())
    cuts = [match.end() for match in _CUT.finditer(text, 0, last)]
    cuts = [cut for cut in cuts if cut < last]
    if math_aware:
        cuts = _outside(_math_spans(text), [cut for cut in cuts if not _continues(text, cut)])
    return list(_merge_short(text, [0, *cuts, len(text)]))


def align_sentences(text: str, sentences: Sequence[str]) -> list[tuple[int, int]]:
    """Spans of stored sentences, found in order and equal up to white space, that tile `text` in linear time.

    Whatever stands between two sentences leads the second; whatever follows the last one belongs to it.

    Raises:
        ValueError: a sentence is blank or not in the text after the one before it, or there are none.

    >>> align_sentences("It is\\n\\nfour. Good.", ["It is four.", "Good."])
    [(0, 12), (12, 18)]
    """
    if not sentences:
        if text.strip():
            raise ValueError("the text has no stored sentences; give at least one, or split it with split_sentences")
        return []
    words = list(_WORD.finditer(text))
    squeezed = "".join(match.group() for match in words)
    lengths = list(accumulate((match.end() - match.start() for match in words), initial=0))
    edges, place = [0], 0
    for index, sentence in enumerate(sentences):
        place = _find(squeezed, sentence, place, index)
        word = bisect_right(lengths, place - 1) - 1
        edges.append(words[word].start() + place - lengths[word])
    edges[-1] = len(text)
    return list(pairwise(edges))


def _find(squeezed: str, sentence: str, place: int, index: int) -> int:
    wanted = "".join(sentence.split())
    if not wanted:
        raise ValueError(f"stored sentence {index} is blank; every sentence needs at least one visible character")
    found = place if squeezed.startswith(wanted, place) else squeezed.find(wanted, place)
    if found < 0:
        shown = sentence if len(sentence) <= 80 else sentence[:77] + "..."
        raise ValueError(
            f"stored sentence {index} ({shown!r}) is not in the text after the sentence before it; "
            "sentences must appear in order and verbatim up to white space"
        )
    return found + len(wanted)


def _merge_short(text: str, edges: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Join sentences shorter than `SHORTEST`, as if joined by one space, forward, and the last one backward."""
    held: tuple[int, int] | None = None
    start, length = 0, -1
    for a, b in pairwise(edges):
        length += 1 + len(text[a:b].strip().replace("\r\n", "\n"))
        if length < SHORTEST:
            continue
        if held is not None:
            yield held
        held, start, length = (start, b), b, -1
    if held is None:
        yield 0, edges[-1]
    else:
        yield held[0], edges[-1] if length >= 0 else held[1]


def _continues(text: str, cut: int) -> bool:
    """Whether the sentence goes on after a cut: list number, abbreviation, or factorial inside a formula."""
    if text[cut - 1] not in ".!" or text[max(0, cut - 2) : cut - 1].isspace():
        return False
    before, after = text[max(0, cut - _WINDOW) : cut], text[cut : cut + 4]
    if "\n\n" in after or "\n\r\n" in after:
        return False
    if _CONTINUES.search(before):
        return True
    maybe = _UNLESS.search(before)
    return maybe is not None and (_FORMULA if maybe["factorial"] else _LOWER).match(after) is not None


def _math_spans(text: str) -> Iterator[tuple[int, int]]:
    """Spans of LaTeX whose closer is the next delimiter, in the same paragraph for `$` and `\\(`."""
    opened: tuple[str, int] | None = None
    for match in _MATH.finditer(text):
        mark = match.group()
        if mark in _ESCAPED:
            continue
        if mark.isspace():
            opened = None if opened and opened[0] in _INLINE else opened
        elif opened and opened[0] == _CLOSES.get(mark) and _may_close(text, match):
            yield opened[1], match.end()
            opened = None
        elif _may_open(text, match):
            opened = (mark, match.start())


def _may_open(text: str, match: re.Match[str]) -> bool:
    if match.group() == "$":
        return not text[match.end() : match.end() + 1].isspace()
    return match.group() in _CLOSES.values()


def _may_close(text: str, match: re.Match[str]) -> bool:
    """A lone `$` closes only after a visible character and not before a digit, so that "$5. Then $6" is money."""
    if match.group() != "$":
        return True
    return not text[match.start() - 1].isspace() and not text[match.end() : match.end() + 1].isdigit()


def _outside(spans: Iterator[tuple[int, int]], cuts: Sequence[int]) -> list[int]:
    kept, span = [], next(spans, None)
    for cut in cuts:
        while span is not None and span[1] <= cut:
            span = next(spans, None)
        if span is None or cut <= span[0]:
            kept.append(cut)
    return kept
