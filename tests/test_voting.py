"""Votes by hand, and expectations over subsets against enumeration of every subset."""

from __future__ import annotations

import json
from itertools import combinations
from math import comb

import numpy as np
import pytest

from anchors.answers import NO_ANSWER
from anchors.voting import majority_at, pass_at, top_threshold, vote


def by_enumeration(answers, gold, n):
    """P(majority of a random subset is gold), a tie being worth its share."""
    won = 0.0
    for subset in combinations(answers, n):
        counts = {a: subset.count(a) for a in subset if a is not None}
        best = max(counts.values(), default=0)
        leaders = [a for a, count in counts.items() if count == best]
        won += (gold in leaders) / max(1, len(leaders))
    return won / comb(len(answers), n)


def test_majority_at_equals_enumeration_of_every_subset():
    rng = np.random.default_rng(0)
    for _ in range(60):
        total = int(rng.integers(1, 10))
        answers = [None if a == 4 else str(a) for a in rng.integers(0, 5, size=total)]
        for n in range(1, total + 1):
            assert majority_at(answers, "1", n) == pytest.approx(by_enumeration(answers, "1", n), abs=1e-12)


def test_majority_at_of_many_traces_agrees_with_drawn_subsets():
    rng = np.random.default_rng(1)
    answers = [str(a) for a in rng.choice(12, size=600, p=[0.2, *[0.8 / 11] * 11])]
    for n in (1, 7, 64, 300):
        exact, drawn = majority_at(answers, "0", n), majority_at(answers, "0", n, draws=20_000, seed=n)
        assert abs(exact - drawn) < 4 * np.sqrt(max(exact * (1 - exact), 1e-4) / 20_000)
    assert majority_at(answers, "0", 1) == pytest.approx(np.mean([a == "0" for a in answers]))
    assert majority_at(answers, "0", 600) == 1.0
    assert majority_at(answers, "no such answer", 64) == 0.0


def test_equal_answers_are_one_class_and_silence_is_wrong():
    assert majority_at(["0.5", "1/2", "3"], "1/2", 3) == 1.0
    assert majority_at([None, None, "3"], "3", 1) == pytest.approx(1 / 3)
    assert majority_at([None, NO_ANSWER], "3", 2) == 0.0


def test_pass_at_equals_enumeration():
    for total in range(1, 8):
        for correct in range(total + 1):
            for n in range(1, total + 1):
                hits = [any(i < correct for i in subset) for subset in combinations(range(total), n)]
                assert pass_at(correct, total, n) == pytest.approx(np.mean(hits))


def test_a_weighted_vote_by_hand():
    found = vote(["a", "b", "b", None, "c", "a"], [3.0, 1.0, 1.5, 9.0, np.nan, 0.2])
    assert found.answer == "a" and found.support == pytest.approx({"a": 3.2, "b": 2.5})
    assert (found.voters, found.no_answer, found.unmeasured, found.filtered, found.tied) == (4, 1, 1, 0, ())
    assert found.consensus == pytest.approx(3.2 / 5.7)


def test_the_filter_keeps_weights_at_or_above_the_percentile():
    weights = np.arange(1.0, 21.0)
    found = vote([*"a" * 18, "b", "b"], weights, top=0.1)
    assert top_threshold(weights, top=0.1) == pytest.approx(np.quantile(weights, 0.9)) == 18.1
    assert (found.answer, found.voters, found.filtered) == ("b", 2, 18)
    assert vote([*"a" * 18, "b", "b"], weights, top=0.9).answer == "a"
    assert vote(["a", "a", "b"], [1.0, 1.0, 1.0], top=0.1).voters == 3  # equal weights: nothing is below


def test_the_percentile_is_taken_over_traces_that_can_vote():
    weights = [1.0, 2.0, 3.0, 100.0, 100.0, 100.0]
    assert vote(["a", "b", "c", None, None, None], weights, top=0.5).support == {"c": 3.0, "b": 2.0}


def test_of_equal_answers_the_first_seen_wins_and_the_tie_is_told():
    found = vote(["b", "a", "a", "b"])
    assert (found.answer, found.tied, found.consensus) == ("b", ("a",), 0.5)
    assert vote(["a", "b", "b", "a"]).answer == "a"
    thirds = vote(["b", "a", "a", "a"], [0.3, 0.1, 0.1, 0.1])  # 0.1 + 0.1 + 0.1 > 0.3 in floats
    assert thirds.answer == "b" and thirds.tied == ("a",)


