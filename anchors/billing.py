"""What a run will cost, from a few rollouts drawn first.

1. Rates: seconds = start texts + a steps + c tokens computed. Draws of different shape give the three numbers: first tokens
   of a text that is new and of the same again, a few whole rollouts, and a batch as wide as the run's.
2. Computed: a model that runs here computes tokens off the text only, and each distinct sequence once (`anchors.models.engine`);
   elsewhere every token is computed. What a batch shares tells what the run will (`anchors.sharing`).
3. Lengths: of the rollouts drawn whole. Their means at the boundaries between lie on straight lines, since later boundaries
   have less left to write; single lengths scatter around them as those drawn did.
4. Schedule: batches keep their width until nothing waits, then run empty; the steps of that are counted on the lengths.
5. Memory: traces, and a batch of rollouts as long as the longest drawn (`anchors.memory`), against what is free.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.memory import CLEARLY, Estimate, resampling_memory
from anchors.models import loops
from anchors.models.base import Job, Model, Sampling
from anchors.rollouts import Rollout, Rollouts
from anchors.sharing import Drawn, off_text, sharing
from anchors.trace import Trace

PROBED_TRACES: Final = 2
"""Traces whose rollouts are timed: more would leave too few of each to see what they share."""
SEEN_TRACES: Final = 16
"""Traces whose rollouts are drawn for their lengths."""
PROBED_BOUNDARIES: Final = 8
PROBED_SAMPLES: Final = 2
OPENING: Final = 4
"""Rollouts that show what opening a text takes: for fewer the engine would not open it."""

WIDE: Final = 256
"""Rollouts in flight unless `batch_size` says otherwise; the batch the rate is measured with has no more."""
WIDE_TOKENS: Final = 64
"""Tokens of a rollout of that batch, which is drawn whole if that takes at most twice as many on average."""
TAIL: Final = 10
"""The longest of so many rollouts tell how lengths go on above."""

Missing = Sequence[tuple[Rollouts, tuple[int, int]]]
Floats = Float[np.ndarray, " rollout"]


@dataclass(frozen=True)
class Bill:
    """What a run will cost: `rollouts` still to draw, the tokens and seconds they should take, and their price.

    `limited` counts boundaries so close to the model's context that a rollout there may end at its limit. `at_most`: the
    run may stop before it has drawn them all. `memory` is its peak in bytes where the model runs here, and `shortage` says
    by what that is more than is free.
    """

    rollouts: int
    stored: int
    tokens: int
    seconds: float
    price: float | None = None
    limited: int = 0
    at_most: bool = False
    memory: int | None = None
    shortage: str | None = None

    def __str__(self) -> str:
        parts = [f"{self.rollouts:,} rollouts ({self.stored:,} more stored)", f"about {self.tokens:,} tokens"]
        parts.append(f"about {duration(self.seconds)}")
        if self.price is not None:
            parts.append(f"about {self.price:.2f} at the given price")
        if self.limited:
            parts.append(f"{self.limited} boundaries leave less than max_new_tokens of context: rollouts may end there")
        if self.memory is not None:
            parts.append(f"about {self.memory / 2**20:,.0f} MB of memory")
        if self.shortage is not None:
            parts.append(f"WILL NOT FIT: {self.shortage}")
        return ("at most " if self.at_most else "") + ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(3.0), duration(600.0), duration(7200.0)
    ('3.0 s', '10 min', '2.0 h')
    """
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Rates(NamedTuple):
    """Seconds a draw takes: for each text, for each step of one token a rollout, and for each token computed."""

    start: float
    step: float
    token: float


class Probe(NamedTuple):
    """What one draw took: texts opened, steps, tokens computed and seconds."""

    texts: float
    steps: float
    tokens: float
    seconds: float


class Sample(NamedTuple):
    """Rollouts drawn in one call, and the seconds they took."""

    drawn: Drawn
    seconds: float


