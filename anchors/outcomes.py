"""What the rollouts of a trace came to: their answers as classes, and which of them reached the outcome.

1. Answers are read from the stored texts, and grouped into classes of equal answers once for the whole trace.
2. No answer is a class of its own. It stays in every denominator unless `answered_only` asks for the published one.
3. The outcome is an answer, or any function of an answer; by default it is the answer the trace itself gave.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from anchors.answers import NO_ANSWER, answer_classes
from anchors.rollouts import Rollouts
from anchors.splitting import split_sentences
from anchors.trace import Trace

logger = logging.getLogger(__name__)

Outcome = str | Callable[[str], object]


@dataclass(frozen=True)
class Tally:
    """Answers at the S + 1 boundaries of a trace, one array entry for every rollout.

    `codes[k]` are answer classes 0..classes-1, `hit[k]` says which rollouts reached the outcome, `used[k]` which ones
    enter the denominators. `outcome` says in words what was counted.
    """

    outcome: str
    classes: int
    codes: tuple[Int[np.ndarray, " _rollout"], ...]
    hit: tuple[Bool[np.ndarray, " _rollout"], ...]
    answered: tuple[Bool[np.ndarray, " _rollout"], ...]
    used: tuple[Bool[np.ndarray, " _rollout"], ...]

    def counts(self, k: int, where: Bool[np.ndarray, " rollout"] | None = None) -> Int[np.ndarray, " answer"]:
        """How many rollouts at boundary `k` gave each answer."""
        return np.bincount(self.codes[k][_and(self.used[k], where)], minlength=self.classes)

    def reached(self, k: int, where: Bool[np.ndarray, " rollout"] | None = None) -> tuple[int, int]:
        """How many rollouts at boundary `k` reached the outcome, and of how many."""
        chosen = _and(self.used[k], where)
        return int(self.hit[k][chosen].sum()), int(chosen.sum())


def _and(mask: np.ndarray, where: np.ndarray | None) -> np.ndarray:
    return mask if where is None else mask & where


def tally_answers(rollouts: Rollouts, *, outcome: Outcome | None = None, answered_only: bool = False) -> Tally:
    """Read and classify every answer of `rollouts`.

    `outcome`: None, the trace's own answer (where it has none, the commonest answer at the last boundary that has one);
    "target", the trace's target; another string, that answer; a function, which is given each answer that is not
    `NO_ANSWER` and says whether it counts.

    Raises:
        ValueError: there are no rollouts, or the outcome asked for does not exist.
    """
    answers = [rollouts.answers(k) for k in range(len(rollouts.trace) + 1)]
    if not any(answers):
        raise ValueError(
            f"trace {rollouts.trace.id} has no {rollouts.kind} rollouts; draw some with resample(trace, model)"
        )
    wanted, words = _resolve(rollouts.trace, answers, outcome)
    distinct = sorted({answer for row in answers for answer in row})
    labels = _labels(distinct)
    hits = dict(zip(distinct, judge(distinct, wanted), strict=True))
    if not any(hits.values()):
        logger.warning("no rollout of trace %s reached the outcome: %s", rollouts.trace.id, words)
    answered = tuple(np.array([a != NO_ANSWER for a in row], dtype=bool) for row in answers)
    return Tally(
        outcome=words,
        classes=len(set(labels.values())),
        codes=tuple(np.array([labels[a] for a in row], dtype=int) for row in answers),
        hit=tuple(np.array([hits[a] for a in row], dtype=bool) for row in answers),
        answered=answered,
        used=answered if answered_only else tuple(np.ones(len(row), dtype=bool) for row in answers),
    )


def judge(answers: Sequence[str], outcome: Outcome) -> Bool[np.ndarray, " answer"]:
    """Which answers are the outcome; no answer only where the outcome is `NO_ANSWER` itself.

    >>> judge(["7", "8", NO_ANSWER], "7").tolist()
    [True, False, False]
    """
    if outcome == NO_ANSWER:
        return np.array([answer == NO_ANSWER for answer in answers], dtype=bool)
    distinct = sorted(set(answers) - {NO_ANSWER})
    if callable(outcome):
        good = {answer for answer in distinct if outcome(answer)}
    else:
        classes = answer_classes([outcome, *distinct])
        good = {answer for answer, label in zip(distinct, classes[1:], strict=True) if label == classes[0]}
    return np.array([answer in good for answer in answers], dtype=bool)


def resolve_outcome(rollouts: Rollouts, outcome: Outcome | None) -> tuple[Outcome, str]:
    """The outcome `tally_answers` counts and the words for it."""
    answers = [rollouts.answers(k) for k in range(len(rollouts.trace) + 1)]
    return _resolve(rollouts.trace, answers, outcome)


def _resolve(trace: Trace, answers: Sequence[Sequence[str]], outcome: Outcome | None) -> tuple[Outcome, str]:
    """The outcome to count and the words for it."""
    if callable(outcome):
        return outcome, f"answers accepted by {getattr(outcome, '__name__', 'a function')}"
    if outcome == "target":
        if trace.target is None:
            raise ValueError(
                f"outcome is 'target' but trace {trace.id} has no target; give the trace one or name an answer"
            )
        return trace.target, f"target {trace.target!r}"
    if outcome is not None:
        return outcome, f"answer {outcome!r}"
    if trace.answer is not None:
        return trace.answer, f"own answer {trace.answer!r}"
    for k in range(len(answers) - 1, -1, -1):
        given = [a for a in answers[k] if a != NO_ANSWER]
        if given:
            label = _labels(sorted(set(given)))
            commonest = Counter(label[a] for a in given).most_common(1)[0][0]
            answer = next(a for a in given if label[a] == commonest)
            return answer, f"commonest answer {answer!r} at boundary {k} (the trace gave none)"
    raise ValueError(
        f"neither trace {trace.id} nor any rollout gave an answer; name the outcome, for example outcome='target'"
    )


def _labels(distinct: Sequence[str]) -> dict[str, int]:
    """Class of each distinct answer, numbered from 0; `NO_ANSWER` has its own."""
    given = [answer for answer in distinct if answer != NO_ANSWER]
    keys = dict(zip(given, answer_classes(given), strict=True))
    number = {key: i for i, key in enumerate(dict.fromkeys(keys.values()))}
    labels = {answer: number[key] for answer, key in keys.items()}
    return labels | ({NO_ANSWER: len(number)} if len(given) < len(distinct) else {})


def rollout_reasoning(text: str) -> str:
    """The part of a rollout that still reasons: up to the closing think tag."""
    return text.partition("</think>")[0]


def first_sentence(text: str, *, window: int = 1000) -> str:
    """The first sentence a rollout wrote, stripped; empty where it stopped reasoning at once.

    >>> first_sentence(" I will add first. Then more."), first_sentence("\\n</think>\\nThe answer is 3.")
    ('I will add first.', '')
    """
    reasoning = rollout_reasoning(text)
    # Splitting is local: with three sentences in view the first one cannot change any more.
    while len(spans := split_sentences(reasoning[:window])) < 3 and window < len(reasoning):
        window *= 4
    return reasoning[slice(*spans[0])].strip() if spans else ""
