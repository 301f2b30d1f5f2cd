"""Transfer with a made-up reader whose forced answer depends on known sentences, so that every number is known."""

from __future__ import annotations

import inspect
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from anchors.interventions import delete
from anchors.models.base import CapabilityError
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.transfer import Calipers, transfer_anchors
from tests.made_up import (
    NO,
    SIZE,
    YES,
    BlackBox,
    Local,
    Reader,
    build_trace,
    by_p,
    local_scoring,
    planted,
    planted_run,
    written,
)


def test_planted_anchors_keep_their_sign_and_size(monkeypatch):
    local_scoring(monkeypatch)
    trace = build_trace()
    values, weights = planted(trace, {5: (2.0, 1.0), 10: (-1.5, -0.6)})
    found = transfer_anchors(written(trace, values, [5, 10]), reader=Local(weights=weights))
    deleted, blocked = found.retention
    assert (deleted.operation, blocked.operation) == ("delete", "block")
    assert deleted.reader.value == pytest.approx((1.0 + 0.6) / 2)
    assert blocked.reader.value == pytest.approx((0.5 + 0.3) / 2)
    assert deleted.per_token.value == pytest.approx(0.8 / 4), "each sign's anchor has four tokens"
    assert (found.anchors, found.unmatched, found.excluded) == (2, 0, ())
    assert (found.writer, found.reader, found.method, found.outcome) == ("writer", "reader", "made up", "forced")
    assert np.isnan(deleted.reader.low) and np.isnan(deleted.reader.p), "one trace has no interval and no evidence"
    turned = transfer_anchors(
        written(trace, values, [5, 10]), reader=Local(weights={s: -w for s, w in weights.items()})
    )
    assert turned.retention[0].reader.value == pytest.approx(-0.8)


def test_controls_are_subtracted():
    trace = build_trace()
    values, weights = planted(trace, {5: (2.0, 1.0)})
    weights |= {s.text: 0.25 for s in trace.sentences if s.index != 5}
    found = transfer_anchors(written(trace, values, [5]), reader=Reader(weights=weights)).retention[0]
    assert found.reader.value == pytest.approx(0.75)
    assert (found.anchors.value, found.controls.value) == pytest.approx((1.0, 0.25))


def test_controls_are_the_matched_ones():
    """Sentences near the anchor weigh 0.5, those farther than the caliper 3: only the near ones are subtracted."""
    trace = build_trace()
    values, weights = planted(trace, {8: (2.0, 1.0)})
    weights |= {s.text: 0.5 if abs(s.index - 8) <= 2 else 3.0 for s in trace.sentences if s.index != 8}
    near = Calipers(positions=2, relative=0.0)
    found = transfer_anchors(written(trace, values, [8]), reader=Reader(weights=weights), calipers=near, controls=9)
    assert found.retention[0].reader.value == pytest.approx(0.5)
    assert found.details["control sets a trace"] == 4.0


def test_anchors_without_a_control_are_counted_and_left_out():
    words = [4] * SIZE
    words[5] = 30
    trace = build_trace(words=words)
    values, weights = planted(trace, {5: (3.0, 5.0), 10: (2.0, 1.0)})
    found = transfer_anchors(written(trace, values, [5, 10]), reader=Reader(weights=weights))
    assert (found.anchors, found.unmatched) == (1, 1)
    assert found.retention[0].reader.value == pytest.approx(1.0)
    alone = transfer_anchors(written(trace, values, [5]), reader=Reader(weights=weights))
    assert (alone.anchors, alone.unmatched, alone.traces) == (0, 1, 0)
    assert alone.excluded == ("t0: none of its 16 sentences is close enough to an anchor to be its control",)
    assert np.isnan(alone.retention[0].reader.value) and np.isnan(alone.retention[0].reader.p)
    assert alone.verdict == "gate failed" and "1 not (100%)" in str(alone)


