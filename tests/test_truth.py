"""Truth of subsets, the dependency graph, truth as scores, and a world as an exact sampler."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from anchors import Trace, resample, resampling_importance
from anchors.lab import world_trace
from anchors.lab.oracle import WorldModel, same_event
from anchors.lab.truth import (
    answer_distribution,
    dependency_graph,
    exact_headroom,
    kept_distribution,
    necessity,
    read_trace,
    subset_truth,
    sufficiency,
    truth_scores,
)
from anchors.lab.worlds import load_world, write
from anchors.lab.worlds.expression import ExpressionWorld
from anchors.models.base import Job, Sampling

WORLD = load_world("expression")


def short_trace(world, *, longest=10):
    return next(t for t in (world_trace(world, seed=s) for s in range(100)) if 6 <= len(t) <= longest)


@pytest.mark.parametrize("name", ["expression", "alchemy", "null"])
def test_keeping_the_first_sentences_is_the_boundary(name):
    world, rng = load_world(name), random.Random(4)
    problem = world.problem(rng)
    written = write(world, problem, rng)
    texts = [move.text for move in written.moves]
    for i, state in enumerate(written.states):
        exact = answer_distribution(world, state)
        assert kept_distribution(world, problem, texts[:i]) == {a: pytest.approx(p) for a, p in exact.items()}


def test_kept_sentences_against_simulation():
    """The program run 20,000 times, made to write the next kept sentence wherever it can."""
    trace = short_trace(WORLD)
    problem, sentences = WORLD.parse(trace.prompt), [s.text.strip() for s in trace.sentences]
    kept = sentences[1::2]
    rng, hits, n = random.Random(0), 0, 20_000
    for _ in range(n):
        state, index = WORLD.start(problem), 0
        while WORLD.answer(state) is None:
            moves = WORLD.moves(state)
            forced = [m for m in moves if index < len(kept) and m.text == kept[index]]
            move = forced[0] if forced else rng.choices(moves, weights=[m.probability for m in moves])[0]
            index += bool(forced)
            state = move.state
        hits += WORLD.answer(state) == trace.answer
    p = kept_distribution(WORLD, problem, kept)[trace.answer]
    assert abs(hits / n - p) <= 4.5 * np.sqrt(p * (1 - p) / n)


@pytest.mark.slow
def test_all_subsets_of_a_short_trace():
    trace = short_trace(WORLD)
    problem, sentences = WORLD.parse(trace.prompt), [s.text.strip() for s in trace.sentences]
    truth = subset_truth(WORLD, problem, sentences, trace.answer)
    assert truth.kept.shape == (1 << len(trace), len(trace))
    assert truth.sufficiency[0] == 0 and truth.necessity[0] == pytest.approx(0)
    assert truth.sufficiency[-1] == pytest.approx(truth.necessity[-1])
    for mask in (1, 5, (1 << len(trace)) - 2):
        subset = np.flatnonzero(truth.kept[mask]).tolist()
        assert truth.necessity[mask] == pytest.approx(necessity(WORLD, problem, sentences, subset, trace.answer))
        assert truth.sufficiency[mask] == pytest.approx(sufficiency(WORLD, problem, sentences, subset, trace.answer))


def test_necessity_where_it_can_be_worked_out_by_hand():
    world = ExpressionWorld(slip=0.0, check=0.0, reconsider=0.0, filler=0.5, filler_between=0.0)
    problem = (2, "+", 3, "*", 4)
    sentences = ["We need 2 + 3 * 4 modulo 10.", "Okay, let me think.", "I will multiply first.", "3 * 4 = 2."]
    sentences += ["Now we have 2 + 2.", "2 + 2 = 4.", "That leaves 4."]
    assert necessity(world, problem, sentences, [1], "4") == pytest.approx(0)
    assert necessity(world, problem, sentences, [2], "4") == pytest.approx(0.5)
    assert sufficiency(world, problem, sentences, [2], "4") == pytest.approx(0.5)
    assert sufficiency(world, problem, sentences, [0, 1], "4") == pytest.approx(0)
    with pytest.raises(ValueError, match="sentence 9 does not exist; the trace has sentences 0 to 6"):
        necessity(world, problem, sentences, [9], "4")


def test_traces_too_long_or_off_the_program_are_refused():
    problem = (2, "+", 3, "*", 4)
    with pytest.raises(ValueError, match="13 sentences and so 2\\^13 subsets"):
        subset_truth(WORLD, problem, ["x"] * 13, "4")
    with pytest.raises(ValueError, match="cannot write these sentences"):
        subset_truth(WORLD, problem, ["We need 3 + 3 * 4 modulo 10."], "4")
    trace = Trace.from_text("Find 2 + 3 * 4 modulo 10.\n<think>\n", "We need pancakes now.\n</think>\nThe answer is 4.")
    with pytest.raises(ValueError, match="cannot write sentence 0 there: 'We need pancakes now"):
        read_trace(WORLD, trace)


def test_dependencies_follow_the_facts_a_sentence_uses():
    world = ExpressionWorld(slip=0.0, check=0.0, reconsider=0.0, filler=1.0, filler_between=0.0)
    trace = world_trace(world, seed=0)
    reading = read_trace(world, trace)
    graph = dependency_graph(reading.moves)
    assert not np.triu(graph).any()
    events = [move.state.event.split()[0] for move in reading.moves]
    for i, event in enumerate(events):
        used = [events[j] for j in np.flatnonzero(graph[i])]
        if event == "step":
            assert sorted(used) in (
                ["right", "setup"],
                ["setup", "wrong"],
                ["consolidate", "right"],
                ["consolidate", "wrong"],
            )
        elif event == "filler":
            assert used == []
    assert not graph[:, events.index("filler")].any()


def test_a_check_depends_on_every_step_and_a_draft_on_what_it_leaves_out():
    for name, form in (("expression", "verbose"), ("alchemy", "verbose"), ("expression", "draft")):
        world, seen = load_world(name, format=form, slip=0.3), 0
        for seed in range(40):
            moves = read_trace(world, world_trace(world, seed=seed)).moves
            graph, events = dependency_graph(moves), [m.state.event.split()[0] for m in moves]
            if "found" in events and "reconsider" not in events:
                seen += 1
                verdict = events.index("found")
                steps = [i for i, event in enumerate(events[:verdict]) if event in ("step", "slip")]
                assert graph[verdict, steps].all()
            if form == "draft" and "restart" not in events and "reconsider" not in events and "found" not in events:
                steps = [i for i, event in enumerate(events) if event in ("step", "slip")]
                assert all(graph[b, a] for a, b in itertools.pairwise(steps))
        assert seen >= 3


@pytest.mark.slow
def test_a_sentence_nothing_depends_on_changes_no_later_step():
    """No path to a later step: resampling importance for the answer is exactly zero."""
    world = ExpressionWorld(decoy=0.5, reconsider=0.0, check=0.0)
    for seed in range(20):
        trace = world_trace(world, seed=seed)
        reading = read_trace(world, trace)
        used = dependency_graph(reading.moves).any(axis=0)
        values = truth_scores(trace, world, kind="resampling").values
        idle = [not used[i] and m.role in ("decoy", "filler") for i, m in enumerate(reading.moves)]
        assert np.allclose(values[idle], 0, atol=1e-12)


def test_truth_as_scores():
    trace = world_trace(WORLD, seed=3)
    scores = truth_scores(trace, WORLD)
    assert scores.method == "truth_counterfactual" and (scores.low == scores.values)[~np.isnan(scores.values)].all()
    states = read_trace(WORLD, trace).states
    np.testing.assert_allclose(scores.headroom, exact_headroom(WORLD, states))
    row = np.array(list(answer_distribution(WORLD, states[0]).values()))
    assert scores.headroom[0] == pytest.approx(-(row * np.log(row)).sum())
    np.testing.assert_allclose(
        np.diff(np.append(scores.p_before, scores.p_after[-1])), scores.p_after - scores.p_before
    )
    with pytest.raises(ValueError, match="kind is 'kl'"):
        truth_scores(trace, WORLD, kind="kl")


def test_a_world_draws_its_own_rollouts_from_any_boundary_and_in_any_order():
    trace = world_trace(WORLD, seed=1)
    model = WorldModel(WORLD)
    jobs = [Job(trace.text, end, trace.id, k, s) for k, end in enumerate(trace.boundaries) for s in range(3)]
    drawn = dict(model.generate(jobs, sampling=model.sampling, seed=0))
    again = dict(model.generate(jobs[::-1], sampling=model.sampling, seed=0))
    assert drawn == again
    assert all(
        read_trace(WORLD, Trace.from_text(trace.prompt, (j.prefix + c.text)[len(trace.prompt) :]))
        for j, c in drawn.items()
    )
    with pytest.raises(ValueError, match="use temperature 1"):
        next(model.generate(jobs, sampling=Sampling(), seed=0))
    with pytest.raises(ValueError, match="cannot have written 'We n' as sentence 0"):
        next(model.generate([Job(trace.text, len(trace.prompt) + 4, "x", 0, 0)], sampling=model.sampling, seed=0))


def test_the_exact_filter_knows_events_and_not_words():
    same = same_event(WORLD)
    found = same.same("Okay, let me think.", ["This needs some care.", " 2 + 3 = 5.", "I will multiply first."])
    assert found.tolist() == [True, False, False]


@pytest.mark.slow
def test_no_anchor_is_found_where_nothing_is_planted():
    """120 null traces at fdr .05: the share with any anchor stays under 5 % but for chance (p > .001)."""
    from scipy.stats import binomtest

    from anchors import counterfactual_importance

    world = load_world("null")
    model, same, wrong = WorldModel(world), same_event(world), np.zeros(4, dtype=int)
    for seed in range(120):
        run = resample(world_trace(world, seed=seed), model, n=30, progress=False)
        for i, reuse in enumerate((False, True)):
            wrong[i] += bool(resampling_importance(run, reuse=reuse).anchors())
            wrong[2 + i] += bool(counterfactual_importance(run, similarity=same, reuse=reuse).anchors())
    assert all(binomtest(int(k), 120, 0.05, alternative="greater").pvalue > 0.001 for k in wrong), wrong
