"""Does retention fall as problem or reader move away from home? (T5)

1. An axis is a list of levels from nearest to farthest, each with its transfer run over the same number of traces or
   over other traces; the value of a level is the reader's d of the primary operation, one a trace.
2. Slope over levels with whole traces redrawn; Page's trend where the same traces were read at every level.
3. The order is stated before the run: d falls with distance. Interaction: does a corruption cost one reader more?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from anchors.stats import cluster_bootstrap, page_trend, sign_flip_p, slope_interval
from anchors.stats.trends import Slope, Trend
from anchors.transfer.results import Mean, Transfer


class Shift(NamedTuple):
    """d at every level of one axis; `slope` is a level, negative where retention falls; `trend` tests falling d."""

    axis: str
    levels: tuple[str, ...]
    values: tuple[Mean, ...]
    slope: Slope
    trend: Trend | None


def shift_trend(axis: str, levels: Mapping[str, Transfer], *, seed: int = 0) -> Shift:
    """Trend of the reader's d along an axis, levels in the order given (nearest first).

    Page's test is over the traces that every level holds (its `blocks`) and needs three levels; elsewhere it is None.

    Raises:
        ValueError: fewer than two levels, or runs of different outcomes or operations.
    """
    runs = list(levels.values())
    if len(runs) < 2:
        raise ValueError(f"axis {axis!r} has {len(runs)} levels; a trend needs at least two")
    kinds = {(run.outcome, run.retention[0].operation) for run in runs}
    if len(kinds) > 1:
        raise ValueError(f"the runs of axis {axis!r} measured {sorted(kinds)}; compare one outcome and operation")
    means = [run.retention[0].reader for run in runs]
    ids = [run.details["trace ids"] for run in runs]
    flat = [
        (i, x, t)
        for i, (mean, names) in enumerate(zip(means, ids, strict=True))
        for x, t in zip(mean.traces, names, strict=True)
    ]
    slope = slope_interval([i for i, _, _ in flat], [x for _, x, _ in flat], [t for _, _, t in flat], seed=seed)
    shared = [t for t in ids[0] if all(t in names for names in ids)]
    rows = [dict(zip(names, mean.traces, strict=True)) for names, mean in zip(ids, means, strict=True)]
    crossed = len(runs) > 2 and len(shared) > 1
    table = np.array([[row[t] for row in rows] for t in shared], dtype=float)
    trend = page_trend(table, order=range(len(runs))[::-1]) if crossed else None
    return Shift(axis, tuple(levels), tuple(means), slope, trend)


class Interaction(NamedTuple):
    """Difference between two readers in what a corruption costs, over the traces both read."""

    contrast: str
    value: float
    low: float
    high: float
    p: float
    traces: int


def interaction(first: Transfer, second: Transfer, contrast: str, *, seed: int = 0) -> Interaction:
    """Contrast (T4) in the first reader less the same in the second, paired over traces.

    Raises:
        ValueError: a run has no such contrast, or the readers share no trace.
    """
    columns = [_contrast(run, contrast) for run in (first, second)]
    shared = [t for t in columns[0] if t in columns[1]]
    gaps = np.array([columns[0][t] - columns[1][t] for t in shared], dtype=float)
    gaps = gaps[~np.isnan(gaps)]
    if not len(gaps):
        raise ValueError(
            f"{first.reader} and {second.reader} share no trace with contrast {contrast!r}; read the same traces"
        )
    low, high = cluster_bootstrap([[x] for x in gaps], seed=seed)
    return Interaction(contrast, float(gaps.mean()), float(low), float(high), sign_flip_p(gaps), len(gaps))


def _contrast(run: Transfer, name: str) -> dict[str, float]:
    found = [c for c in (run.controls.contrasts if run.controls else ()) if c.name == name]
    if not found:
        names = [c.name for c in run.controls.contrasts] if run.controls else []
        raise ValueError(f"the run on {run.reader} has no contrast {name!r}; it has {', '.join(names) or 'none'}")
    return dict(zip(_ids(run), found[0].difference.traces, strict=True))


def _ids(run: Transfer) -> Sequence[str]:
    return run.details["trace ids"]
