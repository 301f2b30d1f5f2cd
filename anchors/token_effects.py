"""What blocking a sentence did to every later token, kept for the sentences that did most and within a bounded size.

1. Sources arrive in any order with their effect on every token; the largest by total are kept.
2. `CELLS` numbers are kept at most, in float16: all sources of a trace of 80 sentences and 3,000 tokens.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

CELLS = 1 << 18


class TokenEffects:
    """The rows of the sources with the largest total effect: `rows` [source, token], NaN up to a source's own end."""

    def __init__(self, offsets: Sequence[tuple[int, int]], *, cells: int = CELLS) -> None:
        self.offsets, self.most = offsets, max(1, cells // max(1, len(offsets)))
        self._kept: list[tuple[float, int, np.ndarray]] = []

    def add(self, sources: Sequence[int], effects: Float[np.ndarray, "source row"]) -> None:
        """Offer sources with their effects; row t - 1 is the effect on the distribution of token t."""
        for source, row in zip(sources, effects, strict=True):
            tokens = np.append(np.nan, row[: len(self.offsets) - 1]).astype(np.float16)
            item = (float(np.nansum(row)), source, tokens)
            (heapq.heappush if len(self._kept) < self.most else heapq.heappushpop)(self._kept, item)

    def extras(self) -> dict[str, np.ndarray]:
        """`token_effects` [kept, token] in nats, `token_sources` [kept], `token_offsets` [token, 2] in `trace.text`."""
        kept = sorted(self._kept, key=lambda item: item[1])
        rows = np.stack([row for *_, row in kept]) if kept else np.empty((0, len(self.offsets)), dtype=np.float16)
        return {
            "token_effects": rows,
            "token_sources": np.array([source for _, source, _ in kept], dtype=int),
            "token_offsets": np.array(self.offsets, dtype=int).reshape(-1, 2),
        }
