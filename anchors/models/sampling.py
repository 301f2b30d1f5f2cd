"""Exact temperature and nucleus sampling without a sort, and with a margin that makes draws independent of batching.

1. The vocabulary is halved again and again: tokens j and j + h form one node, h being half the nodes, until one is left.
   A token is drawn from the root down, at every level by a uniform of its own against q = left / (left + right).
2. Token k is accepted when the probability strictly above p(k) is below top_p (k is then in the nucleus); else drawn
   again.
3. Float arithmetic differs in its last bits between batch shapes. If no logit is off by more than d, no log-odds of q
   is off by more than 2 d, so a uniform within 2 d q (1 - q) of q, or a nucleus test that could turn, is reported as a
   tie, and the caller decides it again in higher precision. All other draws cannot depend on the batch. There are
   log2(vocabulary) edges to fall near; inverting one cumulative sum would have as many as there are tokens.
4. In float32 on a CPU, with numba (`loops`), sums and walks are compiled; else they are numpy's or tensor calls, one a level.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from anchors.models import loops
from anchors.models.base import Sampling
from anchors.models.randomness import uniforms

MARGIN = {torch.float32: 2e-5, torch.float64: 1e-10}
ROUNDING = 1e-6
LEVELS, MAX_ATTEMPTS = 32, 1000


class Draw(NamedTuple):
    """Drawn token ids, and which draws were too close to an edge to trust."""

    ids: Integer[np.ndarray, " draw"]
    ties: Bool[np.ndarray, " draw"]


class Odds(NamedTuple):
    """Next-token probabilities of some rows, and their sums over ever fewer nodes: level l at columns [edges[l], edges[l + 1])."""

    nodes: Float[Tensor, "row node"]
    edges: Integer[np.ndarray, " edge"]

    @property
    def probabilities(self) -> Float[Tensor, "row vocabulary"]:
        """The lowest level."""
        return self.nodes[:, : self.edges[1]]


@cache
def _edges(vocabulary: int) -> Integer[np.ndarray, " edge"]:
    sizes = [vocabulary]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    return np.cumsum([0, *sizes])


def next_token_odds(logits: Float[Tensor, "row vocabulary"], sampling: Sampling) -> Odds:
    """The tempered softmax of logits, ready to draw from.

    Raises:
        ValueError: a row of logits is NaN or infinite everywhere.
    """
    edges = _edges(logits.shape[1])
    nodes = logits.new_empty(len(logits), int(edges[-1]))
    torch.softmax(logits / sampling.temperature, dim=-1, out=nodes[:, : edges[1]])
    compiled = loops.loaded_for(nodes)
    if compiled is None:
        _sum_up(nodes, edges.tolist())
    else:
        compiled.sum_up(nodes.numpy(), edges)
    if not bool(torch.isfinite(nodes[:, -1]).all()):
        raise ValueError("the model returned NaN or infinite logits; load it with dtype=torch.float32")
    return Odds(nodes, edges)


def _sum_up(nodes: Tensor, edges: list[int]) -> None:
    """Fill every level from the one below: node j is the sum of j and j + h there, h being its own size."""
    for below, start, end in zip(edges, edges[1:], edges[2:], strict=False):
        half, rest = end - start, start - below - (end - start)
        nodes[:, start:end] = nodes[:, below : below + half]
        nodes[:, start : start + rest] += nodes[:, below + half : start]


def sample(
    logits: Float[Tensor, "row vocabulary"],
    sampling: Sampling,
    *,
    streams: Integer[np.ndarray, " row"],
    steps: Integer[np.ndarray, " row"],
    margin: float,
) -> Draw:
    """Draw one token a row from the tempered, nucleus-truncated softmax."""
    rows = np.arange(len(streams))
    return draw_tokens(next_token_odds(logits, sampling), rows, sampling, streams=streams, steps=steps, margin=margin)


def draw_tokens(
    odds: Odds,
    rows: Integer[np.ndarray, " draw"],
    sampling: Sampling,
    *,
    streams: Integer[np.ndarray, " draw"],
    steps: Integer[np.ndarray, " draw"],
    margin: float,
    surely: bool = True,
) -> Draw:
    """Draw a token for every entry of `rows`, which may name a row many times; `margin` bounds the error of a logit.

    Raises:
        ValueError: no token of a draw was accepted; unless `surely` such a draw is reported as a tie instead.
    """
    margin /= min(1.0, sampling.temperature)
    ids = np.zeros(len(rows), dtype=np.int64)
    ties = np.zeros(len(rows), dtype=bool)
    left = np.arange(len(rows))
    for attempt in range(MAX_ATTEMPTS):
        picks = rows[left]
        drawn, tied = _descend(odds, picks, streams[left], steps[left], attempt * LEVELS, margin)
        accepted = np.ones(len(left), dtype=bool)
        if sampling.top_p < 1:
            accepted, unsure = _nucleus(odds.probabilities, picks, drawn, sampling.top_p, margin)
            tied |= unsure
        ids[left], ties[left] = drawn, tied
        left = left[~(accepted | tied)]
        if not len(left):
            return Draw(ids, ties)
    if not surely:
        ties[left] = True
        return Draw(ids, ties)
    raise ValueError(f"no token was accepted in {MAX_ATTEMPTS} draws at top_p={sampling.top_p}; raise top_p")


def _descend(
    odds: Odds, rows: np.ndarray, streams: np.ndarray, steps: np.ndarray, first: int, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Walk from the root to a token, the uniform of the lowest level having index `first`."""
    compiled = loops.loaded_for(odds.nodes)
    if compiled is not None:
        return compiled.descend(
            odds.nodes.numpy(), odds.edges, rows, streams, steps.astype(np.uint64), first, margin, ROUNDING
        )
    edges, on_cpu = odds.edges.tolist(), odds.nodes.device.type == "cpu"  # where numpy's calls cost least
    u: Any = uniforms(streams, steps, np.arange(len(edges) - 2)[:, None] + first)
    nodes: Any = odds.nodes.numpy() if on_cpu else odds.nodes
    at: Any = rows
    if not on_cpu:
        u, at = torch.from_numpy(u).to(nodes.device), torch.from_numpy(rows).to(nodes.device)
    j, tied = at * 0, at < 0
    for level in range(len(edges) - 3, -1, -1):
        q = nodes[at, edges[level] + j] / nodes[at, edges[level + 1] + j]
        if margin > 0:
            tied |= abs(u[level] - q) < 2 * margin * q * (1 - q) + ROUNDING
        j = j + (u[level] >= q) * (edges[level + 2] - edges[level + 1])
    return (j, tied) if on_cpu else (j.cpu().numpy(), tied.cpu().numpy())


