"""Score traces by several methods into one run directory, which the same call continues.

1. Black-box methods share one set of rollouts, drawn first; their scores are recomputed from the store every time.
2. White-box methods run the model; a finished one is stored as `scores/TRACE/METHOD.npz` and not run again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from inspect import signature
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from anchors.alternatives import seek_alternatives
from anchors.memory import largest
from anchors.models.base import CapabilityError, Model, Sampling
from anchors.resampling import open_run, resample_traces
from anchors.rollouts import Rollouts
from anchors.scores import METHODS, Scores
from anchors.stopping import Anchors
from anchors.trace import Trace

logger = logging.getLogger(__name__)

GROUPS = {
    "resample": ("counterfactual", "resampling", "effects"),
    "forced": ("forced",),
    "attention": ("attention",),
    "suppress": ("suppression",),
    "confidence": ("confidence",),
}
REUSING = ("counterfactual", "resampling")


def methods_named(names: str | Sequence[str]) -> list[str]:
    """Registered methods for names as the CLI takes them: groups ("resample") or single methods ("counterfactual").

    Raises:
        ValueError: a name is neither.
    """
    import anchors.attention
    import anchors.confidence
    import anchors.effects
    import anchors.importance
    import anchors.suppression  # noqa: F401  (each import registers its methods)

    wanted = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    found: dict[str, None] = {}
    for name in wanted:
        group = GROUPS.get(name, (name,) if name in METHODS else ())
        if not group:
            raise ValueError(f"no method is called {name!r}; there are {', '.join(sorted({*GROUPS, *METHODS}))}")
        found |= dict.fromkeys(group)
    return list(found)


def score_traces(
    traces: Sequence[Trace],
    model: Model,
    *,
    methods: str | Sequence[str] = tuple(GROUPS),
    n: int = 100,
    seed: int = 0,
    sampling: Sampling | None = None,
    out: str | Path | None = None,
    price: float | None = None,
    progress: bool = True,
    reuse: bool = False,
    alternatives: int = 0,
    stop: Anchors | None = None,
    **options: Any,
) -> Iterator[tuple[Rollouts, list[Scores]]]:
    """Yield each trace's rollouts and scores, drawing what is missing; `options` go to `model.generate`.

    `reuse` counts rollouts at every boundary they pass through, for the methods in `REUSING`. `alternatives` draws until
    so many rollouts of a boundary begin with another meaning, for counterfactual importance (`seek_alternatives`). `stop`
    draws no more than its anchors need (`anchors.stopping`).
    """
    chosen = methods_named(methods)
    sampling = sampling or model.sampling
    _warn_of_memory(chosen, traces, model)
    if any(METHODS[name].needs == "rollouts" for name in chosen):
        given = {"n": n, "seed": seed, "sampling": sampling, "stop": stop, "out": out, "price": price}
        runs = resample_traces(traces, model, progress=progress, **given, **options)
    else:
        runs = open_run(traces, model, seed=seed, sampling=sampling, out=out)
    far = _scored_far(chosen, runs, model, out, progress)
    with tqdm(total=len(runs) * len(chosen), unit="score", disable=None if progress else True) as bar:
        spent = 0
        for rollouts in runs:
            found = []
            for name in chosen:
                bar.set_description_str(name)
                more: dict[str, Any] = {"reuse": True} if reuse and name in REUSING else {}
                if alternatives and name == "counterfactual":
                    sought = seek_alternatives(rollouts, model, wanted=alternatives, **options)
                    more["alternatives"] = sought
                found.append(_score_or_say_why(name, rollouts, model, out, more | _shown(name, progress), far))
                spent += 0 if bar.disable else _read(name, rollouts.trace, model)
                bar.set_postfix_str(f"{spent:,} tokens read", refresh=False)
                bar.update()
            bar.clear()
            yield rollouts, [scores for scores in found if scores is not None]


def _warn_of_memory(chosen: Sequence[str], traces: Sequence[Trace], model: Model) -> None:
    """Say before rollouts are drawn which white-box method will be refused."""
    for estimate in largest(traces, model, chosen):
        if (short := estimate.shortage()) is not None:
            logger.warning("%s", short)


def _shown(name: str, progress: bool) -> dict[str, bool]:
    """A method that can take long on one trace shows its own progress."""
    return {"progress": True} if progress and "progress" in signature(METHODS[name].function).parameters else {}


def _read(name: str, trace: Trace, model: Any) -> int:
    """Tokens of the trace where a method puts it through the model; what it reads again is not counted."""
    able = METHODS[name].needs == "model" and hasattr(model, "encode")
    return len(model.encode(trace.text).ids) if able else 0


Found = Scores | ValueError | CapabilityError


def _scored_far(
    chosen: Sequence[str], runs: Sequence[Rollouts], model: Any, out: str | Path | None, progress: bool
) -> dict[tuple[str, str], Found]:
    """Where a cluster holds the model: its white-box scores of all traces, or why there is none, a unit each."""
    if not hasattr(model, "map"):
        return {}
    units = [(name, run.trace) for run in runs for name in chosen if METHODS[name].needs == "model"]
    units = [(name, trace) for name, trace in units if out is None or not _path(out, trace, name).exists()]
    far: dict[tuple[str, str], Found] = {}
    scored = model.map(_scored_there, [(METHODS[name].function, trace) for name, trace in units])
    for i, found in tqdm(scored, desc="scores", total=len(units), disable=None if progress and units else True):
        name, trace = units[i]
        if isinstance(found, Scores) and out is not None:
            _store(found, _path(out, trace, name))
        else:
            far[name, trace.id] = found
    return far


def _scored_there(unit: tuple[Callable[..., Scores], Trace], model: Any) -> Found:
    function, trace = unit
    try:
        return function(trace, model)
    except (ValueError, CapabilityError) as error:
        return error


def _score_or_say_why(
    name: str,
    rollouts: Rollouts,
    model: Model,
    out: str | Path | None,
    more: dict[str, Any],
    far: Mapping[tuple[str, str], Found],
) -> Scores | None:
    """A method that cannot score this trace is left out with a warning; the other methods' work is kept."""
    try:
        found = far.get((name, rollouts.trace.id))
        if isinstance(found, Exception):
            raise found
        return _score(name, rollouts, model, out, more) if found is None else found
    except (ValueError, CapabilityError) as error:
        logger.warning("%s left out for trace %s: %s", name, rollouts.trace.id, error)
        return None


