"""The `expression` world: evaluate a short expression modulo 10 under a plan that may be wrong.

Problem: ``Find 8 - 1 * 5 * 6 modulo 10.`` Three to five digits joined by + - *, with a ``*`` that is not the first
operator and whose value by precedence differs from its value left to right. Every intermediate value is one digit.

| state | sentence | category, role | next |
|---|---|---|---|
| setup | ``We need {expr} modulo 10.`` | problem_setup, restatement | filler (.6) or plan |
| filler | one of four phrases | plan_generation, filler | plan, or compute between steps |
| plan | ``I will multiply first.`` (.5) or ``I will go left to right.`` (.5) | plan_generation, anchor | compute |
| compute | ``{a} {op} {b} = {r}.``; p .04 slips to a wrong digit | active_computation, needed (slip: anchor) | consolidate |
| consolidate | ``Now we have {expr}.`` or at the end ``That leaves {r}.`` | result_consolidation, needed | between, or finish |
| between | wrong plan, .3: ``Wait, multiplication comes first.``; else filler, compute | uncertainty_management, anchor | restart |
| restart | ``Start again from {expr}.`` | problem_setup, needed | compute |
| finish | with p .4 ``Let me check the steps.`` | self_checking, anchor after a slip, else filler | verdict |
| verdict | ``One step was wrong.`` after a slip, else ``Every step is right.`` | self_checking, anchor / filler | restart / end |

A check looks at the steps and never at the plan, and happens at most once. The answer is the last value left.
Knobs that are off by default: `decoy` (between steps, ``Note that {a} + {b} = {c}.`` about two unused numbers, which
nothing reads) and `redundant` (after a step, ``In other words, {a} {op} {b} is {r}.``, so that the fact stands twice).
Knobs of the shift axes: `length` (how many digits), `tasks` (operators; ``max`` and ``min`` are new ones, applied left to right
like + and -) and `noise` (words of the question lost or spoiled).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from anchors.lab.worlds import Move, either, perturbed, possible

Expression = tuple[Any, ...]

OPERATORS = ("+", "-", "*", "max", "min")

FILLERS = ("Okay, let me think.", "Let me take it slowly.", "This needs some care.", "Let me keep going.")
DECOYS = tuple(f"Note that {a} + {(a + 3) % 10} = {(2 * a + 3) % 10}." for a in range(10))
RIGHT_PLAN, WRONG_PLAN = "I will multiply first.", "I will go left to right."


def render(expr: Expression) -> str:
    """``(8, '-', 1)`` -> ``'8 - 1'``."""
    return " ".join(str(part) for part in expr)


def apply(a: int, op: str, b: int) -> int:
    """One operation modulo 10."""
    return {"+": a + b, "-": a - b, "*": a * b, "max": max(a, b), "min": min(a, b)}[op] % 10


def next_operator(expr: Expression, *, multiply_first: bool) -> int:
    """Index of the operator to apply next: the first ``*`` under the right plan, else the leftmost."""
    if multiply_first and "*" in expr:
        return expr.index("*")
    return 1


def evaluate(expr: Expression, *, multiply_first: bool) -> int:
    """The value of an expression modulo 10 under one plan, without slips."""
    while len(expr) > 1:
        at = next_operator(expr, multiply_first=multiply_first)
        expr = (*expr[: at - 1], apply(expr[at - 1], expr[at], expr[at + 1]), *expr[at + 2 :])
    return int(next(iter(expr)))


@dataclass(frozen=True, slots=True)
class State:
    """What the program remembers at a sentence boundary; `event` names the sentence just written."""

    problem: Expression
    rest: Expression
    phase: str
    multiply_first: bool | None = None
    slipped: bool = False
    checked: bool = False
    said: str = ""
    event: str = field(default="", compare=False)


_PROMPT = re.compile(r"Find ([^.\n]+) modulo 10\.\n<think>\n")


@dataclass(frozen=True)
class ExpressionWorld:
    """Knobs of the program; the defaults are what the shipped models were trained on."""

    name: str = "expression"
    length: tuple[int, int] = (3, 5)
    tasks: tuple[str, ...] = ("+", "-", "*")
    noise: float = 0.0
    noise_kind: str = "hybrid"
    filler: float = 0.6
    filler_between: float = 0.25
    right_plan: float = 0.5
    slip: float = 0.04
    reconsider: float = 0.3
    check: float = 0.4
    decoy: float = 0.0
    redundant: float = 0.0

    def __post_init__(self) -> None:
        if "*" not in self.tasks or not set(self.tasks) <= set(OPERATORS) or len(self.tasks) < 2:
            raise ValueError(f"tasks is {self.tasks}; it needs '*' and others of {', '.join(OPERATORS)}")
        if not 3 <= self.length[0] <= self.length[1]:
            raise ValueError(f"length is {self.length}; an expression needs at least 3 digits")

    def problem(self, rng: random.Random) -> Expression:
        while True:
            n = rng.randint(*self.length)
            expr: list[int | str] = [rng.randrange(10)]
            for _ in range(n - 1):
                expr += [rng.choice(self.tasks), rng.randrange(10)]
            candidate = tuple(expr)
            values = {evaluate(candidate, multiply_first=first) for first in (True, False)}
            if "*" in candidate[3:] and len(values) == 2:
                return candidate

    def prompt(self, problem: Expression) -> str:
        words = ["Find", *render(problem).split(), "modulo", "10"]
        asked = perturbed(words, self.noise, random.Random(f"noise {problem}"), kind=self.noise_kind)
        return f"{' '.join(asked)}.\n<think>\n"

    def parse(self, prompt: str) -> Expression:
        match = _PROMPT.fullmatch(prompt)
        words = match[1].split() if match else []
        expr = tuple(int(word) if i % 2 == 0 and word.isdigit() else word for i, word in enumerate(words))
        if (
            len(expr) % 2 == 0
            or not all(isinstance(a, int) for a in expr[::2])
            or not set(expr[1::2]) <= set(OPERATORS)
        ):
            raise ValueError(f"{prompt[:80]!r} is not a question of `{self.name}`, such as 'Find 2 + 3 * 4 modulo 10.'")
        return expr

    def start(self, problem: Expression) -> State:
        return State(problem, problem, "setup")

    def answer(self, state: State) -> str | None:
        return str(state.rest[0]) if state.phase == "end" else None

    def gold(self, problem: Expression) -> str:
        return str(evaluate(problem, multiply_first=True))

    def ending(self, answer: str) -> str:
        return f"\n</think>\nThe answer is {answer}."

    def meaning(self, sentence: str) -> str:
        text = sentence.strip()
        return "filler" if text in FILLERS else "decoy" if text in DECOYS else text

    def moves(self, state: State) -> tuple[Move, ...]:
        return _moves(self, state)


@lru_cache(maxsize=1 << 14)
def _moves(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    if state.phase == "end":
        return ()
    phases = {"setup": _setup, "filler": _opening, "plan": _plan, "compute": _compute, "again": _again}
    phases |= {"consolidate": _consolidate, "between": _between, "ready": _ready, "restart": _restart}
    phases |= {"finish": _finish, "verdict": _verdict}
    return possible(phases[state.phase](world, state))


def _setup(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    text = f"We need {render(state.problem)} modulo 10."
    to = replace(state, phase="filler", event="setup")
    return (Move(1.0, text, "problem_setup", "restatement", to, writes=("rest",), draft=""),)


def _fillers(state: State, phase: str) -> tuple[Move, ...]:
    to = replace(state, phase=phase, event="filler")
    return tuple(Move(1 / len(FILLERS), text, "plan_generation", "filler", to, draft="") for text in FILLERS)


def _opening(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    return either(_fillers(state, "plan"), world.filler, lambda: _plan(world, state))


def _plan(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    right = replace(state, phase="compute", multiply_first=True, event="right plan")
    wrong = replace(state, phase="compute", multiply_first=False, event="wrong plan")
    kind = "plan_generation", "anchor"
    return (
        Move(world.right_plan, RIGHT_PLAN, *kind, right, writes=("plan",), draft="multiply first."),
        Move(1 - world.right_plan, WRONG_PLAN, *kind, wrong, writes=("plan",), draft="left to right."),
    )


def _compute(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    expr = state.rest
    at = next_operator(expr, multiply_first=bool(state.multiply_first))
    a, op, b = expr[at - 1 : at + 2]
    right = apply(a, op, b)
    here = _slips(expr)[-1]
    moves = []
    for r in range(10):
        slip = r != right
        to = replace(
            state,
            rest=(*expr[: at - 1], r, *expr[at + 2 :]),
            phase="again" if world.redundant else "consolidate",
            said=f"{a} {op} {b} is {r}" if world.redundant else "",
            slipped=state.slipped or slip,
            event=f"{'slip' if slip else 'step'} {r}",
        )
        p = world.slip / 9 if slip else 1 - world.slip
        role = "anchor" if slip else "needed"
        text = f"{a} {op} {b} = {r}."
        moves.append(Move(p, text, "active_computation", role, to, ("plan", "rest"), ("step", here)))
    return tuple(moves)


def _slips(expr: Expression) -> tuple[str, ...]:
    """Facts that say whether each step slipped, named by the operators left before it; the next step's comes last."""
    return tuple(f"slip {left}" for left in range(1, (len(expr) - 1) // 2 + 1))


def _again(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, phase="consolidate", said="", event="again")
    text = f"In other words, {state.said}."
    said = Move(1.0, text, "result_consolidation", "restatement", to, ("step",), ("step",), "")
    return either([said], world.redundant, lambda: _consolidate(world, replace(state, said="")))


def _consolidate(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    last = len(state.rest) == 1
    text = f"That leaves {state.rest[0]}." if last else f"Now we have {render(state.rest)}."
    to = replace(state, phase="finish" if last else "between", event="consolidate")
    if last and (state.checked or world.check == 0):
        to = replace(to, phase="end")
    return (Move(1.0, text, "result_consolidation", "needed", to, ("step", "rest"), ("rest",), ""),)


def _between(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    def go_on() -> tuple[Move, ...]:
        return either(_decoys(state), world.decoy, lambda: _ready(world, state))

    if state.multiply_first:
        return go_on()
    to = replace(state, phase="restart", multiply_first=True, event="reconsider")
    text = "Wait, multiplication comes first."
    kind = "uncertainty_management", "anchor"
    wait = Move(1.0, text, *kind, to, ("plan",), ("plan", "restart"), "Wait, multiply first.")
    return either([wait], world.reconsider, go_on)


def _decoys(state: State) -> tuple[Move, ...]:
    """A true sum of two digits that nothing reads."""
    to = replace(state, phase="ready", event="decoy")
    return tuple(Move(1 / len(DECOYS), text, "fact_retrieval", "decoy", to, draft="") for text in DECOYS)


def _ready(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    return either(_fillers(state, "compute"), world.filler_between, lambda: _compute(world, state))


def _restart(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, rest=state.problem, phase="compute", slipped=False, event="restart")
    text = f"Start again from {render(state.problem)}."
    return (Move(1.0, text, "problem_setup", "needed", to, ("restart",), ("rest", *_slips(state.problem)), ""),)


def _finish(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, phase="verdict", checked=True, event="check")
    role = "anchor" if state.slipped else "filler"
    text = "Let me check the steps."
    check = Move(1.0, text, "self_checking", role, to, _slips(state.problem), ("check",), "Check the steps.")
    end = replace(state, phase="end", event="end")
    return either([check], world.check, lambda: (Move(1.0, "", "final_answer_emission", "restatement", end),))


def _verdict(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    reads = ("check", *_slips(state.problem))
    if state.slipped:
        to = replace(state, phase="restart", event="found slip")
        return (Move(1.0, "One step was wrong.", "self_checking", "anchor", to, reads, ("restart",), "One is wrong."),)
    to = replace(state, phase="end", event="verdict")
    return (Move(1.0, "Every step is right.", "self_checking", "filler", to, reads, draft="Every one is right."),)


WORLD = ExpressionWorld()
