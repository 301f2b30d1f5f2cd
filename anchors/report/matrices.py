"""Matrices of the report: packed for the script, and drawn as a static heat map.

1. A live matrix travels as int16 steps of its largest cell, base64, and is drawn on a canvas; where nothing lies on or
   above the diagonal only the cells below it travel, row by row.
2. Attention has no sign and spans decades: one byte a cell, the square root of its share of the largest.
3. A static matrix is one path a shade; past 40 sentences, blocks show their strongest cell.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

STATIC_MATRIX = 40  # cells a side without JavaScript: 17 paths of at most 1600 cells stay near 20 kB
SHADES = 8
BLANK = -32768
STEPS = 32767
LEVELS = 254


def matrix_bound(matrix: Float[np.ndarray, "target source"]) -> float:
    """The value of the darkest shade: the 99th percentile of the nonzero cells, so that one cannot wash out all."""
    sizes = np.abs(matrix[np.isfinite(matrix) & (matrix != 0)])
    return float(np.percentile(sizes, 99)) if sizes.size else 1.0


def packed(
    matrix: Float[np.ndarray, "target source"], bounds: Iterable[Float[np.ndarray, "target source"]] = ()
) -> dict[str, Any]:
    """The matrix and the bounds of its cells as base64 little-endian int16 multiples of one step; NaN is -32768."""
    layers = [matrix, *bounds]
    below = bool(np.isnan(matrix[np.triu_indices(len(matrix))]).all())
    rows = [layer[np.tril_indices(len(layer), -1)] if below else layer.ravel() for layer in layers]
    sizes = np.abs(np.concatenate(rows))
    peak = float(sizes[np.isfinite(sizes)].max(initial=0.0)) or 1.0
    names = ("cells", "low", "high")
    return {
        **{name: _steps(row, peak) for name, row in zip(names, rows, strict=False)},
        "step": peak / STEPS,
        "bound": matrix_bound(matrix),
        "size": len(matrix),
        "below": below,
    }


def _steps(row: Float[np.ndarray, " cell"], peak: float) -> str:
    steps = np.rint(np.clip(np.nan_to_num(row) / peak, -1, 1) * STEPS)
    steps[np.isnan(row)] = BLANK
    return base64.b64encode(steps.astype("<i2").tobytes()).decode("ascii")


def roots(weights: Float[np.ndarray, "*cells"]) -> tuple[str, float]:
    """Weights as base64 bytes 1 + 254 sqrt(weight / peak), 0 for NaN, and the peak."""
    peak = float(np.nanmax(weights, initial=0.0)) or 1.0
    levels = 1 + np.rint(LEVELS * np.sqrt(np.clip(np.nan_to_num(weights) / peak, 0, 1)))
    levels[np.isnan(weights)] = 0
    return base64.b64encode(levels.astype(np.uint8).tobytes()).decode("ascii"), peak


def shaded(matrix: Float[np.ndarray, "target source"]) -> tuple[int, int, Iterable[tuple[str, float, str]]]:
    """(rows, columns, paths) of a static heat map; a path is (class, strength, d)."""
    cells = pooled(matrix, side=STATIC_MATRIX)
    bound = matrix_bound(matrix)
    level = np.rint(np.clip(np.nan_to_num(cells) / bound, -1, 1) * SHADES).astype(int)
    level[np.isnan(cells)] = 0
    paths = []
    for shade in sorted(set(level.flat) - {0}):
        path = "".join(f"M{j} {i}h1v1h-1z" for i, j in np.argwhere(level == shade))
        paths.append(("pos" if shade > 0 else "neg", abs(int(shade)) / SHADES, path))
    return *cells.shape, paths


def pooled(matrix: Float[np.ndarray, "target source"], *, side: int) -> Float[np.ndarray, "row column"]:
    """At most `side` blocks a side, each showing its cell of largest size; a block without cells stays NaN."""
    blocks = matrix
    for axis in (0, 1):
        if blocks.shape[axis] > side:
            groups = np.array_split(np.arange(blocks.shape[axis]), side)
            blocks = np.stack([_strongest(blocks.take(g, axis=axis), axis) for g in groups], axis=axis)
    return blocks


def _strongest(block: np.ndarray, axis: int) -> np.ndarray:
    sizes = np.where(np.isnan(block), -1.0, np.abs(block))
    return np.take_along_axis(block, np.expand_dims(sizes.argmax(axis=axis), axis), axis=axis).squeeze(axis)
