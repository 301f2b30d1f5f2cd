"""How little of the trace is enough, when the anchors of the writer say what to keep? (T3)

1. Every compressor keeps the same budgets of the reader's tokens; the outcome is read after each.
2. Arms: "raw"; "stripped", sentences that state the answer removed first; "deletion", what would be kept is removed.
   "short" is "raw" over the traces of at most 10 sentences, with the best of all subsets at every budget: the true
   ceiling of what keeping sentences can do.
3. Area under outcome against budget, normalised by where the curve starts and ends: 0 is no trace, 1 the whole one at
   once. Deletion starts from the whole trace and ends at none: 0 is nothing lost before the end, 1 all lost at once; a
   better compressor is higher in every arm. Undefined where the interval of (whole - none) reaches 0.
4. Areas are compared over the same traces: paired bootstrap, sign flips, Holm over compressors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.compression import LARGEST, best_subset, compress_curve
from anchors.interventions import Edit, delete, keep, strip_answer
from anchors.models.base import CapabilityError
from anchors.scores import Scores
from anchors.stats import holm_adjusted, sign_flip_p
from anchors.trace import Trace
from anchors.transfer.measure import Ask
from anchors.transfer.results import Curve, CurvePoint
from anchors.transfer.retention import mean_over_traces

ANCHORS, CEILING = "anchors", "reader_anchors"
BEST: Final = "best_subset"
ARMS: Final = ("raw", "stripped", "deletion", "short")
RESAMPLES, LEVEL = 2000, 0.05


class TraceCurve(NamedTuple):
    """Outcome and probability of one trace at [compressor, budget] in one arm.

    `start` is the outcome without the trace and `end` with the whole of it (in the arm); deletion goes the other way.
    """

    start: float
    end: float
    outcome: Float[np.ndarray, "compressor budget"]
    probability: Float[np.ndarray, "compressor budget"]


def trace_curves(
    trace: Trace,
    ask: Ask,
    *,
    compressors: Sequence[str],
    budgets: Sequence[float],
    scores: Scores,
    reader_scores: Scores | None,
    seed: int,
) -> dict[str, TraceCurve]:
    """All arms of all compressors of one trace, read in one go; a compressor that does not apply is NaN.

    The arm "short" is there where `compressors` name `BEST` and the trace is short enough, with forced answers.
    """
    edits = [Edit(keep(trace, [])), Edit(trace), Edit(strip_answer(trace, answers=(ask.answer,)))]
    places: dict[tuple[str, int, int], int] = {}
    for c, name in enumerate(compressors):
        for arm in ARMS[:3]:
            for b, edit in enumerate(_edits(trace, name, arm, budgets, ask, scores, reader_scores, seed)):
                places[arm, c, b] = len(edits)
                edits.append(edit)
    if BEST in compressors and len(trace) <= LARGEST and ask.outcome == "forced":
        places |= {("short", c, b): place for (arm, c, b), place in places.items() if arm == "raw"}
        for b, best in enumerate(best_subset(trace, ask.model, budgets, ask.answer)):
            places["short", list(compressors).index(BEST), b] = len(edits)
            edits.append(Edit(best.compressed.trace))
    read = ask.read(edits)
    found = {}
    ends = {"raw": (0, 1), "stripped": (0, 2), "deletion": (1, 0), "short": (0, 1)}
    for arm in dict.fromkeys([*ARMS[:3], *(arm for arm, _, _ in places)]):
        shape = (len(compressors), len(budgets))
        outcome, probability = np.full(shape, np.nan), np.full(shape, np.nan)
        for (which, c, b), place in places.items():
            if which == arm:
                outcome[c, b], probability[c, b] = read.outcome[place], read.probability[place]
        start, end = (float(read.outcome[place]) for place in ends[arm])
        found[arm] = TraceCurve(start, end, outcome, probability)
    return found


def _edits(
    trace: Trace,
    name: str,
    arm: str,
    budgets: Sequence[float],
    ask: Ask,
    scores: Scores,
    reader_scores: Scores | None,
    seed: int,
) -> list[Edit]:
    """One edit a budget; none where the compressor lacks what it needs, or keeps words and so has nothing to delete."""
    if name == BEST:
        return []
    options: dict[str, Any] = {"reader": ask.model, "scores": scores, "reader_scores": reader_scores, "seed": seed}
    leak = "strip" if arm == "stripped" else "keep"
    try:
        found = compress_curve(trace, method=name, budgets=budgets, answer=ask.answer, leak=leak, **options)
    except (ValueError, CapabilityError):
        return []
    if arm != "deletion":
        return [Edit(c.trace) for c in found]
    return [Edit(delete(trace, c.kept)) for c in found if c.kept is not None]


def compare_curves(
    traces: Sequence[dict[str, TraceCurve]], *, compressors: Sequence[str], budgets: Sequence[float], seed: int
) -> tuple[Curve, ...]:
    """Curves of every compressor in every arm, with areas and their gains under the writer's anchors."""
    curves: list[Curve] = []
    for arm in ARMS:
        rows = [trace[arm] for trace in traces if arm in trace]
        measured = [c for c in range(len(compressors)) if not all(np.isnan(row.outcome[c]).any() for row in rows)]
        if measured and any(not np.isnan(row.outcome[measured]).any() for row in rows):
            curves += _arm(arm, rows, measured, compressors, budgets, seed)
    return tuple(curves)


