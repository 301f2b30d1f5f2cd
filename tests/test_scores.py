"""`Scores`: selection, missing values, and what is written comes back."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from anchors.scores import METHODS, Scores, method
from anchors.trace import Trace


def plain_trace(size=6, **options):
    text = "".join(f"Sentence number {i}. " for i in range(size))
    return Trace.from_text("Q\n<think>\n", text, answer="1", **options)


def full_scores(size=6):
    rng = np.random.default_rng(0)
    values = rng.normal(size=size)
    values[2] = np.nan
    return Scores.of(
        plain_trace(size, meta={"source": "world"}),
        "made up",
        values,
        low=values - 1,
        high=values + 1,
        n=np.arange(size),
        p=np.where(np.isnan(values), np.nan, rng.random(size)),
        floor=rng.random(size),
        unit="nats",
        matrix=np.where(np.tri(size, k=-1, dtype=bool), rng.random((size, size)), np.nan),
        extras={"kurtosis": rng.random((2, 3)), "outgoing": rng.random(size), "total": np.array(3.5)},
        details={"model": "m", "seed": 7, "layers": [0, 1], "nested": {"a": None}},
    )


def test_top_is_best_first_and_skips_what_was_not_measured():
    scores = Scores.of(plain_trace(), "x", np.array([0.1, np.nan, -3.0, 2.0, 0.0, 2.0]))
    assert scores.top(3) == [3, 5, 0]
    assert scores.top(99) == [3, 5, 0, 4, 2]
    assert scores.measured.tolist() == [True, False, True, True, True, True]
    assert scores.top(0) == []


@pytest.mark.parametrize("seed", range(5))
def test_anchors_equal_scipys_false_discovery_control(seed):
    from scipy.stats import false_discovery_control

    rng = np.random.default_rng(seed)
    p = np.concatenate([rng.random(30) ** 4, rng.random(10)])
    scores = Scores.of(plain_trace(40), "x", rng.normal(size=40), p=p)
    for fdr in (0.01, 0.05, 0.2):
        assert scores.anchors(fdr=fdr) == np.flatnonzero(false_discovery_control(p) <= fdr).tolist()


def test_anchors_leave_out_untested_sentences_and_need_a_null():
    p = np.array([0.012, np.nan, 0.9, 0.02, np.nan, np.nan])
    scores = Scores.of(plain_trace(), "x", np.ones(6), p=p)
    assert scores.anchors(fdr=0.05) == [0, 3]
    assert Scores.of(plain_trace(), "x", np.ones(6), p=np.ones(6)).anchors() == []
    with pytest.raises(ValueError, match=r"no p-values.*top\(k\)"):
        Scores.of(plain_trace(), "x", np.ones(6)).anchors()


def test_an_exact_score_is_its_own_interval():
    values = np.array([1.0, np.nan, 2.0, 0.0, 1.0, 4.0])
    scores = Scores.of(plain_trace(), "x", values, n=5)
    for found in (scores.low, scores.high):
        assert np.array_equal(found, values, equal_nan=True)
    assert scores.n.tolist() == [5] * 6 and np.isnan(scores.p).all() and np.isnan(scores.floor).all()


def test_save_and_load_are_exact_and_free_of_pickle(tmp_path):
    scores = full_scores()
    path = scores.save(tmp_path / "scores.npz")
    with np.load(path, allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)
    found = Scores.load(path)
    for name in ("values", "low", "high", "n", "p", "floor", "matrix"):
        a, b = getattr(scores, name), getattr(found, name)
        assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
    assert found.extras.keys() == scores.extras.keys()
    assert all(np.array_equal(found.extras[k], v) for k, v in scores.extras.items())
    assert (found.method, found.unit, found.details) == (scores.method, scores.unit, scores.details)
    assert found.trace == scores.trace and found.trace.meta == {"source": "world"}
    assert found.trace_id == scores.trace.id and len(found) == 6
    bare = Scores.load(Scores.of(plain_trace(), "x", np.ones(6)).save(tmp_path / "bare"))
    assert bare.matrix is None and bare.extras == {}


def test_details_that_are_no_json_are_refused(tmp_path):
    scores = Scores.of(plain_trace(), "x", np.ones(6), details={"f": object()})
    with pytest.raises(TypeError):
        scores.save(tmp_path / "x.npz")


def test_repr_is_one_line_and_html_is_escaped():
    assert repr(full_scores()).count("\n") == 0
    assert "made up, 5/6 sentences, nats; top #" in repr(full_scores())
    trace = Trace.from_text("Q\n<think>\n", "Alert <script>alert(1)</script> & so on. Then the rest of it.", answer="1")
    page = Scores.of(trace, "<b>", np.ones(2), unit="<i>")._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page and "&amp; so on" in page
    assert "<b>" not in page and "<i>" not in page
    empty = Scores.of(trace, "x", np.full(2, np.nan))
    assert "0/2" in repr(empty) and "<table>" in empty._repr_html_()


def test_to_dataframe_has_one_row_a_sentence():
    pytest.importorskip("pandas")
    scores = full_scores()
    frame = scores.to_dataframe()
    assert list(frame.columns) == [
        "sentence", "text", "category", "value", "low", "high", "n", "p", "floor", "outgoing",
    ]  # fmt: skip
    assert len(frame) == 6 and np.array_equal(frame["value"], scores.values, equal_nan=True)
    assert frame["text"].tolist() == list(scores.sentences)


@pytest.fixture
def untyped():
    """Without the checks of array shapes that only tests run under."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("name", ["low", "high", "p", "floor"])
def test_lengths_must_match_the_trace(name, untyped):
    with pytest.raises(ValueError, match=f"{name} has 5 entries for 6 sentences"):
        Scores.of(plain_trace(), "x", np.ones(6), **{name: np.ones(5)})
    with pytest.raises(ValueError, match="values has 4 entries"):
        Scores.of(plain_trace(), "x", np.ones(4))
    with pytest.raises(ValueError, match=r"matrix has shape \(6, 5\)"):
        Scores.of(plain_trace(), "x", np.ones(6), matrix=np.ones((6, 5)))


def test_extras_are_attributes_and_unknown_ones_are_named():
    scores = full_scores()
    assert scores.kurtosis is scores.extras["kurtosis"]
    assert hasattr(scores, "kurtosis") and not hasattr(scores, "nothing")
    with pytest.raises(AttributeError, match=r"made up scores have no 'nothing'.*kurtosis"):
        _ = scores.nothing


def test_copies_and_pickles_do_not_recurse():
    scores = full_scores()
    pickled = pickle.loads(pickle.dumps(scores))  # noqa: S301
    for twin in (copy.copy(scores), copy.deepcopy(scores), pickled):
        assert np.array_equal(twin.values, scores.values, equal_nan=True)
        assert np.array_equal(twin.kurtosis, scores.kurtosis)
    with pytest.raises(AttributeError):
        _ = Scores.__new__(Scores).anything


def test_scores_compare_and_hash_by_identity():
    scores, other = full_scores(), full_scores()
    assert scores == scores and scores != other and scores in [other, scores] and len({scores, other}) == 2


def test_a_registered_method_gives_its_unit():
    @method("counted", needs="rollouts", unit="apples")
    def counted(trace):
        return Scores.of(trace, "counted", np.ones(len(trace)))

    try:
        assert counted(plain_trace()).unit == "apples"
        assert METHODS["counted"].function is counted
    finally:
        del METHODS["counted"]
