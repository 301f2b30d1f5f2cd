"""Everything one trace contributes to a transfer run, measured once: a killed run goes on with the next trace.

1. Select the writer's anchors on one half of its rollouts, match controls in the reader's tokens.
2. Read the trace with and without its reasoning, without each sentence, under each operation, corruption and budget,
   and with a planted sentence.
3. The record is plain numbers; all statistics are computed from records, by `anchors.transfer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from anchors.interventions import Edit, keep
from anchors.models.base import CapabilityError
from anchors.reading import can_force, free_answers, shares
from anchors.resampling import resample
from anchors.rollouts import Rollouts
from anchors.scores import METHODS, Scores
from anchors.trace import Trace
from anchors.transfer.controls import corruptions, recovery_classes
from anchors.transfer.curve import trace_curves
from anchors.transfer.inputs import Written, half, named, reader_scores, select_anchors
from anchors.transfer.matching import Covariates, Match, covariates, match_sets
from anchors.transfer.measure import (
    Ask,
    Operations,
    Outcome,
    Unreadable,
    about_text,
    length_in,
    reader_texts,
    set_effects,
    writer_texts,
)
from anchors.transfer.pairs import cells
from anchors.transfer.planted import planted_effects
from anchors.transfer.record import LeftOut, Models, Plan, Record, store, stored
from anchors.transfer.retention import Side, estimated_effects, random_differences, sides, trace_effects

RANDOM_DRAWS, RECOVERIES = 20, 8


@dataclass(frozen=True)
class Case:
    """One trace with its matched anchors, ready to be read; `runs` are the reader's rollouts at every boundary."""

    written: Written
    models: Models
    plan: Plan
    others: tuple[Trace, ...]
    covariates: Covariates
    match: Match
    runs: Rollouts | None
    asks: dict[tuple[str, int], Ask] = field(default_factory=dict)

    @property
    def trace(self) -> Trace:
        return self.written.trace

    @property
    def signs(self) -> dict[int, float]:
        return {a: float(np.sign(self.written.selecting.values[a])) for a in self.match.anchors}

    @property
    def parts(self) -> list[Side]:
        return sides(self.match, self.signs)

    def ask(self, outcome: Outcome | None = None, model: Any = None) -> Ask:
        """How a model is asked about this trace; what it was asked once is remembered."""
        plan, model = self.plan, model or self.models.reader
        outcome = outcome or plan.outcome
        new = Ask(model, outcome, self.written.answer, plan.n, plan.seed)
        return self.asks.setdefault((outcome, id(model)), new)

    @property
    def whole(self) -> Ask:
        """How whole traces are read where the plan hands over: forced, where the reader allows it."""
        if self.plan.outcome != "handover":
            return self.ask()
        return self.ask("forced" if can_force(self.models.reader) else "free")


def read_trace(
    written: Written, models: Models, plan: Plan, others: Sequence[Trace], runs: Rollouts | None, out: Path | None
) -> Record | LeftOut:
    """The record of one trace, read now or taken from `out`; why it is left out where it cannot be read.

    A trace without a matched anchor, or with a text that a model cannot take (`Unreadable`: too long for its context,
    or not spelled by its tokenizer), is left out by name. Every other error is one.
    """
    path = record_path(written, models, plan, others, runs, out)
    known = None if path is None else stored(path)
    return known or kept(*measured(written, models, plan, others, runs), path)


def record_path(
    written: Written, models: Models, plan: Plan, others: Sequence[Trace], runs: Rollouts | None, out: Path | None
) -> Path | None:
    """Where the record of a trace is stored, if anywhere."""
    return None if out is None else out / f"{plan.digest(written, models, others, runs)}.json"


def measured(
    written: Written, models: Models, plan: Plan, others: Sequence[Trace], runs: Rollouts | None
) -> tuple[Record | LeftOut, bool]:
    """The record of one trace, read now, and whether it is to be stored."""
    try:
        case = _match(written, models, plan, others, runs)
        return (case if isinstance(case, LeftOut) else _read(case)), True
    except Unreadable as error:
        return LeftOut(f"{written.trace.id}: {error}"), False  # another version may read it


