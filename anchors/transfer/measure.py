"""Effects of removing sentences on what a reader answers: the quantity every transfer statistic is made of.

1. An operation turns a trace and a set of its sentences into edits; where it draws (a resample), into several, averaged.
2. `effect(X) = y(trace) - y(operation(trace, X))`, y the reader's outcome. Positive: X supports the outcome.
3. "forced": y is the log-probability of the forced answer a token, in nats, without sampling noise. "free": P(outcome)
   over n continuations of the whole trace. "handover": P(outcome) over n continuations of the trace up to the sentence
   itself, the reader finishing; a set's effect is then the mean of its sentences'.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.answers import NO_ANSWER
from anchors.forced import BOXED
from anchors.interventions import Edit, block, delete, keep, paraphrase, replace
from anchors.models.base import Job, Sampling
from anchors.outcomes import first_sentence
from anchors.reading import forced_logprobs, free_answers, shares
from anchors.rollouts import Rollouts
from anchors.similarity import Similarity
from anchors.trace import Trace

Outcome = Literal["forced", "free", "handover"]
Key = tuple[str, str, tuple[int, ...]]
OUTCOMES: tuple[Outcome, ...] = ("forced", "free", "handover")
OPERATIONS = ("delete", "block", "replace_reader", "replace_writer", "paraphrase")
DRAWS, DRAW_TOKENS, TRIES = 4, 96, 24


class Unreadable(ValueError):
    """A model cannot take a text of this trace: it is too long for its context, or its tokenizer cannot spell it."""


@contextmanager
def about_text(model: Any, texts: Sequence[str]) -> Iterator[None]:
    """Turn a model's ValueError into `Unreadable` where one of these texts is at fault; any other goes through."""
    try:
        yield
    except ValueError as error:
        if _at_fault(model, texts):
            raise Unreadable(str(error)) from error
        raise


def _at_fault(model: Any, texts: Sequence[str]) -> bool:
    """Whether a text cannot be spelled or is too long; a model that shows neither tokens nor context is believed."""
    if not hasattr(model, "encode") or not hasattr(model, "context"):
        return True
    stub = getattr(model, "stub", BOXED)
    for text in texts:
        try:
            if len(model.encode(text + stub.before + stub.after).ids) >= model.context:
                return True
        except ValueError:
            return True
    return False


def length_in(reader: Any) -> Callable[[str], int]:
    """Length of a text in the reader's tokens, in characters where it has no tokenizer here."""
    return len if not hasattr(reader, "encode") else lambda text: len(reader.encode(text).ids)


class Values(NamedTuple):
    """The outcome of every edit in its unit, P(the answer given is the outcome), and P(answered), NaN where forced."""

    outcome: Float[np.ndarray, " edit"]
    probability: Float[np.ndarray, " edit"]
    answered: Float[np.ndarray, " edit"]


@dataclass(frozen=True)
class Ask:
    """How a model is asked: which outcome, for which answer, over how many continuations.

    A continuation without an answer does not reach the outcome; with `answered_only` it is not counted. `memory` holds
    what was read, so that no edit is read twice.
    """

    model: Any
    outcome: Outcome
    answer: str
    n: int
    seed: int
    sampling: Sampling | None = None
    answered_only: bool = False
    memory: dict[Key, tuple[float, float, float]] = field(default_factory=dict, compare=False, repr=False)

    def scored_tokens(self, trace: Trace) -> float:
        """Tokens the forced answer is scored over, which turn nats a token into nats; 1 for probabilities."""
        if self.outcome != "forced":
            return 1.0
        with about_text(self.model, [trace.prompt + trace.reasoning + self.answer]):
            return float(forced_logprobs([trace], self.model, answer=self.answer).tokens[0])

    def values(self, edits: Sequence[Edit]) -> Float[np.ndarray, " edit"]:
        """One number an edit: nats a token ("forced"), or a probability (NaN where only answers count and none came)."""
        found = self.read(edits)
        if not self.answered_only or self.outcome == "forced":
            return found.outcome
        return np.where(found.answered > 0, found.outcome / np.maximum(found.answered, 1e-12), np.nan)

    def read(self, edits: Sequence[Edit]) -> Values:
        """Outcome and probability of every edit; equal edits are read once."""
        new = {key: edit for edit in edits if (key := _key(edit)) not in self.memory}
        if new:
            self.memory.update(zip(new, self._read(list(new.values())), strict=True))
        rows = np.array([self.memory[_key(edit)] for edit in edits], dtype=float).reshape(-1, 3)
        return Values(*rows.T)

    def _read(self, edits: Sequence[Edit]) -> list[tuple[float, float, float]]:
        """(outcome, probability, answered) of every edit."""
        texts = [edit.trace.prompt + edit.trace.reasoning for edit in edits]
        if self.outcome == "forced":
            with about_text(self.model, [text + self.answer for text in texts]):
                forced = forced_logprobs(edits, self.model, answer=self.answer)
            pairs = zip(forced.per_token, np.exp(forced.logprob), strict=True)
            return [(float(y), float(p), float("nan")) for y, p in pairs]
        with about_text(self.model, texts):
            drawn = free_answers(edits, self.model, n=self.n, seed=self.seed, sampling=self.sampling)
        reached = shares(drawn, self.answer)
        given = [float(np.mean([a != NO_ANSWER for a in row])) for row in drawn]
        return [(float(p), float(p), g) for p, g in zip(reached, given, strict=True)]


