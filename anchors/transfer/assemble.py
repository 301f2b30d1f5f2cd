"""From the records of all traces to one `Transfer`: means, tests, gate and verdict.

1. Every statistic is a mean over traces with its interval; the verdict reads them in a fixed order.
2. Gate failed: no verdict. Interval of d above 0: transfers. Equivalence shown, or an effect against the writer's sign: does
   not transfer. Else inconclusive, with the effect that would have been found. Without a recovered positive control a
   missing effect is inconclusive too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from anchors.stats import fieller, holm_adjusted, minimum_detectable_effect, relative_tost
from anchors.transfer.controls import compare_controls
from anchors.transfer.curve import compare_curves
from anchors.transfer.gate import open_gate
from anchors.transfer.inputs import Inputs, Written
from anchors.transfer.matching import balance
from anchors.transfer.pairs import pair_statistics
from anchors.transfer.rank import Profiles, rank_agreement
from anchors.transfer.record import Plan, Record
from anchors.transfer.results import Gate, Mean, Rank, Retention, Transfer, Verdict
from anchors.transfer.retention import mean_over_traces


def assemble(
    inputs: Inputs,
    records: Sequence[tuple[Written, Record]],
    excluded: Sequence[str],
    plan: Plan,
    *,
    reader: Any,
    margin: float,
    refused: Sequence[str],
    unmatched: int = 0,
) -> Transfer:
    """All statistics of a run from the records of its traces; `unmatched` anchors are those of traces left out."""
    rows = [record for _, record in records]
    retention = tuple(_retention(op, rows, margin, plan.seed) for op in plan.operations)
    unit = "nats a token" if plan.outcome == "forced" else "probability"
    gate = open_gate(
        alone=mean_over_traces([r.alone for r in rows]),
        scaffold=mean_over_traces([r.full - r.none for r in rows]),
        self_effect=_self_effect(rows, retention),
        random=np.array([r.random for r in rows], dtype=float) if rows else np.zeros((0, 0)),
        planted=mean_over_traces([np.nan if r.planted is None else r.planted[0] - r.planted[1] for r in rows]),
        unit=unit,
    )
    rank = None
    if rows:
        profiles = [_profiles(w, r) for w, r in records if r.compared == rows[0].compared]
        rank = rank_agreement(profiles, k=plan.k, compared=rows[0].compared, seed=plan.seed)
    verdict, reason = _verdict(gate, retention[0], margin, unit)
    return Transfer(
        writer=inputs.writer,
        reader=reader.name,
        method=inputs.method,
        outcome=plan.outcome,
        verdict=verdict,
        reason=reason,
        gate=gate,
        rank=rank,
        retention=retention,
        balance=balance([(r.matched_on, r.match) for r in rows]),
        curve=compare_curves(
            [{arm: r.curve(arm) for arm in r.curves} for r in rows],
            compressors=plan.compressors,
            budgets=plan.budgets,
            seed=plan.seed,
        )
        if plan.compressors and rows
        else (),
        controls=compare_controls(
            [r.controls for r in rows],
            [x for r in rows for x in r.recovery],
            unaltered=[x for r in rows for x in r.unaltered],
        )
        if plan.corrupt
        else None,
        pairs=pair_statistics([(r.anchors, r.signs, r.pair_cells()) for r in rows], seed=plan.seed)
        if plan.pairs
        else None,
        anchors=sum(len(r.anchors) for r in rows),
        unmatched=unmatched + sum(r.unmatched for r in rows),
        traces=len(rows),
        excluded=tuple(excluded),
        details=_details(plan, rows, reader, margin, refused)
        | {"secondary tests, Holm p": _secondary(retention, rank)},
    )


def _details(plan: Plan, rows: Sequence[Record], reader: Any, margin: float, refused: Sequence[str]) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "k": plan.k, "min gap": plan.min_gap, "fdr": plan.fdr, "controls": plan.controls,
        "calipers": vars(plan.calipers), "n": plan.n,
        "seed": plan.seed, "margin": margin, "trace ids": [r.trace for r in rows], "not measured": list(refused),
        "control sets a trace": float(np.mean([len(r.sets) for r in rows])) if rows else 0.0,
        "P(answered), whole trace and none": [_mean(r.answered[side] for r in rows) for side in (0, 1)],
        "traces with fewer control sets": sum(len(r.sets) < plan.controls for r in rows),
        "answer tokens": float(np.mean([r.answer_tokens for r in rows])) if rows else 0.0,
        "reader weights": str(getattr(reader, "fingerprint", "unknown")), "anchors": version("anchors"),
    }  # fmt: skip


def _mean(values: Iterable[float]) -> float:
    measured = [x for x in values if x == x]
    return float(np.mean(measured)) if measured else float("nan")


def _retention(operation: str, rows: Sequence[Record], margin: float, seed: int) -> Retention:
    """Retention over traces; traces where this operation had no text to put in are NaN."""

    def column(side: str, part: int) -> np.ndarray:
        return np.array([getattr(r, side).get(operation, [np.nan] * 3)[part] for r in rows], dtype=float)

    anchors, controls, tokens = (column("effects", part) for part in range(3))
    d, d_writer, given = (column(side, 0) - column(side, 1) for side in ("effects", "writer_effects", "given_answer"))
    writer = None if np.isnan(d_writer).all() else mean_over_traces(d_writer, seed=seed)
    # Two tokenizers spell the answer in different numbers of tokens: what compares models is the whole answer.
    whole, whole_writer = (d * np.array([r.scored[side] for r in rows]) for side, d in ((0, d), (1, d_writer)))
    ratio = None if writer is None else fieller(whole, whole_writer)
    equal = None if writer is None or not writer.value > 0 else relative_tost(whole, whole_writer, margin)
    return Retention(
        operation,
        mean_over_traces(d, seed=seed),
        writer,
        mean_over_traces(anchors, seed=seed),
        mean_over_traces(controls, seed=seed),
        mean_over_traces(d / np.where(tokens > 0, tokens, np.nan), seed=seed),
        None if ratio is None or np.isnan(ratio.value) else (ratio.value, ratio.low, ratio.high),
        equal,
        _missing(d, writer),
        None if np.isnan(given).all() else mean_over_traces(given, seed=seed),
    )


def _secondary(retention: Sequence[Retention], rank: Rank | None) -> dict[str, float]:
    """Holm-adjusted p of everything tested beside the primary: other operations and rank agreement."""
    p = {f"retention, {r.operation}": r.reader.p for r in retention[1:]}
    if rank is not None:
        p |= {"rank correlation": rank.p, "overlap of the top": rank.overlap_p, "percentile": rank.percentile.p}
    return dict(zip(p, holm_adjusted(list(p.values())).tolist(), strict=True)) if p else {}


def _missing(d: np.ndarray, writer: Mean | None) -> str:
    """What a retention lacks, and the remedy."""
    if np.isnan(d).all():
        return "not measured: there was no text of another meaning to put in the sentences' place"
    return "" if writer is not None else "the writer's effect in this unit was not measured: give writer=model"


def _self_effect(rows: Sequence[Record], retention: Sequence[Retention]) -> Mean | None:
    """The writer's own d: of the primary operation, else from the held-out half of its rollouts."""
    if retention[0].writer is not None:
        return retention[0].writer
    held = [r.held_out for r in rows if r.held_out is not None]
    return mean_over_traces([h[0] - h[1] for h in held]) if held else None


