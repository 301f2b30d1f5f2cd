"""Effects token by token are those the matrix is the mean of, and only as many are kept as fit."""

from __future__ import annotations

import numpy as np
import pytest

from anchors import suppress
from anchors.models.tokens import token_spans
from anchors.token_effects import TokenEffects


def test_their_means_over_a_sentence_are_the_matrix(tiny, problem_trace):
    found = suppress(problem_trace, tiny, resamples=10)
    spans = token_spans([tuple(pair) for pair in found.token_offsets.tolist()], problem_trace.spans).spans
    assert found.token_sources.tolist() == list(range(len(problem_trace)))
    for source, row in zip(found.token_sources, found.token_effects, strict=True):
        assert np.isnan(row[: spans[source][1]]).all(), "nothing before its own end"
        for target in range(source + 1, len(problem_trace)):
            a, b = spans[target]
            assert row[a:b].mean(dtype=float) == pytest.approx(found.matrix[target, source], rel=2e-3, abs=1e-6)


def test_offsets_are_places_in_the_text(tiny, problem_trace):
    found = suppress(problem_trace, tiny, resamples=10)
    start, end = found.token_offsets[-1]
    assert problem_trace.text[:end].rstrip().endswith(problem_trace.sentences[-1].text[-1]) and start < end
    assert len(found.token_offsets) == found.token_effects.shape[1]


def test_the_strongest_sources_are_kept_whatever_their_order():
    rows = np.full((6, 4), np.nan)
    rows[:, 2:] = np.array([3.0, 1.0, 5.0, 0.5, 4.0, 2.0])[:, None]
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4]):
        kept = TokenEffects([(i, i + 1) for i in range(4)], cells=12)
        for i in order:
            kept.add([i], rows[[i]])
        extras = kept.extras()
        assert extras["token_sources"].tolist() == [0, 2, 4]
        assert extras["token_effects"].shape == (3, 4) and extras["token_effects"].dtype == np.float16
        np.testing.assert_array_equal(extras["token_effects"][1], [np.nan, np.nan, np.nan, 5.0])


def test_nothing_is_kept_where_there_is_no_matrix(tiny, problem_trace):
    assert "token_effects" not in suppress(problem_trace, tiny, answer_only=True).extras
    assert "token_effects" not in suppress(problem_trace, tiny, compat="paper", resamples=10).extras
