"""Rollouts of a trace: what a run has stored at every boundary, and what is missing.

1. A rollout is a row keyed by (trace, kind, position, sample); writing one twice is a no-op (`anchors.store`).
2. What is missing is found by counting; keys are read only where some are.
3. Answers are not stored: they are a pure function of the text and can be read again under another rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from anchors.answers import NO_ANSWER, extract_answer
from anchors.models.base import Completion, Job
from anchors.opening import require_run
from anchors.sqlite import STORE
from anchors.store import STOP, Store, read_text, stored_text
from anchors.trace import Trace

__all__ = ["STOP", "STORE", "Cost", "Rollout", "Rollouts", "Store"]

_MINE = "trace = (select number from traces where id = ?) and kind = ?"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One stored continuation of the prefix that ends at boundary `position` (0 = before sentence 0)."""

    position: int
    sample: int
    text: str
    tokens: int
    finish: Literal["stop", "length"]

    @classmethod
    def of(cls, job: Job, completion: Completion) -> Rollout:
        """What a model wrote for a job."""
        return cls(job.position, job.sample, completion.text, completion.tokens, completion.finish)


class Cost(NamedTuple):
    """What a store holds."""

    rollouts: int
    tokens: int


class Rollouts:
    """The rollouts of one trace, grouped by the boundary they continue.

    `kind` is "free" for plain continuations; other kinds (resilience, ...) are kept apart in the same store.
    """

    def __init__(self, store: Store, trace: Trace, *, kind: str = "free") -> None:
        self.store, self.trace, self.kind = store, trace, kind

    @classmethod
    def from_texts(cls, trace: Trace, texts: Sequence[Sequence[str]]) -> Rollouts:
        """Rollouts you already have: `texts[k]` are continuations of boundary k."""
        rows = (
            Rollout(position, sample, text, 0, "stop")
            for position, row in enumerate(texts)
            for sample, text in enumerate(row)
        )
        return cls.in_memory(trace, rows, settings={})

    @classmethod
    def in_memory(
        cls, trace: Trace, rows: Iterable[Rollout], *, settings: Mapping[str, Any], kind: str = "free"
    ) -> Rollouts:
        """Rollouts kept in memory, under the settings they were made with."""
        store = Store(None, settings)
        store.claim([trace])
        rollouts = cls(store, trace, kind=kind)
        rollouts.add(rows)
        return rollouts

    def held(self, rows: Iterable[Rollout]) -> Rollouts:
        """Rollouts of the same trace in memory, made under the same settings: a selection, or a regrouping."""
        return Rollouts.in_memory(self.trace, rows, settings=self.store.settings, kind=self.kind)

    @classmethod
    def open(cls, path: str | Path, *, kind: str = "free") -> list[Rollouts]:
        """All traces' rollouts of a run directory."""
        require_run(Path(path))
        store = Store(path)
        return [cls(store, trace, kind=kind) for trace in store.traces()]

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Store rollouts in one transaction; one that is already there is left as it is."""
        rows = [(self.kind, r.position, r.sample, r.tokens, r.finish, r.text) for r in rollouts]
        self.store.insert(self.trace, rows)

    def at(self, position: int) -> list[Rollout]:
        """The rollouts that continue boundary `position`, by sample."""
        query = f"select sample, text, tokens, finish from rollouts where {_MINE} and position = ? order by sample"
        return [
            Rollout(position, sample, read_text(text), tokens, finish)
            for sample, text, tokens, finish in self.store.read(query, (*self._key, position))
        ]

    def counts(self) -> list[int]:
        """How many rollouts each of the S + 1 boundaries has."""
        query = f"select position, count(*) from rollouts where {_MINE} group by position"
        found = dict(self.store.read(query, self._key))
        return [found.get(position, 0) for position in range(len(self.trace) + 1)]

    def missing(self, n: int) -> list[tuple[int, int]]:
        """(position, sample) pairs still to draw for n rollouts at every boundary."""
        rows, key = f"from rollouts where {_MINE} and sample between 0 and ?", (*self._key, n - 1)
        found = dict(self.store.read(f"select position, count(*) {rows} group by position", key))
        short = [position for position in range(len(self.trace) + 1) if found.get(position, 0) < n]
        if not short:
            return []
        drawn: dict[int, set[int]] = {position: set() for position in short}
        for position, sample in self.store.stream(f"select position, sample {rows} order by position, sample", key):
            if position in drawn:
                drawn[position].add(sample)
        return [(position, sample) for position in short for sample in range(n) if sample not in drawn[position]]

    @property
    def _key(self) -> tuple[str | bytes, str]:
        return stored_text(self.trace.id), self.kind

    def jobs(self, pairs: Iterable[tuple[int, int]]) -> list[Job]:
        """What to ask a model for these (position, sample) pairs."""
        edges, trace = self.trace.boundaries, self.trace
        return [Job(trace.text, edges[position], trace.id, position, sample) for position, sample in pairs]

    def answers(self, position: int, *, extract: Callable[[str], str | None] = extract_answer) -> list[str]:
        """The answer of every rollout at a boundary; `NO_ANSWER` where there is none."""
        found = (extract(rollout.text) for rollout in self.at(position))
        return [NO_ANSWER if answer is None else answer for answer in found]

    def cost(self) -> Cost:
        """Rollouts stored and tokens generated."""
        query = f"select count(*), coalesce(sum(tokens), 0) from rollouts where {_MINE}"
        return Cost(*self.store.read(query, self._key)[0])

    @property
    def adaptive(self) -> bool:
        """Whether results decided how many were drawn, at any time; only intervals that hold at any time are valid then."""
        return STOP in self.store.settings

    def provenance(self) -> dict[str, Any]:
        """How these rollouts were made, for the details of every score computed from them."""
        settings, cost = self.store.settings, self.cost()
        made = {key: settings[key] for key in ("model", "sampling", STOP) if key in settings}
        if "seed" in settings:
            made["rollout seed"] = settings["seed"]
        return {**made, "rollouts": cost.rollouts, "generated tokens": cost.tokens}

    def __repr__(self) -> str:
        cost = self.cost()
        return f"Rollouts({self.trace.id}, {cost.rollouts} over {len(self.trace) + 1} boundaries, {cost.tokens} tokens)"
