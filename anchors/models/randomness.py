"""Counter-based randomness: a uniform that depends on (seed, trace, position, sample, step, index) and nothing else."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from jaxtyping import Float, Integer

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def stream(seed: int, trace: str, position: int, sample: int) -> int:
    """The 64-bit stream of one rollout."""
    key = f"{seed}\x1f{trace}\x1f{position}\x1f{sample}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little")


def uniforms(
    streams: Integer[np.ndarray, " row"],
    steps: Integer[np.ndarray, " row"],
    index: int | Integer[np.ndarray, "index 1"],
) -> Float[np.ndarray, "*index row"]:
    """One double in [0, 1) per row: splitmix64 of the stream advanced by the step and an index below 2^20.

    A column of indices gives one row of doubles for each.
    """
    with np.errstate(over="ignore"):
        counter = steps.astype(np.uint64) * np.uint64(1 << 20) + np.asarray(index, dtype=np.uint64) + np.uint64(1)
        x = streams.astype(np.uint64) + counter * _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * _MIX1
        x = (x ^ (x >> np.uint64(27))) * _MIX2
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
