"""C10: anchors of one model stay load-bearing in another, the less the farther the problem is from its training.

1. Unshifted: traces of `lab/reasoner`, handed over to a reader trained on the same program from another seed. d = the
   writer's anchors less matched controls, signed by the writer (T2).
2. Shifted: the world's own program writes problems 0, 1 and 2 digits longer than any the reader was trained on.
3. An anchor may be worth less in a longer problem to anybody. What frays is therefore the loss, the writer's own d less
   the reader's, and its slope over the levels; the slope of the reader's d is reported beside it.
4. quick: one reader, the unit is the trace. full: five readers trained from their own seeds, the unit is the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from anchors.experiments.base import Claim, Evidence, Finding, Result, Setting, Verdict
from anchors.experiments.transfer_runs import (
    d_by_trace,
    drawable,
    gold_share,
    handed_over,
    loss_by_trace,
    model_runs,
    summary_row,
    world_runs,
)
from anchors.experiments.verdicts import both, mean_finding, superior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anchors.lab.train import Recipe
    from anchors.rollouts import Rollouts
    from anchors.transfer import Transfer

CLAIM: Final = Claim(
    id="C10",
    title="transfer of anchors",
    statement="Anchors of one model stay load-bearing in another, and distribution shift frays the transfer.",
    source="the project's transfer specification, T2 and T5",
    outcome="d: effect of the writer's anchors over matched controls on the answer of a reader that takes the trace over, "
    "signed by the writer, unshifted; and the slope of the loss (writer's d less reader's) over digits beyond training",
    margin=0.05,
    rule="holds: the interval of d lies above 0 and that of the loss's slope above 0; fails: d lies below .05, or the slope "
    "at or below 0; else, or where the gate of the unshifted run is shut, inconclusive",
    shows="whether single sentences the writer's answer hung on move a like model too, and whether they do so less where the "
    "problem is outside the reader's training",
    does_not_show="transfer between models of different training data, or of anchors read from the finished trace",
)
UNSHIFTED: Final = "d in the reader, unshifted"
LOSS: Final = "slope of the loss a level of shift"
SLOPE: Final = "slope of the reader's d a level of shift"
LONGEST: Final = 5
LEVELS: Final = (0, 1, 2)
SEEDS: Final = 5


def run(setting: Setting) -> Evidence:
    """Hand the same traces to one reader (quick) or to five (full), unshifted and at every level of shift."""
    from anchors.lab.worlds import load_world

    world, writer = load_world("expression"), setting.model("lab/reasoner")
    sizes: dict[str, Any] = {"n": setting.pick(tiny=24, quick=80, full=100), "seed": setting.seed}
    traces = setting.pick(tiny=4, quick=16, full=40)
    home = model_runs(world, writer, traces=traces, out=_kept(setting, f"writer-{writer.name}"), **sizes)
    away = {
        level: world_runs(
            load_world("expression", length=(LONGEST + level, LONGEST + level)),
            traces=setting.pick(tiny=3, quick=10, full=24), out=None, **sizes,
        )
        for level in LEVELS
    }  # fmt: skip
    models = readers(setting)
    readings = [_read(setting, home, away, reader) for reader in models]
    tables = {"levels": [row for i, one in enumerate(readings) for row in _rows(i, one)]}
    gold = [gold_share(reader, [r.trace for r in home]) for reader in models]
    ceiling = gold_share(writer, [r.trace for r in home])
    competence = f"right answers on their own on these problems: reader {np.mean(gold):.2f}, writer {ceiling:.2f}"
    gates = dict.fromkeys(one["home"].gate.reason for one in readings if not one["home"].gate.passed)
    left = sum(len(one["home"].excluded) for one in readings)
    notes = (
        competence,
        "the unit is the training seed of the reader"
        if len(readings) > 1
        else "one reader model: the unit is the trace",
        f"{left} traces of the unshifted runs had no matched anchor",
        *(f"shifted, {name}: {words}" for name, words in _shut(readings)),
    )
    details = {"gate": "; ".join(gates), "writer": writer.name, "readers": [r["home"].reader for r in readings]}
    return Evidence(findings(readings), tables, notes, details)


Reading = dict[Any, "Transfer"]


def readers(setting: Setting) -> list[Any]:
    """The user's reader or the shipped one; full: five trained on the program from their own seeds."""
    if setting.preset != "full":
        return [setting.reader("lab/reasoner-b")]
    from anchors.experiments.ladder import trained

    folder = setting.folder("models")
    return [trained(replace(small_recipe(), seed=100 + s), folder / f"reader-{s}") for s in range(SEEDS)]


