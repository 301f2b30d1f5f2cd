"""What each sentence does to each later one: whether the model still comes to say it.

1. A rollout mentions sentence j if any sentence of its reasoning means the same.
2. The effect of sentence i on j is the share of rollouts that mention j with i kept, less the share with i resampled.
3. Every distinct sentence is compared with every target once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from anchors.importance import ASSURANCE
from anchors.outcomes import rollout_reasoning
from anchors.rollouts import Rollouts
from anchors.scores import Scores, method
from anchors.similarity import Similarity, default_similarity
from anchors.splitting import split_sentences
from anchors.stats import difference_interval, fisher_p, permutation_p


class _Pool(NamedTuple):
    """Every distinct sentence of all rollouts in order of its first boundary, and where each occurs."""

    texts: list[str]
    upto: list[int]  # how many distinct sentences the boundaries 0..k have
    sentence: list[Int[np.ndarray, " _occurrence"]]  # per boundary, index into `texts`
    rollout: list[Int[np.ndarray, " _occurrence"]]  # per boundary, the rollout it occurs in
    sizes: list[int]  # rollouts at each boundary


@method("effects", needs="rollouts", unit="probability")
def sentence_effects(
    rollouts: Rollouts, *, similarity: Similarity | None = None, level: float = 0.95, seed: int = 0
) -> Scores:
    """Counterfactual effect of every sentence on every later one (Thought Anchors, 2506.19143, `step_attribution.py`).

    matrix[target j, source i] = P(a rollout of boundary i + 1 mentions j) - P(a rollout of boundary i mentions j), in
    [-1, 1]; NaN where target <= source or rollouts are missing. Only the reasoning of a rollout is searched.

    `values[i]`, the mean of column i, is the mean effect on later sentences: NaN for the last one. Its interval takes
    whole rollouts as independent, p permutes them. Extras: matrix_low, matrix_high (Newcombe), matrix_p (Fisher) and
    incoming, the mean of each row.

    Raises:
        ValueError: the run was adaptive (`resample(stop=...)`).

    >>> from anchors.similarity import lexical
    >>> from anchors.trace import Trace
    >>> trace = Trace.from_text("?", "We choose the red door. Behind it there is gold.", answer="gold")
    >>> rows = [[" We choose the blue door."] * 9, [" Behind it there is gold."] * 9, [""] * 9]
    >>> float(sentence_effects(Rollouts.from_texts(trace, rows), similarity=lexical()).matrix[1, 0])
    1.0
    """
    if rollouts.adaptive:
        raise ValueError(
            "these rollouts were drawn until anchors were known, and the intervals of effects hold for a fixed number; "
            "draw a full sweep (stop=None) into another run directory"
        )
    similarity = default_similarity() if similarity is None else similarity
    mentions = _mentions(rollouts, similarity)
    size = len(rollouts.trace)
    source, target = np.triu_indices(size, 1)
    k = np.array([row.sum(0) for row in mentions], dtype=int)
    n = np.array([len(row) for row in mentions])
    cells = (k[source + 1, target], n[source + 1], k[source, target], n[source])
    with np.errstate(invalid="ignore", divide="ignore"):
        value = cells[0] / cells[1] - cells[2] / cells[3]
    interval = difference_interval(*cells, level=level)
    names = ("matrix", "matrix_low", "matrix_high", "matrix_p")
    columns = zip(names, (value, *interval, fisher_p(*cells)), strict=True)
    matrices = {name: _matrix(size, target, source, column) for name, column in columns}
    rows = np.array([_outgoing(mentions[i], mentions[i + 1], i, level, seed) for i in range(size)])
    return Scores.of(
        rollouts.trace,
        "effects",
        rows[:, 0],
        low=rows[:, 1],
        high=rows[:, 2],
        p=rows[:, 3],
        floor=np.where(np.isnan(rows[:, 3]), np.nan, 0.0),
        n=np.minimum(n[:-1], n[1:]),
        matrix=matrices.pop("matrix"),
        extras=matrices | {"incoming": _row_means(_matrix(size, target, source, value))},
        details=rollouts.provenance()
        | {"similarity": similarity.name, "threshold": similarity.threshold, "level": level, "seed": seed},
    )


def _matrix(
    size: int, target: np.ndarray, source: np.ndarray, column: np.ndarray
) -> Float[np.ndarray, "target source"]:
    matrix = np.full((size, size), np.nan)
    matrix[target, source] = column
    return matrix


def _row_means(matrix: Float[np.ndarray, "target source"]) -> Float[np.ndarray, " target"]:
    measured = ~np.isnan(matrix)
    with np.errstate(invalid="ignore"):
        return np.where(measured, matrix, 0.0).sum(1) / np.where(measured.any(1), measured.sum(1), np.nan)


def _outgoing(
    before: Bool[np.ndarray, "removed sentence"],
    after: Bool[np.ndarray, "kept sentence"],
    i: int,
    level: float,
    seed: int,
) -> tuple[float, float, float, float]:
    """Mean effect of sentence i on later ones, with interval and p; whole rollouts are the independent units."""
    later = before.shape[1] - i - 1
    if not (later and len(before) and len(after)):
        return np.nan, np.nan, np.nan, np.nan
    said = [rows[:, i + 1 :].sum(1) for rows in (after, before)]
    means, sizes = zip(*(_effective(counts / later) for counts in said), strict=True)
    cells = (means[0] * sizes[0], sizes[0], means[1] * sizes[1], sizes[1])
    low, high = difference_interval(*cells, level=level)
    kept, removed = (np.bincount(counts, minlength=later + 1) for counts in said)
    present = np.flatnonzero(kept + removed)
    p = permutation_p(kept[present], removed[present], _MeanGap(present), assurance=ASSURANCE, seed=(seed, i))
    return means[0] - means[1], float(low), float(high), p


class _MeanGap(NamedTuple):
    """|difference of mean score| of two samples of counts, for `permutation_p` (which drops no category here)."""

    scores: Int[np.ndarray, " category"]

    def __call__(self, a: np.ndarray, b: np.ndarray) -> Any:
        return np.abs(a @ self.scores / a.sum(-1) - b @ self.scores / b.sum(-1))


def _effective(shares: Float[np.ndarray, " rollout"]) -> tuple[float, float]:
    """Mean of numbers in [0, 1] and the size of the Bernoulli sample whose mean is as precise.

    n_eff = n p (1 - p) / s^2, with one prior observation of variance p (1 - p) so that no spread is not certainty.
    """
    n, p = len(shares), float(shares.mean())
    bernoulli = p * (1 - p)
    if bernoulli <= 0:
        return p, float(n)
    return p, n * bernoulli * (n + 1) / (n * float(shares.var()) + bernoulli)


def _mentions(rollouts: Rollouts, similarity: Similarity) -> list[Bool[np.ndarray, "rollout sentence"]]:
    """Which sentences of the trace each rollout mentions; sentences before a boundary are not looked for there."""
    pool = _pool(rollouts)
    size = len(rollouts.trace)
    found = [np.zeros((n, size), dtype=bool) for n in pool.sizes]
    for sentence in rollouts.trace.sentences:
        j = sentence.index
        texts = pool.texts[: pool.upto[j]]
        same = np.asarray(similarity.same(sentence.text, texts), dtype=bool) if texts else np.zeros(0, dtype=bool)
        for k in range(j + 1):
            found[k][pool.rollout[k][same[pool.sentence[k]]], j] = True
    return found


def _pool(rollouts: Rollouts) -> _Pool:
    pool, number = _Pool([], [], [], [], []), {}
    for k in range(len(rollouts.trace) + 1):
        rows = [_sentences(rollout.text) for rollout in rollouts.at(k)]
        flat = [(number.setdefault(text, len(number)), r) for r, row in enumerate(rows) for text in row]
        pairs = np.array(flat, dtype=int).reshape(-1, 2)
        pool.upto.append(len(number))
        pool.sentence.append(pairs[:, 0])
        pool.rollout.append(pairs[:, 1])
        pool.sizes.append(len(rows))
    pool.texts.extend(number)
    return pool


def _sentences(text: str) -> list[str]:
    reasoning = rollout_reasoning(text)
    return [reasoning[a:b].strip() for a, b in split_sentences(reasoning)]
