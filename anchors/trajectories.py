"""What rollouts write in place of a sentence: how often something of another meaning, and how varied.

Source: the columns of these names in the released data of Thought Anchors (2506.19143).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from anchors.outcomes import first_sentence
from anchors.rollouts import Rollouts
from anchors.similarity import Similarity, default_similarity
from anchors.trace import Trace


def different_trajectories_fraction(
    rollouts: Rollouts, *, similarity: Similarity | None = None
) -> Float[np.ndarray, " sentence"]:
    """Share of the rollouts of boundary i whose first sentence means something else; NaN without rollouts."""
    similarity = default_similarity() if similarity is None else similarity
    different = other_meanings(rollouts.trace, firsts_of(rollouts), similarity)
    return np.array([mask.mean() if len(mask) else np.nan for mask in different])


def overdeterminedness(rollouts: Rollouts) -> Float[np.ndarray, " sentence"]:
    """1 - distinct / all first sentences written at boundary i, by exact string; NaN without rollouts.

    High where the model can hardly write anything else. It grows with the number of rollouts: compare at equal n.
    """
    return np.array([1 - len(set(row)) / len(row) if row else np.nan for row in firsts_of(rollouts)])


def firsts_of(rollouts: Rollouts) -> list[list[str]]:
    """The sentence each rollout wrote in place of the trace's, at every boundary that has one."""
    return [[first_sentence(rollout.text) for rollout in rollouts.at(i)] for i in range(len(rollouts.trace))]


def other_meanings(
    trace: Trace, firsts: list[list[str]], similarity: Similarity
) -> list[Bool[np.ndarray, " _rollout"]]:
    """Which rollouts of each boundary began with a sentence of another meaning than the trace's."""
    pairs = zip(trace.sentences, firsts, strict=True)
    return [similarity.different(sentence.text, row) for sentence, row in pairs]
