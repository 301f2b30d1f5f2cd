"""What a model is trained to write: a world's own traces, or targets whose traces were changed in one stated way.

| regime | trace | answer |
|---|---|---|
| `normal` | the world's | the trace's |
| `draft` | the world's, in draft format (2502.18600) | the trace's |
| `swapped` | of another problem (2505.13775) | the right one of its own problem |
| `shuffled` | its sentences in random order | the trace's |
| `invalid(r)` | each step replaced by another result with probability r (2307.10573) | that of the valid trace |
| `filler` | as many filler sentences | the right one |
| `answer_only` | none | the right one |

A mixture is a sum with weights, drawn anew for every document: ``0.5 normal + 0.5 answer_only``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from anchors.lab.worlds import Drafted, Move, World, Written, write

FILLER: Final = "Okay, let me think."
_NUMBER: Final = r"(\d++(?:\.\d++)?+|\.\d++)"
_TERM: Final = re.compile(rf"(?:(?<![\d.]){_NUMBER}(?:\s++(?:\*\s++)?+|\*\s++))?([a-z_]++)(?:\({_NUMBER}\))?")


@dataclass(frozen=True)
class Document:
    """One training text, split where the loss begins; `written` is the trace in it, where it is the world's own unchanged."""

    prompt: str
    completion: str
    written: Written | None = field(default=None, repr=False)


class Term(NamedTuple):
    """One part of a mixture: its weight, its regime and that regime's rate."""

    weight: float
    regime: str
    rate: float | None


class Target(NamedTuple):
    """What a regime makes of a problem; `written` where it left the world's own trace as it was."""

    reasoning: str
    answer: str
    written: Written | None = None


Regime = Callable[[World, object, random.Random, float], Target]


def document(world: World, rng: random.Random, regime: str = "normal") -> Document:
    """Draw a problem and write the target of a regime for it.

    >>> from anchors.lab.worlds import load_world
    >>> document(load_world("expression"), random.Random(0), "answer_only")
    Document(prompt='Find 6 + 4 * 7 - 4 modulo 10.\\n<think>\\n', completion='\\n</think>\\nThe answer is 0.')
    """
    terms = parse_regime(regime)
    problem = world.problem(rng)
    term = terms[0] if len(terms) == 1 else rng.choices(terms, weights=[t.weight for t in terms])[0]
    target = TARGETS[term.regime](world, problem, rng, term.rate or 0.0)
    return Document(world.prompt(problem), target.reasoning + world.ending(target.answer), target.written)


@lru_cache(maxsize=64)
def parse_regime(text: str) -> tuple[Term, ...]:
    """The terms of a regime or mixture.

    Raises:
        ValueError: it cannot be read, names an unknown regime, or a rate is missing, needless or outside [0, 1].

    >>> parse_regime("0.5 normal + 0.5 invalid(0.2)")
    (Term(weight=0.5, regime='normal', rate=None), Term(weight=0.5, regime='invalid', rate=0.2))
    """
    terms = []
    for part in text.split("+"):
        match = _TERM.fullmatch(part.strip())
        if match is None or match[2] not in TARGETS:
            raise ValueError(
                f"regime {part.strip()!r} is unknown; use {', '.join(TARGETS)} (invalid with a rate, as invalid(0.2)) "
                "or a mixture such as '0.5 normal + 0.5 answer_only'"
            )
        rate = None if match[3] is None else float(match[3])
        if (rate is None) == (match[2] == "invalid") or not 0 <= (rate or 0.0) <= 1:
            raise ValueError(f"regime {part.strip()!r}: only invalid takes a rate, between 0 and 1, as invalid(0.2)")
        terms.append(Term(float(match[1] or 1), match[2], rate))
    if sum(term.weight for term in terms) <= 0:
        raise ValueError(f"regime {text!r} has no positive weight")
    return tuple(terms)


def regime_world(world: World, regime: str) -> World:
    """The program whose traces a regime teaches: the draft form for pure draft, else the world itself."""
    return Drafted(world) if [term.regime for term in parse_regime(regime)] == ["draft"] else world


def _own(world: World, problem: object, rng: random.Random) -> tuple[Written, str]:
    written = write(world, problem, rng)
    answer = world.answer(written.end)
    assert answer is not None
    return written, answer


def _normal(world: World, problem: object, rng: random.Random, rate: float) -> Target:
    written, answer = _own(world, problem, rng)
    return Target(written.reasoning, answer, written)


def _draft(world: World, problem: object, rng: random.Random, rate: float) -> Target:
    return _normal(Drafted(world), problem, rng, rate)


def _swapped(world: World, problem: object, rng: random.Random, rate: float) -> Target:
    other = world.problem(rng)
    while other == problem:
        other = world.problem(rng)
    return Target(_own(world, other, rng)[0].reasoning, world.gold(problem))


def _shuffled(world: World, problem: object, rng: random.Random, rate: float) -> Target:
    written, answer = _own(world, problem, rng)
    moves = list(written.moves)
    rng.shuffle(moves)
    return Target(" ".join(move.text for move in moves), answer)


def _invalid(world: World, problem: object, rng: random.Random, rate: float) -> Target:
    written, answer = _own(world, problem, rng)
    texts = [
        _altered(world, state, m, rng) if _hit(m, rate, rng) else m.text
        for state, m in zip(written.states, written.moves, strict=False)
    ]
    return Target(" ".join(texts), answer)


def _hit(move: Move, rate: float, rng: random.Random) -> bool:
    return move.is_step and rng.random() < rate


def _altered(world: World, state: object, move: Move, rng: random.Random) -> str:
    """Another step the world may write at that place; the sentence itself where there is none."""
    others = [m.text for m in world.moves(state) if m.is_step and m.text != move.text]
    return rng.choice(others) if others else move.text


def _filler(world: World, problem: object, rng: random.Random, rate: float) -> Target:
    written, _ = _own(world, problem, rng)
    return Target(" ".join([FILLER] * len(written.moves)), world.gold(problem))


def _answer_only(world: World, problem: object, rng: random.Random, rate: float) -> Target:
    return Target("", world.gold(problem))


TARGETS: Final[dict[str, Regime]] = {
    "normal": _normal,
    "draft": _draft,
    "swapped": _swapped,
    "shuffled": _shuffled,
    "invalid": _invalid,
    "filler": _filler,
    "answer_only": _answer_only,
}
