"""C1: a thought as compressor of its context (Thinking as Compression, 2605.28713), on the `recall` world.

1. The thinker reads facts and a question that needs two of them, and thinks. Its thought stands in for the facts in the prompt
   of another model, the answerer, which then reasons and answers.
2. Thoughts leak: the whole thought, the thought without its answer line, only the facts it recalled, and the thought without
   any sentence that holds the answer. Leaks alone: the answer line, and nothing.
3. Against each of the middle two: compressors of the context at the same number of the answerer's tokens (a random span, random
   facts, pruning by perplexity, the question's words, what the question explains, the first and the last facts). Where a
   thought is longer than its context the compressor keeps all of it.
4. The strongest compressor is picked on one half of the problems and compared on the other, problem by problem.
5. Where the answerer does no better with the context than without it, there is nothing to compress and no verdict.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from anchors.compression import compress_trace
from anchors.experiments.base import Claim, Evidence, Finding, Result, Setting, Verdict
from anchors.experiments.ladder import (
    ask,
    difference,
    distinct_problems,
    one_model_note,
    right_answers,
    rungs,
    unit_name,
    units,
)
from anchors.experiments.verdicts import mean_finding, superior
from anchors.interventions import delete, keep, leak, strip_answer
from anchors.lab.worlds.recall import Problem, RecallWorld
from anchors.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from anchors.models.lens import LensModel

CLAIM: Final = Claim(
    id="C1",
    title="Thinking compresses its context",
    statement="A thought, without any training for it, hands another model more of its context than a compressor of equal length.",
    source="2605.28713",
    outcome="the answerer's accuracy with the thought less its answer line, minus that with the strongest equally long "
    "compression of the context, paired by problem",
    margin=None,
    rule="holds: the interval lies above 0; fails: below 0; inconclusive if neither, or if the answerer does no better with the "
    "context than without it",
    shows="whether a thought carries the context's content beyond its answer line better than compressors that see no answer",
    does_not_show="that it does not answer: the last fact it recalls holds the answer too, so the arm without any mention stands "
    "beside; nor anything about thinkers trained to compress",
)
THINKER, ANSWERER = "mini-recall", "mini-recall-b"
THOUGHT, STRIPPED, FACTS, SILENT = "thought", "thought, no answer line", "facts of the thought", "thought, no mention"
FULL, NOTHING, LINE, OWN = "full context", "nothing", "answer line only", "as the answerer's own thought"
GATE: Final = f"{FULL} - {NOTHING}"
METHODS: Final = {
    "random": False,
    "perplexity": False,
    "first": False,
    "last": False,
    "bm25": True,
    "contrastive_perplexity": True,
}
"""Compressors of the context, and whether they see the question."""
SPAN: Final = "random span"
OPENING: Final = "Facts:"


class Case(NamedTuple):
    """A problem as the arms need it: its question alone, its facts as a trace, and the thinker's thought as one."""

    problem: Problem
    question: str
    context: Trace
    thought: Trace


def run(setting: Setting) -> Evidence:
    """Think, hand over every arm, and compare with compressors of equal length."""
    from anchors.lab.recipes import LADDER

    world = LADDER[THINKER].program
    assert isinstance(world, RecallWorld)
    problems = distinct_problems(world, setting.pick(tiny=6, quick=200, full=400), seed=setting.seed)
    pairs = [(r[THINKER], r[ANSWERER]) for r in rungs(setting, {n: LADDER[n] for n in (THINKER, ANSWERER)})]
    right, tokens, thinks = [], [], []
    for thinker, answerer in pairs:
        cases = cases_of(world, problems, thinker)
        thinks.append(np.mean([c.thought.answer == world.gold(c.problem) for c in cases]))
        given = arms_of(cases, answerer, seed=setting.seed)
        prompts = [prompt for arm in given.values() for prompt in arm]
        answers = ask(answerer, prompts, seed=setting.seed).answers
        judged = right_answers(world, [*problems] * len(given), answers)[:, 0].reshape(len(given), len(problems))
        right.append(dict(zip(given, judged.astype(float), strict=True)))
        tokens.append({arm: _lengths(cases, given[arm], answerer) for arm in given})
    shares = (
        f"thinker {np.mean(thinks):.2f}, answerer with the full context {np.mean([r[FULL].mean() for r in right]):.2f}"
    )
    return evidence_of(right, tokens, notes=(f"right answers (1.00 possible): {shares}", one_model_note(setting)))


