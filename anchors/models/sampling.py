"""Exact temperature and nucleus sampling without a sort, and with a margin that makes draws independent of batching.

1. Draw token k from the full softmax by inverting its cumulative sum at a counter-based uniform.
2. Accept k when the probability strictly above p(k) is below top_p (k is then in the nucleus); else draw again.
3. Float arithmetic differs in its last bits between batch shapes. A draw whose uniform falls within `margin` of an
   edge of the cumulative sum, or whose nucleus test does, is reported as a tie, and the caller decides it again from
   logits computed for that row alone. All other draws cannot depend on the batch. Logits divided by a temperature
   below 1 carry their error divided by it too, so the caller widens the margin by as much.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from anchors.models.base import Sampling
from anchors.models.randomness import uniforms

MARGIN = {torch.float32: 1e-4, torch.float64: 1e-9}
MAX_ATTEMPTS = 1000


class Draw(NamedTuple):
    """Drawn token ids, and which rows were too close to an edge to trust."""

    ids: Integer[np.ndarray, " row"]
    ties: Bool[np.ndarray, " row"]


def sample(
    logits: Float[Tensor, "row vocabulary"],
    sampling: Sampling,
    *,
    streams: Integer[np.ndarray, " row"],
    steps: Integer[np.ndarray, " row"],
    margin: float,
) -> Draw:
    """Draw one token a row from the tempered, nucleus-truncated softmax.

    Raises:
        ValueError: a row of logits is NaN or infinite everywhere.
    """
    probabilities = torch.softmax(logits.float() / sampling.temperature, dim=-1)
    if not bool(torch.isfinite(probabilities).all()):
        raise ValueError("the model returned NaN or infinite logits; load it with dtype=torch.float32")
    cumulative = probabilities.double().cumsum(-1)
    cumulative /= cumulative[:, -1:].clone()
    ids = np.zeros(len(streams), dtype=np.int64)
    ties = np.zeros(len(streams), dtype=bool)
    open_rows = np.arange(len(streams))
    for attempt in range(MAX_ATTEMPTS):
        drawn, tied, accepted = _attempt(
            probabilities[open_rows],
            cumulative[open_rows],
            streams[open_rows],
            steps[open_rows],
            attempt,
            sampling,
            margin,
        )
        ids[open_rows], ties[open_rows] = drawn, tied
        open_rows = open_rows[~(accepted | tied)]
        if not len(open_rows):
            return Draw(ids, ties)
    raise ValueError(f"no token was accepted in {MAX_ATTEMPTS} draws at top_p={sampling.top_p}; raise top_p")


def _attempt(
    probabilities: Tensor,
    cumulative: Tensor,
    streams: np.ndarray,
    steps: np.ndarray,
    attempt: int,
    sampling: Sampling,
    margin: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    u = torch.from_numpy(uniforms(streams, steps, attempt)).to(cumulative.device)[:, None]
    k = torch.searchsorted(cumulative, u, right=True).clamp(max=cumulative.shape[1] - 1)
    upper = cumulative.gather(1, k)
    lower = torch.where(k > 0, cumulative.gather(1, (k - 1).clamp(min=0)), -torch.inf)
    last = k == cumulative.shape[1] - 1
    tied = (u - lower < margin) | ((upper - u < margin) & ~last)
    accepted = torch.ones_like(tied)
    if sampling.top_p < 1:
        accepted, unsure = _nucleus(probabilities, probabilities.gather(1, k), sampling.top_p, margin)
        tied |= unsure
    return k[:, 0].cpu().numpy(), tied[:, 0].cpu().numpy(), accepted[:, 0].cpu().numpy()


def _nucleus(
    probabilities: Float[Tensor, "row vocabulary"], p: Float[Tensor, "row 1"], top_p: float, margin: float
) -> tuple[Bool[Tensor, "row 1"], Bool[Tensor, "row 1"]]:
    """Whether tokens of probability `p` are in the nucleus, and whether rounding could change the verdict."""

    def mass_above(edge: Tensor) -> Tensor:
        return torch.where(probabilities > edge, probabilities, 0.0).sum(-1, keepdim=True)

    low, high = mass_above(p * (1 + margin)), mass_above(p * (1 - margin)) - p
    return mass_above(p) < top_p, (low < top_p + margin) & (high > top_p - margin)