def _key(edit: Edit) -> Key:
    return edit.trace.prompt, edit.trace.reasoning, tuple(edit.blocked)


@dataclass(frozen=True)
class Operations:
    """What the operations need beside the trace: other texts for each sentence, by sentence, and a paraphraser."""

    writer: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    reader: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    paraphrase: Callable[[str], str] | None = None

    def edits(self, operation: str, trace: Trace, sentences: Sequence[int]) -> list[Edit]:
        """The edits of one operation on one set of sentences; none where there is no other text for one of them."""
        if operation == "delete":
            return [Edit(delete(trace, sentences))]
        if operation == "block":
            return [block(trace, sentences)]
        if operation == "paraphrase":
            return [Edit(paraphrase(trace, sentences, self.paraphrase))] if self.paraphrase else []
        texts = {"replace_writer": self.writer, "replace_reader": self.reader}[operation]
        rows = [texts.get(i, ()) for i in sentences]
        draws = min((len(row) for row in rows), default=0)
        chosen = ({i: row[d] for i, row in zip(sentences, rows, strict=True)} for d in range(draws))
        return [Edit(replace(trace, texts)) for texts in chosen]


def set_effects(
    trace: Trace, ask: Ask, sets: Sequence[Sequence[int]], operation: str, operations: Operations
) -> Float[np.ndarray, " set"]:
    """Effect of removing each set of sentences; NaN where the operation has no text to put there."""
    if ask.outcome == "handover":
        singles = sorted({i for row in sets for i in row})
        found = dict(zip(singles, _handover(trace, ask, singles, operation, operations), strict=True))
        return np.array([np.mean([found[i] for i in row]) if len(row) else np.nan for row in sets], dtype=float)
    groups = [operations.edits(operation, trace, row) if len(row) else [] for row in sets]
    values = ask.values([Edit(trace), *(edit for group in groups for edit in group)])
    return values[0] - _means(values[1:], groups)


def _handover(
    trace: Trace, ask: Ask, singles: Sequence[int], operation: str, operations: Operations
) -> Float[np.ndarray, " sentence"]:
    through = [keep(trace, range(i + 1)) for i in singles]
    groups = [operations.edits(operation, t, [i]) for t, i in zip(through, singles, strict=True)]
    values = ask.values([*map(Edit, through), *(edit for group in groups for edit in group)])
    return values[: len(singles)] - _means(values[len(singles) :], groups)


def _means(values: Float[np.ndarray, " edit"], groups: Sequence[Sequence[Edit]]) -> Float[np.ndarray, " group"]:
    """Mean over the edits of each group, NaN for an empty group."""
    edges = np.cumsum([0, *(len(group) for group in groups)])
    return np.array([values[a:b].mean() if b > a else np.nan for a, b in itertools.pairwise(edges)], dtype=float)


def writer_texts(rollouts: Rollouts, sentences: Sequence[int], *, similarity: Similarity) -> dict[int, tuple[str, ...]]:
    """Up to four sentences of another meaning the writer wrote in place of each sentence, from its stored rollouts."""
    return {i: _others(rollouts.trace, i, [r.text for r in rollouts.at(i)], similarity) for i in sentences}


def reader_texts(
    trace: Trace, reader: Any, sentences: Sequence[int], *, similarity: Similarity, seed: int
) -> dict[int, tuple[str, ...]]:
    """Up to four sentences of another meaning the reader writes in place of each sentence, on the trace before it."""
    sampling = Sampling(reader.sampling.temperature, reader.sampling.top_p, DRAW_TOKENS)
    text, edges = trace.prompt + trace.reasoning, trace.boundaries
    jobs = [Job(text, edges[i], f"{trace.id} reader", i, s) for i in sentences for s in range(TRIES)]
    drawn: dict[int, dict[int, str]] = {i: {} for i in sentences}
    with about_text(reader, [text]):
        for job, completion in reader.generate(jobs, sampling=sampling, seed=seed):
            drawn[job.position][job.sample] = completion.text
    return {i: _others(trace, i, [row[s] for s in sorted(row)], similarity) for i, row in drawn.items()}


def _others(trace: Trace, i: int, texts: Sequence[str], similarity: Similarity) -> tuple[str, ...]:
    firsts = [text for text in dict.fromkeys(first_sentence(text) for text in texts) if text]
    if not firsts:
        return ()
    same = similarity.same(trace.sentences[i].text, firsts)
    return tuple(text for text, equal in zip(firsts, same, strict=True) if not equal)[:DRAWS]
