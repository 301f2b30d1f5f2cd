"""Agreement of two released models: every kind of number against pandas and scipy on the raw files, and on planted data."""

from __future__ import annotations

import gzip
import json
import sys
import time

import numpy as np
import pytest

from anchors.datasets import find_rollouts, read_rollouts_folder
from anchors.stats import spearman_brown
from benchmarks import agreement
from benchmarks.agreement import Both, Labelled
from tests.conftest import SHARED

DATA = SHARED / "data" / "math_rollouts"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"the released traces are not at {DATA}")

CF, RESAMPLED, SIGNED = (
    "counterfactual_importance_kl",
    "resampling_importance_kl",
    "counterfactual_importance_accuracy",
)


@pytest.fixture(scope="module")
def stored():
    return [read_rollouts_folder(folder, compat="paper") for folder in find_rollouts(DATA)]


@pytest.fixture(scope="module")
def clean():
    return [read_rollouts_folder(folder) for folder in find_rollouts(DATA)]


@pytest.fixture(scope="module")
def frame():
    """The raw files as one row a sentence, read without the package."""
    pandas = pytest.importorskip("pandas")
    rows = []
    for path in sorted(DATA.rglob("chunks_labeled.json.gz")):
        model, base, problem = path.parts[-4:-1]
        labels = json.loads(gzip.decompress(path.read_bytes()))
        for i, row in enumerate(labels):
            tags = {"tag": row["function_tags"][0], "last": i == len(labels) - 1}
            place = {"model": model[-8:], "trace": f"{model}/{base}/{problem}", "problem": problem[8:]}
            rows.append(row | tags | place)
    return pandas.DataFrame(rows)


def measured_only(frame, column):
    kept = frame[~frame["last"]]
    return kept[kept["different_trajectories_fraction"] > 0] if column.startswith("counterfactual") else kept


def category_table(frame, column):
    """Mean over traces of trace means: a row a category, a column a model."""
    by_trace = frame.groupby(["model", "trace", "tag"])[column].mean()
    return by_trace.groupby(["tag", "model"]).mean().unstack("model")


def correlations(frame, column):
    from scipy.stats import pearsonr, spearmanr

    table = category_table(frame, column).dropna()
    sides = table["qwen-14b"], table["llama-8b"]
    return pearsonr(*sides).statistic, spearmanr(*sides).statistic


def both_of(released, column):
    return list(agreement.by_problem(released, column).values())


@needs_data
def test_category_means_against_pandas(clean, frame):
    for column in agreement.COLUMNS:
        table = category_table(measured_only(frame, column), column).reindex(agreement.TAGS)
        found = agreement.profiles(agreement.pool(both_of(clean, column)))
        # Released counterfactual accuracy has the opposite sign of ours.
        sign = -1 if column == SIGNED else 1
        np.testing.assert_allclose(found, sign * table[["qwen-14b", "llama-8b"]].to_numpy().T, atol=1e-12)


@needs_data
@pytest.mark.parametrize("column", list(agreement.COLUMNS))
def test_agreement_over_categories_against_scipy(stored, clean, frame, column):
    kept = measured_only(frame, column)
    assert agreement.over_categories(both_of(stored, column)) == pytest.approx(correlations(frame, column))
    assert agreement.over_categories(both_of(clean, column)) == pytest.approx(correlations(kept, column))


@needs_data
def test_the_interval_over_two_problems_is_the_range_of_three_redraws(clean, frame):
    kept = measured_only(frame, CF)
    draws = [correlations(part, CF)[1] for part in (kept, *(rows for _, rows in kept.groupby("problem")))]
    problems = both_of(clean, CF)
    assert len(problems) == 2
    interval = agreement.over_problems(problems, lambda drawn: agreement.over_categories(drawn)[1])
    assert interval == pytest.approx((min(draws), max(draws)))
    assert np.isnan(agreement.over_problems(problems[:1], lambda drawn: 0.0)).all()


@needs_data
@pytest.mark.parametrize("column", [CF, RESAMPLED, SIGNED])
def test_agreement_within_a_problem_against_scipy(clean, frame, column):
    kept = measured_only(frame, column)
    expected = {problem: correlations(rows, column)[1] for problem, rows in kept.groupby("problem")}
    sides = agreement.by_problem(clean, column)
    found = {p: agreement.within_problem(both, np.random.default_rng(0), 1).agreement for p, both in sides.items()}
    assert found == {p: pytest.approx(r) for p, r in expected.items()}
    assert agreement.statistics(list(sides.values()))[2] == pytest.approx(np.mean(list(expected.values())))


@needs_data
def test_reliability_against_splits_drawn_with_pandas(clean, frame):
    """Sentences sampled by pandas, other random numbers: equal up to the noise of the splits."""
    kept = measured_only(frame, RESAMPLED)
    kept = kept[kept["problem"] == "2236"]
    cells = kept.groupby(["model", "trace", "tag"])[RESAMPLED].transform("size")
    kept = kept[cells >= 2]
    shared = set.intersection(*(set(rows["tag"]) for _, rows in kept.groupby("model")))
    found = agreement.within_problem(agreement.by_problem(clean, RESAMPLED)["2236"], np.random.default_rng(0), 400)
    assert found.split_categories == len(shared) == 7
    assert found.split_agreement == pytest.approx(correlations(kept, RESAMPLED)[1])
    for side, model in enumerate(("qwen-14b", "llama-8b")):
        rows = kept[(kept["model"] == model) & kept["tag"].isin(shared)]
        halves = np.mean([pandas_halves(rows, seed) for seed in range(150)])
        assert found.halves[side] == pytest.approx(halves, abs=0.06)


