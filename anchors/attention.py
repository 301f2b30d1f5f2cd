"""Which sentences later sentences look back at: vertical scores, receiver heads, and what those heads do.

1. A[l, h, i, j] is the mean attention weight from the tokens of sentence i to those of sentence j.
2. The vertical score of j is the mean of A[i, j] over sentences i >= j + proximity.
3. A head is a receiver head when its vertical scores are peaked: the highest Fisher kurtosis over sentences.
4. Attention falls with distance, so a score is read against sources at the same distances (a recency-matched null).
Source: Thought Anchors (2506.19143), section 4; definitions in its released `attention_analysis`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.memory import memory_of
from anchors.models.base import WhiteBox
from anchors.scores import Scores, method
from anchors.stats import mean_interval
from anchors.trace import Trace

if TYPE_CHECKING:
    from torch import Tensor

Heads = Sequence[tuple[int, int]]


def vertical_scores(
    attention: Float[np.ndarray, "*head target source"], *, proximity: int = 4
) -> Float[np.ndarray, "*head source"]:
    """Mean attention to each sentence from sentences at least `proximity` later; NaN for the last ones.

    vertical(j) = mean over i >= j + proximity of A[i, j].

    >>> vertical_scores(np.tril(np.ones((3, 3))), proximity=1)
    array([ 1.,  1., nan])
    """
    if proximity < 1:
        raise ValueError(f"proximity is {proximity}; a sentence cannot receive from itself, use 1 or more")
    size = attention.shape[-1]
    far = np.tri(size, size, -proximity, dtype=bool)
    kept = np.where(far & ~np.isnan(attention), attention, 0.0).sum(-2)
    count = (far & ~np.isnan(attention)).sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, kept / count, np.nan)


def fisher_kurtosis(scores: Float[np.ndarray, "*head source"]) -> Float[np.ndarray, "*head"]:
    """Excess kurtosis over sentences, biased, NaN omitted: m4 / m2^2 - 3. NaN with fewer than 4 measured sentences."""
    centred = scores - _nanmean(scores, -1)[..., None]
    second, fourth = _nanmean(centred**2, -1), _nanmean(centred**4, -1)
    enough = (~np.isnan(scores)).sum(-1) >= 4
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(enough & (second > 0), fourth / second**2 - 3, np.nan)


def _nanmean(x: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what was measured; NaN, without a warning, where nothing was."""
    count = (~np.isnan(x)).sum(axis)
    return np.where(count > 0, np.nansum(x, axis) / np.maximum(count, 1), np.nan)


