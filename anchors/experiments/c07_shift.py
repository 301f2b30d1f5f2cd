"""C7: reasoning learned on one distribution breaks under shifts of task, length and format (DataAlchemy, 2508.01191).

1. Small models are trained on `alchemy` with nothing left to chance, so that a problem has one right completion: on f1 f1 alone
   (ID), on f1 f1, f1 f2, f2 f1 (CMP), and on two pairs of known operations (order). f1 is rotate, f2 shift, f3 reverse.
2. Task axis: f1 f1 (ID); f2 f2 after all other pairs of f1 and f2 (CMP); f1 f2 (POOD) and f2 f2 (OOD) after f1 f1 alone.
   Length axis: elements of 2 to 6 letters after 4, and 1 or 3 operations after 2. Format axis: words of the question are
   inserted, deleted or made unknown; the gold completion stays.
3. Exact match, edit distance and BLEU of the whole chain, the reasoning and the answer, near-greedily, on the same elements.
4. ROT-13 replicates the published grid, where f1 f1 is the identity; ROT-5 has no such degeneracy. Reversed pairs: f1 and f2
   commute, so that a model that keeps to its old order is right for the wrong reason; shift and reverse do not.
5. A larger model trained on every pair under the full program (`lab/alchemist`, or the user's) on the axes of length and format.

In quick the elements are the unit (one model a scenario), in full the training seeds.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float

from anchors.experiments.base import Claim, Evidence, Finding, Result, Setting, Verdict
from anchors.experiments.ladder import SEEDS, ask, trained, units
from anchors.experiments.verdicts import both, mean_finding, superior
from anchors.lab.metrics import compare_completions
from anchors.lab.worlds import load_world, read_moves, write
from anchors.lab.worlds.alchemy import ALPHABET, PAIRS, PARTS, SHIFTS, Element, Operations
from anchors.splitting import split_sentences
from anchors.stats import page_trend, slope_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anchors.lab.train import Recipe
    from anchors.models.lens import LensModel

CLAIM: Final = Claim(
    id="C7",
    title="Chains of thought break under shift",
    statement="Exact match falls with the distance of a test from the training distribution, in task, length and format.",
    source="2508.01191",
    outcome="exact match of the whole chain on trained tasks less its mean over CMP, POOD and OOD, ROT-5, by element",
    margin=0.5,
    rule="holds: the primary interval lies above 0, Page's trend over ID, CMP, POOD, OOD has p < .05, the interval of CMP lies "
    "below .5, and exact match drops at other lengths and under noise; fails: one of these intervals lies on the other side; "
    "inconclusive if neither, or if exact match on trained tasks is not above .8",
    shows="whether small models trained from scratch carry a task over to compositions, lengths and wordings they never saw",
    does_not_show="anything about pretrained models; POOD and OOD use a word no training text held, as published",
)

TRAINED: Final[dict[str, tuple[Operations, ...]]] = {
    "id": SHIFTS["ID"][0],
    "cmp": SHIFTS["CMP"][0],
    "order": (("rotate", "shift"), ("shift", "reverse")),
}
"""What each scenario's model is trained on."""
LEVELS: Final = {"ID": "id", "CMP": "cmp", "POOD": "id", "OOD": "id"}
"""The levels of the task axis by distance, and whose model answers."""
CERTAIN: Final = {"filler": 0.0, "right_order": 1.0, "right_rule": 1.0, "slip": 0.0, "reconsider": 0.0, "check": 0.0}
"""Knobs under which a problem has one completion."""
LENGTHS: Final = (2, 3, 4, 5, 6)
NOISES: Final = (0.05, 0.1, 0.2, 0.3)
PART_NOISE: Final = 0.2
COMPETENT: Final = 0.8
MODEL: Final = "lab/alchemist"
SCENARIOS: Final = (("id", 5), ("cmp", 5), ("id", 13), ("cmp", 13), ("order", 5))
"""Scenario and rotation of every model; the verdict needs the first two."""
PRIMARY, CMP, TREND = "trained less shifted tasks", "exact match on CMP", "exact match a level of task shift"
LENGTH, NOISE = "trained less other lengths", "clean less noised questions"
GATES: Final = ("exact match on ID", "exact match on the tasks of CMP's training")

Models = dict[tuple[str, int], "LensModel"]
Values = Float[np.ndarray, "metric part element"]
Key = tuple[int, str, str]
Grid = dict[Key, Values]
"""Metric values by (rotation, axis, level)."""