def test_too_few_sentences_for_a_control_exclude_the_trace():
    short = build_trace(words=[4])
    found = transfer_anchors(written(short, [2.0], [0]), reader=Reader())
    assert found.excluded == ("t0: none of its 1 sentences is close enough to an anchor to be its control",)


def test_every_named_anchor_is_barred_from_the_controls():
    """Five anchors are named and one is tested: the other four must not dilute its contrast."""
    trace = build_trace()
    values, weights = planted(trace, {i: (2.0 - i / 100, 1.0) for i in range(3, 8)})
    found = transfer_anchors(written(trace, values, range(3, 8)), reader=Reader(weights=weights), k=1, controls=9)
    assert found.anchors == 1
    assert found.retention[0].reader.value == pytest.approx(1.0)


def test_the_largest_scores_are_chosen_whatever_their_sign():
    trace = build_trace()
    values, weights = planted(trace, {3: (1.0, 1.0), 6: (-3.0, -5.0), 9: (2.0, 2.0)})
    found = transfer_anchors(written(trace, values, [3, 6, 9]), reader=Reader(weights=weights), k=2)
    assert found.anchors == 2 and found.retention[0].anchors.value == pytest.approx((5.0 + 2.0) / 2)


def test_a_score_of_zero_is_no_anchor():
    trace = build_trace()
    values = np.zeros(SIZE)
    values[5] = 2.0
    found = transfer_anchors(written(trace, values), reader=Reader(weights={trace.sentences[5].text: 1.0}))
    assert found.anchors == 1 and found.retention[0].reader.value == pytest.approx(1.0)
    nothing = transfer_anchors(written(trace, np.zeros(SIZE)), reader=Reader())
    assert nothing.anchors == 0 and nothing.excluded == ("t0: the writer's scores name no anchor at fdr 0.05",)


def test_the_answer_is_mentioned_as_a_word_only():
    texts = {5: "It is 7 end.", 6: "It is 17 end.", 7: "So is 7 end."}
    trace = build_trace(texts=texts)
    values, weights = planted(trace, {5: (2.0, 1.0), 6: (0.0, 0.5), 7: (0.0, 0.25)})
    found = transfer_anchors(written(trace, values, [5]), reader=Reader(weights=weights))
    assert found.retention[0].reader.value == pytest.approx(0.75), "sentence 7 is the only control; 17 does not say 7"


def test_excluded_traces_say_why_and_are_counted():
    named, silent, targeted, quiet = (build_trace(i) for i in range(4))
    silent, targeted = replace(silent, answer=None), replace(targeted, answer=None, target="7")
    scores, weights = [], {}
    for trace in (named, silent, targeted):
        values, more = planted(trace, {5: (2.0, 1.0)})
        weights |= more
        scores.append(written(trace, values, [5]))
    scores.append(written(quiet, np.ones(SIZE), []))
    found = transfer_anchors(scores, reader=Reader(weights=weights))
    assert found.excluded == (
        "t1: it has no answer of its own and no target",
        "t3: the writer's scores name no anchor at fdr 0.05",
    )
    assert found.details["trace ids"] == ["t0", "t2"] and found.traces == 2 and found.anchors == 2
    assert "2 traces" in str(found) and "left out: t3" in str(found)


def test_the_outcome_can_be_the_target_or_any_answer():
    trace = build_trace(answer="8", target="7")
    values, weights = planted(trace, {5: (2.0, 1.0)})
    for answer in ("target", "7"):
        found = transfer_anchors(written(trace, values, [5]), reader=Reader(weights=weights), answer=answer)
        assert found.retention[0].reader.value == pytest.approx(1.0), "the reader asserts that 7 is forced"
    none = transfer_anchors(written(replace(trace, target=None), values, [5]), reader=Reader(), answer="target")
    assert none.excluded == ("t0: it has no target",)