def calibrate(
    runs: Sequence[Rollouts],
    model: Model,
    *,
    n: int,
    seed: int,
    sampling: Sampling,
    price: float | None = None,
    keep: bool = True,
    **options: Any,
) -> Bill:
    """Draw a few of the missing rollouts, spread over traces and boundaries, and extrapolate; `keep` stores them.

    Raises:
        ValueError: with `keep`, the run needs clearly more memory than is free (`anchors.memory.CLEARLY`).
    """
    width = int(options.get("batch_size") or WIDE)
    missing = [(run, pair) for run in runs for pair in run.missing(n)]
    stored = sum(run.cost().rollouts for run in runs)
    limited = sum(_limited(run.trace, model, sampling) for run in runs)
    if not missing:
        return Bill(0, stored, 0, 0.0, None if price is None else 0.0, limited)
    probes, by_id = _Probes(missing, model, sampling, seed, width, options), {run.trace.id: run for run in runs}
    kept, needs = 0, []
    for draw in (probes.begin, probes.widen):
        drawn = draw()
        for trace in {job.trace for job, _ in drawn} if keep else ():
            by_id[trace].add([rollout for job, rollout in drawn if job.trace == trace])
        kept += len(drawn) if keep else 0
        left = _without(missing, probes.whole) if keep else missing
        need = _memory(runs, left, probes.whole, model, width)
        if need is not None:
            needs.append(need)
            if keep:
                need.check(CLEARLY)
    tokens = round(float(_expected(left, [(job, rollout.tokens) for job, rollout in probes.whole]).sum()))
    cost = None if price is None else tokens * price / 1e6
    need = max(needs, key=lambda need: need.peak, default=None)
    memory, shortage = (None, None) if need is None else (need.peak, need.shortage())
    seconds = probes.seconds(left) / getattr(model, "replicas", 1) if left else 0.0
    return Bill(len(left), stored + kept, tokens, seconds, cost, limited, memory=memory, shortage=shortage)


