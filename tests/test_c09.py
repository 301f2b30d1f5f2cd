"""C9: its verdict on evidence whose verdict is known, its numbers on made-up pools, and a tiny run on a model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from anchors.confidence import Definition, trace_confidence
from anchors.equal_tokens import Pool
from anchors.experiments import Setting, run_experiment
from anchors.experiments.base import Evidence, Result
from anchors.experiments.c09_confidence import AUROC, FILTER, ROOM, VOTE, Sample, evidence_of, judge, sentence_rows
from anchors.experiments.verdicts import mean_finding
from anchors.online import StoredTrace


def evidence(auroc, vote, room=0.2, n=60, spread=0.05, seed=0):
    rng = np.random.default_rng(seed)

    def finding(name, mean, unit):
        x = rng.normal(size=n)
        return mean_finding(name, mean + spread * (x - x.mean()) / x.std(), of="problems", unit=unit)

    return Evidence(
        (finding(AUROC, auroc, "of AUROC"), finding(VOTE, vote, "of votes"), finding(ROOM, room, "of votes"))
    )


@pytest.mark.parametrize(
    ("auroc", "vote", "word"),
    [
        (0.1, 0.1, "holds"),
        (0.0, 0.1, "fails"),
        (0.1, -0.1, "fails"),
        (-0.1, -0.1, "fails"),
        (0.02, 0.1, "holds"),
    ],
)
def test_the_verdict_follows_from_both_gains(auroc, vote, word):
    assert judge(evidence(auroc, vote)).word == word


def test_what_cannot_be_told_is_inconclusive_with_what_could_have_been():
    verdict = judge(evidence(0.1, 0.02, n=12, spread=0.3))
    assert verdict.word == "inconclusive" and verdict.detectable is not None and 0.15 < verdict.detectable < 0.5


def test_a_majority_that_is_always_right_leaves_nothing_to_say():
    verdict = judge(evidence(0.1, -0.1, room=0.002, spread=0.001))
    assert verdict.word == "inconclusive" and "nothing to gain" in verdict.reason
    assert judge(evidence(-0.1, -0.1, room=0.002, spread=0.001)).word == "fails"


def test_an_effect_of_nothing_is_seldom_called_one():
    rng = np.random.default_rng(0)
    words = []
    for _ in range(150):
        found = [mean_finding(n, rng.normal(scale=0.2, size=40), of="problems", unit="") for n in (AUROC, VOTE)]
        words.append(judge(Evidence((*found, mean_finding(ROOM, [0.2, 0.21], of="problems", unit="")))).word)
    assert words.count("holds") / 150 < 0.02


def sample(dip, *, problems=20, size=16, seed=0):
    """Wrong traces dip somewhere by `dip`, and make up for it elsewhere, so that their mean says nothing."""
    rng = np.random.default_rng(seed)
    rule, pools = Definition(window=16, tail=0.1), []
    for _ in range(problems):
        traces = []
        for right in rng.random(size) < 0.6:
            tokens = 6 + 0.5 * rng.normal(size=96)
            if not right:
                tokens[30:46] -= dip
                tokens[50:66] += dip
            answer = "7" if right else str(rng.choice(["1", "2"]))
            traces.append(StoredTrace(answer, trace_confidence(tokens, definition=rule), 97, logprob=-0.5))
        pools.append(Pool("7", traces))
    rows = [(i % 10, "right", 0.5 + 0.01 * i) for i in range(20)] + [(0, "wrong, own", float("nan"))]
    return Sample(pools, rows)


def test_planted_breakdowns_hold_and_noise_does_not():
    found = evidence_of([sample(4.0)], redraws=4)
    assert judge(found).word == "holds"
    assert found.finding(AUROC).effect > 0.3 and found.finding(AUROC).n == 20
    rows = {row["confidence"]: row for row in found.tables["auroc"]}
    assert rows["lowest"]["auroc"] > 0.95 and rows["mean"]["low"] < 0.5 < rows["mean"]["high"]
    assert np.isclose(rows["log p of what was drawn"]["auroc"], 0.5)
    assert [row["window"] for row in found.tables["windows"]] == [8, 16, 32]
    assert found.tables["windows"][1]["share of a trace"] == pytest.approx(16 / 96)
    votes = {(row["n"], row["method"]): row for row in found.tables["votes"]}
    assert votes[8, FILTER]["gain"] == pytest.approx(found.finding(VOTE).effect)
    assert votes[16, "online low"]["saved"] > 0 and (4, "online low") not in votes
    assert found.finding("Spearman(confidence, worth), right").effect == pytest.approx(0.595)
    assert np.isnan(found.finding("Spearman(confidence, worth), wrong, own").effect)
    noise = evidence_of([sample(0.0, seed=1)], redraws=4)
    assert judge(noise).word in ("fails", "inconclusive")
    assert noise.finding(AUROC).low < 0 < noise.finding(AUROC).high


def test_several_models_are_the_units():
    found = evidence_of([sample(4.0, seed=s, problems=8) for s in range(3)], redraws=2)
    assert found.primary.n == 3 and found.primary.of == "training seeds"
    assert found.tables["auroc"][0]["asked"] == 24


def test_the_worth_of_sentences_is_that_of_the_world(problem_trace):
    """One right trace of the world, read by the reasoner: its Spearman with the exact importance, by hand."""
    from anchors.confidence import sentence_confidence
    from anchors.lab.truth import truth_scores
    from anchors.lab.worlds.expression import WORLD
    from anchors.models import load_model
    from anchors.stats import spearman

    model = load_model("lab/reasoner", check=False)
    text = problem_trace.reasoning + problem_trace.ending
    stored = StoredTrace(problem_trace.answer, trace_confidence([1.0]), 1, text)
    rows = sentence_rows(problem_trace.prompt, "no such answer", [stored], model, WORLD)
    exact = truth_scores(problem_trace, WORLD, kind="resampling").values
    by_hand = spearman(sentence_confidence(problem_trace, model).values, np.round(exact, 12)).value
    assert [kind for kind, _ in rows] == ["wrong, own", "wrong, gold"]
    assert rows[0][1] == pytest.approx(by_hand, abs=1e-6) and np.isnan(rows[1][1])
    off = StoredTrace("3", trace_confidence([1.0]), 1, " Quite another thing." + problem_trace.ending)
    assert sentence_rows(problem_trace.prompt, "3", [off], model, WORLD) == []


@pytest.mark.slow
def test_a_tiny_run_leaves_result_and_figure(tmp_path):
    result = run_experiment("C9", Setting("tiny", out=tmp_path))
    assert result.verdict.word in ("holds", "fails", "inconclusive")
    assert {p.name for p in tmp_path.iterdir()} >= {"C9.json", "C9.svg", "C9.png"}
    json.loads((tmp_path / "C9.json").read_text())
    again = Result.load(tmp_path / "C9.json")
    assert judge(again.evidence).word == result.verdict.word
    assert result.evidence.details["temperature"] == [1.0]
    assert any("right answers" in note for note in result.evidence.notes)