def test_scores_for_another_outcome_are_excluded_not_missigned():
    trace = build_trace()
    values, weights = planted(trace, {5: (2.0, 1.0)})
    for outcome, kept in (("own answer '7'", 1), ("target '7'", 1), ("answer '8'", 0), ("answer '17'", 0)):
        scores = written(trace, values, [5], details={"model": "writer", "outcome": outcome})
        found = transfer_anchors(scores, reader=Reader(weights=weights))
        assert found.traces == kept and bool(found.excluded) != bool(kept)
        assert kept or f"it was scored for {outcome}, but answer '7' would be measured" in found.excluded[0]


def test_a_trace_too_long_for_the_reader_is_excluded_and_counted():
    scores, weights, _ = planted_run([{5: (2.0, 1.0)}] * 2)
    long = build_trace(7, words=[8] * SIZE)
    values, more = planted(long, {5: (2.0, 1.0)})
    reader = Reader(weights=weights | more, limit=100)
    found = transfer_anchors([*scores, written(long, values, [5])], reader=reader)
    assert found.traces == 2
    assert found.excluded == ("t7: the text has more than 100 tokens, the context of reader",)


def test_an_answer_the_tokenizer_cannot_spell_excludes_the_trace():
    scores, weights, _ = planted_run([{5: (2.0, 1.0)}] * 2)
    odd = build_trace(7, answer="~")
    values, _ = planted(odd, {5: (2.0, 1.0)})
    found = transfer_anchors([*scores, written(odd, values, [5])], reader=Reader(weights=weights))
    assert found.traces == 2 and found.excluded == ("t7: reader cannot spell '~'",)


def test_inference_is_over_traces():
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(0)
    expected = rng.normal(0.6, 0.5, 9).tolist()
    scores, weights, _ = planted_run([{5: (2.0, e), 10: (-1.0, -e)} for e in expected])
    found = transfer_anchors(scores, reader=Reader(weights=weights)).retention[0].reader
    np.testing.assert_allclose(found.traces, expected)
    interval = ttest_1samp(expected, 0).confidence_interval(0.95)
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(expected), *interval))
    flips = [abs(np.dot(signs, expected)) for signs in itertools.product([1, -1], repeat=9)]
    assert found.p == pytest.approx(np.mean(np.array(flips) >= abs(sum(expected)) - 1e-9))
    assert found.low < found.boot_low < found.value < found.boot_high < found.high, "a bootstrap of nine covers less"


def test_the_ratio_is_the_readers_share_of_the_writers_effect():
    rng = np.random.default_rng(1)
    effects = rng.normal(1.0, 0.1, 6)
    scores, weights, _ = planted_run([{5: (2.0, float(e))} for e in effects])
    half = {s: w / 2 for s, w in weights.items()}
    run = transfer_anchors(scores, reader=Reader(weights=half), writer=Reader(weights=weights, name="writer"))
    found = run.retention[0]
    assert found.writer is not None and found.ratio is not None and found.partial == ""
    assert found.writer.value == pytest.approx(effects.mean()) and found.ratio == pytest.approx((0.5, 0.5, 0.5))
    alone = transfer_anchors(scores, reader=Reader(weights=half)).retention[0]
    assert alone.writer is None and alone.ratio is None and "give writer=model" in alone.partial
    noise = {s: w * (-1) ** i for i, (s, w) in enumerate(weights.items())}
    unsure = transfer_anchors(scores, reader=Reader(weights=half), writer=Reader(weights=noise, name="writer"))
    assert unsure.retention[0].ratio is None, "a ratio to an effect that may be 0 means nothing"


def test_balance_and_share_matched_are_reported():
    words = [4, 4, 4, 5, 4, 4, 5, 4, 4, 4, 4, 5, 4, 4, 4, 4]
    trace = build_trace(words=words)
    values, weights = planted(trace, {3: (2.0, 1.0), 9: (1.5, 1.0)})
    found = transfer_anchors(written(trace, values, [3, 9]), reader=Reader(weights=weights), controls=1)
    by_name = {b.variable: b.difference for b in found.balance}
    assert by_name["length"] == pytest.approx((4.5 - 4.5) / 1) and by_name["answer mention"] == 0.0
    assert "balance: length" in str(found) and "2 anchors matched, 0 not (0%)" in str(found)