def pandas_halves(rows, seed):
    from scipy.stats import spearmanr

    first = rows.groupby(["trace", "tag"]).sample(frac=0.5, random_state=seed)
    parts = [part.groupby(["trace", "tag"])[RESAMPLED].mean() for part in (first, rows.drop(first.index))]
    a, b = (part.groupby("tag").mean() for part in parts)
    return spearmanr(a.sort_index(), b.sort_index()).statistic


def test_ceiling_is_the_root_of_two_stepped_up_halves_where_both_are_positive():
    halves = np.array([[0.5, 0.2], [0.7, 0.4]])
    assert agreement.ceiling(halves) == pytest.approx(np.sqrt((2 * 0.6 / 1.6) * (2 * 0.3 / 1.3)))
    assert spearman_brown(0.6) == pytest.approx(2 * 0.6 / 1.6)
    assert np.isnan(agreement.ceiling(np.array([[0.5, 0.2], [0.7, -0.1]])))
    assert np.isnan(agreement.ceiling(np.array([[0.5, np.nan]])))


@needs_data
def test_null_against_a_second_permutation(clean, frame):
    """Values shuffled by pandas instead of labels by us: the same null, other random numbers."""
    kept = measured_only(frame, RESAMPLED).reset_index(drop=True)
    rng, groups = np.random.default_rng(5), [np.array(g) for g in kept.groupby("trace").groups.values()]
    values, draws = kept[RESAMPLED].to_numpy(), []
    for _ in range(300):
        moved = values.copy()
        for group in groups:
            moved[group] = values[rng.permutation(group)]
        draws.append(correlations(kept.assign(**{RESAMPLED: moved}), RESAMPLED))
    found = agreement.permutation_null(both_of(clean, RESAMPLED), permutations=1000)
    for i, observed in enumerate(correlations(kept, RESAMPLED)):
        null = np.array(draws)[:, i]
        assert found[i].observed == pytest.approx(observed)
        assert found[i].mean == pytest.approx(null.mean(), abs=0.08)
        assert found[i].greater_p == pytest.approx((np.sum(null >= observed - 1e-9) + 1) / 301, abs=0.03)
        assert found[i].two_sided_p == pytest.approx(2 * found[i].greater_p)


@needs_data
def test_exchanging_writer_and_reader_changes_no_agreement(clean):
    problems = both_of(clean, CF)
    swapped = [Both(both.reader, both.writer) for both in problems]
    np.testing.assert_allclose(agreement.statistics(swapped), agreement.statistics(problems), atol=1e-12)


def planted(rng, *, effect, traces=2, sentences=120):
    """One problem of two models whose category means rise by `effect` a category, with noise of sd 1."""
    sides = []
    for _ in range(2):
        codes = [rng.integers(len(agreement.TAGS), size=sentences) for _ in range(traces)]
        sides.append([Labelled(effect * c + rng.normal(size=sentences), c) for c in codes])
    return Both(*sides)


def test_planted_agreement_is_found_up_to_its_ceiling():
    rng = np.random.default_rng(2)
    problems = [planted(rng, effect=0.12) for _ in range(60)]
    found = [agreement.within_problem(both, rng, 20) for both in problems]
    halves = np.array([w.halves.mean() for w in found])
    top = agreement.ceiling(np.array([[halves.mean()] * 2]))
    assert 0.5 < top < 0.95
    assert np.mean([w.split_agreement for w in found]) / top == pytest.approx(1.0, abs=0.08)


def test_permutation_p_is_even_without_agreement_and_small_with_it():
    rng = np.random.default_rng(3)
    nothing = [agreement.permutation_null([planted(rng, effect=0.0)], permutations=29, seed=i) for i in range(120)]
    for statistic in range(3):
        p = np.array([nulls[statistic].greater_p for nulls in nothing])
        assert p.mean() == pytest.approx(0.5, abs=0.1)
        assert (p <= 0.1).mean() < 0.2
    strong = agreement.permutation_null([planted(rng, effect=1.0) for _ in range(2)], permutations=99)
    assert [null.greater_p for null in strong] == [0.01] * 3


def test_what_cannot_be_measured_is_nan():
    flat = Both([Labelled(np.zeros(16), np.arange(16) % 8)], [Labelled(np.arange(16.0), np.arange(16) % 8)])
    assert np.isnan(agreement.statistics([flat])).all()
    assert np.isnan(agreement.permutation_null([flat], permutations=5)[0]).all()
    few = Both([Labelled(np.arange(6.0), np.arange(6) % 3)] * 2, [Labelled(np.arange(6.0), np.arange(6) % 3)] * 2)
    assert np.isnan(agreement.statistics([few])).all()
    halves = agreement.half_means(Labelled(np.arange(3.0), np.array([0, 1, 1])), np.random.default_rng(0))
    assert np.isnan(halves[:, 0]).all() and sorted(halves[:, 1]) == [1.0, 2.0]


@needs_data
def test_the_run_says_what_it_must_within_its_time(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["agreement.py", "--permutations", "50", "--splits", "10"])
    start = time.perf_counter()
    agreement.main()
    assert time.perf_counter() - start < 30
    words = " ".join(capsys.readouterr().out.split())
    for said in ("published figure, not ours", "No causal transfer claim can be made", "2 (2236, 2238)", "3 different"):
        assert said in words


def test_the_run_says_that_there_is_no_data(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["agreement.py", "--data", str(tmp_path)])
    agreement.main()
    assert "skipped, no released rollouts" in capsys.readouterr().out