def run(setting: Setting) -> Evidence:
    """Every scenario's model on every axis, then the larger model on length and format."""
    elements = draw_elements(setting.pick(tiny=5, quick=100, full=150), seed=setting.seed)
    rungs = _trained(setting) if setting.preset == "full" else [_shipped()]
    grids = [grid(models, elements, whole=setting.preset != "tiny") for models in rungs]
    larger = larger_grid(setting.model(MODEL), elements[: setting.pick(tiny=3, quick=50, full=150)])
    missing = [f"{scenario} ROT-{n}" for scenario, n in SCENARIOS if (scenario, n) not in rungs[0]]
    notes = (f"not shipped, so only in full: {', '.join(missing)}",) if missing else ()
    notes += ("one model a scenario: the interval covers elements, not training seeds",) if len(rungs) == 1 else ()
    found = evidence_of(grids, notes=notes)
    return replace(found, tables={**found.tables, "larger model": larger}, details={"elements": len(elements)})


def _shipped() -> Models:
    """The models of the zoo; those it lacks are left out, but for the two that the verdict needs."""
    from anchors.models import lab_models, load_model

    names = {key: shipped_name(*key) for key in SCENARIOS}
    return {key: load_model(f"lab/{n}") for key, n in names.items() if n in lab_models() or key in SCENARIOS[:2]}


def shipped_name(scenario: str, rot_n: int) -> str:
    """The name of a scenario's model in the zoo.

    >>> shipped_name("id", 13)
    'mini-alchemy-id-13'
    """
    return f"mini-alchemy-{scenario}" + ("" if rot_n == 5 else f"-{rot_n}")


def _trained(setting: Setting) -> list[Models]:
    folder, rungs = setting.folder("models"), []
    for seed in range(SEEDS):
        made = {key: replace(recipe_of(*key), seed=300 + seed) for key in SCENARIOS}
        rungs.append({key: trained(r, folder / f"{shipped_name(*key)}-{seed}") for key, r in made.items()})
    return rungs


def recipe_of(scenario: str, rot_n: int) -> Recipe:
    """The recipe of a scenario's model: drafts, since they are the published form of a chain."""
    from anchors.lab.recipes import mini_alchemy

    rotation = () if rot_n == 5 else (("rot_n", rot_n),)
    return mini_alchemy(0, TRAINED[scenario], 700 if scenario == "id" else 1200, *rotation)


def draw_elements(count: int, *, seed: int = 0) -> list[Element]:
    """Distinct elements of as many letters as the longest test; shorter tests take their first letters."""
    rng, found = random.Random(f"C7 {seed}"), {}
    while len(found) < count:
        found[tuple(rng.choice(ALPHABET) for _ in range(max(LENGTHS)))] = None
    return list(found)


def grid(models: Models, elements: Sequence[Element], *, whole: bool = True) -> Grid:
    """All cells of the scenarios' models; without `whole` only the task axis and one level of each other axis."""
    found: Grid = {}
    for (scenario, rot_n), model in models.items():
        for axis, level, knobs, tasks, letters in _cells(scenario, whole):
            cut = [element[:letters] for element in elements]
            values = cell(model, cut, tasks, knobs | {"rot_n": rot_n})
            found[rot_n, axis, level] = values
    return found


Plan = tuple[str, str, dict[str, Any], tuple[Operations, ...], int]


def _cells(scenario: str, whole: bool) -> list[Plan]:
    """Axis, level, knobs, tasks and letters of every cell of a scenario's model."""
    if scenario == "cmp":
        return [("trained", "CMP", {}, TRAINED["cmp"], 4), ("task", "CMP", {}, SHIFTS["CMP"][1], 4)]
    if scenario == "order":
        back = {"commuting": (("shift", "rotate"),), "not commuting": (("reverse", "shift"),)}
        forth = {"trained, commuting": TRAINED["order"][:1], "trained, not commuting": TRAINED["order"][1:]}
        return [("order", level, {}, tasks, 4) for level, tasks in (forth | back).items()]
    own = TRAINED["id"]
    cells: list[Plan] = [("task", level, {}, SHIFTS[level][1], 4) for level in ("ID", "POOD", "OOD")]
    cells += [("length", str(k), {}, own, k) for k in (LENGTHS if whole else (3, 4))]
    cells += [("operations", str(k), {}, (("rotate",) * k,), 4) for k in ((1, 2, 3) if whole else ())]
    cells += [("noise", f"{p:g}", {"noise": p}, own, 4) for p in (NOISES if whole else (0.2,))]
    for kind in ("insert", "delete", "modify") if whole else ():
        cells.append(("kind of noise", kind, {"noise": PART_NOISE, "noise_kind": kind}, own, 4))
    for part in PARTS[:-1] if whole else ():
        cells.append(("part noised", part, {"noise": PART_NOISE, "noise_part": part}, own, 4))
    return cells


