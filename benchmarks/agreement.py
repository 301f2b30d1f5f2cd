"""Do two models find the same kinds of sentence important? The released rollouts of two models on the same problems.

1. Importance of a category: the mean over traces that have it of the trace's mean over its sentences of that category.
2. Over categories: Pearson's and Spearman's correlation of the two models' importances, with an interval that redraws
   problems, beside the figures of all 40 traces (shared/reference/methods.md, section 3).
3. Within a problem: Spearman over categories between the two models' traces of that problem, its mean over problems,
   and its ceiling sqrt(r_AA r_BB). The sentences of every category of every trace are split in two random halves, many
   times; Spearman and Brown's formula makes reliabilities of the mean correlation of the halves.
4. Null: the categories of every trace permuted among its sentences; both statistics of each draw give the p-values.
5. What the data cannot say is printed with the numbers: no model ever read the other's sentences.
Each model is measured on its own text, so writer and reader can change places without changing any agreement.
"""

from __future__ import annotations

import argparse
import functools
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from anchors.datasets import Released, find_rollouts, read_rollouts_folder
from anchors.stats import Interval, cluster_bootstrap, holm_adjusted, measured, spearman, spearman_brown
from anchors.taxonomy import CATEGORIES

SHARED = Path(os.environ.get("ANCHORS_SHARED", Path(__file__).parents[2] / "shared"))
WRITER, READER = "qwen-14b", "llama-8b"
TAGS = list(CATEGORIES)

COLUMNS = {
    "counterfactual_importance_kl": "counterfactual KL",
    "resampling_importance_kl": "resampling KL",
    "forced_importance_kl": "forced KL",
    "counterfactual_importance_accuracy": "counterfactual acc",
    "resampling_importance_accuracy": "resampling acc",
    "forced_importance_accuracy": "forced acc",
}
"""The compared columns, KL in nats and accuracy as a signed difference of probabilities, and what tables call them."""

PUBLISHED = {
    "counterfactual_importance_kl": (0.89, 0.90),
    "resampling_importance_kl": (0.94, 0.98),
    "forced_importance_kl": (0.98, 1.00),
    "counterfactual_importance_accuracy": (-0.70, -0.79),
}
"""Pearson and Spearman over categories from all 40 released traces (shared/reference/methods.md, section 3)."""

PUBLISHED_WITHIN = {"counterfactual_importance_kl": 0.35, "resampling_importance_kl": 0.18}
"""Spearman over categories within a problem, sentences before convergence only, n = 17 (same place)."""

STATISTICS = ("Pearson over categories", "Spearman over categories", "mean Spearman within problems")


class Labelled(NamedTuple):
    """The measured values of one column of one trace, and the category of each as an index into `TAGS`."""

    values: Float[np.ndarray, " sentence"]
    codes: Int[np.ndarray, " sentence"]


class Both(NamedTuple):
    """The traces that two models wrote on one problem."""

    writer: Sequence[Labelled]
    reader: Sequence[Labelled]


class Within(NamedTuple):
    """Agreement in one problem, over all categories that both models have and over those that both can split.

    `halves` are the mean correlations of random halves of the writer's and of the reader's sentences.
    """

    categories: int
    agreement: float
    split_categories: int
    split_agreement: float
    halves: Float[np.ndarray, " model"]


