"""What rollouts share, against tries of made-up texts counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from anchors.models.base import Job
from anchors.rollouts import Rollout
from anchors.sharing import off_text, sharing


def drawn(texts, *, text="ab|cdef", end=3, trace="t"):
    return [(Job(text, end, trace, 0, i), Rollout(0, i, written, 1, "stop")) for i, written in enumerate(texts)]


def test_what_repeats_the_text_is_not_computed():
    on, half, off, empty = (off_text(*item) for item in drawn(["cdef", "cdXX", "XXXX", ""]))
    assert (on, half, off, empty) == (0, 0.5, 1, 1)
    assert sharing(drawn(["cdef", "cdef"])) == sharing([])


def test_what_left_the_text_at_one_place_shares_its_beginning():
    assert sharing(drawn(["cdXY", "cdXZ"])).share == 3 / 4
    apart = drawn(["cX", "X"])
    assert sharing(apart).share == 1, "they left the text at different places"
    assert sharing(drawn(["XX"]) + drawn(["XX"], trace="u")).share == 1
    assert sharing([*drawn(["XX"]), (Job("ab|cdef", 2, "t", 1, 0), Rollout(1, 0, "|XX", 1, "stop"))]).share == 0.5


@pytest.mark.parametrize("letters", [2, 3])
def test_the_share_of_many_follows_from_some(letters):
    rng = np.random.default_rng(letters)
    texts = [
        "".join(rng.choice(list("XYZ"[:letters]), 30, p=[0.9, *[0.1 / (letters - 1)] * (letters - 1)]))
        for _ in range(4000)
    ]
    assert sharing(drawn(texts[:250])).of(4000) == pytest.approx(sharing(drawn(texts)).share, rel=0.2)
    assert sharing(drawn(["XYZ"] * 50)).exponent == 0
