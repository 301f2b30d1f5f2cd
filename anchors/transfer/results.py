"""What a transfer run found: gate, rank agreement, retention, curve, controls, and one verdict in words."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.stats import Equivalence
from anchors.transfer.matching import Balance

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VERDICTS = ("transfers", "does not transfer", "inconclusive", "gate failed")
Verdict = Literal["transfers", "does not transfer", "inconclusive", "gate failed"]


class Mean(NamedTuple):
    """A mean over traces: Student's t interval, cluster bootstrap interval, exact sign-flip p, values one a trace.

    The verdict rests on the t interval: a percentile bootstrap over few traces covers too little. NaN traces were not
    measured.
    """

    value: float
    low: float
    high: float
    boot_low: float
    boot_high: float
    p: float
    traces: Float[np.ndarray, " trace"]

    @property
    def n(self) -> int:
        return int((~np.isnan(self.traces)).sum())

    def __str__(self) -> str:
        traces = f"{self.n} trace{'' if self.n == 1 else 's'}"
        if np.isnan(self.low):
            return "not measured" if np.isnan(self.value) else f"{self.value:+.3f} (no interval), {traces}"
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}], p = {self.p:.2g}, {traces}"


class Condition(NamedTuple):
    """One pre-condition of the gate; `passed` is None where it could not be measured, which counts as not passed.

    One that does not shut the gate (`shuts` false) bars only the verdict that rests on it.
    """

    name: str
    found: str
    passed: bool | None
    reason: str
    shuts: bool = True


@dataclass(frozen=True)
class Gate:
    """The pre-conditions (T0), fixed before the run; without them a verdict would mean nothing."""

    conditions: tuple[Condition, ...]

    @property
    def passed(self) -> bool:
        return all(condition.passed for condition in self.conditions if condition.shuts)

    @property
    def sensitive(self) -> bool:
        """Whether the positive control was recovered: only then does a missing effect say something."""
        return all(condition.passed for condition in self.conditions if not condition.shuts)

    @property
    def reason(self) -> str:
        """Why the gate failed, empty where it did not."""
        return "; ".join(c.reason for c in self.conditions if c.shuts and not c.passed)


class Retention(NamedTuple):
    """d = sign x [effect(anchors) - mean effect(control sets)] in the reader and in the writer, for one operation.

    `anchors` and `controls` are the signed effects themselves; `per_token` is d over the tokens removed. `ratio` = reader
    / writer with Fieller's interval, only where the writer's interval excludes 0; `partial` notes why a part is missing.
    `given_answer` is the reader's d over the continuations that answer (in `reader` no answer counts as not reaching the
    outcome); None where answers are forced.
    """

    operation: str
    reader: Mean
    writer: Mean | None
    anchors: Mean
    controls: Mean
    per_token: Mean
    ratio: tuple[float, float, float] | None
    equivalence: Equivalence | None
    partial: str = ""
    given_answer: Mean | None = None


class Rank(NamedTuple):
    """Agreement of writer's and reader's scores within traces (T1).

    `spearman`, `kendall` and `partial` (position, length, answer mention, headroom and the text's log perplexity under
    the reader, where it shows one, taken out of both) are means over
    traces: first the BCa bootstrap over traces, then Student's interval on Fisher's z, which is about another mean. `p`
    permutes the writer's scores within traces.
    `ceiling` is the largest correlation the two reliabilities allow and `corrected` = spearman / ceiling, both NaN unless
    both reliabilities are above 0. `overlap` is the share of the writer's k anchors among the reader's k, `chance` what
    a random choice would share, `percentile` the mean rank of the writer's anchors in the reader's profile (0.5 where
    unrelated).
    """

    compared: str
    spearman: Mean
    kendall: Mean
    partial: Mean
    p: float
    writer_reliability: float
    reader_reliability: float
    ceiling: float
    corrected: float
    overlap: float
    chance: float
    overlap_p: float
    percentile: Mean


class CurvePoint(NamedTuple):
    """Mean outcome of one compressor at one budget, and the mean probability that the answer given is the outcome."""

    budget: float
    outcome: Mean
    accuracy: float


class Curve(NamedTuple):
    """Outcome against the share of tokens kept (T3) for one compressor; `area` is its normalised area with interval.

    `gain` = area(anchors) - area(this compressor) with its Holm-corrected interval and Holm-adjusted p; NaN for the
    anchors themselves, or where the scaffold's interval includes 0 and areas are undefined. `arm` is "raw", "stripped"
    (sentences that state the answer removed first) or "deletion" (the best sentences removed instead of kept).
    """

    compressor: str
    arm: str
    points: tuple[CurvePoint, ...]
    area: float
    area_low: float
    area_high: float
    gain: float
    gain_low: float
    gain_high: float
    p: float


class Contrast(NamedTuple):
    """A difference of two ways to show the trace (T4), its interval over traces, and its Holm-adjusted p."""

    name: str
    formula: str
    difference: Mean
    p_holm: float


@dataclass(frozen=True)
class Controls:
    """Outcome of the reader under every way to show the trace (T4), their contrasts, and how it recovers.

    `recovery` are shares of continuations after a number of an anchor was altered: "copied" (any other answer),
    "explicit" (right answer, after saying that something is wrong) and "silent" (right answer without a word).
    `unaltered` are the same shares after the prefix as it was: what is not owed to the altered number.
    """

    outcomes: dict[str, Mean]
    contrasts: tuple[Contrast, ...]
    recovery: dict[str, float] = field(default_factory=dict)
    unaltered: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Transfer:
    """What `transfer_anchors` found; see `anchors.transfer`.

    `verdict` is one of "transfers", "does not transfer", "inconclusive", "gate failed" and `reason` says it in a
    sentence. `anchors` were matched, `unmatched` were not; `excluded` names every trace left out and why.
    """

    writer: str
    reader: str
    method: str
    outcome: str
    verdict: Verdict
    reason: str
    gate: Gate
    rank: Rank | None
    retention: tuple[Retention, ...]
    balance: tuple[Balance, ...]
    curve: tuple[Curve, ...]
    controls: Controls | None
    pairs: dict[str, Any] | None
    anchors: int
    unmatched: int
    traces: int
    excluded: tuple[str, ...]
    details: dict[str, Any]

    @property
    def unit(self) -> str:
        return "nats a token of the forced answer" if self.outcome == "forced" else "probability of the answer"

    def __str__(self) -> str:
        from anchors.transfer.words import in_words

        return in_words(self)

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable record; NaN and infinite ends become null."""
        return _plain({name: getattr(self, name) for name in self.__dataclass_fields__})

    def save(self, path: str | Path) -> Path:
        """Write `to_json` as one file."""
        import json

        path = Path(path)
        path.write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")
        return path

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the compression curves where there are some, else retention by operation."""
        from anchors.plotting import compression_curves, retention_bars

        return compression_curves(self, ax=ax) if self.curve else retention_bars(self, ax=ax)


def _plain(value: Any) -> Any:
    """A value as JSON types."""
    if isinstance(value, Gate | Controls):
        return _plain({name: getattr(value, name) for name in value.__dataclass_fields__} | _derived(value))
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    return value if isinstance(value, str | int | bool) or value is None else str(value)


def _derived(value: Gate | Controls) -> dict[str, Any]:
    return (
        {"passed": value.passed, "sensitive": value.sensitive, "reason": value.reason}
        if isinstance(value, Gate)
        else {}
    )