def test_wrong_input_is_refused():
    trace = build_trace()
    one = written(trace, np.ones(SIZE))
    other = replace(one, trace=build_trace(1))
    wrong = {
        "no method": ([], {}),
        r"\['made up', 'other'\].*once a method": ([one, replace(other, method="other")], {}),
        "once a writer": ([one, replace(other, details={"model": "x"})], {}),
        "t0 was given twice": ([one, one], {}),
        "k is 0": (one, {"k": 0}),
        "controls 0": (one, {"controls": 0}),
        "n -1": (one, {"n": -1}),
        "operation 'burn' is unknown; use delete": (one, {"operations": ["delete", "burn"]}),
        "preset is 'triples'": (one, {"preset": "triples"}),
        "compressor 'magic' is unknown": (one, {"compressors": ["first", "magic"]}),
        "rising order that end at 1.0": (one, {"compressors": ["first"], "budgets": (0.5, 0.2, 1.0)}),
        "rising order": (one, {"compressors": ["first"], "budgets": (0.2, 0.5)}),
        r"budgets are \(\)": (one, {"compressors": ["first"], "budgets": ()}),
        r"budgets are \(0.0, 1.0\)": (one, {"compressors": ["first"], "budgets": (0.0, 1.0)}),
        r"budgets are \(0.5, 1.0, 2.0\)": (one, {"compressors": ["first"], "budgets": (0.5, 1.0, 2.0)}),
    }
    unchecked = inspect.unwrap(transfer_anchors)
    for message, (given, options) in wrong.items():
        with pytest.raises(ValueError, match=message):
            unchecked(given, reader=Reader(), **options)


BLOCK = "block: attention of a server cannot be cut at several sentences; use a local model"


def test_what_a_black_box_cannot_do_is_said():
    one = written(build_trace(), np.ones(SIZE))
    with pytest.raises(CapabilityError, match="a server gives no log-probabilities"):
        transfer_anchors(one, reader=BlackBox(), outcome="forced")
    with pytest.raises(CapabilityError, match=BLOCK):
        transfer_anchors(one, reader=BlackBox(), operations=["block"])
    with pytest.raises(CapabilityError, match="no paraphraser was given"):
        transfer_anchors(one, reader=Reader(), operations=["paraphrase"])
    found = transfer_anchors(one, reader=BlackBox(), n=2)
    assert found.outcome == "free" and [r.operation for r in found.retention] == ["delete"]
    assert found.details["not measured"] == [BLOCK]


def test_a_model_is_not_its_own_reader_by_accident():
    trace = build_trace()
    values, weights = planted(trace, {5: (2.0, 1.0)})
    scores, reader = written(trace, values, [5]), Reader(weights=weights)
    with pytest.raises(ValueError, match="writer and reader are the same model, reader"):
        transfer_anchors(scores, reader=reader, writer=reader)
    with pytest.raises(ValueError, match="same model, writer"):
        transfer_anchors(scores, reader=Reader(weights=weights, name="writer"))
    itself = transfer_anchors(scores, reader=reader, writer=reader, itself=True).retention[0]
    assert itself.writer is not None and itself.reader.value == itself.writer.value == pytest.approx(1.0)


def test_rollouts_that_do_not_name_their_weights_have_some_writer():
    """Neither side of such a run has a fingerprint; that does not make them one model."""
    texts = [[YES, NO] * 8] * 6 + [[YES] * 16] * (SIZE - 5)
    trace = build_trace()
    found = transfer_anchors(Rollouts.from_texts(trace, texts), reader=Reader(), method="resampling")
    assert found.writer == "unknown" and found.method == "resampling"


