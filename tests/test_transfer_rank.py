"""Rank agreement of writer and reader: known profiles, covariates taken out, ceilings only where noise was measured."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import hypergeom, kendalltau, rankdata, spearmanr

from anchors.stats import mean_rank_correlation
from anchors.transfer import transfer_anchors
from anchors.transfer.matching import Covariates
from anchors.transfer.rank import Profiles, rank_agreement
from tests.made_up import SIZE, BlackBox, Reader, build_trace, halves, written
from tests.scripted import SAME_TEXT


def columns(n, *, length=None, mention=None, surprise=None):
    return Covariates(
        np.full(n, 4.0) if length is None else np.array(length, dtype=float),
        np.arange(n, dtype=float),
        ("x",) * n,
        np.zeros(n, dtype=bool) if mention is None else np.array(mention, dtype=bool),
        np.zeros(n),
        None if surprise is None else np.array(surprise, dtype=float),
    )


def profiles(writer, reader, *, halves=(None, None), anchors=(0,), covariates=None, headroom=None):
    w, r = np.array(writer, dtype=float), np.array(reader, dtype=float)
    return Profiles(w, r, halves[0], halves[1], anchors, (1.0,) * len(anchors), covariates or columns(len(w)), headroom)


def exact(writer, reader, **options):
    w, r = np.array(writer, dtype=float), np.array(reader, dtype=float)
    return profiles(w, r, halves=((w, w), (r, r)), **options)


@pytest.fixture(scope="module")
def random_pairs():
    rng = np.random.default_rng(0)
    pairs = []
    for n in (12, 9, 15, 20, 11):
        w = rng.normal(size=n)
        pairs.append((w, w + rng.normal(size=n)))
    return pairs


def test_agreement_is_the_mean_of_the_traces_correlations(random_pairs):
    found = rank_agreement([exact(*p, anchors=(1, 2)) for p in random_pairs], k=3, compared="scores", seed=0)
    rho = [spearmanr(*p).statistic for p in random_pairs]
    tau = [kendalltau(*p).statistic for p in random_pairs]
    np.testing.assert_allclose(found.spearman.traces, rho)
    np.testing.assert_allclose(found.kendall.traces, tau)
    assert found.spearman.value == pytest.approx(np.mean(rho)) and found.compared == "scores"
    both = mean_rank_correlation(found.spearman.traces, seed=0)
    assert (found.spearman.low, found.spearman.high) == pytest.approx(tuple(both.bootstrap))
    assert (found.spearman.boot_low, found.spearman.boot_high) == pytest.approx(tuple(both.fisher))
    assert found.spearman.low < found.spearman.value < found.spearman.high
    assert found.p < 0.01
    percentiles = [((rankdata(r) - 0.5) / len(r))[[1, 2]].mean() for _, r in random_pairs]
    assert found.percentile.value == pytest.approx(np.mean(percentiles))
    assert found.chance == pytest.approx(np.mean([3 / len(w) for w, _ in random_pairs]))
    shared = [len({*np.argsort(w)[-3:]} & {*np.argsort(r)[-3:]}) for w, r in random_pairs]
    assert found.overlap == pytest.approx(np.mean(shared) / 3)


def test_equal_opposite_and_one_sided_profiles():
    rows = [np.arange(10.0) + 100 * i for i in range(4)]
    same = rank_agreement([exact(r, r, anchors=(9,)) for r in rows], k=2, compared="", seed=0)
    assert (same.spearman.value, same.kendall.value, same.overlap, same.percentile.value) == (1.0, 1.0, 1.0, 0.95)
    assert same.overlap_p == pytest.approx(float(hypergeom.pmf(2, 10, 2, 2)) ** 4) and same.p < 0.001
    against = rank_agreement([exact(r, -r, anchors=(9,)) for r in rows], k=2, compared="", seed=0)
    assert (against.spearman.value, against.overlap, against.percentile.value) == pytest.approx((-1.0, 0.0, 0.05))
    flat = rank_agreement([exact(r, np.zeros(10)) for r in rows], k=2, compared="", seed=0)
    assert np.isnan(flat.spearman.value) and flat.percentile.value == 0.5


def test_unrelated_profiles_rarely_agree():
    rng = np.random.default_rng(1)
    runs = [
        rank_agreement([exact(rng.normal(size=8), rng.normal(size=8)) for _ in range(6)], k=2, compared="", seed=0)
        for _ in range(40)
    ]
    assert np.mean([run.p <= 0.05 for run in runs]) <= 0.15
    assert abs(np.mean([run.percentile.value for run in runs]) - 0.5) < 0.08


def test_sentences_that_were_not_measured_are_left_out():
    w, r = np.arange(8.0), np.array([0, 1, 2, np.nan, 4, 5, 6, 7.0])
    found = rank_agreement([exact(w, r, anchors=(3,)), exact(w, r, anchors=(3, 7))], k=2, compared="", seed=0)
    assert found.spearman.value == 1.0
    np.testing.assert_allclose(found.percentile.traces, [np.nan, 6.5 / 7])


def test_what_position_explains_is_taken_out():
    """Both profiles rise along the trace and agree on nothing else."""
    rng, rows = np.random.default_rng(2), []
    for _ in range(12):
        drift = np.arange(20.0)
        rows.append(exact(drift + 2 * rng.normal(size=20), drift + 2 * rng.normal(size=20)))
    found = rank_agreement(rows, k=3, compared="", seed=0)
    assert found.spearman.value > 0.7 and abs(found.partial.value) < 0.25


@pytest.mark.parametrize("covariate", ["length", "mention", "headroom", "surprise"])
def test_every_covariate_is_taken_out(covariate):
    rng, rows = np.random.default_rng(3), []
    for _ in range(12):
        values = rng.permutation(20) if covariate != "mention" else rng.integers(0, 2, 20)
        options = {"headroom": values.astype(float)} if covariate == "headroom" else {}
        if covariate != "headroom":
            options = {"covariates": columns(20, **{covariate: values})}
        noisy = [values / values.std() + 0.4 * rng.normal(size=20) for _ in range(2)]
        rows.append(exact(*noisy, **options))
    found = rank_agreement(rows, k=3, compared="", seed=0)
    assert found.spearman.value > 0.6 and abs(found.partial.value) < 0.25


def test_constant_covariates_are_dropped_not_fitted():
    """Six sentences leave room for one covariate: with the constant ones counted nothing could be measured."""
    rng = np.random.default_rng(4)
    rows = [exact(rng.normal(size=6), rng.normal(size=6)) for _ in range(5)]
    found = rank_agreement(rows, k=2, compared="", seed=0)
    assert found.partial.n == 5
    varied = [exact(p.writer, p.reader, covariates=columns(6, length=[1, 4, 2, 6, 3, 5])) for p in rows]
    full = [p._replace(headroom=np.array([3, 1, 4, 1, 5, 9.0])) for p in varied]
    assert rank_agreement(full, k=2, compared="", seed=0).partial.n == 0


def test_exact_profiles_are_perfectly_reliable(random_pairs):
    found = rank_agreement([exact(*p) for p in random_pairs], k=3, compared="", seed=0)
    assert (found.writer_reliability, found.reader_reliability, found.ceiling) == (1.0, 1.0, 1.0)
    assert found.corrected == pytest.approx(found.spearman.value)


def test_the_ceiling_is_that_of_the_halves():
    rng, rows = np.random.default_rng(5), []
    for _ in range(40):
        truth = rng.normal(size=30)
        w, r = ([truth + 0.7 * rng.normal(size=30) for _ in range(2)] for _ in range(2))
        rows.append(profiles(np.mean(w, axis=0), np.mean(r, axis=0), halves=(tuple(w), tuple(r))))
    found = rank_agreement(rows, k=3, compared="", seed=0)
    expected = 1 / (1 + 0.7**2 / 2)
    assert found.writer_reliability == pytest.approx(expected, abs=0.04)
    assert found.ceiling == pytest.approx(expected, abs=0.04)
    assert found.corrected == pytest.approx(1.0, abs=0.05), "the two agree as well as their noise allows"


def test_noise_of_unknown_size_has_no_ceiling(random_pairs):
    for side in (0, 1):
        rows = []
        for w, r in random_pairs:
            known = [(w, w), (r, r)]
            known[side] = None
            rows.append(profiles(w, r, halves=tuple(known)))
        found = rank_agreement(rows, k=3, compared="", seed=0)
        assert np.isnan(found.ceiling) and np.isnan(found.corrected)
        assert not np.isnan(found.spearman.value)


def test_unreliable_halves_have_no_ceiling():
    rng = np.random.default_rng(6)
    noise = [tuple(rng.normal(size=12) for _ in range(6)) for _ in range(5)]
    rows = [profiles(n[0], n[1], halves=((n[2], n[3]), (n[4], n[5]))) for n in noise]
    assert np.isnan(rank_agreement(rows, k=3, compared="", seed=0).ceiling)


def test_no_profiles_no_rank():
    assert rank_agreement([], k=3, compared="", seed=0) is None


def runs_of(scores, reader, **options):
    return transfer_anchors(scores, reader=reader, n=4, similarity=SAME_TEXT, **options).rank


def test_which_sides_of_a_run_are_known_to_be_exact():
    rng = np.random.default_rng(7)
    traces = [build_trace(i) for i in range(3)]
    weights = {s.text: float(rng.normal()) for t in traces for s in t.sentences}
    values = [np.array([weights[s.text] for s in t.sentences]) for t in traces]
    sure = [written(t, v) for t, v in zip(traces, values, strict=True)]
    unsure = [written(t, v, low=v - 1, high=v + 1, n=20) for t, v in zip(traces, values, strict=True)]
    found = runs_of(sure, Reader(weights=weights))
    assert found.ceiling == 1.0 and found.spearman.value == pytest.approx(1.0)
    assert found.compared == "the reader's delete effect on forced answer, sentence by sentence"
    assert np.isnan(runs_of(unsure, Reader(weights=weights)).ceiling), "scores with an interval have noise"
    noisy = runs_of(sure, BlackBox(weights))
    assert np.isnan(noisy.ceiling) and noisy.compared.startswith("the reader's delete effect on continuations")


def test_rollouts_of_both_sides_give_halves():
    rng = np.random.default_rng(8)
    traces, writers, readers = [build_trace(i) for i in range(3)], [], []
    for trace in traces:
        first, second = sorted(rng.choice(np.arange(3, 12), 2, replace=False))
        curve = [0.0] * (first + 1) + [0.5] * (second - first) + [1.0] * (SIZE - second)
        writers.append(halves(trace, curve, [0.0, *curve[:-1]], n=40))
        readers.append(halves(trace, curve, curve, n=40))
    run = transfer_anchors(writers, reader=Reader(), reader_runs=readers, method="resampling", n=4)
    found = run.rank
    assert found is not None and found.compared == "the reader's own resampling scores"
    assert found.reader_reliability == pytest.approx(1.0) and found.writer_reliability < 0.9


def test_the_readers_perplexity_is_that_of_full_distributions(problem_trace):
    from anchors.models import load_model
    from anchors.transfer.matching import SURPRISE, Match, balance, covariates

    model = load_model("lab/reasoner", check=False)
    found = covariates(problem_trace, model, answer="5")
    text = problem_trace.text[: problem_trace.boundaries[-1]]
    tokens, logp = model.encode(text), model.logprobs(text)
    nats = np.array([np.nan] + [-float(logp[t - 1, i]) for t, i in enumerate(tokens.ids) if t])
    a, b = problem_trace.spans[4]
    inside = [t for t, (start, end) in enumerate(tokens.offsets) if start >= a and end <= b]
    assert found.surprise is not None and found.surprise[4] == pytest.approx(nats[inside].mean(), rel=1e-4)
    (*_, last) = balance([(found, Match((4,), ((5,), (6,)), ()))])
    assert last.variable == SURPRISE
    assert covariates(problem_trace, Reader(), answer="5").surprise is None
