"""Effects of removing sentences: together, by every operation, in continuations, handed over, and by halves of rollouts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anchors.interventions import Edit, delete
from anchors.models.base import Completion
from anchors.transfer import Calipers, transfer_anchors
from anchors.transfer.inputs import Written, gather, select_anchors
from anchors.transfer.matching import Match
from anchors.transfer.measure import Ask, Operations, reader_texts, set_effects, writer_texts
from anchors.transfer.record import Models
from anchors.transfer.retention import estimated_effects, sides
from anchors.transfer.trace_reading import read_trace
from tests.made_up import (
    NO,
    SIZE,
    YES,
    BlackBox,
    Local,
    Reader,
    build_trace,
    halves,
    local_scoring,
    planted,
    planted_run,
    rollouts,
    step,
    written,
)
from tests.scripted import SAME_TEXT
from tests.simulated import PLAN

NOTHING = Operations()


def ask(model, outcome="forced", n=8):
    return Ask(model, outcome, "7", n, 0)


@pytest.fixture
def trace():
    return build_trace()


@pytest.fixture
def redundant(trace, monkeypatch):
    """Sentences 2 and 5 say the same: without one of them nothing is lost, without both 2 nats; 9 weighs 0.5 alone."""
    local_scoring(monkeypatch)
    a, b, c = (trace.sentences[i].text for i in (2, 5, 9))
    return Local(weights={a: 2.0, b: 2.0, c: 0.5}, together={(a, b): -2.0})


def test_a_set_is_removed_together_not_one_by_one(trace, redundant):
    found = set_effects(trace, ask(redundant), [[2], [5], [2, 5], [2, 9], [9], []], "delete", NOTHING)
    np.testing.assert_allclose(found[:5], [0.0, 0.0, 2.0, 0.5, 0.5])
    assert np.isnan(found[5])


def test_blocking_reaches_sentences_apart(trace, redundant):
    found = set_effects(trace, ask(redundant), [[2], [9], [2, 9]], "block", NOTHING)
    np.testing.assert_allclose(found, [1.0, 0.25, 1.25])


def test_equal_edits_are_read_once(trace, redundant):
    set_effects(trace, ask(redundant), [[2, 5], [5, 2], [9], [9]], "delete", NOTHING)
    assert len(redundant.scored) == 3


def test_retention_of_redundant_anchors_is_the_joint_effect(trace, redundant):
    values, _ = planted(trace, {2: (2.0, 0.0), 5: (1.5, 0.0)})
    joint = transfer_anchors(written(trace, values, [2, 5]), reader=redundant, operations=["delete"], controls=1)
    assert joint.retention[0].anchors.value == pytest.approx(2.0)
    one = transfer_anchors(written(trace, values, [2, 5]), reader=redundant, operations=["delete"], k=1, controls=1)
    assert one.retention[0].anchors.value == pytest.approx(0.0)


def test_each_sign_is_removed_apart_from_the_other():
    match = Match((3, 8, 5), ((2, 9, 6), (2, 7, 6), (1, 9, 6)), ())
    up, down = sides(match, {3: 1.0, 8: -1.0, 5: 1.0})
    assert (up.sign, up.match.anchors, set(up.match.sets)) == (1.0, (3, 5), {(2, 6), (1, 6)})
    assert (down.sign, down.match.anchors, set(down.match.sets)) == (-1.0, (8,), {(9,), (7,)})


def test_a_control_set_counts_once_whatever_its_order():
    match = Match((3, 5, 8), ((2, 6, 9), (6, 2, 7)), ())
    (up, _) = sides(match, {3: 1.0, 5: 1.0, 8: -1.0})
    assert up.match.sets == ((2, 6),)


def test_estimated_effects_leave_out_what_was_not_measured():
    values = np.array([0.1, np.nan, 0.3, 1.0, np.nan, -2.0, 0.5])
    found = estimated_effects(values, sides(Match((3, 5), ((0, 6), (1, 2)), ()), {3: 1.0, 5: -1.0}))
    assert found.anchors == pytest.approx((1.0 + 2.0) / 2)
    assert found.controls == pytest.approx((0.1 + np.mean([-0.5, -0.3])) / 2)
    assert found.d == pytest.approx(1.5 + 0.15)
    nothing = estimated_effects(values, sides(Match((4,), ((0,),), ()), {4: 1.0}))
    assert np.isnan(nothing.d)


def test_texts_of_writer_and_reader_replace_sentences(trace):
    """A weight belongs to a text: another text in its place takes it away and may bring its own."""
    _, weights = planted(trace, {5: (2.0, 1.0)})
    weights |= {"Good.": 0.5, "Bad.": -0.25}
    operations = Operations({5: ("Good.", "Bad."), 6: ("Bad.",)}, {5: ("Good.",)})
    reader = ask(Reader(weights=weights))
    found = set_effects(trace, reader, [[5], [6], [7]], "replace_writer", operations)
    np.testing.assert_allclose(found[:2], [1.0 - 0.125, 0.25])
    assert np.isnan(found[2]), "no text was found for sentence 7"
    both = set_effects(trace, reader, [[5, 6]], "replace_writer", operations)
    np.testing.assert_allclose(both, [1.0 - 0.5 + 0.25])
    np.testing.assert_allclose(set_effects(trace, reader, [[5]], "replace_reader", operations), [0.5])
    assert np.isnan(set_effects(trace, reader, [[6]], "replace_reader", operations)[0])


def test_a_paraphrase_changes_words_by_the_given_function(trace):
    _, weights = planted(trace, {5: (2.0, 1.0)})
    kind = Operations(paraphrase=lambda text: text + " Indeed.")
    unkind = Operations(paraphrase=lambda text: "Other words.")
    reader = ask(Reader(weights=weights))
    assert set_effects(trace, reader, [[5]], "paraphrase", kind) == pytest.approx([0.0])
    assert set_effects(trace, reader, [[5]], "paraphrase", unkind) == pytest.approx([1.0])
    assert np.isnan(set_effects(trace, reader, [[5]], "paraphrase", NOTHING)[0])


def test_writer_texts_are_resamples_of_another_meaning(trace):
    own = trace.sentences[2].text
    rows = [[] for _ in range(SIZE + 1)]
    one, two, three, four, five = (f"The {word} text of another meaning." for word in "abcde")
    rows[2] = [f" {text} And so we go on now.{YES}" for text in (one, own, two, one, three, four, five)] + [YES]
    found = writer_texts(rollouts(trace, rows), [2, 3], similarity=SAME_TEXT)
    assert found == {2: (one, two, three, four), 3: ()}


def test_reader_texts_are_what_the_reader_writes_there(trace):
    class Author(BlackBox):
        def generate(self, jobs, *, sampling, seed):
            for job in reversed(list(jobs)):
                assert job.prefix == trace.before(job.position) and sampling.max_new_tokens < 1000
                said = f"The {job.sample}th text that is put in place {job.position}."
                said = trace.sentences[job.position].text if job.sample % 2 else said
                yield job, Completion(f" {said} And so we go on now.", 5, "length")

    found = reader_texts(trace, Author(), [0, 4], similarity=SAME_TEXT, seed=0)
    assert found[4] == tuple(f"The {s}th text that is put in place 4." for s in (0, 2, 4, 6))
    assert found[0][0] == "The 0th text that is put in place 0."


def test_replacement_runs_end_to_end_from_stored_rollouts():
    """The writer's own texts replace anchors and controls; where it wrote nothing else the trace is not measured."""
    traces = [build_trace(i) for i in range(3)]
    weights = {t.sentences[5].text: 1.0 + i for i, t in enumerate(traces)}
    runs = []
    for i, trace in enumerate(traces):
        other = [f" Other words here.{NO}" if i < 2 else NO] * 20
        rows = [other] * 6 + [[f" Other words here.{YES}"] * 20] * (SIZE - 5)
        runs.append(rollouts(trace, rows))
    run = transfer_anchors(
        runs, reader=Reader(weights=weights), method="resampling", operations=["replace_writer", "delete"],
        similarity=SAME_TEXT,
    )  # fmt: skip
    replaced, deleted = run.retention
    np.testing.assert_allclose(replaced.reader.traces, [1.0, 2.0, np.nan])
    np.testing.assert_allclose(deleted.reader.traces, [1.0, 2.0, 3.0])