def cases_of(world: RecallWorld, problems: Sequence[Problem], thinker: LensModel) -> list[Case]:
    """Let the thinker think about every problem, near-greedily."""
    bare, prompts = replace(world, context=False), [world.prompt(p) for p in problems]
    cases = []
    for problem, prompt, row in zip(problems, prompts, ask(thinker, prompts).texts, strict=True):
        facts = [f"{key} gives {value}." for key, value in problem[0]]
        context = Trace.from_text(OPENING, f" {' '.join(facts)}", sentences=facts, answer=world.gold(problem))
        text = row[0] if row[0].split("</think>")[0].strip() else f"...{row[0]}"  # a thinker may have thought nothing
        thought = Trace.from_text(prompt, text, target=world.gold(problem))
        cases.append(Case(problem, bare.prompt(problem), context, thought))
    return cases


def arms_of(cases: Sequence[Case], answerer: LensModel, *, seed: int = 0) -> dict[str, list[str]]:
    """The answerer's prompts in every arm."""
    texts: dict[str, list[str]] = {NOTHING: [""] * len(cases), FULL: [c.context.reasoning for c in cases]}
    texts |= {name: [cut(c).reasoning for c in cases] for name, cut in _CUTS.items()}
    texts[LINE] = [_answer_line(c.thought) for c in cases]
    for arm in (STRIPPED, FACTS):
        limits = [_size(text, answerer) for text in texts[arm]]
        for method in (*METHODS, SPAN):
            short = [compressed(c, limit, method, answerer, seed) for c, limit in zip(cases, limits, strict=True)]
            texts[f"{method}, as long as: {arm}"] = short
    prompts = {arm: [_prompt(c, text) for c, text in zip(cases, row, strict=True)] for arm, row in texts.items()}
    return prompts | {OWN: [c.question + _without_line(c).reasoning for c in cases]}


def _without_line(case: Case) -> Trace:
    """The thought without the last sentence that states its answer."""
    said = np.flatnonzero(leak(case.thought))
    return delete(case.thought, said[-1:].tolist())


def _recalled(case: Case) -> Trace:
    """The sentences of the thought that stand in the context word for word."""
    facts = {s.text for s in case.context.sentences}
    return keep(case.thought, [s.index for s in case.thought.sentences if s.text in facts])


_CUTS: Final = {
    THOUGHT: lambda case: case.thought,
    STRIPPED: _without_line,
    FACTS: _recalled,
    SILENT: lambda case: strip_answer(case.thought),
}


def _answer_line(thought: Trace) -> str:
    said = np.flatnonzero(leak(thought))
    return thought.sentences[int(said[-1])].text if len(said) else ""


def _prompt(case: Case, text: str) -> str:
    """The question under a text in place of its facts; alone where there is none."""
    return f"{OPENING} {text.strip()} {case.question}" if text.strip() else case.question


def _size(text: str, model: LensModel) -> int:
    return len(model.encode(text.strip()).ids) if text.strip() else 0


def compressed(case: Case, limit: int, method: str, answerer: LensModel, seed: int) -> str:
    """The context cut to at most `limit` of the answerer's tokens by one method; all of it where that fits."""
    size = _size(case.context.reasoning, answerer)
    if limit >= size or limit == 0:
        return case.context.reasoning if limit else ""
    if method == SPAN:
        return _span(case.context, limit, answerer, random.Random(f"{seed} {case.question} {limit}"))
    trace = replace(case.context, prompt=case.question, id="") if METHODS[method] else case.context
    return compress_trace(trace, method=method, budget=limit / size, reader=answerer, seed=seed).trace.reasoning


def _span(context: Trace, limit: int, answerer: LensModel, rng: random.Random) -> str:
    """Consecutive facts from a random one on, as many as fit; earlier ones where the end comes first."""
    first = rng.randrange(len(context))
    kept: list[int] = []
    for i in (*range(first, len(context)), *range(first - 1, -1, -1)):
        if _size(keep(context, [*kept, i]).reasoning, answerer) > limit:
            break
        kept.append(i)
    return keep(context, kept).reasoning


