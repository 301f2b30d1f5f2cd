"""Votes compared at the same number of generated tokens.

1. A pool holds many whole traces of one problem. A redraw takes n of them in a random order, as if drawn one by one.
2. Weighted and filtered votes read the same n whole traces as the majority vote: their tokens are equal as they stand.
3. Online voting spends fewer tokens, T. Its majority vote reads the same traces from the first, whole, until T are spent:
   m whole traces fit, and the next is read with the probability that makes the expected tokens T.
4. Accuracies are means over redraws; the problem is the unit, and differences are paired within it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.answers import NO_ANSWER, answer_classes, same_answer
from anchors.confidence import KINDS, Kind
from anchors.online import EarlyStop, StoredTrace, replay_online
from anchors.voting import vote


class Pool(NamedTuple):
    """Whole traces of one problem and its right answer."""

    gold: str
    traces: Sequence[StoredTrace]


class Comparison(NamedTuple):
    """One way to vote against the majority vote at its tokens, per problem; means over redraws.

    `accuracy` and `majority` are shares of right votes, `tokens` what a vote costs, and `saved` the share of the tokens of
    all n traces that were not generated.
    """

    method: str
    accuracy: Float[np.ndarray, " problem"]
    majority: Float[np.ndarray, " problem"]
    tokens: Float[np.ndarray, " problem"]
    saved: Float[np.ndarray, " problem"]

    @property
    def gain(self) -> Float[np.ndarray, " problem"]:
        """Accuracy less that of the majority vote with the same tokens."""
        return self.accuracy - self.majority


def compare_votes(
    pools: Sequence[Pool],
    *,
    n: int,
    redraws: int = 64,
    kinds: Sequence[Kind] = KINDS,
    tops: Sequence[float] = (0.1, 0.9),
    rules: dict[str, EarlyStop] | None = None,
    seed: int = 0,
) -> list[Comparison]:
    """Every vote against the majority vote at equal tokens: weighted and filtered by every kind, and online by rule.

    Methods are called "majority", "weighted KIND", "KIND @ TOP" and "online NAME", the names of `rules`; a rule's budget is
    cut to n. 64 redraws are the paper's (DeepConf, 2508.15260).

    Raises:
        ValueError: a pool holds fewer than n traces.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[Float[np.ndarray, " figure"]]] = {}
    for pool in pools:
        if not 1 <= n <= len(pool.traces):
            raise ValueError(f"n is {n} and a pool holds {len(pool.traces)} traces; draw at least n a problem")
        pool = _with_classes(pool)
        drawn = [_redraw(pool, rng.permutation(len(pool.traces))[:n], kinds, tops, rules or {}) for _ in range(redraws)]
        for method in drawn[0]:
            found.setdefault(method, []).append(np.mean([row[method] for row in drawn], axis=0))
    return [Comparison(method, *np.array(rows).reshape(-1, 4).T) for method, rows in found.items()]


def _with_classes(pool: Pool) -> Pool:
    """The same pool with one string for equal answers, the gold one for right ones, so that votes compare strings."""
    named = answer_classes([trace.answer or NO_ANSWER for trace in pool.traces])
    right = {name for name in set(named) if same_answer(name, pool.gold)}
    answers = [pool.gold if name in right else None if name == NO_ANSWER else name for name in named]
    return Pool(pool.gold, [replace(trace, answer=a) for a, trace in zip(answers, pool.traces, strict=True)])


def _redraw(
    pool: Pool, order: np.ndarray, kinds: Sequence[Kind], tops: Sequence[float], rules: dict[str, EarlyStop]
) -> dict[str, tuple[float, float, float, float]]:
    """(right, right by majority at its tokens, tokens, share saved) of every method on one redraw."""
    traces = [pool.traces[i] for i in order]
    costs = np.array([trace.cost for trace in traces])
    correct = majority_curve([trace.answer for trace in traces], pool.gold)
    whole, tokens = float(correct[-1]), float(costs.sum())
    found = {"majority": (whole, whole, tokens, 0.0)}
    for method, answer in _offline(traces, kinds, tops):
        found[method] = (float(answer == pool.gold), whole, tokens, 0.0)
    for name, rule in rules.items():
        online = replay_online(traces, rule=rule)
        equal = majority_within(correct, costs, online.spent)
        found[f"online {name}"] = (float(online.vote.answer == pool.gold), equal, float(online.spent), online.saved)
    return found


def _offline(
    traces: Sequence[StoredTrace], kinds: Sequence[Kind], tops: Sequence[float]
) -> Iterator[tuple[str, str | None]]:
    answers = [trace.answer for trace in traces]
    for kind in kinds:
        weights = np.array([trace.confidence.of(kind) for trace in traces])
        yield f"weighted {kind}", vote(answers, weights).answer
        for top in tops:
            yield f"{kind} @ {top:g}", vote(answers, weights, top=top).answer


def majority_curve(answers: Sequence[str | None], gold: str) -> Float[np.ndarray, " traces"]:
    """1 where the majority of the first m answers is `gold`, for m = 0 to all of them; ties go to the first seen.

    Answers are compared as strings.

    >>> majority_curve(["3", "7", "7", None], "7")
    array([0., 0., 0., 1., 1.])
    """
    counts: dict[str, int] = {}
    right = [0.0]
    for answer in answers:
        if answer is not None:
            counts[answer] = counts.get(answer, 0) + 1
        right.append(float(bool(counts) and max(counts, key=lambda a: counts[a]) == gold))
    return np.array(right)


def majority_within(correct: Float[np.ndarray, " traces"], costs: np.ndarray, tokens: int) -> float:
    """Whether the majority vote that `tokens` buy is right: (1 - f) right(m) + f right(m + 1).

    m whole traces fit into the tokens, and the rest pays for a share f of the next; with probability f it is read, so that
    the expected tokens are equal. `correct` is that of `majority_curve`.

    >>> majority_within(np.array([0.0, 0.0, 1.0]), np.array([10, 20]), 15)
    0.25
    """
    paid = np.cumsum(costs)
    m = int(np.searchsorted(paid, tokens, side="right"))
    if m == len(costs):
        return float(correct[m])
    f = (tokens - (paid[m - 1] if m else 0)) / costs[m]
    return float((1 - f) * correct[m] + f * correct[m + 1])
