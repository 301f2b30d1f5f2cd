"""What a compressor is given and what it returns, the registry, and the units it scores.

1. A unit is a sentence, or a word with the white space before it; the words of a sentence tile it.
2. A compressor returns one score a unit, higher meaning keep first. NaN is not measured and ranks last; -inf is never
   kept, whatever the budget.
3. Units are counted in the reader's tokens, from one tokenisation of prompt and reasoning; in characters where there
   is no reader with a tokenizer of its own.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from anchors import interventions
from anchors.forced import AnswerStub
from anchors.models.tokens import token_spans
from anchors.scores import Scores
from anchors.trace import Trace

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

Unit = Literal["sentence", "word"]
Need = Literal["reader", "writer_scores", "reader_scores", "answer"]

REMEDIES: Final[dict[str, str]] = {
    "reader": "give reader=load_model(...), a local model",
    "writer_scores": "give scores=..., the writer's Scores of this trace",
    "reader_scores": "give reader_scores=..., the reader's own Scores of this trace",
    "answer": "give answer=..., since the trace has neither an answer of its own nor a target",
}
_WORD = re.compile(r"(?:\A|(?<=\S))\s*+\S++")


@dataclass(frozen=True)
class Context:
    """What a compressor may look at; `answer` is "" where there is none, `stub` None means the reader's own."""

    trace: Trace
    reader: Any
    writer_scores: Scores | None
    reader_scores: Scores | None
    answer: str
    stub: AnswerStub | None
    seed: int = 0

    def rng(self, purpose: int) -> np.random.Generator:
        """Randomness of (seed, trace, purpose): two traces of equal length get different draws."""
        return np.random.default_rng([self.seed, zlib.crc32(self.trace.id.encode()), purpose])


@dataclass(frozen=True)
class Compressor:
    """A registered compressor: its unit, what it needs, the function that scores the units, and the text it leaves in
    place of what it removes (None: nothing)."""

    name: str
    unit: Unit
    needs: tuple[Need, ...]
    function: Callable[[Context], Float[np.ndarray, " unit"]]
    marker: str | None = None


COMPRESSORS: dict[str, Compressor] = {}
ALIASES: Final = {"position": "last"}
"""Other names of compressors."""


def compressor(
    name: str, *, unit: Unit, needs: Need | tuple[Need, ...] = (), marker: str | None = None
) -> Callable[..., Any]:
    """Register a function that scores the units of a trace; it then exists for the curve, the CLI and the report."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        COMPRESSORS[name] = Compressor(name, unit, (needs,) if isinstance(needs, str) else needs, function, marker)
        return function

    return register


class Word(NamedTuple):
    """A word of a sentence: `reasoning[start:end]`, with the white space before it."""

    sentence: int
    start: int
    end: int


def split_words(trace: Trace) -> list[Word]:
    """The words of every sentence; white space at the very end belongs to the last word.

    >>> trace = Trace.from_text("", "Two and two. Four.")
    >>> [trace.reasoning[word.start : word.end] for word in split_words(trace)]
    ['Two', ' and', ' two.', ' Four.']
    """
    words = []
    for s in trace.sentences:
        starts = [s.start + m.start() for m in _WORD.finditer(trace.reasoning[s.start : s.end])] or [s.start]
        words += [Word(s.index, a, b) for a, b in zip(starts, [*starts[1:], s.end], strict=True)]
    return words


def keep_words(trace: Trace, kept: Collection[Word]) -> Trace:
    """The trace with only these words, each with the white space before it; sentences without words are gone.

    The first word kept of a sentence takes the sentence's leading white space, as `interventions.replace` has it.
    """
    texts = dict.fromkeys(range(len(trace)), "")
    for word in sorted(set(kept)):
        texts[word.sentence] += trace.reasoning[word.start : word.end]
    return interventions.replace(trace, texts)


def unit_spans(trace: Trace, unit: Unit) -> list[tuple[int, int]]:
    """Character spans of the units in the reasoning, which they tile."""
    units = trace.sentences if unit == "sentence" else split_words(trace)
    return [(u.start, u.end) for u in units]


def counts_tokens(reader: Any) -> bool:
    """Whether budgets can be counted in this reader's tokens; without a tokenizer characters are counted."""
    return hasattr(reader, "encode")


def unit_sizes(trace: Trace, spans: Sequence[tuple[int, int]], reader: LensModel | None) -> Int[np.ndarray, " unit"]:
    """Tokens that begin in each span of the reasoning, or characters without a reader; their sum is the whole's."""
    if reader is None or not counts_tokens(reader):
        return np.array([b - a for a, b in spans], dtype=int)
    base = len(trace.prompt)
    offsets = reader.encode(trace.prompt + trace.reasoning).offsets
    found = token_spans(offsets, [(base + a, base + b) for a, b in spans]).spans
    return np.array([b - a for a, b in found], dtype=int)


def count(trace: Trace, reader: LensModel | None) -> int:
    """Size of the reasoning: tokens of the reader, or characters."""
    return int(unit_sizes(trace, [(0, len(trace.reasoning))], reader).sum())
