"""Evidence and intervals that hold at any time: after every rollout, however many were drawn and whatever decided it.

1. Boundary i has arrivals. Each passes on (it wrote the trace's sentence), or leaves and reaches the outcome or not. Boundary
   i + 1 has outcomes of its own. Given that it arrives, an arrival is independent of all that was drawn before.
2. The importance is I = E W with W = left (p - y), p the outcome's probability at i + 1 and y the outcome of one that left.
   For true m = I and p, the capital of bets on W - m is a martingale (Waudby-Smith & Ramdas 2024), and so is the likelihood
   ratio of the outcomes at i + 1 under a beta mixture around p (Robbins 1970). So is their product, of mean 1.
3. Its least value over p is the evidence e(m) against I = m: by Ville's inequality it ever reaches 1 / a with probability at
   most a. So 1 / e(0) is a p-value, and {m : e(m) < 1 / a} an interval of level 1 - a, at every time at once.
Evidence depends on counts only, not on their order, so nothing but the rollouts has to be kept.
"""  # fmt: skip

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from anchors.stats.types import Interval, Numbers

BETS: Final = np.array([0.08, 0.2, 0.4, 0.65, 0.92])
"""Bets as shares of the largest that cannot lose more than everything."""
WEIGHTS: Final = np.array([0.15, 0.25, 0.25, 0.2, 0.15])
STRENGTH: Final = 10.0
"""Observations the beta mixture is worth: it is narrowest, as far as it matters, where ten times as many are there."""
EDGE: Final = 1e-6
HALVINGS: Final = 14


class Arrivals(NamedTuple):
    """Counts at every sentence: arrivals at its boundary that passed on or left, and outcomes at the next boundary.

    Two samples without passing on, such as those of two boundaries, have `passed` 0.
    """

    passed: Int[np.ndarray, " sentence"]
    left: Int[np.ndarray, " sentence"]
    left_hit: Int[np.ndarray, " sentence"]
    kept: Int[np.ndarray, " sentence"]
    kept_hit: Int[np.ndarray, " sentence"]

    @property
    def difference(self) -> Float[np.ndarray, " sentence"]:
        """Share that left times (kept - left) in outcome; 0 where none left, NaN where nothing arrived or was kept."""
        arrived = self.passed + self.left
        with np.errstate(invalid="ignore", divide="ignore"):
            gap = self.kept_hit / self.kept - np.where(self.left > 0, self.left_hit / self.left, 0.0)
            found = self.left / arrived * gap
        return np.where((arrived > 0) & (self.kept > 0), found, np.nan)


def log_evidence(counts: Arrivals, value: float | np.ndarray = 0.0) -> Float[np.ndarray, " sentence"]:
    """ln e against I = value, below 0 where the counts speak for it; 0 where nothing was drawn.

    e = min over p of K(value, p) L(p), K = sum_j w_j prod (1 + b_j (W - value)), L the beta mixture's likelihood ratio.
    """
    p = _candidates(counts)
    return _least(counts, value, p, _log_beta_ratio(counts, p))


def _least(
    counts: Arrivals,
    value: float | np.ndarray,
    p: Float[np.ndarray, "sentence candidate"],
    ratio: Float[np.ndarray, "sentence candidate"],
) -> Float[np.ndarray, " sentence"]:
    """The least over candidates p of ln K(value, p) + ratio."""
    m = np.broadcast_to(np.asarray(value, dtype=float), counts.left.shape)[:, None]
    up, down = p - m, 1 - p + m  # the largest gain of W - m, and its largest loss
    possible = (up > EDGE / 2) & (down > EDGE / 2)
    up, down = np.where(possible, up, 1.0), np.where(possible, down, 1.0)
    bets = np.concatenate([BETS[:, None, None] / down, -BETS[:, None, None] / up])
    weights = np.concatenate([WEIGHTS, WEIGHTS])[:, None, None] / 2
    passed, hit, missed = (x[:, None] for x in (counts.passed, counts.left_hit, counts.left - counts.left_hit))
    logs = (
        passed * np.log1p(np.maximum(-bets * m, EDGE - 1))
        + hit * np.log1p(-bets * down)
        + missed * np.log1p(bets * up)
        + np.log(weights)
    )
    top = logs.max(0)
    capital = top + np.log(np.exp(logs - top).sum(0))
    return np.where(possible, capital + ratio, np.inf).min(-1)


