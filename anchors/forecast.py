"""How long a white-box method will take, from doing part of its work on the trace that asks for most.

1. Suppression blocks the middle sentence of each of `MANY` equal stretches of the trace, and of `FEW`. What is done once
   (the plain forward, resamples) is in both, so a line through the two gives the seconds of all sentences.
2. The other methods take the first sixth and third of the sentences; a x + b x^2 through the two gives the whole.
3. Other traces count by their sentences times their length.
4. `white_box_bill` sets the time beside the memory (`anchors.memory`); a method that will not fit is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from anchors.billing import duration
from anchors.memory import Estimate, largest
from anchors.scores import METHODS
from anchors.trace import Trace

MANY, FEW = 16, 4
PARTS: Final = (6, 3)
SHORTEST: Final = 16
"""Sentences below which a method is simply run."""


class Forecast(NamedTuple):
    """What a white-box method will take: its memory, and seconds for all traces (None where it cannot run)."""

    method: str
    memory: Estimate
    seconds: float | None

    def __str__(self) -> str:
        return str(self.memory) if self.seconds is None else f"{self.memory}; about {duration(self.seconds)}"

    def to_json(self) -> dict[str, Any]:
        return {"memory": self.memory.peak, "shortage": self.memory.shortage(), "seconds": self.seconds}


def white_box_bill(traces: Sequence[Trace], model: Any, methods: Sequence[str]) -> list[Forecast]:
    """The memory of every method whose memory is known, and its time if it fits."""
    rows = [(estimate.method, estimate, estimate.shortage() is None) for estimate in largest(traces, model, methods)]
    return [
        Forecast(name, estimate, white_box_seconds(name, traces, model) if fits else None)
        for name, estimate, fits in rows
    ]


def white_box_seconds(method: str, traces: Sequence[Trace], model: Any) -> float:
    """Seconds a method that needs a model will take on all traces; it runs a part of them once to warm up.

    Raises:
        ValueError: the method refuses the trace.
    """
    work = [len(trace) * len(trace.text) for trace in traces]
    trace = traces[work.index(max(work))]
    function = METHODS[method].function
    if method == "suppression":
        seconds = _by_sources(trace, model, function)
    else:
        seconds = _by_length(trace, lambda part: function(part, model))
    return seconds * sum(work) / max(work)


def _by_sources(trace: Trace, model: Any, function: Callable[..., Any]) -> float:
    size = len(trace)

    def taken(sources: int) -> float:
        middles = [int(size * (i + 0.5) / sources) for i in range(sources)]
        return _seconds(lambda: function(trace, model, sources=middles))

    many = min(MANY, size)
    few = min(FEW, many // 2)
    taken(min(1, size))
    slope = max(0.0, taken(many) - (less := taken(few))) / max(1, many - few)
    return less + slope * (size - few)


def _by_length(trace: Trace, run: Callable[[Trace], Any]) -> float:
    if len(trace) < SHORTEST * PARTS[0]:
        run(trace)
        return _seconds(lambda: run(trace))
    parts = _beginnings(trace)
    run(parts[0])
    x, y = zip(*((len(part), _seconds(lambda part=part: run(part))) for part in parts), strict=True)
    b = max(0.0, (y[1] / x[1] - y[0] / x[0]) / (x[1] - x[0]))
    return (y[1] / x[1] - b * x[1]) * len(trace) + b * len(trace) ** 2


def _beginnings(trace: Trace) -> list[Trace]:
    found = []
    for part in PARTS:
        kept = trace.sentences[: len(trace) // part]
        found.append(replace(trace, reasoning=trace.reasoning[: kept[-1].end], sentences=kept, ending="", id=""))
    return found


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
