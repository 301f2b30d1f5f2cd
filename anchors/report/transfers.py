"""What the report says of a transfer run: the verdict in words first, then what it rests on.

1. Every text of a run comes from outside (names of models, reasons, ids) and is cleaned here; the template escapes it.
2. A number that was not measured says so; one trace has no interval.
3. Compression curves are one SVG an arm: the writer's anchors with their band, the baselines, the others thin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from anchors.plotting.curves import AREAS
from anchors.plotting.style import whole_outcome
from anchors.report.content import flat
from anchors.report.drawing import Lines, clean, lines, number
from anchors.transfer import Curve, Mean, Rank, Retention, Transfer

VERDICTS = {
    "transfers": "The anchors transfer",
    "does not transfer": "The anchors do not transfer",
    "inconclusive": "Inconclusive",
    "gate failed": "No verdict: the gate failed",
}
PASSED = {True: "passed", False: "failed", None: "not measured"}
ARMS = {
    "raw": "Kept, as they stand",
    "stripped": "Kept, after the sentences that state the answer were removed",
    "deletion": "Removed instead of kept",
    "short": "Kept, over traces of at most 10 sentences, with the best of all subsets as the ceiling",
}
STROKES = {"anchors": "own", "reader_anchors": "ceiling", "random": "chance"}


def section(run: Transfer) -> dict[str, Any]:
    """One run as the template shows it: clean texts and rows of cells."""
    return {
        "title": clean(f"{run.method} anchors of {run.writer}, read by {run.reader}"),
        "verdict": VERDICTS[run.verdict],
        "reason": clean(run.reason[:1].upper() + run.reason[1:]),
        "unit": run.unit,
        "traces": _counted(run.traces, "trace"),
        "anchors": run.anchors,
        "unmatched": run.unmatched,
        "gate": [(clean(c.name), clean(c.found), PASSED[c.passed]) for c in run.gate.conditions],
        "retention": [_retention(r) for r in run.retention],
        "notes": list(_notes(run)),
        "rank": [] if run.rank is None else list(_rank(run.rank)),
        "balance": [(b.variable, number(b.difference, signed=True)) for b in run.balance],
        "arms": [_arm(a, [c for c in run.curve if c.arm == a], run.outcome) for a in ARMS if _has(run, a)],
        "outcomes": [] if run.controls is None else [(clean(k), mean(m)) for k, m in run.controls.outcomes.items()],
        "contrasts": _contrasts(run),
        "recovery": _recovery(run),
        "pairs": "" if run.pairs is None else _pairs(run.pairs),
        "refused": [clean(str(reason)) for reason in run.details.get("not measured", ())],
        "excluded": [clean(reason) for reason in run.excluded],
        "settings": flat({k: v for k, v in run.details.items() if k != "not measured"}),
    }


def _notes(run: Transfer) -> Iterator[str]:
    """What stands below the retention table: missing parts, the other denominator, and a blind positive control."""
    for r in run.retention:
        if r.partial:
            yield clean(f"{r.operation}: {r.partial}")
        if r.given_answer is not None:
            yield clean(f"{r.operation}: over the continuations that answer, d is {mean(r.given_answer)}")
    if not run.gate.sensitive:
        yield "The positive control was not recovered: it does not shut the gate, but bars a verdict of absence."


def mean(found: Mean | None) -> str:
    """A mean with its interval in words: "+0.300 [+0.200, +0.400]"."""
    if found is None or math.isnan(found.value):
        return "not measured"
    value = number(found.value, signed=True)
    return f"{value} (no interval)" if math.isnan(found.low) else f"{value} {_interval(found.low, found.high)}"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"[{number(low, signed=True)}, {number(high, signed=True)}]"


def _p(p: float) -> str:
    return "" if math.isnan(p) else number(p)


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _retention(r: Retention) -> tuple[str, ...]:
    ratio = "" if r.ratio is None else f"{number(r.ratio[0])} {_interval(r.ratio[1], r.ratio[2])}"
    return (clean(r.operation.replace("_", " by ")), mean(r.reader), _p(r.reader.p), str(r.reader.n),
            mean(r.anchors), mean(r.controls), mean(r.writer), ratio)  # fmt: skip


def _rank(rank: Rank) -> Iterator[str]:
    yield (
        f"Spearman's correlation of the writer's scores with {clean(rank.compared)}, within traces: "
        f"{mean(rank.spearman)}, permutation p {_p(rank.p) or 'not defined'}; with position, length, answer mention, "
        f"headroom and perplexity taken out {mean(rank.partial)}."
    )
    if not math.isnan(rank.ceiling):
        yield f"The reliabilities allow at most {number(rank.ceiling)}; {number(rank.corrected)} of it is reached."
    if not math.isnan(rank.overlap):
        yield (
            f"{rank.overlap:.0%} of the writer's anchors are among the reader's, {rank.chance:.0%} by chance "
            f"(p {_p(rank.overlap_p) or 'not defined'}); their mean percentile in the reader is {mean(rank.percentile)}, "
            "0.5 where unrelated."
        )


def _has(run: Transfer, arm: str) -> bool:
    return any(c.arm == arm for c in run.curve)


def _arm(arm: str, curves: Sequence[Curve], kind: str) -> dict[str, Any]:
    ranked = sorted(curves, key=lambda c: (math.isnan(c.area), -c.area, c.compressor))
    rows = [
        (
            clean(c.compressor.replace("_", " ")),
            _area(c.area, c.area_low, c.area_high),
            _area(c.gain, c.gain_low, c.gain_high),
            _p(c.p),
        )
        for c in ranked
    ]
    outcome = whole_outcome(kind, (p.outcome.value for c in curves for p in c.points))
    area = f"Area ({AREAS.get(arm, AREAS['raw'])})"
    return {
        "title": ARMS[arm],
        "area": area,
        "outcome": outcome,
        "drawn": _drawn(curves),
        "rows": rows,
        "removed": arm == "deletion",
    }


def _area(value: float, low: float, high: float) -> str:
    return "" if math.isnan(value) else f"{number(value, signed=True)} {_interval(low, high)}".rstrip()


def _drawn(curves: Sequence[Curve]) -> Lines:
    """Thin lines first, the anchors last, so that they lie on top."""
    order = [None, "random", "reader_anchors", "anchors"]
    found = sorted(curves, key=lambda c: order.index(c.compressor if c.compressor in order else None))
    series = [
        (STROKES.get(c.compressor, "thin"), [p.budget for p in c.points], [p.outcome.value for p in c.points])
        for c in found
    ]
    own = next((c for c in curves if c.compressor == "anchors"), None)
    band = None if own is None else ([p.outcome.low for p in own.points], [p.outcome.high for p in own.points])
    return lines(series, band)


def _contrasts(run: Transfer) -> list[tuple[str, ...]]:
    if run.controls is None:
        return []
    return [(clean(c.name), clean(c.formula), mean(c.difference), _p(c.p_holm)) for c in run.controls.contrasts]


def _recovery(run: Transfer) -> str:
    if run.controls is None or not run.controls.recovery:
        return ""
    altered, plain = (
        ", ".join(f"{clean(kind)} {share:.0%}" for kind, share in shares.items())
        for shares in (run.controls.recovery, run.controls.unaltered)
    )
    baseline = f"; after the same prefix unaltered: {plain}" if plain else ""
    return f"After a number of an anchor was altered, the reader's continuations: {altered}{baseline}."


def _pairs(found: dict[str, Any]) -> str:
    """The statistics of the closest prior study in two sentences."""
    low, high = found["percentile interval"]
    second = found.get("second partner", {})
    again = (
        f" With the second nearest partner ({second['pairs']} pairs): {mean(second['trace means'])}." if second else ""
    )
    return (
        f"{found['pairs']} pairs of an anchor and a partner within 4 sentences: mean difference "
        f"{number(found['mean d'], signed=True)}, over traces {mean(found['trace means'])}, permutation within sentence p "
        f"{_p(found['p within sentence']) or 'not defined'}. The anchors' mean percentile in the reader's dense profile: "
        f"{number(found['percentile'])} {_interval(low, high)}, p {_p(found['percentile p']) or 'not defined'}.{again}"
    )
