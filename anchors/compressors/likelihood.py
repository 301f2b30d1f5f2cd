"""Compressors that force the answer in the reader and see what a removal does to its log-probability.

1. `leave_one_out`: the drop when one sentence is removed.
2. `tts`: the mean of that drop (necessity) and of the gain when the sentence is all that is kept (sufficiency).
3. `spirit`: remove the sentence whose removal raises the answer's perplexity least, measure again, repeat.
4. `greedy`: the same over chunks of a few words, a share of them a round, so that the number of rounds is bounded.
Sources: TTS 2510.24941, SPIRIT 2502.13260, greedy pruning 2601.03066, restated in the project's list of systems. SPIRIT
also merges the sentences around a gap into new wording; here the join is of texts only, so no writer model is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from anchors.compressors.base import Context, Word, compressor, keep_words, split_words
from anchors.interventions import delete, keep
from anchors.reading import Forced, forced_logprobs
from anchors.trace import Trace

Kept = tuple[int, ...]

CHUNK: Final = 3
"""Words in a chunk of `greedy`."""
ROUNDS: Final = 8
"""Rounds of `greedy`, each with one batch of forced answers."""


def force(ctx: Context, traces: Sequence[Trace]) -> Forced:
    """The forced answer after each of these traces."""
    return forced_logprobs(list(traces), ctx.reader, answer=ctx.answer, stub=ctx.stub)


@compressor("leave_one_out", unit="sentence", needs=("reader", "answer"))
def leave_one_out(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """log p(answer | trace) - log p(answer | trace without the sentence), in nats; n + 1 forced answers."""
    cut = [delete(ctx.trace, [i]) for i in range(len(ctx.trace))]
    logprob = force(ctx, [ctx.trace, *cut]).logprob
    return logprob[0] - logprob[1:]


@compressor("tts", unit="sentence", needs=("reader", "answer"))
def tts(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """Mean of necessity y(trace) - y(without i) and sufficiency y(only i) - y(nothing), in nats; 2n + 2 answers."""
    size = len(ctx.trace)
    cut = [delete(ctx.trace, [i]) for i in range(size)]
    alone = [keep(ctx.trace, [i]) for i in range(size)]
    y = force(ctx, [ctx.trace, *cut, keep(ctx.trace, []), *alone]).logprob
    return ((y[0] - y[1 : size + 1]) + (y[size + 2 :] - y[size + 1])) / 2


@compressor("spirit", unit="sentence", needs=("reader", "answer"))
def spirit(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """The round at which each sentence goes, when the one that raises the answer's perplexity least goes first.

    Perplexity is exp(-log p / tokens). Of n sentences this forces n (n + 1) / 2 answers, in n batches.
    """

    def kept_value(kept: Sequence[Kept]) -> Float[np.ndarray, " edit"]:
        return force(ctx, [keep(ctx.trace, k) for k in kept]).per_token

    return eliminate(len(ctx.trace), len(ctx.trace), kept_value)


@compressor("greedy", unit="word", needs=("reader", "answer"))
def greedy(ctx: Context, *, rounds: int = ROUNDS, chunk: int = CHUNK) -> Float[np.ndarray, " word"]:
    """When each chunk of words goes, if in every round the chunks that cost the answer least log-probability go.

    Each of `rounds` rounds forces one answer per chunk left, and removes an equal share of them. The words of a chunk
    share its score.

    Raises:
        ValueError: rounds or chunk is below 1.
    """
    if min(rounds, chunk) < 1:
        raise ValueError(f"rounds is {rounds} and chunk is {chunk}; both must be at least 1")
    chunks = word_chunks(ctx.trace, chunk)

    def kept_value(kept: Sequence[Kept]) -> Float[np.ndarray, " edit"]:
        return force(ctx, [keep_words(ctx.trace, [w for c in k for w in chunks[c]]) for k in kept]).logprob

    order = eliminate(len(chunks), rounds, kept_value)
    return np.concatenate([np.full(len(words), order[c]) for c, words in enumerate(chunks)])


def word_chunks(trace: Trace, size: int) -> list[list[Word]]:
    """Runs of at most `size` words, none across two sentences."""
    chunks: list[list[Word]] = []
    for word in split_words(trace):
        if chunks and chunks[-1][0].sentence == word.sentence and len(chunks[-1]) < size:
            chunks[-1].append(word)
        else:
            chunks.append([word])
    return chunks


def eliminate(
    size: int, rounds: int, kept_value: Callable[[Sequence[Kept]], Float[np.ndarray, " edit"]]
) -> Float[np.ndarray, " unit"]:
    """Backward elimination: 0 for the unit removed first, size - 1 for the one that stays longest.

    In every round each unit left is removed in turn, the values of what stays are read in one call, and those whose
    removal leaves the highest value go: as many as are left over rounds left, rounded up. Equal values: earliest unit.

    >>> weights = np.array([3.0, 1.0, 2.0])
    >>> eliminate(3, 3, lambda kept: np.array([weights[list(k)].sum() for k in kept]))
    array([2., 0., 1.])
    """
    left, scores = list(range(size)), np.zeros(size)
    for turn in range(min(rounds, size)):
        values = kept_value([tuple(j for j in left if j != i) for i in left])
        share = -(-len(left) // (min(rounds, size) - turn))
        gone = [left[k] for k in np.argsort(-values, kind="stable")[:share]]
        for i in gone:
            scores[i] = size - len(left)
            left.remove(i)
    return scores