def kept(record: Record | LeftOut, lasting: bool, path: Path | None) -> Record | LeftOut:
    """The same record, stored."""
    if path is not None and lasting:
        store(record, path)
    return record


def _match(
    written: Written, models: Models, plan: Plan, others: Sequence[Trace], runs: Rollouts | None
) -> Case | LeftOut:
    trace, reader = written.trace, models.reader
    chosen = select_anchors(written.selecting, k=plan.k, fdr=plan.fdr, min_gap=plan.min_gap)
    if not chosen:
        return LeftOut(f"{trace.id}: the writer's scores name no anchor at fdr {plan.fdr}")
    with about_text(reader, [trace.text[: trace.boundaries[-1]]]):
        found = covariates(trace, reader, answer=written.answer)
    taken = named(written.selecting, plan.fdr)
    match = match_sets(found, chosen, taken=taken, sets=plan.controls, calipers=plan.calipers, seed=plan.seed)
    if not match.anchors:
        reason = f"{trace.id}: none of its {len(trace)} sentences is close enough to an anchor to be its control"
        return LeftOut(reason, len(match.unmatched))
    if runs is None and (plan.pairs or plan.outcome == "handover"):
        with about_text(reader, [trace.through(len(trace) - 1)]):
            runs = resample(trace, reader, n=plan.n, seed=_reader_seed(plan.seed), progress=False)
    return Case(written, models, plan, tuple(others), found, match, runs)


def _read(case: Case) -> Record:
    plan, parts, trace = case.plan, case.parts, case.trace
    answer, reader = case.written.answer, case.models.reader
    ends = case.ask("free" if plan.outcome == "handover" else None).read([Edit(trace), Edit(keep(trace, []))])
    operations = _operations(case)
    singles = _singles(case, operations)
    profile, halves, compared = _profile(case, singles)
    held_out = case.written.held_out
    anchors, signs = list(case.match.anchors), [case.signs[a] for a in case.match.anchors]
    random = random_differences(
        singles, case.covariates, anchors, signs, sets=plan.controls, calipers=plan.calipers, draws=RANDOM_DRAWS,
        seed=_own_seed(plan.seed, trace),
    )  # fmt: skip
    record = Record(
        trace=trace.id,
        anchors=anchors,
        signs=signs,
        sets=[list(row) for row in case.match.sets],
        unmatched=len(case.match.unmatched),
        full=float(ends.outcome[0]),
        none=float(ends.outcome[1]),
        alone=_alone(case),
        effects=_effects(case, case.ask(), operations, singles),
        writer_effects=_writer_effects(case, operations),
        held_out=None if held_out is None else list(estimated_effects(held_out.values, parts)),
        singles=singles.tolist(),
        random=random.tolist(),
        profile=profile.tolist(),
        halves=halves,
        compared=compared,
        cells=_cells(case) if plan.pairs else None,
        answer_tokens=_answer_tokens(reader, trace, answer),
        covariates=[_listed(column) for column in case.covariates],
        answered=ends.answered.tolist(),
        scored=[case.ask().scored_tokens(trace), _writer_tokens(case)],
        given_answer=_given_answer(case, operations),
        planted=planted_effects(trace, case.ask(), singles),
    )
    _show_otherwise(case, record, profile)
    return record


def _listed(column: tuple[Any, ...] | np.ndarray | None) -> list[Any] | None:
    return column if column is None else list(column) if isinstance(column, tuple) else column.tolist()


def _writer_tokens(case: Case) -> float:
    writer = case.models.writer
    able = writer is not None and (case.plan.outcome != "forced" or can_force(writer))
    return case.ask(model=writer).scored_tokens(case.trace) if able else 1.0


def _reader_seed(seed: int) -> int:
    """A seed no writer uses: with equal seeds two like models draw the same rollouts, those that selected the anchors."""
    return int.from_bytes(blake2b(f"reader {seed}".encode(), digest_size=4).digest())


