"""C11: whether an anchor carries over depends on how the reader was trained to climb such a scaffold.

1. One set of traces of `lab/reasoner`, handed over to readers of the same program that differ in training regime: on
   traces like these, on drafts, on traces of other problems, on filler, on answers alone.
2. d in each reader as in C10, over the same traces. Interaction: d of the reader trained on such traces less the mean d
   of those whose training traces said nothing about the answer (swapped, filler, answers alone), paired by trace.
3. A reader that ignores its trace shuts its own gate; here that is the finding. Needed are the writer's self-effect and
   an open gate of the normal reader.
4. quick: one reader a regime, the unit is the trace. full: five rungs, each regime trained anew, the unit is the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from anchors.experiments.base import Claim, Evidence, Finding, Result, Setting, Verdict
from anchors.experiments.c10_transfer import SEEDS, small_recipe
from anchors.experiments.transfer_runs import (
    d_by_trace,
    drawable,
    gold_share,
    handed_over,
    model_runs,
    paired,
    summary_row,
)
from anchors.experiments.verdicts import mean_finding, superior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anchors.rollouts import Rollouts
    from anchors.transfer import Transfer

CLAIM: Final = Claim(
    id="C11",
    title="the reader's training",
    statement="Transfer depends on whether the receiving model was trained to climb that kind of scaffold.",
    source="the project's transfer specification, T5 (receiver regime)",
    outcome="d in a reader trained on such traces less the mean d in readers whose training traces carried nothing (swapped, "
    "filler, answers alone), paired by trace",
    margin=0.05,
    rule="holds: the interval of the difference lies above 0; fails: it lies below .05; else, or where the normal reader's "
    "gate is shut, inconclusive",
    shows="whether the same sentences move a reader or not depending on its training alone (same program, same traces)",
    does_not_show="what it is about the training: regimes differ in what the reader can do alone as well, which the table of "
    "right answers reports",
)
NORMAL, DRAFT = "normal", "draft"
EMPTY: Final = ("swapped", "filler", "answer-only")
SHIPPED: Final = {
    NORMAL: "lab/reasoner-b", DRAFT: "lab/drafter", "swapped": "lab/swapped", "filler": "lab/mini-filler",
    "answer-only": "lab/answer-only",
}  # fmt: skip
REGIMES: Final = {
    NORMAL: "normal",
    DRAFT: "draft",
    "swapped": "swapped",
    "filler": "filler",
    "answer-only": "answer_only",
}
INTERACTION: Final = "normal - readers without a scaffold"

Rung = Mapping[str, "Transfer"]


def run(setting: Setting) -> Evidence:
    """Hand the same traces to every reader of every rung."""
    from anchors.lab.worlds import load_world

    world, writer = load_world("expression"), setting.model("lab/reasoner")
    n = setting.pick(tiny=24, quick=60, full=100)
    traces = setting.pick(tiny=4, quick=14, full=40)
    runs = model_runs(world, writer, traces=traces, n=n, seed=setting.seed, out=_kept(setting, f"writer-{writer.name}"))
    models = rungs(setting)
    readings = [{arm: _read(setting, runs, reader) for arm, reader in rung.items()} for rung in models]
    tables = {
        "readers": [_row(i, arm, run, models[i][arm], runs) for i, r in enumerate(readings) for arm, run in r.items()]
    }
    missing = [arm for arm in SHIPPED if arm not in readings[0]]
    notes = (
        "right answers on their own: " + ", ".join(f"{row['name']} {row['gold']:.2f}" for row in tables["readers"][:5]),
        "the unit is the training seed" if len(readings) > 1 else "one model a regime: the unit is the trace",
        *(f"no shipped reader of regime {arm}" for arm in missing),
        *(["the filler reader is a smaller model of short, clean problems"] if _clean(setting, readings) else []),
    )
    gate = next((r[NORMAL].gate.reason for r in readings if not r[NORMAL].gate.passed), "")
    return Evidence(
        findings(readings), tables, notes, {"gate": gate, "writer": writer.name, "empty": _empty(readings[0])}
    )


def rungs(setting: Setting) -> list[dict[str, Any]]:
    """The readers by regime: the shipped ones, `setting.reader` in the normal one's place; full: five rungs trained anew."""
    from anchors.models import lab_models, load_model

    if setting.preset != "full":
        built = {arm: name for arm, name in SHIPPED.items() if name.removeprefix("lab/") in lab_models()}
        return [{arm: setting.reader(name) if arm == NORMAL else load_model(name) for arm, name in built.items()}]
    from anchors.experiments.ladder import trained

    folder, recipe = setting.folder("models"), small_recipe()
    return [
        {
            arm: trained(replace(recipe, seed=100 + s, regime=regime), folder / f"{_named(arm)}-{s}")
            for arm, regime in REGIMES.items()
        }
        for s in range(SEEDS)
    ]


