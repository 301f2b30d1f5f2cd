"""The pre-conditions of a transfer verdict (T0), fixed before the run.

1. Band: without the trace the reader reaches the outcome neither hardly ever nor nearly always (0.15 to 0.85 on the set).
2. Scaffold: with the whole trace its outcome is higher than without; else there is nothing to transfer.
3. Self-effect: the writer's own anchors have an effect over their controls, on rollouts that did not select them, or in
   the writer itself; else there are no anchors.
4. Negative control: random scores, that is random sentences in the anchors' place, are significant no oftener than
   chance allows.
5. Positive control: a planted sentence that states the answer moves the reader over its controls (see `planted`). It
   does not shut the gate, because an effect that is seen needs no proof that one could be seen: where it is not
   recovered, no verdict of absence is given.
A condition that could not be measured is not passed.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from anchors.stats import sign_flip_p
from anchors.transfer.results import Condition, Gate, Mean

BAND = (0.15, 0.85)
LEVEL, ASSURANCE = 0.05, 0.01


def open_gate(
    *,
    alone: Mean,
    scaffold: Mean,
    self_effect: Mean | None,
    random: Float[np.ndarray, "trace draw"],
    planted: Mean,
    unit: str,
) -> Gate:
    """The gate from what was measured: P(outcome) without the trace, scaffold effect, self-effect, random and planted d."""
    return Gate((_band(alone), _scaffold(scaffold, unit), _self(self_effect), _negative(random), _positive(planted)))


def _band(alone: Mean) -> Condition:
    low, high = BAND
    name = "reader alone"
    if not alone.n:
        return Condition(name, "not measured", None, "the reader was not asked without the trace: n is 0")
    found = f"P(outcome) without the trace is {alone.value:.2f}"
    side = "hardly ever" if alone.value < low else "nearly always"
    reason = f"without the trace the reader reaches the outcome {side} ({alone.value:.2f}, outside {low} to {high})"
    return Condition(name, found, bool(low <= alone.value <= high), reason)


def _scaffold(scaffold: Mean, unit: str) -> Condition:
    found = f"the whole trace moves the reader by {scaffold} ({unit})"
    if scaffold.n < 2:
        few = "1 trace leaves" if scaffold.n == 1 else f"{scaffold.n} traces leave"
        return Condition("scaffold", found, None, f"{few} no interval for the scaffold effect")
    reason = "the reader does no better with the whole trace than without it: nothing to transfer"
    return Condition("scaffold", found, bool(scaffold.low > 0), reason)


def _self(effect: Mean | None) -> Condition:
    name = "self-effect"
    if effect is None or effect.n < 2:
        remedy = "give the writer's rollouts (run directory), or writer=model"
        return Condition(name, "not measured", None, f"the writer's own effect was not measured: {remedy}")
    found = f"the anchors move the writer itself by {effect} over controls"
    reason = "the writer's own anchors have no effect over their controls: no anchors to transfer"
    return Condition(name, found, bool(effect.low > 0), reason)


def _negative(random: Float[np.ndarray, "trace draw"]) -> Condition:
    """Random anchors are false alarms at rate 5 %; the count must stay within the 99 % limit of a binomial."""
    name = "negative control"
    p = np.array([sign_flip_p(column, resamples=2000) for column in random.T if (~np.isnan(column)).sum() > 1])
    if not len(p):
        return Condition(name, "not measured", None, "no random sentences could be matched as a negative control")
    alarms, allowed = int((p < LEVEL).sum()), allowed_alarms(len(p))
    found = f"{alarms} of {len(p)} draws of random scores are significant at 5 % ({allowed} allowed)"
    reason = f"random sentences are significant in {alarms} of {len(p)} draws: the matching or the measure is biased"
    return Condition(name, found, alarms <= allowed, reason)


def _positive(planted: Mean) -> Condition:
    name = "positive control"
    if planted.n < 2:
        reason = (
            f"a sentence could be planted in {planted.n} traces: whether an effect would have been seen is not known"
        )
        return Condition(name, "not measured", None, reason, shuts=False)
    found = f"a planted sentence that states the answer moves the reader by {planted} over controls"
    reason = "not even a planted sentence that states the answer moves the reader: an effect would not have been seen"
    return Condition(name, found, bool(planted.low > 0), reason, shuts=False)


def allowed_alarms(draws: int) -> int:
    """The most false alarms at 5 % that chance gives with probability above 1 %.

    >>> allowed_alarms(20)
    4
    """
    from scipy.stats import binom

    return int(binom.ppf(1 - ASSURANCE, draws, LEVEL))
