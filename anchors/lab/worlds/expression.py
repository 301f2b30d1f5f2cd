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
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from anchors.lab.worlds import Move

Expression = tuple[Any, ...]

FILLERS = ("Okay, let me think.", "Let me take it slowly.", "This needs some care.", "Let me keep going.")
RIGHT_PLAN, WRONG_PLAN = "I will multiply first.", "I will go left to right."


def render(expr: Expression) -> str:
    """``(8, '-', 1)`` -> ``'8 - 1'``."""
    return " ".join(str(part) for part in expr)


def apply(a: int, op: str, b: int) -> int:
    """One operation modulo 10."""
    return {"+": a + b, "-": a - b, "*": a * b}[op] % 10


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
    event: str = ""


@dataclass(frozen=True)
class ExpressionWorld:
    """Knobs of the program; the defaults are what the shipped models were trained on."""

    name: str = "expression"
    digits: tuple[int, int] = (3, 5)
    operators: str = "+-*"
    filler: float = 0.6
    filler_between: float = 0.25
    right_plan: float = 0.5
    slip: float = 0.04
    reconsider: float = 0.3
    check: float = 0.4

    def problem(self, rng: random.Random) -> Expression:
        while True:
            n = rng.randint(*self.digits)
            expr: list[int | str] = [rng.randrange(10)]
            for _ in range(n - 1):
                expr += [rng.choice(self.operators), rng.randrange(10)]
            candidate = tuple(expr)
            values = {evaluate(candidate, multiply_first=first) for first in (True, False)}
            if "*" in candidate[3:] and len(values) == 2:
                return candidate

    def prompt(self, problem: Expression) -> str:
        return f"Find {render(problem)} modulo 10.\n<think>\n"

    def start(self, problem: Expression) -> State:
        return State(problem, problem, "setup")

    def answer(self, state: State) -> str | None:
        return str(state.rest[0]) if state.phase == "end" else None

    def gold(self, problem: Expression) -> str:
        return str(evaluate(problem, multiply_first=True))

    def ending(self, answer: str) -> str:
        return f"\n</think>\nThe answer is {answer}."

    def moves(self, state: State) -> tuple[Move, ...]:
        return _moves(self, state)


@lru_cache(maxsize=1 << 18)
def _moves(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    if state.phase == "end":
        return ()
    if state.phase == "finish":
        return (*_check(world, state), *_end(world, state))
    phases = {"setup": _setup, "plan": _plan, "compute": _compute, "consolidate": _consolidate}
    phases |= {"between": _between, "restart": _restart, "verdict": _verdict, "filler": _setup_filler}
    return phases[state.phase](world, state)


def _setup(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    text = f"We need {render(state.problem)} modulo 10."
    to = replace(state, phase="filler", event="setup")
    return (Move(1.0, text, "problem_setup", "restatement", to),)


def _filler(weight: float, state: State, phase: str) -> tuple[Move, ...]:
    to = replace(state, phase=phase, event="filler")
    return tuple(Move(weight / len(FILLERS), text, "plan_generation", "filler", to) for text in FILLERS)


def _scaled(moves: tuple[Move, ...], weight: float) -> tuple[Move, ...]:
    return tuple(replace(move, probability=move.probability * weight) for move in moves)


def _setup_filler(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    planned = _plan(world, replace(state, phase="plan"))
    return (*_filler(world.filler, state, "plan"), *_scaled(planned, 1 - world.filler))


def _plan(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    right = replace(state, phase="compute", multiply_first=True, event="right plan")
    wrong = replace(state, phase="compute", multiply_first=False, event="wrong plan")
    return (
        Move(world.right_plan, RIGHT_PLAN, "plan_generation", "anchor", right),
        Move(1 - world.right_plan, WRONG_PLAN, "plan_generation", "anchor", wrong),
    )


def _compute(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    expr = state.rest
    at = next_operator(expr, multiply_first=bool(state.multiply_first))
    a, op, b = expr[at - 1 : at + 2]
    right = apply(a, op, b)
    moves = []
    for r in range(10):
        slip = r != right
        to = replace(
            state,
            rest=(*expr[: at - 1], r, *expr[at + 2 :]),
            phase="consolidate",
            slipped=state.slipped or slip,
            event=f"{'slip' if slip else 'step'} {r}",
        )
        p = world.slip / 9 if slip else 1 - world.slip
        if p > 0:
            role = "anchor" if slip else "needed"
            moves.append(Move(p, f"{a} {op} {b} = {r}.", "active_computation", role, to))
    return tuple(moves)


def _consolidate(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    last = len(state.rest) == 1
    text = f"That leaves {state.rest[0]}." if last else f"Now we have {render(state.rest)}."
    to = replace(state, phase="finish" if last else "between", event="consolidate")
    if last and (state.checked or world.check == 0):
        to = replace(to, phase="end")
    return (Move(1.0, text, "result_consolidation", "needed", to),)


def _between(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    reconsider = 0.0 if state.multiply_first else world.reconsider
    go_on = 1 - reconsider
    moves = (
        *_filler(go_on * world.filler_between, state, "compute"),
        *_scaled(_compute(world, state), go_on * (1 - world.filler_between)),
    )
    if not reconsider:
        return moves
    to = replace(state, phase="restart", multiply_first=True, event="reconsider")
    text = "Wait, multiplication comes first."
    return (Move(reconsider, text, "uncertainty_management", "anchor", to), *moves)


def _restart(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, rest=state.problem, phase="compute", slipped=False, event="restart")
    return (Move(1.0, f"Start again from {render(state.problem)}.", "problem_setup", "needed", to),)


def _check(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, phase="verdict", checked=True, event="check")
    role = "anchor" if state.slipped else "filler"
    return (Move(world.check, "Let me check the steps.", "self_checking", role, to),)


def _end(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, phase="end", event="end")
    return (Move(1 - world.check, "", "final_answer_emission", "restatement", to),)


def _verdict(world: ExpressionWorld, state: State) -> tuple[Move, ...]:
    if state.slipped:
        to = replace(state, phase="restart", event="found slip")
        return (Move(1.0, "One step was wrong.", "self_checking", "anchor", to),)
    to = replace(state, phase="end", event="verdict")
    return (Move(1.0, "Every step is right.", "self_checking", "filler", to),)


WORLD = ExpressionWorld()
