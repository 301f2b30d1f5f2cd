"""The statistics behind every number: divergences, intervals, tests, corrections and power.

1. A sample of answers is a vector of counts [answer]; everything that resamples draws count vectors, never single
   rollouts (`counts`). Divergences and entropies reduce the last axis and broadcast over the others.
2. The trace is the independent unit: intervals redraw traces, tests flip the signs of traces (`traces`, `profiles`,
   `reliability`, `ratios`, `equivalence`, `trends`, `power`). Within a trace, `sequences` holds however drawing stopped.
3. Randomness comes from `seed`, an int or a numpy Generator; the same seed gives the same numbers.
4. An empty sample gives NaN (not measured), never 0. Values that are NaN are left out and not counted.
5. scipy is imported on use.
"""

from __future__ import annotations

from anchors.stats.counts import (
    difference_interval,
    entropy,
    fisher_p,
    kl_divergence,
    null_floor,
    permutation_p,
    total_variation,
    wilson_interval,
)
from anchors.stats.effect_sizes import EffectSize, Shift, cohens_d, mean_absolute_d, standardised_difference
from anchors.stats.equivalence import Equivalence, relative_tost, tost
from anchors.stats.intervals import bootstrap_interval, mean_interval, measured, quantile_interval, t_interval
from anchors.stats.multiple import benjamini_hochberg, benjamini_hochberg_adjusted, holm, holm_adjusted
from anchors.stats.power import Detectable, Power, minimum_detectable_effect, simulate_power
from anchors.stats.profiles import (
    MeanCorrelation,
    Overlap,
    Percentile,
    anchor_percentile,
    mean_percentile,
    mean_rank_correlation,
    top_k_overlap,
    trace_correlations,
    within_trace_permutation_p,
)
from anchors.stats.ranks import auroc, kendall, partial_spearman, spearman
from anchors.stats.ratios import Ratio, fieller, paired_ratio_bootstrap
from anchors.stats.reliability import Ceiling, Reliability, reliability_ceiling, spearman_brown, split_half_reliability
from anchors.stats.sequences import Arrivals, anytime_interval, anytime_p, anytime_proportion, log_evidence
from anchors.stats.traces import cluster_bootstrap, pooled_mean, sign_flip_p
from anchors.stats.trends import Slope, Trend, page_trend, slope_interval
from anchors.stats.types import Correlation, Interval, Numbers, Seed, Statistic

__all__ = [
    "auroc",
    "Arrivals",
    "Ceiling",
    "Correlation",
    "Detectable",
    "EffectSize",
    "Equivalence",
    "Interval",
    "MeanCorrelation",
    "Numbers",
    "Overlap",
    "Percentile",
    "Power",
    "Ratio",
    "Reliability",
    "Seed",
    "Shift",
    "Slope",
    "Statistic",
    "Trend",
    "anytime_interval",
    "anytime_p",
    "anytime_proportion",
    "benjamini_hochberg",
    "benjamini_hochberg_adjusted",
    "bootstrap_interval",
    "cluster_bootstrap",
    "cohens_d",
    "difference_interval",
    "entropy",
    "fieller",
    "fisher_p",
    "holm",
    "holm_adjusted",
    "kendall",
    "kl_divergence",
    "log_evidence",
    "mean_absolute_d",
    "mean_interval",
    "anchor_percentile",
    "mean_percentile",
    "mean_rank_correlation",
    "measured",
    "minimum_detectable_effect",
    "null_floor",
    "page_trend",
    "paired_ratio_bootstrap",
    "partial_spearman",
    "permutation_p",
    "pooled_mean",
    "quantile_interval",
    "relative_tost",
    "reliability_ceiling",
    "sign_flip_p",
    "simulate_power",
    "slope_interval",
    "spearman",
    "spearman_brown",
    "split_half_reliability",
    "standardised_difference",
    "t_interval",
    "top_k_overlap",
    "tost",
    "total_variation",
    "trace_correlations",
    "wilson_interval",
    "within_trace_permutation_p",
]
