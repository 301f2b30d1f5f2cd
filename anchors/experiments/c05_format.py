"""C5: the format of a trace shapes its strategy more than its subject does (2505.10185); and its place matters (2507.22887).

1. Models that differ in format (sentences or drafts) or in domain (`expression` or `alchemy`) reason on their own problems.
2. Strategy features are read from every trace by rule (`anchors.strategy`); tokens are left out, since tokenizers differ.
3. Shift = mean over features of |Cohen's d|; by format within a domain, by domain within a format. Traces are redrawn, every
   group once a draw, for the interval of the difference. The published comparison sets a largest d against a bound.
   Some features belong to the subject (equations, numbers) and some to the format (lengths): the difference is also given
   without either.
4. The same over the programs of four worlds in both formats: 4 contrasts of format, 12 of domain.
5. Slots: a writer's traces are placed in the think block, before or after the question, or quoted after it; the reader goes
   on from there. Range = best less worst slot, picked on one half of the problems and measured on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool, Float

from anchors.experiments.base import Claim, Evidence, Finding, Result, Setting, Verdict
from anchors.experiments.ladder import SEEDS, ask, distinct_problems, right_answers, trained
from anchors.experiments.verdicts import mean_finding, superior
from anchors.interventions import SLOTS, place
from anchors.lab import world_trace
from anchors.lab.worlds import load_world
from anchors.stats import cohens_d, mean_absolute_d, quantile_interval, standardised_difference
from anchors.strategy import Strategy, strategy_features
from anchors.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anchors.lab.train import Recipe
    from anchors.models.lens import LensModel

CLAIM: Final = Claim(
    id="C5",
    title="Format over content",
    statement="The format a model is trained on shifts the strategy of its traces more than the subject matter does.",
    source="2505.10185; slots 2507.22887",
    outcome="mean |Cohen's d| of strategy features between formats, less the same between domains",
    margin=None,
    rule="holds: the interval of the difference lies above 0; fails: below 0; else inconclusive",
    shows="whether sentences against drafts move the features of a trace more than arithmetic against letters do",
    does_not_show="multiple choice against free form, or large models: here a format is trained, and drafts are shorter by "
    "definition, which length features count",
)

Cell = tuple[str, str]
Cells = dict[Cell, Float[np.ndarray, "trace feature"]]

FEATURES: Final = tuple(name for name in Strategy._fields if name != "tokens")
FORMATS: Final = ("verbose", "draft")
DOMAINS: Final = ("expression", "alchemy", "maze", "recall")
MODELS: Final = {
    ("verbose", "expression"): "lab/reasoner",
    ("draft", "expression"): "lab/drafter",
    ("verbose", "alchemy"): "lab/alchemist",
}
READER: Final = "lab/reasoner-b"
PRIMARY: Final = "|d| by format less |d| by domain"
WITHOUT: Final = {
    "without equations and numbers": ("equation_rate", "number_rate"),
    "without lengths": ("sentences", "characters", "words_a_sentence", "depth"),
}
"""Features that the subject, or the format, decides nearly by definition."""
DRAWS: Final = 1000
BLOCK: Final = 100
"""Redrawn groups held at a time."""


def run(setting: Setting) -> Evidence:
    """Features of the models' traces and of the programs', and accuracy by slot."""
    size = setting.pick(tiny=10, quick=200, full=400)
    rungs = _trained_cells(setting, size) if setting.preset == "full" else [_shipped_cells(setting, size)]
    programs = {cell: _program(cell, size, setting.seed) for cell in ((f, d) for f in FORMATS for d in DOMAINS)}
    written = compare_shifts(programs, f"programs: {PRIMARY}", seed=setting.seed)
    slots, right = _slots(setting)
    rows = [{"who": "models", "rung": i} | row for i, cells in enumerate(rungs) for row in _rows(cells, setting.seed)]
    rows += [{"who": "programs", "rung": 0} | row for row in _rows(programs, setting.seed)]
    tables = {"shifts": rows, "features": _feature_rows(rungs[0], setting.seed), "slots": slots}
    notes = (
        "one model a cell: the interval covers traces" if len(rungs) == 1 else f"{SEEDS} models a cell",
        "accuracy by slot: " + ", ".join(f"{row['slot']} {row['accuracy']:.2f}" for row in slots),
    )
    findings = [_compared(rungs, PRIMARY, FEATURES, setting.seed)]
    for name, left_out in WITHOUT.items():
        findings.append(
            _compared(rungs, f"{PRIMARY}, {name}", [f for f in FEATURES if f not in left_out], setting.seed)
        )
    return Evidence((*findings, written, slot_range(right)), tables, notes, {"traces": size})


def _compared(rungs: Sequence[Cells], name: str, features: Sequence[str], seed: int) -> Finding:
    """The difference on some features: over redrawn traces of the only rung, or over training seeds."""
    columns = [FEATURES.index(feature) for feature in features]
    cut = [{cell: x[:, columns] for cell, x in cells.items()} for cells in rungs]
    found = [compare_shifts(cells, name, seed=seed) for cells in cut]
    if len(found) == 1:
        return found[0]
    return mean_finding(name, [f.effect for f in found], of="training seeds", unit="sd")


def _shipped_cells(setting: Setting, size: int) -> Cells:
    """`setting.model_name` stands in for the verbose model of `expression`."""
    from anchors.lab.recipes import RECIPES
    from anchors.models import load_model

    cells = {}
    for cell, name in MODELS.items():
        model = setting.model(name) if cell == ("verbose", "expression") else load_model(name)
        cells[cell] = model_features(model, RECIPES[name.removeprefix("lab/")], size, setting.seed)
    return cells


def _trained_cells(setting: Setting, size: int) -> list[Cells]:
    """Two formats by two domains, trained anew for every seed."""
    folder = setting.folder("models")
    rungs = []
    for seed in range(SEEDS):
        cells = {}
        for form, domain in ((f, d) for f in FORMATS for d in DOMAINS[:2]):
            recipe = replace(_recipe(form, domain), seed=200 + seed)
            model = trained(recipe, folder / f"c5-{form}-{domain}-{seed}")
            cells[form, domain] = model_features(model, recipe, size, setting.seed)
        rungs.append(cells)
    return rungs


def _recipe(form: str, domain: str) -> Recipe:
    from anchors.lab.train import Recipe

    return Recipe(domain, regime="draft" if form == "draft" else "normal", layers=3, width=96, mlp=384, steps=3000)


def model_features(model: LensModel, recipe: Recipe, size: int, seed: int) -> Float[np.ndarray, "trace feature"]:
    """Features of a model's own traces, drawn at temperature 1 on problems of its world; blank ones are left out."""
    world = recipe.program
    prompts = [world.prompt(p) for p in distinct_problems(world, size, seed=seed)]
    texts = ask(model, prompts, temperature=1.0, seed=seed).texts
    pairs = zip(prompts, texts, strict=True)
    return features_of([Trace.from_text(p, row[0]) for p, row in pairs if row[0].split("</think>")[0].strip()])


