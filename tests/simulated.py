"""Records of transfer runs drawn from stated effects, so that verdicts and error rates can be checked without models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from anchors.transfer import Calipers, Transfer
from anchors.transfer.assemble import assemble
from anchors.transfer.inputs import Inputs, Written
from anchors.transfer.record import Plan, Record
from tests.made_up import BlackBox, build_trace, written

WORDS = (4, 4, 4, 4, 4)
PLAN = Plan(
    "forced", ("delete",), 1, 0.05, 5, Calipers(), 8, 0, "made up", (), (1.0,), corrupt=False, pairs=False
)  # fmt: skip


@lru_cache
def one(number: int) -> Written:
    """A writer's trace of five sentences, the second of which is its anchor."""
    scores = written(build_trace(number, WORDS), [0.1, 2.0, 0.3, 0.2, 0.4], [1])
    return Written(scores, scores, None, None, "7")


def record(number: int, d: float, *, writer: float | None = 1.0, **changed: Any) -> Record:
    """What one trace gave: the anchor moves the reader by `d` more than its controls do, and the writer by `writer`."""
    length, position, plain = [4.0] * 5, [0.0, 1.0, 2.0, 3.0, 4.0], [0.0] * 5
    base: dict[str, Any] = {
        "trace": f"t{number}", "anchors": [1], "signs": [1.0], "sets": [[0], [2]], "unmatched": 0, "full": -1.0,
        "none": -3.0 - number / 100, "alone": 0.5, "effects": {"delete": [d + 0.25, 0.25, 4.0]},
        "writer_effects": {} if writer is None else {"delete": [writer + 0.5, 0.5, 4.0]}, "held_out": None,
        "singles": [0.1, 0.5, 0.2, 0.4, 0.3], "random": [float((-1) ** number)] * 20,
        "profile": [0.1, 0.5, 0.2, 0.4, 0.3], "halves": None, "compared": "a profile", "cells": None,
        "answer_tokens": 1, "answered": [np.nan, np.nan], "scored": [1.0, 1.0],
        "covariates": [length, position, ["x"] * 5, [False] * 5, plain], "planted": [1.0 + number / 100, 0.1],
    }  # fmt: skip
    return Record(**(base | changed))


def run(d: Sequence[float], writer: Sequence[float] | None = None, *, margin: float = 0.25, **changed: Any) -> Transfer:
    """A transfer run whose traces gave these d; by default the writer's own effect is 1 give or take 0.1."""
    w = [1.0 + 0.1 * (-1) ** i for i in range(len(d))] if writer is None else writer
    rows = [
        (one(i), record(i, float(x), writer=float(y), **changed)) for i, (x, y) in enumerate(zip(d, w, strict=True))
    ]
    return of(rows, margin=margin)


def of(rows: Sequence[tuple[Written, Record]], *, margin: float = 0.25, plan: Plan = PLAN) -> Transfer:
    inputs = Inputs("writer", "made up", tuple(w for w, _ in rows), ())
    return assemble(inputs, rows, [], plan, reader=BlackBox(name="reader"), margin=margin, refused=[])


def spread(rng: np.random.Generator, mean: float, sd: float, n: int) -> list[float]:
    return rng.normal(mean, sd, n).tolist()
