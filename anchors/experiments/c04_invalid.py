"""C4, Invalid Logic (2307.10573): traces whose steps are wrong teach nearly as much as valid ones.

1. Models of one recipe, trained on valid traces, on traces in which each computation is replaced by a wrong result with some
   rate (the answer stays that of the valid trace), and on answers only. All answer the same problems.
2. Retention at a rate: (invalid - answer only) / (valid - answer only), the share of the gain of traces that is left.
3. The denominator must be shown to be positive; Fieller's interval, with a bootstrap over units beside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from anchors.experiments.base import Claim, Evidence, Finding, Result, Setting, Verdict
from anchors.experiments.ladder import (
    Asked,
    ask,
    competence,
    difference,
    distinct_problems,
    one_model_note,
    right_answers,
    rungs,
    unit_name,
    units,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anchors.lab.train import Recipe
    from anchors.stats import Ratio

LEAST: Final = 0.8
CLAIM: Final = Claim(
    id="C4",
    title="invalid logic",
    statement="Traces with wrong steps and right answers keep at least four fifths of the gain of valid traces.",
    source="2307.10573",
    outcome="share of the gain retained, (invalid - answer only) / (valid - answer only), where every step is invalid",
    margin=LEAST,
    rule="holds: the 95 % interval of the share lies at or above .8; fails: it lies below .8; inconclusive: it holds .8, or the "
    "gain of valid traces is not shown to be above 0",
    shows="how much of the gain a small model keeps when it is trained on traces whose computations are wrong",
    does_not_show="what wrong demonstrations do in a prompt (2307.10573 prompts a large model), or traces without any right "
    "sentence: here results are wrong, while the expressions restated between them stay right",
)
VALID, NONE, INVALID = "mini-normal", "mini-answer-only", "mini-invalid"
SHIPPED: Final[Mapping[float, str]] = {0.5: "mini-invalid-50", 1.0: INVALID}
TRAINED: Final = (0.25, 0.5, 0.75, 1.0)
_STEP: Final = re.compile(r"(\d) ([-+*]) (\d) = (\d)\.")


def _arms(setting: Setting) -> dict[str, Recipe]:
    """The recipes: valid, all steps invalid (so that `--model` and `--reader` name these two), other rates, answers only."""
    from anchors.lab.recipes import LADDER

    rates = TRAINED if setting.preset == "full" else tuple(SHIPPED)
    invalid = {_name(rate): replace(LADDER[INVALID], regime=f"invalid({rate})") for rate in sorted(rates, reverse=True)}
    return {VALID: LADDER[VALID], **invalid, NONE: LADDER[NONE]}


def _name(rate: float) -> str:
    return SHIPPED.get(rate, f"mini-invalid-{100 * rate:.0f}")


def run(setting: Setting) -> Evidence:
    """Ask every arm the same problems; retention at the highest rate comes first."""
    arms = _arms(setting)
    world = arms[VALID].program
    problems = distinct_problems(world, setting.pick(tiny=24, quick=1500, full=1000), seed=setting.seed)
    prompts = [world.prompt(problem) for problem in problems]
    ladder = rungs(setting, arms)
    asked = {arm: [ask(rung[arm], prompts, seed=setting.seed) for rung in ladder] for arm in arms}
    right = {arm: [right_answers(world, problems, a.answers)[:, 0] for a in per] for arm, per in asked.items()}
    rates = [rate for rate in TRAINED[::-1] if _name(rate) in arms]
    kept = [_retention(rate, right) for rate in rates]
    findings = (
        *(fieller for fieller, _ in kept),
        *(bootstrap for _, bootstrap in kept),
        difference("valid - answer only", right[VALID], right[NONE]),
        *(difference(f"invalid({rate:g}) - valid", right[_name(rate)], right[VALID]) for rate in rates),
    )
    rows = [
        _row(rate, arm, right[arm], asked[arm]) for rate, arm in ((0.0, VALID), *((r, _name(r)) for r in rates[::-1]))
    ]
    rows.append(_row(None, NONE, right[NONE], asked[NONE]))
    written = ", ".join(f"{row['arm']} {row['wrong steps written']:.2f}" for row in rows[:-1])
    notes = (competence(right), f"share of wrong computations each arm writes, read near-greedily: {written}")
    return Evidence(findings, {"arms": rows}, (*notes, one_model_note(setting)), {"problems": len(problems)})


def _gains(rate: float, right: Mapping[str, Sequence[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """What the arm of a rate, and the valid one, gain over answers only: one value a unit each."""
    none = right[NONE]
    invalid, valid = (
        units([a.astype(float) - b for a, b in zip(right[arm], none, strict=True)]) for arm in (_name(rate), VALID)
    )
    return invalid, valid


def _retention(rate: float, right: Mapping[str, Sequence[np.ndarray]]) -> tuple[Finding, Finding]:
    """The share of the gain retained at a rate, with Fieller's interval and with a bootstrap over units."""
    from anchors.stats import fieller, paired_ratio_bootstrap

    name, gains, of = f"retention at rate {rate:g}", _gains(rate, right), unit_name(right[VALID])
    exact, drawn = _share(name, fieller(*gains), of), _share(f"{name}, bootstrap", paired_ratio_bootstrap(*gains), of)
    return exact, drawn


