"""Do writer and reader order the sentences of a trace alike? (T1)

1. One Spearman and one Kendall correlation a trace; mean over traces with intervals over traces.
2. The same with position, length, answer mention, the writer's headroom and the text's log perplexity under the reader
   taken out of both.
3. p permutes the writer's scores within each trace. The ceiling says how high two noisy profiles could agree at all.
4. Overlap of the top k against the hypergeometric chance, and where the writer's anchors stand in the reader's profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from anchors.stats import (
    anchor_percentile,
    kendall,
    mean_rank_correlation,
    partial_spearman,
    reliability_ceiling,
    sign_flip_p,
    top_k_overlap,
    trace_correlations,
    within_trace_permutation_p,
)
from anchors.transfer.matching import Covariates
from anchors.transfer.results import Mean, Rank
from anchors.transfer.retention import mean_over_traces

Profile = Float[np.ndarray, " sentence"]


class Profiles(NamedTuple):
    """Scores of one trace by writer and reader; halves are None where a noisy side was not measured twice.

    A side without noise has itself as both halves: its reliability is 1.
    """

    writer: Profile
    reader: Profile
    writer_halves: tuple[Profile, Profile] | None
    reader_halves: tuple[Profile, Profile] | None
    anchors: tuple[int, ...]
    signs: tuple[float, ...]
    covariates: Covariates
    headroom: Profile | None


def rank_agreement(profiles: Sequence[Profiles], *, k: int, compared: str, seed: int) -> Rank | None:
    """Agreement over all traces that have both profiles; None without any."""
    if not profiles:
        return None
    pairs = [(p.writer, p.reader) for p in profiles]
    rho = trace_correlations(pairs)
    halves = [
        [_halves(getattr(p, f"{side}_halves"), getattr(p, side)) for p in profiles] for side in ("writer", "reader")
    ]
    ceiling = reliability_ceiling(halves[0], halves[1], rho, seed=seed)
    overlap = top_k_overlap([p.writer for p in profiles], [p.reader for p in profiles], k, seed=seed)
    return Rank(
        compared=compared,
        spearman=_mean_correlation(rho, seed),
        kendall=_mean_correlation(trace_correlations(pairs, kendall), seed),
        partial=_mean_correlation(np.array([_partial(p) for p in profiles], dtype=float), seed),
        p=within_trace_permutation_p(pairs, seed=seed),
        writer_reliability=ceiling.writer.value,
        reader_reliability=ceiling.reader.value,
        ceiling=ceiling.value,
        corrected=ceiling.share,
        overlap=overlap.value,
        chance=overlap.expected,
        overlap_p=overlap.p,
        percentile=_percentile(profiles, seed),
    )


def _mean_correlation(r: Float[np.ndarray, " trace"], seed: int) -> Mean:
    """Mean of one correlation a trace; the first interval is BCa over traces, the second Student's on Fisher's z."""
    found = mean_rank_correlation(r, seed=seed)
    p = sign_flip_p(r) if found.traces > 1 else np.nan
    (low, high), (z_low, z_high) = found.bootstrap, found.fisher
    return Mean(found.value, float(low), float(high), float(z_low), float(z_high), float(p), r)


def _halves(halves: tuple[Profile, Profile] | None, whole: Profile) -> tuple[Profile, Profile]:
    """Two halves; NaN where there are none, because noise of unknown size has no reliability."""
    unknown = np.full(len(whole), np.nan)
    return (unknown, unknown) if halves is None else halves


def _partial(p: Profiles) -> float:
    """Spearman with the covariates taken out; those that do not vary in this trace are left out."""
    columns = [p.covariates.position, p.covariates.length, p.covariates.mention.astype(float)]
    both = ~np.isnan(p.writer) & ~np.isnan(p.reader)
    more = [c for c in (p.headroom, p.covariates.surprise) if c is not None]
    columns += [c for c in more if not np.isnan(c[both]).any()]
    varying = [c for c in columns if len(np.unique(c[both])) > 1]
    return partial_spearman(p.writer, p.reader, varying).value


def _oriented(p: Profiles) -> float:
    """Mean percentile of the anchors, those against the outcome counted from the other end."""
    each = [anchor_percentile([a], sign * p.reader) for a, sign in zip(p.anchors, p.signs, strict=True)]
    measured = [x for x in each if not np.isnan(x)]
    return float(np.mean(measured)) if measured else float("nan")


def _percentile(profiles: Sequence[Profiles], seed: int) -> Mean:
    """Mean rank share of the writer's anchors in the reader's profile; p and the interval's null value are about 0.5."""
    found = np.array([_oriented(p) for p in profiles], dtype=float)
    above = mean_over_traces(found - 0.5, seed=seed)
    low, high, boot = above.low + 0.5, above.high + 0.5, (above.boot_low + 0.5, above.boot_high + 0.5)
    return Mean(above.value + 0.5, low, high, *boot, above.p, found)