def test_an_operation_without_any_text_says_so():
    scores, weights, _ = planted_run([{5: (2.0, 1.0)}] * 3)
    run = transfer_anchors(scores, reader=Reader(weights=weights), operations=["delete", "replace_writer"])
    assert np.isnan(run.retention[1].reader.value) and "no text of another meaning" in run.retention[1].partial


def test_free_effects_are_differences_of_shares(trace):
    a, b = trace.sentences[3].text, trace.sentences[8].text
    reader = BlackBox({a: 0.25, b: -0.25}, alone=0.5)
    found = set_effects(trace, ask(reader, "free"), [[3], [8], [3, 8], [5]], "delete", NOTHING)
    np.testing.assert_allclose(found, [0.25, -0.25, 0.0, 0.0])
    read = ask(reader, "free").read([Edit(trace), Edit(delete(trace, [3]))])
    np.testing.assert_allclose(read.outcome, [0.5, 0.25])
    np.testing.assert_allclose(read.probability, read.outcome)


def test_forced_reading_also_gives_the_probability(trace):
    read = ask(Reader(base=-0.5)).read([Edit(trace)])
    assert read.outcome == pytest.approx([-0.5]) and read.probability == pytest.approx([np.exp(-1.0)])


class Echo(BlackBox):
    """Sentence 8 repeats sentence 3: the later one makes the earlier one superfluous, once it is there."""

    def __init__(self, trace):
        super().__init__(alone=0.25)
        self.early, self.late = trace.sentences[3].text, trace.sentences[8].text

    def chance(self, text):
        return 0.75 if self.early in text or self.late in text else 0.25


