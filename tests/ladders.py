"""Made-up findings for the verdict rules of the claims about training regimes, and a ladder that trains in seconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anchors.experiments.base import Evidence, Finding
from anchors.models import lab_models
from anchors.stats import t_interval

RNG = np.random.default_rng(0)


def mean_of(name, values, *, of="problems"):
    """A finding whose effect is the mean of `values`, without the p that no rule here reads."""
    x = np.asarray(values, dtype=float)
    low, high = t_interval(x)
    return Finding(name, float(x.mean()), float(low), float(high), len(x), of, "of problems", None, tuple(x))


def interval(name, low, high, *, of="problems"):
    return Finding(name, (low + high) / 2, low, high, 500, of, "of problems")


def paired(rng, n, first, second):
    """Differences of two arms that are right with these chances, independently."""
    return (rng.random(n) < first).astype(float) - (rng.random(n) < second)


def evidence(*findings):
    return Evidence(tuple(findings))


def needs(*models):
    absent = [name for name in models if name not in lab_models()]
    return pytest.mark.skipif(bool(absent), reason=f"not shipped yet: {', '.join(absent)}")


def in_seconds(recipe):
    """The recipe with a model and a training too small to learn anything."""
    return replace(recipe, steps=2, batch=2, layers=1, width=16, heads=2, mlp=16, bfloat16=False)
