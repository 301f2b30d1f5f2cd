"""How a trace goes about its problem, in numbers that need no model: length, backtracking, checking, equations.

1. Sentences are read one by one against two lists of cues: those that take something back, and those that check it.
2. An attempt begins with the trace and anew after every sentence that takes something back. Breadth is the number of
   attempts, depth the length of the longest.
3. Rates are shares of sentences. Nothing is normalised by the problem: compare traces of the same problems.

The strategies are those of CoT Encyclopedia (2505.10185) as far as a rule can state them; there a language model names them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Final, NamedTuple

from anchors.interventions import equations_only
from anchors.numerals import count_numbers
from anchors.trace import Trace

BACKTRACK: Final = re.compile(
    r"\b(?:wait|hold on|scratch that|start(?:ing)? (?:again|over)|back up|go(?:ing)? back|redo)\b"
    r"|\blet me re-?(?:do|think|consider)\b|^again from\b|^(?:no|hmm+|alternatively|on second thought)\b"
    r"|\b(?:that|this|which|one|something|it)(?: \w+)?(?:'s| is| was| were| isn't| wasn't| seems)"
    r" (?:not right|wrong|a mistake|incorrect)"
    r"|\bi (?:think i )?made an? (?:mistake|error)",
    re.IGNORECASE,
)
"""What takes back something said before, or turns to another way."""
CHECK: Final = re.compile(
    r"\b(?:double[- ]?check\w*|re-?check\w*|check(?:s|ing)?|verif\w+|confirm\w*|make sure|sanity|recount\w*)\b"
    r"|\blook at the \w+ again\b"
    r"|\b(?:every|each|all|everything|it|that)(?: \w+)?(?: of them)?(?: is| are|'s| looks?)"
    r" (?:right|correct|fine|consistent)",
    re.IGNORECASE,
)
"""What goes over an earlier sentence, or says that it was right."""


class Strategy(NamedTuple):
    """Features of one trace; rates are shares of sentences, `number_rate` is numbers a word.

    `tokens` is NaN where no count was given. `breadth` counts attempts, `depth` the sentences of the longest one.
    """

    sentences: float
    characters: float
    tokens: float
    words_a_sentence: float
    backtrack_rate: float
    check_rate: float
    equation_rate: float
    number_rate: float
    breadth: float
    depth: float


def strategy_features(trace: Trace, *, count: Callable[[str], int] | None = None) -> Strategy:
    """How the reasoning of a trace goes about its problem; `count` gives the tokens of a text.

    A sentence backtracks where it matches `BACKTRACK`, checks where it matches `CHECK` and does not backtrack, and holds an
    equation where `interventions.equations_only` leaves something of it.

    Raises:
        ValueError: the trace has no sentences.

    >>> text = "We have 3 + 4 = 8. Wait, that is wrong. So 3 + 4 = 7. Let me check it."
    >>> found = strategy_features(Trace.from_text("3 + 4?", text))
    >>> found.backtrack_rate, found.check_rate, found.equation_rate, found.breadth, found.depth
    (0.25, 0.25, 0.5, 2.0, 3.0)
    """
    texts = [sentence.text for sentence in trace.sentences]
    if not texts:
        raise ValueError(f"trace {trace.id} has no sentences, so it has no strategy; give its reasoning")
    size, words = len(texts), sum(len(text.split()) for text in texts)
    back = [BACKTRACK.search(text) is not None for text in texts]
    checks = [not b and CHECK.search(text) is not None for b, text in zip(back, texts, strict=True)]
    attempts = _attempts(back)
    return Strategy(
        sentences=float(size),
        characters=float(len(trace.reasoning.strip())),
        tokens=float("nan") if count is None else float(count(trace.reasoning)),
        words_a_sentence=words / size,
        backtrack_rate=sum(back) / size,
        check_rate=sum(checks) / size,
        equation_rate=len(equations_only(trace)) / size,
        number_rate=sum(map(count_numbers, texts)) / words,
        breadth=float(len(attempts)),
        depth=float(max(attempts)),
    )


def _attempts(back: list[bool]) -> list[int]:
    """Sentences of every attempt; one that takes back opens the next, and several in a row open one.

    >>> _attempts([False, False, True, True, False])
    [2, 3]
    """
    starts = [i for i, turns in enumerate(back) if turns and i and not back[i - 1]]
    return [b - a for a, b in pairwise([0, *starts, len(back)])]
