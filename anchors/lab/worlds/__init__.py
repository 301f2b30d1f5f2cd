"""Worlds: probabilistic programs that write problems and reasoning traces with known causal structure.

A world is a finite Markov program. At every sentence boundary its state is known, and `moves(state)` lists every
sentence that may come next with its exact probability. Sampling, exact truth and reading a trace back into states
are all derived from that one function, so they cannot disagree.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

ROLES = ("anchor", "needed", "restatement", "filler", "decoy")
WORLDS = ("expression",)


@dataclass(frozen=True, slots=True)
class Move:
    """One sentence a world may write next: its probability, text, taxonomy category, planted role and next state.

    An empty text ends the trace: the move writes nothing and leads to the finished state.
    """

    probability: float
    text: str
    category: str
    role: str
    state: Any


@runtime_checkable
class World(Protocol):
    """What every world provides; `State` is any hashable record with an `event` that names what just happened."""

    name: str

    def problem(self, rng: random.Random) -> Any:
        """Draw a problem."""
        ...

    def prompt(self, problem: Any) -> str:
        """The text a model is given, up to and including the opening think tag."""
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


@dataclass(frozen=True, slots=True)
class Written:
    """A trace as its world wrote it: `states[i]` is the state before sentence i, `states[-1]` after the last one."""

    problem: Any
    moves: tuple[Move, ...]
    states: tuple[Any, ...]
    end: Any

    @property
    def reasoning(self) -> str:
        return " ".join(move.text for move in self.moves)


def load_world(name: str) -> World:
    """Return the world called `name`; ValueError lists the known ones."""
    if name not in WORLDS:
        raise ValueError(f"no world is called {name!r}; the worlds are {', '.join(WORLDS)}")
    return import_module(f"anchors.lab.worlds.{name}").WORLD


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
    return Written(problem, tuple(moves), tuple(states), state)


def read(world: World, problem: Any, sentences: list[str]) -> list[Any]:
    """States at the boundaries of a trace somebody else wrote; stops before the first sentence off the program.

    The result has `len(sentences) + 1` states when every sentence is one the world could have written there.
    """
    states = [world.start(problem)]
    for sentence in sentences:
        text = sentence.strip()
        found = next((move.state for move in world.moves(states[-1]) if text and move.text == text), None)
        if found is None:
            break
        states.append(found)
    return states
