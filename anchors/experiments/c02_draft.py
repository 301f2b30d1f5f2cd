"""C2, Chain of Draft (2502.18600): terse traces as good as verbose ones, at a fraction of the tokens.

1. Three models of one recipe: trained on verbose traces, on drafts (at most five words a sentence), on answers only.
2. All answer the same problems near-greedily (the paper's temperature is 0); accuracy and tokens of the trace
   are compared by problem (tokens of whole completions, which the paper counts, beside them).
3. Cross: a second model trained on verbose traces is handed the writer's trace, its draft by rule, and no trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

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
    unit_name,
    units,
)
from anchors.experiments.verdicts import both, equivalent, superior

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anchors.lab.worlds import World
    from anchors.models.lens import LensModel

CLAIM: Final = Claim(
    id="C2",
    title="Chain of Draft",
    statement="Terse drafts (at most five words a sentence) answer as well as verbose traces at a fraction of the tokens.",
    source="2502.18600",
    outcome="accuracy of the draft-trained model less that of the verbose-trained one, paired by problem",
    margin=0.03,
    rule="holds: TOST within 3 points (5 % a side) and the interval of the ratio of trace tokens at most .5; fails: the "
    "difference lies outside the margin, or the ratio's interval above .5; inconclusive: neither, or verbose traces gain "
    "nothing over answers only",
    shows="whether models trained on drafts answer as well as models trained on full sentences, and what a draft saves",
    does_not_show="that a large model prompted for drafts does as well: here format is trained, not asked for; nor what drafts "
    "cost on tasks too hard for either model, since the shipped ones are both at their ceiling",
)
MOST_TOKENS: Final = 0.5
VERBOSE, DRAFT, NONE, READER = "mini-normal", "mini-draft", "mini-answer-only", "mini-normal-b"


def run(setting: Setting) -> Evidence:
    """Ask the three models, then hand the verbose traces and their drafts to the reader."""
    from anchors.lab.recipes import LADDER

    world = LADDER[VERBOSE].program
    problems = distinct_problems(world, setting.pick(tiny=16, quick=1600, full=1000), seed=setting.seed)
    prompts = [world.prompt(problem) for problem in problems]
    ladder = rungs(setting, {arm: LADDER[arm] for arm in (VERBOSE, DRAFT, NONE, READER)})
    asked = {arm: [ask(rung[arm], prompts, seed=setting.seed) for rung in ladder] for arm in (VERBOSE, DRAFT, NONE)}
    right = {arm: [right_answers(world, problems, a.answers)[:, 0] for a in per] for arm, per in asked.items()}
    spent = {arm: [_trace_tokens(rung[arm], a) for rung, a in zip(ladder, asked[arm], strict=True)] for arm in asked}
    handed = setting.pick(tiny=6, quick=300, full=300)
    crossed = [_cross(rung, asked[VERBOSE][i], problems[:handed], world) for i, rung in enumerate(ladder)]
    findings = (
        difference("draft - verbose", right[DRAFT], right[VERBOSE]),
        _ratio("token ratio", spent[DRAFT], spent[VERBOSE]),
        difference("verbose - answer only", right[VERBOSE], right[NONE]),
        difference("draft - answer only", right[DRAFT], right[NONE]),
        difference("reader: draft - trace", *([c[arm] for c in crossed] for arm in ("draft", "trace"))),
        difference("reader: draft - no trace", *([c[arm] for c in crossed] for arm in ("draft", "none"))),
        _ratio("token ratio, whole completions", *([a.tokens[:, 0] for a in asked[arm]] for arm in (DRAFT, VERBOSE))),
    )
    given = {f"reader handed {arm}": [c[arm] for c in crossed] for arm in ("trace", "draft", "none")}
    tables = {"arms": [_row(arm, right[arm], spent[arm], asked[arm]) for arm in right], "handed": _shares(given)}
    notes = (competence(right), one_model_note(setting), competence(given))
    return Evidence(findings, tables, notes, {"problems": len(problems), "handed": handed})


def _cross(rung: Rung, asked: Asked, problems: Sequence[Any], world: World) -> dict[str, np.ndarray]:
    """Right answers of the reader, handed the writer's trace of each problem, its draft by rule, and nothing."""
    from anchors.interventions import draft
    from anchors.trace import Trace

    prompts = [world.prompt(p) for p in problems]
    traces = [Trace.from_text(prompt, texts[0]) for prompt, texts in zip(prompts, asked.texts, strict=False)]
    given = {
        "trace": [t.reasoning for t in traces],
        "draft": [draft(t).reasoning if t.sentences else t.reasoning for t in traces],
        "none": [""] * len(prompts),
    }
    answers = {arm: forced(rung[READER], prompts, reasonings) for arm, reasonings in given.items()}
    return {arm: right_answers(world, problems, [[a] for a in found])[:, 0] for arm, found in answers.items()}