def _program(cell: Cell, size: int, seed: int) -> Float[np.ndarray, "trace feature"]:
    world = load_world(cell[1], format=cell[0])
    return features_of([world_trace(world, seed=1000 * seed + i) for i in range(size)])


def features_of(traces: Sequence[Trace]) -> Float[np.ndarray, "trace feature"]:
    """The features of traces in the order of `FEATURES`."""
    return np.array([[getattr(strategy_features(t), name) for name in FEATURES] for t in traces], dtype=float)


def format_pairs(cells: Mapping[Cell, np.ndarray]) -> list[tuple[Cell, Cell]]:
    """Cells of one domain that differ in format."""
    return [(a, b) for a, b in combinations(cells, 2) if a[1] == b[1] and a[0] != b[0]]


def domain_pairs(cells: Mapping[Cell, np.ndarray]) -> list[tuple[Cell, Cell]]:
    """Cells of one format that differ in domain."""
    return [(a, b) for a, b in combinations(cells, 2) if a[0] == b[0] and a[1] != b[1]]


def compare_shifts(cells: Cells, name: str, *, draws: int = DRAWS, seed: int = 0) -> Finding:
    """Mean |d| over the pairs that differ in format, less that over the pairs that differ in domain.

    Every group is redrawn once a draw; the interval is shifted by twice the bootstrap bias, as |d| is biased upwards.

    Raises:
        ValueError: no two cells differ in format alone, or in domain alone.
    """
    if not format_pairs(cells) or not domain_pairs(cells):
        raise ValueError(f"the cells {sorted(cells)} hold no pair of formats or no pair of domains; give both")
    rng, found = np.random.default_rng(seed), np.zeros(0)
    for size in (min(BLOCK, draws - start) for start in range(0, draws, BLOCK)):
        drawn = {cell: x[rng.integers(len(x), size=(size, len(x)))] for cell, x in cells.items()}
        found = np.concatenate([found, _contrast(drawn)])
    value, finite = float(_contrast(cells)), found[np.isfinite(found)]
    low, high = quantile_interval(finite, estimate=value, kind="shifted") if len(finite) > draws / 2 else (np.nan,) * 2
    return Finding(name, value, float(low), float(high), sum(map(len, cells.values())), "traces", "sd")


