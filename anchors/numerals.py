"""Numbers in running text: finding them, reading their values, and writing others in their place.

1. A number is digits with thousands commas, decimals, a sign and perhaps a fraction; digits inside a word are none.
2. Another number has the same form, digit for digit, so a text keeps its length and its look.
3. A map of numbers is one to one, and drawn anew where it divides by zero or leaves a fraction's value as it was.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Final

TRIES: Final = 16  # a map of numbers is drawn anew where it divides by zero or leaves a fraction's value as it was

NUMERAL = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3}){1,20}+(?![0-9])|[0-9]{1,60}+)(?:\.[0-9]{1,60}+)?+|(?<![\w.])\.[0-9]{1,60}+)"
_SIGNED = rf"(?<![\w)\]}}])[-\u2212]{NUMERAL}|{NUMERAL}"
_WORD = r"\\[A-Za-z]+|[0-9]{1,60}(?:st|nd|rd|th)\b|[^\W\d]\w*(?:\.[0-9]+)*"
_TOKEN = re.compile(rf"{_WORD}|(?P<number>(?:{_SIGNED})(?:/{NUMERAL})?+)")
_PLAIN = re.compile(NUMERAL)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{(-?[0-9]{1,60})\}\s*\{([0-9]{1,60})\}")
_BY_ZERO = re.compile(r"(?:[/÷]|\}\{)\s*0(?:\.0+)?(?![0-9.])")


def count_numbers(text: str) -> int:
    """How many numbers a text holds; a sign, thousands, decimals and a fraction without spaces belong to one number.

    Digits in words (x1, 2nd) and spelled numbers are not counted.

    >>> count_numbers("From -3.5 to 1,000 is more than 1/2 of the 2nd."), count_numbers("5 - 3 = 2")
    (3, 3)
    """
    return sum(1 for _ in find_numbers(text))


def is_number(text: str) -> bool:
    """Whether a text is one number and nothing else."""
    found = _TOKEN.fullmatch(text)
    return found is not None and bool(found["number"])


def find_numbers(text: str) -> Iterator[re.Match[str]]:
    """Every number of a text, in order, with its sign and fraction."""
    return (m for m in _TOKEN.finditer(text) if m["number"])


def number_values(text: str) -> list[Fraction | None]:
    """The values of the numbers of a text that stand as whole words; None for a division by zero."""
    text, found = _LATEX_FRACTION.sub(r"\1/\2", text), []
    for m in find_numbers(text):
        if not re.match(r"\w", text[m.end() : m.end() + 1]):
            found.append(_value(m["number"]))
    return found


@lru_cache(maxsize=65536)
def _value(number: str) -> Fraction | None:
    over, _, under = number.replace(",", "").replace("\u2212", "-").partition("/")
    return Fraction(over) / Fraction(under or "1") if Fraction(under or "1") else None


def number_images(text: str, rng: random.Random) -> dict[str, str]:
    """Another number for every number of a text, one to one among numbers of equal digits and decimals."""
    kinds: dict[tuple[str, bool], dict[str, None]] = {}
    for plain in (p.replace(",", "") for m in find_numbers(text) for p in _PLAIN.findall(m["number"])):
        padded = plain[0] == "0" and len(plain) > 1
        kinds.setdefault((re.sub("[0-9]", "0", plain), padded), {})[plain] = None
    images: dict[str, str] = {}
    for _ in range(TRIES):
        images = {old: new for plains in kinds.values() for old, new in other_numbers(list(plains), rng).items()}
        altered = rewrite_numbers(text, images)
        kept = any(
            a == b != 1 for a, b in zip(number_values(text), number_values(altered), strict=True)
        )  # k/k is 1 for every k
        if not kept and not _BY_ZERO.search(altered):
            break
    return images


def other_numbers(plains: Sequence[str], rng: random.Random) -> dict[str, str]:
    """A random cycle through numbers of one kind and draws of that kind: one to one, and nothing stays."""
    values = list(dict.fromkeys([*plains, *(_drawn(plains[0], rng) for _ in range(3 * len(plains) + 40))]))
    rng.shuffle(values)
    return dict(zip(values, [*values[1:], values[0]], strict=True))


def _drawn(like: str, rng: random.Random) -> str:
    """A random number with the digits and point of another; a leading zero stays, and none appears."""
    first = "0123456789" if len(like) == 1 else "0" if like[0] == "0" else "123456789"
    return re.sub("[0-9]", lambda m: rng.choice("0123456789" if m.start() else first), like)


def rewrite_numbers(text: str, images: Mapping[str, str]) -> str:
    """The text with the image of every number, digit by digit: commas stay where they are."""

    def image(numeral: re.Match[str]) -> str:
        digits = iter(images[numeral[0].replace(",", "")].replace(".", ""))
        return re.sub("[0-9]", lambda _: next(digits), numeral[0])

    return _TOKEN.sub(lambda m: _PLAIN.sub(image, m[0]) if m["number"] else m[0], text)
