"""C3, Beyond Semantics (2505.13775): traces of other problems train a model as well as the right ones.

1. On two worlds (`expression`, and `maze`, the paper's) three models of one recipe: trained on their own problems' traces, on
   traces swapped between problems (right answers kept), and on answers only. All answer the same problems.
2. On `maze`: a trace is valid if the replay finds no fault, a plan right if it leads to the goal; the 2x2 table of both.
3. Cross of training and inference: readers trained on normal and on swapped traces are handed the valid trace of a
   problem and another problem's, and asked for the answer.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from anchors.experiments.base import Claim, Evidence, Finding, Result, Setting, Verdict
from anchors.experiments.ladder import (
    Asked,
    Rung,
    ask,
    competence,
    difference,
    distinct_problems,
    forced,
    one_model_note,
    right_answers,
    rungs,
)
from anchors.experiments.verdicts import both, equivalent, superior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anchors.lab.worlds import World
    from anchors.validity import ValidityTable

CLAIM: Final = Claim(
    id="C3",
    title="irrelevant traces",
    statement="Traces swapped between problems are as good to train on as the right ones, and both beat answers only.",
    source="2505.13775",
    outcome="right answers on `expression`, where the shipped models reach their ceiling: the model trained on swapped traces "
    "less the one trained on its own, paired by problem; the same on `maze` is reported beside it",
    margin=0.05,
    rule="holds: TOST within 5 points (5 % a side), or swapped better by more, and both arms above answers only; fails: normal "
    "better by more than 5 points, or an arm no better than answers only; else inconclusive",
    shows="whether the meaning of traces matters when a small model is trained on them, on a search and on arithmetic",
    does_not_show="what handing a wrong trace to a fixed model does (the cross reports that apart), or what much longer training "
    "does: the paper's swapped-trained models saw far more than the 24,000 (`maze`) and 58,000 problems of the shipped ones",
)
ARMS: Final[Mapping[str, tuple[str, str, str]]] = {
    "expression": ("mini-normal", "mini-swapped", "mini-answer-only"),
    "maze": ("mini-maze", "mini-maze-swapped", "mini-maze-answer-only"),
}
PRIMARY: Final = "expression"
NORMAL, SWAPPED, NONE = 0, 1, 2


class _World(NamedTuple):
    """One world's part: its findings, its rows for the tables, and a note on competence."""

    findings: tuple[Finding, ...]
    arms: list[dict[str, Any]]
    cross: list[dict[str, Any]]
    validity: list[dict[str, Any]]
    note: str


def run(setting: Setting) -> Evidence:
    """The same three arms on both worlds; the first is primary."""
    parts = [_on_world(setting, name) for name in ARMS]
    tables = {
        "arms": [row for part in parts for row in part.arms],
        "cross": [row for part in parts for row in part.cross],
        "validity": [row for part in parts for row in part.validity],
    }
    findings = tuple(found for part in parts for found in part.findings)
    return Evidence(findings, tables, (*(part.note for part in parts), one_model_note(setting)), {"worlds": list(ARMS)})


def _on_world(setting: Setting, name: str) -> _World:
    from anchors.lab.recipes import LADDER

    arms = ARMS[name]
    world = LADDER[arms[NORMAL]].program
    count = setting.pick(tiny=8, quick=300 if name == "maze" else 1000, full=1000)
    problems = distinct_problems(world, count, seed=setting.seed)
    prompts = [world.prompt(problem) for problem in problems]
    ladder = rungs(setting, {arm: LADDER[arm] for arm in arms})
    asked = {arm: [ask(rung[arm], prompts, seed=setting.seed) for rung in ladder] for arm in arms}
    right = {arm: [right_answers(world, problems, a.answers)[:, 0] for a in per] for arm, per in asked.items()}
    handed = setting.pick(tiny=4, quick=200, full=300)
    crossed = [_cross(rung, arms, problems[:handed], world) for rung in ladder]
    tables = {arm: _validity(asked[arm], right[arm], problems, world) for arm in arms[:NONE]}
    findings = (
        difference(f"{name}: swapped - normal", right[arms[SWAPPED]], right[arms[NORMAL]]),
        difference(f"{name}: normal - answer only", right[arms[NORMAL]], right[arms[NONE]]),
        difference(f"{name}: swapped - answer only", right[arms[SWAPPED]], right[arms[NONE]]),
        *_phi_findings(name, arms, tables),
        *_cross_findings(name, crossed),
    )
    rows = [{"world": name, "arm": arm, "accuracy": float(np.mean([x.mean() for x in right[arm]]))} for arm in arms]
    cross = [
        {
            "world": name,
            "trained on": trained,
            "handed": given,
            "right": float(np.mean([c[trained, given] for c in crossed])),
        }
        for trained, given in crossed[0]
    ]
    validity = [_validity_row(name, arm, found) for arm, found in tables.items()]
    return _World(findings, rows, cross, validity, f"{name}: {competence(right)}")


