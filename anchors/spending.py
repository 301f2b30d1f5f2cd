"""How many tokens models put through: what long work shows beside its rate and the time left.

1. Models report what they generate and what they read in forward passes; tokens that share a cache are read once.
2. A `watched` progress bar shows the sums while it is open, also between its steps. Workers of a cluster report nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

    from anchors.models.base import Completion, Job

PAUSE = 0.3  # seconds between two looks at a bar


@dataclass
class Spent:
    """Tokens generated and read since a bar was opened."""

    generated: int = 0
    read: int = 0

    def __str__(self) -> str:
        parts = [f"{n:,} tokens {what}" for n, what in ((self.generated, "generated"), (self.read, "read")) if n]
        return ", ".join(parts) or "0 tokens"


class _Watch:
    def __init__(self, bar: tqdm) -> None:
        self.bar, self.spent, self.last = bar, Spent(), time.monotonic()

    def add(self, generated: int, read: int) -> None:
        self.spent.generated += generated
        self.spent.read += read
        if time.monotonic() - self.last >= PAUSE:
            self.show()

    def show(self) -> None:
        self.last = time.monotonic()
        self.bar.set_postfix_str(str(self.spent))


_open: list[_Watch] = []


def spend(*, generated: int = 0, read: int = 0) -> None:
    """Report tokens to every open bar; called by models."""
    for watch in _open:
        watch.add(generated, read)


def generating(drawn: Iterable[tuple[Job, Completion]]) -> Iterator[tuple[Job, Completion]]:
    """The same completions, their tokens reported as they pass."""
    for job, completion in drawn:
        spend(generated=completion.tokens)
        yield job, completion


@contextmanager
def watched(bar: tqdm) -> Iterator[Spent]:
    """Show on a progress bar the tokens that models put through while this is open.

    >>> from tqdm import tqdm
    >>> with watched(tqdm(disable=True)) as spent:
    ...     spend(read=1200)
    >>> str(spent)
    '1,200 tokens read'
    """
    watch = _Watch(bar)
    _open.append(watch)
    try:
        yield watch.spent
    finally:
        _open.remove(watch)
        watch.show()
