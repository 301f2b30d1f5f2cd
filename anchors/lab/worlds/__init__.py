"""Worlds: probabilistic programs that write problems and reasoning traces with known causal structure.

A world is a finite Markov program. At every sentence boundary its state is known, and `moves(state)` lists every
sentence that may come next with its exact probability, planted role and dependencies. Sampling, exact truth and
reading a trace back into states are all derived from that one function, so they cannot disagree.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

ROLES = ("anchor", "needed", "restatement", "filler", "decoy")
WORLDS = ("expression", "alchemy", "maze", "recall", "null")
FORMATS = ("verbose", "draft")
STEPS = ("active_computation", "fact_retrieval")


@dataclass(frozen=True, slots=True)
class Move:
    """One sentence a world may write next: its probability, text, taxonomy category, planted role and next state.

    An empty text ends the trace: the move writes nothing and leads to the finished state. `reads` and `writes` name
    the facts a sentence uses and settles ("plan", "rest", ...); a sentence depends on the last earlier sentence that
    wrote a fact it reads. `draft` is the terse form of the sentence, "" where a draft leaves it out, None for `text`.
    """

    probability: float
    text: str
    category: str
    role: str
    state: Any
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    draft: str | None = None

    @property
    def is_step(self) -> bool:
        """Whether the sentence works something out or recalls it, so that it can be right or wrong (an anchor)."""
        return self.category in STEPS and self.role in ("needed", "anchor")


@runtime_checkable
class World(Protocol):
    """What every world provides; a state is any hashable record with an `event` that names what just happened
    and has no part in its equality (states that differ in it alone have one future).

    A world is a frozen dataclass: its fields are its knobs. Knobs called `length`, `tasks` and `noise` (where a world
    has them) move its problems along the axes of length, task and format; `noise` touches the question only.
    """

    @property
    def name(self) -> str: ...

    def problem(self, rng: random.Random) -> Any:
        """Draw a problem."""
        ...

    def prompt(self, problem: Any) -> str:
        """The text a model is given, up to and including the opening think tag."""
        ...

    def parse(self, prompt: str) -> Any:
        """The problem a prompt asks; ValueError where the prompt is not this world's (or was noised)."""
        ...

    def start(self, problem: Any) -> Any:
        """The state before the first sentence."""
        ...

    def moves(self, state: Any) -> tuple[Move, ...]:
        """Every sentence that may follow, with probabilities that sum to one; empty when the trace is finished."""
        ...

    def answer(self, state: Any) -> str | None:
        """The answer of a finished trace, None before that."""
        ...

    def gold(self, problem: Any) -> str:
        """The correct answer."""
        ...

    def ending(self, answer: str) -> str:
        """The text after the reasoning: closing think tag and answer sentence."""
        ...

    def meaning(self, sentence: str) -> str:
        """What a sentence says: two sentences with equal meanings are the same event, at any state."""
        ...


@dataclass(frozen=True, slots=True)
class Written:
    """A trace as its world wrote it: `states[i]` is the state before sentence i, `states[-1]` after the last one."""

    world: World
    problem: Any
    moves: tuple[Move, ...]
    states: tuple[Any, ...]
    end: Any

    @property
    def reasoning(self) -> str:
        return " ".join(move.text for move in self.moves)


def hashable(value: Any) -> Any:
    """A knob as JSON gives it, lists as tuples, so that worlds and recipes stay hashable."""
    return tuple(map(hashable, value)) if isinstance(value, list) else value


def load_world(name: str, **knobs: Any) -> World:
    """Return the world called `name`, with its default knobs or others; `format="draft"` gives its terse form.

    Raises:
        ValueError: no such world, or the world has no such knob.

    >>> load_world("expression", length=(3, 3)).problem(random.Random(0))
    (6, '+', 4, '*', 7)
    """
    if name not in WORLDS:
        raise ValueError(f"no world is called {name!r}; the worlds are {', '.join(WORLDS)}")
    form = knobs.pop("format", "verbose")
    if form not in FORMATS:
        raise ValueError(f"no format is called {form!r}; the formats are {', '.join(FORMATS)}")
    world = import_module(f"anchors.lab.worlds.{name}").WORLD
    known = [field.name for field in fields(world) if field.name != "name"]
    given = {}
    for knob, value in knobs.items():
        if knob not in known:
            raise ValueError(f"`{name}` has no knob {knob!r}; its knobs are {', '.join(known)}")
        default = getattr(world, knob)
        _check_knob(name, knob, value, default)
        given[knob] = float(value) if isinstance(default, float) else value
    world = replace(world, **given)
    return Drafted(world) if form == "draft" else world