def _own_seed(seed: int, trace: Trace) -> int:
    """A seed of this trace's own: one for all would pick the same positions in every trace of equal length."""
    return int.from_bytes(blake2b(f"{seed} {trace.id}".encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _effects(case: Case, ask: Ask, operations: Operations, singles: np.ndarray) -> dict[str, list[float]]:
    """[anchors, controls, tokens] of every operation; a hand-over's first operation is its single effects, averaged."""
    found: dict[str, list[float]] = {}
    for place, op in enumerate(case.plan.operations):
        if place == 0 and ask.outcome == "handover":
            tokens = float(np.mean([case.covariates.length[list(side.match.anchors)].sum() for side in case.parts]))
            effects = estimated_effects(singles, case.parts)._replace(tokens=tokens)
        else:
            effects = trace_effects(case.trace, ask, case.parts, op, operations, case.covariates.length)
        found[op] = list(effects)
    return found


def _given_answer(case: Case, operations: Operations) -> dict[str, list[float]]:
    """The same effects over the continuations that answer; nothing where answers are forced."""
    if case.plan.outcome == "forced":
        return {}
    ask = replace(case.ask(), answered_only=True)
    return _effects(case, ask, operations, _singles(case, operations, answered_only=True))


def _operations(case: Case) -> Operations:
    """The other texts the operations need, drawn only where one asks for them."""
    needed = sorted({i for row in (case.match.anchors, *case.match.sets) for i in row})
    written, models, wanted = case.written, case.models, case.plan.operations
    writer: dict[int, tuple[str, ...]] = {}
    if "replace_writer" in wanted and written.rollouts is not None:
        writer = writer_texts(half(written.rollouts, 1), needed, similarity=models.similarity)
    elif "replace_writer" in wanted and models.writer is not None:
        writer = reader_texts(case.trace, models.writer, needed, similarity=models.similarity, seed=case.plan.seed)
    reader: dict[int, tuple[str, ...]] = {}
    if "replace_reader" in wanted:
        reader = reader_texts(case.trace, models.reader, needed, similarity=models.similarity, seed=case.plan.seed)
    return Operations(writer, reader, models.paraphrase)


def _singles(case: Case, operations: Operations, *, answered_only: bool = False) -> np.ndarray:
    """Effect of every single sentence under the first operation [sentence]."""
    first, ask = case.plan.operations[0], replace(case.ask(), answered_only=answered_only)
    if case.plan.outcome == "handover" and first == "delete" and case.runs is not None:
        return np.diff(_boundary_shares(case.runs, case.written.answer, answered_only=answered_only))
    if first not in ("delete", "block"):
        kept = {i for row in (case.match.anchors, *case.match.sets) for i in row}
        found = np.full(len(case.trace), np.nan)
        order = sorted(kept)
        found[order] = set_effects(case.trace, ask, [[i] for i in order], first, operations)
        return found
    return set_effects(case.trace, ask, [[i] for i in range(len(case.trace))], first, operations)


def _boundary_shares(runs: Rollouts, answer: str, *, answered_only: bool = False) -> np.ndarray:
    """P(outcome) at the S + 1 boundaries."""
    return shares([runs.answers(k) for k in range(len(runs.trace) + 1)], answer, answered_only=answered_only)


def _writer_effects(case: Case, operations: Operations) -> dict[str, list[float]]:
    """The same effects in the writer: a hand-over's from its held-out rollouts, others from the model where given."""
    writer, plan, rollouts = case.models.writer, case.plan, case.written.rollouts
    found: dict[str, list[float]] = {}
    if plan.outcome == "handover" and rollouts is not None and "delete" in plan.operations:
        singles = np.diff(_boundary_shares(half(rollouts, 1), case.written.answer))
        found["delete"] = list(estimated_effects(singles, case.parts))
    if writer is None or (plan.outcome == "forced" and not can_force(writer)):
        return found
    ask, lengths = case.ask(model=writer), case.covariates.length
    rest = [op for op in plan.operations if op not in found]
    return found | {op: list(trace_effects(case.trace, ask, case.parts, op, operations, lengths)) for op in rest}


def _profile(case: Case, singles: np.ndarray) -> tuple[np.ndarray, list[list[float]] | None, str]:
    """The reader's scores that the writer's are ranked against, halves of them where they have noise, and their name."""
    method, models, runs = case.plan.method, case.models, case.runs
    try:
        whole = reader_scores(case.written, method, models.reader, runs, models.similarity)
    except (ValueError, CapabilityError):
        whole = None
    if whole is None:
        what = "forced answer" if case.plan.outcome == "forced" else "continuations"
        exact = case.plan.outcome == "forced" and not case.plan.operations[0].startswith("replace")
        return (
            singles,
            [singles.tolist()] * 2 if exact else None,
            f"the reader's {case.plan.operations[0]} effect on {what}, sentence by sentence",
        )
    if METHODS[method].needs == "model" or runs is None:
        return whole.values, [whole.values.tolist()] * 2, f"the reader's own {method} scores"
    parts = [half(runs, side) for side in (0, 1)]
    halves = [reader_scores(case.written, method, models.reader, part, models.similarity) for part in parts]
    return whole.values, [h.values.tolist() for h in halves if h is not None], f"the reader's own {method} scores"


def _alone(case: Case) -> float:
    """P(outcome) when the reader reasons on its own from the prompt; NaN where it cannot write."""
    if not hasattr(case.models.reader, "generate"):
        return float("nan")
    if case.runs is not None:
        return float(_boundary_shares(case.runs, case.written.answer)[0])
    drawn = free_answers([keep(case.trace, [])], case.models.reader, n=case.plan.n, seed=case.plan.seed)
    return float(shares(drawn, case.written.answer)[0])


def _cells(case: Case) -> list[list[list[int]]]:
    assert case.runs is not None
    found = cells(case.runs, case.written.answer, case.models.similarity)
    return [[list(cell.kept), list(cell.replaced)] for cell in found]


def _answer_tokens(reader: Any, trace: Trace, answer: str) -> int:
    """Tokens of the answer in the reader's tokenizer; 0 where it has none here."""
    if not hasattr(reader, "encode"):
        return 0
    text = f"{trace.prompt[-20:]} {answer}"
    with about_text(reader, [text]):
        offsets = reader.encode(text).offsets
    return sum(end > len(text) - len(answer) for _, end in offsets)


def _show_otherwise(case: Case, record: Record, profile: np.ndarray) -> None:
    """Corruptions, recovery and compression curves, where the plan asks for them."""
    plan, trace = case.plan, case.trace
    if plan.corrupt:
        _corrupt(case, record)
    if plan.compressors:
        reader_profile = Scores.of(trace, "reader", profile, unit="")
        curves = trace_curves(
            trace, case.whole, compressors=plan.compressors, budgets=plan.budgets, scores=case.written.selecting,
            reader_scores=reader_profile, seed=plan.seed,
        )  # fmt: skip
        record.curves = {arm: [c.start, c.end, c.outcome.tolist(), c.probability.tolist()] for arm, c in curves.items()}


def _corrupt(case: Case, record: Record) -> None:
    """The trace shown otherwise, and what the reader makes of a number altered in an anchor, and of the same unaltered."""
    plan, trace, answer, reader = case.plan, case.trace, case.written.answer, case.models.reader
    places = [p for p, sign in enumerate(record.signs) if sign > 0]
    anchors = [record.anchors[p] for p in places]
    controls = sorted({row[p] for row in case.match.sets[:1] for p in places})
    edits = corruptions(
        trace, anchors=anchors, controls=controls, others=case.others, answer=answer, length=length_in(reader),
        how=case.models.paraphrase, seed=plan.seed,
    )  # fmt: skip
    record.controls = dict(zip(edits, case.whole.values(list(edits.values())).tolist(), strict=True))
    if hasattr(reader, "generate"):
        options: dict[str, Any] = {
            "anchors": anchors,
            "answer": answer,
            "n": min(plan.n, RECOVERIES),
            "seed": plan.seed,
        }
        record.recovery, record.unaltered = (
            recovery_classes(trace, reader, altered=altered, **options) for altered in (True, False)
        )
