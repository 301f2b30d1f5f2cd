"""Do the anchors a writer's scores name stay load-bearing in a reader?

1. Select the writer's anchors on one half of its rollouts; orient each by the sign of its score (`inputs`).
2. Match control sets in the reader's tokens (`matching`), remove both from the reader's view by several operations, and
   read its answer (`measure`). One record a trace, stored, so that a killed run goes on (`trace_reading`, `record`).
3. d = sign x [effect(anchors) - mean effect(controls)], inference over traces (`retention`, T2, primary).
4. Beside it: the gate (T0) with a negative and a positive control (`planted`), rank agreement (`rank`, T1), compression
   curves (`curve`, T3), corruptions (`controls`, T4), shift axes (`shift`, T5), and the statistics of the closest prior
   study (`pairs`).
5. One verdict. Without a passed gate there is none; "does not transfer" needs equivalence shown, not a missing effect.
Source: the transfer specification of this project (sections T0 to T5), which restates the systems of the field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, KeysView, Sequence
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from anchors.answers import NO_ANSWER
from anchors.compression import ALIASES, BUDGETS, COMPRESSORS
from anchors.interventions import keep
from anchors.models.base import CapabilityError
from anchors.reading import can_block, can_force, free_answers
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.similarity import Similarity, default_similarity
from anchors.spending import watched
from anchors.transfer.assemble import assemble
from anchors.transfer.curve import BEST
from anchors.transfer.inputs import Inputs, gather
from anchors.transfer.matching import Balance, Calipers
from anchors.transfer.matrix import TransferMatrix, transfer_matrix
from anchors.transfer.measure import OPERATIONS, OUTCOMES, Outcome
from anchors.transfer.on_workers import read_traces
from anchors.transfer.record import LeftOut, Models, Plan
from anchors.transfer.results import (
    Condition,
    Contrast,
    Controls,
    Curve,
    CurvePoint,
    Gate,
    Mean,
    Rank,
    Retention,
    Transfer,
)
from anchors.transfer.shift import Interaction, Shift, interaction, shift_trend

__all__ = [
    "Balance", "Calipers", "Condition", "Contrast", "Controls", "Curve", "CurvePoint", "Gate", "Interaction", "Mean",
    "Rank", "Retention", "Shift", "Transfer", "TransferMatrix", "interaction", "shift_trend", "transfer_anchors",
    "transfer_matrix",
]  # fmt: skip

Given = Scores | Rollouts
STRICT = Calipers()
EVERY: KeysView[str] = COMPRESSORS.keys()
"""Every registered compressor, a user's own among them."""


def transfer_anchors(
    given: Given | Sequence[Given],
    *,
    reader: Any,
    writer: Any = None,
    method: str = "counterfactual",
    outcome: Outcome | None = None,
    answer: str | None = None,
    operations: Sequence[str] | None = None,
    k: int = 3,
    fdr: float = 0.05,
    min_gap: int = 1,
    controls: int = 5,
    calipers: Calipers = STRICT,
    n: int = 50,
    seed: int = 0,
    margin: float = 0.25,
    compressors: Sequence[str] | Literal["all"] = (),
    budgets: Sequence[float] = BUDGETS,
    corrupt: bool = False,
    paraphrase: Callable[[str], str] | None = None,
    similarity: Similarity | None = None,
    reader_runs: Sequence[Rollouts] = (),
    preset: Literal["pairs"] | None = None,
    itself: bool = False,
    out: str | Path | None = None,
    progress: bool = False,
) -> Transfer:
    """Test whether a writer's anchors carry the answer in a reader, over matched control sentences.

    `given`: scores or rollouts of one or many traces of one writer. From rollouts, `method` selects on one half and
    the writer's own effect is estimated on the other. `writer`, the model, measures the same effect in the writer, which
    gives the retention ratio and the margin of equivalence: `margin` times the writer's effect.

    `outcome`: "forced", log p of the forced answer a token after the whole trace (default where the reader gives
    log-probabilities); "free", P(answer) over `n` continuations of the whole trace; "handover", P(answer) over `n`
    continuations of the trace up to the sentence. `answer` is what is supported: the trace's own by default, "target",
    "reader" (what the reader most often answers on its own), or a text. `operations` among delete, block,
    replace_reader, replace_writer, paraphrase; the first is primary. By default delete and block, for a hand-over delete
    alone: its others cost `n` continuations a sentence each. Anchors are the up to `k` of largest |score| among those
    named at `fdr`, none nearer than `min_gap` sentences to a larger one (2: no neighbours); `controls` sets are matched by
    `calipers`.

    `compressors` ("all", or names) and `corrupt` add the curves and the corruptions. `preset="pairs"` adds the
    statistics of the closest prior study. `reader_runs` are rollouts of the reader on the same traces. `out` stores one
    record a trace; the same call continues there. `itself=True` allows the writer as its own reader.

    Raises:
        ValueError: nothing was given, several methods or writers, a trace twice, writer and reader are one model, or an
            unknown outcome, operation or preset.
        CapabilityError: the reader cannot do what the outcome or an operation asks for.
    """
    items = [given] if isinstance(given, Scores | Rollouts) else list(given)
    supported = _own_answers(items, reader, n=n, seed=seed) if answer == "reader" else answer
    inputs = gather(items, method=method, outcome=supported, similarity=similarity)
    _check_reader(inputs, items, reader, writer, itself)
    outcome = outcome or ("forced" if can_force(reader) else "free")
    operations = operations or (("delete",) if outcome == "handover" else ("delete", "block"))
    usable, refused = _operations(operations, outcome, reader, paraphrase)
    names = (*COMPRESSORS, BEST) if compressors == "all" else tuple(compressors)
    plan = Plan(
        outcome, usable, k, fdr, controls, calipers, n, seed, inputs.method, names, tuple(map(float, budgets)), corrupt,
        preset == "pairs", min_gap,
    )  # fmt: skip
    _check_plan(plan, preset)
    models = Models(reader, writer, similarity or default_similarity(), paraphrase)
    runs = {run.trace.id: run for run in reader_runs}
    _check_runs(reader_runs, items, reader)
    traces = [w.trace for w in inputs.written]
    records, excluded, unmatched = [], list(inputs.excluded), 0
    cases = [(w, [t for t in traces if t.prompt != w.trace.prompt], runs.get(w.trace.id)) for w in inputs.written]
    reading = read_traces(cases, models, plan, None if out is None else Path(out))
    shown = {"desc": f"reading by {reader.name}", "total": len(cases), "disable": None if progress else True}
    for i, found in sorted(_shown(reading, **shown), key=lambda item: item[0]):
        if isinstance(found, LeftOut):
            excluded.append(found.reason)
            unmatched += found.unmatched
        else:
            records.append((inputs.written[i], found))
    return assemble(inputs, records, excluded, plan, reader=reader, margin=margin, refused=refused, unmatched=unmatched)


