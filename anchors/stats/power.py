"""What a design can find: its power at a given effect, and the smallest effect it would find.

1. Simulate the design: traces that differ, pairs of sentences within a trace that differ, rollouts that are counted.
2. Test every simulated experiment as real data would be: sign flips over traces, or Student's t.
3. Power is the share of experiments that are rejected. The smallest detectable effect is a quantile of the shifts from
   which each simulated experiment is rejected.
4. Every result states its Monte Carlo resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int8

from anchors.stats.intervals import measured
from anchors.stats.types import Numbers, Seed

EXHAUSTIVE = 12
"""Up to this many traces a simulated experiment is tested with every sign flip, above it with `FLIPS` of them."""

FLIPS = 2000


class Power(NamedTuple):
    """Share of simulated experiments that reject, and its standard error."""

    value: float
    error: float
    simulations: int


class Detectable(NamedTuple):
    """Smallest effect found with probability `power` at `level`, and what simulation leaves open (95 %) of it.

    inf where no effect would be found: five traces have no sign-flip p-value below .0625.
    """

    effect: float
    low: float
    high: float
    power: float
    level: float
    traces: int


def simulate_power(
    traces: int,
    rollouts: int,
    *,
    effect: float,
    pairs: int = 3,
    between_sd: float = 0.05,
    sentence_sd: float = 0.06,
    rate: float = 0.5,
    level: float = 0.05,
    simulations: int = 1000,
    seed: Seed = 0,
) -> Power:
    """Power of the signed design: anchors against matched controls, sign flips over traces.

    A pair's true difference is effect + trace deviation + pair deviation, normal with sd `between_sd` and
    `sentence_sd`, in units of probability. It is measured as [P(kept) - P(resampled)] of the anchor less the same of
    its control: four arms of `rollouts` each, the control's arms at `rate` and the anchor's half the difference above
    and below it. Pairs are averaged within a trace. The defaults are the design of the power table of this project's
    transfer specification (section T).

    Raises:
        ValueError: fewer than 1 trace, rollout, pair or simulation, or a rate outside (0, 1).

    >>> simulate_power(10, 100, effect=0.3, simulations=50).value
    1.0
    """
    if min(traces, rollouts, pairs, simulations) < 1:
        counts = f"{traces} traces, {rollouts} rollouts, {pairs} pairs and {simulations} simulations"
        raise ValueError(f"got {counts}; a design needs at least 1 of each")
    if not 0 < rate < 1:
        raise ValueError(f"rate is {rate}; a rate of the outcome lies between 0 and 1 (use .5)")
    rng, rejected = np.random.default_rng(seed), 0
    for start in range(0, simulations, 500):
        size = (min(500, simulations - start), traces)
        true = effect + rng.normal(0, between_sd, size)[..., None] + rng.normal(0, sentence_sd, (*size, pairs))
        found = _measure(true, rollouts, rate, rng).mean(-1)
        rejected += int((_share_as_large(_signs(traces, rng) @ found.T) <= level).sum())
    share = rejected / simulations
    return Power(share, float(np.sqrt(share * (1 - share) / simulations)), simulations)


def _measure(
    true: Float[np.ndarray, "simulation trace pair"], rollouts: int, rate: float, rng: np.random.Generator
) -> Float[np.ndarray, "simulation trace pair"]:
    kept, resampled = (rng.binomial(rollouts, np.clip(rate + half, 0, 1)) for half in (true / 2, -true / 2))
    control = rng.binomial(rollouts, rate, (2, *true.shape))
    return (kept - resampled - (control[0] - control[1])) / rollouts


def minimum_detectable_effect(
    values: Numbers | None = None,
    *,
    sd: float | None = None,
    n: int | None = None,
    power: float = 0.8,
    level: float = 0.05,
    test: str = "sign-flip",
    simulations: int = 2000,
    seed: Seed = 0,
) -> Detectable:
    """Smallest mean that a two-sided test over n traces would find with probability `power`, in the unit of sd.

    Solves P(p(noise + effect) <= level) = power, noise normal with `sd`: the `power` quantile over `simulations` noises
    of the effect from which the test rejects, by bisection. `values`, one a trace, give sd and n where these are not
    stated (NaN dropped). `low` and `high` solve power -+ 1.96 sqrt(power (1 - power) / simulations), the resolution of
    the simulation; that sd is itself an estimate is not in it. NaN with fewer than two values.

    Raises:
        ValueError: no sd or n and no values, a negative sd, an n below 2, an unknown test, or power outside (level, 1).

    >>> found = minimum_detectable_effect(sd=1.0, n=20, test="t")
    >>> 0.62 < found.low < found.effect < found.high < 0.70
    True
    """
    if not level < power < 1:
        raise ValueError(f"power is {power} at level {level}; it lies between the level and 1 (use .8)")
    sd, n = _spread(values, sd, n)
    if np.isnan(sd):
        return Detectable(np.nan, np.nan, np.nan, power, level, n)
    rng = np.random.default_rng(seed)
    rejects = _rejections(test, rng.normal(size=(simulations, n)), level, rng)
    step = 1.96 * np.sqrt(power * (1 - power) / simulations)
    shares = np.clip(power + step * np.array([-1.0, 0.0, 1.0]), level, 1.0)
    critical = np.sort(_critical_effects(rejects, simulations, float(shares[-1])))
    low, effect, high = critical[np.ceil(shares * simulations).astype(int) - 1]
    low, effect, high = (float(end if np.isinf(end) else sd * end) for end in (low, effect, high))
    return Detectable(effect, low, high, power, level, n)


def _spread(values: Numbers | None, sd: float | None, n: int | None) -> tuple[float, int]:
    """Standard deviation and number of traces: as stated, else those of the values."""
    if values is None and (sd is None or n is None):
        raise ValueError(f"sd is {sd} and n is {n} without values; give the values of a run, or both sd and n")
    x = measured([] if values is None else values)
    n = len(x) if n is None else n
    if sd is None:
        sd = float(x.std(ddof=1)) if len(x) > 1 else float("nan")
    if (values is None and n < 2) or sd < 0:
        raise ValueError(f"sd is {sd} and n is {n}; a spread is at least 0, and a test needs at least 2 traces")
    return (sd, n) if n > 1 else (float("nan"), n)


Rejects = Callable[[Float[np.ndarray, " simulation"]], Bool[np.ndarray, " simulation"]]


def _rejections(
    test: str, noise: Float[np.ndarray, "simulation trace"], level: float, rng: np.random.Generator
) -> Rejects:
    """Which simulated experiments the test rejects, each shifted by an effect of its own in units of sd."""
    from scipy.special import stdtrit

    n = noise.shape[1]
    if test == "t":
        se, critical = noise.std(1, ddof=1) / np.sqrt(n), stdtrit(n - 1, 1 - level / 2)
        return lambda effects: np.abs(noise.mean(1) + effects) >= critical * se
    if test != "sign-flip":
        raise ValueError(f"test is {test!r}; use 'sign-flip' or 't'")
    signs = _signs(n, rng)
    sums, shifts = signs @ noise.T, signs.sum(1, dtype=float)[:, None]
    return lambda effects: _share_as_large(sums + effects * shifts) <= level


def _critical_effects(rejects: Rejects, simulations: int, share: float) -> Float[np.ndarray, " simulation"]:
    """The effect, in units of sd, from which each experiment is rejected.

    The bracket doubles until `share` of the experiments lie in it, and those beyond it count at its end; where too few
    ever lie in it nothing is detectable, which is inf.
    """
    bound = 1.0
    while rejects(np.full(simulations, bound)).mean() < share:
        bound *= 2
        if bound > 1e4:
            return np.full(simulations, np.inf)
    low, high = np.zeros(simulations), np.full(simulations, bound)
    for _ in range(14):
        middle = (low + high) / 2
        hit = rejects(middle)
        low, high = np.where(hit, low, middle), np.where(hit, middle, high)
    return high


def _signs(n: int, rng: np.random.Generator) -> Int8[np.ndarray, "flip trace"]:
    """Sign flips, the first of which flips nothing; all of them (up to a common sign) for few traces."""
    if n <= EXHAUSTIVE:
        bits = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1
    else:
        bits = np.concatenate([np.zeros((1, n), dtype=int), rng.integers(0, 2, (FLIPS - 1, n))])
    return (1 - 2 * bits).astype(np.int8)


def _share_as_large(sums: Float[np.ndarray, "flip simulation"]) -> Float[np.ndarray, " simulation"]:
    """Share of flips whose |sum| reaches the first one's, which flipped nothing."""
    return (np.abs(sums) >= np.abs(sums[0]) - 1e-9 * np.abs(sums).max()).mean(0)
