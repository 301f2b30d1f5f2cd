"""A made-up writer and reader for transfer: answers are known sums over the sentences a text holds.

1. log p of the forced answer a token is `base` plus the weights of the sentences seen, plus what pairs of them add; a
   blocked sentence counts half.
2. A continuation answers 7 with probability `alone` plus the chances of the sentences seen. Sample s answers 7 where the
   s-th number of the van der Corput sequence is below it, so that over 2^m samples a multiple of 2^-m is met exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anchors.forced import AnswerStub
from anchors.models.base import CapabilityError, Completion, Job, Sampling, Scored, Tokens
from anchors.rollouts import Rollouts, Store
from anchors.scores import Scores
from anchors.trace import Trace

SIZE = 16
STUB = AnswerStub("\n</think>\nThe answer is ", ".")
YES, NO = "\n</think>\n\n\\boxed{7}", "\n</think>\n\n\\boxed{3}"


def van_der_corput(sample: int) -> float:
    """0, 1/2, 1/4, 3/4, 1/8, ...: the binary digits of `sample` mirrored at the point."""
    return sum(int(bit) / 2 ** (place + 1) for place, bit in enumerate(reversed(f"{sample:b}")))


class BlackBox:
    """Continues a text and does nothing else."""

    sampling = Sampling()
    name = "a server"

    def __init__(self, chances: dict[str, float] | None = None, *, alone: float = 0.5, name: str = "a server") -> None:
        self.chances, self.alone, self.name = chances or {}, alone, name
        self.jobs: list[Job] = []

    def chance(self, text: str) -> float:
        return self.alone + sum(chance for sentence, chance in self.chances.items() if sentence in text)

    def writes(self, job: Job) -> str:
        # Two neighbours share a value, so that even and odd samples reach the same share.
        return YES if van_der_corput(job.sample // 2) < self.chance(job.prefix) else NO

    def generate(self, jobs: Iterable[Job], *, sampling: Sampling, seed: int) -> Iterator[tuple[Job, Completion]]:
        for job in jobs:
            self.jobs.append(job)
            text = self.writes(job)
            yield job, Completion(text, len(text.split()), "stop")


@dataclass(eq=False)
class Reader(BlackBox):
    """A black box that also scores text; `limit` is its context in words, `unknown` a character it cannot spell."""

    weights: dict[str, float] = field(default_factory=dict)
    chances: dict[str, float] = field(default_factory=dict)
    name: str = "reader"
    together: dict[tuple[str, str], float] = field(default_factory=dict)
    alone: float = 0.5
    base: float = -9.0
    limit: int = 10_000
    unknown: str = "~"
    stub: AnswerStub = STUB
    layers: int = 1
    heads: int = 1
    scored: list[str] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    def encode(self, text: str) -> Tokens:
        if self.unknown in text:
            raise ValueError(f"{self.name} cannot spell {self.unknown!r}")
        offsets = [m.span() for m in re.finditer(r" *\S+|\s", text)]
        return Tokens(list(range(len(offsets))), offsets)

    def logprobs(self, text: str, **options: Any) -> Any:
        raise CapabilityError(f"{self.name} has no distributions")

    def pooled_attention(self, text: str, spans: Any) -> Any:
        raise CapabilityError(f"{self.name} has no attention")

    def score(
        self, texts: Sequence[str], starts: Sequence[int], *, block: Any = None, ablate: Any = ()
    ) -> list[Scored]:
        return [self._score(text, start, block) for text, start in zip(texts, starts, strict=True)]

    def _score(self, text: str, start: int, block: tuple[int, int] | None) -> Scored:
        self.scored.append(text)
        if len(self.encode(text).ids) > self.limit:
            raise ValueError(f"the text has more than {self.limit} tokens, the context of {self.name}")
        assert text[start:].startswith(" 7.")
        hidden = "" if block is None else text[slice(*block)]
        y = self.base + sum(w * (0.5 if s in hidden else 1.0) for s, w in self.weights.items() if s in text)
        y += sum(w for (a, b), w in self.together.items() if a in text and b in text)
        return Scored(2 * y, 2)


class Local(Reader):
    """A reader whose attention can be cut at several places at once, as a local model's can (see `local_scoring`)."""

    run_module = None

    def score_variant(self, text: str, start: int, blocked: Sequence[tuple[int, int]]) -> Scored:
        whole = self._score(text, start, None)
        hidden = [text[a:b] for a, b in blocked]
        lost = sum(w / 2 for s, w in self.weights.items() if any(s in h for h in hidden))
        return Scored(whole.logprob - 2 * lost, 2)


