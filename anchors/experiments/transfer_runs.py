"""What C10, C11 and the transfer benchmark share: writers' rollouts on a world, and readers they are handed over to.

1. A writer reasons on freshly drawn problems (or the world's own program writes), and n rollouts are drawn at every
   boundary of each trace.
2. A reader gets each trace up to a sentence, or up to the one before, and finishes it (the outcome "handover"): these traces
   state every result again, so an answer forced after the whole trace hangs on no single sentence (docs/transfer.md).
3. Controls are matched on length, position and answer mention; plans and repairs have a category of their own, so that
   with equal category asked for most anchors had no control.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float

from anchors.transfer import Calipers, Transfer, transfer_anchors

if TYPE_CHECKING:
    from anchors.lab.worlds import World
    from anchors.rollouts import Rollouts
    from anchors.trace import Trace

RELAXED: Final = Calipers(category=False, numbers=False)
SHORTEST: Final = 5


def fresh_traces(world: World, model: Any, wanted: int, seed: int) -> list[Trace]:
    """Traces a model writes on fresh problems of a world: different prompts, at least 6 sentences, with an answer."""
    from anchors.resampling import write_traces

    rng = random.Random(f"transfer {seed}")
    problems = {world.prompt(p): world.gold(p) for p in (world.problem(rng) for _ in range(3 * wanted))}
    prompts = list(problems)[: 2 * wanted]
    written = write_traces(prompts, model, targets=[problems[p] for p in prompts], seed=seed)
    return [trace for trace in written if trace.answer and len(trace) > SHORTEST][:wanted]


def model_runs(
    world: World, model: Any, *, traces: int, n: int, seed: int, out: Path | None, progress: bool = False
) -> list[Rollouts]:
    """n rollouts of a model at every boundary of traces it wrote."""
    from anchors.resampling import resample_traces

    written = fresh_traces(world, model, traces, seed)
    return resample_traces(written, model, n=n, seed=seed, out=out, progress=progress)


def world_runs(
    world: World, *, traces: int, n: int, seed: int, out: Path | None, progress: bool = False
) -> list[Rollouts]:
    """n rollouts of the world's own program on traces it wrote: an exact writer, at any shift."""
    from anchors.lab import world_trace
    from anchors.lab.oracle import WorldModel
    from anchors.resampling import resample_traces

    drawn = (world_trace(world, seed=1000 * (seed + 1) + i) for i in range(3 * traces))
    chosen = list({t.prompt: t for t in drawn if t.answer and len(t) >= SHORTEST}.values())[:traces]
    return resample_traces(chosen, WorldModel(world), n=n, seed=seed, out=out, progress=progress)


def handed_over(
    runs: Sequence[Rollouts], reader: Any, world: World, *, n: int, out: Path | None, **options: Any
) -> Transfer:
    """The transfer run of these rollouts to a reader that takes the trace over; `options` are those of `transfer_anchors`."""
    from anchors.lab.oracle import same_event

    settings: dict[str, Any] = {"outcome": "handover", "calipers": RELAXED, "similarity": same_event(world), "n": n}
    return transfer_anchors(runs, reader=reader, out=out, **(settings | options))


def d_by_trace(run: Transfer) -> dict[str, float]:
    """The reader's d of every trace that was measured."""
    found = zip(run.details["trace ids"], run.retention[0].reader.traces, strict=True)
    return {trace: float(d) for trace, d in found if d == d}


def loss_by_trace(run: Transfer) -> dict[str, float]:
    """What the reader's d lacks of the writer's own, for every trace where both were measured."""
    primary = run.retention[0]
    if primary.writer is None:
        return {}
    rows = zip(run.details["trace ids"], primary.writer.traces - primary.reader.traces, strict=True)
    return {trace: float(loss) for trace, loss in rows if loss == loss}


def paired(columns: Mapping[str, Mapping[str, float]]) -> tuple[list[str], Float[np.ndarray, "column trace"]]:
    """The traces every column has, and their values."""
    rows = list(columns.values())
    shared = [t for t in rows[0] if all(t in row for row in rows)] if rows else []
    return shared, np.array([[row[t] for t in shared] for row in rows], dtype=float).reshape(len(rows), len(shared))


def gold_share(model: Any, traces: Sequence[Trace], *, samples: int = 16, seed: int = 0) -> float:
    """Share of right answers when a model reasons on its own on the problems of these traces."""
    from anchors.interventions import keep
    from anchors.reading import free_answers, shares

    drawn = free_answers([keep(t, []) for t in traces], model, n=samples, seed=seed + 7)
    return float(np.mean([shares([row], str(t.target))[0] for row, t in zip(drawn, traces, strict=True)]))


def summary_row(name: str, run: Transfer, **more: Any) -> dict[str, Any]:
    """One reader or level as a row of a table."""
    primary = run.retention[0]
    rank = run.rank.spearman.value if run.rank is not None else float("nan")
    return {
        "name": name, "writer": run.writer, "reader": run.reader, "d": primary.reader.value,
        "low": primary.reader.low, "high": primary.reader.high, "traces": primary.reader.n,
        "writer d": float("nan") if primary.writer is None else primary.writer.value,
        "retained": float("nan") if primary.ratio is None else primary.ratio[0], "rank": rank,
        "verdict": run.verdict, "reason": run.reason,
    } | more  # fmt: skip


def drawable(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The summary rows of the first seed; a number that could not be measured, which a file holds as null, is NaN again."""
    numbers = ("low", "high", "d", "writer d")
    return [row | {k: float("nan") if row[k] is None else row[k] for k in numbers} for row in rows if row["seed"] == 0]
