"""Hostile inputs that tests, fuzzers and the benchmark share."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\u2066"
MARKUP = "[red]x[/red] [/] [link=file:///etc/passwd]y"
BREAKOUT = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>\"'&amp;]]></style>"
IDS = ("../../x", "/etc/passwd", "a\x00b", "..", "a/b", "x" * 300, "\U0001d4d0" * 80, "'; drop table rollouts; --", "\ud800",
       "CON", "id-0", MARKUP, ESCAPES, BREAKOUT, "")  # fmt: skip


def shapes(size: int) -> dict[str, str]:
    """Texts of about `size` characters on one line or none, each a trap for a rule that looks back or ahead."""
    units = {
        "words without a stop": "word ", "one letter": "a", "full stops": ".", "stops and spaces": ". ", "digits": "7",
        "digits and letters": "1a", "sentences": "So we add 3 + 4 = 7 now. ", "dollars": "$x ", "open boxes": "\\boxed{",
        "braces": "{", "answers": "the answer is ", "openings": "<think>", "equals": "1=", "commas": "1,", "decimals": "1.1",
        "thousands": "1,000,", "fractions": "\\frac{", "slashes": "1/", "duplicates": "It is so again. ", "waits": "wait ",
    }  # fmt: skip
    found = {name: unit * (size // len(unit)) for name, unit in units.items()}
    gap = {"spaces": " ", "newlines": "\n ", "tabs": "\t"}
    found |= {f"{name} in the middle": "a" + unit * (size // len(unit)) + "b" for name, unit in gap.items()}
    found["a heading with a gap"] = "#### a" + " " * size + "b"
    found["boxes in boxes"] = "\\boxed{1" * (size // 16) + "}" * (size // 16)
    return found


def patterns() -> dict[str, re.Pattern[str]]:
    """Every regular expression that a module of the package holds, by the name it has there."""
    import anchors

    found: dict[str, re.Pattern[str]] = {}
    for module in pkgutil.walk_packages(anchors.__path__, "anchors."):
        for name, value in vars(importlib.import_module(module.name)).items():
            for i, pattern in enumerate(_held(value)):
                found.setdefault(f"{module.name}.{name}" + (f"[{i}]" if i else ""), pattern)
    for path in Path(anchors.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) in INLINE
                and isinstance(node.args[0], ast.Constant)
            ):
                found[f"{path.stem}:{node.lineno}:{ast.unparse(node.func)}"] = re.compile(node.args[0].value)
    distinct: dict[tuple[str, int], str] = {}
    for name, pattern in found.items():
        distinct.setdefault((pattern.pattern, pattern.flags), name)
    return {name: found[name] for name in distinct.values() if found[name].pattern not in BOUNDED}


def _held(value: Any, depth: int = 0) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, list | tuple | set | frozenset | dict) and depth < 3:
        for part in value.values() if isinstance(value, dict) else value:
            yield from _held(part, depth + 1)


BOUNDED = {r"\s*,\s*", r"(\d+(?:\.\d+)?)(ms|s|m|h)", r"(\w+) (\w+)"}
"""Given at most 200 characters, at most 40, and one constant text."""

INLINE = tuple(f"re.{name}" for name in ("match", "search", "fullmatch", "findall", "finditer", "split", "sub"))
HEADS = ("", "1", "= ", "the answer is", "#### a", "\\boxed", "\\text", "\\frac", "up ")
UNITS = (
    " ", "\n", "a", "1", "1a", "a ", "1 ", "1,", "1.", "$", "\\", "{", "(", "=", "-", "1-", "1/", ". ", "a.", "#", "^", "!",
    "1!", "\n ", "'", "wait ", "1 + ", "_", "let ", "*", "- ", "\\text{", "x gives ", "problem_1/", "A ", ", ", "1,000",
)  # fmt: skip
TAILS = ("", "\x00")


def traps(size: int, heads: Sequence[str] = HEADS) -> Iterator[str]:
    """Long repetitions between something that starts a match and something that spoils it."""
    for head in heads:
        for unit in UNITS:
            for tail in TAILS:
                yield head + unit * (size // len(unit)) + tail


def seconds(call: Callable[[], Any], *, tries: int = 1) -> float:
    """The least processor time of some tries: others on the machine make no pattern slow."""
    best = float("inf")
    for _ in range(tries):
        started = time.process_time()
        call()
        best = min(best, time.process_time() - started)
    return best


def scan(pattern: re.Pattern[str], text: str) -> None:
    """Look for every match, and for one match of the whole."""
    for _ in pattern.finditer(text):
        pass
    pattern.fullmatch(text)


def anchored(pattern: re.Pattern[str], text: str) -> None:
    """Match at the start only, as the one place that uses the pattern does."""
    pattern.match(text)
    pattern.fullmatch(text)


def superlinear(
    pattern: re.Pattern[str], *, size: int = 2000, heads: Sequence[str] = HEADS, name: str = ""
) -> list[str]:
    """Traps on which four times the text takes more than nine times the time, twice measured, and over 8 ms."""
    slow, look = [], anchored if name.endswith("match") else scan
    for short, long in zip(traps(size, heads), traps(4 * size, heads), strict=True):
        if (first := seconds(lambda text=long: look(pattern, text))) > 0.008:
            again = seconds(lambda text=long: look(pattern, text), tries=3)
            if min(first, again) > 9 * seconds(lambda text=short: look(pattern, text), tries=3) and again > 0.008:
                slow.append(f"{long[:16]!r} times {size}: {again:.3f} s")
    return slow