def test_handed_over_a_sentence_counts_where_it_stands(trace):
    free = set_effects(trace, ask(Echo(trace), "free"), [[3], [8]], "delete", NOTHING)
    over = set_effects(trace, ask(Echo(trace), "handover"), [[3], [8], [3, 8], [2, 3], []], "delete", NOTHING)
    np.testing.assert_allclose(free, [0.0, 0.0])
    np.testing.assert_allclose(over[:4], [0.5, 0.0, 0.25, 0.25])
    assert np.isnan(over[4])


def test_a_handover_run_finds_what_the_whole_trace_hides():
    traces = [build_trace(i) for i in range(3)]
    scores = [written(t, planted(t, {3: (2.0, 0.0)})[0], [3]) for t in traces]

    class Echoes(BlackBox):
        def chance(self, text):
            return max(echo.chance(text) for echo in map(Echo, traces))

    free = transfer_anchors(scores, reader=Echoes(), outcome="free", n=8, calipers=Calipers(positions=3))
    over = transfer_anchors(scores, reader=Echoes(), outcome="handover", n=8, calipers=Calipers(positions=3))
    assert free.retention[0].reader.value == 0.0 and over.retention[0].reader.value == 0.5
    length = len(traces[0].sentences[3].text)
    assert over.retention[0].per_token.value == pytest.approx(0.5 / length), "a black box shows no tokens"
    assert "probability of the answer" in str(over) and over.gate.conditions[0].found.endswith("0.25")


def test_even_rollouts_select_and_odd_ones_estimate(trace):
    weights = {trace.sentences[i].text: w for i, w in ((4, 1.0), (11, 3.0))}
    for even, odd, effect in ((4, 11, 1.0), (11, 4, 3.0)):
        run = transfer_anchors(
            halves(trace, step(even), step(odd)), reader=Reader(weights=weights), method="resampling", controls=9
        )
        assert run.anchors == 1 and run.retention[0].anchors.value == pytest.approx(effect)


def test_the_writers_own_effect_is_that_of_the_odd_rollouts():
    traces = [build_trace(i) for i in range(3)]
    for high, expected in ((1.0, 1.0), (0.25, 0.25)):
        runs = [halves(t, step(4), step(4, 0.0, high)) for t in traces]
        run = transfer_anchors(runs, reader=Reader(), method="resampling")
        assert f"the anchors move the writer itself by +{expected:.3f}" in run.gate.conditions[2].found
    elsewhere = [halves(t, step(4), step(11)) for t in traces]
    missed = transfer_anchors(elsewhere, reader=Reader(), method="resampling").gate.conditions[2]
    assert missed.passed is False, "selected on noise: the odd rollouts know nothing of these anchors"


