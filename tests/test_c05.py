"""C5: shifts of made-up features whose right verdict is known, slots without and with an effect, and the run."""

from __future__ import annotations

import numpy as np
import pytest

from anchors.experiments import Evidence, Result, Setting
from anchors.experiments.c05_format import (
    CLAIM,
    FEATURES,
    PRIMARY,
    compare_shifts,
    domain_pairs,
    draw,
    features_of,
    format_pairs,
    judge,
    run,
    slot_range,
)
from anchors.lab import world_trace
from anchors.lab.worlds import load_world
from anchors.stats import mean_absolute_d
from anchors.strategy import strategy_features


def cells(rng, by_format: float, by_domain: float, size: int = 100):
    """Three groups of four features: shifted by format, and by domain, in standard deviations."""
    base = rng.normal(0, 1, (3, size, 4))
    base[1] += by_format * np.array([1, -1, 1, -1])
    base[2] += by_domain * np.array([1, 1, -1, -1])
    return dict(zip([("verbose", "x"), ("draft", "x"), ("verbose", "y")], base, strict=True))


def test_pairs_differ_in_one_thing():
    four = {(f, d): np.zeros((2, 1)) for f in ("verbose", "draft") for d in ("x", "y")}
    assert len(format_pairs(four)) == len(domain_pairs(four)) == 2
    assert all(a[1] == b[1] for a, b in format_pairs(four)) and all(a[0] == b[0] for a, b in domain_pairs(four))
    with pytest.raises(ValueError, match="no pair"):
        compare_shifts({("verbose", "x"): np.zeros((2, 1))}, PRIMARY)


@pytest.mark.parametrize(("by_format", "by_domain", "word"), [(1.5, 0.2, "holds"), (0.2, 1.5, "fails")])
def test_verdict_on_made_up_shifts(by_format, by_domain, word):
    found = compare_shifts(cells(np.random.default_rng(0), by_format, by_domain), PRIMARY, draws=300)
    assert judge(Evidence((found,))).word == word
    assert found.effect == pytest.approx(by_format - by_domain, abs=0.25)


def test_equal_shifts_are_inconclusive_at_the_level_of_the_interval():
    rng = np.random.default_rng(1)
    found = [compare_shifts(cells(rng, 0.8, 0.8, 40), PRIMARY, draws=200) for _ in range(60)]
    words = [judge(Evidence((f,))).word for f in found]
    assert words.count("inconclusive") >= 51  # 95 % of 60 is 57


def test_the_difference_is_that_of_the_two_means():
    made = cells(np.random.default_rng(2), 1.0, 0.3)
    parts = [mean_absolute_d(made["verbose", "x"], made[other]).value for other in (("draft", "x"), ("verbose", "y"))]
    assert compare_shifts(made, PRIMARY, draws=10).effect == pytest.approx(parts[0] - parts[1])


def test_a_range_over_slots_is_held_out():
    rng = np.random.default_rng(3)
    null = [slot_range({s: rng.random(60) < 0.5 for s in "abcd"}) for _ in range(200)]
    assert abs(np.mean([f.effect for f in null])) < 0.02  # the range over the same problems would be .13
    assert sum(f.low > 0 for f in null) <= 12
    real = slot_range({"a": rng.random(200) < 0.9, "b": rng.random(200) < 0.3, "c": rng.random(200) < 0.5})
    assert real.effect == pytest.approx(0.6, abs=0.15) and real.low > 0.3


def test_features_stand_in_their_order():
    traces = [world_trace(load_world("expression"), seed=s) for s in range(3)]
    found = features_of(traces)
    assert found.shape == (3, len(FEATURES)) and not np.isnan(found).any()
    assert found[1, FEATURES.index("depth")] == strategy_features(traces[1]).depth


def test_it_runs(tmp_path):
    found = run(Setting("tiny"))
    assert found.primary.name == PRIMARY and found.primary.low < found.primary.high
    assert {row["slot"] for row in found.tables["slots"]} == {"think", "before", "after", "quoted", "no trace"}
    assert sum(row["who"] == "programs" and row["kind"] == "domain" for row in found.tables["shifts"]) == 12
    result = Result(CLAIM, judge(found), found, {})
    assert draw(Result.load(result.save(tmp_path / "C5.json"))).get_title(loc="left").startswith("C5")
