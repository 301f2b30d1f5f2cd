"""C8: few sentences carry the answer, and planning and doubting are among them (Thought Anchors, 2506.19143).

1. The model reasons on problems of the `expression` world; n rollouts are drawn at every boundary of its traces.
2. Importance of sentence i is p(i + 1) - p(i), p the share of rollouts that reach the trace's own answer. It has a sign and no
   bias; |importance| and KL are above 0 by chance alone.
3. Sparsity: Gini of |importance| less that of fresh rollouts with all importance zero at the same n; and, without any null,
   the largest fifth by one half of the rollouts against the rest, both measured on the other half.
4. Category contrast: planning and doubt against the rest, in a regression within traces on relative position, its square and
   headroom. Headroom is read from the half of the rollouts that the importance is not. Whole traces are left out in turn.
5. The same figures from exact truth stand beside them, without rollouts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool, Float

from anchors.experiments.base import Claim, Evidence, Finding, Result, Setting, Verdict
from anchors.experiments.verdicts import both, mean_finding, superior
from anchors.lab.truth import exact_headroom, exact_resampling_importance
from anchors.lab.worlds import World, load_world, read_moves
from anchors.outcomes import judge as reached
from anchors.rollouts import Rollouts
from anchors.stats import entropy
from anchors.taxonomy import label_by_rule
from anchors.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLAIM = Claim(
    id="C8",
    title="Few sentences are anchors, and planning and doubt are among them",
    statement="Importance is concentrated in few sentences, above all in plan generation and uncertainty management.",
    source="2506.19143",
    outcome="Gini of |importance| less its value when every importance is zero, a trace; and the importance of planning and "
    "doubt over other sentences at equal position and headroom",
    margin=None,
    rule="holds: both intervals lie above 0; fails: one lies below; else inconclusive",
    shows="whether importance is more concentrated than sampling noise, and whether category says more than place and headroom",
    does_not_show="that planning matters in language models: the `expression` world plants its decision in the plan",
)

GINI: Final = "Gini above noise"
HELD_OUT: Final = "largest fifth over the rest, held out"
PLAIN: Final = "planning and doubt over the rest"
ADJUSTED: Final = "planning and doubt over the rest at equal position and headroom"
ANCHOR_CATEGORIES: Final = ("plan_generation", "uncertainty_management")
SHARE: Final = 0.2
"""The share of a trace's sentences whose importance is held against the rest."""


@dataclass(frozen=True)
class Profile:
    """One trace: importance by the even and by the odd rollouts, and headroom by each; `n` rollouts a boundary in all."""

    trace: Trace
    categories: tuple[str, ...]
    importance: Float[np.ndarray, "half sentence"]
    headroom: Float[np.ndarray, "half sentence"]
    rate: float
    n: int

    @property
    def planned(self) -> Bool[np.ndarray, " sentence"]:
        return np.array([c in ANCHOR_CATEGORIES for c in self.categories])


def run(setting: Setting) -> Evidence:
    """Write traces, draw their rollouts, and measure; with `setting.out` the rollouts are kept and continued."""
    from anchors.resampling import resample_traces, write_traces

    model, world = setting.model("lab/reasoner"), load_world("expression")
    rng = random.Random(f"C8 {setting.seed}")
    problems = [world.problem(rng) for _ in range(setting.pick(tiny=3, quick=40, full=80))]
    prompts, gold = [world.prompt(p) for p in problems], [world.gold(p) for p in problems]
    traces = write_traces(prompts, model, targets=gold, seed=setting.seed)
    kept = [t for t in {t.id: t for t in traces}.values() if t.answer is not None and len(t) > 3]
    out = None if setting.out is None else setting.folder(f"C8-{setting.preset}-rollouts")
    n = setting.pick(tiny=6, quick=20, full=100)
    runs = resample_traces(kept, model, n=n, seed=setting.seed, out=out, progress=setting.progress)
    profiles = [read_profile(r, categories_of(r.trace, world)) for r in runs]
    right = float(np.mean([t.answer == t.target for t in traces]))
    notes = (f"{model.name}: {right:.2f} right answers; {len(kept)} of {len(traces)} traces measured",)
    details = {"model": model.name, "n": n, "seed": setting.seed}
    return evidence_of(profiles, truth_of(kept, world), notes=notes, details=details, seed=setting.seed)


def read_profile(runs: Rollouts, categories: Sequence[str]) -> Profile:
    """Importance and headroom of every sentence by either half of the rollouts, for the trace's own answer.

    Raises:
        ValueError: the trace has no answer, or a boundary has fewer than four rollouts.
    """
    trace = runs.trace
    answers = [runs.answers(k) for k in range(len(trace) + 1)]
    if trace.answer is None or min(map(len, answers)) < 4:
        raise ValueError(
            f"trace {trace.id} needs an answer and at least 4 rollouts a boundary; draw more with resample"
        )
    rates, headroom = [], []
    for half in (0, 1):
        rows = [row[half::2] for row in answers]
        rates.append([float(reached(row, trace.answer).mean()) for row in rows])
        headroom.append([float(entropy(np.unique(row, return_counts=True)[1])) for row in rows[:-1]])
    p = np.array(rates)
    return Profile(
        trace, tuple(categories), np.diff(p, axis=1), np.array(headroom), float(p.mean()), min(map(len, answers))
    )


