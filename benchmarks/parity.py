"""What can be recomputed from the released rollouts of Thought Anchors (2506.19143), beside what was published.

1. The eight released traces of two models are read from `$ANCHORS_SHARED/data/math_rollouts` (or `../shared`).
2. Sentences, resampling importance and overdeterminedness are recomputed and compared cell by cell.
3. Summary statistics are computed by the published recipe and printed beside the figures of all 40 traces, of which
   these eight are a part: they should have the same sign and size, not the same digits.
The data holds no rollout texts, so no KL can be recomputed from it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from anchors.datasets import Released, find_rollouts, read_rollouts_folder
from anchors.splitting import split_sentences
from anchors.stats import spearman
from anchors.taxonomy import CATEGORIES

SHARED = Path(os.environ.get("ANCHORS_SHARED", Path(__file__).parents[2] / "shared"))
KL = "counterfactual_importance_kl"
FULL_SET = {"qwen": {"position": -0.44, "headroom": 0.51}, "llama": {"position": -0.50, "headroom": 0.47}}
"""Within-trace Spearman of the counterfactual KL over all 20 traces a model (shared/reference/methods.md, section 3)."""

FULL_MEANS = {
    "problem_setup": {"qwen": 0.362, "llama": 1.519},
    "plan_generation": {"qwen": 0.568, "llama": 1.342},
    "fact_retrieval": {"qwen": 0.290, "llama": 0.856},
    "active_computation": {"qwen": 0.157, "llama": 0.625},
    "uncertainty_management": {"qwen": 0.264, "llama": 0.622},
    "result_consolidation": {"qwen": 0.175, "llama": 0.308},
    "self_checking": {"qwen": 0.106, "llama": 0.218},
    "final_answer_emission": {"qwen": 0.020, "llama": 0.007},
}
"""Mean counterfactual KL over all 20 traces a model, nats (same place)."""

Models = Mapping[str, Sequence[Released]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Recompute what the released rollouts of Thought Anchors allow.")
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "math_rollouts")
    data = parser.parse_args().data
    folders = find_rollouts(data) if data.exists() else []
    if not folders:
        print(f"parity: skipped, no released rollouts at {data} (set ANCHORS_SHARED or give --data)")
        return
    released = [read_rollouts_folder(folder, compat="paper") for folder in folders]
    models = {name: [r for r in released if name in str(r.trace.meta.get("model"))] for name in FULL_SET}
    print(f"parity with {len(released)} released traces, {sum(len(r.trace) for r in released)} sentences ({data})")
    print("\nrecomputed and compared")
    for line in (_sentences, _resampling, _overdeterminedness, _suppression):
        print("  " + line(released))
    print("  " + _effects(released, folders))
    _print_means(models)
    _print_correlations(models)


def _sentences(released: Sequence[Released]) -> str:
    right = [len(set(r.trace.spans) & set(_split(r))) for r in released]
    whole = sum(list(r.trace.spans) == _split(r) for r in released)
    total = sum(len(r.trace) for r in released)
    return f"sentences reproduced                 {sum(right)}/{total}, in {whole}/{len(released)} traces all of them"


def _split(released: Released) -> list[tuple[int, int]]:
    base = len(released.trace.prompt)
    return [(base + a, base + b) for a, b in split_sentences(released.trace.reasoning)]


def _resampling(released: Sequence[Released]) -> str:
    gaps = [np.abs(np.diff(r.columns["accuracy"]) - r.columns["resampling_importance_accuracy"][:-1]) for r in released]
    flat = np.concatenate(gaps)
    return f"resampling importance (accuracy)     max |difference| {flat.max():.1e} over {len(flat)} sentences"


def _overdeterminedness(released: Sequence[Released]) -> str:
    """The stored value uses answered rollouts only, so sentences with unanswered ones may differ by a few 1/N."""
    gaps = []
    for r in released:
        for row, stored in zip(r.resampled[:-1], r.columns["overdeterminedness"][:-1], strict=True):
            if row:
                gaps.append(abs(1 - len(set(row)) / len(row) - stored))
    flat = np.array(gaps)
    return (
        f"overdeterminedness                   {int((flat < 1e-9).sum())}/{len(flat)} exact, max |difference| "
        f"{flat.max():.3f} (stored: answered rollouts only)"
    )


def _effects(released: Sequence[Released], folders: Sequence[Path]) -> str:
    """The published average runs over the whole square of the matrix, its zeros on and above the diagonal included."""
    gaps = []
    for r, folder in zip(released, folders, strict=True):
        path = folder / "summary.json.gz"
        if r.effects is not None and path.exists():
            stored = json.loads(gzip.decompress(path.read_bytes()))["avg_importance"]
            gaps.append(abs(np.nansum(r.effects) / r.effects.size - stored))
    return f"mean sentence-to-sentence effect     max |difference| {max(gaps, default=np.nan):.1e} over {len(gaps)} matrices"


def _suppression(released: Sequence[Released]) -> str:
    matrices = [r.suppression for r in released if r.suppression is not None]
    means = [abs(np.nanmean(row)) for matrix in matrices for row in matrix[1:]]
    return (
        f"suppression files are row-centred    max |row mean| {max(means):.1e} over {len(means)} rows "
        f"of {len(matrices)} matrices"
    )


def _print_means(models: Models) -> None:
    means = {name: np.array([_tag_means(r) for r in traces]) for name, traces in models.items()}
    counts = {name: Counter(c for r in traces for c in r.trace.categories) for name, traces in models.items()}
    print("\nmean counterfactual KL by category, nats: mean of trace means here (sentences) | all 20 traces")
    print(f"  {'category':<24}" + "".join(f"{name:>16} {'20 traces':>10}" for name in models))
    for i, category in enumerate(CATEGORIES):
        cells = ""
        for name in models:
            cells += f"{_means(means[name])[i]:>9.3f} ({counts[name][category]:>4}) {FULL_MEANS[category][name]:>10.3f}"
        print(f"  {category:<24}{cells}")
    first, second = (_means(means[name]) for name in models)
    across = spearman(first, second)
    names = " and ".join(models)
    print(
        f"  Spearman over {across.n} categories between {names}: {across.value:+.2f} "
        f"[{across.low:+.2f}, {across.high:+.2f}] (20 + 20 traces: +0.90)"
    )


def _tag_means(released: Released) -> np.ndarray:
    values, labels = released.columns[KL], np.array(released.trace.categories)
    return np.array([values[labels == c].mean() if (labels == c).any() else np.nan for c in CATEGORIES])


def _means(rows: np.ndarray) -> np.ndarray:
    """Means over the traces that have the category; NaN where none has."""
    seen = ~np.isnan(rows)
    return np.where(seen.any(0), np.where(seen, rows, 0.0).sum(0) / np.maximum(seen.sum(0), 1), np.nan)


def _print_correlations(models: Models) -> None:
    print("\nmean within-trace Spearman of the counterfactual KL: here [lowest, highest trace] | all 20 traces")
    kinds: dict[str, Callable[[Released], np.ndarray]] = {"position": _position, "headroom": _headroom}
    words = {"position": "with position", "headroom": "with accuracy * (1 - accuracy)"}
    for kind, covariate in kinds.items():
        for name, traces in models.items():
            values = np.array([spearman(r.columns[KL], covariate(r)).value for r in traces])
            print(
                f"  {words[kind]:<32}{name:>6} {values.mean():+.2f} [{values.min():+.2f}, {values.max():+.2f}] "
                f"over {len(values)} traces | {FULL_SET[name][kind]:+.2f}"
            )


def _position(released: Released) -> np.ndarray:
    return np.arange(len(released.trace), dtype=float)


def _headroom(released: Released) -> np.ndarray:
    accuracy = released.columns["accuracy"]
    return accuracy * (1 - accuracy)


if __name__ == "__main__":
    main()
