"""Log-probabilities of many variants of one text, over one shared key-value cache.

1. Variants with a common beginning are grouped; the longest of a group is run once, and its keys and values kept.
2. A variant takes from that cache what comes before its first different token, its first blocked token and the token
   that predicts the scored characters; only the rest of it is run.
3. Rests of similar length run together, padded on the right, in batches bounded in tokens.
Blocked characters are hidden from every query in every layer, so what later tokens would have carried of them is
recomputed without them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from anchors.models.attention_pass import (
    QUERY_BLOCK,
    Call,
    LayerCache,
    attend_where,
    repeat_heads,
    visible,
)
from anchors.models.base import Scored
from anchors.models.tokens import answer_tokens, token_spans

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

TOKENS = {"cpu": 512, "cuda": 1 << 15}
"""Padded tokens of one batch: on a CPU small batches stay in cache, and large ones cost page faults."""

COMMON = 16
"""Characters two texts must share at the start to be worth one cache."""


class Variant(NamedTuple):
    """A text whose characters from `start` on are scored, with the character spans no token may attend to."""

    text: str
    start: int
    blocked: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class Row:
    """A tokenised variant: `scored` is the token range of the score, `shared` how many tokens come from the cache."""

    index: int
    ids: Int[np.ndarray, " token"]
    scored: tuple[int, int]
    cut: list[tuple[int, int]]
    shared: int = 0

    @property
    def rest(self) -> int:
        return len(self.ids) - self.shared


class VariantPass:
    """Attention of the rests of several variants over the first tokens of a shared cache and over themselves."""

    def __init__(self, cache: Sequence[LayerCache], rows: Sequence[Row], width: int, device: torch.device) -> None:
        self.cache, self.reach = cache, max(row.shared for row in rows)
        shared = torch.tensor([row.shared for row in rows], device=device)
        self.positions = shared[:, None] + torch.arange(width, device=device)
        self.in_cache = torch.arange(self.reach, device=device) < shared[:, None]
        self.hidden = torch.zeros(len(rows), self.reach + width, dtype=torch.bool, device=device)
        for r, row in enumerate(rows):
            for a, b in row.cut:
                self.hidden[r, min(a, row.shared) : min(b, row.shared)] = True
                own = [self.reach + max(x - row.shared, 0) for x in (a, b)]
                self.hidden[r, own[0] : own[1]] = True

    def attend(self, call: Call) -> Tensor:
        rows, heads = call.query.shape[:2]
        old = self.cache[call.layer] if self.reach else None
        pairs = zip(old or (None, None), (call.key, call.value), strict=True)
        key, value = (
            own if past is None else torch.cat([past[:, : self.reach].expand(rows, -1, -1, -1), own], dim=2)
            for past, own in pairs
        )
        key, value = repeat_heads(key, heads), repeat_heads(value, heads)
        parts = []
        for a in range(0, call.query.shape[2], QUERY_BLOCK):
            allowed = self._allowed(a, call.window)[:, None]
            parts.append(attend_where(call, call.query[:, :, a : a + QUERY_BLOCK], key, value, allowed))
        return torch.cat(parts, dim=2)

    def _allowed(self, first: int, window: int | None) -> Bool[Tensor, "row query key"]:
        positions = self.positions[:, first : first + QUERY_BLOCK]
        past = visible(positions, torch.arange(self.reach, device=positions.device), window)
        own = positions[..., None] - self.positions[:, None, :]
        own = (own >= 0) if window is None else (own >= 0) & (own < window)
        return torch.cat([past & self.in_cache[:, None], own], dim=-1) & ~self.hidden[:, None]


def score_variants(model: LensModel, variants: Sequence[Variant]) -> list[Scored]:
    """log p of the scored characters of every variant in nats, as one forward a variant would give them.

    Raises:
        ValueError: a variant does not fit the context, or the model returned NaN or infinite values.
    """
    found: dict[int, Scored] = {}
    rows = [_row(model, i, variant) for i, variant in enumerate(variants)]
    for group in _groups(variants):
        cache = _share(model, [rows[i] for i in group])
        limit = TOKENS.get(model.device.type, TOKENS["cpu"])
        for batch in _batches(sorted((rows[i] for i in group), key=lambda row: row.rest), limit):
            found |= _score(model, cache, batch)
    return [found[i] for i in range(len(variants))]


def _row(model: LensModel, index: int, variant: Variant) -> Row:
    tokens = model.encode(variant.text)
    model.check_length(len(tokens.ids), what="the text with its forced answer")
    cut = [span for span in token_spans(tokens.offsets, variant.blocked).spans if span[0] < span[1]]
    return Row(index, np.array(tokens.ids), answer_tokens(tokens.offsets, variant.start), cut)


def _groups(variants: Sequence[Variant]) -> list[list[int]]:
    """Indices of variants that begin alike."""
    groups: dict[str, list[int]] = {}
    for i, variant in enumerate(variants):
        groups.setdefault(variant.text[:COMMON], []).append(i)
    return list(groups.values())


def _share(model: LensModel, rows: Sequence[Row]) -> list[LayerCache]:
    """The cache of the longest text of several, and in each row how many of its tokens the row takes from it."""
    if len(rows) < 2:
        return []
    base = max(rows, key=lambda row: len(row.ids)).ids
    limits = []
    for row in rows:
        length = min(len(base), len(row.ids))
        differ = np.flatnonzero(row.ids[:length] != base[:length])
        same = int(differ[0]) if len(differ) else length
        limits.append(min([same, row.scored[0] - 1, *(a for a, _ in row.cut)]))
    if not any(limits):
        return []
    for row, shared in zip(rows, limits, strict=True):
        row.shared = shared
    return model.prefill(base[: max(limits)].tolist())[1]


def _batches(rows: Sequence[Row], limit: int) -> Iterator[list[Row]]:
    """Runs of rows, shortest rest first, of at most `limit` padded tokens; a longer row runs alone."""
    batch: list[Row] = []
    for row in rows:
        if batch and (len(batch) + 1) * row.rest > limit:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@torch.inference_mode()
def _score(model: LensModel, cache: list[LayerCache], rows: Sequence[Row]) -> dict[int, Scored]:
    width = max(row.rest for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for r, row in enumerate(rows):
        ids[r, : row.rest] = torch.from_numpy(row.ids[row.shared :])
    run = VariantPass(cache, rows, width, model.device)
    hidden = model.run_module(ids.to(model.device), run.positions.clamp(max=model.context - 1), run)
    where = [(r, t - 1 - row.shared) for r, row in enumerate(rows) for t in range(*row.scored)]
    picked = hidden[[r for r, _ in where], [t for _, t in where]]
    targets = torch.from_numpy(np.concatenate([row.ids[slice(*row.scored)] for row in rows])).to(model.device)
    logp = torch.log_softmax(model.unembed(picked), dim=-1).gather(-1, targets[:, None])[:, 0].double().cpu()
    if not bool(torch.isfinite(logp).all()):
        raise ValueError(f"{model.name} returned NaN or infinite logits; load it with dtype=torch.float32")
    sums = np.bincount([r for r, _ in where], weights=logp.numpy(), minlength=len(rows))
    return {row.index: Scored(float(s), row.scored[1] - row.scored[0]) for row, s in zip(rows, sums, strict=True)}