def _shown(reading: Iterator[tuple[int, Any]], **options: Any) -> Iterator[tuple[int, Any]]:
    """What is read, trace by trace, with the rate, the time left and the tokens spent."""
    with tqdm(reading, unit=" traces", **options) as bar, watched(bar):
        yield from bar


def _own_answers(items: Sequence[Given], reader: Any, *, n: int, seed: int) -> dict[str, str]:
    """The reader's commonest answer to each trace's prompt, without the trace; traces it never answers are missing."""
    drawn = free_answers(
        [keep(item.trace, []) for item in items], reader, n=n, seed=seed + 1
    )  # not those it is read by
    given = {item.trace.id: [a for a in row if a != NO_ANSWER] for item, row in zip(items, drawn, strict=True)}
    return {name: Counter(row).most_common(1)[0][0] for name, row in given.items() if row}


def _check_reader(inputs: Inputs, items: Sequence[Given], reader: Any, writer: Any, itself: bool) -> None:
    weights = {i.store.settings.get("weights") for i in items if isinstance(i, Rollouts)} - {None, "unknown"}
    same = reader is writer or getattr(reader, "fingerprint", None) in weights
    if (same or reader.name == inputs.writer) and not itself:
        raise ValueError(
            f"writer and reader are the same model, {reader.name}: that is the self-effect, which every run with writer= "
            "reports. Give another reader, or itself=True"
        )


def _check_runs(reader_runs: Sequence[Rollouts], items: Sequence[Given], reader: Any) -> None:
    """Rollouts given for the reader must be the reader's, and drawn under another seed than those that select anchors."""
    seeds = {item.store.settings.get("seed") for item in items if isinstance(item, Rollouts)} - {None}
    for run in reader_runs:
        made = run.store.settings
        if made.get("weights", "unknown") != getattr(reader, "fingerprint", made.get("weights", "unknown")):
            raise ValueError(
                f"reader_runs of trace {run.trace.id} were drawn by {made.get('model')}, not by {reader.name}"
            )
        if made.get("seed") in seeds:
            raise ValueError(
                f"reader_runs of trace {run.trace.id} have seed {made['seed']}, as the writer's rollouts: two like models then "
                "draw the same texts. Draw them under another seed"
            )


def _operations(
    operations: Sequence[str], outcome: Outcome, reader: Any, paraphrase: Any
) -> tuple[tuple[str, ...], list[str]]:
    """The operations that can be measured here, and what is said about the others."""
    if outcome not in OUTCOMES:
        raise ValueError(f"outcome is {outcome!r}; use {', '.join(OUTCOMES)}")
    if outcome == "forced" and not can_force(reader):
        raise CapabilityError(
            f"{reader.name} gives no log-probabilities of forced text; use outcome='free' or 'handover'"
        )
    unknown = [op for op in operations if op not in OPERATIONS]
    if unknown or not operations:
        raise ValueError(f"operation {unknown[0] if unknown else None!r} is unknown; use {', '.join(OPERATIONS)}")
    reasons = {}
    if not can_block(reader):
        reasons["block"] = f"block: attention of {reader.name} cannot be cut at several sentences; use a local model"
    if paraphrase is None:
        reasons["paraphrase"] = "paraphrase: no paraphraser was given (paraphrase=function)"
    usable = tuple(op for op in operations if op not in reasons)
    if not usable:
        raise CapabilityError("; ".join(reasons[op] for op in operations))
    return usable, [reasons[op] for op in operations if op in reasons]


def _check_plan(plan: Plan, preset: str | None) -> None:
    if min(plan.k, plan.controls, plan.n, plan.min_gap) < 1:
        raise ValueError(
            f"k is {plan.k}, controls {plan.controls}, n {plan.n} and min_gap {plan.min_gap}; each must be at least 1"
        )
    if preset not in (None, "pairs"):
        raise ValueError(f"preset is {preset!r}; use None or 'pairs'")
    if plan.compressors:
        known = {*COMPRESSORS, *ALIASES, BEST}
        unknown = [name for name in plan.compressors if name not in known]
        if unknown:
            raise ValueError(f"compressor {unknown[0]!r} is unknown; use {', '.join(sorted(known))}")
        if [*sorted({b for b in plan.budgets if 0 < b <= 1} | {1.0})] != list(plan.budgets):
            raise ValueError(f"budgets are {plan.budgets}; give shares of the tokens in rising order that end at 1.0")
