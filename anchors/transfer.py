"""Do the anchors a writer's scores name stay load-bearing in a reader?

1. Select the writer's anchors by its own scores; orient each by its sign.
2. Match every anchor with control sentences of the same trace: near in position, close in length in the reader's
   tokens, same answer mention. No sentence the writer names an anchor is a control. Anchors without a control are
   counted and left out.
3. Remove each sentence from the reader, by deleting its text and by blocking attention to it, and measure the change
   of the forced answer's log-probability a token. No sampling, so no sampling noise.
4. d = sign x [effect(anchor) - mean effect(controls)], averaged within a trace; inference is over traces.
Source: systems of the field restated in this project's transfer specification (primary metric T2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.forced import BOXED, AnswerStub
from anchors.models.base import CapabilityError
from anchors.models.tokens import token_spans
from anchors.scores import Scores
from anchors.stats import sign_flip_p, t_interval
from anchors.trace import Trace

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

Operation = Literal["delete", "block"]
OPERATIONS: tuple[Operation, ...] = ("delete", "block")
POSITION_CALIPER, LENGTH_CALIPER = 4, 1.5


class Retention(NamedTuple):
    """Effect of the writer's anchors over matched controls in the reader, in nats a token of the answer.

    `traces` holds one signed difference a trace, NaN where no anchor could be matched; the interval is Student's t
    over traces and `p` an exact sign flip. One trace has no interval.
    """

    operation: Operation
    value: float
    low: float
    high: float
    p: float
    traces: Float[np.ndarray, " trace"]


class Balance(NamedTuple):
    """Standardised mean difference between anchors and their controls on one matching variable.

    NaN when they differ but neither varies, so that there is no spread to standardise by.
    """

    variable: str
    difference: float


@dataclass(frozen=True)
class Transfer:
    """What `transfer_anchors` found: one `Retention` an operation, the balance of the match, and what was left out."""

    writer: str
    reader: str
    method: str
    retention: tuple[Retention, ...]
    balance: tuple[Balance, ...]
    anchors: int
    unmatched: int
    excluded: tuple[str, ...]
    details: dict[str, Any]

    def __str__(self) -> str:
        lines = [
            f"{self.method} anchors of {self.writer} in {self.reader}: {self.anchors} matched, {self.unmatched} not"
        ]
        for r in self.retention:
            n = int((~np.isnan(r.traces)).sum())
            lines.append(
                f"  {r.operation}: {r.value:+.3f} nats a token over matched controls "
                f"[{r.low:+.3f}, {r.high:+.3f}], p = {r.p:.3g}, {n} traces"
            )
        lines.append("  balance: " + ", ".join(f"{b.variable} {b.difference:+.2f} sd" for b in self.balance))
        lines += [f"  excluded: {reason}" for reason in self.excluded]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable record."""
        rows = [r._asdict() | {"traces": r.traces.tolist()} for r in self.retention]
        return {**self.__dict__, "retention": rows, "balance": [b._asdict() for b in self.balance]}


class Match(NamedTuple):
    """An anchor, the sign of its score, and the control sentences it is compared with."""

    anchor: int
    sign: float
    controls: tuple[int, ...]


