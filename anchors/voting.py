"""One answer from many traces: majority, weighted and filtered votes, and how often such a vote is right.

1. Traces without an answer drop out first and are counted; so do traces whose weight was not measured (NaN).
2. Filter: of the rest, keep those whose weight is at least the (100 - eta)th percentile of their weights.
3. Vote: every kept trace gives its weight to its answer; the heaviest answer wins (DeepConf, 2508.15260, section 3).
4. Answers of equal weight: the one whose first voter comes first wins, and the vote says that it was tied.
5. `majority_at` and `pass_at` are expectations over all subsets of n traces, computed exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from jaxtyping import Float

from anchors.answers import NO_ANSWER, answer_classes, same_answer
from anchors.stats import Numbers

Answers = Sequence[str | None]

ROUNDING = 1e-5
"""Weights closer than this share of the larger one are equal: the confidence of one text differs by less between batches."""


@dataclass(frozen=True)
class Vote:
    """The answer a vote settled on, None without voters, and what it rests on.

    `support` is the weight of every answer, heaviest first. `voters` traces voted; `no_answer` had none, `unmeasured` had
    no weight, and `filtered` had too little of it. `tied` names the answers as heavy as the winner.
    """

    answer: str | None
    support: Mapping[str, float]
    voters: int
    no_answer: int = 0
    unmeasured: int = 0
    filtered: int = 0
    tied: tuple[str, ...] = ()

    @property
    def consensus(self) -> float:
        """beta = V(winner) / sum over answers of V (DeepConf, 2508.15260, section 3); NaN without weight."""
        total = sum(self.support.values())
        return float("nan") if self.answer is None or not total else self.support[self.answer] / total


def vote(answers: Answers, weights: Numbers | None = None, *, top: float = 1.0) -> Vote:
    """V(a) = sum of w_t over traces t that answer a; the answer with the largest V wins (2508.15260, section 3).

    `weights` [trace], such as a trace confidence, default to 1 each, a majority vote. `top` is eta / 100: only traces
    with w_t >= percentile_{100 - eta} of the weights of traces that can vote do. Answers are compared by
    `answer_classes`.

    Raises:
        ValueError: the two differ in length, a weight is negative, or `top` lies outside (0, 1].

    >>> vote(["7", "7", "3", None], [0.5, 0.4, 2.0, 9.0]).answer, vote(["7", "7.0", "3", None]).answer
    ('3', '7')
    """
    w = np.ones(len(answers)) if weights is None else np.asarray(weights, dtype=float)
    _check(answers, w, top)
    answered = np.array([answer is not None and answer != NO_ANSWER for answer in answers], dtype=bool)
    able = answered & ~np.isnan(w)
    kept = able & reaches(w, top_threshold(w[able], top=top)) if able.any() else able
    names = answer_classes([NO_ANSWER if answer is None else answer for answer in answers])
    support: dict[str, float] = {}
    for i in np.flatnonzero(kept):
        support[names[i]] = support.get(names[i], 0.0) + float(w[i])
    heaviest = max(support.values(), default=0.0)
    leaders = [answer for answer, weight in support.items() if reaches(weight, heaviest)]
    ranked = sorted(support, key=lambda answer: (answer not in leaders[:1], -support[answer]))
    return Vote(
        answer=leaders[0] if leaders else None,
        support={answer: support[answer] for answer in ranked},
        voters=int(kept.sum()),
        no_answer=int((~answered).sum()),
        unmeasured=int((answered & ~able).sum()),
        filtered=int((able & ~kept).sum()),
        tied=tuple(leaders[1:]),
    )


def _check(answers: Answers, weights: Float[np.ndarray, " trace"], top: float) -> None:
    if weights.shape != (len(answers),):
        raise ValueError(f"there are {len(answers)} answers and weights of shape {weights.shape}; give one a trace")
    if (weights < 0).any():
        raise ValueError(f"the smallest weight is {np.nanmin(weights)}; votes weigh 0 or more")
    if not 0 < top <= 1:
        raise ValueError(f"top is {top}; it is the share of traces that vote, in (0, 1] (0.1 keeps the top 10 %)")


def reaches(weight: Numbers, threshold: float) -> Any:
    """Whether a weight is at least the threshold, up to rounding; False for one that was not measured."""
    return np.asarray(weight) >= threshold - ROUNDING * abs(threshold)


def top_threshold(weights: Float[np.ndarray, " trace"], *, top: float) -> float:
    """percentile_{100 - eta} of the measured weights, linear between order statistics, with eta = 100 `top`.

    >>> top_threshold(np.arange(11.0), top=0.1)
    9.0
    """
    return float(np.percentile(weights[~np.isnan(weights)], 100 * (1 - top)))


def pass_at(correct: int, total: int, n: int) -> float:
    """P(at least one of n traces is right): 1 - C(total - correct, n) / C(total, n), unbiased (2107.03374, section 2.1).

    Of `total` traces drawn for one problem `correct` are right; the n are a random subset of them.

    Raises:
        ValueError: n or `correct` lies outside what was drawn.

    >>> pass_at(1, 4, 2)
    0.5
    """
    if not 0 <= correct <= total or not 1 <= n <= total:
        raise ValueError(f"correct={correct}, total={total}, n={n}: need 0 <= correct <= total and 1 <= n <= total")
    return 1 - comb(total - correct, n) / comb(total, n)


def majority_at(answers: Answers, gold: str, n: int, *, draws: int | None = None, seed: int = 0) -> float:
    """P(the majority of n traces answers `gold`), the n a random subset of the traces drawn for one problem.

    Exact by default, over all C(total, n) subsets; `draws` takes so many random subsets instead. Traces without an answer
    cast no vote but count among the n; a subset without any answer is wrong. A tie is worth 1 / (number of tied answers)
    where `gold` is among them, which is `vote`'s rule averaged over the order of the traces.

    Raises:
        ValueError: n lies outside 1 to the number of traces, or `draws` is below 1.

    >>> round(majority_at(["7", "7", "3"], "7", 1), 4), round(majority_at(["7", "7", "3"], "7", 2), 4)
    (0.6667, 0.6667)
    """
    if not 1 <= n <= len(answers):
        raise ValueError(f"n is {n}; it lies between 1 and the {len(answers)} traces drawn")
    if draws is not None and draws < 1:
        raise ValueError(f"draws is {draws}; take at least one subset, or leave it out for the exact value")
    right, wrong, silent = _ballots(answers, gold)
    if not right:
        return 0.0
    if draws is None:
        return _majority_exact(right, wrong, silent, n)
    rng = np.random.default_rng(seed)
    counts = rng.multivariate_hypergeometric([right, *wrong, silent], n, size=draws, method="marginals")[:, :-1]
    best = counts.max(axis=1)
    won = (counts[:, 0] == best) & (best > 0)
    return float((won / (counts == best[:, None]).sum(axis=1)).mean())


def _ballots(answers: Answers, gold: str) -> tuple[int, list[int], int]:
    """How many traces answer `gold`, how many each other answer, and how many none."""
    found = Counter(answer_classes([NO_ANSWER if answer is None else answer for answer in answers]))
    silent = found.pop(NO_ANSWER, 0)
    right = [answer for answer in found if same_answer(answer, gold)]
    return sum(found.pop(answer) for answer in right), list(found.values()), silent


def _majority_exact(right: int, wrong: Sequence[int], silent: int, n: int) -> float:
    """Sum over the number c of right traces in the subset of P(c, nobody has more) / (1 + number of answers tied at c).

    Counts in a random subset are independent binomials of one p, given that they add up to n; p = n / total keeps every
    term within double range. Rows of the polynomial count ties, its columns the traces used.
    """
    total = right + sum(wrong) + silent
    p = n / total
    own, absent = _binomial(right, p, n), _binomial(silent, p, n)
    others = [_binomial(count, p, n) for count in wrong]
    won = 0.0
    for c in range(1, min(right, n) + 1):
        rest = n - c
        table = absent[None, : rest + 1]
        for pmf in others:
            table = _with_answer(table, pmf, c, rest)
        if table.shape[1] > rest:
            won += float(own[c] * table[:, rest] @ (1 / np.arange(1, len(table) + 1)))
    return min(1.0, won / float(_binomial(total, p, n)[n]))


def _with_answer(
    table: Float[np.ndarray, "tie used"], pmf: Float[np.ndarray, " count"], c: int, rest: int
) -> np.ndarray:
    """One more answer, with fewer than c traces (no tie) or exactly c (one tie more), at most `rest` used in all."""
    width = min(table.shape[1] + min(len(pmf) - 1, c), rest + 1)
    ties = min(len(table) + (len(pmf) > c), 1 + rest // c)
    out = np.zeros((ties, width))
    for tie, row in enumerate(table):
        below = np.convolve(row, pmf[:c])[:width]
        if tie < ties:
            out[tie, : len(below)] += below
        if len(pmf) > c and tie + 1 < ties:
            level = row[: max(0, width - c)]
            out[tie + 1, c : c + len(level)] += pmf[c] * level
    return out


def _binomial(count: int, p: float, most: int) -> Float[np.ndarray, " count"]:
    """Binomial probabilities of 0 to min(count, most) successes."""
    from scipy.stats import binom

    return np.asarray(binom.pmf(np.arange(min(count, most) + 1), count, p))