def _named(arm: str) -> str:
    return "reader" if arm == NORMAL else arm


def _read(setting: Setting, runs: Sequence[Rollouts], reader: Any) -> Transfer:
    from anchors.lab.worlds import load_world

    out = _kept(setting, f"read-by-{reader.name}")
    return handed_over(runs, reader, load_world("expression"), n=setting.pick(tiny=8, quick=20, full=50), out=out)


def _kept(setting: Setting, name: str) -> Path | None:
    return None if setting.out is None else setting.folder("c11") / name.replace("/", "-")


def _row(seed: int, arm: str, run: Transfer, reader: Any, runs: Sequence[Rollouts]) -> dict[str, Any]:
    return summary_row(arm, run, seed=seed, gold=gold_share(reader, [r.trace for r in runs]))


def _clean(setting: Setting, readings: Sequence[Rung]) -> bool:
    return setting.preset != "full" and "filler" in readings[0]


def _empty(rung: Rung) -> list[str]:
    return [arm for arm in EMPTY if arm in rung]


def findings(readings: Sequence[Rung]) -> tuple[Finding, ...]:
    """The interaction first, then the difference to every regime, then d of every regime."""
    values = [_differences(rung) for rung in readings]
    of = "seeds" if len(readings) > 1 else "traces"
    found = []
    for name in values[0]:
        rows = [v[name] for v in values]
        units = rows[0] if len(readings) == 1 else [float(np.mean(row)) for row in rows if len(row)]
        found.append(mean_finding(name, units, of=of, unit="of probability"))
    return tuple(found)


def _differences(rung: Rung) -> dict[str, list[float]]:
    """One value a trace of everything reported, over the traces measured in every reader (d: in that reader)."""
    d = {arm: d_by_trace(run) for arm, run in rung.items()}
    _, table = paired(d)
    column = dict(zip(d, table, strict=True))
    empty = np.mean([column[arm] for arm in _empty(rung)], axis=0)
    rows = {INTERACTION: (column[NORMAL] - empty).tolist()}
    rows |= {f"normal - {arm}": (column[NORMAL] - column[arm]).tolist() for arm in d if arm != NORMAL}
    return rows | {f"d in the {arm} reader": list(row.values()) for arm, row in d.items()}


def judge(evidence: Evidence) -> Verdict:
    """An interaction whose interval is above 0; nothing is said where even the normal reader's gate is shut."""
    assert CLAIM.margin is not None
    if evidence.details.get("gate"):
        return Verdict("inconclusive", f"the normal reader's gate is shut: {evidence.details['gate']}")
    return superior(evidence.primary, matters=CLAIM.margin)


def draw(result: Result, ax: Axes | None = None) -> Axes:
    """d in the reader of every regime with its 95 % interval; the dotted line is the writer's own."""
    from anchors.plotting.style import INK, QUIET, SUPPORTS, axes_of, words

    rows = drawable(result.evidence.tables["readers"])
    ax = axes_of(ax, height=0.55 + 0.19 * len(rows))
    ax.axvline(0, color=QUIET, lw=0.5, zorder=1)
    ax.axvline(rows[0]["writer d"], color=SUPPORTS, lw=0.8, ls=":", zorder=1)
    for y, row in enumerate(rows):
        hue = SUPPORTS if row["name"] == NORMAL else INK
        ax.plot([row["low"], row["high"]], [y, y], color=hue, lw=0.9, zorder=2)
        ax.plot(row["d"], y, "o", ms=3.5, color=hue, zorder=3)
    ax.set_yticks(range(len(rows)), [f"{row['name']} (right alone {row['gold']:.0%})" for row in rows], fontsize=6.5)
    ax.invert_yaxis()
    words(ax, x="anchors over controls in the reader (d)", y="")
    return ax