def test_all_rollouts_enter_the_scores_that_are_ranked(trace):
    (one,) = gather([halves(trace, step(4), step(11))], method="resampling", outcome=None, similarity=None).written
    assert one.held_out is not None
    assert one.selecting.top(1) == [4] and one.held_out.top(1) == [11]
    assert one.scores.values[[4, 11]] == pytest.approx([0.5, 0.5])
    assert one.selecting.n[0] == one.held_out.n[0] == 12 and one.scores.n[0] == 24


def test_in_a_handover_the_writers_effect_is_that_of_its_odd_rollouts():
    traces = [build_trace(i) for i in range(3)]
    runs = [halves(t, step(4), step(4, 0.25, 0.75)) for t in traces]
    chances = {t.sentences[4].text: 0.25 for t in traces}
    run = transfer_anchors(runs, reader=BlackBox(chances), method="resampling", outcome="handover", n=8)
    found = run.retention[0]
    assert found.reader.value == 0.25 and found.writer is not None and found.writer.value == 0.5
    assert found.ratio == pytest.approx((0.5, 0.5, 0.5))


def test_the_readers_own_answer_can_be_the_outcome():
    """The traces say 8, this reader says 7 on its own: what is measured is the support of 7."""
    scores, weights, _ = planted_run([{5: (2.0, 1.0)}] * 2, answer="8")
    reader = Reader(weights=weights, alone=0.75)
    run = transfer_anchors(scores, reader=reader, answer="reader", n=8, similarity=SAME_TEXT)
    assert run.retention[0].reader.value == pytest.approx(1.0) and run.gate.conditions[0].found.endswith("0.75")

    class Silent(BlackBox):
        def writes(self, job):
            return "I do not know."

    silent = transfer_anchors(scores, reader=Silent(), answer="reader", n=2, similarity=SAME_TEXT)
    assert silent.traces == 0 and len(silent.excluded) == 2


def test_scores_made_for_the_traces_answer_do_not_stand_for_the_readers():
    trace = build_trace(answer="8")
    values, weights = planted(trace, {5: (2.0, 1.0)})
    given = written(trace, values, [5], details={"model": "writer", "outcome": "own answer '8'"})
    run = transfer_anchors(
        given, reader=Reader(weights=weights, alone=0.75), answer="reader", n=8, similarity=SAME_TEXT
    )
    assert run.traces == 0 and "answer '7' would be measured" in run.excluded[0]


def test_random_sentences_are_drawn_for_each_trace_of_its_own():
    """One sentence of every trace weighs; drawn at the same place in all traces it would look like an effect."""
    traces = [build_trace(i) for i in range(8)]
    scores = [written(t, planted(t, {5: (2.0, 0.0)})[0], [5]) for t in traces]
    plan = replace(PLAN, controls=5)
    rows = []
    for trace, given in zip(traces, scores, strict=True):
        reader = Models(Reader(weights={trace.sentences[9].text: 1.0}), None, SAME_TEXT, None)
        one = Written(given, given, None, None, "7")
        rows.append(read_trace(one, reader, plan, [], None, None).random)
    found = np.array(rows)
    assert found.shape == (8, 20) and not any(np.array_equal(found[0], row) for row in found[1:])
    assert ((found > 0.5).sum(0) < 5).all(), "no draw takes the heavy sentence in most traces"


def test_a_reader_never_draws_the_rollouts_that_selected_the_anchors():
    """Rollouts depend on (seed, trace, position, sample): two like models under one seed write the same texts."""
    from anchors import load_model, resample, write_trace
    from anchors.transfer.trace_reading import _reader_seed

    model = load_model("lab/reasoner")
    trace = write_trace("Find 8 - 6 * 2 modulo 10.", model, seed=2)
    drawn = {seed: resample(trace, model, n=6, seed=seed, progress=False) for seed in (0, _reader_seed(0))}
    own, other = ([r.text for r in run.at(0)] for run in drawn.values())
    assert sum(a == b for a, b in zip(own, other, strict=True)) < 3
    assert len({_reader_seed(seed) for seed in range(100)} - set(range(100))) == 100