def test_without_voters_there_is_no_answer():
    found = vote([None, NO_ANSWER])
    assert found.answer is None and found.no_answer == 2 and np.isnan(found.consensus)
    assert vote([]).answer is None


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="2 answers and weights of shape"):
        vote(["a", "b"], [1.0])
    with pytest.raises(ValueError, match=r"smallest weight is -1\.0"):
        vote(["a"], [-1.0])
    with pytest.raises(ValueError, match="top is 0"):
        vote(["a"], top=0.0)
    with pytest.raises(ValueError, match="n is 3"):
        majority_at(["a", "b"], "a", 3)
    with pytest.raises(ValueError, match="draws is 0"):
        majority_at(["a", "b"], "a", 1, draws=0)
    with pytest.raises(ValueError, match="correct=3"):
        pass_at(3, 2, 1)


@pytest.fixture
def call():
    """Run `anchors vote ...` in this process; returns stdout."""
    import typer
    from typer.testing import CliRunner

    from anchors.commands.vote import register

    app = typer.Typer()
    register(app)

    @app.callback()
    def root() -> None:
        """A second command, so that `vote` keeps its name."""

    def run(*words):
        return CliRunner().invoke(app, ["vote", *map(str, words)], catch_exceptions=True)

    return run


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Eight traces of each of two problems, by the shipped reasoner."""
    import random

    from anchors.datasets import write_jsonl
    from anchors.lab.worlds import load_world
    from anchors.models import load_model
    from anchors.resampling import write_traces

    world, rng = load_world("expression"), random.Random(2)
    problems = [world.problem(rng) for _ in range(2)]
    prompts, gold = (
        [world.prompt(p) for p in problems for _ in range(8)],
        [world.gold(p) for p in problems for _ in range(8)],
    )
    traces = write_traces(prompts, load_model("lab/reasoner", check=False), targets=gold, seed=0)
    return write_jsonl(traces, tmp_path_factory.mktemp("vote") / "traces.jsonl"), traces


def test_the_command_votes_with_stored_traces(call, written):
    path, traces = written
    found = json.loads(call(path, "--json").stdout)
    assert [r["votes"][0]["answer"] for r in found] == [
        vote([t.answer for t in traces[i : i + 8]]).answer for i in (0, 8)
    ]
    by_model = json.loads(call(path, "-m", "lab/reasoner", "--weight", "tail", "--top", 0.5, "--json").stdout)
    assert [row["vote"] for row in by_model[0]["votes"]] == ["majority", "weighted by tail", "top 50% by tail"]
    assert (
        by_model[0]["votes"][2]["filtered"] == 4 and by_model[0]["votes"][0]["answer"] == found[0]["votes"][0]["answer"]
    )
    assert by_model[0]["votes"][0]["tokens"] > 8 * 40 and 0.1 < by_model[0]["window share"] < 0.25
    shown = call(path, "-m", "lab/reasoner", "--online", "-n", 8, "--warm-up", 4, "--consensus", 0, "-q").stdout
    right = sum(r["votes"][0]["right"] for r in by_model)
    assert f"majority: {right} of 2 right" in shown and "online: " in shown


def test_the_command_draws_and_votes_online(call, written):
    prompt = written[1][0].prompt
    offline = json.loads(call("--prompts", prompt, "-m", "lab/reasoner", "-n", 8, "--json").stdout)
    assert offline[0]["votes"][0]["answer"] == vote([t.answer for t in written[1][:8]]).answer
    online = json.loads(call("--prompts", prompt, "-m", "lab/reasoner", "-n", 8, "--online", "--json").stdout)
    (row,) = online[0]["votes"]
    assert row["traces"] <= 8 and row["saved"] is None and 0 < row["tokens"] <= offline[0]["votes"][0]["tokens"]


@pytest.mark.parametrize(
    ("words", "said"),
    [((), "either a trace file or --prompts"), (("--prompts", "x"), "need --model"),
     (("--prompts", "x", "-m", "lab/reasoner", "--weight", "entropy"), "weight is 'entropy'")],
)  # fmt: skip
def test_the_command_refuses_wrong_use(call, words, said):
    assert said in str(call(*words).exception)
