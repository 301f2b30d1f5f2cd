"""Agreement between methods: known correlations, partialled covariates, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from anchors.comparison import agreement
from anchors.scores import Scores
from anchors.stats import partial_spearman, spearman
from tests.scripted import plant

TRACE = plant([0.5] * 60).trace


def scores(name: str, values: np.ndarray) -> Scores:
    return Scores.of(TRACE, name, values)


def test_agreement_is_spearman_for_every_pair():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 60))
    values[1, :5] = np.nan
    headroom = rng.normal(size=60)
    found = agreement([scores(name, v) for name, v in zip("abc", values, strict=True)], headroom=headroom)
    assert found.methods == ("a", "b", "c")
    assert found.covariates == ("position", "headroom")
    assert (np.diag(found.value) == 1).all()
    assert np.diag(found.n).tolist() == [60, 55, 60]
    assert np.allclose(found.value, found.value.T)
    expected = spearman(values[0], values[1])
    assert (found.value[0, 1], found.low[0, 1], found.high[0, 1], found.p[0, 1]) == expected[:4]
    assert found.n[0, 1] == 55
    partial = partial_spearman(values[0], values[2], [np.arange(60), headroom])
    assert (found.partial[2, 0], found.partial_low[2, 0], found.partial_high[2, 0]) == partial[:3]


def test_agreement_through_position_alone_disappears():
    rng = np.random.default_rng(1)
    a, b = (-np.arange(60) + rng.normal(0, 12, 60) for _ in range(2))
    found = agreement([scores("a", a), scores("b", b)])
    assert found.low[0, 1] > 0.3
    assert found.partial_low[0, 1] < 0 < found.partial_high[0, 1]


def test_agreement_refuses_what_cannot_be_compared():
    one = scores("a", np.arange(60.0))
    with pytest.raises(ValueError, match="at least two"):
        agreement([one])
    other = Scores.of(plant([0.5] * 60, seed=1).trace, "b", np.arange(60.0))
    with pytest.raises(ValueError, match="within one trace"):
        agreement([one, other])
    with pytest.raises(ValueError, match="headroom has 3"):
        agreement([one, one], headroom=np.zeros(3))
