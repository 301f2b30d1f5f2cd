"""What a model can be asked: to generate (black box), and to show its attention and log-probabilities (white box)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class CapabilityError(RuntimeError):
    """The model cannot do what was asked; the message says which backend can."""


@dataclass(frozen=True)
class Sampling:
    """How rollouts are drawn. Defaults are the published ones (Thought Anchors, 2506.19143: T 0.6, top-p 0.95).

    `stop` holds strings that end a rollout when the decoded text contains one; the end token always does.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 16384
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive (use 0.01 for near-greedy)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must lie in (0, 1]")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class Job:
    """One rollout to draw: continue `text[:end]`. Its randomness depends on (seed, `trace`, `position`, `sample`) only.

    `blocked` are character spans of the prefix that no later token may attend to (local models only).
    """

    text: str
    end: int
    trace: str
    position: int
    sample: int
    blocked: tuple[tuple[int, int], ...] = ()

    @property
    def prefix(self) -> str:
        return self.text[: self.end]


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote: `finish` is "stop" (end token or stop string) or "length" (the token limit)."""

    text: str
    tokens: int
    finish: Literal["stop", "length"]


class Tokens(NamedTuple):
    """One tokenisation of a whole text: ids, and the character span of every token."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Scored(NamedTuple):
    """Log-probability of a text span in nats, and the number of tokens it has."""

    logprob: float
    tokens: int


@runtime_checkable
class Model(Protocol):
    """A black box that continues text.

    One whose attribute `live` is true also takes a stream of jobs in which a None says that what follows depends on
    rollouts still in flight.
    """

    name: str
    sampling: Sampling

    def generate(self, jobs: Iterable[Job], *, sampling: Sampling, seed: int) -> Iterator[tuple[Job, Completion]]:
        """Yield every job's completion, in any order, as they finish."""
        ...


@runtime_checkable
class WhiteBox(Model, Protocol):
    """A model whose attention and log-probabilities can be read. Layers and heads count from 0."""

    layers: int
    heads: int

    def encode(self, text: str) -> Tokens:
        """One tokenisation of `text`, with offsets, as the model sees it."""
        ...

    def logprobs(
        self,
        text: str,
        *,
        block: tuple[int, int] | None = None,
        layers: Iterable[int] | None = None,
        heads: Iterable[tuple[int, int]] | None = None,
    ) -> Float[Tensor, "token vocabulary"]:
        """log p of the next token at every position, with attention to the characters `block` cut off."""
        ...

    def pooled_attention(
        self, text: str, spans: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "layer head target source"]:
        """Mean attention from the tokens of each span to the tokens of each other span."""
        ...

    def score(
        self,
        texts: Sequence[str],
        starts: Sequence[int],
        *,
        block: tuple[int, int] | None = None,
        ablate: Sequence[tuple[int, int]] = (),
    ) -> list[Scored]:
        """Log-probability of the characters from `starts[i]` to the end of `texts[i]` given what precedes them.

        `block` cuts attention to those characters, `ablate` zeroes the output of (layer, head) pairs.
        """
        ...