def top_heads(kurtosis: Float[np.ndarray, "layer head"], *, top: int) -> list[tuple[int, int]]:
    """The (layer, head) pairs of highest kurtosis, best first; heads without one are never chosen."""
    flat = np.where(np.isnan(kurtosis), -np.inf, kurtosis).ravel()
    order = [i for i in np.argsort(-flat, kind="stable")[:top] if np.isfinite(flat[i])]
    return [(int(i // kurtosis.shape[1]), int(i % kurtosis.shape[1])) for i in order]


@method("attention", needs="model", unit="attention weight")
def receiver_heads(
    trace: Trace,
    model: WhiteBox,
    *,
    top: int = 20,
    proximity: int = 4,
    heads: Heads | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Scores:
    """Mean vertical score of each sentence over the receiver heads (Thought Anchors, 2506.19143, section 4).

    `heads` fixes the heads, for instance to those found on other traces with `shared_receiver_heads`; by default they
    are chosen on this trace, which makes its own peaks look sharper. At most a quarter of all heads are chosen; where
    fewer than 4 sentences have a vertical score, no head has a kurtosis and all are used (`details` says so).
    The interval is a bootstrap over later sentences; `floor` and `recency_p` [source] come from sources at the same
    distances. There is no `p`: attention that concentrates is no effect on the answer, so the scores rank sentences
    (`top`) and name no anchors. `matrix` is the mean attention of the chosen heads; extras: `recency_p`, `kurtosis`
    [layer, head], `heads` [head, 2], `vertical` [layer, head, source], `pooled` [chosen head, target, source].

    Raises:
        ValueError: the trace has no more than `proximity` sentences, it does not fit memory, top < 1, or a head that does
            not exist.
    """
    if top < 1:
        raise ValueError(f"top is {top}; at least one receiver head is needed")
    if (estimate := memory_of("attention", trace, model, top=top, heads=heads)) is not None:
        estimate.check()
    shape = (model.layers, model.heads)
    if heads is None:
        kept, origin = min(top, max(1, shape[0] * shape[1] // 4)), "this trace"
        read = read_heads(trace, model, proximity, keep=kept)
        chosen = top_heads(read.kurtosis, top=kept)
        if not chosen:
            chosen, origin = [(int(i), int(j)) for i, j in np.ndindex(shape)], "all heads: no kurtosis"
            read = read_heads(trace, model, proximity, keep=chosen)
    else:
        chosen, origin = _known_heads(heads, shape), "the caller's"
        read = read_heads(trace, model, proximity, keep=chosen)
    pooled = np.stack([read.kept.pop(pair) for pair in chosen])
    mean = pooled.mean(0, dtype=float)
    low, high, n = _row_bootstrap(mean, proximity, resamples, seed)
    p, floor = _recency_null(mean, proximity, resamples, seed)
    return Scores.of(
        trace,
        "attention",
        vertical_scores(mean, proximity=proximity),
        low=low,
        high=high,
        n=n,
        floor=floor,
        matrix=np.where(np.tri(len(trace), k=-1, dtype=bool), mean, np.nan),
        extras={
            "kurtosis": read.kurtosis,
            "heads": np.array(chosen),
            "vertical": read.vertical,
            "pooled": pooled.astype(np.float32, copy=False),
            "recency_p": p,
        },
        details={
            "model": model.name,
            "proximity": proximity,
            "heads": len(chosen),
            "heads chosen on": origin,
            "null": "sources at the same distances",
            "seed": seed,
            "sign": "attention has no sign: higher means more attended",
        },
    )


def shared_receiver_heads(traces: Sequence[Trace], model: WhiteBox, *, top: int = 20, proximity: int = 4) -> Heads:
    """Receiver heads by mean kurtosis over many traces, as published, to be used on other traces.

    Raises:
        ValueError: no traces, one of no more than `proximity` sentences, or none long enough for a kurtosis.
    """
    kurtoses = [read_heads(trace, model, proximity, keep=()).kurtosis for trace in traces]
    found = top_heads(_nanmean(np.array(kurtoses), 0), top=top) if kurtoses else []
    if not found:
        raise ValueError(
            f"{len(kurtoses)} traces give no receiver heads: a kurtosis needs a trace of at least {proximity + 4} "
            f"sentences, and top={top} at least 1"
        )
    return found


class HeadReading(NamedTuple):
    """Vertical scores and kurtosis of every head, and the attention of those kept."""

    vertical: Float[np.ndarray, "layer head source"]
    kurtosis: Float[np.ndarray, "layer head"]
    kept: dict[tuple[int, int], Float[np.ndarray, "target source"]]


def read_heads(trace: Trace, model: WhiteBox, proximity: int, *, keep: int | Heads) -> HeadReading:
    """Read each head once; keep the attention of `keep` heads, by kurtosis if it is a number.

    A head is reduced to its vertical scores as soon as it is read, so memory does not grow with layers and heads.
    """
    if len(trace) <= proximity:
        raise ValueError(f"the trace has {len(trace)} sentences; receiver scores need more than proximity={proximity}")
    shape = (model.layers, model.heads)
    read = HeadReading(np.full((*shape, len(trace)), np.nan), np.full(shape, np.nan), {})

    def visit(layer: int, head: int, means: Tensor) -> None:
        attention = means.double().numpy(force=True)
        read.vertical[layer, head] = vertical_scores(attention, proximity=proximity)
        read.kurtosis[layer, head] = fisher_kurtosis(read.vertical[layer, head])
        if isinstance(keep, int) or (layer, head) in keep:
            read.kept[layer, head] = means.numpy(force=True).copy()
        if isinstance(keep, int) and len(read.kept) > keep:
            best = top_heads(read.kurtosis, top=keep)
            del read.kept[next(pair for pair in reversed(read.kept) if pair not in best)]

    if (each := getattr(model, "visit_attention", None)) is not None:
        each(trace.text, trace.spans, visit)
    else:
        attention = model.pooled_attention(trace.text, trace.spans)
        for layer, head in np.ndindex(shape):
            visit(layer, head, attention[layer, head])
    return read


def _known_heads(heads: Heads, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """The caller's heads, each once; ValueError for none, or for one that does not exist."""
    chosen = list(dict.fromkeys((int(layer), int(head)) for layer, head in heads))
    unknown = [pair for pair in chosen if not (0 <= pair[0] < shape[0] and 0 <= pair[1] < shape[1])]
    if unknown or not chosen:
        raise ValueError(
            f"heads are {unknown or 'empty'}; give (layer, head) pairs below ({shape[0]}, {shape[1]}), or heads=None"
        )
    return chosen


def _row_bootstrap(
    mean: Float[np.ndarray, "target source"], proximity: int, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Percentile interval of each source's score over its later sentences, and their number."""
    size = len(mean)
    low, high, n = np.full(size, np.nan), np.full(size, np.nan), np.zeros(size, dtype=int)
    rng = np.random.default_rng(seed)
    for j in range(size - proximity):
        rows = mean[j + proximity :, j]
        n[j] = (~np.isnan(rows)).sum()
        low[j], high[j] = mean_interval(rows, rng, resamples=resamples)
    return low, high, n


def _recency_null(
    mean: Float[np.ndarray, "target source"], proximity: int, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Upper-tail p and expectation of each score when only distance matters.

    For source j the entry at every distance d is replaced by a random entry of the same diagonal, its own included:
    the longest distances have few others, which makes p conservative. NaN for the last `proximity` sentences.
    """
    size = len(mean)
    p, floor = np.full(size, np.nan), np.full(size, np.nan)
    rng = np.random.default_rng(seed)
    observed = vertical_scores(mean, proximity=proximity)
    diagonals = {d: np.diagonal(mean, -d) for d in range(proximity, size)}
    for j in range(size - proximity):
        if np.isnan(observed[j]):
            continue
        seen = [d for d in range(proximity, size - j) if not np.isnan(mean[j + d, j])]
        bands = [diagonals[d][~np.isnan(diagonals[d])] for d in seen]
        null = np.mean([rng.choice(band, resamples) for band in bands], axis=0)
        p[j] = (1 + (null >= observed[j] - 1e-12).sum()) / (resamples + 1)
        floor[j] = null.mean()
    return p, floor


class AblationEffect(NamedTuple):
    """log p of the answer in nats: as it is, with the heads ablated, and with equally many random heads ablated."""

    base: float
    ablated: float
    random: Float[np.ndarray, " draw"]

    @property
    def effect(self) -> float:
        """base - ablated; positive means the heads support the answer."""
        return self.base - self.ablated


def ablate_heads(
    trace: Trace, model: WhiteBox, heads: Heads, *, answer: str | None = None, controls: int = 20, seed: int = 0
) -> AblationEffect:
    """Zero the output of heads (the input of the output projection) and measure the forced answer's log-probability.

    The released code zeroes slices of the projection's *output*, which are residual dimensions and no heads.

    Raises:
        ValueError: the trace has no answer, `heads` is empty, or one does not exist.
    """
    from anchors.forced import forced_answer

    text, start = forced_answer(trace, model, answer=answer)
    heads = _known_heads(heads, (model.layers, model.heads))
    rng = np.random.default_rng(seed)
    every = [(layer, head) for layer in range(model.layers) for head in range(model.heads)]
    picks = [rng.choice(len(every), len(heads), replace=False) for _ in range(controls)]
    base = model.score([text], [start])[0].logprob
    ablated = model.score([text], [start], ablate=heads)[0].logprob
    random = [model.score([text], [start], ablate=[every[i] for i in pick])[0].logprob for pick in picks]
    return AblationEffect(base, ablated, np.array(random))
