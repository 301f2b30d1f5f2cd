"""What a text answers, and when two answers are the same.

1. `extract_answer` reads the last complete `\\boxed{}`, then a `#### x` line, then "the answer is x".
2. `normalise_answer` removes what never changes an answer: dollars, spacing commands, units of angle and percent signs.
3. `same_answer` compares normalised strings, then exact rationals, then, with the extra `math`, asks math-verify.
4. `answer_classes` names every answer of a trace by the first seen answer equal to it.

The official rules (thought-anchors `utils.normalize_latex`) equate "11" with "1 1" and "1,5" with "1.5"; these do not.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import lru_cache
from math import prod
from typing import Any, Final

from anchors.extras import MissingExtra, require

NO_ANSWER: Final = "<no answer>"
"""The outcome of a rollout without an answer; it equals only itself and is never "wrong"."""

LONGEST: Final = 200
"""Answers with more characters are compared as strings only."""

LARGEST_EXPONENT: Final = 10_000
"""Answers whose exponents multiply to more are compared as strings only."""

Pattern = str | re.Pattern[str] | Callable[[str], str | None]

log = logging.getLogger(__name__)

_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_BRACE = re.compile(r"(?P<box>\\f?box(?:ed)?\s*\{)|\\.|[{}]", re.DOTALL)
_HASHES = re.compile(r"^####[ \t]*(\S.*)$", re.MULTILINE)
_NUMERIC = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?%?")
_SAID = re.compile(r"\bthe\s(?:\w{1,20}\s)?answers?\s(?:is|are)\b:?(?!\s+not\b)\s*(?=(\S[^\n]{0,300}))", re.IGNORECASE)
_OVER = re.compile(r"\.(?=[\s*_`$)]|\Z)|[!?;]|</|,?\s(?:because|since|so|as|which|but)\b|,\s[a-z]{2,}", re.IGNORECASE)


def extract_answer(text: str, *, pattern: Pattern | None = None) -> str | None:
    """The answer a text ends on, or None.

    A box that is empty or never closed is not an answer, so the last complete one counts. `pattern` replaces all
    rules: a regular expression (the last match counts; its first group where it has groups) or a function of the text.

    >>> extract_answer(r"First \\boxed{3}. Then \\boxed{\\frac{1}{2}}, and \\boxed{}")
    '\\\\frac{1}{2}'
    >>> extract_answer("So **the answer is $3.14$.**"), extract_answer("no idea")
    ('3.14', None)
    >>> extract_answer("Choice: (B)", pattern=r"\\(([A-D])\\)")
    'B'
    """
    if pattern is None:
        return _boxed(text) or _hashed(text) or _said(text)
    found = _matched(text, pattern) if isinstance(pattern, str | re.Pattern) else pattern(text)
    return (found or "").strip() or None


def _matched(text: str, pattern: str | re.Pattern[str]) -> str | None:
    compiled = re.compile(pattern)
    last = _last(compiled, text)
    return last and last.group(1 if compiled.groups else 0)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def _boxed(text: str) -> str | None:
    starts = [match.start() for match in _BOX.finditer(text)]
    if not starts:
        return None
    return _last_closed(text, starts[-1]) or _last_closed(text, starts[0])


def _last_closed(text: str, start: int) -> str | None:
    """Content of the last non-empty balanced box at or after `start`, in one pass; the innermost of nested boxes."""
    answer: str | None = None
    answer_start = -1
    opened: list[int | None] = []
    for match in _BRACE.finditer(text, start):
        if match["box"]:
            opened.append(match.end())
        elif match.group() == "{":
            opened.append(None)
        elif match.group() == "}" and opened:
            begin = opened.pop()
            content = text[begin : match.start()].strip() if begin is not None and begin > answer_start else ""
            if content and begin is not None:
                answer, answer_start = content, begin
    return answer


def _hashed(text: str) -> str | None:
    """The last `#### x` line (GSM8K) if x is a number or the line ends the text; otherwise it is a heading."""
    last = _last(_HASHES, text)
    if last is None:
        return None
    answer = last.group(1).strip()
    ends = not text[last.end() :].strip()
    return _bare(answer) if ends or _NUMERIC.fullmatch(answer) else None


def _said(text: str) -> str | None:
    last = _last(_SAID, text)
    return _bare(_OVER.split(last[1], maxsplit=1)[0]) if last else None


_DELIMITED = re.compile(r"^\\[(\[]|\\[)\]]\.?$")


def _bare(answer: str) -> str | None:
    """The answer without the markdown, dollars and full stop around it."""
    answer = _DELIMITED.sub("", answer.strip(" \t\r*_`$")).strip().rstrip(" .*_`$,;:")
    return answer or None


_SPACING = re.compile(r"\\(?:left|right|displaystyle|limits|quad|qquad|[,;:! ])(?![A-Za-z])|~")
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|operatorname|mbox)\s*\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|°|\\degree")
_FRACTION = re.compile(
    r"(?:(?<![\s\S])|(?<=[(\[,=-])|(?<=, ))\\frac\s*(?:(\d)\s*(\d)|\{(-?\d+)\}\s*\{(-?\d+)\})(?=\s*(?:[),\]]|$))"
)
_LETTERS = re.compile(r"(\\[A-Za-z]+)|([A-Z]+)")
_SPACES = re.compile(r" ?([^\w\s,]) ?")
_REPLACED: Final = (
    ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("{,}", ""), (",\\!", ","), ("\u2212", "-"), ("\\cdot", "*"),
    ("\\times", "*"), ("\u00d7", "*"), ("\u00b7", "*"), ("\\div", "/"), ("\\leq", "\\le"), ("\\geq", "\\ge"),
    ("\u2264", "\\le "), ("\u2265", "\\ge "), ("\\pi", "\u03c0"), ("\\infty", "\u221e"), ("\\%", ""), ("%", ""),
    ("\\$", ""), ("$", ""),
)  # fmt: skip


@lru_cache(maxsize=65536)
def normalise_answer(answer: str) -> str:
    """The answer without what never changes it, so that most equal answers become equal strings.

    Dropped: math delimiters, spacing and text commands, percent, degree and dollar signs, thousands separators,
    trailing zeros of a decimal, capitals outside commands, "x =" before a value, a final full stop. Commas and the
    space between two digits or words stay. Numbers inside brackets keep their commas: (3,456) is a pair.

    >>> [normalise_answer(answer) for answer in ("$1{,}000.50$", r"\\dfrac12", "x = 5.", "1 1")]
    ['1000.5', '1/2', '5', '1 1']
    """
    text = answer.strip()
    if len(text) > LONGEST:
        return " ".join(text.split())
    text = re.sub(r"^\\[(\[](.*)\\[)\]]$", r"\1", text, flags=re.DOTALL)
    for old, new in _REPLACED:
        text = text.replace(old, new)
    text = _SPACING.sub("", _WRAPPED.sub(r"\1", _DEGREES.sub("", text)))
    text = _LETTERS.sub(lambda m: m[1] or m[2].lower(), text).strip().rstrip(".").strip()
    if text[:1] not in "([{\\":
        text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    text = _FRACTION.sub(lambda m: f"{m[1] or m[3]}/{m[2] or m[4]}", text)
    text = _DECIMAL.sub(_without_zeros, text)
    text = re.sub(r"\s*,\s*", ", ", _SPACES.sub(r"\1", " ".join(text.split()))).strip()
    text = re.sub(r"^\(([a-z])\)$", r"\1", text)
    return re.sub(r"^[a-z]=(?=[^=]+$)|^\+(?=[\d.])", "", text)


def _without_zeros(match: re.Match[str]) -> str:
    whole, part = match[1] or "0", match[2].rstrip("0")
    return f"{whole}.{part}" if part else whole


_RATIONAL = re.compile(r"([-+]?\d{1,60}(?:\.\d{1,60})?)(?:/([-+]?\d{1,60}))?|-\((\d{1,60}/\d{1,60})\)")


@lru_cache(maxsize=65536)
def _rational(text: str) -> Fraction | None:
    """The exact value of a normalised decimal or ratio of integers, or None."""
    match = _RATIONAL.fullmatch(text)
    if match is None:
        return None
    if match[3]:
        above, below = map(int, match[3].split("/"))
        return -Fraction(above, below) if below else None
    below = int(match[2] or 1)
    return Fraction(match[1]) / below if below else None


def same_answer(a: str, b: str) -> bool:
    """Whether two answers to one question are the same: as strings, as exact rationals, or for math-verify.

    A percent or degree sign counts as a unit (6.17 equals 6.17%; 50% is not 0.5) and two plain numbers are equal only
    exactly. Words, and expressions too large to evaluate (see `too_large`), are compared as strings. Without the extra
    `math` everything else is too, which is logged once.

    >>> same_answer("0.5", r"\\frac{1}{2}"), same_answer("1,000", "1000")
    (True, True)
    >>> same_answer("11", "1 1"), same_answer("1,5", "1.5")
    (False, False)
    """
    if NO_ANSWER in (a, b):
        return a == b
    a, b = normalise_answer(a), normalise_answer(b)
    if a == b:
        return True
    left, right = _rational(a), _rational(b)
    if left is not None and right is not None:
        return left == right
    return _is_expression(a) and _is_expression(b) and _verified(*sorted((a, b)))


def answer_classes(answers: Iterable[str]) -> list[str]:
    """The class of every answer, named by its first seen spelling; `NO_ANSWER` is a class of its own.

    Each distinct normalised answer is compared once with each class, and plain numbers with plain numbers by value.

    >>> answer_classes(["1/2", "0.5", "7", NO_ANSWER, "7.0"])
    ['1/2', '1/2', '7', '<no answer>', '7']
    """
    labels: dict[str, str] = {}
    known: dict[Any, str] = {}
    classes: list[str] = []
    for answer in (answers := list(answers)):
        if answer in labels:
            continue
        key = answer if answer == NO_ANSWER else _key(normalise_answer(answer))
        if key not in known:
            known[key] = next((label for label in classes if same_answer(label, answer)), answer)
            if known[key] == answer:
                classes.append(answer)
        labels[answer] = known[key]
    return [labels[answer] for answer in answers]


def _key(normal: str) -> Fraction | str:
    value = _rational(normal)
    return normal if value is None else value


_TOWER = re.compile(r"\^\s*[-+]?\d+\s*\^|\^\s*\w\s*\^|!\s*!|\)\s*!|\}\s*!")
_FACTORIAL = re.compile(r"(?<!\d)(\d++)\s*+!")
_OPERATED = re.compile(r"\\(?:sum|prod|int|lim|iint|oint)(?![a-z])")
_LONG_NUMBER = re.compile(r"\d{61}")


def too_large(answer: str) -> bool:
    """Whether evaluating an answer could take unbounded time or memory, by its text alone.

    Too large: over 200 characters, a number of over 60 digits, a factorial above 200 or of an expression, a sum,
    product, integral or limit, an exponent that holds an exponent or factorial, and exponents whose integers multiply
    to over 10,000. Refusing before parsing works in threads, where a timeout by signal raises.

    >>> too_large("2003^{2002^{2001}}"), too_large("2^{100}"), too_large("(9^{999})^{999}")
    (True, False, True)
    """
    text = answer.replace("**", "^")
    if len(text) > LONGEST or _LONG_NUMBER.search(text) or _TOWER.search(text) or _OPERATED.search(text):
        return True
    if any(len(n) > 3 or int(n) > 200 for n in _FACTORIAL.findall(text)):
        return True
    exponents = [_group(text, match.end()) for match in re.finditer(r"\^\s*", text)]
    if any("^" in exponent or "!" in exponent for exponent in exponents):
        return True
    return prod(max(1, int(n)) for exponent in exponents for n in re.findall(r"\d+", exponent)) > LARGEST_EXPONENT


def _group(text: str, start: int) -> str:
    """The exponent that starts at `start`: a bracketed group, or the letters and digits that follow."""
    closing = {"{": "}", "(": ")"}.get(text[start : start + 1])
    if closing is None:
        match = re.compile(r"[-+]?\\?\w*").match(text, start)
        return match.group() if match else ""
    depth = 0
    for end in range(start, len(text)):
        depth += (text[end] == text[start]) - (text[end] == closing)
        if not depth:
            return text[start:end]
    return text[start:]


def _is_expression(text: str) -> bool:
    """Whether math-verify should read it: words multiply as letters there ("cat" = "act"), and "1 1" adds up."""
    words = re.sub(r"\\[A-Za-z]+", "", text)
    says_maths = re.search(r"[\d=+*/^<>{}\\|π∞]|-", text)
    says_words = re.search(r"\d\s+\d|[A-Za-z]{4,}(?!\()", words)
    return (says_maths is not None and says_words is None) or _with_unit(text)


def _with_unit(text: str) -> bool:
    """A number followed by words, as in "5 apples"."""
    return re.fullmatch(r"-?\d+(?:\.\d+)?(?:/\d+)?(?: ?[A-Za-z]++)+", text) is not None


def _verified(a: str, b: str) -> bool:
    verifier = _math_verify()
    if verifier is None or too_large(a) or too_large(b):
        return False
    left, right = _parsed(a), _parsed(b)
    forward = verifier.verify(left, right, timeout_seconds=None)
    return bool(forward or verifier.verify(right, left, timeout_seconds=None))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    verifier = require("math_verify", extra="math")
    targets = [verifier.LatexExtractionConfig(), verifier.ExprExtractionConfig()]
    return verifier.parse(f"${text}$", extraction_config=targets, parsing_timeout=None)


@lru_cache(maxsize=1)
def _math_verify() -> Any:
    try:
        verifier = require("math_verify", extra="math")
    except MissingExtra as error:
        log.warning("answers are compared as strings and exact numbers only: %s", error)
        return None
    for part in ("parser", "grader"):  # they warn that nothing bounds the time; `too_large` does
        logging.getLogger(f"math_verify.{part}").setLevel(logging.ERROR)
    return verifier
