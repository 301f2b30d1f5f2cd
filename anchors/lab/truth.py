"""Exact truth about a world's traces: the answer distribution at every sentence boundary, by dynamic programming.

1. A world is a finite Markov program, so P(answer | state) obeys P(a | s) = sum over moves m of P(m) P(a | m.state).
2. The recursion is memoised on states; a finished state puts all its mass on its own answer. No sampling anywhere.
3. The importance of sentence i is then a difference between two exact distributions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from anchors.lab.worlds import World


@lru_cache(maxsize=1 << 18)
def answer_distribution(world: World, state: Any) -> dict[str, float]:
    """Exact distribution of the final answer given a state: P(a | s) = sum_m P(m) P(a | s_m).

    >>> from anchors.lab.worlds.expression import WORLD
    >>> start = WORLD.start((2, "+", 3, "*", 4))
    >>> round(sum(answer_distribution(WORLD, start).values()), 12)
    1.0
    """
    answer = world.answer(state)
    if answer is not None:
        return {answer: 1.0}
    total: dict[str, float] = {}
    for move in world.moves(state):
        for text, p in answer_distribution(world, move.state).items():
            total[text] = total.get(text, 0.0) + move.probability * p
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
