"""Token confidence of texts under a model: one forward pass a text, over all of its vocabulary.

1. The hidden states of the text, alone or with others of about its length in one padded pass.
2. Logits in blocks of rows; raw, or divided by a temperature and cut to a nucleus.
3. Of every row: minus the mean of the k largest log-probabilities, the entropy, and log p of the token that came.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anchors.confidence.definition import Definition
from anchors.models.attention_pass import TracePass
from anchors.models.base import CapabilityError, Sampling
from anchors.models.tokens import token_spans

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

ELEMENTS = 1 << 23
PADDED = 1 << 13
"""Logits, and tokens with their padding, that one block may hold."""


class TokenConfidence(NamedTuple):
    """Per token of a text, about the distribution that predicted it; NaN for the first token."""

    confidence: Float[np.ndarray, " token"]
    entropy: Float[np.ndarray, " token"]
    logprob: Float[np.ndarray, " token"]


def token_confidence(
    text: str, model: LensModel, *, k: int = 20, definition: Definition | None = None
) -> TokenConfidence:
    """C_t = -(1/k) sum over the k largest P_t(j) of log P_t(j), with entropy and log p of the token itself, in nats.

    `definition` takes the place of `k` and may ask for processed logits or the public implementation's rules.

    Raises:
        CapabilityError: the model gives no log-probabilities.
        ValueError: k < 1, or the text does not fit the model.
    """
    rule = definition or Definition(k=k)
    require_logits(model)
    ids = model.encode(text).ids
    model.check_length(len(ids), what="the text")
    hidden = model.hidden(ids, TracePass())
    parts = [np.full((3, 1), np.nan), *_blocks(model, hidden[:-1], ids[1:], rule)]
    return TokenConfidence(*np.concatenate(parts, axis=1))


def text_confidences(
    texts: Sequence[str], starts: Sequence[int], model: LensModel, *, definition: Definition | None = None
) -> list[TokenConfidence]:
    """Per text what `token_confidence` gives, for the tokens from character `starts[i]` on, texts batched by length.

    A token belongs to the side of `starts[i]` that holds its first character.
    """
    rule = definition or Definition()
    require_logits(model)
    encoded = [model.encode(text) for text in texts]
    for tokens in encoded:
        model.check_length(len(tokens.ids), what="the longest text")
    firsts = [_first(tokens.offsets, start) for tokens, start in zip(encoded, starts, strict=True)]
    found: dict[int, TokenConfidence] = {}
    for batch in _batches([len(tokens.ids) for tokens in encoded]):
        hidden = _padded_pass(model, [encoded[i].ids for i in batch])
        for row, i in enumerate(batch):
            ids, first = encoded[i].ids, firsts[i]
            known = max(first, 1)
            rows = list(_blocks(model, hidden[row, known - 1 : len(ids) - 1], ids[known:], rule))
            blank = np.full((3, known - first), np.nan)
            found[i] = TokenConfidence(*np.concatenate([blank, *rows], axis=1))
    return [found[i] for i in range(len(texts))]


def require_logits(model: LensModel) -> None:
    """CapabilityError for a model whose distribution over its vocabulary cannot be read."""
    if not hasattr(model, "hidden"):
        raise CapabilityError(f"{model.name} gives no log-probabilities over its vocabulary; use a local model")


def _first(offsets: Sequence[tuple[int, int]], start: int) -> int:
    return token_spans(offsets, [(start, start)]).spans[0][0]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in batches of like length, at most `PADDED` tokens with their padding."""
    batch: list[int] = []
    for i in np.argsort(lengths, kind="stable"):
        if batch and (len(batch) + 1) * lengths[i] > PADDED:
            yield batch
            batch = []
        batch.append(int(i))
    if batch:
        yield batch


@torch.inference_mode()
def _padded_pass(model: LensModel, rows: Sequence[Sequence[int]]) -> Float[Tensor, "row token width"]:
    """Hidden states of several texts; padding follows each text, where no token of it looks."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=model.device)
    positions = torch.arange(longest, device=model.device).expand(len(rows), -1)
    hidden = model.run_module(ids, positions, TracePass())
    if not bool(torch.isfinite(hidden).all()):
        raise ValueError(f"{model.name} returned NaN or infinite hidden states; load it with dtype=torch.float32")
    return hidden


def _blocks(
    model: LensModel, hidden: Float[Tensor, "token width"], ids: Sequence[int], rule: Definition
) -> Iterator[Float[np.ndarray, "3 token"]]:
    size = max(1, ELEMENTS // model.vocabulary)
    for a in range(0, len(ids), size):
        targets = torch.tensor(ids[a : a + size], device=hidden.device)
        yield read_logits(model.unembed(hidden[a : a + size]), targets, rule)


@torch.inference_mode()
def read_logits(
    logits: Float[Tensor, "token vocabulary"], ids: Int[Tensor, " token"], rule: Definition
) -> Float[np.ndarray, "3 token"]:
    """Confidence, entropy and log p of the tokens `ids`, one a row of logits, in nats."""
    logp = _processed(logits, rule.sampling)
    top = logp.topk(min(rule.k, logp.shape[-1]), dim=-1)
    own = logp.gather(-1, ids[:, None])
    values = top.values
    if rule.sampled:
        inside = (top.indices == ids[:, None]).any(-1, keepdim=True)
        values = torch.cat([values, torch.where(inside, -torch.inf, own)], dim=-1)
    counted = torch.isfinite(values)
    confidence = -torch.where(counted, values, 0.0).sum(-1) / counted.sum(-1)
    found = torch.stack([confidence, torch.special.entr(logp.exp()).sum(-1), own[:, 0]]).double().cpu().numpy()
    if rule.decimals is not None:
        found[0] = np.round(found[0], rule.decimals)
    return found


def _processed(logits: Float[Tensor, "token vocabulary"], sampling: Sampling | None) -> Tensor:
    """Log-probabilities, raw or as they are sampled from: -inf outside the nucleus, renormalised inside."""
    if sampling is None:
        return torch.log_softmax(logits, -1)
    logp = torch.log_softmax(logits / sampling.temperature, -1)
    if sampling.top_p == 1:
        return logp
    p, order = logp.exp().sort(dim=-1, descending=True)
    above = p.double().cumsum(-1) - p
    # Tokens of one probability are in or out together: the mass strictly above the first of them decides.
    level = torch.searchsorted(-p, -p)
    outside = torch.zeros_like(logp, dtype=torch.bool).scatter(-1, order, above.gather(-1, level) >= sampling.top_p)
    return torch.log_softmax(logp.masked_fill(outside, -torch.inf), -1)