def _validity(
    asked: Sequence[Asked], right: Sequence[np.ndarray], problems: Sequence[Any], world: World
) -> ValidityTable:
    """Validity against correctness over all models of an arm; a problem counts once a model."""
    from anchors.validity import valid_trace, validity_table

    reasonings = [row[0].split("\n</think>")[0] for a in asked for row in a.texts]
    valid = [valid_trace(world, problems[i % len(problems)], text) for i, text in enumerate(reasonings)]
    return validity_table(valid, np.concatenate(right))


def _validity_row(name: str, arm: str, found: ValidityTable) -> dict[str, Any]:
    (a, b), (c, d) = found.counts.tolist()
    cells = {"valid right": a, "valid wrong": b, "invalid right": c, "invalid wrong": d}
    return {"world": name, "arm": arm, **cells, "phi": found.phi, "low": found.low, "high": found.high, "p": found.p}


def _phi_findings(name: str, arms: Sequence[str], tables: Mapping[str, ValidityTable]) -> list[Finding]:
    return [
        Finding(
            f"{name}: phi of validity and correctness, {word}-trained", t.phi, t.low, t.high, t.n, "traces", "phi", t.p
        )
        for word, t in zip(("normal", "swapped"), (tables[arm] for arm in arms[:NONE]), strict=True)
    ]


def _cross(rung: Rung, arms: Sequence[str], problems: Sequence[Any], world: World) -> dict[tuple[str, str], np.ndarray]:
    """Right answers of both readers, handed a valid trace of the problem and another problem's of like length."""
    from anchors.interventions import swap_reasoning
    from anchors.trace import Trace

    traces = [Trace.from_text(world.prompt(p), _valid_text(world, p, i)) for i, p in enumerate(problems)]
    given = {
        "valid trace": [t.reasoning for t in traces],
        "swapped trace": [swap_reasoning(t, traces).reasoning for t in traces],
        "no trace": [""] * len(traces),
    }
    found = {}
    for trained, arm in (("normal", arms[NORMAL]), ("swapped", arms[SWAPPED])):
        for handed, reasonings in given.items():
            answers = forced(rung[arm], [t.prompt for t in traces], reasonings)
            found[trained, handed] = right_answers(world, problems, [[a] for a in answers])[:, 0]
    return found


def _valid_text(world: World, problem: Any, index: int) -> str:
    """A trace of the world's own with a right answer."""
    from anchors.lab.worlds import write

    rng = random.Random(f"valid {index}")
    while True:
        written = write(world, problem, rng)
        answer = world.answer(written.end)
        if answer is not None and right_answers(world, [problem], [[answer]]).all():
            return written.reasoning + world.ending(answer)


def _cross_findings(name: str, crossed: Sequence[dict[tuple[str, str], np.ndarray]]) -> list[Finding]:
    """What a reader loses when the trace it is handed is another problem's, by how it was trained."""
    lost = {
        trained: [c[trained, "valid trace"].astype(float) - c[trained, "swapped trace"] for c in crossed]
        for trained in ("normal", "swapped")
    }
    found = [
        difference(f"{name}: {trained}-trained reader, valid - swapped trace", per, [np.zeros_like(x) for x in per])
        for trained, per in lost.items()
    ]
    return [
        *found,
        difference(f"{name}: use of the trace, normal- less swapped-trained", lost["normal"], lost["swapped"]),
    ]


def judge(evidence: Evidence) -> Verdict:
    """Equivalence and a scaffold in both arms; refuted where normal is better by more than the margin, or nothing helps."""
    assert CLAIM.margin is not None
    gains = [evidence.finding(f"{PRIMARY}: {arm} - answer only") for arm in ("normal", "swapped")]
    if all(gain.high <= 0 for gain in gains):
        return Verdict("fails", f"neither arm beats answers only ({gains[0]}; {gains[1]}): the trace is no scaffold")
    found = evidence.primary
    same = equivalent(found, CLAIM.margin)
    if found.low > CLAIM.margin:
        same = Verdict("holds", f"swapped traces are even better to train on ({found})")
    return both(same, *(superior(gain) for gain in gains))


def draw(result: Result, ax: Axes | None = None) -> Axes:
    """Right answers by world and arm."""
    from anchors.plotting.style import ANSWERS, axes_of, legend_below, words

    ax = axes_of(ax, height=2.2)
    arms = ("normal", "swapped", "answer only")
    rows = result.evidence.tables["arms"]
    for k, arm in enumerate(arms):
        shares = [rows[3 * w + k]["accuracy"] for w in range(len(ARMS))]
        ax.bar([w + 0.27 * (k - 1) for w in range(len(ARMS))], shares, 0.25, color=ANSWERS[k], label=arm)
    ax.set_xticks(range(len(ARMS)), list(ARMS))
    ax.set_ylim(0, 1)
    words(ax, x="", y="share of right answers")
    legend_below(ax)
    return ax
