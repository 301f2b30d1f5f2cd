"""How certain the model was while writing each sentence: token confidence, entropy and log-probability.

Direction: higher confidence means a more peaked distribution. Source: DeepConf (2508.15260), section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from anchors.models.attention_pass import TracePass
from anchors.models.base import CapabilityError
from anchors.models.tokens import token_spans
from anchors.scores import Scores, method
from anchors.stats import mean_interval
from anchors.trace import Trace

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

ELEMENTS = 1 << 23


class TokenConfidence(NamedTuple):
    """Per token of a text, about the distribution that predicted it; NaN for the first token."""

    confidence: Float[np.ndarray, " token"]
    entropy: Float[np.ndarray, " token"]
    logprob: Float[np.ndarray, " token"]


def token_confidence(text: str, model: LensModel, *, k: int = 20) -> TokenConfidence:
    """C_t = -(1/k) sum over the k largest P_t(j) of log P_t(j), with entropy and log p of the token itself, in nats."""
    if k < 1:
        raise ValueError(f"k is {k}; token confidence averages at least one log-probability")
    if not hasattr(model, "hidden"):
        raise CapabilityError(f"{model.name} gives no log-probabilities over its vocabulary; use a local model")
    ids = model.encode(text).ids
    model.check_length(len(ids), what="the text")
    hidden = model.hidden(ids, TracePass())
    parts = [np.full((3, 1), np.nan)]
    step = max(1, ELEMENTS // model.vocabulary)
    for first in range(0, len(ids) - 1, step):
        logp = torch.log_softmax(model.unembed(hidden[first : min(first + step, len(ids) - 1)]), -1)
        targets = torch.tensor(ids[first + 1 : first + 1 + len(logp)], device=logp.device)
        top = logp.topk(min(k, logp.shape[-1]), dim=-1).values
        entropy = torch.special.entr(logp.exp()).sum(-1)
        own = logp.gather(-1, targets[:, None])[:, 0]
        parts.append(torch.stack([-top.mean(-1), entropy, own]).double().cpu().numpy())
    return TokenConfidence(*np.concatenate(parts, axis=1))


@method("confidence", needs="model", unit="nats")
def sentence_confidence(trace: Trace, model: LensModel, *, k: int = 20, resamples: int = 1000, seed: int = 0) -> Scores:
    """Mean token confidence of each sentence, with a bootstrap interval over its tokens (DeepConf, 2508.15260).

    extras: `entropy` and `logprob`, the sentence means in nats. Confidence is not an effect: it has no null and says
    nothing about which outcome a sentence supports.
    """
    text = trace.text[: trace.boundaries[-1]]
    tokens = token_confidence(text, model, k=k)
    spans = token_spans(model.encode(text).offsets, trace.spans).spans
    rng = np.random.default_rng(seed)
    means = np.array([[_mean(row[a:b]) for row in tokens] for a, b in spans]).T
    low, high = np.array([mean_interval(tokens.confidence[a:b], rng, resamples=resamples) for a, b in spans]).T
    return Scores.of(
        trace,
        "confidence",
        means[0],
        low=low,
        high=high,
        n=np.array([int((~np.isnan(tokens.confidence[a:b])).sum()) for a, b in spans]),
        extras={"entropy": means[1], "logprob": means[2]},
        details={"model": model.name, "k": k, "seed": seed, "sign": "higher means more certain; no outcome is implied"},
    )


def _mean(x: np.ndarray) -> float:
    x = x[~np.isnan(x)]
    return float(x.mean()) if len(x) else float("nan")
