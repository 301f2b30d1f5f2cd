"""Score traces by several methods into one run directory, which the same call continues.

1. Black-box methods share one set of rollouts, drawn first; their scores are recomputed from the store every time.
2. White-box methods run the model; a finished one is stored as `scores/TRACE/METHOD.npz` and not run again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from anchors.alternatives import seek_alternatives
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
    if any(METHODS[name].needs == "rollouts" for name in chosen):
        given = {"n": n, "seed": seed, "sampling": sampling, "stop": stop, "out": out, "price": price}
        runs = resample_traces(traces, model, progress=progress, **given, **options)
    else:
        runs = open_run(traces, model, seed=seed, sampling=sampling, out=out)
    for rollouts in runs:
        more: dict[str, dict[str, Any]] = {
            name: {"reuse": True} if reuse and name in REUSING else {} for name in chosen
        }
        if alternatives and "counterfactual" in chosen:
            more["counterfactual"] |= {
                "alternatives": seek_alternatives(rollouts, model, wanted=alternatives, **options)
            }
        found = [_score_or_say_why(name, rollouts, model, out, more[name]) for name in chosen]
        yield rollouts, [scores for scores in found if scores is not None]


def _score_or_say_why(
    name: str, rollouts: Rollouts, model: Model, out: str | Path | None, more: dict[str, Any]
) -> Scores | None:
    """A method that cannot score this trace is left out with a warning; the other methods' work is kept."""
    try:
        return _score(name, rollouts, model, out, more)
    except (ValueError, CapabilityError) as error:
        logger.warning("%s left out for trace %s: %s", name, rollouts.trace.id, error)
        return None


def _score(name: str, rollouts: Rollouts, model: Model, out: str | Path | None, more: dict[str, Any]) -> Scores:
    method = METHODS[name]
    path = None if out is None else scores_folder(out, rollouts.trace) / f"{name}.npz"
    if method.needs == "model" and path is not None and path.exists():
        return Scores.load(path)
    given = (rollouts,) if method.needs == "rollouts" else (rollouts.trace, model)
    scores = method.function(*given, **more)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        scores.save(temporary)
        temporary.replace(path)
    return scores


def scores_folder(out: str | Path, trace: Trace) -> Path:
    """Where a run keeps a trace's scores; an id that is no plain file name is replaced by its digest."""
    plain = re.fullmatch(r"\w[\w.-]{0,80}", trace.id)
    name = trace.id if plain else blake2b(trace.id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return Path(out) / "scores" / name


def stored_scores(out: str | Path, trace: Trace) -> list[Scores]:
    """The scores a run holds for a trace, black-box ones first."""
    order = [name for group in GROUPS.values() for name in group]
    found = sorted(
        scores_folder(out, trace).glob("*.npz"), key=lambda p: order.index(p.stem) if p.stem in order else 99
    )
    return [Scores.load(path) for path in found]
