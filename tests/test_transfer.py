"""Transfer with a made-up reader whose forced answer depends on known sentences, so that every number is known."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from anchors.forced import AnswerStub
from anchors.models.base import CapabilityError, Scored, Tokens
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.trace import Trace
from anchors.transfer import LENGTH_CALIPER, POSITION_CALIPER, Match, match, removal_effects, transfer_anchors

SIZE = 16


class Reader:
    """log p of the answer a token is the sum of the weights of the sentences it sees; blocked ones count half."""

    name, stub = "reader", AnswerStub("\n</think>\nThe answer is ", ".")

    def __init__(self, weights):
        self.weights = weights
        self.calls = []

    def encode(self, text):
        offsets = [m.span() for m in re.finditer(r"\s*\S+", text)]
        return Tokens(list(range(len(offsets))), offsets)

    def score(self, texts, starts, *, block=None, ablate=()):
        self.calls.append(block)
        found = []
        for text, start in zip(texts, starts, strict=True):
            assert text[start:].startswith(" 7.")
            hidden = "" if block is None else text[slice(*block)]
            y = sum(w * (0.5 if s in hidden else 1.0) for s, w in self.weights.items() if s in text)
            found.append(Scored(2 * (y - 9.0), 2))
        return found


def build_trace(number=0, words=(4,) * SIZE, **options):
    text = " ".join(f"{number:03d}s{i:02d} " + "word " * (n - 2) + "end." for i, n in enumerate(words))
    trace = Trace.from_text(
        "Q\n<think>\n", text, sentences=split(text), id=f"t{number}", answer=options.pop("answer", "7"), **options
    )
    assert len(trace) == len(words)
    return trace


def split(text):
    return [s + "." for s in text.split(".") if s]


def writer(trace, values, p=None, **options):
    options = {"details": {"model": "writer"}} | options
    return Scores.of(trace, "made up", np.asarray(values, dtype=float), p=p, **options)


def planted(trace, effects):
    """Writer's values and the reader's weights at the same sentences."""
    values, weights = np.full(len(trace), 0.01), {}
    for i, (value, weight) in effects.items():
        values[i] = value
        weights[trace.sentences[i].text] = weight
    return values, weights


def by_p(values, named):
    """p-values under which exactly the named sentences are anchors."""
    return np.where(np.isin(np.arange(len(values)), named), 1e-9, 0.9)


def test_planted_anchors_keep_their_sign_and_size():
    trace = build_trace()
    values, weights = planted(trace, {5: (2.0, 1.0), 10: (-1.5, -0.6)})
    found = transfer_anchors(writer(trace, values, by_p(values, [5, 10])), reader=Reader(weights))
    delete, block = found.retention
    assert (delete.operation, block.operation) == ("delete", "block")
    assert delete.value == pytest.approx((1.0 + 0.6) / 2) and block.value == pytest.approx((0.5 + 0.3) / 2)
    assert (found.anchors, found.unmatched, found.excluded) == (2, 0, ())
    assert (found.writer, found.reader, found.method) == ("writer", "reader", "made up")
    assert np.isnan(delete.low) and delete.p == 1.0, "one trace has no interval and no evidence"
    against = {s: -w for s, w in weights.items()}
    turned = transfer_anchors(writer(trace, values, by_p(values, [5, 10])), reader=Reader(against))
    assert turned.retention[0].value == pytest.approx(-0.8)


def test_controls_are_subtracted():
    trace = build_trace()
    values, weights = planted(trace, {5: (2.0, 1.0)})
    weights |= {s.text: 0.25 for s in trace.sentences if s.index != 5}
    found = transfer_anchors(writer(trace, values, by_p(values, [5])), reader=Reader(weights))
    assert found.retention[0].value == pytest.approx(0.75)
    assert found.retention[1].value == pytest.approx(0.375)


def test_removal_effects_of_both_operations():
    trace = build_trace()
    weights = {s.text: float(i) for i, s in enumerate(trace.sentences)}
    for operation, share in (("delete", 1.0), ("block", 0.5)):
        found = removal_effects(trace, Reader(weights), [2, 0, 15], answer="7", operation=operation)
        np.testing.assert_allclose(found, np.array([2.0, 0.0, 15.0]) * share)


@pytest.mark.parametrize("seed", range(5))
def test_controls_lie_within_the_calipers(seed):
    rng = np.random.default_rng(seed)
    covariates = np.column_stack([rng.integers(0, 12, 30), np.arange(30), rng.integers(0, 2, 30)]).astype(float)
    taken = {int(i) for i in rng.choice(30, 4, replace=False)}
    for anchor in taken:
        length, position, mention = covariates[anchor]
        fits = [
            i
            for i, (n, at, said) in enumerate(covariates)
            if i not in taken
            and max(n, 1) <= LENGTH_CALIPER * max(length, 1)
            and max(length, 1) <= LENGTH_CALIPER * max(n, 1)
            and abs(at - position) <= POSITION_CALIPER
            and said == mention
        ]
        assert sorted(match(covariates, anchor, taken, 99)) == fits
        best = match(covariates, anchor, taken, 2)
        assert len(best) == min(2, len(fits)) and set(best) <= set(fits)
        ratio = {i: abs(np.log(max(covariates[i, 0], 1) / max(length, 1))) for i in fits}
        if best:
            assert ratio[best[0]] == pytest.approx(min(ratio.values()))


def test_anchors_without_a_control_are_counted_and_left_out():
    words = [4] * SIZE
    words[5] = 30
    trace = build_trace(words=words)
    values, weights = planted(trace, {5: (3.0, 5.0), 10: (2.0, 1.0)})
    found = transfer_anchors(writer(trace, values, by_p(values, [5, 10])), reader=Reader(weights))
    assert (found.anchors, found.unmatched) == (1, 1)
    assert found.retention[0].value == pytest.approx(1.0)
    alone = transfer_anchors(writer(trace, values, by_p(values, [5])), reader=Reader(weights))
    assert (alone.anchors, alone.unmatched) == (0, 1)
    assert alone.excluded == ("t0: no control sentence matches an anchor",)
    assert np.isnan(alone.retention[0].value) and np.isnan(alone.retention[0].p)


def test_every_named_anchor_is_barred_from_the_controls():
    """Five anchors are named and one is tested: the other four must not dilute its contrast."""
    trace = build_trace()
    values, weights = planted(trace, {i: (2.0 - i / 100, 1.0) for i in range(3, 8)})
    found = transfer_anchors(writer(trace, values, by_p(values, range(3, 8))), reader=Reader(weights), k=1, controls=9)
    assert found.anchors == 1
    assert found.retention[0].value == pytest.approx(1.0)


def test_a_score_of_zero_is_no_anchor():
    trace = build_trace()
    values = np.zeros(SIZE)
    values[5] = 2.0
    found = transfer_anchors(writer(trace, values), reader=Reader({trace.sentences[5].text: 1.0}))
    assert found.anchors == 1 and found.retention[0].value == pytest.approx(1.0)
    nothing = transfer_anchors(writer(trace, np.zeros(SIZE)), reader=Reader({}))
    assert nothing.anchors == 0 and len(nothing.excluded) == 1


def test_the_answer_is_mentioned_as_a_word_only():
    trace = build_trace()
    texts = [s.text for s in trace.sentences]
    texts[5] = "000s05 is 7 end."
    texts[6], texts[7] = "000s06 is 17 end.", "000s07 is 7 end."
    text = " ".join(texts)
    trace = Trace.from_text("Q\n<think>\n", text, sentences=split(text), answer="7", id="t0")
    values, weights = planted(trace, {5: (2.0, 1.0), 6: (0.0, 0.5), 7: (0.0, 0.25)})
    found = transfer_anchors(writer(trace, values, by_p(values, [5])), reader=Reader(weights))
    assert found.retention[0].value == pytest.approx(0.75), "sentence 7 is the only control; 17 does not say 7"


def test_excluded_traces_say_why_and_are_counted():
    named, silent, targeted, quiet = (build_trace(i, answer="7") for i in range(4))
    silent, targeted = replace(silent, answer=None), replace(targeted, answer=None, target="7")
    scores, weights = [], {}
    for trace in (named, silent, targeted):
        values, more = planted(trace, {5: (2.0, 1.0)})
        weights |= more
        scores.append(writer(trace, values, by_p(values, [5])))
    scores.append(writer(quiet, np.ones(SIZE), np.full(SIZE, 0.9)))
    found = transfer_anchors(scores, reader=Reader(weights))
    assert found.excluded == (
        "t1: no answer of its own and no target",
        "t3: the writer's scores name no anchor at fdr 0.05",
    )
    assert np.isnan(found.retention[0].traces).tolist() == [False, True, False, True]
    assert found.anchors == 2 and "2 traces" in str(found) and "excluded: t3" in str(found)


def test_inference_is_over_traces():
    from scipy.stats import ttest_1samp

    rng, scores, weights, expected = np.random.default_rng(0), [], {}, []
    for number in range(9):
        trace = build_trace(number)
        effect = float(rng.normal(0.6, 0.5))
        values, more = planted(trace, {5: (2.0, effect), 10: (-1.0, -effect)})
        weights |= more
        scores.append(writer(trace, values, by_p(values, [5, 10])))
        expected.append(effect)
    found = transfer_anchors(scores, reader=Reader(weights)).retention[0]
    np.testing.assert_allclose(found.traces, expected)
    interval = ttest_1samp(expected, 0).confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(expected), *interval))
    flips = [abs(np.dot(signs, expected)) for signs in itertools.product([1, -1], repeat=9)]
    assert found.p == pytest.approx(np.mean(np.array(flips) >= abs(sum(expected)) - 1e-9))


def test_a_reader_that_ignores_the_anchors_is_rarely_called_significant():
    rng = np.random.default_rng(1)
    traces = [build_trace(number) for number in range(12)]
    fired, covered, values = 0, 0, []
    for _ in range(200):
        weights = {s.text: float(rng.normal()) for trace in traces for s in trace.sentences}
        scores = [writer(trace, rng.normal(size=SIZE)) for trace in traces]
        found = transfer_anchors(scores, reader=PerTrace(weights), k=2, controls=3).retention[0]
        fired += found.p <= 0.05
        covered += found.low <= 0 <= found.high
        values.append(found.value)
    assert fired / 200 <= 0.05 + 0.04
    assert covered / 200 >= 0.95 - 0.04
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(200)


class PerTrace(Reader):
    """The same reader, looking only at the sentences of the trace at hand."""

    def __init__(self, weights):
        super().__init__(weights)
        self.by_trace = {}
        for text, weight in weights.items():
            self.by_trace.setdefault(text[:4], {})[text] = weight

    def score(self, texts, starts, *, block=None, ablate=()):
        self.weights = self.by_trace[texts[0][len("Q\n<think>\n") :].lstrip()[:4]]
        return super().score(texts, starts, block=block)


def test_balance_is_the_standardised_difference_after_matching():
    words = [4, 4, 4, 5, 4, 4, 5, 4, 4, 4, 4, 5, 4, 4, 4, 4]
    trace = build_trace(words=words)
    values, weights = planted(trace, {3: (2.0, 1.0), 9: (1.5, 1.0)})
    scores = writer(trace, values, by_p(values, [3, 9]))
    found = {b.variable: b.difference for b in transfer_anchors(scores, reader=Reader(weights), controls=2).balance}
    covariates = np.column_stack([words, np.arange(SIZE), np.zeros(SIZE)]).astype(float)
    anchors = covariates[[3, 9]]
    controls = np.array([covariates[list(match(covariates, a, {3, 9}, 2))].mean(0) for a in (3, 9)])
    gap, spread = anchors.mean(0) - controls.mean(0), np.sqrt((anchors.var(0) + controls.var(0)) / 2)
    assert found["length"] == pytest.approx(gap[0] / spread[0])
    assert found["position"] == pytest.approx(gap[1] / spread[1])
    assert found["answer mention"] == 0.0


def test_an_imbalance_without_spread_is_not_called_balanced():
    trace = build_trace(words=[4] * 6)
    values, weights = planted(trace, {1: (2.0, 1.0)})
    found = transfer_anchors(writer(trace, values, by_p(values, [1])), reader=Reader(weights), controls=3)
    balance = {b.variable: b.difference for b in found.balance}
    assert np.isnan(balance["position"]) and balance["length"] == 0.0


def test_wrong_input_is_refused():
    trace = build_trace()
    one = writer(trace, np.ones(SIZE))
    with pytest.raises(ValueError, match="no method"):
        transfer_anchors([], reader=Reader({}))
    with pytest.raises(ValueError, match=r"\['made up', 'other'\].*once a method"):
        transfer_anchors([one, replace(one, method="other", trace=build_trace(1))], reader=Reader({}))
    with pytest.raises(ValueError, match="once a writer"):
        transfer_anchors([one, replace(one, details={"model": "x"}, trace=build_trace(1))], reader=Reader({}))
    with pytest.raises(ValueError, match="given twice"):
        transfer_anchors([one, one], reader=Reader({}))
    for options in ({"k": 0}, {"controls": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            transfer_anchors(one, reader=Reader({}), **options)

    class BlackBox:
        name = "a server"

    with pytest.raises(CapabilityError, match="a server"):
        transfer_anchors(one, reader=BlackBox())


def test_the_record_is_json():
    trace = build_trace()
    values, weights = planted(trace, {5: (2.0, 1.0)})
    record = transfer_anchors(writer(trace, values, by_p(values, [5])), reader=Reader(weights)).to_json()
    again = json.loads(json.dumps(record))
    assert again["retention"][0]["traces"] == pytest.approx([1.0]) and again["anchors"] == 1


def test_a_real_reader_gives_the_effects_of_full_forwards(checkpoints, problem_trace):
    from anchors.models import load_model

    model = load_model(checkpoints["qwen3"])
    whole = problem_trace.prompt + problem_trace.reasoning

    def logprob(text, start, block=None):
        tokens = model.encode(text)
        first = next(i for i, (_, end) in enumerate(tokens.offsets) if end > start)
        logp = model.logprobs(text, block=block)
        found = [float(logp[t - 1, tokens.ids[t]]) for t in range(first, len(tokens.ids))]
        return np.mean(found)

    text, start = model.stub.force(whole, "5")
    full = logprob(text, start)
    for i in (1, 6):
        a, b = problem_trace.spans[i]
        cut = model.stub.force(whole[:a] + whole[b:], "5")
        expected = {"delete": full - logprob(*cut), "block": full - logprob(text, start, block=(a, b))}
        for operation, brute in expected.items():
            (found,) = removal_effects(problem_trace, model, [i], answer="5", operation=operation)
            assert found == pytest.approx(brute, abs=1e-5)
    assert Match(1, 1.0, (2,)).controls == (2,)


def test_scores_for_another_outcome_are_excluded_not_missigned(problem_trace, checkpoints):
    from anchors.importance import resampling_importance
    from anchors.models import load_model

    texts = [["The answer is 5." if s % (k + 2) else "The answer is 4." for s in range(20)] for k in range(16)]
    rollouts = Rollouts.from_texts(problem_trace, texts)
    reader = load_model(checkpoints["llama"])
    other = transfer_anchors(resampling_importance(rollouts, outcome="4"), reader=reader)
    assert other.anchors == 0 and "scored for answer '4'" in other.excluded[0]
    own = transfer_anchors(resampling_importance(rollouts), reader=reader)
    assert not any("scored for" in reason for reason in own.excluded)
