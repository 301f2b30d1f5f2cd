"""The matrix of effects between sentences, with a bootstrap interval for every cell, filled source by source.

1. Sources hand over their effect on every token; they wait until `WAITING` numbers have come.
2. Then a target's resamples are drawn once for all that wait. They come from (seed, target) alone, so no number depends
   on which sources were measured together.
3. A resample is how often each of the target's tokens was drawn; cell means of all sources are one matrix product.
So memory is three matrices [target, source] and what is bounded, however long the trace.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

WAITING = 1 << 21
"""Effects of sources on tokens held before they fill their columns."""

DRAWN = 1 << 20
"""Tokens drawn at once."""

SORTED = 1 << 14
"""Means sorted at once for their quantiles, which takes several copies of them."""

LEVEL = 0.95

Effects = Float[np.ndarray, "source row"]


@dataclass(frozen=True)
class Cells:
    """The matrix [target, source] and the bootstrap interval of every cell over the target's tokens.

    `spans` are the targets' tokens; row t - `shift` of the effects is the effect on token t.
    """

    spans: Sequence[tuple[int, int]]
    resamples: int
    seed: int
    shift: int
    matrix: Float[np.ndarray, "target source"]
    low: Float[np.ndarray, "target source"]
    high: Float[np.ndarray, "target source"]
    waiting: list[tuple[Sequence[int], Effects]] = field(default_factory=list)

    @classmethod
    def of(cls, spans: Sequence[tuple[int, int]], resamples: int, seed: int, *, shift: int) -> Cells:
        matrix, low, high = np.full((3, len(spans), len(spans)), np.nan)
        return cls(spans, resamples, seed, shift, matrix, low, high)

    def add(self, sources: Sequence[int], effects: Effects) -> None:
        """Take the effects of `sources`, which ascend from call to call."""
        self.waiting.append((sources, effects))
        if sum(rows.size for _, rows in self.waiting) >= WAITING:
            self._fill()

    def finished(self, *, centred: bool) -> Cells:
        """All columns filled; `centred` subtracts every row's mean, as published."""
        self._fill()
        if not centred:
            return self
        centre = means(self.matrix, axis=1)[:, None]
        return replace(self, matrix=self.matrix - centre, low=self.low - centre, high=self.high - centre)

    def extras(self) -> dict[str, np.ndarray]:
        return {"matrix_low": self.low, "matrix_high": self.high, "outgoing": means(self.matrix, axis=0)}

    def _fill(self) -> None:
        """Fill the columns of the sources that wait."""
        sources = [source for some, _ in self.waiting for source in some]
        for target, (a, b) in enumerate(self.spans):
            before = sources[: bisect_left(sources, target)]
            if a < b and before:
                tokens = slice(a - self.shift, b - self.shift)
                rows = np.concatenate([effects[:, tokens] for _, effects in self.waiting])[: len(before)]
                self.matrix[target, before] = rows.mean(1)
                self.low[target, before], self.high[target, before] = self._intervals(rows, target)
        self.waiting.clear()

    def _intervals(self, rows: Float[np.ndarray, "source token"], target: int) -> Float[np.ndarray, "2 source"]:
        size = rows.shape[1]
        if size < 2:
            return np.full((2, len(rows)), np.nan)
        drawn, at = np.empty((len(rows), self.resamples)), 0
        for counts in self._counts(size, target):
            found = drawn[:, at : at + len(counts)]
            np.divide(rows @ counts.T, size, out=found)
            at += len(counts)
        block, levels = max(1, SORTED // self.resamples), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        parts = [np.quantile(drawn[a : a + block], levels, axis=1) for a in range(0, len(rows), block)]
        return np.concatenate(parts, axis=1)

    def _counts(self, size: int, target: int) -> Iterator[Float[np.ndarray, "resample token"]]:
        """How often each of a target's tokens was drawn, so many resamples at a time."""
        rng, block = np.random.default_rng((self.seed, target)), max(1, DRAWN // size)
        for start in range(0, self.resamples, block):
            some = min(block, self.resamples - start)
            picks = rng.integers(size, size=(some, size)) + size * np.arange(some)[:, None]
            yield np.bincount(picks.ravel(), minlength=some * size).reshape(some, size).astype(float)


def means(matrix: Float[np.ndarray, "target source"], *, axis: int) -> Float[np.ndarray, " sentence"]:
    """Means over the measured cells, NaN where there is none."""
    measured = ~np.isnan(matrix)
    count = measured.sum(axis)
    return np.where(count > 0, np.where(measured, matrix, 0.0).sum(axis) / np.maximum(count, 1), np.nan)
