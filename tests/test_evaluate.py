"""What `evaluate` measures, on a world's own program: a perfect copy gets exactly the ceilings it prints."""

from __future__ import annotations

import random

import numpy as np
import pytest

from anchors.lab.evaluate import calibration, self_checks, sentence_distances, trace_use, written_traces
from anchors.lab.oracle import WorldModel
from anchors.lab.worlds import load_world, write
from anchors.models import load_model
from anchors.models.base import Completion, Scored


@pytest.mark.parametrize("name", ["expression", "alchemy", "recall"])
@pytest.mark.slow
def test_a_perfect_copy_reaches_its_ceilings(name):
    world = load_world(name)
    model = WorldModel(world)
    found = written_traces(model, world, problems=50)
    assert found.on_program == found.answered == 1
    assert found.steps_right == pytest.approx(found.steps_ceiling, abs=0.07)
    assert found.gold == pytest.approx(found.ceiling, abs=0.25)
    near = calibration(model, world, traces=1, n=100)
    assert near.tv == pytest.approx(near.tv_floor, abs=0.05) and near.rollouts == 100
    assert np.isnan([near.tv_low, near.tv_high]).all()


class Stubborn(WorldModel):
    """Answers 0, whatever was asked."""

    def generate(self, jobs, *, sampling, seed, batch_size=256):
        for job in jobs:
            yield job, Completion(self.world.ending("0"), 5, "stop")


def test_a_distance_has_an_interval_over_traces():
    found = calibration(Stubborn(load_world("expression")), load_world("expression"), traces=4, n=20)
    assert found.tv_floor < found.tv_low < found.tv < found.tv_high


class Told(WorldModel):
    """Scores one sentence after a prefix by the program; `blind` gives every verdict the chances of a coin."""

    def __init__(self, world, *, blind=False):
        super().__init__(world)
        self.blind = blind

    def score(self, texts, starts, **options):
        return [Scored(float(np.log(self._chance(t[:at], t[at:]))), 1) for t, at in zip(texts, starts, strict=True)]

    def _chance(self, prefix, sentence):
        _, state = self._state(prefix)
        if self.blind and state.phase == "verdict":
            return 0.5
        due = {}
        for move in self.world.moves(state):
            text = move.text or self.world.ending(self.world.answer(move.state))
            due[text] = due.get(text, 0) + move.probability
        due = due or {self.world.ending(self.world.answer(state)): 1.0}
        return due.get(sentence.strip(" "), 1e-9)


@pytest.mark.parametrize("name", ["expression", "alchemy"])
def test_a_perfect_copys_next_sentences_and_verdicts_are_the_worlds(name):
    world = load_world(name)
    rng = random.Random(0)
    for _ in range(5):
        written = write(world, world.problem(rng), rng)
        distances = sentence_distances(Told(world), world, written)
        assert len(distances) == len(written.states) and max(distances) < 1e-9
    found = self_checks(Told(world), world, checks=5)
    assert found.checks == 10 and found.finds_slip == found.passes_right == pytest.approx(1)


def test_who_does_not_look_at_the_steps_tells_by_chance():
    world = load_world("expression")
    found = self_checks(Told(world, blind=True), world, checks=5)
    assert found.finds_slip == found.passes_right == pytest.approx(0.5)
    rng = random.Random(0)
    written = next(w for w in (write(world, world.problem(rng), rng) for _ in range(99)) if w.states[-1].checked)
    distances = sentence_distances(Told(world, blind=True), world, written)
    assert sorted(set(np.round(distances, 6))) == [0.0, 0.5]


def test_a_world_without_checks_has_no_verdicts():
    world = load_world("expression", check=0.0)
    found = self_checks(Told(world), world, checks=1)
    assert found.checks == 0 and np.isnan([found.finds_slip, found.passes_right]).all()


class Spoiled(WorldModel):
    """A copy of the program that leaves it in every second trace."""

    def generate(self, jobs, *, sampling, seed, batch_size=256):
        for i, (job, completion) in enumerate(super().generate(jobs, sampling=sampling, seed=seed)):
            text = completion.text.replace("gives", "grants").replace(" = ", " == ") if i % 2 else completion.text
            yield job, Completion(text, completion.tokens, completion.finish)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["expression"])
def test_sentences_off_the_program_count_as_off_it_and_as_wrong_steps(name):
    world = load_world(name)
    found = written_traces(Spoiled(world), world, problems=40)
    assert found.on_program == pytest.approx(0.5, abs=0.03)
    assert found.steps_right < found.steps_ceiling - 0.1


class Hasty(WorldModel):
    """Answers at once, with an answer the program could reach."""

    def generate(self, jobs, *, sampling, seed, batch_size=256):
        for job, completion in super().generate(jobs, sampling=sampling, seed=seed):
            yield job, Completion("\n</think>" + completion.text.split("\n</think>")[1], 5, completion.finish)


def test_a_trace_that_stops_where_the_program_goes_on_is_off_it():
    world = load_world("expression")
    found = written_traces(Hasty(world), world, problems=20)
    assert found.answered == 1 and found.on_program == 0


def test_where_every_trace_ends_right_only_the_use_of_a_wrong_one_is_not_measured():
    world = load_world("expression", slip=0, right_plan=1)
    used = trace_use(load_model("lab/reasoner"), world, problems=3)
    assert used.handed == 3 and np.isnan([used.follows_wrong, used.gold_given_wrong]).all()
    assert used.follows_swapped == 1 and used.gold_given_swapped == 0 and 0 <= used.gold_given_none <= 1


def test_a_model_without_steps_has_no_share_of_right_ones():
    world = load_world("null")
    assert np.isnan(written_traces(WorldModel(world), world, problems=5).steps_right)


def test_use_of_the_trace_tells_a_reasoner_from_a_model_that_never_saw_one():
    world = load_world("expression")
    used = trace_use(load_model("lab/reasoner"), world, problems=25)
    assert used.follows_wrong > 0.8 and used.gold_given_wrong < 0.2
    assert used.follows_swapped > 0.8 and used.gold_given_swapped < 0.2
    assert used.handed == 25 and 0 <= used.gold_given_none < 0.6
