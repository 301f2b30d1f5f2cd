"""C1: the arms as texts, the budgets of the compressors, the verdict on made-up accuracies, and the run."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from anchors.experiments import Result, Setting
from anchors.experiments.c01_compressor import (
    CLAIM,
    FACTS,
    FULL,
    GATE,
    LINE,
    METHODS,
    NOTHING,
    OWN,
    SILENT,
    SPAN,
    STRIPPED,
    THOUGHT,
    Case,
    arms_of,
    compressed,
    draw,
    evidence_of,
    judge,
    run,
)
from anchors.experiments.verdicts import superior
from anchors.lab.worlds.recall import RecallWorld
from anchors.trace import Trace

FACTS_OF = (("candle", "river"), ("planet", "4"), ("river", "7"), ("winter", "2"), ("silk", "planet"))


class Words:
    """An answerer whose tokens are words."""

    name = "words"

    def encode(self, text):
        from anchors.models.base import Tokens

        spans, at = [], 0
        for word in text.split():
            start = text.index(word, at)
            at = start + len(word)
            spans.append((start, at))
        return Tokens(list(range(len(spans))), spans)


@pytest.fixture
def case() -> Case:
    world = RecallWorld(length=(5, 5), context=False)
    problem = (FACTS_OF, "candle", 2)
    facts = [f"{a} gives {b}." for a, b in FACTS_OF]
    thought = (
        "We look for what candle gives in two hops. We also see that silk gives planet. candle gives river. "
        "So we look for river next. river gives 7. That leaves 7."
    )
    context = Trace.from_text("Facts:", " " + " ".join(facts), sentences=facts, answer="7")
    return Case(problem, world.prompt(problem), context, Trace.from_text("Q", thought, answer="7", target="7"))


def test_the_full_context_arm_is_the_prompt_of_the_world(case, monkeypatch):
    monkeypatch.setattr("anchors.experiments.c01_compressor.METHODS", {"first": False})
    given = {arm: row[0] for arm, row in arms_of([case], Words()).items()}
    assert given[FULL] == RecallWorld(length=(5, 5)).prompt(case.problem)
    assert given[NOTHING] == "What does candle give in two hops?\n<think>\n"
    assert given[LINE] == "Facts: That leaves 7. What does candle give in two hops?\n<think>\n"
    assert given[FACTS] == "Facts: candle gives river. river gives 7. What does candle give in two hops?\n<think>\n"
    assert (
        "That leaves" in given[THOUGHT] and "That leaves" not in given[STRIPPED] and "river gives 7" in given[STRIPPED]
    )
    assert "7" not in given[SILENT] and "candle gives river" in given[SILENT]
    assert given[OWN].startswith(given[NOTHING]) and given[OWN].endswith("river gives 7.")


@pytest.mark.parametrize("method", ["random", "first", "last", "bm25", SPAN])
def test_compressors_keep_to_the_budget_and_to_whole_facts(case, method):
    facts = {f"{a} gives {b}." for a, b in FACTS_OF}
    for limit in range(0, 18):
        text = compressed(case, limit, method, Words(), seed=0)
        assert len(text.split()) <= limit
        kept = [f"{part.strip()}." for part in text.strip().removesuffix(".").split(".") if part.strip()]
        assert set(kept) <= facts
        if limit >= 15:
            assert text == case.context.reasoning
        elif limit >= 3:
            assert len(kept) == limit // 3


def test_a_random_span_is_one_stretch_and_moves_with_the_seed(case):
    facts = [f"{a} gives {b}." for a, b in FACTS_OF]
    texts = {compressed(case, 6, SPAN, Words(), seed=s).strip() for s in range(40)}
    assert texts == {f"{a} {b}" for a, b in pairwise(facts)}


def test_the_question_is_seen_only_by_the_compressors_that_may(case):
    kept = compressed(case, 3, "bm25", Words(), seed=0)
    assert kept.strip() == "candle gives river."
    assert {name for name, sees in METHODS.items() if sees} == {"bm25", "contrastive_perplexity"}


def made_up(rng, *, thought: float, rivals: tuple[float, ...], full: float = 0.9, size: int = 200):
    shares = {
        NOTHING: 0.1,
        FULL: full,
        THOUGHT: 0.95,
        STRIPPED: thought,
        FACTS: thought,
        SILENT: 0.2,
        LINE: 0.4,
        OWN: 0.9,
    }
    shares |= {f"m{i}, as long as: {arm}": p for arm in (STRIPPED, FACTS) for i, p in enumerate(rivals)}
    right = {arm: (rng.random(size) < p).astype(float) for arm, p in shares.items()}
    return evidence_of([right], [dict.fromkeys(right, 10.0)])


@pytest.mark.parametrize(
    ("shares", "word"),
    [
        ({"thought": 0.9, "rivals": (0.3, 0.5)}, "holds"),
        ({"thought": 0.4, "rivals": (0.3, 0.8)}, "fails"),
        ({"thought": 0.9, "rivals": (0.3,), "full": 0.1}, "inconclusive"),
    ],
)
def test_verdicts_on_made_up_accuracies(shares, word):
    found = made_up(np.random.default_rng(0), **shares)
    assert judge(found).word == word
    assert found.primary.name == f"{STRIPPED} - strongest compressor" and found.finding(GATE).n == 200


def test_the_strongest_rival_is_picked_without_favour():
    """Nine equal rivals: picked and compared on the same problems the best of them would look better than it is."""
    from anchors.experiments.c01_compressor import _against_strongest

    rng, found = np.random.default_rng(1), []
    for _ in range(60):
        arms = {STRIPPED: rng.random(60)} | {f"m{i}, as long as: {STRIPPED}": rng.random(60) for i in range(9)}
        found.append(_against_strongest([{arm: (x < 0.5).astype(float) for arm, x in arms.items()}], STRIPPED))
    assert abs(np.mean([f.effect for f in found])) < 0.04  # on the same problems it would be -.1
    words = [superior(f).word for f in found]
    assert words.count("holds") <= 5 and words.count("fails") <= 5


def test_several_rungs_are_the_unit():
    rng = np.random.default_rng(2)
    arms = [NOTHING, FULL, THOUGHT, STRIPPED, FACTS, SILENT, LINE, OWN]
    arms += [f"m, as long as: {arm}" for arm in (STRIPPED, FACTS)]
    right = [{arm: rng.random(40) for arm in arms} for _ in range(5)]
    found = evidence_of(right, [dict.fromkeys(arms, 1.0)] * 5).primary
    assert (found.n, found.of) == (5, "training seeds")
    assert found.effect == pytest.approx(
        np.mean([r[STRIPPED].mean() - r[f"m, as long as: {STRIPPED}"].mean() for r in right])
    )


def test_it_runs(tmp_path):
    found = run(Setting("tiny"))
    assert found.primary.n == 6 and len(found.tables["arms"]) == 8 + 2 * (len(METHODS) + 1)
    result = Result(CLAIM, judge(found), found, {})
    assert draw(Result.load(result.save(tmp_path / "C1.json"))).get_title(loc="left").startswith("C1")


def test_the_thought_of_a_world_is_read_as_the_arms_read_it():
    """On traces the world itself writes, the recalled facts are those of the chain, in order."""
    from anchors.experiments.c01_compressor import _recalled
    from anchors.lab.worlds import write

    world = RecallWorld(wrong=0.0, check=0.0)
    for seed in range(20):
        rng = random.Random(seed)
        problem = world.problem(rng)
        reasoning = write(world, problem, rng).reasoning
        facts = [f"{a} gives {b}." for a, b in problem[0]]
        context = Trace.from_text("Facts:", " " + " ".join(facts), sentences=facts)
        thought = Trace.from_text(world.prompt(problem), reasoning, answer=world.gold(problem))
        bare = replace(world, context=False).prompt(problem)
        kept = [s.text for s in _recalled(Case(problem, bare, context, thought)).sentences]
        values = dict(problem[0])
        assert kept == [
            f"{problem[1]} gives {values[problem[1]]}.",
            f"{values[problem[1]]} gives {world.gold(problem)}.",
        ]