def cell(
    model: LensModel, elements: Sequence[Element], tasks: Sequence[Operations], knobs: Mapping[str, Any]
) -> Values:
    """Exact match, edit and BLEU of chain, reasoning and answer for every element; tasks take turns."""
    world = load_world("alchemy", format="draft", **CERTAIN | dict(knobs))
    problems = [(element, tasks[i % len(tasks)]) for i, element in enumerate(elements)]
    gold = []
    for problem in problems:
        written = write(world, problem, random.Random(0))
        gold.append(written.reasoning + world.ending(world.gold(problem)))
    texts = ask(model, [world.prompt(p) for p in problems]).texts
    compared = np.array([compare_completions(row[0], g) for row, g in zip(texts, gold, strict=True)])
    return np.moveaxis(compared, 0, -1)


def larger_grid(model: LensModel, elements: Sequence[Element]) -> list[dict[str, Any]]:
    """Right answers and traces on the program of a model trained on every pair: lengths, operations, noise."""
    plans: list[Plan] = [("length", str(k), {}, PAIRS, k) for k in LENGTHS]
    plans += [("operations", "1", {}, tuple(p[:1] for p in PAIRS), 4), ("operations", "2", {}, PAIRS, 4)]
    plans += [("operations", "3", {}, tuple((*p, p[0]) for p in PAIRS), 4)]
    plans += [("noise", f"{p:g}", {"noise": p}, PAIRS, 4) for p in NOISES]
    return [_larger_row(model, elements, plan) for plan in plans]


def _larger_row(model: LensModel, elements: Sequence[Element], plan: Plan) -> dict[str, Any]:
    axis, level, knobs, tasks, letters = plan
    world = load_world("alchemy", **knobs)
    problems = [(element[:letters], tasks[i % len(tasks)]) for i, element in enumerate(elements)]
    found = ask(model, [world.prompt(p) for p in problems])
    right = [row[0] == world.gold(p) for row, p in zip(found.answers, problems, strict=True)]
    on = []
    for row, problem in zip(found.texts, problems, strict=True):
        reasoning = row[0].split("\n</think>")[0]
        sentences = [reasoning[a:b] for a, b in split_sentences(reasoning)]
        on.append(len(read_moves(world, problem, sentences)) == len(sentences) > 0)
    right_share, on_share = float(np.mean(right)), float(np.mean(on))
    return {"axis": axis, "level": level, "answers right": right_share, "on the program": on_share, "n": len(problems)}


def evidence_of(grids: Sequence[Grid], *, notes: tuple[str, ...] = ()) -> Evidence:
    """Findings and tables from the grids of one rung, or of one rung for each training seed."""
    of = "elements" if len(grids) == 1 else "training seeds"

    def exact(axis: str, level: str, *, rot_n: int = 5, part: int = 0) -> Float[np.ndarray, " unit"]:
        return units([g[rot_n, axis, level][0, part] for g in grids])

    def found(name: str, values: Float[np.ndarray, " unit"]) -> Finding:
        return mean_finding(name, values, of=of, unit="of exact match")

    def others(axis: str, *, rot_n: int = 5) -> Float[np.ndarray, " unit"]:
        levels = [level for n, a, level in grids[0] if (n, a) == (rot_n, axis) and level not in ("ID", "4")]
        return np.mean([exact(axis, level, rot_n=rot_n) for level in levels], axis=0)

    home = exact("task", "ID")
    exacts = np.stack([exact("task", level) for level in LEVELS], axis=1)
    edits = np.stack([units([g[5, "task", level][1, 0] for g in grids]) for level in LEVELS], axis=1)
    findings = [
        found(PRIMARY, home - others("task")),
        found(CMP, exact("task", "CMP")),
        _trend(TREND, exacts, of),
        found(LENGTH, exact("length", "4") - others("length")),
        found(NOISE, home - others("noise")),
        found(GATES[0], home),
        found(GATES[1], exact("trained", "CMP")),
        _trend("1 - edit distance a level of task shift", 1 - edits, of),
        found("CMP: reasoning less answer", exact("task", "CMP", part=1) - exact("task", "CMP", part=2)),
    ]
    if (13, "task", "ID") in grids[0]:
        findings.append(found(f"ROT-13: {PRIMARY}", exact("task", "ID", rot_n=13) - others("task", rot_n=13)))
        findings.append(found(f"ROT-13: {LENGTH}", exact("length", "4", rot_n=13) - others("length", rot_n=13)))
    for level in ("commuting", "not commuting") if (5, "order", "commuting") in grids[0] else ():
        gap = exact("order", level, part=2) - exact("order", level, part=1)
        findings.append(found(f"reversed, {level}: answer less reasoning", gap))
    return Evidence(tuple(findings), {"cells": _table(grids)}, notes)


