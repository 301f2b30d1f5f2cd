"""The statistics of the closest prior study, so that results can be laid side by side (`preset="pairs"`).

1. imp = P(outcome | sentence kept) - P(outcome | another meaning in its place), in the reader, from its rollouts.
2. Every anchor is paired with the nearest sentence within four that is no anchor and was measured; all is repeated with
   the second nearest, so that no result rests on one choice of partner.
3. d = sign of the writer's score x (imp of the anchor - imp of its partner). Mean over pairs; t interval over trace means.
4. p permutes, within each sentence, which rollouts count as kept and which as replaced.
5. Dense profile: mean percentile of the anchors among all sentences of the reader (0.5 where unrelated).
Source: TheRootOf3/cross-model-thought-anchors (E1, E2), restated; its study orients by |effect| nowhere, nor do we.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from anchors.alternatives import different_firsts
from anchors.outcomes import judge
from anchors.rollouts import Rollouts
from anchors.similarity import Similarity
from anchors.stats import anchor_percentile
from anchors.transfer.retention import mean_over_traces

PARTNER: Final = 4
DRAWS: Final = 2000


class Cell(NamedTuple):
    """One sentence in the reader: how many of how many rollouts reached the outcome, kept and replaced."""

    kept: tuple[int, int]
    replaced: tuple[int, int]

    @property
    def importance(self) -> float:
        (k, n), (j, m) = self.kept, self.replaced
        return k / n - j / m if n and m else float("nan")


class PairRow(NamedTuple):
    """One pair: writer's sign, and the two cells."""

    trace: int
    sign: float
    anchor: Cell
    partner: Cell

    @property
    def d(self) -> float:
        return self.sign * (self.anchor.importance - self.partner.importance)


def cells(runs: Rollouts, answer: str, similarity: Similarity) -> list[Cell]:
    """Kept and replaced counts of every sentence of a trace, from the reader's rollouts at all boundaries.

    Kept counts the even samples of boundary i + 1, replaced the odd ones of boundary i: a sentence and its neighbour, which
    share a boundary, never share a rollout.
    """
    trace = runs.trace
    hits = [judge(runs.answers(k), answer) for k in range(len(trace) + 1)]
    found = []
    for i in range(len(trace)):
        other = different_firsts(runs, i, similarity)
        odd, even = (
            np.array([r.sample % 2 == side for r in runs.at(k)], dtype=bool) for side, k in ((1, i), (0, i + 1))
        )
        replaced, kept = hits[i][other & odd], hits[i + 1][even]
        found.append(Cell((int(kept.sum()), len(kept)), (int(replaced.sum()), len(replaced))))
    return found


def partner_of(
    anchor: int, anchors: Sequence[int], importance: Float[np.ndarray, " sentence"], *, rank: int = 0
) -> int | None:
    """The nearest measured sentence within four that is no anchor, or (`rank` 1) the next; the earlier of two equally near."""
    near = sorted(range(len(importance)), key=lambda i: (abs(i - anchor), i))
    fits = (i for i in near if 0 < abs(i - anchor) <= PARTNER and i not in anchors and not np.isnan(importance[i]))
    return next(islice(fits, rank, None), None)


def pair_statistics(
    traces: Sequence[tuple[Sequence[int], Sequence[float], list[Cell]]], *, seed: int = 0
) -> dict[str, Any]:
    """E1, E2 and E1's second-partner check; `traces` holds (anchors, their signs, cells) of every trace."""
    percentiles = [
        anchor_percentile(anchors, np.array([cell.importance for cell in row])) for anchors, _, row in traces
    ]
    dense = mean_over_traces(np.array(percentiles) - 0.5, seed=seed)
    return _paired(_rows(traces, 0), seed) | {
        "percentile": dense.value + 0.5,
        "percentile interval": (dense.low + 0.5, dense.high + 0.5),
        "percentile p": dense.p,
        "second partner": _paired(_rows(traces, 1), seed),
    }


def _rows(traces: Sequence[tuple[Sequence[int], Sequence[float], list[Cell]]], rank: int) -> list[PairRow]:
    """Every anchor with its partner of this rank; anchors that have none, or were not measured, are left out."""
    rows: list[PairRow] = []
    for t, (anchors, signs, row) in enumerate(traces):
        importance = np.array([cell.importance for cell in row])
        for anchor, sign in zip(anchors, signs, strict=True):
            partner = partner_of(anchor, anchors, importance, rank=rank)
            if partner is not None and not np.isnan(importance[anchor]):
                rows.append(PairRow(t, sign, row[anchor], row[partner]))
    return rows


def _paired(rows: Sequence[PairRow], seed: int) -> dict[str, Any]:
    means = [float(np.mean([r.d for r in rows if r.trace == t])) for t in sorted({r.trace for r in rows})]
    return {
        "pairs": len(rows),
        "mean d": float(np.mean([r.d for r in rows])) if rows else float("nan"),
        "trace means": mean_over_traces(means, seed=seed),
        "p within sentence": _permutation_p(rows, seed),
    }


def _permutation_p(rows: Sequence[PairRow], seed: int) -> float:
    """Two-sided p of the mean d when kept and replaced rollouts of a sentence are exchangeable."""
    if not rows:
        return float("nan")
    rng = np.random.default_rng(seed)
    null = np.zeros(DRAWS)
    for row in rows:
        null += row.sign * (_shuffled(row.anchor, rng) - _shuffled(row.partner, rng))
    observed = sum(row.d for row in rows)
    return float(((np.abs(null) >= abs(observed) - 1e-9).sum() + 1) / (DRAWS + 1))


def _shuffled(cell: Cell, rng: np.random.Generator) -> Float[np.ndarray, " draw"]:
    """Importance of a sentence when its rollouts are dealt to the two sides at random."""
    (k, n), (j, m) = cell.kept, cell.replaced
    kept: Int[np.ndarray, " draw"] = rng.hypergeometric(k + j, n + m - k - j, n, size=DRAWS)
    return kept / n - (k + j - kept) / m