def _verdict(gate: Gate, primary: Retention, margin: float, unit: str) -> tuple[Verdict, str]:
    if not gate.passed:
        return "gate failed", gate.reason
    d = primary.reader
    if d.n < 2:
        return "inconclusive", f"{primary.operation} was measured on {d.n} traces: there is no interval"
    if d.low > 0:
        return "transfers", f"the anchors move the reader by {d.value:+.3f} {unit} more than their controls do"
    if d.high < 0:
        return (
            "does not transfer",
            f"the anchors move the reader by {d.value:+.3f} {unit}: against their sign in the writer",
        )
    if not gate.sensitive:
        return "inconclusive", "; ".join(c.reason for c in gate.conditions if not c.shuts and not c.passed)
    found = minimum_detectable_effect(d.traces, test="t", simulations=500)
    missing = f"an effect of {found.effect:.3f} {unit} would have been found with probability {found.power:.0%}"
    if primary.writer is None or not primary.writer.value > 0:
        return (
            "inconclusive",
            f"no effect was seen and equivalence cannot be tested without the writer's effect; {missing}",
        )
    if primary.equivalence is not None and primary.equivalence.equivalent:
        reason = f"the effect is within {margin:.0%} of the writer's of none, p = {primary.equivalence.p:.2g}"
        return "does not transfer", reason
    return (
        "inconclusive",
        f"neither an effect nor its absence (within {margin:.0%} of the writer's) is shown; {missing}",
    )


def _profiles(written: Written, record: Record) -> Profiles:
    halves = (
        None
        if record.halves is None or len(record.halves) < 2
        else tuple(np.array(h, dtype=float) for h in record.halves)
    )
    headroom = written.scores.extras.get("headroom")
    return Profiles(
        written.scores.values,
        np.array(record.profile, dtype=float),
        _writer_halves(written),
        halves,  # type: ignore[arg-type]
        tuple(record.anchors),
        tuple(record.signs),
        record.matched_on,
        None if headroom is None or headroom.shape != written.scores.values.shape else headroom,
    )


def _writer_halves(written: Written) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores of the two halves of the rollouts; those of exact scores, whose interval is the number, are the scores."""
    if written.held_out is not None:
        return written.selecting.values, written.held_out.values
    given = written.scores
    exact = np.array_equal(given.low, given.high, equal_nan=True) and np.array_equal(
        given.low, given.values, equal_nan=True
    )
    return (given.values, given.values) if exact else None