def _nucleus(
    probabilities: Float[Tensor, "row vocabulary"], rows: np.ndarray, ids: np.ndarray, top_p: float, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Whether drawn tokens are in the nucleus, and whether rounding could change the verdict."""
    picks = torch.from_numpy(rows).to(probabilities.device), torch.from_numpy(ids).to(probabilities.device)
    p = probabilities[picks]
    accepted, unsure = np.ones(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
    # All other tokens together hold 1 - p, so a token of more than 1 - top_p needs no sum.
    doubtful = p <= 1 - top_p + 2 * margin + 1e-5
    if bool(doubtful.any()):
        found = _mass_test(probabilities[picks[0][doubtful]], p[doubtful][:, None], top_p, margin)
        where = doubtful.cpu().numpy()
        accepted[where], unsure[where] = (x[:, 0].cpu().numpy() for x in found)
    return accepted, unsure


def _mass_test(
    probabilities: Float[Tensor, "draw vocabulary"], p: Float[Tensor, "draw 1"], top_p: float, margin: float
) -> tuple[Bool[Tensor, "draw 1"], Bool[Tensor, "draw 1"]]:
    def mass_above(edge: Tensor) -> Tensor:
        return torch.where(probabilities > edge, probabilities, 0.0).sum(-1, keepdim=True)

    above = mass_above(p)
    if margin == 0:
        return above < top_p, torch.zeros_like(above, dtype=torch.bool)
    # An error of d in every logit moves a ratio of probabilities by 2 d, and a mass by at most d / 2.
    low, high = mass_above(p * (1 + 2 * margin)), mass_above(p * (1 - 2 * margin)) - p
    return above < top_p, (low < top_p + margin) & (high > top_p - margin)
