"""Do two profiles of the same traces agree? Rank correlation, overlap of the top, percentile of the anchors.

1. A pair (a, b) holds two scores of every sentence of one trace; a sentence with a NaN on either side is left out.
2. Agreement is measured within each trace, so that traces of different level or length cannot make it up.
3. Inference is over traces, or over orders of a within its trace.
4. A trace that cannot be measured (too few sentences, a constant side) is left out, and the traces used are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from anchors.stats.intervals import measured, t_interval
from anchors.stats.ranks import spearman
from anchors.stats.traces import cluster_bootstrap, sign_flip_p
from anchors.stats.types import Correlation, Interval, Numbers, Seed

Pair = tuple[Numbers, Numbers]


class MeanCorrelation(NamedTuple):
    """Mean of the correlations of `traces` traces, and its bootstrap interval over traces.

    `fisher_value` = tanh(mean atanh r) has Student's interval `fisher`; it lies further from 0 than `value` does.
    """

    value: float
    bootstrap: Interval
    fisher_value: float
    fisher: Interval
    traces: int


class Overlap(NamedTuple):
    """Share of the top k that two profiles have in common, the share expected by chance, and the one-sided p."""

    value: float
    expected: float
    p: float
    traces: int


class Percentile(NamedTuple):
    """Mean percentile, in [0, 1] with .5 by chance, its t interval over traces and its two-sided sign-flip p."""

    value: float
    low: float
    high: float
    p: float
    traces: int


def trace_correlations(
    pairs: Sequence[Pair], correlation: Callable[..., Correlation] = spearman
) -> Float[np.ndarray, " trace"]:
    """One rank correlation a trace, of pairs (a, b) of scores [sentence]; NaN where a trace cannot be measured.

    >>> trace_correlations([([1, 2, 3, 4], [1, 2, 3, 4]), ([1, 2], [2, 1])]).tolist()
    [1.0, nan]
    """
    return np.array([correlation(a, b).value for a, b in _rows(pairs)], dtype=float)


def mean_rank_correlation(
    values: Numbers,
    *,
    kind: str = "bca",
    level: float = 0.95,
    resamples: int = 2000,
    cap: float = 0.99,
    seed: Seed = 0,
) -> MeanCorrelation:
    """Mean of one rank correlation a trace, with a bootstrap interval over traces and a t interval on Fisher's z.

    `kind`: "bca", bias-corrected and accelerated (Efron 1987), or "percentile". Fisher's z = atanh r; an |r| beyond
    `cap` counts as `cap` there, because the perfect order of a short trace has no finite z. NaN traces are dropped;
    fewer than two leave no interval. Both intervals assume independent traces and cover too little under about 10.

    Raises:
        ValueError: an unknown kind, or a value outside [-1, 1].

    >>> found = mean_rank_correlation([0.1, 0.3, 0.5, 0.2])
    >>> round(found.value, 3), found.traces, found.fisher.low < 0.28 < found.fisher.high
    (0.275, 4, True)
    """
    if kind not in ("bca", "percentile"):
        raise ValueError(f"kind is {kind!r}; use 'bca' or 'percentile'")
    r = measured(values)
    if (np.abs(r) > 1 + 1e-9).any():
        raise ValueError(f"a correlation is {r[np.abs(r).argmax()]:.3g}; correlations lie in [-1, 1]")
    if not len(r):
        return MeanCorrelation(np.nan, Interval(np.nan, np.nan), np.nan, Interval(np.nan, np.nan), 0)
    z = np.arctanh(np.clip(r, -cap, cap))
    fisher = Interval(*(float(np.tanh(end)) for end in t_interval(z, level=level)))
    bootstrap = _mean_bootstrap(r, kind, level, resamples, seed)
    return MeanCorrelation(float(r.mean()), bootstrap, float(np.tanh(z.mean())), fisher, len(r))


def _mean_bootstrap(x: Float[np.ndarray, " trace"], kind: str, level: float, resamples: int, seed: Seed) -> Interval:
    from scipy.stats import bootstrap

    if len(x) < 2:
        return Interval(np.nan, np.nan)
    if kind == "percentile" or np.ptp(x) < 1e-12:
        low, high = cluster_bootstrap(list(x[:, None]), level=level, resamples=resamples, seed=seed)
    else:
        rng = np.random.default_rng(seed)
        found = bootstrap((x,), np.mean, n_resamples=resamples, confidence_level=level, method="BCa", rng=rng)
        low, high = found.confidence_interval
    return Interval(float(low), float(high))


def within_trace_permutation_p(pairs: Sequence[Pair], *, resamples: int = 10_000, seed: Seed = 0) -> float:
    """Two-sided p-value that a's order within each trace says nothing of b's.

    Statistic: mean over traces of the within-trace Spearman correlation. Null: a permuted within every trace, all
    traces at once. p = (permutations with as large a |mean| + 1) / (resamples + 1). `pairs` holds (a, b) [sentence] a
    trace. Traces that `spearman` cannot measure are left out; NaN where none is left.

    Raises:
        ValueError: a and b of a trace differ in length.

    >>> within_trace_permutation_p([([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6])] * 3, resamples=999)
    0.001
    """
    scored = [(_scores(a), _scores(b)) for a, b in _rows(pairs) if not np.isnan(spearman(a, b).value)]
    if not scored:
        return float("nan")
    rng = np.random.default_rng(seed)
    observed, null = 0.0, np.zeros(resamples)
    for a, b in scored:
        observed += a @ b
        null += rng.permuted(np.broadcast_to(a, (resamples, len(a))), axis=1) @ b
    return float(((np.abs(null) >= abs(observed) - 1e-9).sum() + 1) / (resamples + 1))


def top_k_overlap(a: Sequence[Numbers], b: Sequence[Numbers], k: int, *, seed: Seed = 0) -> Overlap:
    """Share of a's k highest sentences that are among b's k highest, against chance.

    value = mean over traces of |K_a & K_b| / k; by chance |K_a & K_b| is hypergeometric with mean k^2 / n in a trace of
    n sentences. p = P(sum over traces >= observed), exactly, from the convolution of those distributions; one-sided,
    for more overlap than chance. `a` and `b` hold scores [sentence] of every trace; ties are broken at random by
    `seed`, because an order of ties shared by both sides would look like agreement. Traces of at most k measured
    sentences overlap wholly whatever their scores and are left out; NaN where none is left.

    Raises:
        ValueError: k below 1, or sides that differ in traces or in sentences.

    >>> found = top_k_overlap([[9, 8, 1, 2, 3]], [[7, 9, 0, 1, 2]], 2)
    >>> found.value, found.expected, round(found.p, 6)
    (1.0, 0.4, 0.1)
    """
    from scipy.stats import hypergeom

    if k < 1:
        raise ValueError(f"k is {k}; compare at least the top 1")
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} traces and b has {len(b)}; give both profiles of every trace")
    rows = [row for row in _rows(list(zip(a, b, strict=True))) if row.shape[1] > k]
    if not rows:
        return Overlap(np.nan, np.nan, np.nan, 0)
    rng = np.random.default_rng(seed)
    shared = sum(len(np.intersect1d(_top(x, k, rng), _top(y, k, rng))) for x, y in rows)
    pmf = np.ones(1)
    for row in rows:
        pmf = np.convolve(pmf, hypergeom.pmf(np.arange(k + 1), row.shape[1], k, k))
    expected = float(np.mean([k / row.shape[1] for row in rows]))
    return Overlap(shared / (k * len(rows)), expected, float(min(1.0, pmf[shared:].sum())), len(rows))


def mean_percentile(
    anchors: Sequence[Sequence[int]],
    b: Sequence[Numbers],
    *,
    level: float = 0.95,
    resamples: int = 50_000,
    seed: Seed = 0,
) -> Percentile:
    """Mean percentile of the writer's anchors in the reader's profile of the same trace; .5 by chance.

    Percentile of sentence i among n: (rank_i - 1/2) / n, ties at their mean rank, so that the mean over all sentences is
    .5. Anchors are averaged within a trace; Student's interval and the sign-flip p of (value - .5) are over traces.
    `anchors` holds sentence indices of every trace, `b` the reader's scores [sentence]. NaN scores are not ranked;
    traces without a measured anchor are left out. (The dense-profile statistic of cross-model-thought-anchors.)

    Raises:
        ValueError: another number of traces, or an anchor that is no sentence of its trace.

    >>> found = mean_percentile([[3], [2]], [[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]])
    >>> found.value, found.traces
    (0.75, 2)
    """
    if len(anchors) != len(b):
        raise ValueError(f"anchors of {len(anchors)} traces and profiles of {len(b)}; give both for every trace")
    found = measured([anchor_percentile(picked, profile) for picked, profile in zip(anchors, b, strict=True)])
    if not len(found):
        return Percentile(np.nan, np.nan, np.nan, np.nan, 0)
    low, high = t_interval(found, level=level)
    p = sign_flip_p(found - 0.5, resamples=resamples, seed=seed)
    return Percentile(float(found.mean()), float(low), float(high), p, len(found))


def anchor_percentile(picked: Sequence[int], scores: Numbers) -> float:
    """Mean percentile (rank - 1/2) / n of some sentences among the measured ones of a trace; NaN where none was measured.

    Raises:
        ValueError: an index that is no sentence.

    >>> anchor_percentile([3], [0.1, 0.2, 0.3, 0.4])
    0.875
    """
    from scipy.stats import rankdata

    profile = np.asarray(scores, dtype=float)
    wrong = [i for i in picked if not 0 <= i < len(profile)]
    if wrong:
        raise ValueError(f"anchor {wrong[0]} is none of {len(profile)} sentences; give indices")
    found = measured(rankdata(profile, nan_policy="omit")[list(picked)])
    return float((found.mean() - 0.5) / (~np.isnan(profile)).sum()) if len(found) else float("nan")


def _rows(pairs: Sequence[Pair]) -> list[Float[np.ndarray, "side sentence"]]:
    """Every pair as an array of its two sides, without the sentences that have a NaN on either side."""
    sides = [(np.asarray(a, dtype=float), np.asarray(b, dtype=float)) for a, b in pairs]
    for i, (a, b) in enumerate(sides):
        if a.shape != b.shape or a.ndim != 1:
            raise ValueError(
                f"the two profiles of trace {i} have shapes {a.shape} and {b.shape}; score both [sentence]"
            )
    return [np.stack(side)[:, ~np.isnan(side).any(0)] for side in sides]


def _scores(values: Float[np.ndarray, " sentence"]) -> Float[np.ndarray, " sentence"]:
    """Centred ranks of unit length: their dot product is Spearman's correlation, whatever their order."""
    from scipy.stats import rankdata

    ranks = rankdata(values) - (len(values) + 1) / 2
    return ranks / np.sqrt(ranks @ ranks)


def _top(values: Float[np.ndarray, " sentence"], k: int, rng: np.random.Generator) -> Int[np.ndarray, " k"]:
    return np.lexsort((rng.random(len(values)), -values))[:k]