def _lengths(cases: Sequence[Case], prompts: Sequence[str], answerer: LensModel) -> float:
    """Mean tokens of what stands beside the question."""
    extra = [_size(prompt, answerer) - _size(c.question, answerer) for prompt, c in zip(prompts, cases, strict=True)]
    return float(np.mean(extra))


Arms = dict[str, np.ndarray]


def evidence_of(right: Sequence[Arms], tokens: Sequence[dict[str, float]], *, notes: tuple[str, ...] = ()) -> Evidence:
    """Findings from right answers [problem] of every arm, one dictionary a rung, and the mean tokens of every arm."""

    def per(arm: str) -> list[np.ndarray]:
        return [r[arm] for r in right]

    pairs = ((FULL, NOTHING), (THOUGHT, FULL), (STRIPPED, FULL), (LINE, NOTHING), (SILENT, NOTHING), (OWN, NOTHING))
    findings = [_against_strongest(right, STRIPPED), _against_strongest(right, FACTS)]
    findings += [difference(f"{a} - {b}", per(a), per(b)) for a, b in pairs]
    rows = [
        {
            "arm": arm,
            "accuracy": float(np.mean([r.mean() for r in per(arm)])),
            "tokens": float(np.mean([t[arm] for t in tokens])),
        }
        for arm in right[0]
    ]
    kept = next(row["tokens"] for row in rows if row["arm"] == STRIPPED) / max(
        1e-9, next(row["tokens"] for row in rows if row["arm"] == FULL)
    )
    said = f"the thought without its answer line has {kept:.2f} of the tokens of its context"
    return Evidence(tuple(findings), {"arms": rows}, (*notes, said), {})


def _against_strongest(right: Sequence[Arms], arm: str) -> Finding:
    """The arm less the strongest of its equally long compressors, which is picked on the other half of the problems."""
    gains = []
    for arms in right:
        rivals = np.array([row for name, row in arms.items() if name.endswith(f"as long as: {arm}")])
        gain = np.empty(rivals.shape[1])
        for half in (0, 1):
            best = rivals[:, 1 - half :: 2].mean(1).argmax()
            gain[half::2] = arms[arm][half::2] - rivals[best, half::2]
        gains.append(gain)
    return mean_finding(f"{arm} - strongest compressor", units(gains), of=unit_name(gains), unit="of problems")


def judge(evidence: Evidence) -> Verdict:
    """The stripped thought must beat the strongest compressor, where the context helps the answerer at all."""
    gate = evidence.finding(GATE)
    if not gate.low > 0:
        return Verdict("inconclusive", f"the answerer does no better with the context than without it ({gate})")
    return superior(evidence.primary)


def draw(result: Result, ax: Axes | None = None) -> Axes:
    """Accuracy of the answerer against the tokens it was handed, one point an arm."""
    from anchors.plotting.style import INK, OPPOSES, QUIET, SUPPORTS, axes_of, legend_below, words

    ax = axes_of(ax, height=2.3)
    named = {FULL: INK, THOUGHT: SUPPORTS, STRIPPED: SUPPORTS, FACTS: SUPPORTS, LINE: OPPOSES, SILENT: OPPOSES}
    marks = {FULL: "s", THOUGHT: "D", STRIPPED: "o", FACTS: "^", LINE: "v", SILENT: "x"}
    rows = result.evidence.tables["arms"]
    rivals = [row for row in rows if "as long as" in row["arm"]]
    ax.plot([r["tokens"] for r in rivals], [r["accuracy"] for r in rivals], ".", color=QUIET, ms=4, label="compressors")
    for row in rows:
        if row["arm"] in named:
            arm = row["arm"]
            ax.plot(row["tokens"], row["accuracy"], marks[arm], color=named[arm], ms=4, label=arm)
    ax.set_ylim(-0.03, 1.03)
    words(ax, x="tokens handed to the answerer", y="right answers")
    ax.set_title(f"C1: {result.verdict.word}", fontsize=7, loc="left")
    legend_below(ax)
    return ax
