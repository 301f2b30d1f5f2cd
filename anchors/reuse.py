"""Rollouts that wrote the trace's own next sentence are rollouts of the next boundary too.

1. A continuation of boundary i that begins with sentence i, character for character, and is then cut, has the same
   distribution as a continuation of boundary i + 1: the model wrote the same prefix.
2. Passed on from boundary to boundary, a sweep of n a boundary holds many more wherever a sentence was near certain.
3. What was passed on to i + 1 and what was not are disjoint, so kept and replaced can be compared without sharing.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from anchors.rollouts import Rollout, Rollouts
from anchors.stats import Interval, difference_interval, wilson_interval

logger = logging.getLogger(__name__)


def reuse_rollouts(rollouts: Rollouts) -> Rollouts:
    """The same rollouts in memory, with every one counted at all boundaries it passes through.

    Tokens stay with the boundary a rollout was drawn at, so that the cost is unchanged. Exact where a boundary falls
    between the tokens the model wrote, as it does after a full stop with the space leading the next word, and where no
    rollout was cut off at its token limit (one that was had less room left; the number of those is logged).

    >>> from anchors.trace import Trace
    >>> trace = Trace.from_text("2 + 2?", "It is an easy sum. So it is four.", answer="4")
    >>> texts = [["It is an easy sum. So it is five.", "Cats sleep all day."], [" So it is four."], []]
    >>> [len(reuse_rollouts(Rollouts.from_texts(trace, texts)).at(k)) for k in range(3)]
    [2, 2, 1]
    """
    edges, text = rollouts.trace.boundaries, rollouts.trace.text
    rows: list[Rollout] = []
    passed: list[Rollout] = []
    limited = 0
    for position in range(len(edges)):
        here = [*rollouts.at(position), *passed]
        limited += sum(r.finish == "length" for r in passed)
        rows += [replace(r, position=position, sample=i) for i, r in enumerate(here)]
        if position + 1 < len(edges):
            sentence = text[edges[position] : edges[position + 1]]
            passed = [replace(r, text=r.text[len(sentence) :], tokens=0) for r in here if r.text.startswith(sentence)]
    if limited:
        logger.warning("%d reused rollouts of trace %s were cut off at their limit", limited, rollouts.trace.id)
    return rollouts.held(rows)


def passes_on(rollouts: Rollouts, position: int) -> Bool[np.ndarray, " _rollout"]:
    """Which rollouts of a boundary write the trace's own sentence there."""
    edges = rollouts.trace.boundaries
    sentence = rollouts.trace.text[edges[position] : edges[position + 1]]
    return np.array([rollout.text.startswith(sentence) for rollout in rollouts.at(position)], dtype=bool)


def replaced_difference(
    share: tuple[np.ndarray, np.ndarray],
    kept: tuple[np.ndarray, np.ndarray],
    replaced: tuple[np.ndarray, np.ndarray],
    *,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, " sentence"], Interval]:
    """share * (p_kept - p_replaced) with its interval; every pair is (k, n), arrays are [sentence].

    `share` counts the rollouts that wrote another sentence, so the product is P(outcome | kept) - P(outcome | written
    anew) with those that wrote the same one counted as kept. The interval recovers variances for a product (MOVER;
    Zou and Donner 2008) from Wilson's of the share and Newcombe's of the difference, with the term in both errors, which
    is what counts where few were replaced. Where none was, the value is 0 and the interval the share's upper limit.
    """  # fmt: skip
    low_share, high_share = wilson_interval(*share, level=level)
    low, high = difference_interval(*kept, *replaced, level=level)
    none = (replaced[1] == 0) & (kept[1] > 0) & (share[1] > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        x, p, q = (np.asarray(k / np.where(n > 0, n, np.nan), dtype=float) for k, n in (share, kept, replaced))
    y, low, high = np.where(none, 0.0, p - q), np.where(none, -1.0, low), np.where(none, 1.0, high)
    down = np.where(y >= 0, x - low_share, high_share - x)
    up = np.where(y >= 0, high_share - x, x - low_share)
    room = high_share - x
    below = np.sqrt((y * down) ** 2 + (x * (y - low)) ** 2 + (room * (y - low)) ** 2)
    above = np.sqrt((y * up) ** 2 + (x * (high - y)) ** 2 + (room * (high - y)) ** 2)
    value = x * y
    return value, Interval(value - below, value + above)