def _arm(
    arm: str,
    rows: Sequence[TraceCurve],
    measured: Sequence[int],
    compressors: Sequence[str],
    budgets: Sequence[float],
    seed: int,
) -> list[Curve]:
    outcome = np.array([row.outcome[list(measured)] for row in rows])
    kept = ~np.isnan(outcome).any((1, 2))
    outcome = outcome[kept]
    start, end = (np.array(column)[kept] for column in zip(*((row.start, row.end) for row in rows), strict=True))
    probability = np.array([row.probability[list(measured)] for row in rows])[kept]
    names = [compressors[c] for c in measured]
    areas = _areas(start, outcome, budgets)
    normal = _Normal(start, end, areas, np.random.default_rng(seed), falling=arm == "deletion")
    base = names.index(ANCHORS) if ANCHORS in names else None
    p = np.full(len(names), np.nan)
    if base is not None:
        p = np.array(
            [np.nan if c == base else sign_flip_p(areas[:, base] - areas[:, c], seed=seed) for c in range(len(names))]
        )
    adjusted = holm_adjusted(p)
    gains = normal.gains(base, p)
    curves = []
    for c, name in enumerate(names):
        points = tuple(
            CurvePoint(float(b), mean_over_traces(outcome[:, c, i], seed=seed), float(probability[:, c, i].mean()))
            for i, b in enumerate(budgets)
        )
        curves.append(Curve(name, arm, points, *normal.area(c), *gains[c], float(adjusted[c])))
    return curves


def _areas(
    start: Float[np.ndarray, " trace"], outcome: Float[np.ndarray, "trace compressor budget"], budgets: Sequence[float]
) -> Float[np.ndarray, "trace compressor"]:
    """Area under outcome against budget by trapezoids, from `start` at budget 0."""
    first = np.broadcast_to(start[:, None, None], (*outcome.shape[:2], 1))
    return np.trapezoid(np.concatenate([first, outcome], axis=2), [0.0, *budgets], axis=2)


class _Normal:
    """Normalised areas (area - start) / (end - start) of means over traces, for the data and for bootstrap draws."""

    def __init__(
        self, start: np.ndarray, end: np.ndarray, areas: np.ndarray, rng: np.random.Generator, *, falling: bool
    ) -> None:
        n = len(start)
        picks = np.concatenate([np.arange(n)[None], rng.integers(n, size=(RESAMPLES, n))])
        gap, above = (end - start)[picks].mean(1), (areas - start[:, None])[picks].mean(1)
        scaffold = mean_over_traces(end - start)
        defined = scaffold.high < 0 if falling else scaffold.low > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            self.draws = np.where(defined, above / gap[:, None], np.nan)

    def area(self, c: int) -> tuple[float, float, float]:
        low, high = _ends(self.draws[1:, c], LEVEL)
        return float(self.draws[0, c]), low, high

    def gains(self, base: int | None, p: np.ndarray) -> list[tuple[float, float, float]]:
        """Area of the anchors less each one's, with intervals at the level Holm's procedure gives its rank."""
        if base is None:
            return [(np.nan, np.nan, np.nan)] * self.draws.shape[1]
        order = np.argsort(np.argsort(np.where(np.isnan(p), np.inf, p)))
        tests = int((~np.isnan(p)).sum())
        ranked = np.sort(p[~np.isnan(p)])
        failed = np.flatnonzero(ranked > LEVEL / np.arange(tests, 0, -1))
        first = int(failed[0]) if len(failed) else tests  # Holm stops here: what follows is tested no more
        found = []
        for c in range(self.draws.shape[1]):
            gain = self.draws[:, base] - self.draws[:, c]
            level = LEVEL / max(1, tests - min(int(order[c]), first))
            found.append((np.nan,) * 3 if c == base else (float(gain[0]), *_ends(gain[1:], level)))
        return found


def _ends(draws: np.ndarray, level: float) -> tuple[float, float]:
    if not len(draws) or np.isnan(draws).any():
        return np.nan, np.nan
    low, high = np.quantile(draws, [level / 2, 1 - level / 2])
    return float(low), float(high)
