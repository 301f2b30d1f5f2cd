"""No regular expression of the package takes more than linear time, whatever the text (`benchmarks/faults.py` tries more)."""

from __future__ import annotations

import re

import pytest

from tests.faults.hostile import HEADS, patterns, superlinear

pytestmark = pytest.mark.slow


def test_the_search_finds_a_quadratic_pattern():
    assert superlinear(re.compile(r"\s*</think>"), heads=[""])
    assert not superlinear(re.compile(r"[ab]c"), heads=[""])


def test_patterns_are_linear():
    found = patterns()
    assert len(found) > 80
    slow = {
        name: traps for name, pattern in found.items() if (traps := superlinear(pattern, heads=HEADS[:4], name=name))
    }
    assert not slow
