"""C6, Think Deep, Think Fast (2504.14047): without traces no sampling budget catches up with reasoning.

1. A model trained on answers only is sampled 256 times a problem: majority@N and pass@N for N = 1, 2, 4, ..., 256. A model of
   the same recipe trained on traces gives its pass@1 on the same problems. All at their own temperature of 1.
2. a - b N^-c is fitted to majority@N; problems are redrawn together for both models, and the fit is made anew each time.
   A vote that still rises at the last N ends lower than a power law says, so the fit leans against the claim.
3. A third model, trained to write filler before its answer, spends as many tokens as the reasoner without any content.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.experiments.base import Claim, Evidence, Finding, Result, Setting, Verdict
from anchors.experiments.ladder import (
    Asked,
    Rung,
    ask,
    competence,
    difference,
    distinct_problems,
    one_model_note,
    right_answers,
    rungs,
)
from anchors.experiments.verdicts import mean_finding

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anchors.lab.worlds import World

CLAIM: Final = Claim(
    id="C6",
    title="budget instead of traces",
    statement="A model without reasoning traces does not catch up by sampling, however many answers it may draw.",
    source="2504.14047",
    outcome="pass@1 of the reasoner less the fitted asymptote of the answer-only model's majority@N, over problems",
    margin=None,
    rule="holds: the 95 % interval (problems redrawn, fit made anew) lies above 0; fails: it lies below 0; else inconclusive",
    shows="whether majority voting over answers of a model without traces could reach the one with traces, on this task",
    does_not_show="what a verifier could do: pass@N is an oracle, and with ten possible answers guessing alone brings it to 1; "
    "nor steering (2510.07364). Voting cannot help where the most frequent answer is wrong; the asymptote says how often that is",
)
REASONER, NONE, FILLER = "mini-normal", "mini-answer-only", "mini-filler"
RESAMPLES: Final = 1000
SUBSETS: Final = 200


class _Curves(NamedTuple):
    """One rung: shares [problem budget] of the answer-only model, and of the others pass@1 [problem]; mean tokens."""

    majority: Float[np.ndarray, "problem budget"]
    oracle: Float[np.ndarray, "problem budget"]
    reasoner: Float[np.ndarray, " problem"]
    filler: Float[np.ndarray, " problem"]
    tokens: dict[str, float]
    wrong_mode: float


def run(setting: Setting) -> Evidence:
    """Curves of the answer-only model against the reasoner and the filler model."""
    from anchors.lab.recipes import LADDER

    world = LADDER[REASONER].program
    problems = distinct_problems(world, setting.pick(tiny=12, quick=250, full=300), seed=setting.seed)
    budgets = [2**k for k in range(setting.pick(tiny=4, quick=9, full=9))]
    ladder = rungs(setting, {arm: LADDER[arm] for arm in (REASONER, NONE, FILLER)})
    found = [_curves(rung, world, problems, budgets, setting) for rung in ladder]
    matched = [min(budgets, key=lambda n, f=f: abs(n * f.tokens[NONE] - f.tokens[REASONER])) for f in found]
    at_match = [f.majority[:, budgets.index(n)] for f, n in zip(found, matched, strict=True)]
    reasoner = [f.reasoner for f in found]
    findings = (
        *_asymptotes(found, budgets, setting.seed),
        difference(f"reasoner - majority@{budgets[-1]}", reasoner, [f.majority[:, -1] for f in found]),
        difference("reasoner - majority@N at equal tokens", reasoner, at_match),
        difference("reasoner - filler", reasoner, [f.filler for f in found]),
        difference("filler - answer only", [f.filler for f in found], [f.majority[:, 0] for f in found]),
        difference(f"reasoner - pass@{budgets[-1]}", reasoner, [f.oracle[:, -1] for f in found]),
    )
    rows = [{"N": n, **{name: _mean(found, name, k) for name in ("majority", "oracle")}} for k, n in enumerate(budgets)]
    arms = [{"arm": arm, "tokens": float(np.mean([f.tokens[arm] for f in found]))} for arm in found[0].tokens]
    single = {REASONER: reasoner, FILLER: [f.filler for f in found], NONE: [f.majority[:, 0] for f in found]}
    notes = (
        competence(single),
        f"the most frequent of {budgets[-1]} answers is wrong on {np.mean([f.wrong_mode for f in found]):.1%} of the problems: "
        "there majority voting cannot help",
        f"equal tokens means N = {', '.join(map(str, sorted(set(matched))))}",
        one_model_note(setting),
    )
    details = {"problems": len(problems), "pass@1 of the reasoner": float(np.mean([x.mean() for x in reasoner]))}
    return Evidence(findings, {"curve": rows, "arms": arms}, notes, details)


def _mean(found: Sequence[_Curves], name: str, budget: int) -> float:
    return float(np.mean([getattr(f, name)[:, budget].mean() for f in found]))


def _curves(rung: Rung, world: World, problems: Sequence[Any], budgets: Sequence[int], setting: Setting) -> _Curves:
    """Sample the three models on the same problems."""
    from anchors.voting import majority_at, pass_at

    prompts = [world.prompt(problem) for problem in problems]
    few = setting.pick(tiny=2, quick=4, full=8)

    def drawn(arm: str, samples: int) -> Asked:
        return ask(rung[arm], prompts, samples=samples, temperature=1.0, seed=setting.seed)

    asked = {REASONER: drawn(REASONER, few), NONE: drawn(NONE, budgets[-1]), FILLER: drawn(FILLER, few)}
    right = {arm: right_answers(world, problems, a.answers) for arm, a in asked.items()}
    subsets = {n: None if n in (1, budgets[-1]) else SUBSETS for n in budgets}  # with one or all of them it is exact
    majority = [
        [majority_at(row, world.gold(problem), n, draws=draws, seed=setting.seed) for n, draws in subsets.items()]
        for row, problem in zip(asked[NONE].answers, problems, strict=True)
    ]
    return _Curves(
        np.array(majority),
        np.array([[pass_at(int(marks.sum()), len(marks), n) for n in budgets] for marks in right[NONE]]),
        right[REASONER].mean(1),
        right[FILLER].mean(1),
        {arm: float(a.tokens.mean()) for arm, a in asked.items()},
        float(np.mean([row[-1] < 1 for row in majority])),
    )


def _asymptotes(found: Sequence[_Curves], budgets: Sequence[int], seed: int) -> tuple[Finding, Finding]:
    """The reasoner's lead over the asymptote, and the asymptote: intervals over problems, or over training seeds."""
    from anchors.budget import fit_power_law
    from anchors.stats import quantile_interval

    if len(found) > 1:
        ends = [float(fit_power_law(budgets, f.majority.mean(0)).a) for f in found]
        leads = [float(f.reasoner.mean()) - end for f, end in zip(found, ends, strict=True)]
        of, unit = "training seeds", "of problems"
        lead = mean_finding("reasoner - asymptote of majority@N", leads, of=of, unit=unit)
        return lead, mean_finding("asymptote of majority@N", ends, of=of, unit=unit)
    (only,) = found
    n = len(only.reasoner)
    picks = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    ends = fit_power_law(budgets, only.majority[picks].mean(1)).a
    leads = only.reasoner[picks].mean(1) - ends
    end = float(fit_power_law(budgets, only.majority.mean(0)).a)
    lead = float(only.reasoner.mean()) - end
    made = []
    for name, value, draws in (
        ("reasoner - asymptote of majority@N", lead, leads),
        ("asymptote of majority@N", end, ends),
    ):
        low, high = quantile_interval(draws, estimate=value)
        made.append(Finding(name, value, float(low), float(high), n, "problems", "of problems"))
    return made[0], made[1]