def _contrast(cells: Mapping[Cell, Float[np.ndarray, "*draw trace feature"]]) -> Any:
    """One number, or one a draw."""
    by = [[np.abs(standardised_difference(cells[a], cells[b])).mean(-1) for a, b in pairs(cells)] for pairs in _SIDES]
    return np.mean(by[0], axis=0) - np.mean(by[1], axis=0)


_SIDES: Final = (format_pairs, domain_pairs)


def _rows(cells: Cells, seed: int) -> list[dict[str, Any]]:
    """One row a contrast: mean and largest |d|, and what the mean is by chance."""
    rows = []
    for kind, pairs in zip(("format", "domain"), _SIDES, strict=True):
        for a, b in pairs(cells):
            found = mean_absolute_d(cells[a], cells[b], resamples=400, seed=seed)
            row = {"kind": kind, "between": f"{' '.join(a)} and {' '.join(b)}", "mean |d|": found.value}
            row |= {"low": found.low, "high": found.high, "by chance": found.floor}
            rows.append(row | {"largest |d|": float(np.abs(found.features).max())})
    return rows


def _feature_rows(cells: Cells, seed: int) -> list[dict[str, Any]]:
    """d of every feature with its interval, for the first contrast of either kind."""
    rows = []
    for kind, pairs in zip(("format", "domain"), _SIDES, strict=True):
        a, b = pairs(cells)[0]
        for i, name in enumerate(FEATURES):
            found = cohens_d(cells[a][:, i], cells[b][:, i], resamples=400, seed=seed)
            rows.append({"kind": kind, "feature": name, "d": found.value, "low": found.low, "high": found.high})
    return rows


def _slots(setting: Setting) -> tuple[list[dict[str, Any]], dict[str, Bool[np.ndarray, " problem"]]]:
    """Right answers of the reader with the writer's trace in every slot, and with none."""
    from anchors.lab.recipes import RECIPES

    writer, reader = setting.model("lab/reasoner"), setting.reader(READER)
    world = RECIPES["reasoner"].program
    problems = distinct_problems(world, setting.pick(tiny=4, quick=200, full=600), seed=setting.seed + 1)
    prompts = [world.prompt(p) for p in problems]
    traces = [Trace.from_text(p, row[0]) for p, row in zip(prompts, ask(writer, prompts).texts, strict=True)]
    placed = {slot: [place(t, slot) for t in traces] for slot in SLOTS}
    given = {slot: [t.prompt + t.reasoning for t in row] for slot, row in placed.items()} | {"no trace": prompts}
    right = {slot: right_answers(world, problems, ask(reader, texts).answers)[:, 0] for slot, texts in given.items()}
    rows = [{"slot": slot, "accuracy": float(r.mean()), "problems": len(r)} for slot, r in right.items()]
    return rows, {slot: right[slot] for slot in SLOTS}


def slot_range(right: Mapping[str, Bool[np.ndarray, " problem"]]) -> Finding:
    """Accuracy of the best slot less that of the worst, both picked on the other half of the problems.

    A range over the same problems is above 0 by chance alone.
    """
    matrix = np.array(list(right.values()), dtype=float)
    values = np.empty(matrix.shape[1])
    for half in (0, 1):
        accuracy = matrix[:, 1 - half :: 2].mean(1)
        values[half::2] = matrix[accuracy.argmax(), half::2] - matrix[accuracy.argmin(), half::2]
    return mean_finding("best slot less worst, held out", values, of="problems", unit="of accuracy")


def judge(evidence: Evidence) -> Verdict:
    """The shift by format must lie above the shift by domain."""
    return superior(evidence.primary)


def draw(result: Result, ax: Axes | None = None) -> Axes:
    """Mean |d| of every contrast with its interval, formats and domains in two colours, chance as a tick."""
    from anchors.plotting.style import INK, OPPOSES, SUPPORTS, axes_of, legend_below, words

    rows = result.evidence.tables["shifts"]
    ax = axes_of(ax, height=2.4)
    for kind, colour in (("format", SUPPORTS), ("domain", OPPOSES)):
        mine = [(y, row) for y, row in enumerate(rows) if row["kind"] == kind]
        for y, row in mine:
            ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=1)
            ax.plot(row["by chance"], y, "|", color=INK, ms=4)
        marks = [row["mean |d|"] for _, row in mine]
        ax.plot(marks, [y for y, _ in mine], "o", color=colour, ms=3, label=f"by {kind}")
    ticks = [i for i, row in enumerate(rows) if i == 0 or row["who"] != rows[i - 1]["who"]]
    ax.set_yticks(ticks, [rows[i]["who"] for i in ticks])
    words(ax, x="mean |Cohen's d| of strategy features (tick: by chance)", y="")
    ax.set_title(f"C5: {result.verdict.word}", fontsize=7, loc="left")
    legend_below(ax)
    return ax