def categories_of(trace: Trace, world: World | None) -> tuple[str, ...]:
    """The categories a world gives the sentences of a trace on its program, else those of `label_by_rule`."""
    try:
        moves = [] if world is None else read_moves(world, world.parse(trace.prompt), [s.text for s in trace.sentences])
    except ValueError:
        moves = []
    return tuple(m.category for m in moves) if len(moves) == len(trace) else tuple(label_by_rule(trace))


def truth_of(traces: Sequence[Trace], world: World) -> list[Profile]:
    """The exact profiles of the traces that are on the world's program; both halves are equal, and `n` is 0."""
    found = []
    for trace in traces:
        problem = world.parse(trace.prompt)
        moves = read_moves(world, problem, [s.text for s in trace.sentences])
        if len(moves) == len(trace) and trace.answer is not None:
            states = [world.start(problem), *(m.state for m in moves)]
            exact = exact_resampling_importance(world, states, trace.answer)
            rows = np.stack([exact, exact]), np.stack([exact_headroom(world, states)] * 2)
            found.append(Profile(trace, tuple(m.category for m in moves), *rows, float("nan"), 0))
    return found


def evidence_of(
    profiles: Sequence[Profile],
    truth: Sequence[Profile] = (),
    *,
    notes: tuple[str, ...] = (),
    details: dict[str, Any] | None = None,
    seed: int = 0,
) -> Evidence:
    """What measured profiles say, from any model's rollouts, with exact truth beside it where there is some."""
    measured, exact = _findings(profiles, "", seed), _findings(truth, "exact: ", seed) if truth else ()
    tables = {
        "traces": [
            {"trace": p.trace.id, "sentences": len(p.trace), "gini": _gini(p), "above noise": _excess(p, seed)}
            for p in profiles
        ],
        "categories": _category_rows(profiles, truth),
    }
    share = (
        f"the largest fifth holds {_top_share(profiles):.2f} of all held-out importance, sentences being {SHARE:.2f}"
    )
    return Evidence((*measured, *exact), tables, (*notes, share), details or {})


def _findings(profiles: Sequence[Profile], prefix: str, seed: int) -> tuple[Finding, ...]:
    sparsity = [_gini(p) if prefix else _excess(p, seed) for p in profiles]
    return (
        mean_finding(f"{prefix}Gini" if prefix else GINI, sparsity, of="traces", unit="Gini"),
        mean_finding(prefix + ADJUSTED, adjusted(profiles), of="traces", unit="of probability"),
        mean_finding(prefix + PLAIN, [plain_contrast(p) for p in profiles], of="traces", unit="of probability"),
        mean_finding(prefix + HELD_OUT, [held_out(p) for p in profiles], of="traces", unit="of probability"),
    )


def _gini(profile: Profile) -> float:
    return float(gini(np.abs(profile.importance.mean(0))))


def _excess(profile: Profile, seed: int) -> float:
    return _gini(profile) - null_gini(len(profile.trace), profile.n, profile.rate, seed=seed)


def gini(values: Float[np.ndarray, "*draw sentence"]) -> Any:
    """Gini coefficient of values >= 0: sum_ij |x_i - x_j| / (2 n sum_i x_i); 0 for equal values, NaN for none above 0.

    >>> float(gini(np.array([1.0, 1.0]))), float(gini(np.array([0.0, 0.0, 0.0, 1.0])))
    (0.0, 0.75)
    """
    x, n = np.sort(values, axis=-1), values.shape[-1]
    total = x.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 2 * (x @ np.arange(1, n + 1)) / (n * total) - (n + 1) / n, np.nan)[()]


def null_gini(sentences: int, n: int, rate: float, *, draws: int = 300, seed: int = 0) -> float:
    """Mean Gini of |importance| where all S + 1 boundaries reach the answer at one rate, from n fresh rollouts each.

    The rate is kept off 0 and 1 by half a rollout, where nothing would vary.
    """
    rng, rate = np.random.default_rng(seed), min(max(rate, 0.5 / n), 1 - 0.5 / n)
    return float(np.nanmean(gini(np.abs(np.diff(rng.binomial(n, rate, (draws, sentences + 1)) / n, axis=1)))))


def held_out(profile: Profile) -> float:
    """Mean importance of the largest fifth less that of the rest: picked and signed by one half, measured on the other.

    Averaged over both directions; unbiased, and 0 on average where all importance is zero.
    """
    found = []
    for mine, other in (profile.importance, profile.importance[::-1]):
        order, signed = np.argsort(-np.abs(mine), kind="stable"), np.sign(mine) * other
        k = _fifth(len(mine))
        found.append(signed[order[:k]].mean() - signed[order[k:]].mean())
    return float(np.mean(found))


