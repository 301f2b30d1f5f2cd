"""One rollout token by token, with the distribution each token was drawn from, so that its reader may stop it.

1. The prefix is read once; every token then goes through the model alone, over the keys and values before it.
2. A token is drawn by the sampler of `model.generate` with the uniforms of (seed, trace, position, sample), and a draw that
   rounding could turn is decided by its referee, so the tokens are those that `generate` writes.
3. Whoever iterates stops the rollout by leaving the loop: what is not asked for is not computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anchors.models.attention_pass import LayerCache, TracePass
from anchors.models.base import CapabilityError, Completion, Job, Sampling
from anchors.models.endings import Endings
from anchors.models.randomness import stream
from anchors.models.sampling import MARGIN, sample
from anchors.models.ties import Referee

if TYPE_CHECKING:
    from anchors.models.lens import LensModel


class Written(NamedTuple):
    """A token and the raw logits [1, vocabulary] it was drawn from."""

    id: int
    logits: Float[Tensor, "1 vocabulary"]


def stream_rollout(job: Job, model: LensModel, *, sampling: Sampling, seed: int) -> Iterator[Written]:
    """Yield the tokens of the job's rollout as they are drawn, the end token last where there is one.

    Raises:
        CapabilityError: the job blocks characters, or the model cannot be run token by token.
        ValueError: the prefix is empty or leaves no room.
    """
    if job.blocked or not hasattr(model, "prefill"):
        raise CapabilityError(f"{model.name} cannot stream this rollout; it takes a local model and no blocked text")
    prefix = _prefix(job, model)
    streams = np.array([stream(seed, job.trace, job.position, job.sample)], dtype=np.uint64)
    hidden, past = model.prefill(prefix)
    referee = Referee(model, prefix, ())
    margin = referee.margin(MARGIN.get(model.dtype, 0.0), prefix, hidden)
    endings, limit = Endings(model, sampling), min(sampling.max_new_tokens, model.context - len(prefix))
    written: list[int] = []
    while True:
        logits, steps = model.unembed(hidden[-1:]), np.array([len(written)], dtype=np.uint64)
        drawn = sample(logits, sampling, streams=streams, steps=steps, margin=margin)
        if drawn.ties[0]:
            exact = referee.logits(len(prefix), written)
            drawn = sample(exact, sampling, streams=streams, steps=steps, margin=0.0)
        written.append(int(drawn.ids[0]))
        yield Written(written[-1], logits)
        if _stopped(endings, written) or len(written) >= limit:
            return
        run = TracePass(start=len(prefix) + len(written) - 1, past=past, record=True)
        hidden = model.hidden([*prefix, *written], run)
        past = [_joined(old, run.recorded[layer]) for layer, old in enumerate(past)]


def _prefix(job: Job, model: LensModel) -> list[int]:
    ids = model.encode(job.prefix).ids
    if not ids:
        raise ValueError(f"{model.name} has no beginning-of-text token, so it cannot continue an empty prefix")
    model.check_length(len(ids) + 1, what="the prefix with one new token")
    return ids


def _stopped(endings: Endings, ids: Sequence[int]) -> bool:
    return bool(endings.stopped(np.array(ids[-1:]), lambda _: ids)[0])


def _joined(old: LayerCache, new: LayerCache) -> LayerCache:
    return LayerCache(torch.cat([old.keys, new.keys], dim=1), torch.cat([old.values, new.values], dim=1))


def completion_of(ids: Sequence[int], job: Job, model: LensModel, *, sampling: Sampling) -> Completion:
    """The completion that all tokens of a finished rollout make: text up to the end token or through the stop string."""
    endings = Endings(model, sampling)
    finish = "stop" if _stopped(endings, ids) else "length"
    return endings.completion(_prefix(job, model), list(ids), finish)
