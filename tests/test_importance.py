"""Planted importance is recovered, none is found where none is, and the published formulas are reproduced."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest

from anchors.answers import NO_ANSWER
from anchors.effects import sentence_effects
from anchors.forced import AnswerStub
from anchors.importance import counterfactual_importance, forced_importance, headroom, resampling_importance
from anchors.lab.truth import exact_counterfactual_importance, exact_resampling_importance
from anchors.lab.worlds import load_world, write
from anchors.models.base import CapabilityError, Job, Sampling
from anchors.outcomes import first_sentence
from anchors.persistence import resilience
from anchors.rollouts import Rollout, Rollouts
from anchors.scores import Scores
from anchors.similarity import default_similarity, lexical
from anchors.stats import entropy
from anchors.trace import Trace
from anchors.trajectories import different_trajectories_fraction, overdeterminedness
from tests.scripted import ANSWER, ScriptedModel, draw, draw_null, plant
from tests.scripted import SAME_TEXT as SAME

PLANTED = plant([0.4, 0.4, 0.1, 0.85, 0.3, 0.9, 0.9, 0.5], same=[0.4, 0.7, 0.2, 0.5, 0.3, 0.6, 0.8, 0.5], final=0.95)


@pytest.fixture(scope="module")
def planted() -> Rollouts:
    return draw(PLANTED, 400, seed=1)


def inside(scores: Scores, truth: np.ndarray) -> np.ndarray:
    return (scores.low <= truth + 1e-12) & (truth <= scores.high + 1e-12)


def test_planted_importance_is_recovered(planted):
    resampled = resampling_importance(planted, level=0.999)
    counterfactual = counterfactual_importance(planted, similarity=SAME, level=0.999)
    assert inside(resampled, PLANTED.resampling).all()
    assert inside(counterfactual, PLANTED.counterfactual).all()
    assert set(np.flatnonzero(np.abs(PLANTED.resampling) > 0.15)) <= set(resampled.anchors())
    assert set(np.flatnonzero(np.abs(PLANTED.counterfactual) > 0.2)) <= set(counterfactual.anchors())
    assert np.allclose(counterfactual.different_trajectories_fraction, 1 - PLANTED.same, atol=0.08)
    assert resampled.floor.tolist() == [0.0] * len(PLANTED.trace)
    assert resampled.n.tolist() == [400] * len(PLANTED.trace)
    assert (counterfactual.n < 400).all()


def test_planted_intervals_cover_over_many_draws():
    hits = []
    for seed in range(30):
        rollouts = draw(PLANTED, 60, seed=seed)
        hits.append(inside(resampling_importance(rollouts), PLANTED.resampling))
        hits.append(inside(counterfactual_importance(rollouts, similarity=SAME), PLANTED.counterfactual))
    assert 0.93 <= np.mean(hits) <= 0.98


def test_kl_is_recovered_with_its_floor(planted):
    scores = resampling_importance(planted, metric="kl", level=0.999)
    q = PLANTED.p
    truth = q[:-1] * np.log(q[:-1] / q[1:]) + (1 - q[:-1]) * np.log((1 - q[:-1]) / (1 - q[1:]))
    assert inside(scores, truth).all()
    assert (scores.method, scores.unit) == ("resampling_kl", "nats")
    assert ((scores.floor > 0) & (scores.floor < 0.02)).all()
    assert (scores.low <= scores.values).all() and (scores.values <= scores.high).all()
    assert np.allclose(scores.difference, resampling_importance(planted).values)
    assert set(np.flatnonzero(np.abs(PLANTED.resampling) > 0.15)) <= set(scores.anchors())
    other = counterfactual_importance(planted, similarity=SAME, metric="kl")
    assert set(np.flatnonzero(np.abs(PLANTED.counterfactual) > 0.2)) <= set(other.anchors())


def test_sentence_effects_are_recovered(planted):
    scores = sentence_effects(planted, similarity=SAME, level=0.99)
    measured = ~np.isnan(PLANTED.effects)
    assert (~np.isnan(scores.matrix) == measured).all()
    within = (scores.matrix_low <= PLANTED.effects) & (PLANTED.effects <= scores.matrix_high)
    assert within[measured].mean() >= 0.95
    assert np.abs(scores.matrix - PLANTED.effects)[measured].max() < 0.13
    truth = np.array([PLANTED.effects[i + 1 :, i].mean() if i < 7 else np.nan for i in range(8)])
    assert inside(scores, truth)[:7].all()
    assert np.isnan(scores.values[7]) and np.isnan(scores.p[7])
    assert np.allclose(scores.values[:7], [np.nanmean(scores.matrix[:, i]) for i in range(7)])
    assert np.allclose(scores.incoming[1:], [np.nanmean(scores.matrix[j]) for j in range(1, 8)])
    assert set(np.flatnonzero(truth > 0.15)) <= set(scores.anchors())


def test_sentence_effects_equal_a_naive_count(planted):
    from anchors.splitting import split_sentences

    def rate(k: int, j: int) -> float:
        rows = [r.text.split("</think>")[0] for r in planted.at(k)]
        said = [{row[a:b].strip() for a, b in split_sentences(row)} for row in rows]
        return sum(PLANTED.trace.sentences[j].text in row for row in said) / len(said)

    matrix = sentence_effects(planted, similarity=SAME).matrix
    for j, i in [(1, 0), (5, 2), (7, 6)]:
        assert matrix[j, i] == pytest.approx(rate(i + 1, j) - rate(i, j))


def test_forced_importance_is_exact():
    model = ScriptedModel(PLANTED)
    scores = forced_importance(PLANTED.trace, model)
    assert np.allclose(scores.values, PLANTED.resampling)
    assert np.allclose(scores.logprob, np.log(PLANTED.p))
    assert np.allclose(scores.nats, np.diff(np.log(PLANTED.p)))
    assert (scores.low == scores.values).all() and np.isnan(scores.p).all()


def test_forced_importance_forces_the_text_it_says():
    seen = []

    class Recorder(ScriptedModel):
        def score(self, texts, starts):
            seen.extend((text, text[start:]) for text, start in zip(texts, starts, strict=True))
            return super().score(texts, starts)

    trace, model = PLANTED.trace, Recorder(PLANTED)
    forced_importance(trace, model)
    assert seen[2] == (trace.before(2) + f"\n</think>\n\nTherefore, the final answer is \\boxed{{{ANSWER}}}", "7}")
    seen.clear()
    forced_importance(trace, model, stub=AnswerStub("\n</think>\nThe answer is ", "."))
    assert seen[-1] == (trace.through(7) + "\n</think>\nThe answer is 7.", " 7.")
    model.stub = AnswerStub("\nSo ", "!")
    seen.clear()
    forced_importance(trace, model)
    assert seen[0][1] == " 7!"


def test_forced_importance_refuses():
    class BlackBox:
        name, sampling, generate = "black", Sampling(), ScriptedModel.generate

    with pytest.raises(CapabilityError, match="black cannot score"):
        forced_importance(PLANTED.trace, BlackBox())
    silent = Trace.from_text("?", "There is no answer in here.")
    with pytest.raises(ValueError, match="no target to force"):
        forced_importance(silent, ScriptedModel(PLANTED), outcome="target")


def test_resilience_is_recovered(planted):
    planted_low = PLANTED
    scores = resilience(planted, ScriptedModel(planted_low), sentences=[1, 2], n=300, similarity=SAME)
    for i in (1, 2):
        assert scores.low[i] <= PLANTED.returns(i, 20) <= scores.high[i]
        assert (
            scores.counterfactual_abandoned_low[i]
            <= PLANTED.counterfactual[i]
            <= scores.counterfactual_abandoned_high[i]
        )
        assert scores.abandoned[i] > 0.97
    assert np.isnan(scores.values[0]) and scores.n.tolist() == [0, 300, 300, 0, 0, 0, 0, 0]


def test_resilience_keeps_the_runs_apart_that_never_abandon(planted):
    scores = resilience(planted, ScriptedModel(PLANTED), sentences=[1], n=200, max_rounds=1, similarity=SAME)
    returned = PLANTED.returns(1, 1)
    assert scores.values[1] == pytest.approx(returned, abs=0.1)
    assert scores.abandoned[1] == pytest.approx(1 - scores.values[1])
    came_back = PLANTED.same[1] * PLANTED.p[2] + (1 - PLANTED.same[1]) * PLANTED.mention * PLANTED.other[1]
    truth = PLANTED.p[2] - came_back / returned
    assert scores.counterfactual_persistent_low[1] <= truth <= scores.counterfactual_persistent_high[1]
    stays = plant([0.5, 0.5], same=1.0)
    kept = resilience(draw(stays, 5), ScriptedModel(stays), sentences=[0], n=5, max_rounds=3, similarity=SAME)
    assert kept.values[0] == 3 and kept.abandoned[0] == 0 and np.isnan(kept.counterfactual_abandoned[0])


def test_resilience_does_not_depend_on_the_order_of_work(planted):
    class Backwards(ScriptedModel):
        def generate(self, jobs, *, sampling, seed):
            assert len({(j.trace, j.position, j.sample) for j in jobs}) == len(jobs)
            yield from super().generate(list(jobs)[::-1], sampling=sampling, seed=seed)

    rows = [
        resilience(planted, model(PLANTED), sentences=sentences, n=20, similarity=SAME, seed=3)
        for model, sentences in ((ScriptedModel, [1, 4]), (Backwards, [4, 1]), (Backwards, [4]))
    ]
    assert np.array_equal(rows[0].values, rows[1].values, equal_nan=True)
    assert rows[0].values[4] == rows[2].values[4] and rows[0].low[4] == rows[2].low[4]
    assert resilience(planted, ScriptedModel(PLANTED), n=2, similarity=SAME).measured.sum() == 5
    with pytest.raises(ValueError, match="sentence 9 does not exist"):
        resilience(planted, ScriptedModel(PLANTED), sentences=[9], similarity=SAME)


@pytest.mark.slow
def test_where_nothing_matters_at_most_one_trace_in_twenty_is_flagged():
    flagged = Counter()
    for seed in range(200):
        rollouts = draw_null(seed)
        flagged["resampling"] += bool(resampling_importance(rollouts).anchors(fdr=0.05))
        flagged["resampling_kl"] += bool(resampling_importance(rollouts, metric="kl").anchors(fdr=0.05))
        flagged["counterfactual"] += bool(counterfactual_importance(rollouts, similarity=SAME).anchors(fdr=0.05))
    assert all(count <= 10 for count in flagged.values()), flagged


# The formulas of thought-anchors `analyze_rollouts.py` (methods.md 1.4), written out plainly.


def official_kl(first: list[str], second: list[str], alpha: float = 1e-9) -> float:
    if not first or not second:
        return 0.0
    a, b, support = Counter(first), Counter(second), set(first) | set(second)
    p = {x: (a[x] + alpha) / (len(first) + alpha * len(support)) for x in support}
    q = {x: (b[x] + alpha) / (len(second) + alpha * len(support)) for x in support}
    return max(0.0, sum(p[x] * math.log(p[x] / q[x]) for x in support))


def accuracy(answers: list[str]) -> float:
    return sum(a == ANSWER for a in answers) / len(answers) if answers else 0.0


def test_compat_reproduces_the_published_formulas():
    planted = plant([0.4, 0.2, 0.8, 0.5], same=[0.5, 0.2, 1.0, 0.4], silent=0.5, seed=3)
    full = draw(planted, 50, seed=2)
    rollouts = Rollouts.from_texts(planted.trace, [[r.text for r in full.at(k)] for k in range(4)])
    rows = [
        [(first_sentence(r.text), a) for r, a in zip(rollouts.at(k), rollouts.answers(k), strict=True)]
        for k in range(4)
    ]
    rows = [[row for row in rows[k] if row[1] != NO_ANSWER] for k in range(4)] + [[]]
    answers = [[a for _, a in row] for row in rows]
    texts = [s.text for s in planted.trace.sentences]
    other = [[a for first, a in rows[k] if first != texts[k]] for k in range(4)]
    similar = [[a for first, a in rows[k] if first == texts[k]] for k in range(4)]
    expected = {
        "resampling": [accuracy(answers[k + 1]) - accuracy(answers[k]) if answers[k + 1] else 0.0 for k in range(4)],
        "resampling_kl": [official_kl(answers[k], answers[k + 1]) for k in range(4)],
        "counterfactual": [
            accuracy(answers[k + 1]) - accuracy(other[k]) if other[k] and answers[k + 1] else 0.0 for k in range(4)
        ],
        "counterfactual_kl": [
            official_kl(other[k], answers[k + 1] + similar[k]) if answers[k + 1] else 0.0 for k in range(4)
        ],
    }
    for metric in ("probability", "kl"):
        options = {"metric": metric, "compat": "paper"}
        for scores in (
            resampling_importance(rollouts, **options),
            counterfactual_importance(rollouts, similarity=SAME, **options),
        ):
            assert np.allclose(scores.values, expected[scores.method], rtol=1e-12, atol=1e-12), scores.method
            assert scores.values[3] == 0.0 and scores.n[3] == 0
    fractions = counterfactual_importance(rollouts, similarity=SAME, compat="paper")
    assert np.allclose(fractions.different_trajectories_fraction, [len(other[k]) / len(rows[k]) for k in range(4)])
    unique = [1 - len({first for first, _ in rows[k]}) / len(rows[k]) for k in range(4)]
    assert np.allclose(fractions.overdeterminedness, unique)


# Missing data, outcomes and denominators.


def boxes(answers: str) -> list[str]:
    return [
        " The kitten sleeps all day.\n</think>\n\\boxed{" + a + "}" if a != "-" else " Hm, no idea." for a in answers
    ]


TWO = Trace.from_text("?", "The kitten sleeps all day. Then it eats a whole fish.\n</think>\n\\boxed{7}", target="9")


def test_what_was_not_measured_is_nan():
    rollouts = Rollouts.from_texts(TWO, [boxes("7777"), boxes("7788")])
    for scores in (
        resampling_importance(rollouts),
        resampling_importance(rollouts, metric="kl"),
        counterfactual_importance(rollouts, similarity=SAME),
        counterfactual_importance(rollouts, similarity=SAME, metric="kl"),
        sentence_effects(rollouts, similarity=SAME),
    ):
        assert np.isnan(scores.values[1]) and np.isnan(scores.p[1]) and np.isnan(scores.low[1])
        assert scores.n[1] == 0
    none_differs = counterfactual_importance(rollouts, similarity=SAME)
    assert np.isnan(none_differs.values[0]) and none_differs.different_trajectories_fraction[0] == 0
    assert counterfactual_importance(rollouts, similarity=SAME, compat="paper").values[0] == 0
    with pytest.raises(ValueError, match="no free rollouts"):
        resampling_importance(Rollouts.from_texts(TWO, []))


def test_no_answer_is_an_outcome_of_its_own():
    rollouts = Rollouts.from_texts(TWO, [boxes("77--"), boxes("7777"), boxes("777-")])
    scores = resampling_importance(rollouts)
    assert scores.values.tolist() == [0.5, -0.25]
    assert scores.answered_before.tolist() == [0.5, 1.0] and scores.answered_after.tolist() == [1.0, 0.75]
    assert scores.headroom.tolist() == [pytest.approx(math.log(2)), 0.0]
    assert resampling_importance(rollouts, answered_only=True).values.tolist() == [0.0, 0.0]
    assert resampling_importance(rollouts, outcome=NO_ANSWER).values.tolist() == [-0.5, 0.25]


def test_outcomes_can_be_named():
    rollouts = Rollouts.from_texts(TWO, [boxes("7788"), boxes("7799"), boxes("9999")])
    for outcome, values, words in (
        (None, [0.0, -0.5], "own answer '7'"),
        ("target", [0.5, 0.5], "target '9'"),
        ("8.0", [-0.5, 0.0], "answer '8.0'"),
        (lambda a: int(a) > 7, [0.0, 0.5], "answers accepted by <lambda>"),
    ):
        scores = resampling_importance(rollouts, outcome=outcome)
        assert scores.values.tolist() == values
        assert scores.details["outcome"] == words
    silent = Trace.from_text("?", "The kitten sleeps all day. Then it eats a whole fish.")
    modal = resampling_importance(Rollouts.from_texts(silent, [boxes("7788"), boxes("7799"), boxes("9997")]))
    assert "commonest answer '9' at boundary 2" in modal.details["outcome"]
    with pytest.raises(ValueError, match="has no target"):
        resampling_importance(Rollouts.from_texts(silent, [boxes("7")] * 3), outcome="target")


def test_the_filter_used_is_named_in_the_result():
    rollouts = Rollouts.from_texts(TWO, [boxes("77"), boxes("88"), boxes("77")])
    scores = counterfactual_importance(rollouts, similarity=lexical())
    assert (scores.details["similarity"], scores.details["threshold"]) == ("lexical", 0.5)
    assert counterfactual_importance(rollouts).details["similarity"] == default_similarity().name
    assert (
        resilience(rollouts, ScriptedModel(PLANTED), sentences=[], similarity=SAME).details["similarity"] == "same text"
    )


def test_first_sentences():
    assert first_sentence("") == first_sentence("\n</think>\nThe answer is 3.") == ""
    assert first_sentence(" One sentence here") == "One sentence here"
    assert first_sentence(" Yes. " + "It goes on and on. " * 500) == "Yes. It goes on and on."
    assert first_sentence(" " + "very " * 1000 + "long. Then more of it.").endswith("very long.")


def test_covariates(planted):
    assert np.allclose(different_trajectories_fraction(planted, similarity=SAME), 1 - PLANTED.same, atol=0.08)
    assert np.allclose(overdeterminedness(planted), PLANTED.same, atol=0.08)
    counts = [list(Counter(planted.answers(k)).values()) for k in range(8)]
    assert np.allclose(headroom(planted), [entropy(row) for row in counts])
    assert np.isnan(headroom(Rollouts.from_texts(TWO, [boxes("7")]))[1])


def test_numbers_follow_from_the_seed_and_survive_saving(planted, tmp_path):
    first, second = (resampling_importance(planted, metric="kl", seed=4) for _ in range(2))
    assert np.array_equal(first.low, second.low) and np.array_equal(first.p, second.p)
    assert not np.array_equal(first.low, resampling_importance(planted, metric="kl", seed=5).low)
    loaded = Scores.load(first.save(tmp_path / "scores.npz"))
    assert np.array_equal(loaded.values, first.values) and loaded.details == first.details


@pytest.mark.slow
def test_intervals_cover_the_exact_truth_of_a_world():
    world, hits, other = load_world("expression"), [], []
    for seed in range(10):
        rng = random.Random(seed)
        problem = world.problem(rng)
        written = write(world, problem, rng)
        answer = world.answer(written.end)
        trace = Trace.from_text(world.prompt(problem), written.reasoning + world.ending(answer), id=f"w{seed}")
        if [s.text for s in trace.sentences] != [m.text for m in written.moves]:
            continue
        rollouts = Rollouts.from_texts(trace, [])
        for k, state in enumerate(written.states):
            done = (write(world, problem, rng, state=state) for _ in range(100))
            texts = [f" {w.reasoning}{world.ending(world.answer(w.end))}" for w in done]
            rollouts.add(Rollout(k, r, text, 0, "stop") for r, text in enumerate(texts))
        truth = exact_resampling_importance(world, written.states, answer)
        hits += inside(resampling_importance(rollouts), truth).tolist()
        found = counterfactual_importance(rollouts, similarity=SAME)
        events = exact_counterfactual_importance(world, written.states, answer)
        both = ~np.isnan(events) & found.measured & np.array([m.role != "filler" for m in written.moves])
        other += inside(found, events)[both].tolist()
    assert len(hits) > 70 and np.mean(hits) >= 0.93
    assert len(other) > 20 and np.mean(other) >= 0.92


def test_jobs_of_the_scripted_model_depend_on_their_keys_only():
    model, trace = ScriptedModel(PLANTED), PLANTED.trace
    jobs = [Job(trace.text, trace.boundaries[2], trace.id, 2, r) for r in range(6)]
    one = {j: c.text for j, c in model.generate(jobs, sampling=model.sampling, seed=0)}
    two = {j: c.text for j, c in model.generate(jobs[::-1], sampling=model.sampling, seed=0)}
    assert one == two and len(set(one.values())) > 1