def _trend(name: str, matrix: Float[np.ndarray, "unit level"], of: str) -> Finding:
    """Slope over the levels of the task axis, with Page's p that the values do not fall in that order."""
    size, levels = matrix.shape
    flat = slope_interval(np.tile(np.arange(levels), size), matrix.ravel(), np.repeat(np.arange(size), levels))
    p = page_trend(matrix, order=list(range(levels))[::-1]).p
    return Finding(name, flat.value, flat.low, flat.high, size, of, "a level", p)


def _table(grids: Sequence[Grid]) -> list[dict[str, Any]]:
    """One row a cell: nine figures, and how often reasoning and answer disagree."""
    rows = []
    for rot_n, axis, level in grids[0]:
        values = np.mean([g[rot_n, axis, level].mean(-1) for g in grids], axis=0)
        row: dict[str, Any] = {"rotation": rot_n, "axis": axis, "level": level}
        for i, metric in enumerate(("exact", "edit", "bleu")):
            row |= {
                f"{metric} {part}": float(v)
                for part, v in zip(("chain", "reasoning", "answer"), values[i], strict=True)
            }
        pairs = [g[rot_n, axis, level][0, 1:] for g in grids]
        row["only reasoning right"] = float(np.mean([(p[0] > p[1]).mean() for p in pairs]))
        row["only answer right"] = float(np.mean([(p[0] < p[1]).mean() for p in pairs]))
        rows.append(row)
    return rows


def judge(evidence: Evidence) -> Verdict:
    """All axes must drop, the task axis in order, and CMP must stay below half; where trained tasks are learned."""
    for gate in map(evidence.finding, GATES):
        if not gate.effect > COMPETENT:
            return Verdict("inconclusive", f"the model did not learn its own tasks ({gate}; above {COMPETENT} needed)")
    found, trend = evidence.finding(CMP), evidence.finding(TREND)
    assert CLAIM.margin is not None
    below = Finding(
        "half less exact match on CMP",
        CLAIM.margin - found.effect,
        CLAIM.margin - found.high,
        CLAIM.margin - found.low,
        found.n,
        found.of,
        found.unit,
    )
    drops = [superior(evidence.finding(name)) for name in (PRIMARY, LENGTH, NOISE)]
    return both(*drops, superior(below), _ordered(trend))


def _ordered(trend: Finding) -> Verdict:
    said = f"{trend.name} {trend.effect:+.3g}, Page's p = {trend.p if trend.p is not None else float('nan'):.2g}"
    if trend.p is not None and trend.p < 0.05:
        return Verdict("holds", said)
    return Verdict("fails" if trend.low >= 0 else "inconclusive", said)


def draw(result: Result, ax: Axes | None = None) -> Axes:
    """Exact match of reasoning and answer in every cell of the axes of task, length and noise."""
    from anchors.plotting.style import OPPOSES, SUPPORTS, axes_of, legend_below, words

    order = {level: i for i, level in enumerate(LEVELS)}
    rows = [
        r for r in result.evidence.tables["cells"] if r["axis"] in ("task", "length", "noise") and r["rotation"] == 5
    ]
    axes = ("task", "length", "noise")
    rows.sort(key=lambda r: (axes.index(r["axis"]), order.get(r["level"], -1), r["level"]))
    ax = axes_of(ax, height=2.2)
    for part, colour, mark in (("reasoning", SUPPORTS, "o"), ("answer", OPPOSES, "x")):
        for axis in axes:
            at = [(x, r[f"exact {part}"]) for x, r in enumerate(rows) if r["axis"] == axis]
            label = part if axis == "task" else None
            ax.plot([x for x, _ in at], [y for _, y in at], mark, ls="-", lw=0.8, ms=3, color=colour, label=label)
    ax.set_xticks(range(len(rows)), [r["level"] for r in rows], rotation=90)
    ax.set_ylim(-0.05, 1.05)
    words(ax, x="task, letters (trained: 4), share of noised words", y="exact match")
    ax.set_title(f"C7: {result.verdict.word}", fontsize=7, loc="left")
    legend_below(ax)
    return ax
