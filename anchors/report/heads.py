"""Attention head by head: kurtosis of every head, profiles of the sharpest, pooled attention of the receiver heads.

1. A head's vertical scores are peaked where a few sentences receive its attention: that is its kurtosis.
2. Profiles travel for as many heads as fit, sharpest first; whole matrices only for the heads the scores keep.
3. Matrices travel as their lower triangle, pooled to 64 blocks a side in long traces, each showing its strongest cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anchors.report.matrices import pooled, roots
from anchors.scores import Scores

SIDE = 64
PROFILES = 26_000  # bytes of profiles in one report
SHADES = 8
MAPS = 20


def with_heads(scores: Sequence[Scores]) -> Scores | None:
    """The first scores that know their heads."""
    return next((s for s in scores if {"kurtosis", "heads", "vertical"} <= set(s.extras)), None)


def record(scores: Scores) -> dict[str, Any]:
    """Everything the script draws of the heads."""
    kurtosis, vertical = scores.kurtosis, scores.vertical
    ranked = ranking(kurtosis)[: max(1, PROFILES // len(scores))]
    profiles = [roots(vertical[layer, head]) for layer, head in ranked]
    chosen = [(int(layer), int(head)) for layer, head in scores.heads]
    maps = scores.extras.get("pooled", np.zeros((0, 1, 1)))[:MAPS]
    blocks = [pooled(np.where(np.tri(len(m), k=-1, dtype=bool), m, np.nan), side=SIDE) for m in maps]
    packs = [roots(block[np.tril_indices(len(block))]) for block in blocks]
    return {
        "kurtosis": [[None if np.isnan(k) else round(float(k), 3) for k in row] for row in kurtosis],
        "ranked": [list(pair) for pair in ranked],
        "profiles": [[cells, peak] for cells, peak in profiles],
        "chosen": [list(pair) for pair in chosen],
        "maps": [[cells, peak] for cells, peak in packs],
        "side": len(blocks[0]) if blocks else 0,
    }


def ranking(kurtosis: np.ndarray) -> list[tuple[int, int]]:
    """All (layer, head) pairs, highest kurtosis first, heads without one last."""
    order = np.argsort(-np.where(np.isnan(kurtosis), -np.inf, kurtosis).ravel(), kind="stable")
    return [(int(i // kurtosis.shape[1]), int(i % kurtosis.shape[1])) for i in order]


def shades(kurtosis: np.ndarray) -> list[tuple[float, str]]:
    """(strength in [0, 1], path) of the heads of every shade, for the static figure; x is the head, y the layer."""
    found = kurtosis[np.isfinite(kurtosis)]
    if not found.size:
        return []
    low, span = float(found.min()), float(np.ptp(found)) or 1.0
    level = np.where(np.isfinite(kurtosis), np.rint(SHADES * (kurtosis - low) / span), 0)
    return [
        (shade / SHADES, "".join(f"M{head} {layer}h1v1h-1z" for layer, head in np.argwhere(level == shade)))
        for shade in range(1, SHADES + 1)
    ]
