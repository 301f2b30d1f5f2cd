"""Forced answers: end the thought after a prefix, state an answer, and ask what probability the model gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from anchors.models.base import Model
    from anchors.trace import Trace


class AnswerStub(NamedTuple):
    """The text around a forced answer; white space at the end of `before` is scored with the answer's first token."""

    before: str
    after: str

    def force(self, prefix: str, answer: str) -> tuple[str, int]:
        """The text `prefix + before + answer + after` and the character where scoring starts.

        >>> AnswerStub("\\n</think>\\nThe answer is ", ".").force("7.", "3")
        ('7.\\n</think>\\nThe answer is 3.', 25)
        """
        head = prefix + self.before
        return head + answer + self.after, len(head.rstrip(" "))


BOXED = AnswerStub("\n</think>\n\nTherefore, the final answer is \\boxed{", "}")


def forced_answer(trace: Trace, model: Model, *, answer: str | None = None) -> tuple[str, int]:
    """The whole trace with its answer (or another) forced after it, and the character where scoring starts.

    Raises:
        ValueError: the trace has no answer of its own and none is given.
    """
    answer = trace.answer if answer is None else answer
    if answer is None:
        raise ValueError(f"trace {trace.id} has no answer of its own; give answer=...")
    stub: AnswerStub = getattr(model, "stub", BOXED)
    return stub.force(trace.prompt + trace.reasoning, answer)