def judge(evidence: Evidence) -> Verdict:
    """The interval of the lead over the asymptote against 0."""
    lead = evidence.primary
    if lead.low > 0:
        return Verdict("holds", f"{lead}: above every budget's majority vote")
    if lead.high < 0:
        return Verdict("fails", f"{lead}: the vote ends above the reasoner")
    return Verdict("inconclusive", f"{lead}: the interval holds 0, or there is none")


def draw(result: Result, ax: Axes | None = None) -> Axes:
    """majority@N and pass@N of the answer-only model against N, with the reasoner's pass@1 and the asymptote."""
    from anchors.plotting.style import ANSWERS, QUIET, axes_of, legend_below, words

    ax = axes_of(ax, height=2.2)
    curve, asymptote = result.evidence.tables["curve"], result.evidence.finding("asymptote of majority@N")
    for name, label, colour in (("majority", "majority@N", ANSWERS[0]), ("oracle", "pass@N (oracle)", ANSWERS[2])):
        ax.plot([row["N"] for row in curve], [row[name] for row in curve], "o-", ms=3, lw=1, color=colour, label=label)
    ax.axhspan(asymptote.low, asymptote.high, color=ANSWERS[0], alpha=0.15, lw=0, label="asymptote, 95 %")
    ax.axhline(result.evidence.details["pass@1 of the reasoner"], color=QUIET, lw=1, ls="--", label="reasoner, pass@1")
    ax.set_xscale("log", base=2)
    ax.set_ylim(0, 1.05)
    words(ax, x="samples N of the answer-only model", y="share of right answers")
    legend_below(ax)
    return ax
