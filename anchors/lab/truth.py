"""Exact truth about a world's traces: the answer distribution at every sentence boundary, by dynamic programming.

1. A world is a finite Markov program, so P(answer | state) obeys P(a | s) = sum over moves m of P(m) P(a | m.state).
2. The recursion is memoised on states; a finished state puts all its mass on its own answer. No sampling anywhere.
3. The importance of sentence i is then a difference between two exact distributions, and "different meaning" is exact
   too: another event of the world.
4. Keeping any subset of sentences means: the program runs from the start and writes the next kept sentence wherever it
   could write it, everything else by chance. The first i sentences kept give boundary i, all of them the whole trace.
5. A sentence depends on the last earlier sentence that settled a fact it uses.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from anchors.lab.worlds import Move, World, read, read_moves
from anchors.scores import Scores
from anchors.trace import Trace

SUBSETS = 12
"""Traces up to this many sentences get the truth of all their subsets."""

Distribution = dict[str, float]


@lru_cache(maxsize=1 << 17)
def answer_distribution(world: World, state: Any) -> Distribution:
    """Exact distribution of the final answer given a state: P(a | s) = sum_m P(m) P(a | s_m).

    >>> from anchors.lab.worlds.expression import WORLD
    >>> start = WORLD.start((2, "+", 3, "*", 4))
    >>> round(sum(answer_distribution(WORLD, start).values()), 12)
    1.0
    """
    answer = world.answer(state)
    if answer is not None:
        return {answer: 1.0}
    return _mixture((move.probability, answer_distribution(world, move.state)) for move in world.moves(state))


def _mixture(parts: Any) -> Distribution:
    total: Distribution = {}
    for weight, distribution in parts:
        for answer, p in distribution.items():
            total[answer] = total.get(answer, 0.0) + weight * p
    return total


def boundary_distributions(
    world: World, states: Sequence[Any]
) -> tuple[list[str], Float[np.ndarray, "boundary answer"]]:
    """Exact answer distributions at several states as one array; returns the answers in column order beside it."""
    rows = [answer_distribution(world, state) for state in states]
    answers = sorted({answer for row in rows for answer in row})
    return answers, np.array([[row.get(answer, 0.0) for answer in answers] for row in rows])


def exact_resampling_importance(world: World, states: Sequence[Any], answer: str) -> Float[np.ndarray, " sentence"]:
    """P(answer | sentence i kept) - P(answer | sentence i resampled), exact; positive means it supports `answer`."""
    p = np.array([answer_distribution(world, state).get(answer, 0.0) for state in states])
    return np.diff(p)


def exact_counterfactual_importance(world: World, states: Sequence[Any], answer: str) -> Float[np.ndarray, " sentence"]:
    """P(answer | kept) - P(answer | another event instead), exact; NaN where the world can write no other event."""
    values = []
    for before, kept in itertools.pairwise(states):
        others = [move for move in world.moves(before) if not (move.text and move.state.event == kept.event)]
        mass = sum(move.probability for move in others)
        if mass == 0:
            values.append(np.nan)
            continue
        p_other = sum(m.probability * answer_distribution(world, m.state).get(answer, 0.0) for m in others) / mass
        values.append(answer_distribution(world, kept).get(answer, 0.0) - p_other)
    return np.array(values)


def exact_headroom(world: World, states: Sequence[Any]) -> Float[np.ndarray, " sentence"]:
    """Answer entropy before each sentence in nats: how much is left to decide; `states` has one more than sentences."""
    _, rows = boundary_distributions(world, states[:-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.where(rows > 0, rows * np.log(rows), 0.0).sum(axis=1)


class Reading(NamedTuple):
    """A trace read by its world: the moves it took and the states around them, one more than sentences."""

    problem: Any
    moves: list[Move]
    states: list[Any]


def read_trace(world: World, trace: Trace) -> Reading:
    """Read a trace, whoever wrote it, into moves and states of the world.

    Raises:
        ValueError: its prompt is not a question of this world, or a sentence is one the world could not write there.
    """
    problem = world.parse(trace.prompt)
    sentences = [sentence.text for sentence in trace.sentences]
    moves = read_moves(world, problem, sentences)
    if len(moves) < len(sentences):
        raise ValueError(
            f"trace {trace.id}: the program of `{world.name}` cannot write sentence {len(moves)} there: "
            f"{sentences[len(moves)].strip()!r}; exact truth exists for traces on the program only"
        )
    return Reading(problem, moves, [world.start(problem), *(move.state for move in moves)])


def truth_scores(trace: Trace, world: World, *, kind: str = "counterfactual", answer: str | None = None) -> Scores:
    """Exact importance of every sentence as `Scores`, for the report and for comparison; the interval is the number.

    `kind` is "counterfactual" or "resampling"; `answer` defaults to the trace's own. Extras: p_before, p_after,
    headroom (nats).

    Raises:
        ValueError: the trace is off the world's program, has no answer, or `kind` is unknown.
    """
    functions = {"counterfactual": exact_counterfactual_importance, "resampling": exact_resampling_importance}
    if kind not in functions:
        raise ValueError(f"kind is {kind!r}; use {' or '.join(functions)}")
    answer = trace.answer if answer is None else answer
    if answer is None:
        raise ValueError(f"trace {trace.id} has no answer of its own; give answer=...")
    states = read_trace(world, trace).states
    p = np.array([answer_distribution(world, state).get(answer, 0.0) for state in states])
    extras = {"p_before": p[:-1], "p_after": p[1:], "headroom": exact_headroom(world, states)}
    details = {"world": world.name, "outcome": f"answer {answer!r}"}
    values = functions[kind](world, states, answer)
    return Scores.of(trace, f"truth_{kind}", values, unit="probability", extras=extras, details=details)


def kept_distribution(world: World, problem: Any, kept: Sequence[str]) -> Distribution:
    """Exact answer distribution when the program writes the next sentence of `kept` wherever it could write it.

    Sentences that never become possible are never written, and hold back those after them.

    >>> from anchors.lab.worlds.expression import ExpressionWorld
    >>> world = ExpressionWorld(slip=0.0, check=0.0, reconsider=0.0)
    >>> kept_distribution(world, (2, "+", 3, "*", 4), ["I will multiply first."])
    {'4': 1.0}
    """
    texts = tuple(text.strip() for text in kept)

    @cache
    def distribution(state: Any, index: int) -> Distribution:
        answer = world.answer(state)
        if answer is not None:
            return {answer: 1.0}
        if index == len(texts):
            return answer_distribution(world, state)
        moves = world.moves(state)
        forced = next((move for move in moves if move.text == texts[index]), None)
        if forced is not None:
            return distribution(forced.state, index + 1)
        return _mixture((move.probability, distribution(move.state, index)) for move in moves)

    return distribution(world.start(problem), 0)


def sufficiency(world: World, problem: Any, sentences: Sequence[str], subset: Collection[int], answer: str) -> float:
    """P(answer | only `subset` kept) - P(answer | nothing kept), exact: what these sentences do on their own."""
    kept = [sentences[i] for i in _known(sentences, subset)]
    return _p(world, problem, kept, answer) - _p(world, problem, [], answer)


def necessity(world: World, problem: Any, sentences: Sequence[str], subset: Collection[int], answer: str) -> float:
    """P(answer | all kept) - P(answer | all but `subset` kept), exact: what is lost without these sentences.

    A sentence the program would write again anyway has necessity 0.
    """
    removed = set(_known(sentences, subset))
    rest = [text for i, text in enumerate(sentences) if i not in removed]
    return _p(world, problem, sentences, answer) - _p(world, problem, rest, answer)


def _known(sentences: Sequence[str], subset: Collection[int]) -> list[int]:
    for i in subset:
        if not 0 <= i < len(sentences):
            raise ValueError(f"sentence {i} does not exist; the trace has sentences 0 to {len(sentences) - 1}")
    return sorted(set(subset))


def _p(world: World, problem: Any, kept: Sequence[str], answer: str) -> float:
    return kept_distribution(world, problem, kept).get(answer, 0.0)


class Subsets(NamedTuple):
    """All subsets of a short trace: row m keeps the sentences marked in `kept[m]`, and reaches the answer with `p[m]`.

    Rows are in binary order: sentence i is kept in row m where bit i of m is set.
    """

    kept: Bool[np.ndarray, "subset sentence"]
    p: Float[np.ndarray, " subset"]

    @property
    def sufficiency(self) -> Float[np.ndarray, " subset"]:
        """p(only these kept) - p(nothing kept)."""
        return self.p - self.p[0]

    @property
    def necessity(self) -> Float[np.ndarray, " subset"]:
        """p(all kept) - p(all but these kept)."""
        return self.p[-1] - self.p[::-1]


def subset_truth(world: World, problem: Any, sentences: Sequence[str], answer: str) -> Subsets:
    """Exact P(answer) for every subset of the sentences of a trace of at most 12.

    Raises:
        ValueError: the trace is longer, or off the world's program.
    """
    n = len(sentences)
    if n > SUBSETS:
        raise ValueError(
            f"the trace has {n} sentences and so 2^{n} subsets; all subsets are given up to {SUBSETS} sentences. "
            "Use necessity(...) and sufficiency(...) for chosen subsets"
        )
    if len(read(world, problem, sentences)) <= n:
        raise ValueError(f"the program of `{world.name}` cannot write these sentences in this order")
    kept = (np.arange(1 << n)[:, None] >> np.arange(n)) % 2 == 1
    p = [_p(world, problem, list(itertools.compress(sentences, row)), answer) for row in kept]
    return Subsets(kept, np.array(p))


def dependency_graph(moves: Sequence[Move]) -> Bool[np.ndarray, "sentence source"]:
    """Which earlier sentences each sentence uses: for every fact it reads, the last one that wrote that fact."""
    graph = np.zeros((len(moves), len(moves)), dtype=bool)
    written: dict[str, int] = {}
    for i, move in enumerate(moves):
        for fact in move.reads:
            if fact in written:
                graph[i, written[fact]] = True
        written |= dict.fromkeys(move.writes, i)
    return graph