def _top_share(profiles: Sequence[Profile]) -> float:
    """Share of all held-out signed importance that lies in the fifth picked by the other half, over all traces."""
    top = total = 0.0
    for p in profiles:
        for mine, other in (p.importance, p.importance[::-1]):
            signed, order = np.sign(mine) * other, np.argsort(-np.abs(mine), kind="stable")
            top, total = top + signed[order[: _fifth(len(mine))]].sum(), total + signed.sum()
    return float(top / total) if total > 0 else float("nan")


def _fifth(sentences: int) -> int:
    return max(1, round(SHARE * sentences))


def plain_contrast(profile: Profile) -> float:
    """Mean importance of planning and doubt less that of the other sentences; NaN where a trace has only one kind."""
    values, planned = profile.importance.mean(0), profile.planned
    if planned.all() or not planned.any():
        return float("nan")
    return float(values[planned].mean() - values[~planned].mean())


def adjusted(profiles: Sequence[Profile]) -> list[float]:
    """Jackknife pseudo-values, one a trace, of the regression coefficient of planning and doubt.

    importance = trace + b planned + c position + d position^2 + e headroom by least squares over both halves; with b_(-t)
    from all traces but t, pseudo-value t is G b - (G - 1) b_(-t). Their t interval is that of the cluster jackknife.
    """
    blocks = [_within(p) for p in profiles]
    blocks = [b for b in blocks if np.ptp(b[:, 1]) > 0]
    if len(blocks) < 3:
        return []
    moments = np.stack([b.T @ b for b in blocks])
    whole, size = _coefficient(moments.sum(0)), len(blocks)
    return [size * whole - (size - 1) * _coefficient(moments.sum(0) - m) for m in moments]


def _within(profile: Profile) -> Float[np.ndarray, "row column"]:
    """Importance, planned, position, position squared, headroom of the other half; less the means of the trace."""
    place = np.linspace(-1, 1, len(profile.trace))
    halves = zip(profile.importance, profile.headroom[::-1], strict=True)
    rows = [np.stack([value, profile.planned, place, place**2, room], axis=1) for value, room in halves]
    return np.concatenate([r - r.mean(0) for r in rows])


def _coefficient(moments: Float[np.ndarray, "column column"]) -> float:
    """The coefficient of the first regressor, from the products of centred columns."""
    return float(np.linalg.lstsq(moments[1:, 1:], moments[1:, 0], rcond=None)[0][0])


def _category_rows(profiles: Sequence[Profile], truth: Sequence[Profile]) -> list[dict[str, Any]]:
    rows = []
    for category in sorted({c for p in profiles for c in p.categories}):
        own, exact = _of_category(profiles, category), _of_category(truth, category)
        found = mean_finding(category, own, of="traces", unit="of probability")
        row = {
            "category": category,
            "importance": found.effect,
            "low": found.low,
            "high": found.high,
            "traces": found.n,
        }
        rows.append(row | {"exact": float(np.mean(exact)) if exact else float("nan")})
    return rows


def _of_category(profiles: Sequence[Profile], category: str) -> list[float]:
    """Mean importance of a category's sentences in every trace that has some."""
    masks = [(p, np.array([c == category for c in p.categories])) for p in profiles]
    return [float(p.importance.mean(0)[mask].mean()) for p, mask in masks if mask.any()]


def judge(evidence: Evidence) -> Verdict:
    """Both the Gini above noise and the adjusted contrast must lie above 0."""
    return both(superior(evidence.finding(GINI)), superior(evidence.finding(ADJUSTED)))


def draw(result: Result, ax: Axes | None = None) -> Axes:
    """Mean importance of every category with its interval, exact truth as a tick."""
    from anchors.plotting.palette import SHORT
    from anchors.plotting.style import INK, axes_of, colour, words

    rows = sorted(result.evidence.tables["categories"], key=lambda row: row["importance"])
    ax = axes_of(ax, height=2.2)
    for y, row in enumerate(rows):
        low, high = (row[k] if row[k] is not None else row["importance"] for k in ("low", "high"))
        ax.plot([low, high], [y, y], color=colour(row["category"]), lw=1.2)
        ax.plot(row["importance"], y, "o", color=colour(row["category"]), ms=3)
        if row["exact"] is not None:
            ax.plot(row["exact"], y, "|", color=INK, ms=7)
    ax.axvline(0, color=INK, lw=0.5)
    ax.set_yticks(range(len(rows)), [f"{SHORT.get(r['category'], r['category'])} ({r['traces']})" for r in rows])
    words(ax, x="importance of a sentence (probability; tick: exact)", y="")
    ax.set_title(f"C8: {result.verdict.word}", fontsize=7, loc="left")
    return ax