def local_scoring(monkeypatch: Any) -> None:
    """Let `forced_logprobs` score a made-up local reader."""

    def score(reader: Local, rows: Sequence[Any]) -> list[Scored]:
        return [reader.score_variant(row.text, row.start, row.blocked) for row in rows]

    monkeypatch.setattr("anchors.models.variants.score_variants", score)


def letters(number: int) -> str:
    """A number in letters, so that it counts as a word: 12 is abc with a for 0."""
    return "".join(chr(97 + int(digit)) for digit in f"{number:03d}")


def build_trace(
    number: int = 0, words: Sequence[int] = (4,) * SIZE, *, texts: dict[int, str] | None = None, **options: Any
) -> Trace:
    """A trace of sentences of so many words, no two alike in any two traces; `texts` replaces some of them."""
    rows = [f"{letters(number)}x{letters(i)} " + "word " * (n - 2) + "end." for i, n in enumerate(words)]
    rows = [(texts or {}).get(i, row) for i, row in enumerate(rows)]
    options = {"answer": "7", "id": f"t{number}"} | options
    trace = Trace.from_text(f"Q{number}\n<think>\n", " ".join(rows), sentences=rows, **options)
    assert len(trace) == len(words)
    return trace.with_categories(["active_computation"] * len(trace))


def planted(trace: Trace, effects: dict[int, tuple[float, float]]) -> tuple[np.ndarray, dict[str, float]]:
    """Writer's values and the reader's weights at the same sentences; 0.01 and none elsewhere."""
    values, weights = np.full(len(trace), 0.01), {}
    for i, (value, weight) in effects.items():
        values[i] = value
        weights[trace.sentences[i].text] = weight
    return values, weights


def by_p(values: np.ndarray, named: Iterable[int]) -> np.ndarray:
    """p-values under which exactly the named sentences are anchors."""
    return np.where(np.isin(np.arange(len(values)), list(named)), 1e-9, 0.9)


def written(trace: Trace, values: Any, named: Iterable[int] | None = None, **options: Any) -> Scores:
    """Scores of the writer, exact, whose anchors are the named sentences (None: the top k)."""
    values = np.asarray(values, dtype=float)
    p = None if named is None else by_p(values, named)
    return Scores.of(trace, "made up", values, p=p, **({"details": {"model": "writer"}} | options))


def planted_run(
    effects: Sequence[dict[int, tuple[float, float]]], **options: Any
) -> tuple[list[Scores], dict[str, float], list[Trace]]:
    """Scores of one trace for every entry of `effects`, and the weights of a reader of them all."""
    scores, weights, traces = [], {}, []
    for number, row in enumerate(effects):
        trace = build_trace(number, **options)
        values, more = planted(trace, row)
        weights |= more
        scores.append(written(trace, values, row))
        traces.append(trace)
    return scores, weights, traces


def rollouts(trace: Trace, texts: Sequence[Sequence[str]], **settings: Any) -> Rollouts:
    """Rollouts of the writer: `texts[k][s]` is sample s of boundary k."""
    made = Rollouts.from_texts(trace, texts)
    store = Store(None, {"model": "writer", **settings})
    store.claim([trace])
    found = Rollouts(store, trace)
    found.add(row for k in range(len(trace) + 1) for row in made.at(k))
    return found


def halves(trace: Trace, even: Sequence[float], odd: Sequence[float], n: int = 24) -> Rollouts:
    """Rollouts whose even samples answer 7 with chance even[k] at boundary k, the odd ones with odd[k]."""
    rows = []
    for k in range(len(trace) + 1):
        hits = [round(p[k] * n / 2) for p in (even, odd)]
        rows.append([YES if s // 2 < hits[s % 2] else NO for s in range(n)])
    return rollouts(trace, rows)


def step(at: int, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Chances that rise from low to high at one sentence."""
    return [low] * (at + 1) + [high] * (SIZE - at)