def transfer_anchors(
    scores: Scores | Sequence[Scores], *, reader: LensModel, k: int = 3, fdr: float = 0.05, controls: int = 5
) -> Transfer:
    """Test whether a writer's anchors carry the answer in a reader, over matched control sentences.

    `scores` are one method's scores of one or many traces. Anchors are the up to k sentences of largest |score| among
    those `scores.anchors(fdr)` names, or the top k where the method has no null. The outcome is the trace's own
    answer, or its target where it has none. With the writer itself as reader this is the self-effect.

    Raises:
        ValueError: no scores, scores of several methods or writers, two of one trace, or k or controls below 1.
        CapabilityError: the reader is a black box.
    """
    scores = [scores] if isinstance(scores, Scores) else list(scores)
    methods, writers = ({s.method for s in scores}, {str(s.details.get("model", "unknown")) for s in scores})
    if len(methods) != 1:
        raise ValueError(f"scores of {sorted(methods) or 'no method'} were given; call transfer_anchors once a method")
    if len(writers) != 1:
        raise ValueError(f"scores made with {sorted(writers)} were given; call transfer_anchors once a writer")
    if len({s.trace.id for s in scores}) < len(scores):
        raise ValueError("a trace was given twice; inference is over traces, so give each once")
    if min(k, controls) < 1:
        raise ValueError(f"k is {k} and controls is {controls}; both must be at least 1")
    if not hasattr(reader, "score"):
        raise CapabilityError(f"{reader.name} gives no log-probabilities of forced text; use a local reader")
    readings = [_read(s, reader, k=k, fdr=fdr, controls=controls) for s in scores]
    matches = [m for reading in readings for m in reading.matches]
    return Transfer(
        writer=writers.pop(),
        reader=reader.name,
        method=methods.pop(),
        retention=tuple(_retention(op, [r.effects.get(op, np.nan) for r in readings]) for op in OPERATIONS),
        balance=_balance([r for r in readings if r.matches]),
        anchors=len(matches),
        unmatched=sum(r.unmatched for r in readings),
        excluded=tuple(r.excluded for r in readings if r.excluded),
        details={"k": k, "fdr": fdr, "controls": controls, "outcome": "own answer", "position": POSITION_CALIPER,
                 "length factor": LENGTH_CALIPER},
    )  # fmt: skip


class Reading(NamedTuple):
    """One trace read by the reader."""

    effects: dict[Operation, float]
    matches: tuple[Match, ...]
    covariates: Float[np.ndarray, "sentence variable"]
    unmatched: int
    excluded: str


VARIABLES = ("length", "position", "answer mention")


def _read(scores: Scores, reader: LensModel, *, k: int, fdr: float, controls: int) -> Reading:
    trace = scores.trace
    answer = trace.answer if trace.answer is not None else trace.target
    nothing = np.zeros((0, len(VARIABLES)))
    if answer is None:
        return Reading({}, (), nothing, 0, f"{trace.id}: no answer of its own and no target")
    outcome = scores.details.get("outcome")
    if outcome is not None and not str(outcome).endswith(repr(answer)):
        return Reading({}, (), nothing, 0, f"{trace.id}: scored for {outcome}, but answer {answer!r} would be measured")
    chosen = select_anchors(scores, k=k, fdr=fdr)
    if not chosen:
        return Reading({}, (), nothing, 0, f"{trace.id}: the writer's scores name no anchor at fdr {fdr}")
    covariates = _covariates(trace, reader, answer)
    taken = {*chosen, *_named(scores, fdr)}
    matches = [Match(a, float(np.sign(scores.values[a])), match(covariates, a, taken, controls)) for a in chosen]
    kept = tuple(m for m in matches if m.controls)
    if not kept:
        return Reading({}, (), nothing, len(matches), f"{trace.id}: no control sentence matches an anchor")
    effects: dict[Operation, float] = {op: _difference(trace, reader, answer, kept, op) for op in OPERATIONS}
    return Reading(effects, kept, covariates, len(matches) - len(kept), "")


def select_anchors(scores: Scores, *, k: int, fdr: float) -> list[int]:
    """Up to k sentences of largest |score| among the writer's anchors, or its top k where it has no null.

    A score of exactly 0 has no direction to test, so it is never chosen.
    """
    found = scores.top(k) if np.isnan(scores.p).all() else _named(scores, fdr)
    signed = [i for i in found if scores.values[i] != 0]
    return sorted(signed, key=lambda i: -abs(scores.values[i]))[:k]


def _named(scores: Scores, fdr: float) -> list[int]:
    """The sentences the writer names anchors; none where its method has no null."""
    return [] if np.isnan(scores.p).all() else scores.anchors(fdr=fdr)