def test_a_method_that_needs_a_model_is_refused_for_rollouts():
    given = Rollouts.from_texts(build_trace(), [[YES]] * (SIZE + 1))
    for method in ("forced", "telepathy"):
        with pytest.raises(ValueError, match=f"method is '{method}', which is not computed from rollouts"):
            transfer_anchors(given, reader=Reader(), method=method)


def test_the_record_is_strict_json(tmp_path):
    scores, weights, _ = planted_run([{5: (2.0, 1.0)}])
    run = transfer_anchors(
        scores, reader=Reader(weights=weights), corrupt=True, compressors=["anchors", "bm25"], preset="pairs", n=8
    )
    again = json.loads(json.dumps(run.to_json(), allow_nan=False))
    assert again["retention"][0]["reader"]["traces"] == pytest.approx([1.0]) and again["anchors"] == 1
    assert again["retention"][0]["reader"]["low"] is None and again["retention"][0]["ratio"] is None
    assert again["gate"]["passed"] is False and again["gate"]["reason"] == run.gate.reason
    assert again["details"]["calipers"]["positions"] == 4 and again["pairs"]["pairs"] == 1
    assert [c["name"] for c in again["gate"]["conditions"]] == [c.name for c in run.gate.conditions]
    assert json.loads(run.save(tmp_path / "run.json").read_text()) == again
    endless = replace(run, details={"limit": float("inf")})
    assert json.loads(json.dumps(endless.to_json(), allow_nan=False))["details"] == {"limit": None}


def test_words_begin_with_the_verdict_and_name_every_part():
    scores, weights, _ = planted_run([{5: (2.0, 1.0 + i / 10)} for i in range(4)])
    run = transfer_anchors(
        scores, reader=Reader(weights=weights), writer=Reader(weights=weights, name="writer"), corrupt=True,
        compressors=["anchors", "first"], preset="pairs", n=8,
    )  # fmt: skip
    text = str(run)
    assert text.splitlines()[0] == "writer -> reader: TRANSFERS"
    assert "the anchors move the reader by +1.150 nats a token more than their controls do" in text
    for part in ("gate (fixed", "retention", "in the writer", "retained: 1.00", "rank agreement", "compression, raw",
                 "compression, deletion", "scaffold (full - none)", "pairs preset"):  # fmt: skip
        assert part in text
    assert "nan" not in text.split("gate")[0]


def test_a_real_reader_gives_the_effects_of_full_forwards(checkpoints, problem_trace):
    from anchors.models import load_model

    model = load_model(checkpoints["qwen3"])
    whole = problem_trace.prompt + problem_trace.reasoning

    def logprob(text, start, block=None):
        tokens = model.encode(text)
        first = next(i for i, (_, end) in enumerate(tokens.offsets) if end > start)
        logp = model.logprobs(text, block=block)
        return np.mean([float(logp[t - 1, tokens.ids[t]]) for t in range(first, len(tokens.ids))])

    text, start = model.stub.force(whole, "5")
    full, values = logprob(text, start), np.full(len(problem_trace), 0.01)
    values[6] = 1.0
    wide = Calipers(length=9.0, positions=99, relative=1.0, category=False, answer_mention=False, numbers=False)
    scores = Scores.of(problem_trace, "made up", values, p=by_p(values, [6]), details={"model": "writer"})
    found = transfer_anchors(scores, reader=model, calipers=wide, controls=99, n=1).retention
    expected = {"delete": [], "block": []}
    for i, (a, b) in enumerate(problem_trace.spans):
        cut = model.stub.force(problem_trace.prompt + delete(problem_trace, [i]).reasoning, "5")
        expected["delete"].append(full - logprob(*cut))
        expected["block"].append(full - logprob(text, start, block=(a, b)))
    for retention in found:
        effects = np.array(expected[retention.operation])
        assert retention.anchors.value == pytest.approx(effects[6], abs=1e-4)
        others = np.delete(effects, 6)
        assert retention.controls.value == pytest.approx(others.mean(), abs=1e-4)
