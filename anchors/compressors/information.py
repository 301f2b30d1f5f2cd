"""Compressors that read the reader's own distributions over the trace: entropy, self-information, attention.

1. One forward over prompt and reasoning gives every token's entropy, log-probability and confidence.
2. `step_entropy` and `confidence` pool them over sentences, `perplexity` over words.
3. `contrastive_perplexity` reads the reasoning again without the question; `attention_to_end` asks what the end of the
   thought looks back at.
Sources: step entropy 2508.03346, Selective-Context and LLMLingua (perplexity), LongLLMLingua (contrastive), DeepConf
2508.15260 (confidence), restated in the project's list of systems.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from anchors.compressors.base import Context, Unit, compressor, unit_spans
from anchors.confidence import TokenConfidence, token_confidence
from anchors.forced import BOXED
from anchors.models.base import CapabilityError
from anchors.models.tokens import token_spans

Ranges = list[tuple[int, int]]


@compressor("step_entropy_marker", unit="sentence", needs="reader", marker="[SKIP]")
@compressor("step_entropy", unit="sentence", needs="reader")
def step_entropy(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """Sum over the sentence's tokens of the entropy of the distribution that predicted each, in nats (2508.03346).

    The paper removes the lowest 80 % and leaves a marker: `compress_trace(..., method="step_entropy_marker", budget=0.2)`.
    """
    tokens, ranges = _read(ctx, ctx.trace.prompt, "sentence")
    return _sums(tokens.entropy, ranges)


@compressor("perplexity", unit="word", needs="reader")
def perplexity(ctx: Context) -> Float[np.ndarray, " word"]:
    """Self-information of each word under the reader, -sum of its tokens' log p in nats: predictable words go first."""
    tokens, ranges = _read(ctx, ctx.trace.prompt, "word")
    return _sums(-tokens.logprob, ranges)


@compressor("contrastive_perplexity", unit="sentence", needs="reader")
def contrastive_perplexity(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """log p(sentence | question, before) - log p(sentence | before), in nats: what the question explains of it.

    Without the question the reader sees only the opening think tag, where the prompt ends in one. A first token that
    nothing predicts there is left out on both sides.
    """
    prompt = ctx.trace.prompt
    tag = prompt.rfind("<think>")
    informed, ranges = _read(ctx, prompt, "sentence")
    blind, blind_ranges = _read(ctx, "" if tag < 0 else prompt[tag:], "sentence")
    gain = _sums(informed.logprob, ranges) - _sums(blind.logprob, blind_ranges)
    if blind_ranges[0][0] == 0:
        gain[0] -= np.nan_to_num(informed.logprob[ranges[0][0]])
    return gain


@compressor("confidence", unit="sentence", needs="reader")
def confidence(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """Mean token confidence of each sentence under the reader (DeepConf): what it was least sure of goes first."""
    tokens, ranges = _read(ctx, ctx.trace.prompt, "sentence")
    return np.array([_mean(tokens.confidence[a:b]) for a, b in ranges], dtype=float)


@compressor("attention_to_end", unit="sentence", needs="reader")
def attention_to_end(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """Attention from the closing think tag to each sentence: mean over layers, heads and the tokens of both.

    Where the answer stub has no closing tag, the whole stub takes its place.

    Raises:
        CapabilityError: the reader does not show its attention.
    """
    if not hasattr(ctx.reader, "pooled_attention"):
        raise CapabilityError(f"{ctx.reader.name} does not show its attention; use a local reader")
    stub = ctx.stub or getattr(ctx.reader, "stub", BOXED)
    end, tag, _ = stub.before.partition("</think>")
    text = ctx.trace.prompt + ctx.trace.reasoning
    spans = [*ctx.trace.spans, (len(text), len(text) + len(end + tag))]
    return ctx.reader.pooled_attention(text + end + tag, spans)[:, :, -1, :-1].double().mean((0, 1)).numpy()


def _read(ctx: Context, prompt: str, unit: Unit) -> tuple[TokenConfidence, Ranges]:
    """What the reader makes of every token after this prompt, and the token ranges of the units."""
    text, base = prompt + ctx.trace.reasoning, len(prompt)
    spans = [(base + a, base + b) for a, b in unit_spans(ctx.trace, unit)]
    return token_confidence(text, ctx.reader), token_spans(ctx.reader.encode(text).offsets, spans).spans


def _sums(row: Float[np.ndarray, " token"], ranges: Ranges) -> Float[np.ndarray, " unit"]:
    """Sums over token ranges; a first token that nothing predicts adds nothing."""
    return np.array([np.nansum(row[a:b]) for a, b in ranges], dtype=float)


def _mean(row: Float[np.ndarray, " token"]) -> float:
    row = row[~np.isnan(row)]
    return float(row.mean()) if len(row) else float("nan")
