"""Small grid mazes and their generators, as in Beyond Semantics (2505.13775).

1. A maze is a square grid with blocked cells; a cell is (column, row), and 0 0 is the north-west corner.
2. A generator gives the free cells. `wilson`, `kruskal` and `dfs` join rooms on every second cell into a tree, so that
   one way leads from cell to cell; `drunkard`, `searchformer` and `cellular` leave loops.
3. Start and goal are two free cells with a way between them; in a `searchformer` maze it has at least `size` moves.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from math import ceil
from types import MappingProxyType
from typing import Final, NamedTuple

Cell = tuple[int, int]

DIRECTIONS: Final = MappingProxyType({"north": (0, -1), "east": (1, 0), "south": (0, 1), "west": (-1, 0)})
"""The four moves, in the order in which neighbours are created."""

FILLED, SURVIVE, BORN, ROUNDS = 0.45, 4, 5, 3
"""Cellular automaton: share of walls at first, walls beside a wall that keep it, beside a free cell that fill it."""


class Maze(NamedTuple):
    """A problem: the side of the grid, its blocked cells, and where to go from and to."""

    size: int
    blocked: frozenset[Cell]
    start: Cell
    goal: Cell


def cells(size: int) -> list[Cell]:
    """All cells of a grid, row by row."""
    return [(x, y) for y in range(size) for x in range(size)]


def shifted(cell: Cell, direction: str, by: int = 1) -> Cell:
    """The cell `by` moves away in one direction, inside the grid or not."""
    dx, dy = DIRECTIONS[direction]
    return cell[0] + by * dx, cell[1] + by * dy


def manhattan(a: Cell, b: Cell) -> int:
    """Columns plus rows between two cells: |x - x'| + |y - y'|."""
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


@lru_cache(maxsize=1 << 16)
def neighbours(maze: Maze, cell: Cell) -> tuple[tuple[str, Cell], ...]:
    """The moves from a cell and where they lead, in the order north, east, south, west.

    >>> neighbours(Maze(3, frozenset({(1, 1)}), (0, 0), (2, 2)), (1, 0))
    (('east', (2, 0)), ('west', (0, 0)))
    """
    found = ((direction, shifted(cell, direction)) for direction in DIRECTIONS)
    return tuple((direction, to) for direction, to in found if _inside(maze.size, to) and to not in maze.blocked)


def _inside(size: int, cell: Cell) -> bool:
    return 0 <= cell[0] < size and 0 <= cell[1] < size


@lru_cache(maxsize=1 << 12)
def distances(maze: Maze) -> Mapping[Cell, int]:
    """Moves from the start to every cell that can be reached, nearest first."""
    found, queue = {maze.start: 0}, [maze.start]
    for cell in queue:
        for _, to in neighbours(maze, cell):
            if to not in found:
                found[to] = found[cell] + 1
                queue.append(to)
    return MappingProxyType(found)


def optimal_length(maze: Maze) -> int:
    """Moves of a shortest plan.

    Raises:
        ValueError: no way leads from start to goal.
    """
    found = distances(maze)
    if maze.goal not in found:
        raise ValueError(f"no way leads from {maze.start} to {maze.goal} in a maze with {len(maze.blocked)} walls")
    return found[maze.goal]


def shortest_plans(maze: Maze) -> int:
    """How many shortest plans there are: the ways to a cell are those to its neighbours one move nearer.

    >>> [shortest_plans(Maze(3, frozenset(blocked), (0, 0), (2, 2))) for blocked in ([], [(1, 1)])]
    [6, 2]
    """
    found, ways = distances(maze), {maze.start: 1}
    for cell in found:
        nearer = (to for _, to in neighbours(maze, cell) if found[to] == found[cell] - 1)
        ways[cell] = ways.get(cell, 0) + sum(ways[to] for to in nearer)
    return ways.get(maze.goal, 0)


def valid_plan(maze: Maze, plan: str) -> bool:
    """Whether a plan such as "east east south" leads from start to goal without leaving the free cells.

    >>> maze = Maze(3, frozenset({(1, 1)}), (0, 0), (2, 1))
    >>> valid_plan(maze, "east east south"), valid_plan(maze, "south east east")
    (True, False)
    """
    cell = maze.start
    for word in plan.split():
        steps = dict(neighbours(maze, cell))
        if word not in steps:
            return False
        cell = steps[word]
    return cell == maze.goal


def _rooms(size: int, rng: random.Random) -> list[Cell]:
    """Every second cell of every second row, from 0 or (on grids of 4 and more) from 1."""
    offset = rng.randrange(2) if size > 3 else 0
    return [(x, y) for y in range(offset, size, 2) for x in range(offset, size, 2)]


def _next_rooms(room: Cell, rooms: Collection[Cell]) -> list[Cell]:
    return [to for to in (shifted(room, direction, 2) for direction in DIRECTIONS) if to in rooms]


def _joined(corridors: Iterable[tuple[Cell, Cell]]) -> frozenset[Cell]:
    """The rooms at both ends of each corridor and the cell between them."""
    return frozenset(cell for a, b in corridors for cell in (a, b, ((a[0] + b[0]) // 2, (a[1] + b[1]) // 2)))


def wilson(size: int, rng: random.Random) -> frozenset[Cell]:
    """A uniform spanning tree of the rooms, by loop-erased random walks."""
    rooms = _rooms(size, rng)
    inside, corridors = {rng.choice(rooms)}, []
    for root in rooms:
        way, room = {}, root
        while room not in inside:
            way[room] = rng.choice(_next_rooms(room, rooms))
            room = way[room]
        room = root
        while room not in inside:
            inside.add(room)
            corridors.append((room, way[room]))
            room = way[room]
    return _joined(corridors)


def kruskal(size: int, rng: random.Random) -> frozenset[Cell]:
    """A spanning tree of the rooms: corridors in random order, each kept if it joins two parts."""
    rooms = _rooms(size, rng)
    part, corridors = {room: i for i, room in enumerate(rooms)}, []
    pairs = [(a, b) for a in rooms for b in _next_rooms(a, rooms) if a < b]
    for a, b in rng.sample(pairs, len(pairs)):
        if part[a] != part[b]:
            corridors.append((a, b))
            old, new = part[a], part[b]
            part = {room: new if p == old else p for room, p in part.items()}
    return _joined(corridors)


def dfs(size: int, rng: random.Random) -> frozenset[Cell]:
    """A spanning tree of the rooms by a depth-first walk: long corridors, few branches."""
    rooms = _rooms(size, rng)
    stack, corridors = [rng.choice(rooms)], []
    inside = set(stack)
    while stack:
        fresh = [to for to in _next_rooms(stack[-1], rooms) if to not in inside]
        if not fresh:
            stack.pop()
            continue
        to = rng.choice(fresh)
        corridors.append((stack[-1], to))
        inside.add(to)
        stack.append(to)
    return _joined(corridors)


def drunkard(size: int, rng: random.Random) -> frozenset[Cell]:
    """What a random walk has visited when it has seen half of the cells."""
    cell = rng.choice(cells(size))
    seen = {cell}
    while len(seen) < size * size // 2:
        cell = rng.choice([to for to in (shifted(cell, direction) for direction in DIRECTIONS) if _inside(size, to)])
        seen.add(cell)
    return frozenset(seen)


def searchformer(size: int, rng: random.Random) -> frozenset[Cell]:
    """All cells but 30 to 50 % of them, drawn at random."""
    total = size * size
    return frozenset(rng.sample(cells(size), total - rng.randint(ceil(0.3 * total), total // 2)))


def cellular(size: int, rng: random.Random) -> frozenset[Cell]:
    """A cave: random walls, then three rounds in which cells follow the majority of the eight around them."""
    walls = {cell for cell in cells(size) if rng.random() < FILLED}
    for _ in range(ROUNDS):
        beside = {cell: _walls_around(cell, walls, size) for cell in cells(size)}
        walls = {cell for cell, n in beside.items() if (n >= SURVIVE if cell in walls else n > BORN)}
    return frozenset(set(cells(size)) - walls)


def _walls_around(cell: Cell, walls: Collection[Cell], size: int) -> int:
    around = ((cell[0] + dx, cell[1] + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy)
    return sum(to in walls or not _inside(size, to) for to in around)


GENERATORS: Final[Mapping[str, Callable[[int, random.Random], frozenset[Cell]]]] = MappingProxyType(
    {
        "wilson": wilson,
        "kruskal": kruskal,
        "dfs": dfs,
        "drunkard": drunkard,
        "searchformer": searchformer,
        "cellular": cellular,
    }
)
TRIES: Final = 10_000
PERFECT: Final = ("wilson", "kruskal", "dfs")
"""The generators whose mazes have one plan only."""


def draw_maze(task: str, size: int, rng: random.Random, *, plans: int = 1, detour: bool = False) -> Maze:
    """A solvable maze, drawn anew until it has `plans` shortest plans and, if asked, a detour.

    Perfect mazes have one plan, and are taken as they come.

    Raises:
        ValueError: none of `TRIES` draws is such a maze.
    """
    for _ in range(TRIES):
        free = GENERATORS[task](size, rng)
        if len(free) < 2:
            continue
        start, goal = rng.sample(sorted(free), 2)
        maze = Maze(size, frozenset(cells(size)) - free, start, goal)
        if distances(maze).get(goal, 0) < (size if task == "searchformer" else 1):
            continue
        if task in PERFECT or (shortest_plans(maze) >= plans and (not detour or has_detour(maze))):
            return maze
    raise ValueError(
        f"{TRIES} draws gave no `{task}` maze of size {size} with {plans} shortest plans and {detour=}; "
        "ask for fewer plans, no detour or a larger grid"
    )


def has_detour(maze: Maze) -> bool:
    """Whether some cell is on all shortest plans but not on all plans, so that an error there can cost moves."""
    between = set(distances(maze)) - {maze.start, maze.goal}
    without = (distances(maze._replace(blocked=maze.blocked | {cell})).get(maze.goal, 0) for cell in between)
    return any(length > optimal_length(maze) for length in without)
