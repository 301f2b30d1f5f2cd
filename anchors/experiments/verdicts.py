"""The rules that turn findings into verdicts, shared by the claims.

1. `mean_finding` summarises one value a unit: Student's t interval and exact sign-flip p.
2. `superior` asks whether an effect lies above a bar, `equivalent` whether it lies within a margin of 0.
3. Where neither the claim nor its opposite is shown, the verdict is inconclusive and names the detectable effect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from anchors.experiments.base import Finding, Verdict
from anchors.stats import measured, minimum_detectable_effect, sign_flip_p, t_interval, tost


def mean_finding(name: str, values: Sequence[float] | np.ndarray, *, of: str, unit: str) -> Finding:
    """The mean of one value a unit with its t interval (95 %) and sign-flip p; NaN values are left out and not counted.

    >>> print(mean_finding("gain", [0.1, 0.3, 0.2], of="problems", unit="of problems"))
    gain: +0.2 [-0.0484, +0.448] of problems, n = 3 problems
    """
    x = measured(np.asarray(values, dtype=float))
    low, high = t_interval(x)
    mean = float(x.mean()) if len(x) else math.nan
    p = sign_flip_p(x) if len(x) else None
    return Finding(name, mean, float(low), float(high), len(x), of, unit, p, tuple(float(v) for v in x))


def detectable(values: Sequence[float] | np.ndarray) -> float | None:
    """The mean that these many units with this spread would have shown with 80 % power (two-sided t, 5 %)."""
    effect = minimum_detectable_effect(np.asarray(values, dtype=float), test="t").effect
    return effect if math.isfinite(effect) else None


def superior(found: Finding, *, above: float = 0.0, matters: float = 0.0) -> Verdict:
    """holds: the interval lies above `above`; fails: it lies below `above + matters`, the smallest effect that matters.

    An interval that lies above the one and below the other shows an effect too small to matter, which fails.

    Raises:
        ValueError: `matters` is negative.
    """
    if matters < 0:
        raise ValueError(f"matters is {matters}; the smallest effect that matters is at least 0")
    if not math.isfinite(found.low) or not math.isfinite(found.high):
        return Verdict("inconclusive", f"{found.name} could not be measured on {found.n} {found.of}")
    bar = f"{above:+.3g} {found.unit}".strip()
    if found.high <= above or found.high < above + matters:
        return Verdict("fails", f"{_said(found)} lies below {above + matters:+.3g}, the least that would matter")
    if found.low > above:
        return Verdict("holds", f"{_said(found)} lies above {bar}")
    least = detectable(found.values) if len(found.values) > 1 else None
    return Verdict("inconclusive", f"{_said(found)} does not settle it", least)


def equivalent(found: Finding, margin: float) -> Verdict:
    """holds: two one-sided t-tests (5 % each) put the mean within the margin of 0; fails: the 95 % interval lies outside.

    Raises:
        ValueError: the finding carries no values of its units, or the margin is not above 0.
    """
    if len(found.values) < 2:
        if found.n < 2:
            return Verdict("inconclusive", f"{found.name} was measured on {found.n} {found.of}: too few")
        raise ValueError(f"{found.name} carries no values, which an equivalence test needs")
    tested = tost(np.array(found.values), margin)
    inside = f"{_said(found)}; TOST within {margin:g}: p = {tested.p:.2g}"
    if tested.equivalent:
        return Verdict("holds", inside)
    if found.low > margin or found.high < -margin:
        return Verdict("fails", f"{_said(found)} lies outside the margin of {margin:g}")
    spread = float(np.std(found.values, ddof=1)) / math.sqrt(len(found.values))
    return Verdict("inconclusive", inside, margin + 2 * 1.645 * spread)


def both(*verdicts: Verdict) -> Verdict:
    """All must hold; one that fails fails the whole; else inconclusive."""
    for word in ("fails", "inconclusive"):
        short = [v for v in verdicts if v.word == word]
        if short:
            least = next((v.detectable for v in short if v.detectable is not None), None)
            return Verdict(word, "; ".join(v.reason for v in short), least)
    return Verdict("holds", "; ".join(v.reason for v in verdicts))


def _said(found: Finding) -> str:
    return f"{found.name} {found.effect:+.3g} [{found.low:+.3g}, {found.high:+.3g}]"