def _covariates(trace: Trace, reader: LensModel, answer: str) -> Float[np.ndarray, "sentence variable"]:
    spans = token_spans(reader.encode(trace.text[: trace.boundaries[-1]]).offsets, trace.spans).spans
    said = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)")
    mentions = [said.search(s.text) is not None for s in trace.sentences]
    return np.array([(b - a, i, mentions[i]) for i, (a, b) in enumerate(spans)], dtype=float)


def match(
    covariates: Float[np.ndarray, "sentence variable"], anchor: int, taken: set[int], controls: int
) -> tuple[int, ...]:
    """Up to `controls` sentences within four positions, a factor 1.5 in length, and of equal answer mention.

    Nearest in length first, then in position; other anchors are never controls.
    """
    length, position, mention = covariates[anchor]
    ratio = np.maximum(covariates[:, 0], 1) / max(length, 1)
    near = np.abs(covariates[:, 1] - position)
    fits = (np.maximum(ratio, 1 / ratio) <= LENGTH_CALIPER) & (near <= POSITION_CALIPER) & (covariates[:, 2] == mention)
    order = np.lexsort((near, np.abs(np.log(ratio))))
    return tuple(int(i) for i in order if fits[i] and i not in taken)[:controls]


def _difference(trace: Trace, reader: LensModel, answer: str, matches: Sequence[Match], op: Operation) -> float:
    needed = sorted({i for m in matches for i in (m.anchor, *m.controls)})
    effect = dict(zip(needed, removal_effects(trace, reader, needed, answer=answer, operation=op), strict=True))
    return float(np.mean([m.sign * (effect[m.anchor] - np.mean([effect[c] for c in m.controls])) for m in matches]))


def removal_effects(
    trace: Trace, reader: LensModel, sentences: Sequence[int], *, answer: str, operation: Operation
) -> Float[np.ndarray, " sentence"]:
    """y(trace) - y(trace without the sentence), y = log p(forced answer) a token in nats; positive supports it."""
    stub: AnswerStub = getattr(reader, "stub", BOXED)
    whole = trace.prompt + trace.reasoning
    text, start = stub.force(whole, answer)
    (full,) = reader.score([text], [start])
    if operation == "block":
        scored = [reader.score([text], [start], block=trace.spans[i])[0] for i in sentences]
    else:
        cut = [stub.force(whole[: trace.spans[i][0]] + whole[trace.spans[i][1] :], answer) for i in sentences]
        scored = reader.score([t for t, _ in cut], [s for _, s in cut])
    return np.array([full.logprob / full.tokens - s.logprob / s.tokens for s in scored])


def _retention(operation: Operation, traces: Sequence[float]) -> Retention:
    values = np.array(traces, dtype=float)
    found = values[~np.isnan(values)]
    if not len(found):
        return Retention(operation, np.nan, np.nan, np.nan, np.nan, values)
    low, high = t_interval(found) if len(found) > 1 else (np.nan, np.nan)
    return Retention(operation, float(found.mean()), float(low), float(high), sign_flip_p(found), values)


def _balance(readings: Sequence[Reading]) -> tuple[Balance, ...]:
    """(mean of anchors - mean of their controls) / pooled standard deviation, per matching variable."""
    if not readings:
        return ()
    anchors = np.concatenate([[r.covariates[m.anchor] for m in r.matches] for r in readings])
    controls = np.concatenate([[r.covariates[list(m.controls)].mean(0) for m in r.matches] for r in readings])
    spread = np.sqrt((anchors.var(0) + controls.var(0)) / 2)
    gap = anchors.mean(0) - controls.mean(0)
    flat = np.where(gap == 0, 0.0, np.nan)
    difference = np.where(spread > 0, gap / np.where(spread > 0, spread, 1.0), flat)
    return tuple(Balance(v, float(d)) for v, d in zip(VARIABLES, difference, strict=True))