def _trace_tokens(model: LensModel, asked: Asked) -> np.ndarray:
    """Tokens of each trace, in the tokens of its writer; the wording of the answer is the same in every arm."""
    traces = [row[0].split("\n</think>")[0] for row in asked.texts]
    return np.array([len(model.encode(text).ids) if text else 0 for text in traces])


def _ratio(name: str, draft: Sequence[np.ndarray], verbose: Sequence[np.ndarray]) -> Finding:
    """Tokens of a draft over those of a verbose trace: ratio of means with Fieller's interval."""
    from anchors.stats import fieller

    found = fieller(*(units([x.astype(float) for x in per]) for per in (draft, verbose)))
    return Finding(name, found.value, found.low, found.high, found.traces, unit_name(draft), "of tokens")


def _row(arm: str, right: Sequence[np.ndarray], spent: Sequence[np.ndarray], asked: Sequence[Asked]) -> dict[str, Any]:
    characters = [np.mean([len(row[0]) for row in a.texts]) for a in asked]
    return {
        "arm": arm,
        "accuracy": float(np.mean([x.mean() for x in right])),
        "trace tokens": float(np.mean([x.mean() for x in spent])),
        "completion tokens": float(np.mean([a.tokens.mean() for a in asked])),
        "completion characters": float(np.mean(characters)),
    }


def _shares(given: dict[str, list[np.ndarray]]) -> list[dict[str, Any]]:
    return [{"arm": arm, "accuracy": float(np.mean([x.mean() for x in per]))} for arm, per in given.items()]


def judge(evidence: Evidence) -> Verdict:
    """Equivalent within the margin, and at most half the tokens; nothing to say where traces gain nothing."""
    gate = evidence.finding("verbose - answer only")
    if not gate.low > 0:
        return Verdict(
            "inconclusive", f"verbose traces gain nothing over answers only ({gate}), so nothing can be kept"
        )
    assert CLAIM.margin is not None
    ratio = evidence.finding("token ratio")
    few = Finding(
        "half of the tokens less the ratio",
        MOST_TOKENS - ratio.effect,
        MOST_TOKENS - ratio.high,
        MOST_TOKENS - ratio.low,
        ratio.n,
        ratio.of,
        ratio.unit,
    )
    return both(equivalent(evidence.primary, CLAIM.margin), superior(few))


def draw(result: Result, ax: Axes | None = None) -> Axes:
    """Accuracy against tokens, one point an arm."""
    from anchors.plotting.style import INK, axes_of, words

    ax = axes_of(ax, height=2.2)
    for row in result.evidence.tables["arms"]:
        ax.plot(row["trace tokens"], row["accuracy"], "o", ms=4, color=INK)
        ax.annotate(
            row["arm"].removeprefix("mini-"),
            (row["trace tokens"], row["accuracy"]),
            (4, -8),
            fontsize=6.5,
            textcoords="offset points",
        )
    ax.set_xlim(left=0)
    ax.set_ylim(0, 1.05)
    words(ax, x="tokens of a trace", y="share of right answers")
    return ax