def _score(name: str, rollouts: Rollouts, model: Model, out: str | Path | None, more: dict[str, Any]) -> Scores:
    method = METHODS[name]
    path = None if out is None else _path(out, rollouts.trace, name)
    if method.needs == "model" and path is not None and path.exists():
        return _of_trace(Scores.load(path), rollouts.trace, path)
    given = (rollouts,) if method.needs == "rollouts" else (rollouts.trace, model)
    scores = method.function(*given, **more)
    if path is not None:
        _store(scores, path)
    return scores


def _path(out: str | Path, trace: Trace, name: str) -> Path:
    return scores_folder(out, trace) / f"{name}.npz"


def _of_trace(scores: Scores, trace: Trace, path: Path) -> Scores:
    """The scores, if they are of this trace: on a disk without capitals two ids can share a folder."""
    if scores.trace_id != trace.id or scores.trace.text != trace.text:
        raise ValueError(f"{path} holds scores of trace {scores.trace_id!r}; delete it and score again")
    return scores


def _store(scores: Scores, path: Path) -> None:
    """Write scores in one move, in the run directory itself: links that lead out of it are refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    run = path.parents[2]
    if not path.parent.resolve().is_relative_to(run.resolve()):
        raise ValueError(f"{path.parent} leads out of the run directory {run}; use one that nobody tampered with")
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    scores.save(temporary)
    temporary.replace(path)


def scores_folder(out: str | Path, trace: Trace) -> Path:
    """Where a run keeps a trace's scores; an id that is no plain file name is replaced by its digest."""
    plain = re.fullmatch(r"(?!id-)[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}", trace.id)
    digest = blake2b(trace.id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return Path(out) / "scores" / (trace.id if plain else f"id-{digest}")


def stored_scores(out: str | Path, trace: Trace) -> list[Scores]:
    """The scores a run holds for a trace, black-box ones first."""
    order = [name for group in GROUPS.values() for name in group]
    found = sorted(
        scores_folder(out, trace).glob("*.npz"), key=lambda p: order.index(p.stem) if p.stem in order else 99
    )
    return [_of_trace(Scores.load(path), trace, path) for path in found]
