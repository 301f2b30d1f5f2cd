"""What a reader makes of a trace, or of an edited one: the answer it is forced to give, or the answers it goes on to.

1. Forced: after prompt and reasoning the answer stub is written, and the log-probability of an answer is read. No
   sampling, so no sampling noise. All edits of a problem are read together over one shared cache.
2. Free: the reader goes on from the end of the reasoning, n times; its answers are read from what it writes.
Both work for every edit, blocked sentences included, on local models; a black box has the second, without blocking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from anchors.answers import NO_ANSWER, extract_answer
from anchors.forced import BOXED, AnswerStub
from anchors.interventions import Edit
from anchors.models.base import CapabilityError, Job, Model, Sampling, Scored, WhiteBox
from anchors.outcomes import judge
from anchors.trace import Trace

if TYPE_CHECKING:
    from anchors.models.lens import LensModel


@dataclass(frozen=True)
class Forced:
    """Log-probability in nats of the forced answer after every edit, and the number of tokens it was scored over."""

    logprob: Float[np.ndarray, " edit"]
    tokens: Int[np.ndarray, " edit"]

    @property
    def per_token(self) -> Float[np.ndarray, " edit"]:
        """Nats a scored token: the length-normalised outcome."""
        return self.logprob / self.tokens


def can_force(reader: Any) -> bool:
    """Whether a model gives log-probabilities of forced text."""
    return hasattr(reader, "score")


def can_block(reader: Any) -> bool:
    """Whether attention to several sentences at once can be cut: in a local model, here or on a cluster."""
    return hasattr(reader, "run_module") or "run_module" in getattr(reader, "remote", ())


def forced_logprobs(
    edits: Sequence[Edit | Trace],
    reader: LensModel | WhiteBox,
    *,
    answer: str | Sequence[str],
    stub: AnswerStub | None = None,
) -> Forced:
    """log p(answer | prompt, edited reasoning, stub) of every edit, in nats.

    `answer` is one text for all edits or one for each; `stub` defaults to the reader's own. The first scored token may
    hold a character of the stub (see `AnswerStub`).

    Raises:
        CapabilityError: the reader is a black box, or cannot block attention where an edit asks for it.
        ValueError: a text does not fit the reader's context, or its tokenizer cannot spell it.
    """
    if not can_force(reader):
        raise CapabilityError(f"{reader.name} gives no log-probabilities of forced text; use outcome='free'")
    stub = stub or AnswerStub(*getattr(reader, "stub", BOXED))
    given = [edit if isinstance(edit, Edit) else Edit(edit) for edit in edits]
    answers = [answer] * len(given) if isinstance(answer, str) else list(answer)
    if len(answers) != len(given):
        raise ValueError(f"{len(answers)} answers were given for {len(given)} edits; give one, or one for each")
    forced = [stub.force(_shown(edit), text) for edit, text in zip(given, answers, strict=True)]
    if can_block(reader):
        from anchors.models.variants import Variant, score_variants

        rows = [Variant(text, start, _spans(edit)) for (text, start), edit in zip(forced, given, strict=True)]
        scored = getattr(reader, "score_variants", partial(score_variants, reader))(rows)  # type: ignore[arg-type]
    else:
        scored = [_score(reader, text, start, _spans(edit)) for (text, start), edit in zip(forced, given, strict=True)]
    return Forced(np.array([s.logprob for s in scored], dtype=float), np.array([s.tokens for s in scored], dtype=int))


def free_answers(
    edits: Sequence[Edit | Trace], reader: Model, *, n: int, seed: int = 0, sampling: Sampling | None = None
) -> list[list[str]]:
    """Answers of n continuations of every edit; `NO_ANSWER` where one gave none.

    Randomness depends on (seed, prompt, sample): the same edit gives the same answers in any company, and edits of one
    problem are compared under common random numbers.

    Raises:
        CapabilityError: an edit blocks sentences and the reader is a black box.
        ValueError: n < 1, or a text does not fit the reader's context.
    """
    if n < 1:
        raise ValueError(f"n is {n}; at least one continuation an edit is needed")
    given = [edit if isinstance(edit, Edit) else Edit(edit) for edit in edits]
    if not can_block(reader):
        _refuse_blocks(given, reader)
    jobs: list[Job] = []
    prompts = {(_shown(edit), _spans(edit)): edit.trace.prompt for edit in reversed(given)}
    carriers = _carriers([text for text, blocked in prompts if not blocked])
    found: dict[Any, list[str]] = {}
    for (text, blocked), prompt in sorted(prompts.items(), key=lambda item: (carriers.get(item[0][0], ""), item[0])):
        found[text, blocked] = [NO_ANSWER] * n
        carrier = text if blocked else carriers[text]
        jobs += [Job(carrier, len(text), _stream(prompt), 0, s, blocked) for s in range(n)]
    for job, completion in reader.generate(jobs, sampling=sampling or reader.sampling, seed=seed):
        read = extract_answer(completion.text)
        found[job.prefix, job.blocked][job.sample] = NO_ANSWER if read is None else read
    return [found[_shown(edit), _spans(edit)] for edit in given]


def _carriers(texts: Sequence[str]) -> dict[str, str]:
    """For every text the longest given text that begins with it, so that prefixes of one trace share its cache."""
    carriers: dict[str, str] = {}
    last = ""
    for text in sorted(set(texts), reverse=True):
        last = last if last.startswith(text) else text
        carriers[text] = last
    return carriers


def shares(
    answers: Sequence[Sequence[str]], outcome: str, *, answered_only: bool = False
) -> Float[np.ndarray, " edit"]:
    """Share of the answers of each edit that are the outcome; NaN without any.

    No answer counts as not reaching the outcome; with `answered_only` it does not count.

    >>> shares([["7", "3", NO_ANSWER, "7"]], "7").tolist(), shares([["7", NO_ANSWER]], "7", answered_only=True).tolist()
    ([0.5], [1.0])
    """
    rows = [[a for a in row if a != NO_ANSWER] if answered_only else row for row in answers]
    return np.array([judge(row, outcome).mean() if len(row) else np.nan for row in rows], dtype=float)


def _score(reader: WhiteBox, text: str, start: int, blocked: tuple[tuple[int, int], ...]) -> Scored:
    """One text scored by a reader of the `WhiteBox` protocol, which can block one span at a time."""
    if len(blocked) > 1:
        raise CapabilityError(f"{reader.name} blocks one span at a time, not {len(blocked)}; use a local model")
    (scored,) = reader.score([text], [start], block=blocked[0]) if blocked else reader.score([text], [start])
    return scored


def _shown(edit: Edit) -> str:
    return edit.trace.prompt + edit.trace.reasoning


def _spans(edit: Edit) -> tuple[tuple[int, int], ...]:
    """Character spans of the blocked sentences; neighbours in one span."""
    spans: list[tuple[int, int]] = []
    for a, b in (edit.trace.spans[i] for i in sorted(set(edit.blocked))):
        if spans and spans[-1][1] == a:
            spans[-1] = (spans[-1][0], b)
        else:
            spans.append((a, b))
    return tuple(spans)


def _stream(prompt: str) -> str:
    """The name under which continuations of a problem draw their randomness."""
    return "reading " + blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _refuse_blocks(edits: Sequence[Edit], reader: Any) -> None:
    if any(edit.blocked for edit in edits):
        raise CapabilityError(f"{reader.name} cannot block attention to sentences; delete them, or use a local reader")
