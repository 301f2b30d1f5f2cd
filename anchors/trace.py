"""A reasoning trace and its sentences, as exact character positions.

1. The text a model saw and wrote is prompt + reasoning + ending, and nothing is ever normalised or re-joined.
2. Sentences are spans that tile `reasoning`; white space leads the following sentence, so a prefix ends in punctuation.
3. A prefix is a slice: `before(i)` ends where sentence i starts, `through(i)` where it ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

from anchors.answers import extract_answer
from anchors.splitting import align_sentences, split_sentences

_OPEN = re.compile(r"<think>[ \t]*[\r\n]*")
_NO_REASONING = "the trace has no reasoning: give text with at least one sentence inside <think>...</think>"


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a trace: `reasoning[start:end]` with its leading white space; `text` is that slice stripped."""

    index: int
    text: str
    start: int
    end: int
    category: str | None = None


@dataclass(frozen=True)
class Trace:
    """A prompt, the reasoning a model wrote under it, and what it wrote after the reasoning ended.

    `prompt` runs up to and including the opening think tag, `ending` starts at the closing one, so that
    `prompt + reasoning + ending` is the whole text. `answer` is the trace's own answer, `target` the right one.
    An edited trace may have lost all its reasoning: `reasoning` is then "" and there are no sentences.

    >>> trace = Trace.from_text("2 + 2?", "<think>\\nTwo and two. That is four.\\n</think>\\n\\\\boxed{4}", target="4")
    >>> [s.text for s in trace.sentences], trace.answer
    (['Two and two.', 'That is four.'], '4')
    >>> trace.before(1)
    '2 + 2?<think>\\nTwo and two.'
    """

    prompt: str
    reasoning: str
    sentences: tuple[Sentence, ...]
    ending: str = ""
    answer: str | None = None
    target: str | None = None
    id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_texts(self)
        if self.reasoning and not self.reasoning.strip():
            raise ValueError(_NO_REASONING)
        edge = 0
        for index, sentence in enumerate(self.sentences):
            if sentence.start != edge or sentence.end <= edge:
                raise ValueError(
                    f"sentence {sentence.index} covers [{sentence.start}, {sentence.end}) but should start at {edge}: "
                    "spans must tile the reasoning; build traces with Trace.from_text"
                )
            edge = sentence.end
            if sentence.index != index or sentence.text != self.reasoning[sentence.start : edge].strip():
                raise ValueError(
                    f"sentence {index} of the trace is stored as number {sentence.index} with the text "
                    f"{sentence.text[:60]!r}, which is not what its span holds; build traces with Trace.from_text"
                )
        if edge != len(self.reasoning):
            raise ValueError(
                f"the sentences end at character {edge} of {len(self.reasoning)}; spans must tile the reasoning"
            )
        if not self.id:
            digest = blake2b(self.text.encode("utf-8", "surrogatepass"), digest_size=6)
            object.__setattr__(self, "id", digest.hexdigest())

    @cached_property  # a run asks for it once a rollout
    def text(self) -> str:
        """The whole text: prompt, reasoning and ending."""
        return self.prompt + self.reasoning + self.ending

    def __len__(self) -> int:
        return len(self.sentences)

    def __repr__(self) -> str:
        return f"Trace({self.id}, {len(self)} sentences, answer={self.answer!r}, target={self.target!r})"

    @cached_property
    def boundaries(self) -> tuple[int, ...]:
        """Character offsets into `text` of the S + 1 sentence boundaries; prefix k is `text[:boundaries[k]]`."""
        base = len(self.prompt)
        return (base, *(base + s.end for s in self.sentences))

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Character spans of the sentences in `text`."""
        return tuple(pairwise(self.boundaries))

    def before(self, i: int) -> str:
        """The exact prefix that ends where sentence `i` starts."""
        return self.text[: self.boundaries[range(len(self))[i]]]

    def through(self, i: int) -> str:
        """The exact prefix that ends where sentence `i` ends."""
        return self.text[: self.boundaries[range(len(self))[i] + 1]]

    @property
    def categories(self) -> tuple[str | None, ...]:
        return tuple(s.category for s in self.sentences)

    def with_categories(self, categories: Sequence[str | None]) -> Trace:
        """The same trace with a taxonomy category on every sentence."""
        labelled = (replace(s, category=c) for s, c in zip(self.sentences, categories, strict=True))
        return replace(self, sentences=tuple(labelled))

    @classmethod
    def from_text(
        cls,
        prompt: str,
        text: str,
        *,
        target: str | None = None,
        answer: str | None = None,
        sentences: Sequence[str] | None = None,
        math_aware: bool = False,
        id: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> Trace:
        """Build a trace from what a model wrote, with its think tags closed, unclosed or absent.

        Stored `sentences` are aligned to the text and never re-split. `answer` defaults to the one found in the text
        after the reasoning, then to one found in the reasoning.

        Raises:
            ValueError: the reasoning is blank, or a stored sentence is not in the text.
        """
        opened = _OPEN.search(text)
        if opened is not None and "</think>" not in text[: opened.start()]:
            prompt, text = prompt + text[: opened.end()], text[opened.end() :]
        cut = len(text.partition("</think>")[0].rstrip())
        reasoning, ending = text[:cut], text[cut:]
        if not reasoning.strip():
            raise ValueError(_NO_REASONING)
        if sentences is None:
            spans = split_sentences(reasoning, math_aware=math_aware)
        else:
            spans = align_sentences(reasoning, sentences)
        if answer is None:
            answer = extract_answer(ending)
            answer = extract_answer(reasoning) if answer is None else answer
        return cls(
            prompt=prompt,
            reasoning=reasoning,
            sentences=_sentences(reasoning, spans),
            ending=ending,
            answer=answer,
            target=target,
            id=id,
            meta=dict(meta or {}),
        )

    @classmethod
    def from_chat(cls, messages: Sequence[Mapping[str, Any]], **options: Any) -> Trace:
        """Build a trace from OpenAI-style messages.

        The reasoning is the last assistant turn's `reasoning`, `reasoning_content`, thinking parts or think tags.
        Options are those of `from_text`. Messages before that turn become the prompt, one "role: content" block each.

        Raises:
            ValueError: there is no assistant message.
        """
        turns = [i for i, m in enumerate(messages) if m.get("role") == "assistant"]
        if not turns:
            raise ValueError("the chat has no assistant message; a trace needs one with reasoning or <think> tags")
        last = messages[turns[-1]]
        prompt = "".join(f"{m.get('role', 'user')}: {_content(m)}\n\n" for m in messages[: turns[-1]]) + "assistant: "
        reasoning, content = last.get("reasoning") or last.get("reasoning_content") or _thinking(last), _content(last)
        if not isinstance(reasoning, str):
            raise ValueError(f"the reasoning of the last assistant message is {reasoning!r:.80}; it must be text")
        if reasoning:
            content = f"<think>\n{reasoning}\n</think>\n\n{content}"
        return cls.from_text(prompt, content, **options)

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable record; `from_json` restores an equal trace."""
        return asdict(self) | {"sentences": [asdict(s) for s in self.sentences], "meta": dict(self.meta)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Trace:
        """The trace of a record that `to_json` made.

        Raises:
            ValueError: a field is missing, unknown or of another type, or the sentences do not tile the reasoning.
        """
        try:
            fields: dict[str, Any] = dict(record)
            fields["sentences"] = tuple(Sentence(**s) for s in record["sentences"])
            return cls(**fields)
        except (TypeError, KeyError) as error:
            raise ValueError(f"the record is no trace: {error}; write it with Trace.save or write_jsonl") from error

    def save(self, path: str | Path) -> None:
        """Write the trace as one JSON file."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read what `save` wrote; a ValueError that names the file where it does not hold a trace."""
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read as a trace: {error}") from error


def _check_texts(trace: Trace) -> None:
    """Traces come from files that people edit: a wrong type is named here and not met later in a run."""
    texts = {name: getattr(trace, name) for name in ("prompt", "reasoning", "ending", "id")}
    maybe = {name: getattr(trace, name) for name in ("answer", "target") if getattr(trace, name) is not None}
    for name, value in (texts | maybe).items():
        if not isinstance(value, str):
            raise ValueError(f"{name} is {value!r:.80}, a {type(value).__name__}; it must be text")
    if not isinstance(trace.meta, Mapping):
        raise ValueError(f"meta is {trace.meta!r:.80}, a {type(trace.meta).__name__}; it must be an object")
    for sentence in trace.sentences:
        numbers, words = (sentence.index, sentence.start, sentence.end), (sentence.text, sentence.category or "")
        if not all(type(n) is int for n in numbers) or not all(isinstance(w, str) for w in words):
            raise ValueError(
                f"{sentence!r:.160} is no sentence: index, start and end are whole numbers, the rest is text"
            )


def _sentences(reasoning: str, spans: Iterable[tuple[int, int]]) -> tuple[Sentence, ...]:
    return tuple(Sentence(i, reasoning[a:b].strip(), a, b) for i, (a, b) in enumerate(spans))


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content if part.get("type") not in ("thinking", "reasoning"))


def _thinking(message: Mapping[str, Any]) -> str:
    """The reasoning in a message whose content is a list of parts."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    thoughts = (part for part in parts if part.get("type") in ("thinking", "reasoning"))
    return "".join(part.get("thinking") or part.get("text") or "" for part in thoughts)
