"""Long traces: peak memory and time of the white-box methods at 32,000 tokens and 1,000 sentences, and how both grow.

1. Every measurement is a fresh process on one thread, with a Llama of random weights (2 layers, width 64, 4 heads). It
   reports the peak resident size (VmHWM), how far the call raised it, CPU seconds, and what `anchors.memory` had foretold.
2. The full matrix takes attention of every suffix to its whole past: the middle source of each of `--sample` equal
   stretches is blocked instead, and of half as many. A line in the number of sources gives the seconds for all, and the
   line printed says so.
3. Flatness: the same peak with 2 and 8 layers, and with 2 and 8 heads of the same total width. glibc keeps freed memory
   for later; where every block beyond 64 KiB goes back at once, what is left is what the call holds.
4. Growth against T and S is fitted on log-log axes (`growth.Growth`).
5. Rollouts: how far drawing them raises a fresh process, against `anchors.memory.resampling_memory`, which a bill prints.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from growth import Growth, plot
from speed_whitebox import build
from timing import machine, resident_mb

from anchors.attention import read_heads, receiver_heads
from anchors.lab import world_trace
from anchors.lab.worlds import load_world
from anchors.memory import memory_of, resampling_memory
from anchors.models import Sampling, load_model
from anchors.models.lens import LensModel
from anchors.resampling import resample, resample_traces
from anchors.suppression import suppress
from anchors.trace import Trace

LIMIT_MB = 4096
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "pooled attention": ("attention", {}),
    "receiver heads": ("attention", {}),
    "suppression": ("suppression", {}),
    "answer only": ("suppression", {"answer_only": True}),
    "layers=[1]": ("suppression", {"layers": [1]}),
}
"""The registered method and its options."""

COMPARED = ("receiver heads", "suppression", "answer only")
"""What flatness and growth are measured of."""


class Setting(NamedTuple):
    """What is measured: `sample` sources of `sources` are blocked, all of them with 0."""

    way: str
    tokens: int
    sources: int
    sample: int = 0
    layers: int = 2
    heads: int = 4


class Measured(NamedTuple):
    """CPU seconds, seconds for all sources, peak resident MB, MB above the base, and the MB foretold."""

    seconds: float
    whole: float
    peak: float
    grown: float
    foretold: float

    def row(self, setting: Setting) -> str:
        part = (
            f" ({setting.sample} sources; all of them, extrapolated: {_duration(self.whole)})" if setting.sample else ""
        )
        return (
            f"{setting.way:<17} T={setting.tokens:<6} S={setting.sources:<5} layers={setting.layers} heads={setting.heads}  "
            f"peak {self.peak:7.0f} MB  above base {self.grown:6.0f} MB  foretold {self.foretold:6.0f} MB "
            f"({self.foretold / max(self.grown, 1):.2f}x)  {_duration(self.seconds)}{part}"
        )


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    if options.child:
        name, *given = json.loads(options.child)
        print(json.dumps(measure(Setting(*given)) if name == "Setting" else measure_draw(Draw(*given))))
        return
    print(machine(), flush=True)
    tokens, sources = (2000, 60) if options.quick else (32_000, 1000)
    for part in options.only:
        for line in PARTS[part](tokens, sources, options):
            print(line, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Peak memory and time of white-box methods on long traces.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--sample", type=int, default=32, help="sources blocked for the full matrix (0: all, hours)")
    parser.add_argument("--quick", action="store_true", help="short texts: no figure to quote")
    parser.add_argument("--out", type=Path, help="an .svg file for the plot of growth")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


# -- one measurement -----------------------------------------------------------------------------------------------


def long_trace(model: LensModel, tokens: int, sources: int) -> Trace:
    """World traces joined until they fill about so many tokens, in `sources` sentences of nearly the same length."""
    world, parts, held = load_world("expression"), [], 0
    first = world_trace(world, seed=0)
    while held < tokens:
        parts.append(world_trace(world, seed=len(parts)).reasoning.strip())
        held += len(model.encode(parts[-1]).ids)
    text = " ".join(parts)
    starts = [start for start, _ in model.encode(text).offsets[: tokens - len(model.encode(first.prompt).ids) - 24]]
    edges = [0, *(starts[i] for i in np.linspace(0, len(starts) - 1, sources + 1).astype(int)[1:])]
    sentences = [text[a:b] for a, b in itertools.pairwise(edges)]
    return Trace.from_text(first.prompt, "".join(sentences), sentences=sentences, answer="7")


def measure(setting: Setting) -> Measured:
    """One call in this process, after the same call on a short text."""
    model = build(vocabulary=512, layers=setting.layers, width=64, heads=setting.heads, mlp=256)
    trace = long_trace(model, setting.tokens, setting.sources)
    run(model, long_trace(model, 200, 10), setting._replace(sample=0))
    first = resident_mb("VmHWM")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present size
    base, method, options = resident_mb("VmRSS"), *WAYS[setting.way]
    found = run(model, trace, setting)
    peak = resident_mb("VmHWM")
    estimate = memory_of(method, trace, model, **options)
    foretold = np.nan if estimate is None else estimate.peak / 2**20
    whole = found
    if setting.sample:
        half = setting.sample // 2
        fewer = run(model, trace, setting._replace(sample=half))
        whole = found + (found - fewer) / (setting.sample - half) * (setting.sources - setting.sample)
    return Measured(found, whole, max(first, peak), peak - base, foretold)


def run(model: LensModel, trace: Trace, setting: Setting) -> float:
    """CPU seconds of one call; what it returns must hold a number wherever one was asked for."""
    method, options = WAYS[setting.way]
    started = time.process_time()
    if setting.way == "pooled attention":
        assert np.isfinite(read_heads(trace, model, 4, keep=()).vertical[..., 0]).all()
    elif method == "attention":
        assert np.isfinite(receiver_heads(trace, model).values[:-4]).all()
    else:
        blocked = middles(len(trace), setting.sample) if setting.sample else None
        found = suppress(trace, model, sources=blocked, **options)
        measured = range(len(trace)) if blocked is None else blocked
        assert np.isfinite(found.values[list(measured)]).all()
        assert found.matrix is None or all(np.isfinite(found.matrix[s + 1 :, s]).all() for s in measured)
    return time.process_time() - started


def middles(size: int, sample: int) -> list[int]:
    """The middle sentence of each of `sample` equal stretches."""
    return [int(size * (i + 0.5) / sample) for i in range(sample)]


class Draw(NamedTuple):
    """Rollouts of a random Llama (`lab`: of lab/reasoner): n from every boundary of every trace, none of which ends early."""

    traces: int
    tokens: int
    sources: int
    n: int
    longest: int
    layers: int = 8
    width: int = 512
    vocabulary: int = 4096
    lab: bool = False

    @property
    def said(self) -> str:
        model = "lab/reasoner" if self.lab else f"{self.layers} layers x {self.width}, {self.vocabulary:,} tokens"
        size = f"{self.traces} x {self.tokens:,} tokens, {self.sources} sentences, n={self.n}"
        return f"{model}; {size}, rollouts of {self.longest}"


DRAWS = (
    Draw(1, 240, 20, 20, 64, lab=True),
    Draw(1, 1000, 20, 4, 96),
    Draw(1, 4000, 20, 4, 48),
    Draw(1, 1000, 64, 8, 48),
    Draw(8, 1000, 4, 4, 48),
    Draw(1, 500, 20, 8, 48, layers=2, width=256, vocabulary=100_000),
    Draw(1, 1000, 10, 4, 400, layers=4, width=256),
)


class Drawn(NamedTuple):
    """MB above base while rollouts were drawn, MB foretold, and CPU seconds."""

    grown: float
    foretold: float
    seconds: float


def measure_draw(draw: Draw) -> Drawn:
    """Draw the rollouts of a setting in this process, after a few of another model."""
    sampling = Sampling(1.0, 1.0, max_new_tokens=draw.longest)
    small = build(vocabulary=512, layers=1, width=32, heads=2, mlp=64)
    resample(long_trace(small, 200, 4), small, n=2, sampling=sampling, progress=False)
    if draw.lab:
        model = load_model("lab/reasoner", check=False)
    else:
        size = {"vocabulary": draw.vocabulary, "layers": draw.layers, "width": draw.width}
        model = build(**size, heads=8, mlp=4 * draw.width)
    traces = [long_trace(model, draw.tokens - i, draw.sources) for i in range(draw.traces)]
    Path("/proc/self/clear_refs").write_text("5")
    base, started = resident_mb("VmRSS"), time.process_time()
    runs = resample_traces(traces, model, n=draw.n, sampling=sampling, progress=False)
    grown, seconds = resident_mb("VmHWM") - base, time.process_time() - started
    rollouts = [r for run in runs for k in range(len(run.trace) + 1) for r in run.at(k)]
    tokens = [len(model.encode(trace.text).ids) for trace in traces]
    longest = max(r.tokens for r in rollouts)
    estimate = resampling_memory(model, tokens, draw.sources, rollouts=len(rollouts), width=256, longest=longest)
    assert estimate is not None
    return Drawn(grown, estimate.peak / 2**20, seconds)


def fresh(setting: Setting, *, given_back: bool = False) -> Measured:
    """`measure` in a process of its own, in which freed memory goes back at once if `given_back`."""
    return Measured(*_child(setting, given_back))


def _child(setting: Setting | Draw, given_back: bool) -> list[float]:
    more = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)} if given_back else {}
    words = [sys.executable, __file__, "--child", json.dumps([type(setting).__name__, *setting])]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | more)
    if done.returncode:
        raise RuntimeError(f"{setting} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 300 else f"{seconds / 60:.0f} min"


# -- what is printed -----------------------------------------------------------------------------------------------


def _peaks(tokens: int, sources: int, options: argparse.Namespace) -> Iterator[str]:
    yield f"peaks, limit {LIMIT_MB} MB resident"
    for way in WAYS:
        setting = Setting(way, tokens, sources, options.sample if way == "suppression" else 0)
        found = fresh(setting)
        yield found.row(setting)
        assert found.peak <= LIMIT_MB, f"{way} takes {found.peak:.0f} MB"


def _flat(tokens: int, sources: int, options: argparse.Namespace) -> Iterator[str]:
    yield "flatness: peak above base with 2 and 8 layers (4 heads), and with 2 and 8 heads (2 layers)"
    tokens, sources = tokens // 4, sources // 4
    for way in COMPARED:
        setting = Setting(way, tokens, sources, 4 if way == "suppression" else 0)
        for name in ("layers", "heads"):
            both = [setting._replace(**{name: size}) for size in (2, 8)]
            (small, large), exact = map(fresh, both), [fresh(s, given_back=True) for s in both]
            yield (
                f"{way:<17} T={tokens} S={sources} {name}: {small.grown:.0f} -> {large.grown:.0f} MB "
                f"({large.grown / small.grown:.2f}x), given back {exact[0].grown:.0f} -> {exact[1].grown:.0f} MB, "
                f"foretold {small.foretold:.0f} -> {large.foretold:.0f} MB"
            )


def _rollouts(_tokens: int, _sources: int, options: argparse.Namespace) -> Iterator[str]:
    yield "rollouts: MB above base while they are drawn (freed memory given back at once), and foretold"
    for draw in DRAWS[:2] if options.quick else DRAWS:
        kept, exact = (Drawn(*_child(draw, given_back)) for given_back in (False, True))
        yield (
            f"{draw.said}: {kept.grown:.0f} ({exact.grown:.0f}) MB, foretold {kept.foretold:.0f} MB "
            f"({kept.foretold / kept.grown:.2f}x, {exact.foretold / exact.grown:.2f}x)  {_duration(kept.seconds)}"
        )


def _growth(tokens: int, sources: int, options: argparse.Namespace) -> Iterator[str]:
    yield "growth: exponent +- standard error of a straight line on log-log axes"
    found = []
    for way in COMPARED:
        sample = 8 if way == "suppression" else 0
        at = [Setting(way, t, sources // 8, sample) for t in (tokens // 8, tokens // 4, tokens // 2, tokens)]
        for growths in _fitted(way, "tokens", at), _fitted(way, "sources", _wider(way, tokens // 8, sources)):
            for growth in growths:
                found.append(growth)
                yield growth.row
    if options.out:
        plot(found, options.out)


def _wider(way: str, tokens: int, sources: int) -> list[Setting]:
    return [Setting(way, tokens, s) for s in (sources // 8, sources // 4, sources // 2, sources)]


def _fitted(way: str, against: str, settings: Sequence[Setting]) -> Iterator[Growth]:
    found, sizes = [fresh(s) for s in settings], [getattr(s, against) for s in settings]
    yield Growth(way, against, "s", sizes, [m.seconds for m in found])
    yield Growth(way, against, "MB", sizes, [m.grown for m in found])


PARTS: dict[str, Callable[[int, int, argparse.Namespace], Iterator[str]]] = {
    "peaks": _peaks,
    "flat": _flat,
    "growth": _growth,
    "rollouts": _rollouts,
}

if __name__ == "__main__":
    main()
