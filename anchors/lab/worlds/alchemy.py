"""The `alchemy` world: transform a string of letters by rotations, shifts and reversals (DataAlchemy, 2508.01191).

Problem: ``Apply rotate then reverse to A B C D.`` An element is a string of letters; the operations are ``rotate``
(each letter n ahead, ROT-n), ``shift`` (cyclic, one place to the left) and ``reverse``. Shift and reverse do not
commute, rotate commutes with both, so a wrong order matters in some problems and is a decoy in the others.

| state | sentence | category, role | next |
|---|---|---|---|
| setup | ``We start with A B C D.`` | problem_setup, restatement | filler (.4) or order |
| order | ``First rotate, then reverse.`` (.75) or the opposite order (.25) | plan_generation, anchor / decoy | rule |
| rule | ``Rotate moves every letter 5 ahead.`` (.85) or ``... 4 ahead.`` (.15) | fact_retrieval, needed / anchor | compute |
| | ``Shift takes the first letter to the end.`` (.85) or ``... last letter to the front.`` (.15) | | |
| | ``Reverse turns the order around.`` | fact_retrieval, restatement | |
| compute | ``Rotate gives F G H I.``; p .06 one letter is one off | active_computation, needed / anchor | between |
| between | wrong so far, .4: ``Wait, that was not right.`` | uncertainty_management, anchor | restart |
| | else ``Now reverse F G H I.`` | result_consolidation, restatement | rule |
| | after the last operation ``That leaves F G H I.`` | result_consolidation, needed | finish |
| restart | ``Start again from A B C D.`` (from here order and rules are right) | problem_setup, needed | rule |
| finish | with p .4 ``Let me check the letters.`` | self_checking, anchor after a slip, else filler | verdict |
| verdict | ``One letter is wrong.`` after a slip, else ``Every letter is right.`` | self_checking, anchor / filler | restart, end |

A check sees slips and never rules or order, and happens at most once; the answer is the last element. The order
sentence is left out for one operation and where both orders read the same. ``rot_n=13`` replicates the published grid, where
rotating twice is the identity; with ``rot_n=5`` no axis is degenerate. Knobs of the shift axes: `tasks` (see `SHIFTS`),
`length`, `noise` with `noise_kind` and `noise_part`.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from typing import Final

from anchors.lab.worlds import Move, either, perturbed, possible

Element = tuple[str, ...]
Operations = tuple[str, ...]
Problem = tuple[Element, Operations]

ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPERATIONS: Final = ("rotate", "shift", "reverse")
FILLERS: Final = ("Okay, let me think.", "Let me take it slowly.", "This needs some care.", "One thing at a time.")
PARTS: Final = ("element", "transformation", "instruction", "all")
_PROMPT: Final = re.compile(r"Apply ([a-z ]+) to ([A-Z](?: [A-Z])*)\.\n<think>\n")

PAIRS: Final = tuple(product(OPERATIONS, repeat=2))
SHIFTS: Final = {
    "ID": ((("rotate", "rotate"),), (("rotate", "rotate"),)),
    "CMP": ((("rotate", "rotate"), ("rotate", "shift"), ("shift", "rotate")), (("shift", "shift"),)),
    "POOD": ((("rotate", "rotate"),), (("rotate", "shift"),)),
    "OOD": ((("rotate", "rotate"),), (("shift", "shift"),)),
}
"""Task axis of DataAlchemy (section 4): for every level the tasks trained on, and the tasks tested."""


def rotate(element: Element, n: int) -> Element:
    """Every letter n ahead, cyclically.

    >>> rotate(("A", "Z"), 5)
    ('F', 'E')
    """
    return tuple(ALPHABET[(ALPHABET.index(letter) + n) % 26] for letter in element)


def apply(element: Element, operation: str, *, rot_n: int, right: bool = True) -> Element:
    """One operation; `right=False` applies the wrong rule: one letter less far, or the other way round."""
    if operation == "rotate":
        return rotate(element, rot_n if right else rot_n - 1)
    if operation == "shift":
        return (*element[1:], element[0]) if right else (element[-1], *element[:-1])
    return element[::-1]


@dataclass(frozen=True, slots=True)
class State:
    """What the program remembers at a sentence boundary.

    `rest` are the operations still to do; `right_rule` is the rule just recalled, `strayed` says that an order or a
    rule was wrong; after a restart the program is `careful` and strays no more.
    """

    problem: Problem
    element: Element
    rest: Operations
    phase: str
    right_rule: bool = True
    strayed: bool = False
    careful: bool = False
    slipped: bool = False
    checked: bool = False
    event: str = field(default="", compare=False)


@dataclass(frozen=True)
class AlchemyWorld:
    """Knobs of the program; the defaults are what the shipped model was trained on."""

    name: str = "alchemy"
    rot_n: int = 5
    length: tuple[int, int] = (4, 4)
    letters: str = ALPHABET
    tasks: tuple[Operations, ...] = PAIRS
    noise: float = 0.0
    noise_kind: str = "hybrid"
    noise_part: str = "all"
    filler: float = 0.4
    right_order: float = 0.75
    right_rule: float = 0.85
    slip: float = 0.06
    reconsider: float = 0.4
    check: float = 0.4

    def __post_init__(self) -> None:
        if self.noise_part not in PARTS:
            raise ValueError(f"noise_part is {self.noise_part!r}; use one of {', '.join(PARTS)}")
        if not self.tasks or not all(isinstance(t, tuple) and t and set(t) <= set(OPERATIONS) for t in self.tasks):
            raise ValueError(f"tasks is {self.tasks!r}; it holds sequences of {', '.join(OPERATIONS)}")

    def problem(self, rng: random.Random) -> Problem:
        letters = [rng.choice(self.letters) for _ in range(rng.randint(*self.length))]
        return tuple(letters), rng.choice(self.tasks)

    def prompt(self, problem: Problem) -> str:
        element, operations = problem
        rng = random.Random(f"noise {problem}")

        def noised(words: list[str], part: str) -> str:
            rate = self.noise if self.noise_part in (part, "all") else 0.0
            return " ".join(perturbed(words, rate, rng, kind=self.noise_kind))

        verb, tasks = noised(["Apply"], "instruction"), noised(" then ".join(operations).split(), "transformation")
        to, letters = noised(["to"], "instruction"), noised(list(element), "element")
        return " ".join(part for part in (verb, tasks, to, letters) if part) + ".\n<think>\n"

    def parse(self, prompt: str) -> Problem:
        match = _PROMPT.fullmatch(prompt)
        operations = tuple(match[1].split(" then ")) if match else ()
        if match is None or not set(operations) <= set(OPERATIONS):
            raise ValueError(f"{prompt[:80]!r} is not a question of `{self.name}`, such as 'Apply shift to A B C D.'")
        return tuple(match[2].split()), operations

    def start(self, problem: Problem) -> State:
        return State(problem, *problem, "setup")

    def answer(self, state: State) -> str | None:
        return " ".join(state.element) if state.phase == "end" else None

    def gold(self, problem: Problem) -> str:
        return " ".join(_result(self, *problem))

    def ending(self, answer: str) -> str:
        return f"\n</think>\nThe answer is {answer}."

    def meaning(self, sentence: str) -> str:
        text = sentence.strip()
        return "filler" if text in FILLERS else text

    def moves(self, state: State) -> tuple[Move, ...]:
        return _moves(self, state)


@lru_cache(maxsize=1 << 14)
def _moves(world: AlchemyWorld, state: State) -> tuple[Move, ...]:
    if state.phase == "end":
        return ()
    phases = {"setup": _setup, "opening": _opening, "order": _order, "rule": _rule, "compute": _compute}
    phases |= {"between": _between, "restart": _restart, "finish": _finish, "verdict": _verdict}
    return possible(phases[state.phase](world, state))


def _setup(world: AlchemyWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, phase="opening", event="setup")
    text = f"We start with {' '.join(state.element)}."
    return (Move(1.0, text, "problem_setup", "restatement", to, writes=("element",), draft=""),)


def _opening(world: AlchemyWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, phase="order", event="filler")
    fillers = [Move(1 / len(FILLERS), text, "plan_generation", "filler", to, draft="") for text in FILLERS]
    return either(fillers, world.filler, lambda: _order(world, state))


def _order(world: AlchemyWorld, state: State) -> tuple[Move, ...]:
    operations = state.rest
    if operations == operations[::-1]:
        return _rule(world, state)
    matters = _result(world, state.element, operations) != _result(world, state.element, operations[::-1])
    moves = []
    for right, p in ((True, world.right_order), (False, 1 - world.right_order)):
        order = operations if right else operations[::-1]
        to = replace(
            state, rest=order, phase="rule", strayed=not right, event="right order" if right else "wrong order"
        )
        text, draft = f"First {', then '.join(order)}.", f"{', '.join(order)}."
        role = "anchor" if matters else "decoy"
        moves.append(Move(p, text, "plan_generation", role, to, writes=("order",), draft=draft))
    return tuple(moves)


def _result(world: AlchemyWorld, element: Element, operations: Operations) -> Element:
    for operation in operations:
        element = apply(element, operation, rot_n=world.rot_n)
    return element


def _rule(world: AlchemyWorld, state: State) -> tuple[Move, ...]:
    operation = state.rest[0]
    right = replace(state, phase="compute", right_rule=True, event=f"right rule {operation}")
    rules = {
        "rotate": [
            (f"Rotate moves every letter {n} ahead.", f"rotate: {n} ahead.") for n in (world.rot_n, world.rot_n - 1)
        ],
        "shift": [
            ("Shift takes the first letter to the end.", "shift: first to end."),
            ("Shift takes the last letter to the front.", "shift: last to front."),
        ],
        "reverse": [("Reverse turns the order around.", "reverse: turn around.")],
    }[operation]

    left = len(state.rest)

    def recalled(p: float, index: int, role: str, to: State) -> Move:
        text, draft = rules[index]
        return Move(p, text, "fact_retrieval", role, to, ("order",), (f"rule {left}",), draft)

    if len(rules) == 1:
        return (recalled(1.0, 0, "restatement", right),)
    if state.careful:
        return (recalled(1.0, 0, "needed", right),)
    wrong = replace(right, right_rule=False, strayed=True, event=f"wrong rule {operation}")
    return recalled(world.right_rule, 0, "needed", right), recalled(1 - world.right_rule, 1, "anchor", wrong)


def _compute(world: AlchemyWorld, state: State) -> tuple[Move, ...]:
    operation, left = state.rest[0], len(state.rest)
    exact = apply(state.element, operation, rot_n=world.rot_n, right=state.right_rule)
    results = [(exact, 1 - world.slip)]
    for at in range(len(exact)):
        for off in (1, -1):
            letter = rotate((exact[at],), off)
            results.append(((*exact[:at], *letter, *exact[at + 1 :]), world.slip / (2 * len(exact))))
    moves = []
    for result, p in results:
        slip = result != exact
        text = " ".join(result)
        to = replace(
            state,
            element=result,
            rest=state.rest[1:],
            phase="between",
            right_rule=True,
            slipped=state.slipped or slip,
            event=f"{'slip' if slip else 'step'} {text}",
        )
        role, reads, writes = "anchor" if slip else "needed", (f"rule {left}", "element"), ("element", f"slip {left}")
        draft = f"{operation}: {text}."
        moves.append(
            Move(p, f"{operation.title()} gives {text}.", "active_computation", role, to, reads, writes, draft)
        )
    return tuple(moves)


def _between(world: AlchemyWorld, state: State) -> tuple[Move, ...]:
    last = not state.rest
    element = " ".join(state.element)
    if last:
        to = replace(state, phase="end" if state.checked or world.check == 0 else "finish", event="leaves")
        move = Move(
            1.0, f"That leaves {element}.", "result_consolidation", "needed", to, ("element",), ("element",), ""
        )
    else:
        to = replace(state, phase="rule", event="next")
        text = f"Now {state.rest[0]} {element}."
        move = Move(1.0, text, "result_consolidation", "restatement", to, ("element", "order"), ("element",), "")
    if not state.strayed:
        return (move,)
    again = replace(state, phase="restart", strayed=False, careful=True, event="reconsider")
    text = "Wait, that was not right."
    category = "uncertainty_management"
    wait = Move(
        1.0,
        text,
        category,
        "anchor",
        again,
        ("order", *_facts("rule", state)),
        ("restart", "order"),
        "Wait, not right.",
    )
    return either([wait], world.reconsider, lambda: (move,))


def _facts(name: str, state: State) -> tuple[str, ...]:
    """The facts of every operation of the problem, named by the operations left before it."""
    return tuple(f"{name} {left}" for left in range(1, len(state.problem[1]) + 1))


def _restart(world: AlchemyWorld, state: State) -> tuple[Move, ...]:
    element, operations = state.problem
    to = State(state.problem, element, operations, "rule", careful=True, checked=state.checked, event="restart")
    text = " ".join(element)
    kind, writes = ("problem_setup", "needed"), ("element", "order", *_facts("slip", state))
    return (Move(1.0, f"Start again from {text}.", *kind, to, ("restart",), writes, f"again from {text}."),)


def _finish(world: AlchemyWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, phase="verdict", checked=True, event="check")
    role = "anchor" if state.slipped else "filler"
    check = Move(
        1.0, "Let me check the letters.", "self_checking", role, to, _facts("slip", state), ("check",), "Check letters."
    )
    end = replace(state, phase="end", event="end")
    return either([check], world.check, lambda: (Move(1.0, "", "final_answer_emission", "restatement", end),))


def _verdict(world: AlchemyWorld, state: State) -> tuple[Move, ...]:
    reads = ("check", *_facts("slip", state))
    if state.slipped:
        to = replace(state, phase="restart", careful=True, event="found slip")
        return (Move(1.0, "One letter is wrong.", "self_checking", "anchor", to, reads, ("restart",), "One is wrong."),)
    to = replace(state, phase="end", event="verdict")
    return (Move(1.0, "Every letter is right.", "self_checking", "filler", to, reads, draft="All are right."),)


WORLD = AlchemyWorld()