class _Probes:
    """The draws a bill is made of: `opening` a text, `again` the same, a few whole rollouts, and a `wide` batch.

    They are of traces of middling length, of which the last is opened. `whole` are the rollouts drawn to their end, some of
    other traces among them.
    """

    def __init__(
        self, missing: Missing, model: Model, sampling: Sampling, seed: int, width: int, options: dict[str, Any]
    ) -> None:
        self.model = getattr(model, "replica", model)  # a cluster's replicas share the run, not a probe
        self.shares = hasattr(model, "pooled_attention")  # a model that runs here
        self.sampling, self.seed, self.width, self.options = sampling, seed, width, options
        self.rows = len(missing) * min(WIDE_TOKENS, sampling.max_new_tokens)
        traces: dict[str, list] = {}
        for run, pair in missing:
            traces.setdefault(run.trace.id, []).append((run, pair))
        self.length = {part[0][0].trace.id: len(part[0][0].trace.text) for part in traces.values()}
        ordered = sorted(traces.values(), key=lambda part: len(part[0][0].trace.text))
        self.timed = _inner(ordered, PROBED_TRACES)
        self.others = _even([part for part in ordered if part not in self.timed], SEEN_TRACES)
        self.batch, self.opened = [item for part in self.timed for item in part], self.timed[-1][0][0].trace.id
        self.wide: Sample | None = None
        self.whole: list[tuple[Job, Rollout]] = []

    def begin(self) -> Drawn:
        """Draw all but the batch, and return what was drawn whole."""
        if self.shares and self.rows >= loops.SOON and loops.suit(self.model):
            loops.load()  # else a draw that is timed would
        first = replace(self.sampling, max_new_tokens=1)
        self._draw(self.batch[:OPENING], first)  # warms up
        self.opening, self.again = (self._draw(self.batch[-OPENING:], first).seconds for _ in range(2))
        self.narrow = self._draw(_spread(self.timed[-1] if self.shares else self.batch), self.sampling)
        self.whole += self.narrow.drawn
        if self.others:
            self.whole += self._draw(_spread([item for part in self.others for item in part]), self.sampling).drawn
        return list(self.whole)

    def widen(self) -> Drawn:
        """Draw a batch of at most half of what is left of some traces, and return it if it was drawn whole."""
        long = np.mean([rollout.tokens for _, rollout in self.whole]) > 2 * WIDE_TOKENS
        self.cut = min(WIDE_TOKENS, self.sampling.max_new_tokens) if long else self.sampling.max_new_tokens
        left = _without(self.batch, self.whole)
        if not left:
            return []
        self.wide = self._draw(
            _even(left, min(WIDE, -(-len(left) // 2))), replace(self.sampling, max_new_tokens=self.cut)
        )
        whole = self.wide.drawn if self.cut == self.sampling.max_new_tokens else []
        self.whole += whole
        return whole

    def _draw(self, missing: Missing, sampling: Sampling) -> Sample:
        jobs = [job for run, pair in missing for job in run.jobs([pair])]
        started = time.perf_counter()
        made = list(self.model.generate(jobs, sampling=sampling, seed=self.seed, **self.options))
        seconds = max(time.perf_counter() - started, 1e-6)  # a coarse clock may not have moved
        return Sample([(job, Rollout.of(job, completion)) for job, completion in made], seconds)

    def seconds(self, left: Missing) -> float:
        """What drawing the rest takes on the schedule of `width` rollouts in flight."""
        rates = fit_rates(
            [Probe(1, 0, 0, self.opening), *(self._probe(x) for x in (self.narrow, self.wide) if x is not None)]
        )
        off = _stretched(
            _scattered(left, found := self._off(self.whole)),
            [tokens for _, tokens in found],
            self.sampling.max_new_tokens,
        )
        share = 1.0
        if self.shares and self.wide is not None:
            traces = set(job.trace for job, _ in self.wide.drawn)
            share = sharing(self.wide.drawn).of(sum(run.trace.id in traces for run, _ in left))
            seen = float(np.minimum(off, self.cut).sum() / max(off.sum(), 1e-9))
            share = seen * share + 1 - seen  # beyond what was drawn, rollouts have parted
        return predicted_seconds(rates, off, self._texts({run.trace.id for run, _ in left}), self.width, share=share)

    def _probe(self, sample: Sample) -> Probe:
        """A draw's work and the time it took, without that for the text that was open before."""
        off = np.array([tokens for _, tokens in self._off(sample.drawn)])
        share = sharing(sample.drawn).share if self.shares else 1.0
        traces = {job.trace for job, _ in sample.drawn}
        new = self._texts(traces) - 1 if len(traces) > 1 else 0.0
        seconds = max(sample.seconds - self.again, sample.seconds / 10)
        return Probe(new, _steps(off, self.width, share), share * float(off.sum()), seconds)

    def _texts(self, traces: Iterable[str]) -> float:
        """How many texts as long as the one that was opened these are."""
        return sum(self.length[trace] for trace in traces) / self.length[self.opened]

    def _off(self, drawn: Drawn) -> list[tuple[Job, float]]:
        """Tokens of each rollout off its text, boundary by boundary, as they are let in."""
        ordered = sorted(drawn, key=lambda item: (item[0].trace, item[0].position, item[0].sample))
        return [(job, rollout.tokens * (off_text(job, rollout) if self.shares else 1.0)) for job, rollout in ordered]


def _inner(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many items, from the middles of equal parts."""
    parts = min(most, len(items))
    return [items[int(len(items) * (i + 0.5) / parts)] for i in range(parts)]


def _even(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many items, spread evenly from the first to the last."""
    picks = np.unique(np.linspace(0, len(items) - 1, most).round().astype(int)) if items else []
    return [items[i] for i in picks]


def _spread(missing: Missing) -> Missing:
    """The first missing samples of boundaries spread evenly over all that miss some."""
    by_boundary: dict[tuple[str, int], list] = {}
    for run, pair in missing:
        by_boundary.setdefault((run.trace.id, pair[0]), []).append((run, pair))
    return [item for row in _even(list(by_boundary.values()), PROBED_BOUNDARIES) for item in row[:PROBED_SAMPLES]]


def _without(missing: Missing, drawn: Drawn) -> Missing:
    done = {(job.trace, job.position, job.sample) for job, _ in drawn}
    return [(run, pair) for run, pair in missing if (run.trace.id, *pair) not in done]


def _along(left: Missing, drawn: Sequence[tuple[Job, float | int]]) -> tuple[list[list[float | int]], Floats]:
    """Tokens drawn at each boundary that was drawn, and where between these, counted from 0, each rollout left lies."""
    sizes = {run.trace.id: len(run.trace) for run, _ in left}
    found: dict[float, list[float | int]] = {}
    for job, tokens in drawn:
        found.setdefault(job.position / max(1, sizes.get(job.trace, job.position)), []).append(tokens)
    at = sorted(found)
    place = np.interp([pair[0] / max(1, sizes[run.trace.id]) for run, pair in left], at, np.arange(len(at)))
    return [found[x] for x in at], place


def _expected(left: Missing, drawn: Sequence[tuple[Job, float | int]]) -> Floats:
    """Mean tokens of each rollout left to draw, by how far along its trace it starts."""
    found, place = _along(left, drawn)
    return np.interp(place, np.arange(len(found)), [float(np.mean(tokens)) for tokens in found])


def _scattered(left: Missing, drawn: Sequence[tuple[Job, float | int]]) -> Floats:
    """Tokens of each rollout left to draw, as some rollout took from the boundary before or after: the nearer, the likelier."""
    found, place = _along(left, drawn)
    rng = np.random.default_rng(0)
    picks = np.floor(place + rng.random(len(place))).astype(int).clip(max=len(found) - 1)
    lengths = np.zeros(len(place))
    for i, tokens in enumerate(found):
        lengths[picks == i] = rng.choice(tokens, int((picks == i).sum()))
    return lengths


def _stretched(lengths: Floats, drawn: Sequence[float], most: int) -> Floats:
    """The longest of many rollouts is longer than that of a few: by (many / few)^g, g by Hill's estimator, `most` at most."""
    ordered = np.sort(drawn)[::-1]
    top = ordered[: max(2, len(ordered) // TAIL)]
    if len(lengths) <= len(drawn) or len(ordered) <= len(top) or top[-1] <= 0:
        return lengths
    longest = top[0] * (len(lengths) / len(drawn)) ** float(np.log(top / top[-1]).mean())
    return np.where(np.arange(len(lengths)) == lengths.argmax(), min(longest, most), lengths)


def fit_rates(probes: Sequence[Probe]) -> Rates:
    """Non-negative least squares of seconds = start texts + a steps + c tokens, each draw counted alike.

    >>> fit_rates([Probe(1, 1, 1, 0.111), Probe(1, 50, 400, 1.0), Probe(1, 60, 9000, 9.7)])
    Rates(start=0.1, step=0.01, token=0.001)
    """
    from scipy.optimize import nnls

    rows = np.array([(p.texts, p.steps, p.tokens) for p in probes], dtype=float)
    seconds = np.array([p.seconds for p in probes])
    found, _ = nnls(rows / seconds[:, None], np.ones(len(probes)))
    return Rates(*(round(float(x), 12) for x in found))


def predicted_seconds(rates: Rates, lengths: Floats, texts: float | int, width: int, *, share: float = 1.0) -> float:
    """start a text + a steps + c tokens; steps until the last rollout ends when `width` are in flight.

    Rollouts of which only a `share` is computed stay together in that many sequences.
    """
    return float(rates.start * texts + rates.step * _steps(lengths, width, share) + rates.token * share * lengths.sum())


def _steps(lengths: Floats, width: int, share: float) -> float:
    from anchors.models.decoding import SHARING

    flight = width if share >= 1 else int(min(SHARING * width, width / max(share, 1e-9)))
    ends = [0.0] * min(flight, max(1, len(lengths)))
    for length in lengths:
        heapq.heapreplace(ends, ends[0] + length)
    return float(max(ends))


def _memory(
    runs: Sequence[Rollouts],
    left: Missing,
    drawn: Drawn,
    model: Any,
    width: int,
) -> Estimate | None:
    """What rollouts as long as the longest drawn take, `width` at a time."""
    encode, longest = getattr(model, "encode", None), max(rollout.tokens for _, rollout in drawn)
    if encode is None:
        return None
    traces = {run.trace.id: run.trace for run in runs}
    tokens = [len(encode(trace.text).ids) for trace in traces.values()]
    most = max(len(trace) for trace in traces.values())
    return resampling_memory(model, tokens, most, rollouts=max(1, len(left)), width=width, longest=longest)


def _limited(trace: Trace, model: Model, sampling: Sampling) -> int:
    """How many boundaries leave less room than `max_new_tokens`; 0 when the model does not say its context."""
    context, encode = getattr(model, "context", None), getattr(model, "encode", None)
    if context is None or encode is None:
        return 0
    offsets = encode(trace.text[: trace.boundaries[-1]]).offsets
    starts = np.array([start for start, _ in offsets])
    lengths = np.searchsorted(starts, trace.boundaries)
    return int((lengths + sampling.max_new_tokens > context).sum())
