"""How time and peak memory grow: fitted exponents of resampling, suppression and pooled attention against T, S, n and layers.

1. One size is changed, the others stay; each point is the median of `--repeats` CPU times on one thread, and the growth
   of the peak resident size of a fresh process.
2. log y = a + b log x by least squares: b is the exponent, with its standard error.
Further measurements are added to `GROWTHS`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import speed_whitebox
import torch
from timing import machine

from anchors.models.base import Sampling
from anchors.resampling import resample
from anchors.suppression import suppress


class Growth(NamedTuple):
    """Points of one curve: what was measured in which unit, against which size."""

    what: str
    against: str
    unit: str
    sizes: Sequence[float]
    values: Sequence[float]

    def exponent(self) -> tuple[float, float]:
        """Slope of log value on log size, and its standard error (NaN with fewer than three points)."""
        kept = [(x, y) for x, y in zip(self.sizes, self.values, strict=True) if y > 0]
        if len(kept) < 2:
            return np.nan, np.nan
        x, y = np.log(np.array(kept)).T
        slope, constant = np.polyfit(x, y, 1)
        spread = ((y - constant - slope * x) ** 2).sum() / (len(x) - 2) if len(x) > 2 else np.nan
        return float(slope), float(np.sqrt(spread / ((x - x.mean()) ** 2).sum()))

    @property
    def row(self) -> str:
        slope, error = self.exponent()
        points = "  ".join(f"{x:g}: {y:.3g}" for x, y in zip(self.sizes, self.values, strict=True))
        return f"{self.what:<12} {self.unit:<4} against {self.against:<7} {slope:6.2f} +- {error:4.2f}   {points}"


class Setting(NamedTuple):
    """One point: tokens, sources (boundaries less one, for resampling), layers, and rollouts a boundary."""

    tokens: int = 1000
    sources: int = 40
    layers: int = 4
    n: int = 16


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    print(machine(), flush=True)
    print("measurement  unit         against  exponent +- SE   size: value", flush=True)
    found = []
    for name in options.only:
        for growth in GROWTHS[name](options.repeats, options.quick):
            print(growth.row, flush=True)
            found.append(growth)
    if options.out:
        plot(found, options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fit how time and peak memory grow.")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each point")
    parser.add_argument("--quick", action="store_true", help="two small sizes a curve: no figure to quote")
    parser.add_argument("--only", nargs="+", choices=GROWTHS, default=list(GROWTHS), help="what to measure")
    parser.add_argument("--out", type=Path, help="an .svg file for the plot")
    return parser.parse_args()


def _curves(quick: bool) -> dict[str, list[Setting]]:
    """The settings of every curve, by the field that changes."""
    if quick:
        return {"tokens": [Setting(t, 5, 2) for t in (150, 300)], "sources": [Setting(200, s, 2) for s in (4, 8)]}
    return {
        "tokens": [Setting(tokens=t) for t in (500, 1000, 2000, 4000)],
        "sources": [Setting(sources=s) for s in (10, 20, 40, 80)],
        "layers": [Setting(layers=layers) for layers in (2, 4, 8)],
    }


def _seconds(what: str, setting: Setting, repeats: int) -> float:
    """Median CPU seconds of one call after a warm-up on a short text."""
    model = speed_whitebox.build(layers=setting.layers)
    run = {
        "suppression": lambda trace: suppress(trace, model),
        "answer only": lambda trace: suppress(trace, model, answer_only=True),
        "attention": lambda trace: model.pooled_attention(trace.text, trace.spans),
    }[what]
    run(speed_whitebox.grouped(model, 100, 2))
    trace, found = speed_whitebox.grouped(model, setting.tokens, setting.sources), []
    for _ in range(repeats):
        started = time.process_time()
        run(trace)
        found.append(time.process_time() - started)
    return float(np.median(found))


def _growth(what: str, repeats: int, quick: bool) -> Iterator[Growth]:
    for field, settings in _curves(quick).items():
        sizes = [getattr(s, field) for s in settings]
        yield Growth(what, field, "s", sizes, [_seconds(what, s, repeats) for s in settings])
        if what in MEMORY and field != "layers":
            grown = [speed_whitebox.measured_growth(MEMORY[what], s.tokens, s.sources) for s in settings]
            yield Growth(what, field, "MB", sizes, grown)


WRITTEN = 32
"""Tokens of a rollout: random weights hardly ever end one."""


def _resampling(repeats: int, quick: bool) -> Iterator[Growth]:
    """Rollouts of random weights share next to nothing, so their number is the number of rows computed."""
    base = Setting(sources=10)
    if quick:
        curves = {"tokens": [base._replace(tokens=t, layers=2, n=2) for t in (150, 300)]}
    else:
        curves = {
            "tokens": [base._replace(tokens=t) for t in (500, 1000, 2000, 4000)],
            "sources": [base._replace(sources=s) for s in (5, 10, 20, 40)],
            "n": [base._replace(n=n) for n in (4, 16, 64, 256)],
            "layers": [base._replace(layers=layers) for layers in (2, 4, 8)],
        }
    for field, settings in curves.items():
        sizes = [getattr(s, field) for s in settings]
        yield Growth("resampling", field, "s", sizes, [_resampling_seconds(s, repeats) for s in settings])


def _resampling_seconds(setting: Setting, repeats: int) -> float:
    """Median CPU seconds of a sweep."""
    vocabulary = len(speed_whitebox.build(layers=1).tokenizer)
    model = speed_whitebox.build(layers=setting.layers, vocabulary=vocabulary)
    sampling, found = Sampling(1.0, 1.0, WRITTEN), []
    trace = speed_whitebox.grouped(model, setting.tokens, setting.sources)
    resample(speed_whitebox.grouped(model, 100, 2), model, n=2, sampling=sampling, progress=False)
    for seed in range(repeats):
        model.kept_trunks = None  # so that every repetition runs the trace
        started = time.process_time()
        resample(trace, model, n=setting.n, seed=seed, sampling=sampling, progress=False)
        found.append(time.process_time() - started)
    return float(np.median(found))


MEMORY = {"suppression": "suppression", "attention": "attention"}
"""Measurements whose peak memory is taken, and their name in `speed_whitebox.WAYS`."""

GROWTHS: dict[str, Callable[[int, bool], Iterator[Growth]]] = {
    "resampling": _resampling,
    "suppression": lambda repeats, quick: _growth("suppression", repeats, quick),
    "answer only": lambda repeats, quick: _growth("answer only", repeats, quick),
    "attention": lambda repeats, quick: _growth("attention", repeats, quick),
}
"""Curves by name: a function of (repeats, quick) that yields them as they are measured."""


def plot(growths: Sequence[Growth], path: Path) -> None:
    """One log-log panel a (unit, size), three in a row, a line a measurement with its fitted exponent."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    panels = sorted({(g.unit, g.against) for g in growths}, reverse=True)
    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(9.6, 3.1 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False).ravel()
    colour = {name: f"C{k}" for k, name in enumerate(dict.fromkeys(g.what for g in growths))}
    for axis, (unit, against) in zip(axes, panels, strict=False):
        axis.set(xscale="log", yscale="log", xlabel=against, ylabel=unit)
        for growth in (g for g in growths if (g.unit, g.against) == (unit, against)):
            slope, error = growth.exponent()
            label = f"{growth.what}: {slope:.2f} ± {error:.2f}"
            axis.plot(growth.sizes, growth.values, "o-", ms=4, label=label, color=colour[growth.what])
            axis.set_xticks(growth.sizes, [f"{size:g}" for size in growth.sizes])
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        for side in (axis.xaxis, axis.yaxis):
            side.set_minor_formatter(NullFormatter())
        axis.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for axis in axes[len(panels) :]:
        axis.remove()
    with matplotlib.rc_context({"svg.hashsalt": "growth"}):
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
