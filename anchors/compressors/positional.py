"""Compressors that look at place, length or given scores: the nulls, the positional ones, and the anchors themselves.

1. `random` is the null; `random_position` and `random_length` are random orders matched to the anchors' places and
   lengths, so that what anchors gain over them is neither place nor length.
2. `first`, `last` (`position` is another name for it), `stride`, `head_tail` and `length` look at nothing else.
3. `anchors` are the writer's scores, `reader_anchors` the reader's own: the ceiling of what scoring can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from anchors.compressors.base import Context, compressor, unit_sizes, unit_spans
from anchors.scores import Scores

CLOSEST: Final = 4
"""A matched random sentence is drawn from this many of the closest ones not yet drawn."""


@compressor("random", unit="sentence")
def random_order(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """Uniform random scores: the null every compressor must beat."""
    return ctx.rng(1).random(len(ctx.trace))


@compressor("random_position", unit="sentence", needs="writer_scores")
def random_position(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """A random order whose k-th sentence lies near the k-th anchor's place, and is another sentence where one is left."""
    return _matched(ctx, np.arange(len(ctx.trace), dtype=float), 2)


@compressor("random_length", unit="sentence", needs="writer_scores")
def random_length(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """A random order whose k-th sentence has about the k-th anchor's length, and is another one where one is left."""
    return _matched(ctx, length(ctx), 3)


def _matched(ctx: Context, values: Float[np.ndarray, " sentence"], purpose: int) -> Float[np.ndarray, " sentence"]:
    """For every anchor, best first, one of the `CLOSEST` unused sentences nearest to it in `values`."""
    rng, left, order = ctx.rng(purpose), list(range(len(values))), []
    for anchor in best_first(given(ctx.writer_scores)):
        others = [i for i in left if i != anchor] or left
        near = sorted(others, key=lambda i: (abs(values[i] - values[anchor]), i))[:CLOSEST]
        order.append(near[int(rng.integers(len(near)))])
        left.remove(order[-1])
    return ranked(order)


def best_first(scores: Scores) -> list[int]:
    """All sentences, highest score first, not measured last, ties in order."""
    return [int(i) for i in np.argsort(-np.where(np.isnan(scores.values), -np.inf, scores.values), kind="stable")]


def given(scores: Scores | None) -> Scores:
    """Scores that `compress_trace` has already asked for."""
    assert scores is not None
    return scores


def ranked(order: Sequence[int]) -> Float[np.ndarray, " unit"]:
    """Scores that put units in this order: n for the first, 1 for the last.

    >>> ranked([2, 0, 1])
    array([2., 1., 3.])
    """
    scores = np.empty(len(order))
    scores[list(order)] = np.arange(len(order), 0, -1, dtype=float)
    return scores


@compressor("first", unit="sentence")
def first(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """Earliest sentences first."""
    return ranked(range(len(ctx.trace)))


@compressor("last", unit="sentence")
def last(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """Latest sentences first: nearest to the answer, the strongest ranking by place alone."""
    return ranked(range(len(ctx.trace))[::-1])


@compressor("stride", unit="sentence")
def stride(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """Evenly spaced sentences at every budget: in the order of the binary van der Corput sequence."""
    size = len(ctx.trace)
    bits = max(1, (size - 1).bit_length())
    order = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits))
    return ranked([i for i in order if i < size])


@compressor("head_tail", unit="sentence")
def head_tail(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """From both ends inwards: first, last, second, second to last, and so on."""
    size = len(ctx.trace)
    return ranked([i // 2 if i % 2 == 0 else size - 1 - i // 2 for i in range(size)])


@compressor("length", unit="sentence")
def length(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """Longest sentences first, in the reader's tokens, or in characters without a reader."""
    return unit_sizes(ctx.trace, unit_spans(ctx.trace, "sentence"), ctx.reader).astype(float)


@compressor("anchors", unit="sentence", needs="writer_scores")
def anchors(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """The writer's signed scores: what supports the outcome most comes first, what speaks against it last."""
    return given(ctx.writer_scores).values


@compressor("reader_anchors", unit="sentence", needs="reader_scores")
def reader_anchors(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """The reader's own signed scores: the ceiling that the writer's scores are measured against."""
    return given(ctx.reader_scores).values