def test_rollouts_given_for_the_reader_must_be_its_own_and_of_another_seed():
    from anchors import load_model, resample, write_trace

    writer, reader = load_model("lab/reasoner"), load_model("lab/reasoner-b")
    trace = write_trace("Find 8 - 6 * 2 modulo 10.", writer, seed=2)
    run = resample(trace, writer, n=4, seed=0, progress=False)
    with pytest.raises(ValueError, match="were drawn by lab/reasoner, not by"):
        transfer_anchors(run, reader=reader, outcome="handover", reader_runs=[run])
    same_seed = resample(trace, reader, n=4, seed=0, progress=False)
    with pytest.raises(ValueError, match="have seed 0, as the writer's"):
        transfer_anchors(run, reader=reader, outcome="handover", reader_runs=[same_seed])


class Mute(BlackBox):
    """Half of its continuations never answer; the others answer 7 by the chances of the sentences seen."""

    def writes(self, job):
        return "I do not know." if job.sample % 2 else super().writes(job)


@pytest.mark.parametrize("outcome", ["free", "handover"])
def test_both_denominators_are_reported(outcome):
    """No answer counts as not reaching the outcome in the primary effect, and not at all beside it."""
    traces = [build_trace(i) for i in range(3)]
    scores = [written(t, planted(t, {5: (2.0, 0.0)})[0], [5]) for t in traces]
    reader = Mute({t.sentences[5].text: 0.25 for t in traces}, alone=0.25)
    run = transfer_anchors(scores, reader=reader, outcome=outcome, n=16, similarity=SAME_TEXT)
    found = run.retention[0]
    assert found.reader.value == pytest.approx(0.125), "eight of sixteen answer, two more of them right"
    assert found.given_answer is not None and found.given_answer.value == pytest.approx(0.25)
    assert "over the continuations that answer: d = +0.250" in str(run)
    forced = transfer_anchors(scores, reader=Reader(), similarity=SAME_TEXT, n=2).retention[0]
    assert forced.given_answer is None


def test_where_nothing_answers_there_is_no_share_of_answers(trace):
    class Silent(BlackBox):
        def writes(self, job):
            return "I do not know."

    ask_all = ask(Silent(), "free")
    edits = [Edit(trace)]
    assert ask_all.values(edits) == [0.0]
    assert np.isnan(replace(ask_all, answered_only=True).values(edits)[0])


def test_neighbours_can_be_kept_apart():
    trace = build_trace()
    values, _ = planted(trace, {5: (3.0, 0), 6: (2.0, 0), 7: (1.9, 0), 9: (1.0, 0), 3: (-0.5, 0)})
    scores = written(trace, values, [3, 5, 6, 7, 9])
    assert select_anchors(scores, k=3, fdr=0.05) == [5, 6, 7]
    assert select_anchors(scores, k=3, fdr=0.05, min_gap=2) == [5, 7, 9]
    assert select_anchors(scores, k=3, fdr=0.05, min_gap=3) == [5, 9]
    run = transfer_anchors(scores, reader=Reader(), min_gap=3, similarity=SAME_TEXT, n=2)
    assert run.details["min gap"] == 3 and run.anchors + run.unmatched == 2
    with pytest.raises(ValueError, match="min_gap 0; each must be at least 1"):
        transfer_anchors(scores, reader=Reader(), min_gap=0)


class Short(Reader):
    """A reader whose context is known, in words."""

    context = 60


def test_only_what_a_text_is_to_blame_for_leaves_a_trace_out(trace):
    long = build_trace(1, [8] * SIZE)
    scores = [written(t, planted(t, {5: (2.0, 1.0)})[0], [5]) for t in (trace, long)]
    run = transfer_anchors(scores, reader=Short(limit=90), similarity=SAME_TEXT, n=2)
    assert run.traces == 1 and "t1: the text has more than 90 tokens" in run.excluded[0]

    class Broken(Short):
        context = 1000

        def _score(self, text, start, block):
            raise ValueError("returned NaN")

    with pytest.raises(ValueError, match="returned NaN"):
        transfer_anchors(scores, reader=Broken(), similarity=SAME_TEXT, n=2)
