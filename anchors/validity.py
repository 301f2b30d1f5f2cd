"""Does a valid trace go with a right answer, and a long one with a hard problem (2504.09762, 2505.13775)?

1. Whether a trace is valid is for its world to say: `valid_trace` replays a maze search, and reads other traces by the
   program that writes them.
2. The 2x2 table of validity and correctness has one number, phi: 0 where one says nothing about the other.
3. Length goes with complexity by rank, once alone and once with the length of the answer held fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int

from anchors.stats import Correlation, Numbers, Seed, bootstrap_interval, fisher_p, partial_spearman, spearman

if TYPE_CHECKING:
    from anchors.lab.worlds import World


class ValidityTable(NamedTuple):
    """Traces by validity (rows: valid, invalid) and answer (columns: right, wrong), and phi with its interval and p.

    `low` and `high` are of 95 %; phi is NaN where a row or column is empty. `p` is Fisher's, two-sided.
    """

    counts: Int[np.ndarray, "valid right"]
    phi: float
    low: float
    high: float
    p: float
    n: int

    @property
    def right_given_valid(self) -> float:
        """Share of right answers after a valid trace; NaN without one."""
        return _share(self.counts[0])

    @property
    def right_given_invalid(self) -> float:
        """Share of right answers after an invalid trace; NaN without one."""
        return _share(self.counts[1])


class LengthComplexity(NamedTuple):
    """Rank correlation of trace length with problem complexity; `partial` holds the answer's length fixed."""

    spearman: Correlation
    partial: Correlation


def validity_table(
    valid: Sequence[bool] | np.ndarray, right: Sequence[bool] | np.ndarray, *, seed: Seed = 0
) -> ValidityTable:
    """The 2x2 table of trace validity and answer correctness, one pair a trace.

    phi = (n11 n00 - n10 n01) / sqrt(n1. n0. n.1 n.0) (Yule 1912), with a percentile bootstrap interval over traces, which
    must be of different problems.

    Raises:
        ValueError: the two differ in length.

    >>> found = validity_table([True, True, True, False, False, False], [True, True, False, True, False, False])
    >>> found.counts.tolist(), round(found.phi, 3), round(found.right_given_valid, 3)
    ([[2, 1], [1, 2]], 0.333, 0.667)
    """
    a, b = np.asarray(valid, dtype=bool), np.asarray(right, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"{a.shape} validities and {b.shape} answers; give one of each a trace")
    counts = np.array([[np.sum((a == v) & (b == r)) for r in (True, False)] for v in (True, False)], dtype=int)
    phi, low, high = float(_phi(counts.ravel())), np.nan, np.nan
    if np.isfinite(phi):
        low, high = bootstrap_interval([counts.ravel()], lambda c: np.nan_to_num(_phi(c)), seed=seed)
    p = float(fisher_p(counts[0, 0], counts[0].sum(), counts[1, 0], counts[1].sum()))
    return ValidityTable(counts, phi, float(low), float(high), p, len(a))


def length_complexity(
    lengths: Numbers, complexity: Numbers, *, answer_lengths: Numbers | None = None
) -> LengthComplexity:
    """Spearman's rho of trace length and problem complexity, alone and with `answer_lengths` partialled out.

    A trace that gets longer only because its answer does (a longer plan to copy) has rho > 0 and a partial near 0
    (2504.09762; 2509.07339). One value [trace] each, of different problems. Without answer lengths the partial is NaN.

    >>> found = length_complexity([10, 20, 30, 40, 50, 60], [1, 2, 4, 3, 5, 6])
    >>> round(found.spearman.value, 3), found.partial.n
    (0.943, 0)
    """
    nothing = Correlation(np.nan, np.nan, np.nan, np.nan, 0)
    alone = spearman(lengths, complexity)
    held = nothing if answer_lengths is None else partial_spearman(lengths, complexity, [answer_lengths])
    return LengthComplexity(alone, held)


def valid_trace(world: World, problem: Any, reasoning: str) -> bool:
    """Whether a trace is free of errors, whatever its answer.

    On `maze` the replay against open and closed cells finds no fault (2505.13775). Elsewhere the program could have written
    every sentence up to a state in which it may end, and no step is wrong.

    >>> from anchors.lab.worlds import load_world
    >>> world, trace = load_world("expression"), "We need 1 + 2 * 3 modulo 10. I will go left to right. 1 + 2 = 3. "
    >>> trace += "Now we have 3 * 3. 3 * 3 = 9. That leaves 9."
    >>> valid_trace(world, (1, "+", 2, "*", 3), trace), valid_trace(world, (1, "+", 2, "*", 3), trace[:-15])
    (True, False)
    """
    from anchors.lab.worlds import answers_here, read_moves
    from anchors.lab.worlds.maze import validate
    from anchors.splitting import split_sentences

    sentences = [reasoning[a:b] for a, b in split_sentences(reasoning)]
    if world.name == "maze":
        return not validate(problem, sentences)
    moves = read_moves(world, problem, sentences)
    end = moves[-1].state if moves else world.start(problem)
    whole = len(moves) == len(sentences) and bool(answers_here(world, end))
    return whole and not any(move.is_step and move.role == "anchor" for move in moves)


def _share(row: Int[np.ndarray, " right"]) -> float:
    return float(row[0] / row.sum()) if row.sum() else float("nan")


def _phi(counts: np.ndarray) -> Any:
    """phi along the last axis of counts (valid right, valid wrong, invalid right, invalid wrong)."""
    a, b, c, d = (counts[..., i].astype(float) for i in range(4))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (a * d - b * c) / np.sqrt((a + b) * (c + d) * (a + c) * (b + d))