def _check_knob(world: str, knob: str, value: Any, default: Any) -> None:
    """A knob is of its default's kind; numbers with a fraction are probabilities, `length` is (shortest, longest)."""
    kinds = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, kinds) or (type(value) is bool and bool not in kinds):
        raise ValueError(f"knob {knob} of `{world}` is {value!r}; it is of the kind of its default {default!r}")
    if isinstance(default, float) and not 0 <= value <= 1:
        raise ValueError(f"knob {knob} of `{world}` is {value}; it is a probability, between 0 and 1")
    if knob == "length" and not _is_range(value):
        raise ValueError(f"knob length of `{world}` is {value!r}; it is a pair (shortest, longest), as {default!r}")


def _is_range(value: Any) -> bool:
    return len(value) == 2 and all(type(v) is int for v in value) and 0 < value[0] <= value[1]


def changed_knobs(world: World) -> dict[str, Any]:
    """The knobs of a world that differ from its defaults, in its base for a draft."""
    base = world.base if isinstance(world, Drafted) else world
    default = type(base)()  # a world of your own is in no module of ours
    names = [field.name for field in fields(base)]  # type: ignore[arg-type]
    return {name: getattr(base, name) for name in names if getattr(base, name) != getattr(default, name)}


def answers_here(world: World, state: Any) -> set[str]:
    """The answers a trace may end on right at a state; empty where the program must go on writing."""
    ends = [state, *(move.state for move in world.moves(state) if not move.text)]
    return {answer for answer in map(world.answer, ends) if answer is not None}


def continuations(world: World, state: Any, *, first: bool = False) -> dict[str, float]:
    """Every text that may come next, with the space before it that a trace's later sentences have, and its probability.

    Where a trace may end it goes on with the ending and its answer.
    """
    space = "" if first else " "
    found: dict[str, float] = {}
    for move in world.moves(state):
        text = space + move.text if move.text else world.ending(str(world.answer(move.state)))
        found[text] = found.get(text, 0.0) + move.probability
    return found or {world.ending(str(world.answer(state))): 1.0}


@dataclass(frozen=True)
class Drafted:
    """A world in draft format: the same states and answers, each sentence in its terse form or left out."""

    base: World

    def __getattr__(self, name: str) -> Any:
        """The knobs of the world."""
        if name == "base":  # while a copy is made, before the field exists
            raise AttributeError(name)
        return getattr(self.base, name)

    @property
    def name(self) -> str:
        return f"{self.base.name}-draft"

    def moves(self, state: Any) -> tuple[Move, ...]:
        return _draft_moves(self.base, state)

    def problem(self, rng: random.Random) -> Any:
        return self.base.problem(rng)

    def prompt(self, problem: Any) -> str:
        return self.base.prompt(problem)

    def parse(self, prompt: str) -> Any:
        return self.base.parse(prompt)

    def start(self, problem: Any) -> Any:
        return self.base.start(problem)

    def answer(self, state: Any) -> str | None:
        return self.base.answer(state)

    def gold(self, problem: Any) -> str:
        return self.base.gold(problem)

    def ending(self, answer: str) -> str:
        return self.base.ending(answer)

    def meaning(self, sentence: str) -> str:
        return self.base.meaning(sentence)


