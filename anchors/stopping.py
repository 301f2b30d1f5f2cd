"""When a sweep may stop, and where its next rollouts pay: the rule behind `resample(..., stop=Anchors(k=5))`.

1. A round looks at counts only: who arrived at each boundary, passed on, left, and reached the outcome (`anchors.reuse`).
2. A sentence is named when its evidence (`stats.sequences`) passes e-BH at `fdr`: the rule of `Scores.anchors(fdr)`.
3. It is dropped when its importance is smaller than `minimum` by `doubt` standard errors, or when the always-valid bound on
   its size is below those of k named ones, but for `margin`. Else it is open, and so are the two named sentences about the
   k-th place while their bounds overlap by more than `margin`.
4. The next rollouts go where they lower the variance of open importances most per token, each weighed by how near its
   decision is. A rollout counts at every boundary it is expected to pass through.
5. Rounds end when nothing is open, or every boundary around what is open has its n rollouts.
The rule decides where to spend and no more: evidence and intervals hold at any time, whatever it does. What `doubt` risks is
to miss an anchor, never to name a false one.
"""  # fmt: skip

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from anchors.stats.multiple import benjamini_hochberg
from anchors.stats.sequences import Arrivals, anytime_interval, anytime_p


@dataclass(frozen=True)
class Anchors:
    """Stop once the k most important sentences are known, at false-discovery rate `fdr`.

    `minimum`: the least importance that must be found; a full sweep of 100 rollouts names 0.25 about as often as not.
    `doubt`: standard errors by which a sentence must be smaller than that to be dropped. `margin`: of two sentences nearer
    than this in size either may be called the larger. `level`: of the always-valid bounds sizes are compared by. `first`:
    rollouts every boundary gets at once. `growth`: a round draws this share of what was drawn before it; smaller saves
    rollouts, larger fills batches. `outcome`: None for the trace's own answer, "target", or an answer.

    Raises:
        ValueError: a value out of range.

    >>> Anchors(k=0)
    Traceback (most recent call last):
    ValueError: k is 0; at least one anchor must be asked for
    """

    k: int = 5
    fdr: float = 0.05
    minimum: float = 0.25
    doubt: float = 2.0
    margin: float = 0.1
    level: float = 0.95
    first: int = 4
    growth: float = 0.15
    outcome: str | None = None

    def __post_init__(self) -> None:
        for name, what in (("k", "anchor must be asked for"), ("first", "rollout a boundary is needed")):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least one {what}")
        for name in ("fdr", "minimum", "level"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        for name in ("doubt", "margin", "growth"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")


class Draws(NamedTuple):
    """Rollouts as the rule sees them: boundary drawn at, boundary left at (S at the end), outcome reached, tokens."""

    start: Int[np.ndarray, " rollout"]
    leave: Int[np.ndarray, " rollout"]
    hit: Bool[np.ndarray, " rollout"]
    tokens: Int[np.ndarray, " rollout"]


class Decisions(NamedTuple):
    """What is known of every sentence: named an anchor, dropped, or still open."""

    named: Bool[np.ndarray, " sentence"]
    dropped: Bool[np.ndarray, " sentence"]
    open: Bool[np.ndarray, " sentence"]


def count_arrivals(draws: Draws, sentences: int) -> Arrivals:
    """Counts at every sentence, each rollout at all boundaries it passes through.

    >>> draws = Draws(*(np.array(x) for x in ([0, 0, 1], [0, 2, 1], [True, True, False], [9, 9, 7])))
    >>> [x.tolist() for x in count_arrivals(draws, 2)]
    [[1, 1], [1, 1], [1, 0], [2, 1], [1, 1]]
    """
    left, left_hit = (_binned(draws.leave[mask], sentences) for mask in (slice(None), draws.hit))
    arrived, arrived_hit = (
        np.cumsum(_binned(draws.start[mask], sentences)) - np.cumsum(_binned(draws.leave[mask], sentences)) + gone
        for mask, gone in ((slice(None), left), (draws.hit, left_hit))
    )
    return Arrivals((arrived - left)[:-1], left[:-1], left_hit[:-1], arrived[1:], arrived_hit[1:])


def _binned(boundaries: np.ndarray, sentences: int) -> Int[np.ndarray, " boundary"]:
    return np.bincount(boundaries, minlength=sentences + 1)


def decide(counts: Arrivals, stop: Anchors) -> Decisions:
    """Which sentences are named, dropped and open; one not measured yet is open."""
    named = benjamini_hochberg(anytime_p(counts), fdr=stop.fdr)
    size = np.abs(counts.difference)  # NaN, so never small, where not measured
    small = ~named & (size + stop.doubt * _errors(counts) < stop.minimum)
    unknown = ~named & ~small
    if named.sum() + unknown.sum() <= stop.k:
        return Decisions(named, small, unknown)
    low, high = _sizes(counts, stop.level)
    bar = np.sort(np.append(np.where(named, low, 0.0), np.zeros(stop.k)))[-stop.k]
    beaten = unknown & (bar > 0) & (high < bar + stop.margin)
    return Decisions(named, small | beaten, (unknown & ~beaten) | _contested(counts, named, low, high, stop))


def _errors(counts: Arrivals) -> Float[np.ndarray, " sentence"]:
    """Standard errors of the importances, the rates drawn a little towards one half."""
    arrive, keep = _variances(counts)
    return np.sqrt(arrive / (counts.passed + counts.left + 1.0) + keep / (counts.kept + 1.0))


def _sizes(counts: Arrivals, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bound of |importance|; 0 and 1 where not measured."""
    low, high = anytime_interval(counts, level=level)
    low, high = np.nan_to_num(low, nan=-1.0), np.nan_to_num(high, nan=1.0)
    return np.maximum(0.0, np.maximum(low, -high)), np.maximum(np.abs(low), np.abs(high))


def _contested(counts: Arrivals, named: np.ndarray, low: np.ndarray, high: np.ndarray, stop: Anchors) -> np.ndarray:
    """The weakest of the k largest named sentences and its strongest rival, where they overlap by more than the margin."""
    contested = np.zeros(len(named), dtype=bool)
    order = np.argsort(-np.where(named, np.abs(np.nan_to_num(counts.difference)), -1.0), kind="stable")
    inside, rivals = order[: stop.k], order[stop.k : named.sum()]
    if len(rivals):
        weakest, rival = inside[np.argmin(low[inside])], rivals[np.argmax(high[rivals])]
        if high[rival] - low[weakest] > stop.margin:
            contested[[weakest, rival]] = True
    return contested


def next_targets(
    own: Int[np.ndarray, " boundary"], draws: Draws, *, stop: Anchors, n: int
) -> Int[np.ndarray, " boundary"] | None:
    """Rollouts every boundary should have after the next round, at most n; None when the sweep may stop.

    `own` counts those drawn at each boundary. A function of its arguments alone, so a run can be replayed from its store.
    """
    if not own.any():
        return np.full(len(own), min(stop.first, n))
    counts = count_arrivals(draws, len(own) - 1)
    undecided = decide(counts, stop).open & ((own[:-1] < n) | (own[1:] < n))
    if not undecided.any():
        return None
    size = max(len(own) // 2, round(stop.growth * own.sum()), 8)
    target = _allocate(own, draws, counts, undecided, stop, n, size)
    return target if (target > own).any() else None


def _allocate(
    own: np.ndarray, draws: Draws, counts: Arrivals, undecided: np.ndarray, stop: Anchors, n: int, size: int
) -> Int[np.ndarray, " boundary"]:
    """Greedy: each further rollout goes where it is expected to lower the weighted variance most per token."""
    reach, cost = _reach(counts), expected_tokens(draws, len(own))
    arrive, keep = _variances(counts)
    weight = np.where(undecided, _urgency(counts, stop), 0.0)
    arrivals = (counts.passed + counts.left + 1.0, counts.kept + 1.0)
    target = own.copy()
    for _ in range(size):
        worth = arrive / (arrivals[0] * (arrivals[0] + 1)), keep / (arrivals[1] * (arrivals[1] + 1))
        gain = (reach[:, :-1] @ (weight * worth[0]) + reach[:, 1:] @ (weight * worth[1])) / cost
        gain[target >= n] = -1.0
        best = int(np.argmax(gain))
        if gain[best] <= 0:
            break
        target[best] += 1
        arrivals = arrivals[0] + reach[best, :-1], arrivals[1] + reach[best, 1:]
    return target


def _reach(counts: Arrivals) -> Float[np.ndarray, "boundary later"]:
    """Chance that a rollout of one boundary arrives at another one: the product of the shares that pass on."""
    share = (counts.passed + 0.5) / (counts.passed + counts.left + 1.0)
    size = len(share) + 1
    reach = np.eye(size)
    for k in range(1, size):
        reach[:k, k] = reach[:k, k - 1] * share[k - 1]
    return reach


def _variances(counts: Arrivals) -> tuple[np.ndarray, np.ndarray]:
    """Variance of an importance times arrivals, and times outcomes kept, the rates drawn a little towards one half."""
    away = (counts.left + 0.5) / (counts.passed + counts.left + 1.0)
    p, q = (counts.kept_hit + 0.5) / (counts.kept + 1.0), (counts.left_hit + 0.5) / (counts.left + 1.0)
    return away * (q * (1 - q) + (1 - away) * (p - q) ** 2), away**2 * p * (1 - p)


def _urgency(counts: Arrivals, stop: Anchors) -> Float[np.ndarray, " sentence"]:
    """1 / (distance to the null or to the minimum, whichever is farther)^2: what is needed to decide."""
    size = np.abs(np.nan_to_num(counts.difference))
    return 1.0 / np.maximum(size, stop.minimum - size) ** 2


def expected_tokens(draws: Draws, boundaries: int) -> Float[np.ndarray, " boundary"]:
    """Mean tokens of a rollout at each boundary, a straight line through the means where one has none."""
    n = np.bincount(draws.start, minlength=boundaries)
    total = np.bincount(draws.start, weights=draws.tokens, minlength=boundaries)
    known = np.flatnonzero(n)
    mean = total[known] / n[known]
    return np.maximum(np.interp(np.arange(boundaries), known, mean), 1.0)


def leaves_at(text: str, position: int, trace: str, edges: Sequence[int]) -> int:
    """The boundary up to which a rollout of `position` wrote the trace's own sentences."""
    while position + 1 < len(edges) and text.startswith(trace[edges[position] : edges[position + 1]]):
        text = text[edges[position + 1] - edges[position] :]
        position += 1
    return position
