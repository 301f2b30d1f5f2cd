"""A scripted model with no torch: it follows a planted trace or leaves it, with known probabilities.

1. On the trace before sentence k it writes that sentence with probability `same[k]` and stays on the trace.
2. Otherwise it leaves: it writes something else, says each sentence from k on with probability `mention`, and answers.
3. On leaving at k the planted answer has probability `other[k]`; at the end of the trace it has `final`.

So P(answer | boundary k) = p[k] with p[S] = final and p[k] = same[k] p[k+1] + (1 - same[k]) other[k], and every
importance is known.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from anchors.answers import NO_ANSWER, extract_answer
from anchors.models.base import Completion, Job, Sampling, Scored
from anchors.rollouts import Rollout, Rollouts, Store
from anchors.similarity import Similarity
from anchors.trace import Trace

ANSWER, WRONG = "7", ("3", "5", "8", "2")
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


SAME_TEXT = Similarity("same text", 1.0, lambda reference, others: np.array([float(reference == o) for o in others]))


@dataclass(frozen=True)
class Planted:
    """A trace and the probabilities its model follows it with."""

    trace: Trace
    same: np.ndarray
    other: np.ndarray
    final: float
    mention: float
    silent: float

    @cached_property
    def p(self) -> np.ndarray:
        """P(answer) at every boundary."""
        p = [self.final]
        for same, other in zip(self.same[::-1], self.other[::-1], strict=True):
            p.append(same * p[-1] + (1 - same) * other)
        return np.array(p[::-1])

    @property
    def resampling(self) -> np.ndarray:
        return np.diff(self.p)

    @property
    def counterfactual(self) -> np.ndarray:
        return self.p[1:] - self.other

    @cached_property
    def effects(self) -> np.ndarray:
        """matrix[target, source]."""
        size = len(self.trace)
        said = np.full((size + 1, size), np.nan)
        for j in range(size):
            said[j, j] = self.same[j] + (1 - self.same[j]) * self.mention
            for k in range(j - 1, -1, -1):
                said[k, j] = self.same[k] * said[k + 1, j] + (1 - self.same[k]) * self.mention
        matrix = np.full((size, size), np.nan)
        for i in range(size):
            matrix[i + 1 :, i] = said[i + 1, i + 1 :] - said[i, i + 1 :]
        return matrix

    def returns(self, i: int, rounds: int) -> float:
        """Expected number of times sentence i comes back within so many rounds."""
        on = off = 0.0
        for _ in range(rounds):
            on, off = (
                self.same[i] * (1 + on) + (1 - self.same[i]) * self.mention * (1 + off),
                self.mention * (1 + off),
            )
        return on


def words(rng: random.Random, n: int = 4) -> str:
    text = " ".join("".join(rng.choices(SYLLABLES, k=3)) for _ in range(n))
    return text.capitalize() + "."


def plant(
    other: Sequence[float],
    *,
    same: float | Sequence[float] = 0.4,
    final: float = 0.9,
    mention: float = 0.2,
    silent: float = 0.0,
    seed: int = 0,
) -> Planted:
    """A trace of `len(other)` unrelated sentences whose importance follows from the probabilities."""
    rng = random.Random(seed)
    texts = [words(rng) for _ in other]
    ending = f"\n</think>\n\n\\boxed{{{ANSWER}}}"
    trace = Trace.from_text("Question?\n<think>\n", " ".join(texts) + ending, target=ANSWER, sentences=texts)
    sames = np.broadcast_to(np.asarray(same, dtype=float), len(texts)).copy()
    return Planted(trace, sames, np.asarray(other, dtype=float), final, mention, silent)


@dataclass(eq=False)
class ScriptedModel:
    """Follows a `Planted` trace; randomness comes only from (seed, job.trace, job.position, job.sample)."""

    planted: Planted
    name: str = "scripted"
    sampling: Sampling = field(default_factory=Sampling)

    def generate(self, jobs: Iterable[Job], *, sampling: Sampling, seed: int) -> Iterator[tuple[Job, Completion]]:
        for job in jobs:
            rng = random.Random(f"{seed}|{job.trace}|{job.position}|{job.sample}")
            text = self._continue(job.prefix, rng)
            yield job, Completion(text, len(text.split()), "stop")

    def _continue(self, prefix: str, rng: random.Random) -> str:
        planted, trace = self.planted, self.planted.trace
        k = self._followed(prefix)
        on, start, parts = len(prefix) == trace.boundaries[k], k, []
        while on and k < len(trace):
            on = rng.random() < planted.same[k]
            parts.append(trace.sentences[k].text if on else words(rng))
            k += on
        if not on:
            parts += [s.text for s in trace.sentences[max(k, start) :] if rng.random() < planted.mention]
        p = planted.final if on else planted.other[k]
        return "".join(f" {part}" for part in parts) + self._ending(p, rng)

    @lru_cache(maxsize=256)  # noqa: B019
    def _followed(self, prefix: str) -> int:
        """How many sentences of the trace a text starts with."""
        trace = self.planted.trace
        return max(i for i, edge in enumerate(trace.boundaries) if prefix.startswith(trace.text[:edge]))

    def _ending(self, p: float, rng: random.Random) -> str:
        if rng.random() < p:
            return f"\n</think>\n\n\\boxed{{{ANSWER}}}"
        if rng.random() < self.planted.silent:
            return "\n</think>\n\nI do not know."
        return f"\n</think>\n\n\\boxed{{{rng.choice(WRONG)}}}"

    def score(self, texts: Sequence[str], starts: Sequence[int]) -> list[Scored]:
        """log P(answer) after the longest prefix of the trace that a text starts with."""
        assert all(ANSWER in text[start:] for text, start in zip(texts, starts, strict=True))
        followed = [self._followed(text[:start]) for text, start in zip(texts, starts, strict=True)]
        return [Scored(float(np.log(self.planted.p[k])), 1) for k in followed]


class Drawn(Rollouts):
    """Rollouts kept as Python lists, whose distinct texts are read once: simulations need many."""

    def __init__(self, trace: Trace, rows: list[list[Rollout]]) -> None:
        super().__init__(Store(None), trace)
        self.rows = rows
        self.read = {text: extract_answer(text) or NO_ANSWER for text in {r.text for row in rows for r in row}}

    def at(self, position: int) -> list[Rollout]:
        return self.rows[position]

    def answers(self, position: int, **_: object) -> list[str]:
        return [self.read[rollout.text] for rollout in self.rows[position]]


def draw(planted: Planted, n: int, *, seed: int = 0) -> Rollouts:
    """n rollouts of the scripted model at every boundary, in a store."""
    trace, model = planted.trace, ScriptedModel(planted)
    jobs = [Job(trace.text, end, trace.id, k, r) for k, end in enumerate(trace.boundaries) for r in range(n)]
    rollouts = Rollouts.from_texts(trace, [])
    done = model.generate(jobs, sampling=model.sampling, seed=seed)
    rollouts.add(Rollout(job.position, job.sample, c.text, c.tokens, c.finish) for job, c in done)
    return rollouts


def draw_null(seed: int, n: int = 100) -> Drawn:
    """n rollouts at every boundary of a trace on which nothing matters: 5 to 30 sentences, one distribution throughout.

    Every rollout is one sentence, the trace's or another one, and an answer: one of two to six, or none.
    """
    rng = np.random.default_rng(seed)
    p, size = rng.uniform(0.05, 0.95), int(rng.integers(5, 31))
    trace = plant([p] * size, seed=seed).trace
    answers = (ANSWER, *WRONG[: rng.integers(1, 5)])
    endings = [*(f"\n</think>\n\n\\boxed{{{answer}}}" for answer in answers), "\n</think>\nNo idea."]
    odds = [p, *(1 - p) * rng.dirichlet(np.ones(len(answers)))]
    rows = []
    for k in range(size + 1):
        firsts = (trace.sentences[min(k, size - 1)].text, "Quite another thing.")
        picks = zip(rng.random(n) < rng.uniform(0.2, 0.8), rng.choice(len(odds), n, p=odds), strict=True)
        texts = [f" {firsts[int(other)]}{endings[e]}" for other, e in picks]
        rows.append([Rollout(k, r, text, 0, "stop") for r, text in enumerate(texts)])
    return Drawn(trace, rows)
