"""Effects of removing sentences on what a reader answers: the quantity every transfer statistic is made of.

1. An operation turns a trace and a set of its sentences into edits; where it draws (a resample), into several, averaged.
2. `effect(X) = y(trace) - y(operation(trace, X))`, y the reader's outcome. Positive: X supports the outcome.
3. "forced": y is the log-probability of the forced answer a token, in nats, without sampling noise. "free": P(outcome)
   over n continuations of the whole trace. "handover": P(outcome) over n continuations of the trace up to the sentence
   itself, the reader finishing; a set's effect is then the mean of its sentences'.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.answers import NO_ANSWER
from anchors.interventions import Edit, block, delete, keep, paraphrase, replace
from anchors.models.base import Job, Sampling
from anchors.outcomes import first_sentence
from anchors.reading import forced_logprobs, free_answers, shares
from anchors.rollouts import Rollouts
from anchors.similarity import Similarity
from anchors.trace import Trace

Outcome = Literal["forced", "free", "handover"]
OUTCOMES: tuple[Outcome, ...] = ("forced", "free", "handover")
OPERATIONS = ("delete", "block", "replace_reader", "replace_writer", "paraphrase")
DRAWS, DRAW_TOKENS, TRIES = 4, 96, 24


class Values(NamedTuple):
    """The outcome of every edit in its unit, P(the answer given is the outcome), and P(answered), NaN where forced."""

    outcome: Float[np.ndarray, " edit"]
    probability: Float[np.ndarray, " edit"]
    answered: Float[np.ndarray, " edit"]


@dataclass(frozen=True)
class Ask:
    """How a model is asked: which outcome, for which answer, over how many continuations."""

    model: Any
    outcome: Outcome
    answer: str
    n: int
    seed: int
    sampling: Sampling | None = None

    def scored_tokens(self, trace: Trace) -> float:
        """Tokens the forced answer is scored over, which turn nats a token into nats; 1 for probabilities."""
        if self.outcome != "forced":
            return 1.0
        return float(forced_logprobs([trace], self.model, answer=self.answer).tokens[0])

    def values(self, edits: Sequence[Edit]) -> Float[np.ndarray, " edit"]:
        """One number an edit: nats a token ("forced"), or a probability."""
        return self.read(edits).outcome

    def read(self, edits: Sequence[Edit]) -> Values:
        """Outcome and probability of every edit; equal edits are read once."""
        first = {_key(edit): edit for edit in reversed(edits)}
        distinct = list(reversed(first.values()))
        if self.outcome == "forced":
            forced = forced_logprobs(distinct, self.model, answer=self.answer)
            found = Values(forced.per_token, np.exp(forced.logprob), np.full(len(distinct), np.nan))
        else:
            drawn = free_answers(distinct, self.model, n=self.n, seed=self.seed, sampling=self.sampling)
            given = np.array([np.mean([a != NO_ANSWER for a in row]) for row in drawn], dtype=float)
            reached = shares(drawn, self.answer)
            found = Values(reached, reached, given)
        places = {_key(edit): i for i, edit in enumerate(distinct)}
        order = [places[_key(edit)] for edit in edits]
        return Values(*(column[order] for column in found))


def _key(edit: Edit) -> tuple[str, str, tuple[int, ...]]:
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
    for job, completion in reader.generate(jobs, sampling=sampling, seed=seed):
        drawn[job.position][job.sample] = completion.text
    return {i: _others(trace, i, [row[s] for s in sorted(row)], similarity) for i, row in drawn.items()}


def _others(trace: Trace, i: int, texts: Sequence[str], similarity: Similarity) -> tuple[str, ...]:
    firsts = [text for text in dict.fromkeys(first_sentence(text) for text in texts) if text]
    if not firsts:
        return ()
    same = similarity.same(trace.sentences[i].text, firsts)
    return tuple(text for text, equal in zip(firsts, same, strict=True) if not equal)[:DRAWS]
