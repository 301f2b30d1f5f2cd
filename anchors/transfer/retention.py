"""Do the writer's anchors carry the answer in a model more than matched control sentences do? (T2, primary)

1. For every operation, the anchors of a trace are removed together, and so is each of its control sets.
2. d = sign x [effect(anchors) - mean over control sets of effect(controls)], one number a trace; where the anchors of a
   trace have both signs, each sign's anchors are removed together with their own controls, and the two d are averaged.
3. Inference is over traces. The same d in the writer gives the scale: retention ratio, and the margin of equivalence.
4. The negative control puts random sentences in the anchors' place, with the anchors' signs, and averages their
   single-sentence effects: it guards the matching and the inference, not joint removal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.stats import Interval, cluster_bootstrap, sign_flip_p, t_interval
from anchors.trace import Trace
from anchors.transfer.matching import Calipers, Covariates, Match, match_sets
from anchors.transfer.measure import Ask, Operations, set_effects
from anchors.transfer.results import Mean


class Side(NamedTuple):
    """Anchors of one sign in one trace, with their control sets."""

    sign: float
    match: Match


class Effects(NamedTuple):
    """Signed effects in one trace: of the anchors, mean of the controls, and the tokens the anchors have."""

    anchors: float
    controls: float
    tokens: float

    @property
    def d(self) -> float:
        return self.anchors - self.controls


NOTHING = Effects(float("nan"), float("nan"), float("nan"))


def sides(match: Match, signs: dict[int, float]) -> list[Side]:
    """A match split by the sign of its anchors."""
    found = []
    for sign in (1.0, -1.0):
        places = [p for p, anchor in enumerate(match.anchors) if signs[anchor] == sign]
        if places:
            sets: dict[frozenset[int], tuple[int, ...]] = {}
            for row in match.sets:
                part = tuple(row[p] for p in places)
                sets.setdefault(frozenset(part), part)
            found.append(Side(sign, Match(tuple(match.anchors[p] for p in places), tuple(sets.values()), ())))
    return found


def trace_effects(
    trace: Trace, ask: Ask, found: Sequence[Side], operation: str, operations: Operations, lengths: np.ndarray
) -> Effects:
    """Effects of one operation in one trace."""
    sets = [row for side in found for row in (side.match.anchors, *side.match.sets)]
    effects = iter(set_effects(trace, ask, sets, operation, operations))
    rows = []
    for side in found:
        anchors = side.sign * next(effects)
        controls = np.array([side.sign * next(effects) for _ in side.match.sets])
        measured = controls[~np.isnan(controls)]
        mean = measured.mean() if len(measured) else np.nan
        rows.append((anchors, mean, lengths[list(side.match.anchors)].sum()))
    return Effects(*(float(x) for x in np.mean(rows, axis=0))) if rows else NOTHING


def estimated_effects(values: Float[np.ndarray, " sentence"], found: Sequence[Side]) -> Effects:
    """The same from scores of single sentences, as the writer's held-out half gives them; NaN scores are left out."""
    rows = []
    for side in found:
        controls = [np.nanmean(row) for row in (values[list(r)] for r in side.match.sets) if not np.isnan(row).all()]
        anchors = values[list(side.match.anchors)]
        if controls and not np.isnan(anchors).all():
            rows.append((side.sign * np.nanmean(anchors), side.sign * np.mean(controls), np.nan))
    return Effects(*(float(x) for x in np.mean(rows, axis=0))) if rows else NOTHING


def mean_over_traces(values: Sequence[float] | np.ndarray, *, seed: int = 0) -> Mean:
    """Mean of one number a trace with its intervals and sign-flip p; NaN traces are left out, one trace has no interval."""
    traces = np.array(values, dtype=float)
    found = traces[~np.isnan(traces)]
    if not len(found):
        return Mean(np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, traces)
    low, high = t_interval(found)
    boot = cluster_bootstrap([[x] for x in found], seed=seed) if len(found) > 1 else Interval(np.nan, np.nan)
    p = sign_flip_p(found) if len(found) > 1 else np.nan
    return Mean(float(found.mean()), float(low), float(high), float(boot.low), float(boot.high), float(p), traces)


def random_differences(
    singles: Float[np.ndarray, " sentence"],
    found: Covariates,
    anchors: Sequence[int],
    signs: Sequence[float],
    *,
    sets: int,
    calipers: Calipers,
    draws: int,
    seed: int,
) -> Float[np.ndarray, " draw"]:
    """d of random sentences in the anchors' place, from single-sentence effects; NaN where none can be matched."""
    rng = np.random.default_rng(seed)
    measured = np.flatnonzero(~np.isnan(singles))
    out = np.full(draws, np.nan)
    for draw in range(draws):
        if len(measured) <= len(anchors):
            break
        chosen = [int(i) for i in rng.choice(measured, len(anchors), replace=False)]
        match = match_sets(found, chosen, sets=sets, calipers=calipers, seed=seed)
        given = dict(zip(chosen, rng.permutation(signs), strict=True))
        out[draw] = estimated_effects(singles, sides(match, given)).d
    return out
