"""The record of one trace in a transfer run: plain numbers, stored one file a trace, from which all statistics are made.

1. A `Plan` says what is measured; its digest with everything else that would change a number names the file.
2. What is stored is read back; a trace that was left out stays left out, with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anchors.rollouts import Rollouts
from anchors.similarity import Similarity
from anchors.trace import Trace
from anchors.transfer.curve import TraceCurve
from anchors.transfer.inputs import Written
from anchors.transfer.matching import Calipers, Covariates, Match
from anchors.transfer.measure import Outcome
from anchors.transfer.pairs import Cell


@dataclass(frozen=True)
class Plan:
    """What is measured on every trace; see `transfer_anchors` for the meaning of each entry."""

    outcome: Outcome
    operations: tuple[str, ...]
    k: int
    fdr: float
    controls: int
    calipers: Calipers
    n: int
    seed: int
    method: str
    compressors: tuple[str, ...]
    budgets: tuple[float, ...]
    corrupt: bool
    pairs: bool
    min_gap: int = 1

    def digest(self, written: Written, models: Models, others: Sequence[Trace], runs: Rollouts | None) -> str:
        """Names a stored record: whatever else would change what is measured has another one."""
        trace, scores = written.trace, (written.scores, written.selecting, written.held_out)
        numbers = [None if s is None else [s.values.tolist(), s.p.tolist()] for s in scores]
        made = [str(getattr(m, "fingerprint", getattr(m, "name", m))) for m in (models.reader, models.writer)]
        how = [models.similarity.name, models.similarity.threshold, getattr(models.paraphrase, "__qualname__", None)]
        swapped = [other.text for other in others] if self.corrupt else []
        drawn = [None if r is None else list(r.cost()) for r in (written.rollouts, runs)]
        key = json.dumps(
            [asdict(self), trace.to_json(), written.answer, numbers, made, how, swapped, drawn], sort_keys=True
        )
        return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()


@dataclass
class Record:
    """One trace as the reader (and the writer) read it; arrays over sentences, NaN where not measured.

    `answered` is P(answered) with the whole trace and without it; `scored` the tokens of the forced answer in reader and
    writer. `effects` holds [anchors, controls, tokens] an operation, `given_answer` the same over continuations that
    answer; `halves` are the reader's two half profiles: the profile twice where it has no noise, None where its noise
    was not measured. `planted` is [effect of the planted sentence, of its controls]; `unaltered` the baseline of `recovery`.
    """

    trace: str
    anchors: list[int]
    signs: list[float]
    sets: list[list[int]]
    unmatched: int
    full: float
    none: float
    alone: float
    effects: dict[str, list[float]]
    writer_effects: dict[str, list[float]]
    held_out: list[float] | None
    singles: list[float]
    random: list[float]
    profile: list[float]
    halves: list[list[float]] | None
    compared: str
    cells: list[list[list[int]]] | None
    answer_tokens: int
    covariates: list[list[Any] | None]
    answered: list[float]
    scored: list[float]
    controls: dict[str, float] = field(default_factory=dict)
    recovery: list[str] = field(default_factory=list)
    unaltered: list[str] = field(default_factory=list)
    curves: dict[str, list[Any]] = field(default_factory=dict)
    given_answer: dict[str, list[float]] = field(default_factory=dict)
    planted: list[float] | None = None

    @property
    def match(self) -> Match:
        return Match(tuple(self.anchors), tuple(tuple(row) for row in self.sets), ())

    @property
    def matched_on(self) -> Covariates:
        length, position, category, mention, numbers, surprise = (*self.covariates, None)[:6]
        columns = [np.array(column, dtype=float) for column in (length, position, numbers)]
        seen = None if surprise is None else np.array(surprise, dtype=float)
        said = np.array(mention, dtype=bool)
        return Covariates(columns[0], columns[1], tuple(category or ()), said, columns[2], seen)

    def curve(self, arm: str) -> TraceCurve:
        start, end, outcome, probability = self.curves[arm]
        return TraceCurve(start, end, np.array(outcome, dtype=float), np.array(probability, dtype=float))

    def pair_cells(self) -> list[Cell]:
        return [Cell(tuple(kept), tuple(replaced)) for kept, replaced in self.cells or ()]  # type: ignore[arg-type]


class LeftOut(NamedTuple):
    """Why a trace is left out, and how many of its anchors had no control."""

    reason: str
    unmatched: int = 0


@dataclass(frozen=True)
class Models:
    """Who reads: the reader, the writer where it was given, what counts as another meaning, how to paraphrase."""

    reader: Any
    writer: Any
    similarity: Similarity
    paraphrase: Any


def stored(path: Path) -> Record | LeftOut | None:
    """What was found on a trace before, None where nothing is stored."""
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return LeftOut(*found) if isinstance(found, list) else Record(**found)


def store(record: Record | LeftOut, path: Path) -> None:
    """Write a record in one move, so that a killed run leaves none half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record if isinstance(record, LeftOut) else asdict(record)), encoding="utf-8")
    temporary.replace(path)
