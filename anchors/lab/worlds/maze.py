"""The `maze` world: find a way through a small maze by A*, one sentence an event (Beyond Semantics, 2505.13775).

Problem: ``Go from 0 0 to 3 2 on a 4 by 4 grid with walls at 1 1 2 0.`` Cells are column and row, 0 0 is the north-west
corner. An open cell has a cost g, the moves to it, and f = g + h with h the moves to the goal without walls.

| state | sentence | category, role | next |
|---|---|---|---|
| setup | ``We go from 0 0 to 3 2.`` | problem_setup, restatement | pick |
| pick | ``Close 0 1 cost 1 plus 4.`` of lowest f, ties at random | plan_generation, anchor in ties / needed | create |
| | p .1 an open cell that is not lowest f ("not lowest f") | plan_generation, anchor | create |
| create | ``Create 0 2 cost 2 plus 3.`` neighbours in order N, E, S, W | active_computation, needed | create / pick |
| | p .04 with another cost from 0 to 2 size + 1 ("wrong cost") | active_computation, anchor | create / pick |
| plan | ``The plan is south south east east east.`` when the goal is closed | result_consolidation, needed | finish |
| finish | with p .4 ``Let me check the plan.`` | self_checking, anchor if the plan is too long, else filler | verdict |
| verdict | ``A shorter plan exists.`` / ``The plan is shortest.`` | self_checking, anchor / filler | restart / end |
| restart | ``Start again from 0 0.`` (from here without errors) | problem_setup, needed | pick |

A neighbour is created if it is not closed, and not open at that cost or less; closed cells stay closed. A trace has at
most one of the two errors and at most one check. Errors lose no open cell, so the goal is always closed in the end. The
answer is the plan. An anchor is a fork; what it does to the answer is for exact truth to say, and may be nothing.

Ties decide the answer only where there are two ways of equal length. Perfect mazes (`wilson`, `kruskal`, `dfs`) have
none and a third of the `searchformer` mazes does, so the default is `searchformer` with `plans=2`: drawn anew until two
shortest plans exist. A* forgives: there an error changes which shortest plan is found, and 2 traces in 1000 end on a
longer one; with `detour=True`, where a cell of all shortest plans can be avoided, about 20 do. The gold answer is the
plan of A* without errors that breaks ties by the lower cost, as the published program does, then row by row;
`anchors.lab.mazes` judges others with `valid_plan` and `optimal_length`. Knobs of the shift axes: `length` (size of the
grid), `tasks` (generators) and `noise` (words of the question).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, NamedTuple

from anchors.lab.mazes import DIRECTIONS, GENERATORS, Cell, Maze, draw_maze, manhattan, neighbours, optimal_length
from anchors.lab.worlds import Move, either, perturbed, possible

_PROMPT: Final = re.compile(
    r"Go from (\d+ \d+) to (\d+ \d+) on a (\d+) by \3 grid "
    r"(?:without walls|with walls at (\d+ \d+(?: \d+ \d+)*))\.\n<think>\n"
)
_EVENT: Final = re.compile(r"(Close|Create) (\d+ \d+) cost (\d+) plus (\d+)\.")
_RESTART: Final = re.compile(r"Start again from \d+ \d+\.")
_PLAN: Final = re.compile(rf"The plan is (?:{'|'.join(DIRECTIONS)})(?: (?:{'|'.join(DIRECTIONS)}))*\.")
_OTHER: Final = re.compile(
    r"We go from \d+ \d+ to \d+ \d+\.|Let me check the plan\.|A shorter plan exists\.|The plan is shortest\."
)
FAULTS: Final = (
    "parse",
    "invalid neighbour",
    "already closed",
    "not in open",
    "wrong cost",
    "not lowest f",
    "goal not closed",
)
"""What `validate` finds, in the order in which a sentence is examined."""


class Node(NamedTuple):
    """An open cell: its cost as written, and the moves that lead to it."""

    cell: Cell
    cost: int
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """What the program remembers at a sentence boundary; when the goal is closed, nothing of the search but its plan.

    `open` is in order of cells; `pending` are the neighbours of `current` still to create; `strayed` says that the
    trace has had its error, or may have none. `event`, the sentence just written, is no part of what is remembered, so
    two orders of the same events lead to one state.
    """

    problem: Maze
    phase: str
    open: tuple[Node, ...] = ()
    closed: frozenset[Cell] = frozenset()
    current: Node | None = None
    pending: tuple[tuple[str, Cell], ...] = ()
    plan: str = ""
    strayed: bool = False
    checked: bool = False
    event: str = field(default="", compare=False)


def written(cell: Cell) -> str:
    """``(0, 1)`` -> ``'0 1'``."""
    return f"{cell[0]} {cell[1]}"


def _cells(text: str) -> list[Cell]:
    numbers = [int(word) for word in text.split()]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _f(problem: Maze, node: Node) -> int:
    return node.cost + manhattan(node.cell, problem.goal)


@dataclass(frozen=True)
class MazeWorld:
    """Knobs of the program; `hasty` is a chance at a close, `slip` at a create; `plans` and `detour` pick problems."""

    name: str = "maze"
    length: tuple[int, int] = (4, 4)
    tasks: tuple[str, ...] = ("searchformer",)
    plans: int = 2
    detour: bool = False
    noise: float = 0.0
    noise_kind: str = "hybrid"
    hasty: float = 0.1
    slip: float = 0.04
    check: float = 0.4

    def __post_init__(self) -> None:
        if not self.tasks or not set(self.tasks) <= set(GENERATORS):
            raise ValueError(f"tasks is {self.tasks}; use one or more of {', '.join(GENERATORS)}")
        if not 3 <= self.length[0] <= self.length[1]:
            raise ValueError(f"length is {self.length}; a grid needs a side of at least 3")

    def problem(self, rng: random.Random) -> Maze:
        size = rng.randint(*self.length)
        return draw_maze(rng.choice(self.tasks), size, rng, plans=self.plans, detour=self.detour)

    def prompt(self, problem: Maze) -> str:
        size, blocked, start, goal = problem
        walls = " ".join(written(cell) for cell in sorted(blocked, key=lambda cell: cell[::-1]))
        text = f"Go from {written(start)} to {written(goal)} on a {size} by {size} grid "
        text += f"with walls at {walls}" if walls else "without walls"
        rng = random.Random(f"noise {text}")
        return " ".join(perturbed(text.split(), self.noise, rng, kind=self.noise_kind)) + ".\n<think>\n"

    def parse(self, prompt: str) -> Maze:
        match = _PROMPT.fullmatch(prompt)
        if match is None:
            example = "'Go from 0 0 to 3 2 on a 4 by 4 grid with walls at 1 1 2 0.'"
            raise ValueError(f"{prompt[:80]!r} is not a question of `{self.name}`, such as {example}")
        (start,), (goal,), blocked = _cells(match[1]), _cells(match[2]), _cells(match[4] or "")
        size, free = int(match[3]), {start, goal}
        if max(map(max, (start, goal, *blocked))) >= size or len(free) < 2 or free & set(blocked):
            raise ValueError(f"{prompt[:80]!r}: start and goal must be two free cells, and all cells inside the grid")
        problem = Maze(size, frozenset(blocked), start, goal)
        optimal_length(problem)
        return problem

    def start(self, problem: Maze) -> State:
        return State(problem, "setup", open=(Node(problem.start, 0),))

    def answer(self, state: State) -> str | None:
        return state.plan if state.phase == "end" else None

    def gold(self, problem: Maze) -> str:
        careful, state = replace(self, hasty=0.0, slip=0.0, check=0.0), self.start(problem)
        while state.phase != "end":
            state = careful.moves(state)[0].state
        return state.plan

    def ending(self, answer: str) -> str:
        return f"\n</think>\nThe answer is {answer}."

    def meaning(self, sentence: str) -> str:
        return sentence.strip()

    def moves(self, state: State) -> tuple[Move, ...]:
        return _moves(self, state)


@lru_cache(maxsize=1 << 14)
def _moves(world: MazeWorld, state: State) -> tuple[Move, ...]:
    if state.phase == "end":
        return ()
    phases = {"setup": _setup, "pick": _pick, "create": _create, "plan": _plan}
    phases |= {"finish": _finish, "verdict": _verdict, "restart": _restart}
    return possible(phases[state.phase](world, state))


def _fact(cell: Cell) -> str:
    """The fact that a cell was created at some cost."""
    return f"node {written(cell)}"


def _setup(world: MazeWorld, state: State) -> tuple[Move, ...]:
    start, goal = state.problem.start, state.problem.goal
    to = replace(state, phase="pick", event="setup")
    text = f"We go from {written(start)} to {written(goal)}."
    return (Move(1.0, text, "problem_setup", "restatement", to, writes=(_fact(start),), draft=""),)


def _pick(world: MazeWorld, state: State) -> tuple[Move, ...]:
    """Close one of the lowest f, those of lower cost first, or once in a trace another one."""
    lowest = min(_f(state.problem, node) for node in state.open)
    tied = sorted((n for n in state.open if _f(state.problem, n) == lowest), key=lambda n: (n.cost, n.cell[::-1]))
    others = [node for node in state.open if _f(state.problem, node) > lowest]
    first = _closes(state, tied, hasty=False)
    if state.strayed or not others or world.hasty == 0:
        return first
    return either(first, 1 - world.hasty, lambda: _closes(state, others, hasty=True))


def _closes(state: State, nodes: Sequence[Node], *, hasty: bool) -> tuple[Move, ...]:
    moves, role = [], "anchor" if hasty or len(nodes) > 1 else "needed"
    for node in nodes:
        to = _closed(state, node, strayed=state.strayed or hasty)
        cell = written(node.cell)
        text = f"Close {cell} cost {node.cost} plus {manhattan(node.cell, state.problem.goal)}."
        fact = _fact(node.cell)
        moves.append(Move(1 / len(nodes), text, "plan_generation", role, to, (fact,), ("current",), f"close {cell}."))
    return tuple(moves)


def _closed(state: State, node: Node, *, strayed: bool) -> State:
    event = f"close {written(node.cell)}"
    if node.cell == state.problem.goal:
        return State(state.problem, "plan", plan=" ".join(node.path), checked=state.checked, event=event)
    closed = state.closed | {node.cell}
    costs = {other.cell: other.cost for other in state.open}
    near = neighbours(state.problem, node.cell)
    pending = tuple((d, to) for d, to in near if to not in closed and costs.get(to, node.cost + 2) > node.cost + 1)
    rest = tuple(other for other in state.open if other != node)
    to = replace(state, open=rest, closed=closed, strayed=strayed, event=event)
    return replace(to, phase="create", current=node, pending=pending) if pending else to


def _create(world: MazeWorld, state: State) -> tuple[Move, ...]:
    """Open the next neighbour at the right cost, or once in a trace at any other that fits the grid."""
    assert state.current is not None
    right = state.current.cost + 1
    costs = [(right, 1.0)]
    if not state.strayed and world.slip > 0:
        wrong = [cost for cost in range(2 * state.problem.size + 2) if cost != right]
        costs = [(right, 1 - world.slip), *((cost, world.slip / len(wrong)) for cost in wrong)]
    (direction, cell), path = state.pending[0], state.current.path
    moves = []
    for cost, p in costs:
        to = _created(state, Node(cell, cost, (*path, direction)), slip=cost != right)
        text = f"Create {written(cell)} cost {cost} plus {manhattan(cell, state.problem.goal)}."
        role, draft = "needed" if cost == right else "anchor", f"create {written(cell)} at {cost}."
        moves.append(Move(p, text, "active_computation", role, to, ("current",), (_fact(cell),), draft))
    return tuple(moves)


def _created(state: State, node: Node, *, slip: bool) -> State:
    opened = sorted((*(other for other in state.open if other.cell != node.cell), node))
    last = len(state.pending) == 1
    return replace(
        state,
        phase="pick" if last else "create",
        open=tuple(opened),
        current=None if last else state.current,
        pending=state.pending[1:],
        strayed=state.strayed or slip,
        event=f"{'slip' if slip else 'create'} {written(node.cell)} {node.cost}",
    )


def _plan(world: MazeWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, phase="end" if state.checked or world.check == 0 else "finish", event="plan")
    cell, reads = state.problem.start, [_fact(state.problem.start)]
    for word in state.plan.split():
        cell = dict(neighbours(state.problem, cell))[word]
        reads.append(_fact(cell))
    text, draft = f"The plan is {state.plan}.", f"plan: {state.plan}."
    return (Move(1.0, text, "result_consolidation", "needed", to, ("current", *reads), ("plan",), draft),)


def _long(state: State) -> bool:
    return len(state.plan.split()) > optimal_length(state.problem)


def _finish(world: MazeWorld, state: State) -> tuple[Move, ...]:
    to = replace(state, phase="verdict", checked=True, event="check")
    role, text = "anchor" if _long(state) else "filler", "Let me check the plan."
    check = Move(1.0, text, "self_checking", role, to, ("plan",), ("check",), "Check the plan.")
    end = replace(state, phase="end", event="end")
    return either([check], world.check, lambda: (Move(1.0, "", "final_answer_emission", "restatement", end),))


def _verdict(world: MazeWorld, state: State) -> tuple[Move, ...]:
    reads = ("check", "plan")
    if _long(state):
        to = replace(state, phase="restart", plan="", event="too long")
        text = "A shorter plan exists."
        return (Move(1.0, text, "self_checking", "anchor", to, reads, ("restart",), "One is shorter."),)
    to = replace(state, phase="end", event="verdict")
    return (Move(1.0, "The plan is shortest.", "self_checking", "filler", to, reads, draft="It is shortest."),)


def _restart(world: MazeWorld, state: State) -> tuple[Move, ...]:
    start = state.problem.start
    to = replace(state, phase="pick", open=(Node(start, 0),), strayed=True, event="restart")
    text, fact = f"Start again from {written(start)}.", _fact(start)
    return (Move(1.0, text, "problem_setup", "needed", to, ("restart",), (fact,), f"again from {written(start)}."),)


class Fault(NamedTuple):
    """An error of a trace: the sentence it is in (their number where the end is missing), and its kind, of `FAULTS`."""

    sentence: int
    kind: str


class Search(NamedTuple):
    """What the sentences read so far say: (g, h) of open cells, the closed ones, the last one closed and its g."""

    open: Mapping[Cell, tuple[int, int]]
    closed: frozenset[Cell] = frozenset()
    current: tuple[Cell, int] | None = None


def validate(problem: Maze, sentences: Sequence[str]) -> list[Fault]:
    """Replay a trace, whoever wrote it, against open and closed cells, and list its errors (2505.13775).

    A sentence has one fault at most, the first of `FAULTS` that applies. The replay goes on with what the sentence
    says, but creates nothing where nothing can be. A trace that gives a plan, or ends, before the goal is closed has
    the fault "goal not closed".

    >>> maze = Maze(3, frozenset(), (0, 0), (0, 2))
    >>> validate(maze, ["Close 0 0 cost 0 plus 2.", "Create 0 1 cost 4 plus 1."])
    [Fault(sentence=1, kind='wrong cost'), Fault(sentence=2, kind='goal not closed')]
    """
    search, faults = _fresh(problem), []
    for index, sentence in enumerate(sentences):
        search, kind = _replay(problem, search, sentence.strip())
        faults += [Fault(index, kind)] if kind else []
    if problem.goal not in search.closed and all(fault.kind != "goal not closed" for fault in faults):
        faults.append(Fault(len(sentences), "goal not closed"))
    return faults


def _fresh(problem: Maze) -> Search:
    return Search({problem.start: (0, manhattan(problem.start, problem.goal))})


def _replay(problem: Maze, search: Search, text: str) -> tuple[Search, str | None]:
    """The search after one more sentence, and what is wrong with that sentence."""
    if match := _EVENT.fullmatch(text):
        (cell,), costs = _cells(match[2]), (int(match[3]), int(match[4]))
        return (_close if match[1] == "Close" else _open)(problem, search, cell, costs)
    if _RESTART.fullmatch(text):
        return _fresh(problem), None
    if _PLAN.fullmatch(text):
        return search, None if problem.goal in search.closed else "goal not closed"
    return search, None if _OTHER.fullmatch(text) else "parse"


def _close(problem: Maze, search: Search, cell: Cell, costs: tuple[int, int]) -> tuple[Search, str | None]:
    rest = {other: c for other, c in search.open.items() if other != cell}
    to = Search(rest, search.closed | {cell}, (cell, costs[0]))
    if cell in search.closed:
        return to, "already closed"
    if cell not in search.open:
        return to, "not in open"
    if costs != search.open[cell]:
        return to, "wrong cost"
    return to, "not lowest f" if sum(costs) > min(map(sum, search.open.values())) else None


def _open(problem: Maze, search: Search, cell: Cell, costs: tuple[int, int]) -> tuple[Search, str | None]:
    near = neighbours(problem, search.current[0]) if search.current else ()
    if search.current is None or cell not in [to for _, to in near]:
        return search, "invalid neighbour"
    if cell in search.closed:
        return search, "already closed"
    right = search.current[1] + 1, manhattan(cell, problem.goal)
    return search._replace(open={**search.open, cell: costs}), None if costs == right else "wrong cost"


WORLD = MazeWorld()
