"""How much of what rollouts write is computed, where each distinct sequence of tokens is computed once.

1. A rollout that repeats its text costs nothing until it leaves it (`anchors.models.engine`).
2. Rollouts that leave a text at the same place share what they have in common, judged by characters: a share of them is
   distinct.
3. Distinct ones among m rollouts grow as m^b (Heaps, 1978), b read off some rollouts and random halves of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from anchors.models.base import Job
from anchors.models.tokens import in_common
from anchors.rollouts import Rollout

HALVES: Final = 8
"""Random halves that are compared with the whole."""

Drawn = Sequence[tuple[Job, Rollout]]


class Sharing(NamedTuple):
    """The `share` of what some rollouts wrote off their texts that is distinct; of m rollouts m^`exponent` is."""

    rollouts: int = 1
    share: float = 1.0
    exponent: float = 1.0

    def of(self, rollouts: int) -> float:
        """The share when so many rollouts of the same texts are drawn together.

        >>> Sharing(10, 0.5, 0.5).of(40)
        0.25
        """
        return float(self.share * max(1.0, rollouts / self.rollouts) ** (self.exponent - 1))


def off_text(job: Job, rollout: Rollout) -> float:
    """The part of a rollout that comes after it left its text, by characters; 0 where it never did."""
    return 1 - in_common(job.text[job.end :], rollout.text) / max(1, len(rollout.text)) if rollout.text else 1.0


def sharing(drawn: Drawn) -> Sharing:
    """How far rollouts share what they write off their texts.

    >>> job = Job("2 + 2 = 4", 4, "t", 0, 0)
    >>> texts = ("2 = 4 or", "2 = 4 or", "3", "3", "1", "1")
    >>> sharing([(job, Rollout(0, i, text, 1, "stop")) for i, text in enumerate(texts)]).share
    0.5
    """
    tails = []
    for job, rollout in drawn:
        on = in_common(job.text[job.end :], rollout.text)
        tails.append((job.trace, job.end + on, rollout.text[on:]))
    written, half = sum(len(tail) for *_, tail in tails), len(tails) // 2
    if not written or not half:
        return Sharing()
    rng, whole = np.random.default_rng(0), _distinct(tails)
    halves = [_distinct([tails[i] for i in rng.permutation(len(tails))[:half]]) for _ in range(HALVES)]
    exponent = np.log(whole / max(1.0, np.mean(halves))) / np.log(len(tails) / half)
    return Sharing(len(tails), whole / written, float(np.clip(exponent, 0, 1)))


def _distinct(tails: Sequence[tuple[str, int, str]]) -> int:
    """Characters of different beginnings, among what left each text at each place."""
    ordered = sorted(tails)
    again = sum(in_common(a[2], b[2]) for a, b in pairwise(ordered) if a[:2] == b[:2])
    return sum(len(tail) for *_, tail in ordered) - again