class Null(NamedTuple):
    """A statistic among its permutations: their mean and 95 % range, and the share as large (or as extreme)."""

    observed: float
    mean: float
    low: float
    high: float
    greater_p: float
    two_sided_p: float


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the importance of categories between two released models.")
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "math_rollouts")
    parser.add_argument("--splits", type=int, default=200, help="random halves a problem and model")
    parser.add_argument("--permutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folders = find_rollouts(args.data) if args.data.exists() else []
    if not folders:
        print(f"agreement: skipped, no released rollouts at {args.data} (set ANCHORS_SHARED or give --data)")
        return
    stored = [read_rollouts_folder(folder, compat="paper") for folder in folders]
    clean = [read_rollouts_folder(folder) for folder in folders]
    if not by_problem(clean, next(iter(COLUMNS))):
        print(f"agreement: skipped, no problem at {args.data} has traces of both {WRITER} and {READER}")
        return
    _print_data(clean, args.data)
    _print_means(clean)
    _print_over_categories(stored, clean, args.seed)
    _print_within(clean, args.splits, args.seed)
    _print_null(clean, args.permutations, args.seed)
    _print_limits(len(by_problem(clean, next(iter(COLUMNS)))))


def by_problem(released: Sequence[Released], column: str) -> dict[str, Both]:
    """The traces of every problem that both models have, by problem number."""
    sides: dict[str, tuple[list[Labelled], list[Labelled]]] = {}
    for i, name in enumerate((WRITER, READER)):
        for r in written_by(released, name):
            sides.setdefault(str(r.trace.meta["problem"]), ([], []))[i].append(label(r, column))
    return {problem: Both(*both) for problem, both in sorted(sides.items()) if all(both)}


def written_by(released: Sequence[Released], name: str) -> list[Released]:
    """The traces of the model whose name holds `name`."""
    return [r for r in released if name in str(r.trace.meta["model"])]


def label(released: Released, column: str) -> Labelled:
    """One column of one trace without the sentences that were not measured or have no category."""
    values = released.columns[column]
    codes = np.array([TAGS.index(tag) if tag in TAGS else -1 for tag in map(str, released.trace.categories or ())])
    kept = ~np.isnan(values) & (codes >= 0)
    return Labelled(values[kept], codes[kept])


def trace_means(trace: Labelled, *, least: int = 1) -> Float[np.ndarray, " category"]:
    """Mean value of every category in one trace; NaN for a category of fewer than `least` sentences."""
    n = np.bincount(trace.codes, minlength=len(TAGS))
    return np.where(n >= least, np.bincount(trace.codes, trace.values, len(TAGS)) / np.maximum(n, 1), np.nan)


def profile(rows: Sequence[Float[np.ndarray, " category"]]) -> Float[np.ndarray, " category"]:
    """Mean of trace means over the traces that have the category; NaN where none has."""
    stacked = np.array(rows)
    seen = ~np.isnan(stacked)
    return np.where(seen.any(0), np.where(seen, stacked, 0.0).sum(0) / np.maximum(seen.sum(0), 1), np.nan)


def profiles(both: Both, *, least: int = 1) -> Float[np.ndarray, "model category"]:
    """The two models' importances of the categories."""
    return np.stack([profile([trace_means(trace, least=least) for trace in side]) for side in both])


def pool(problems: Sequence[Both]) -> Both:
    """The traces of several problems as one set."""
    return Both([t for both in problems for t in both.writer], [t for both in problems for t in both.reader])


def pearson(x: Float[np.ndarray, " category"], y: Float[np.ndarray, " category"]) -> float:
    """Pearson's correlation of the pairs without a NaN; NaN with fewer than 4 pairs or a constant side."""
    x, y = np.stack([x, y])[:, ~np.isnan(x + y)]
    return float(np.corrcoef(x, y)[0, 1]) if len(x) >= 4 and np.ptp(x) > 0 and np.ptp(y) > 0 else np.nan


def over_categories(problems: Sequence[Both]) -> tuple[float, float]:
    """Pearson's and Spearman's correlation over categories between the two models, all traces pooled."""
    found = profiles(pool(problems))
    return pearson(*found), spearman(*found).value


def over_problems(
    problems: Sequence[Both], statistic: Callable[[Sequence[Both]], float], *, seed: int = 0, resamples: int = 1000
) -> Interval:
    """Percentile interval over redrawn problems; NaN with fewer than two. Equal draws are computed once."""
    if len(problems) < 2:
        return Interval(np.nan, np.nan)
    once = functools.cache(lambda picks: statistic([problems[i] for i in picks]))

    def redrawn(groups: list[np.ndarray]) -> float:
        return once(tuple(sorted(int(group[0]) for group in groups)))

    low, high = cluster_bootstrap([[i] for i in range(len(problems))], redrawn, resamples=resamples, seed=seed)
    return Interval(float(low), float(high))


def within_problem(both: Both, rng: np.random.Generator, splits: int) -> Within:
    """Agreement of one problem and what limits it.

    The ceiling is compared with the agreement of the same sentences: of categories that have two in a trace.
    """
    whole, split = profiles(both), profiles(both, least=2)
    shared = np.asarray(~np.isnan(split).any(0))
    halves = np.array([split_correlation(side, shared, rng, splits) for side in both])
    all_of, split_of = spearman(*whole), spearman(*split)
    return Within(all_of.n, all_of.value, split_of.n, split_of.value, halves)


def split_correlation(
    traces: Sequence[Labelled], shared: Bool[np.ndarray, " category"], rng: np.random.Generator, splits: int
) -> float:
    """Mean Spearman over the `shared` categories between random halves of one model's sentences of one problem."""
    found = np.full(splits, np.nan)
    for i in range(splits):
        means = np.stack([half_means(trace, rng) for trace in traces])
        a, b = (np.where(shared, profile(list(means[:, half])), np.nan) for half in (0, 1))
        found[i] = spearman(a, b).value
    return mean(found)


def half_means(trace: Labelled, rng: np.random.Generator) -> Float[np.ndarray, "half category"]:
    """Category means of two random halves of each category; NaN in both where it has one sentence.

    The odd sentence of a category goes to either half.
    """
    order = rng.permutation(len(trace.codes))
    order = order[np.argsort(trace.codes[order], kind="stable")]
    codes, values = trace.codes[order], trace.values[order]
    place = np.arange(len(codes)) - np.searchsorted(codes, codes)
    half = (place + rng.integers(2, size=len(TAGS))[codes]) % 2
    means = np.stack([trace_means(Labelled(values[half == h], codes[half == h])) for h in (0, 1)])
    return np.where(np.isnan(means).any(0), np.nan, means)


def mean(values: Sequence[float] | Float[np.ndarray, " any"]) -> float:
    """Mean of the measured values; NaN without any."""
    found = measured(values)
    return float(found.mean()) if len(found) else np.nan


def ceiling(halves: Float[np.ndarray, "problem model"]) -> float:
    """sqrt(r_AA r_BB) from half correlations averaged over problems; NaN unless all of them are above 0."""
    if not (halves > 0).all():
        return np.nan
    return float(np.sqrt(np.prod(spearman_brown(halves.mean(0)))))


def statistics(problems: Sequence[Both]) -> Float[np.ndarray, " statistic"]:
    """The three statistics in the order of `STATISTICS`."""
    return np.array([*over_categories(problems), mean([spearman(*profiles(both)).value for both in problems])])


def permuted(problems: Sequence[Both], rng: np.random.Generator) -> list[Both]:
    """The same values with the categories permuted within every trace of both models."""
    return [Both(*([Labelled(t.values, rng.permutation(t.codes)) for t in side] for side in both)) for both in problems]


def permutation_null(problems: Sequence[Both], *, permutations: int, seed: int = 0) -> list[Null]:
    """Every statistic among its permutations.

    p = (draws as large + 1) / (draws + 1); two-sided: twice the smaller tail, because the null need not be centred at
    0 (a category that only one trace has takes over the level of that trace). Undefined draws are left out.
    """
    rng = np.random.default_rng(seed)
    draws = np.array([statistics(permuted(problems, rng)) for _ in range(permutations)])
    return [_null(value, measured(draws[:, i])) for i, value in enumerate(statistics(problems))]


def _null(observed: float, draws: Float[np.ndarray, " draw"]) -> Null:
    if np.isnan(observed) or not len(draws):
        return Null(float(observed), *[np.nan] * 5)
    low, high = np.quantile(draws, [0.025, 0.975])
    tails = draws >= observed - 1e-9, draws <= observed + 1e-9
    greater, less = (float((tail.sum() + 1) / (len(draws) + 1)) for tail in tails)
    two_sided = min(1.0, 2 * min(greater, less))
    return Null(float(observed), float(draws.mean()), float(low), float(high), greater, two_sided)


def _print_data(released: Sequence[Released], data: Path) -> None:
    problems = by_problem(released, next(iter(COLUMNS)))
    print(f"agreement of category importance between two models, {len(released)} released traces ({data})")
    for name, role in ((WRITER, "writer"), (READER, "reader")):
        traces = written_by(released, name)
        words = ", ".join(f"{r.trace.meta['problem']} {r.trace.meta['base']} ({len(r.trace)})" for r in traces)
        print(f"  {role} {traces[0].trace.meta['model']!s:<30} {len(traces)} traces (sentences): {words}")
    print(f"  problems that both have: {len(problems)} ({', '.join(problems)})")
    _note(
        "The other way round (writer and reader exchanged) every agreement is the same number: correlation is symmetric "
        "and each model was measured on its own text only. The two reliabilities change places."
    )
    _note(
        "Unless said otherwise, sentences whose effect was not measured are left out (stored as zeros: the last "
        "sentence, and no rollout of other meaning). A positive accuracy difference supports the right answer."
    )


def _print_means(released: Sequence[Released]) -> None:
    print("\n1a. mean importance by category: mean over traces of trace means (KL in nats, acc = accuracy difference;")
    print("    sentences: all that carry the label, measured or not)")
    tables = {column: profiles(pool(list(by_problem(released, column).values()))) for column in COLUMNS}
    rows = []
    for i, tag in enumerate(TAGS):
        for side, name in enumerate((WRITER, READER)):
            sentences = sum((r.trace.categories or ()).count(tag) for r in written_by(released, name))
            cells = [f"{t[side, i]:.3f}" if c.endswith("kl") else f"{t[side, i]:+.4f}" for c, t in tables.items()]
            rows.append((tag if side == 0 else "", name, str(sentences), *cells))
    _print_table(("category", "model", "sentences", *COLUMNS.values()), rows, left=2)


def _print_over_categories(stored: Sequence[Released], clean: Sequence[Released], seed: int) -> None:
    print("\n1b. agreement over categories, all traces of the shared problems [bootstrap over problems]")
    rows = []
    for column, name in COLUMNS.items():
        for i, kind in enumerate(("Pearson", "Spearman")):
            cells = [_agreement(list(by_problem(data, column).values()), i, seed) for data in (clean, stored)]
            rows.append((name if i == 0 else "", kind, *cells, _number(PUBLISHED.get(column, (np.nan,) * 2)[i])))
    _print_table(("column", "", "ours, measured only", "ours, stored zeros kept", "published*"), rows, left=2)
    _note(
        "* published figure, not ours: from all 40 released traces, as reference/methods.md (section 3) gives it; not "
        "recomputed here. These traces are among the 40, so likeness is no independent replication."
    )
    n = len(by_problem(clean, next(iter(COLUMNS))))
    few = "only 3 different redraws exist (the one twice, the other twice, both) and an interval is the range of three"
    many = "under about 20 such an interval covers too little"
    _note(f"Intervals redraw {n} problems: {few if n == 2 else many}. Read them as what the choice of problem changes.")


def _agreement(problems: Sequence[Both], index: int, seed: int) -> str:
    low, high = over_problems(problems, lambda drawn: over_categories(drawn)[index], seed=seed)
    return f"{_number(over_categories(problems)[index])} [{_number(low)}, {_number(high)}]"


def _print_within(released: Sequence[Released], splits: int, seed: int) -> None:
    print("\n2. within-problem agreement: Spearman over categories, and its reliability ceiling")
    rows = []
    for column, name in COLUMNS.items():
        rng = np.random.default_rng(seed)
        found = {p: within_problem(b, rng, splits) for p, b in by_problem(released, column).items()}
        for i, (problem, w) in enumerate(found.items()):
            row = (_count(w.agreement, w.categories), _count(w.split_agreement, w.split_categories))
            rows.append((name if i == 0 else "", problem, *row, *_limits(w.split_agreement, w.halves[None]), ""))
        whole, split = (mean([getattr(w, of) for w in found.values()]) for of in ("agreement", "split_agreement"))
        limits = _limits(split, np.array([w.halves for w in found.values()]))
        published = _number(PUBLISHED_WITHIN.get(column, np.nan))
        rows.append(("", "mean", f"{_number(whole)}    ", f"{_number(split)}    ", *limits, published))
    heads = ("column", "problem", "agreement (categories)", "of split ones", "r_AA writer", "r_BB reader", "ceiling")
    _print_table((*heads, "ratio", "published*"), rows, left=2)
    _note(f"Left out, for want of measured sentences in a model: {_left_out(released) or 'nothing'}.")
    _note(
        f"Of split ones: the agreement of categories with two sentences or more in a trace, which {splits} random splits "
        "in halves can measure. r = 2 h / (1 + h), h the mean Spearman of the halves; ceiling = sqrt(r_AA r_BB); ratio "
        "= agreement of split ones / ceiling. Both are undefined (-) unless every h in them is above 0. A ratio may "
        "exceed 1, and with an r near 0 it is noise. The mean row averages agreements and h before the formulas."
    )
    _note(
        "The halves share a trace, and neighbouring sentences share rollouts: r says how well these traces fix the "
        "means, not how well another trace of the model would repeat them. For that the ceiling is too high and the "
        "ratio too low. No r here has an interval, so the package's own rule (both intervals above 0) is not met."
    )
    _note(
        "* published figure, not ours (methods.md, section 3): sentences before convergence only, n = 17, so it is not "
        "the same quantity."
    )


def _left_out(released: Sequence[Released]) -> str:
    gone = {
        f"{TAGS[i]} of {problem}"
        for column in COLUMNS
        for problem, both in by_problem(released, column).items()
        for i in np.flatnonzero(np.isnan(profiles(both)).any(0))
    }
    return ", ".join(sorted(gone))


def _limits(agreement: float, halves: Float[np.ndarray, "problem model"]) -> tuple[str, ...]:
    top = ceiling(halves)
    return *(_number(r) for r in spearman_brown(halves.mean(0))), _number(top), _number(agreement / top)


def _print_null(released: Sequence[Released], permutations: int, seed: int) -> None:
    print(f"\n3. null: categories permuted among the measured sentences of each trace, {permutations} times")
    problems = {column: list(by_problem(released, column).values()) for column in COLUMNS}
    nulls = {c: permutation_null(both, permutations=permutations, seed=seed) for c, both in problems.items()}
    adjusted = iter(holm_adjusted([n.two_sided_p for found in nulls.values() for n in found]))
    rows = []
    for column, found in nulls.items():
        for i, (kind, n) in enumerate(zip(STATISTICS, found, strict=True)):
            ps = (f"{p:.3f}" for p in (n.greater_p, n.two_sided_p, next(adjusted)))
            cells = (_number(n.observed), _number(n.mean), f"[{_number(n.low)}, {_number(n.high)}]", *ps)
            rows.append((COLUMNS[column] if i == 0 else "", kind, *cells))
    heads = ("column", "statistic", "observed", "null mean", "null 95 % range", "p one-sided", "p two-sided", "p Holm")
    _print_table(heads, rows, left=2)
    _note(
        f"One-sided: for more agreement. Two-sided: twice the smaller tail. Holm: the two-sided p over all {len(rows)} "
        "rows. The null keeps each trace's values and counts, so a small p says that the labels carry something common "
        "to both models in these traces. It does not say what: importance falls along a trace and categories have "
        "their places in it (setup first, answer last). Sentences that depend on each other make p too small, and it "
        "says nothing of other problems."
    )


def _print_limits(problems: int) -> None:
    print("\n4. what cannot be claimed")
    _note(
        "No causal transfer claim can be made from this data. The two models wrote different texts, and no sentence of "
        "one was ever read by the other: nothing here shows that a sentence that matters to its writer would matter to "
        "a reader. Only kinds of sentence can be compared, and agreement on kinds can come from what all such traces "
        "have in common (position, remaining uncertainty of the answer, the one labeller of both)."
    )
    _note(f"{problems} problems and two models distilled from one teacher stand for no population.")


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:+.2f}"


def _count(value: float, n: int) -> str:
    return f"{_number(value)} ({n})"


def _note(text: str) -> None:
    print(textwrap.fill(text, 118, initial_indent="  ", subsequent_indent="    "))


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> None:
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    for row in (heads, *rows):
        pads = [str.ljust] * left + [str.rjust] * (len(row) - left)
        print("  " + "  ".join(pad(c, w) for pad, c, w in zip(pads, row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
