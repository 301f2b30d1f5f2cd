"""Rollouts that pass through later boundaries: counted there too, exactly, with honest intervals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from anchors import Rollouts, Trace, counterfactual_importance, resample, resampling_importance
from anchors.lab import world_trace
from anchors.lab.oracle import WorldModel, same_event
from anchors.lab.truth import truth_scores
from anchors.lab.worlds import load_world
from anchors.reuse import passes_on, replaced_difference, reuse_rollouts
from anchors.rollouts import Rollout

TRACE = Trace.from_text("2 + 2?", "It is an easy sum. So it is four. That is all there is.", answer="4")
OWN = [" ".join(s.text.strip() for s in TRACE.sentences[k:]) for k in range(3)]


def rollouts(*texts):
    return Rollouts.from_texts(TRACE, [[text.replace("@", "\\boxed{4}") for text in row] for row in texts])


def test_a_rollout_is_counted_wherever_it_wrote_the_traces_own_sentences():
    edges = TRACE.boundaries
    sentences = [TRACE.text[a:b] for a, b in itertools.pairwise(edges)]
    through = "".join(sentences[:2]) + "Something else.</think>@"
    found = reuse_rollouts(
        rollouts([through, "Cats sleep.</think>@"], [sentences[1] + "More.</think>@"], ["A.</think>@"], [])
    )
    assert [len(found.at(k)) for k in range(4)] == [2, 2, 3, 0]
    assert sorted(r.text[:9] for r in found.at(2)) == ["A.</think", "More.</th", "Something"]
    assert passes_on(found, 0).tolist() == [True, False]


def test_tokens_and_settings_are_not_counted_twice():
    run = rollouts([OWN[0]] * 3, [OWN[1]] * 3, [OWN[2]] * 3, ["@"] * 3)
    assert reuse_rollouts(run).cost().tokens == run.cost().tokens
    assert reuse_rollouts(run).store.settings == run.store.settings


def test_a_sentence_that_is_always_written_has_importance_zero_and_a_narrow_interval():
    edges = TRACE.boundaries
    sentences = [TRACE.text[a:b] for a, b in itertools.pairwise(edges)]
    half = [[sentences[0] + "x.</think>@"] * 20 + [sentences[0] + "x.</think>none"] * 20, ["x.</think>@"] * 30, [], []]
    scores = resampling_importance(rollouts(*half), reuse=True)
    assert scores.values[0] == 0 and scores.p[0] == 1
    assert 0 < scores.high[0] < 0.1 and scores.low[0] == -scores.high[0]
    assert np.isnan(scores.values[2])


def test_without_shared_sentences_reuse_changes_no_value():
    run = rollouts(
        ["A.</think>@"] * 9 + ["B.</think>no"] * 11,
        ["A.</think>@"] * 15 + ["C.</think>no"] * 5,
        ["A.</think>@"] * 20,
        [],
    )
    plain, reused = resampling_importance(run), resampling_importance(run, reuse=True)
    np.testing.assert_allclose(plain.values, reused.values)
    np.testing.assert_allclose(plain.p, reused.p)


def test_gaps_in_the_samples_of_an_interrupted_run_lose_nothing():
    edges = TRACE.boundaries
    own = TRACE.text[edges[0] : edges[1]]
    run = rollouts([own + f"x{i}.</think>@" for i in range(4)], [], [], [])
    run.add(Rollout(1, s, f"y{s}.</think>@", 5, "length" if s else "stop") for s in (0, 3, 5))
    found = reuse_rollouts(run)
    assert sorted(r.text[:2] for r in found.at(1)) == ["x0", "x1", "x2", "x3", "y0", "y3", "y5"]
    assert found.cost().tokens == 15


def test_rollouts_cut_off_at_their_limit_are_counted_aloud(caplog):
    edges = TRACE.boundaries
    run = rollouts([], [], [], [])
    run.add([Rollout(0, 0, TRACE.text[edges[0] : edges[1]] + "x", 9, "length")])
    reuse_rollouts(run)
    assert "1 reused rollouts of trace" in caplog.text


def test_what_passed_on_is_kept_even_where_its_first_sentence_looks_different():
    trace = Trace.from_text("How long?", "The side measures 3. So it is three.", answer="3")
    kept = trace.text[trace.boundaries[0] : trace.boundaries[1]].rstrip() + "5 in metric.</think>\\boxed{3}"
    run = Rollouts.from_texts(
        trace, [[kept] * 6 + ["Cats sleep all day.</think>\\boxed{4}"] * 6, ["A.</think>\\boxed{3}"] * 6, []]
    )
    scores = counterfactual_importance(run, reuse=True)
    assert scores.values[0] == 1.0


def test_what_reuse_cannot_do_is_refused():
    run = rollouts(["@"], ["@"], ["@"], ["@"])
    with pytest.raises(ValueError, match="reuse is not defined for metric 'kl'"):
        counterfactual_importance(run, reuse=True, metric="kl")
    with pytest.raises(ValueError, match="reuse is not defined for metric 'kl'"):
        resampling_importance(run, reuse=True, metric="kl")
    with pytest.raises(ValueError, match="reuse is not defined for compat='paper'"):
        counterfactual_importance(run, reuse=True, compat="paper")


def test_the_interval_of_a_product_against_simulation():
    """At least 93 % of draws over a grid that reaches down to one or two replaced rollouts."""
    rng = np.random.default_rng(0)
    grid = ((0.02, 1.0, 0.5, 100), (0.02, 0.95, 0.5, 100), (0.01, 1.0, 0.3, 300), (0.04, 0.9, 0.2, 200))
    for share, p, q, total in (*grid, (0.5, 0.7, 0.3, 200), (0.9, 0.2, 0.6, 200), (0.2, 0.5, 0.5, 200)):
        draws = 2000
        replaced = rng.binomial(total, share, draws)
        kept_n, n = 100 + total - replaced, replaced
        kept, other = rng.binomial(kept_n, p), rng.binomial(n, q)
        _, (low, high) = replaced_difference((replaced, np.full(draws, total)), (kept, kept_n), (other, n))
        truth = share * (p - q)
        assert ((low <= truth) & (truth <= high)).mean() >= 0.93


@pytest.mark.parametrize("name", ["expression", "alchemy"])
@pytest.mark.slow
def test_reuse_is_exact_and_much_narrower_on_a_worlds_own_rollouts(name):
    world = load_world(name)
    inside, widths = [], []
    for seed in range(12):
        trace = world_trace(world, seed=seed)
        run = resample(trace, WorldModel(world), n=100, progress=False)
        exact = truth_scores(trace, world, kind="resampling").values
        plain, reused = resampling_importance(run), resampling_importance(run, reuse=True)
        edge = 1e-9
        inside += ((reused.low - edge <= exact) & (exact <= reused.high + edge)).tolist()
        widths.append([(s.high - s.low).mean() for s in (plain, reused)])
        counterfactual = counterfactual_importance(run, similarity=same_event(world), reuse=True)
        assert counterfactual.details["reuse"] is True
    assert np.mean(inside) >= 0.93
    plain, reused = np.mean(widths, axis=0)
    assert reused < 0.5 * plain
