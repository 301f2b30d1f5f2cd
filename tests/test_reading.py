"""What a reader makes of an edited trace: forced answers as one by one, free answers in any company."""

from __future__ import annotations

import numpy as np
import pytest

from anchors.answers import NO_ANSWER, extract_answer
from anchors.interventions import Edit, block, delete, keep, place
from anchors.models import load_model
from anchors.models.base import CapabilityError, Job, Sampling
from anchors.reading import can_force, forced_logprobs, free_answers, shares
from tests.made_up import NO, YES, BlackBox, Reader, build_trace

SHORT = Sampling(1.0, 1.0, 12)


@pytest.fixture(scope="module")
def model():
    return load_model("lab/reasoner")


def edits_of(trace):
    size = len(trace)
    return [
        Edit(trace),
        Edit(keep(trace, [])),
        Edit(keep(trace, range(size // 2))),
        Edit(delete(trace, [1])),
        Edit(delete(trace, [0, 3])),
        block(trace, [2]),
        block(trace, [4, 5]),
        Edit(place(trace, "after")),
    ]


def test_forced_answers_are_those_of_one_score_each(model, problem_trace):
    found = forced_logprobs(edits_of(problem_trace), model, answer="3")
    for edit, logprob, tokens in zip(edits_of(problem_trace), found.logprob, found.tokens, strict=True):
        text, start = model.stub.force(edit.trace.prompt + edit.trace.reasoning, "3")
        spans = [edit.trace.spans[i] for i in edit.blocked]
        cut = (spans[0][0], spans[-1][1]) if spans else None
        (expected,) = model.score([text], [start], block=cut)
        assert logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert tokens == expected.tokens
    np.testing.assert_allclose(found.per_token, found.logprob / found.tokens)
    assert len({round(x, 3) for x in found.logprob}) > 5, "the edits matter to this model"


def test_sentences_apart_are_blocked_together(model, problem_trace):
    apart, first, second = (block(problem_trace, row) for row in ([2, 6], [2], [6]))
    both = forced_logprobs([apart], model, answer="3").logprob[0]
    alone = forced_logprobs([first, second], model, answer="3").logprob
    assert abs(both - alone).min() > 1e-3
    twice = forced_logprobs([Edit(problem_trace, (6, 2, 2))], model, answer="3").logprob[0]
    assert twice == pytest.approx(both, abs=1e-5)


def test_one_answer_for_all_or_one_for_each(model, problem_trace):
    answers = ["5", "12", "3"]
    each = forced_logprobs([problem_trace] * 3, model, answer=answers).logprob
    alone = [forced_logprobs([problem_trace], model, answer=a).logprob[0] for a in answers]
    np.testing.assert_allclose(each, alone, atol=1e-4)
    assert len(set(each.round(3))) == 3
    with pytest.raises(ValueError, match="2 answers were given for 3 edits"):
        forced_logprobs([problem_trace] * 3, model, answer=answers[:2])


def test_a_stub_of_your_own_is_scored(model, problem_trace):
    other = forced_logprobs([problem_trace], model, answer="3", stub=model.stub._replace(before=" It is ")).logprob
    own = forced_logprobs([problem_trace], model, answer="3").logprob
    assert abs(other - own).max() > 1e-3


def test_a_scoring_reader_without_modules_blocks_one_span():
    trace = build_trace()
    reader = Reader(weights={trace.sentences[i].text: float(i) for i in (3, 4, 9)})
    found = forced_logprobs([Edit(trace), block(trace, [3, 4]), block(trace, [9])], reader, answer="7")
    np.testing.assert_allclose(found.per_token, [-9 + 16, -9 + 16 - 3.5, -9 + 16 - 4.5])
    with pytest.raises(CapabilityError, match="one span at a time, not 2"):
        forced_logprobs([block(trace, [3, 9])], reader, answer="7")


def test_a_black_box_is_not_forced_nor_blocked():
    trace = build_trace()
    assert not can_force(BlackBox()) and can_force(Reader())
    with pytest.raises(CapabilityError, match="a server gives no log-probabilities"):
        forced_logprobs([trace], BlackBox(), answer="7")
    with pytest.raises(CapabilityError, match="a server cannot block"):
        free_answers([trace, block(trace, [1])], BlackBox(), n=2)


@pytest.mark.parametrize("n", [0, -3])
def test_at_least_one_continuation_is_asked_for(n):
    with pytest.raises(ValueError, match=f"n is {n}"):
        free_answers([build_trace()], BlackBox(), n=n)


def test_free_answers_of_a_black_box_are_read_from_its_texts():
    trace = build_trace()
    reader = BlackBox({trace.sentences[2].text: 0.25, trace.sentences[5].text: -0.5}, alone=0.5)
    edits = [keep(trace, []), trace, delete(trace, [5]), delete(trace, [2])]
    found = free_answers(edits, reader, n=8)
    np.testing.assert_allclose(shares(found, "7"), [0.5, 0.25, 0.75, 0.0])
    assert {answer for row in found for answer in row} == {"7", "3"}


def test_no_answer_is_an_answer_of_its_own():
    class Silent(BlackBox):
        def writes(self, job):
            return (YES, NO, "I do not know.", "")[job.sample]

    (found,) = free_answers([build_trace()], Silent(), n=4)
    assert found == ["7", "3", NO_ANSWER, NO_ANSWER]
    assert shares([found, [], ["3"]], "7").tolist()[::2] == [0.25, 0.0]
    assert np.isnan(shares([[]], "7")[0])


def test_free_answers_do_not_depend_on_company_or_order(model, problem_trace):
    edits = edits_of(problem_trace)
    together = free_answers(edits, model, n=3, seed=1)
    order = np.random.default_rng(0).permutation(len(edits))
    shuffled = free_answers([edits[i] for i in order], model, n=3, seed=1)
    assert [together[i] for i in order] == shuffled
    for i in (0, 2, 5):
        assert free_answers([edits[i]], model, n=3, seed=1) == [together[i]]
    equal = free_answers([edits[3], edits[0], edits[3]], model, n=3, seed=1)
    assert equal[0] == equal[2] == together[3]
    assert free_answers([edits[0]], model, n=2, seed=1)[0] == together[0][:2], "more continuations keep the first ones"


def test_another_seed_draws_other_continuations(model, problem_trace):
    texts = [keep(problem_trace, range(3))]
    drawn = {tuple(free_answers(texts, model, n=8, seed=s)[0]) for s in range(3)}
    assert len(drawn) > 1


def test_prefixes_of_one_trace_share_a_carrier(problem_trace):
    reader = BlackBox()
    prefixes = [keep(problem_trace, range(i)) for i in range(len(problem_trace) + 1)]
    other = delete(problem_trace, [1])
    free_answers([other, *prefixes[2:]], reader, n=1)
    whole = problem_trace.prompt + problem_trace.reasoning
    assert {job.text for job in reader.jobs} == {whole, other.prompt + other.reasoning}
    assert sorted(job.end for job in reader.jobs if job.text == whole) == list(problem_trace.boundaries[2:])
    assert {job.trace for job in reader.jobs} == {reader.jobs[0].trace}, "one stream of randomness a problem"


def test_prefixes_give_what_separate_continuations_give(model, problem_trace):
    prefixes = [keep(problem_trace, range(i)) for i in (0, 4, 9, len(problem_trace))]
    together = free_answers(prefixes, model, n=3, sampling=SHORT)
    assert together == [free_answers([p], model, n=3, sampling=SHORT)[0] for p in prefixes]


def test_blocked_continuations_are_those_of_the_blocked_prefix(model, problem_trace):
    edit = block(problem_trace, [1, 4])
    (found,) = free_answers([edit], model, n=3)
    plain = BlackBox()
    free_answers([problem_trace], plain, n=3)
    spans = tuple(problem_trace.spans[i] for i in (1, 4))
    jobs = [Job(j.text, j.end, j.trace, 0, j.sample, spans) for j in plain.jobs]
    texts = {job.sample: c.text for job, c in model.generate(jobs, sampling=model.sampling, seed=0)}
    assert found == [extract_answer(texts[s]) or NO_ANSWER for s in range(3)]