def _candidates(counts: Arrivals) -> Float[np.ndarray, "sentence candidate"]:
    """Values of p to take the least over: dense within five standard errors of the rate, sparse everywhere."""
    n, k = counts.kept[:, None], counts.kept_hit[:, None]
    middle = np.arcsin(np.sqrt((k + 0.5) / (n + 1)))
    near = middle + np.linspace(-5, 5, 41) / (2 * np.sqrt(n + 1))
    everywhere = np.broadcast_to(np.linspace(0, np.pi / 2, 61), (len(n), 61))
    angles = np.concatenate([near, everywhere], axis=1).clip(0, np.pi / 2)
    return (np.sin(angles) ** 2).clip(EDGE, 1 - EDGE)


def _log_beta_ratio(
    counts: Arrivals, p: Float[np.ndarray, "sentence candidate"]
) -> Float[np.ndarray, "sentence candidate"]:
    """ln of the beta-binomial probability of the outcomes kept, mixed around p, over their probability under p."""
    return _beta_ratio(counts.kept_hit[:, None], counts.kept[:, None], p)


def _beta_ratio(k: Numbers, n: Numbers, p: Numbers) -> Any:
    from scipy.special import betaln

    k, n, p = (np.asarray(x, dtype=float) for x in (k, n, p))
    a, b = STRENGTH * p, STRENGTH * (1 - p)
    return betaln(a + k, b + n - k) - betaln(a, b) - k * np.log(p) - (n - k) * np.log1p(-p)


def anytime_interval(counts: Arrivals, *, level: float = 0.95) -> Interval:
    """Interval {m : e(m) < 1 / (1 - level)} of the importance, valid whenever drawing stopped; NaN where not measured.

    >>> counts = Arrivals(*(np.array([x]) for x in (60, 40, 4, 100, 90)))
    >>> [round(float(x[0]), 2) for x in anytime_interval(counts)]
    [0.18, 0.49]
    """
    value, limit = counts.difference, -np.log(1 - level)
    measured = ~np.isnan(value)
    rows = Arrivals(*(x[measured] for x in counts))
    p = _candidates(rows)
    ratio, ends = _log_beta_ratio(rows, p), []
    for side in (-1.0, 1.0):
        inside, outside = value[measured].copy(), np.full(measured.sum(), side)
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            covered = _least(rows, middle, p, ratio) < limit
            inside, outside = np.where(covered, middle, inside), np.where(covered, outside, middle)
        ends.append(np.full(len(value), np.nan))
        ends[-1][measured] = outside
    return Interval(*ends)


def anytime_p(counts: Arrivals) -> Float[np.ndarray, " sentence"]:
    """min(1, 1 / e(0)), valid whenever drawing stopped; Benjamini-Hochberg over these is e-BH (Wang & Ramdas 2022).

    NaN where not measured. e-BH keeps the false-discovery rate under any dependence between the sentences.
    """
    return np.where(np.isnan(counts.difference), np.nan, np.exp(-np.maximum(log_evidence(counts), 0.0)))


def anytime_proportion(k: Numbers, n: Numbers, *, level: float = 0.95) -> Interval:
    """Interval of a proportion k / n that holds whenever drawing stopped; NaN where n is 0.

    All p whose beta-mixture likelihood ratio is below 1 / (1 - level) (Robbins 1970).

    >>> [round(float(x), 2) for x in anytime_proportion(8, 10)]
    [0.25, 1.0]
    """
    k, n = (np.asarray(x, dtype=float) for x in (k, n))
    with np.errstate(invalid="ignore"):
        rate = np.where(n > 0, k / n, np.nan).clip(EDGE, 1 - EDGE)
    ends = []
    for side in (0.0, 1.0):
        inside, outside = rate.copy(), np.full(rate.shape, side)
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            covered = _beta_ratio(k, n, middle) < -np.log(1 - level)
            inside, outside = np.where(covered, middle, inside), np.where(covered, outside, middle)
        ends.append(np.where(n > 0, outside, np.nan)[()])
    return Interval(*ends)