def _share(name: str, found: Ratio, of: str) -> Finding:
    return Finding(name, found.value, found.low, found.high, found.traces, of, "of the gain")


def _row(rate: float | None, arm: str, right: Sequence[np.ndarray], asked: Sequence[Asked]) -> dict[str, Any]:
    """Accuracy of an arm, and how many of the computations it writes are wrong."""
    steps = [_STEP.findall(row[0]) for a in asked for row in a.texts]
    wrong = [_value(a, op, b) != int(r) for found in steps for a, op, b, r in found]
    return {
        "rate": rate,
        "arm": arm,
        "accuracy": float(np.mean([x.mean() for x in right])),
        "wrong steps written": float(np.mean(wrong)) if wrong else math.nan,
        "tokens": float(np.mean([a.tokens.mean() for a in asked])),
    }


def _value(a: str, op: str, b: str) -> int:
    from anchors.lab.worlds.expression import apply

    return apply(int(a), op, int(b))


def judge(evidence: Evidence) -> Verdict:
    """The interval of the retained share against four fifths; no verdict without a gain."""
    gain, kept = evidence.finding("valid - answer only"), evidence.primary
    if not gain.low > 0:
        return Verdict("inconclusive", f"no gain of valid traces is shown ({gain}), so no share of it can be")
    said = f"{kept.effect:.2f} [{kept.low:.2f}, {kept.high:.2f}] of the gain is kept"
    if kept.low >= LEAST:
        return Verdict("holds", f"{said}, at least {LEAST:g}")
    if kept.high < LEAST:
        return Verdict("fails", f"{said}, less than {LEAST:g}")
    return Verdict("inconclusive", f"{said}; the interval holds {LEAST:g}, or there is none")


def draw(result: Result, ax: Axes | None = None) -> Axes:
    """The share of the gain retained, by the rate of invalid steps."""
    from anchors.plotting.style import INK, QUIET, axes_of, words

    ax = axes_of(ax, height=2.0)
    pattern = re.compile(r"retention at rate ([\d.]+)")
    kept = [(float(m[1]), f) for f in result.evidence.findings if (m := pattern.fullmatch(f.name))]
    ax.axhline(LEAST, color=QUIET, lw=0.6, ls="--")
    ax.plot([0], [1], "o", ms=3, color=QUIET)
    for rate, found in kept:
        ax.errorbar(
            rate, found.effect, [[found.effect - found.low], [found.high - found.effect]], fmt="o", ms=4, color=INK
        )
    words(ax, x="rate of invalid steps in training", y="share of the gain retained")
    return ax