def small_recipe() -> Recipe:
    """A small reader of the expression program, 0.2 M parameters, trained in minutes on one core."""
    from anchors.lab.train import Recipe

    return Recipe(layers=3, width=64, heads=4, mlp=256, steps=4000)


def _read(setting: Setting, home: Sequence[Rollouts], away: Mapping[int, Sequence[Rollouts]], reader: Any) -> Reading:
    """The transfer runs of one reader: at home, and by level of shift."""
    from anchors.lab.worlds import load_world

    n, world = setting.pick(tiny=8, quick=20, full=50), load_world("expression")
    out = _kept(setting, f"read-by-{reader.name}")
    found: Reading = {"home": handed_over(home, reader, world, n=n, out=out)}
    return found | {level: handed_over(runs, reader, world, n=n, out=out) for level, runs in away.items()}


def _kept(setting: Setting, name: str) -> Path | None:
    return None if setting.out is None else setting.folder("c10") / name.replace("/", "-")


def findings(readings: Sequence[Reading]) -> tuple[Finding, ...]:
    """d at home first, then the slopes: over traces for one reader, over readers for several."""
    by_reader = len(readings) > 1
    home = [list(d_by_trace(one["home"]).values()) for one in readings]
    slopes = {
        LOSS: [_slope({level: loss_by_trace(one[level]) for level in LEVELS}) for one in readings],
        SLOPE: [_slope({level: d_by_trace(one[level]) for level in LEVELS}) for one in readings],
    }
    if by_reader:
        primary = mean_finding(UNSHIFTED, [float(np.mean(d)) for d in home if d], of="seeds", unit="of probability")
        rest = [
            mean_finding(name, [s.value for s in found], of="seeds", unit="of probability")
            for name, found in slopes.items()
        ]
    else:
        primary = mean_finding(UNSHIFTED, home[0], of="traces", unit="of probability")
        rest = [
            Finding(name, s.value, s.low, s.high, s.groups, "traces", "of probability") for name, (s,) in slopes.items()
        ]
    return (primary, *rest)


def _slope(levels: Mapping[int, Mapping[str, float]]) -> Any:
    from anchors.stats import slope_interval

    flat = [(level, value, trace) for level, row in levels.items() for trace, value in row.items()]
    return slope_interval([x for x, _, _ in flat], [y for _, y, _ in flat], [f"{x} {t}" for x, _, t in flat])


def _rows(seed: int, one: Reading) -> list[dict[str, Any]]:
    names = {"home": "unshifted"} | {level: f"{LONGEST + level} digits" for level in LEVELS}
    return [summary_row(names[key], run, seed=seed, level=None if key == "home" else key) for key, run in one.items()]


def _shut(readings: Sequence[Reading]) -> list[tuple[str, str]]:
    """The shifted levels at which the gate is shut, and why: there d is reported, and no verdict of its own."""
    return [
        (f"{LONGEST + level} digits", run.gate.reason)
        for level in LEVELS
        for run in (readings[0][level],)
        if not run.gate.passed
    ]


def judge(evidence: Evidence) -> Verdict:
    """Both an effect at home and a growing loss; nothing is said where the gate at home is shut."""
    assert CLAIM.margin is not None
    if evidence.details.get("gate"):
        return Verdict("inconclusive", f"the gate of the unshifted run is shut: {evidence.details['gate']}")
    return both(superior(evidence.primary, matters=CLAIM.margin), superior(evidence.finding(LOSS)))


def draw(result: Result, ax: Axes | None = None) -> Axes:
    """d of reader and writer at every level of shift, the unshifted run at the left."""
    from anchors.plotting.style import INK, QUIET, SUPPORTS, axes_of, legend_below, words

    ax = axes_of(ax, height=2.0)
    rows = drawable(result.evidence.tables["levels"])
    ax.axhline(0, color=QUIET, lw=0.5, zorder=1)
    for x, row in enumerate(rows):
        hue = INK if row["level"] is None else SUPPORTS
        ax.vlines(x, row["low"], row["high"], color=hue, lw=0.9, zorder=2)
        ax.plot(x, row["d"], "o", ms=3.5, color=hue, zorder=3, label={0: "reader", 1: "reader, shifted"}.get(x))
        ax.plot(x, row["writer d"], "_", ms=9, color=QUIET, zorder=2, label=None if x else "writer's own")
    ax.set_xticks(range(len(rows)), [str(row["name"]) for row in rows], fontsize=6.5)
    words(ax, x="problem", y="anchors over controls (d)")
    legend_below(ax)
    return ax
