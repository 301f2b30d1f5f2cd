"""Does a confidence tell right traces from wrong ones of the same problem?

1. Within a problem: AUROC of confidence for right against wrong traces. Problems with only one kind say nothing.
2. Over problems: the mean, with an interval from redrawn problems. Two confidences are compared problem by problem.
3. Pooled over problems, AUROC mostly measures which problems are easy; `pooled_auroc` is there to warn, not to conclude.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.stats import Numbers, auroc, cluster_bootstrap, sign_flip_p

Problems = Sequence[Hashable] | np.ndarray


class Separation(NamedTuple):
    """A mean over problems, its 95 % interval from redrawn problems, and the sign-flip p that it is chance.

    `values` [problem] are the problems' own values, `problems` how many could be measured of `asked`; chance is 0.5 for an
    AUROC and 0 for a gain.
    """

    value: float
    low: float
    high: float
    p: float
    problems: int
    asked: int
    values: tuple[float, ...]


def within_auroc(
    confidence: Numbers, right: Sequence[bool] | np.ndarray, problems: Problems, *, seed: int = 0
) -> Separation:
    """Mean over problems of P(a right trace is more confident than a wrong one of its problem), ties counting half.

    All three are [trace]. Traces whose confidence was not measured (NaN) are left out.

    >>> found = within_auroc([3, 1, 9, 8], [True, False, False, True], ["p", "p", "q", "q"])
    >>> found.value, found.problems
    (0.5, 2)
    """
    values = _each(np.asarray(confidence, dtype=float)[:, None], right, problems)[:, 0]
    return _mean(values, chance=0.5, seed=seed)


def auroc_gain(
    local: Numbers, overall: Numbers, right: Sequence[bool] | np.ndarray, problems: Problems, *, seed: int = 0
) -> Separation:
    """Mean over problems of AUROC(local) - AUROC(overall), both on the same traces: those where both were measured."""
    pair = np.stack([np.asarray(local, dtype=float), np.asarray(overall, dtype=float)], axis=1)
    values = _each(pair, right, problems)
    return _mean(values[:, 0] - values[:, 1], chance=0.0, seed=seed)


def pooled_auroc(confidence: Numbers, right: Sequence[bool] | np.ndarray) -> float:
    """AUROC over the traces of all problems at once: between problems it measures difficulty, so it is a warning only."""
    x, y = np.asarray(confidence, dtype=float), np.asarray(right, dtype=bool)
    return auroc(x[~np.isnan(x)], y[~np.isnan(x)])


def _each(
    columns: Float[np.ndarray, "trace column"], right: Sequence[bool] | np.ndarray, problems: Problems
) -> Float[np.ndarray, "problem column"]:
    """AUROC of every column within every problem, over the traces measured in all columns."""
    y, names = np.asarray(right, dtype=bool), list(problems)
    if not len(columns) == len(y) == len(names):
        raise ValueError(
            f"{len(columns)} confidences, {len(y)} outcomes and {len(names)} problems; give one each a trace"
        )
    groups: dict[Hashable, list[int]] = {}
    for i in np.flatnonzero(~np.isnan(columns).any(axis=1)):
        groups.setdefault(names[i], []).append(int(i))
    picked = [groups.get(name, []) for name in dict.fromkeys(names)]
    return np.array([[auroc(column[rows], y[rows]) for column in columns.T] for rows in picked]).reshape(
        len(picked), columns.shape[1]
    )


def _mean(values: Float[np.ndarray, " problem"], *, chance: float, seed: int) -> Separation:
    x = values[~np.isnan(values)]
    if not len(x):
        nan = float("nan")
        return Separation(nan, nan, nan, nan, 0, len(values), ())
    low, high = cluster_bootstrap([[v] for v in x], seed=seed) if len(x) > 1 else (np.nan, np.nan)
    p = sign_flip_p(x - chance, seed=seed)
    return Separation(float(x.mean()), float(low), float(high), p, len(x), len(values), tuple(float(v) for v in x))
