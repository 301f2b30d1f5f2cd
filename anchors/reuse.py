"""Rollouts that wrote the trace's own next sentence are rollouts of the next boundary too.

1. A continuation of boundary i that begins with sentence i, character for character, and is then cut, has the same
   distribution as a continuation of boundary i + 1: the model wrote the same prefix.
2. Passed on from boundary to boundary, a sweep of n a boundary holds many more wherever a sentence was near certain.
3. What was passed on to i + 1 and what was not are disjoint, so kept and replaced can be compared without sharing.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from anchors.rollouts import Rollout, Rollouts, Store
from anchors.stats import Interval, difference_interval, wilson_interval


def reuse_rollouts(rollouts: Rollouts) -> Rollouts:
    """The same rollouts in memory, with every one counted at all boundaries it passes through.

    Tokens stay with the boundary a rollout was drawn at, so that the cost is unchanged. Exact where a boundary falls
    between the tokens the model wrote, as it does after a full stop with the space leading the next word.

    >>> trace = Trace.from_text("2 + 2?", "It is an easy sum. So it is four.", answer="4")
    >>> texts = [["It is an easy sum. So it is five.", "Cats sleep all day."], [" So it is four."], []]
    >>> [len(reuse_rollouts(Rollouts.from_texts(trace, texts)).at(k)) for k in range(3)]
    [2, 2, 1]
    """
    trace, edges = rollouts.trace, rollouts.trace.boundaries
    store = Store(None, rollouts.store.settings)
    store.claim([trace])
    found = Rollouts(store, trace, kind=rollouts.kind)
    passed: list[Rollout] = []
    for position in range(len(edges)):
        own = rollouts.at(position)
        here = own + [_moved(r, position, len(own) + i) for i, r in enumerate(passed)]
        found.add(here)
        if position + 1 < len(edges):
            sentence = trace.text[edges[position] : edges[position + 1]]
            passed = [_cut(r, len(sentence)) for r in here if r.text.startswith(sentence)]
    return found


def _moved(rollout: Rollout, position: int, sample: int) -> Rollout:
    return Rollout(position, sample, rollout.text, 0, rollout.finish)


def _cut(rollout: Rollout, start: int) -> Rollout:
    return Rollout(rollout.position, rollout.sample, rollout.text[start:], 0, rollout.finish)


def passes_on(rollouts: Rollouts, position: int) -> list[bool]:
    """Which rollouts of a boundary write the trace's own sentence there."""
    edges = rollouts.trace.boundaries
    sentence = rollouts.trace.text[edges[position] : edges[position + 1]]
    return [rollout.text.startswith(sentence) for rollout in rollouts.at(position)]


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
    Zou and Donner 2008) from Wilson's of the share and Newcombe's of the difference. Where nothing was replaced the
    value is 0 and the interval is the share's upper limit to both sides.
    """  # fmt: skip
    low_share, high_share = wilson_interval(*share, level=level)
    low, high = difference_interval(*kept, *replaced, level=level)
    none = (replaced[1] == 0) & (kept[1] > 0) & (share[1] > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        x, p, q = (np.asarray(k / np.where(n > 0, n, np.nan), dtype=float) for k, n in (share, kept, replaced))
    y, low, high = np.where(none, 0.0, p - q), np.where(none, -1.0, low), np.where(none, 1.0, high)
    reach = np.where(none, high_share, x)
    down = np.where(y >= 0, x - low_share, high_share - x)
    up = np.where(y >= 0, high_share - x, x - low_share)
    value = x * y
    return value, Interval(value - np.hypot(y * down, reach * (y - low)), value + np.hypot(y * up, reach * (high - y)))