@lru_cache(maxsize=1 << 16)
def _draft_moves(base: World, state: Any) -> tuple[Move, ...]:
    """Terse moves; a sentence a draft leaves out is passed through, and equal moves are added up."""
    merged: dict[tuple[str, Any], Move] = {}
    for move in base.moves(state):
        if move.text and move.draft == "" and base.answer(move.state) is not None:
            passed = [replace(move, text="", draft=None)]
        elif move.text and move.draft == "":
            passed = [_after(move, m) for m in _draft_moves(base, move.state)]
        else:
            passed = [replace(move, text=move.text if move.draft is None else move.draft, draft=None)]
        for found in passed:
            key = found.text, found.state
            seen = merged[key].probability if key in merged else 0.0
            merged[key] = replace(found, probability=found.probability + seen)
    return tuple(merged.values())


def _after(skipped: Move, move: Move) -> Move:
    """A move that also stands for a sentence left out before it."""
    reads = dict.fromkeys([*skipped.reads, *(fact for fact in move.reads if fact not in skipped.writes)])
    writes = dict.fromkeys([*skipped.writes, *move.writes])
    probability = move.probability * skipped.probability
    return replace(move, probability=probability, reads=tuple(reads), writes=tuple(writes))


def step(world: World, state: Any, rng: random.Random) -> Move | None:
    """Draw the next sentence of a trace, None when it is finished."""
    moves = world.moves(state)
    if not moves:
        return None
    return rng.choices(moves, weights=[move.probability for move in moves])[0]


def write(world: World, problem: Any, rng: random.Random, *, state: Any = None) -> Written:
    """Let the world write a whole trace of `problem`, or finish one from `state`."""
    state = world.start(problem) if state is None else state
    states, moves = [state], []
    while (move := step(world, state, rng)) is not None:
        state = move.state
        if move.text:
            moves.append(move)
            states.append(state)
    return Written(world, problem, tuple(moves), tuple(states), state)


def read_moves(world: World, problem: Any, sentences: Sequence[str]) -> list[Move]:
    """The moves of a trace somebody else wrote; stops before the first sentence off the program."""
    state, found = world.start(problem), []
    for sentence in sentences:
        text = sentence.strip()
        move = next((move for move in world.moves(state) if text and move.text == text), None)
        if move is None:
            break
        found.append(move)
        state = move.state
    return found


def read(world: World, problem: Any, sentences: Sequence[str]) -> list[Any]:
    """States at the boundaries of a trace somebody else wrote; stops before the first sentence off the program.

    The result has `len(sentences) + 1` states when every sentence is one the world could have written there.
    """
    return [world.start(problem), *(move.state for move in read_moves(world, problem, sentences))]


def possible(moves: Sequence[Move]) -> tuple[Move, ...]:
    """The moves that may come: knobs of 0 and 1 leave some without a chance."""
    return tuple(move for move in moves if move.probability > 0)


def scaled(moves: Sequence[Move], weight: float) -> tuple[Move, ...]:
    """The same moves, each `weight` times as likely."""
    return tuple(replace(move, probability=move.probability * weight) for move in moves)


def either(moves: Sequence[Move], weight: float, others: Callable[[], Sequence[Move]]) -> tuple[Move, ...]:
    """One of `moves` with probability `weight`, else one of `others()`; a branch without weight is left out."""
    first = scaled(moves, weight) if weight > 0 else ()
    return (*first, *(scaled(others(), 1 - weight) if weight < 1 else ()))


def perturbed(words: Sequence[str], rate: float, rng: random.Random, *, kind: str = "hybrid") -> list[str]:
    """Noise on the words of a question: each is deleted, replaced by or followed by ``<unk>`` with probability `rate`.

    `kind` is "delete", "modify", "insert" or "hybrid" (one of the three each time), as in DataAlchemy's format axis
    (2508.01191, section 6).

    Raises:
        ValueError: an unknown kind.
    """
    kinds = {"delete": [], "modify": ["<unk>"], "insert": None}
    if kind not in (*kinds, "hybrid"):
        raise ValueError(f"kind is {kind!r}; use one of {', '.join(kinds)} or hybrid")
    found: list[str] = []
    for word in words:
        if rate > 0 and rng.random() < rate:
            by = kinds[rng.choice(list(kinds)) if kind == "hybrid" else kind]
            found += [word, "<unk>"] if by is None else by
        else:
            found.append(word)
    return found
