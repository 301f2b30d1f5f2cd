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
    assert passes_on(found, 0) == [True, False]


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


def test_what_reuse_cannot_do_is_refused():
    run = rollouts(["@"], ["@"], ["@"], ["@"])
    with pytest.raises(ValueError, match="reuse is not defined for metric 'kl'"):
        resampling_importance(run, reuse=True, metric="kl")
    with pytest.raises(ValueError, match="reuse is not defined for compat='paper'"):
        counterfactual_importance(run, reuse=True, compat="paper")


def test_the_interval_of_a_product_against_simulation():
    """MOVER covers share * (p - q) in 93 to 99 % of draws over a grid, and never less."""
    rng = np.random.default_rng(0)
    for share, p, q in ((0.04, 0.9, 0.2), (0.5, 0.7, 0.3), (0.9, 0.2, 0.6), (0.2, 0.5, 0.5)):
        total, draws = 200, 2000
        replaced = rng.binomial(total, share, draws)
        kept_n, n = 100 + total - replaced, replaced
        kept, other = rng.binomial(kept_n, p), rng.binomial(n, q)
        _, (low, high) = replaced_difference((replaced, np.full(draws, total)), (kept, kept_n), (other, n))
        truth = share * (p - q)
        assert 0.93 <= ((low <= truth) & (truth <= high)).mean() <= 0.995


@pytest.mark.parametrize("name", ["expression", "alchemy"])
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
