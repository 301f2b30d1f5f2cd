"""Confidence against its definitions, by brute force in numpy on full logits of a plain eager forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anchors.confidence import (
    Definition,
    auroc_gain,
    group_confidence,
    pooled_auroc,
    read_traces,
    sentence_confidence,
    text_confidences,
    token_confidence,
    tokens,
    trace_confidence,
    within_auroc,
)
from anchors.models import CapabilityError, load_model
from anchors.models.base import Sampling
from anchors.models.tokens import token_spans
from anchors.stats import mean_interval
from tests.test_models import eager


def all_logp(model, text):
    """log p of every next token of a text, [token, vocabulary], in double precision."""
    logits = eager(model, model.encode(text).ids).logits[0].double().numpy()
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def by_definition(model, text, k):
    """Confidence, entropy and log p of every token, one token at a time."""
    ids, logp = model.encode(text).ids, all_logp(model, text)
    rows = [(np.nan, np.nan, np.nan)]
    for t in range(1, len(ids)):
        row = logp[t - 1]
        largest = sorted(row, reverse=True)[:k]
        rows.append((-sum(largest) / len(largest), -float(np.exp(row) @ row), row[ids[t]]))
    return np.array(rows).T


@pytest.mark.parametrize("k", [1, 20])
def test_token_confidence_equals_its_definition(tiny, problem_trace, k):
    found = token_confidence(problem_trace.text, tiny, k=k)
    for ours, brute in zip(found, by_definition(tiny, problem_trace.text, k), strict=True):
        np.testing.assert_allclose(ours, brute, atol=2e-5)


def test_texts_in_one_padded_pass_read_as_each_alone(tiny, problem_trace, monkeypatch):
    text = problem_trace.text
    texts, starts = [text, text[:90], text[:91], text[40:], text[:200]], [len(problem_trace.prompt), 0, 91, 7, 150]
    monkeypatch.setattr(tokens, "PADDED", 200)
    found = text_confidences(texts, starts, tiny)
    for whole, start, ours in zip(texts, starts, found, strict=True):
        first = token_spans(tiny.encode(whole).offsets, [(start, len(whole))]).spans[0][0]
        for row, alone in zip(ours, token_confidence(whole, tiny), strict=True):
            np.testing.assert_allclose(row, alone[first:], atol=2e-5)


def in_the_nucleus(p, top_p):
    """Tokens with less than top_p strictly above them, renormalised."""
    kept = np.array([p[p > edge].sum() < top_p for edge in p])
    return np.sort(p[kept] / p[kept].sum())[::-1]


@pytest.mark.parametrize(("temperature", "top_p"), [(0.6, 1.0), (1.0, 0.3), (0.7, 0.8)])
def test_processed_logits_are_those_sampled_from(checkpoints, problem_trace, temperature, top_p):
    model, text = load_model(checkpoints["llama"]), problem_trace.text
    rule = Definition(k=5, sampling=Sampling(temperature, top_p))
    found = token_confidence(text, model, definition=rule)
    for t, row in enumerate(all_logp(model, text)[:-1], start=1):
        p = np.exp(row / temperature)
        p = in_the_nucleus(p / p.sum(), top_p)
        assert found.confidence[t] == pytest.approx(-np.log(p[:5]).mean(), abs=1e-4)
        assert found.entropy[t] == pytest.approx(-(p * np.log(p)).sum(), abs=1e-4)


def test_a_nucleus_of_one_token_turns_the_direction_round():
    logits = torch.tensor([[9.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    rule, raw = Definition(k=3, sampling=Sampling(1.0, 0.9)), Definition(k=3)
    peaked, flat = tokens.read_logits(logits, torch.tensor([0, 0]), raw)[0]
    assert peaked > flat == pytest.approx(np.log(4))
    peaked, flat = tokens.read_logits(logits, torch.tensor([0, 0]), rule)[0]
    assert peaked == 0 and flat == pytest.approx(np.log(4))


def test_the_public_implementation_averages_over_the_returned_entries(checkpoints, problem_trace):
    """What a server returns: the k likeliest tokens and the sampled one, a dictionary of k or k + 1 entries."""
    model, text, k = load_model(checkpoints["qwen3"]), problem_trace.text, 20
    logp, ids = all_logp(model, text), model.encode(text).ids
    rule = Definition(k=k, compat="deepconf")
    found = token_confidence(text, model, definition=rule).confidence
    sizes = []
    for t in range(1, len(ids)):
        returned = {int(j): logp[t - 1, j] for j in np.argsort(-logp[t - 1])[:k]} | {ids[t]: logp[t - 1, ids[t]]}
        sizes.append(len(returned))
        assert abs(found[t] - round(-float(np.mean(list(returned.values()))), 3)) < 1.5e-3
    assert set(sizes) == {k, k + 1}
    np.testing.assert_array_equal(found[1:], np.round(found[1:], 3))
    plain = token_confidence(text, model, k=k).confidence
    larger = np.array([size == k + 1 for size in sizes])
    assert (found[1:] - plain[1:])[larger].min() > 0  # the extra token is less likely than the k
    np.testing.assert_allclose(found[1:][~larger], plain[1:][~larger], atol=6e-4)


def brute_groups(x, window):
    return [sum(x[i : i + window]) / window for i in range(len(x) - window + 1)]


@pytest.mark.parametrize(("length", "window"), [(40, 7), (40, 1), (40, 40), (213, 16)])
def test_trace_confidence_equals_its_definitions(length, window):
    x = np.random.default_rng(length + window).gamma(4, 2, size=length)
    groups = brute_groups(list(x), window)
    lowest = sorted(groups)[: max(1, int(0.1 * len(groups)))]
    found = trace_confidence(x, definition=Definition(window=window, tail=9))
    np.testing.assert_allclose(found.groups, groups)
    np.testing.assert_allclose(group_confidence(x, window=window), groups)
    assert found.lowest == pytest.approx(min(groups)) == found.of("lowest")
    assert found.bottom == pytest.approx(sum(lowest) / len(lowest))
    assert found.mean == pytest.approx(sum(x) / length)
    assert found.tail == pytest.approx(sum(x[-9:]) / 9)
    assert found.lowest <= found.bottom and found.share == window / length
    by_share = trace_confidence(x, definition=Definition(window=window, tail=0.1))
    assert by_share.tail == pytest.approx(x[-max(1, length // 10) :].mean())


def test_a_trace_shorter_than_the_window_has_no_group_or_its_mean():
    x = [2.0, 4.0, 9.0]
    found = trace_confidence(x, definition=Definition(window=4))
    assert not len(found.groups) and np.isnan([found.lowest, found.bottom]).all()
    assert found.mean == found.tail == 5.0
    short = trace_confidence(x, definition=Definition(window=4, short="mean"))
    assert short.lowest == short.bottom == 5.0
    assert trace_confidence(x, definition=Definition(window=3)).lowest == 5.0
    assert trace_confidence(x, definition=Definition(window=4, compat="deepconf")).lowest == 5.0
    empty = trace_confidence([], definition=Definition(compat="deepconf"))
    assert np.isnan([empty.mean, empty.lowest, empty.bottom, empty.tail, empty.share]).all()


def test_the_public_implementation_rounds_tokens_and_groups():
    x = np.random.default_rng(0).gamma(4, 2, size=50)
    rounded = [round(v, 3) for v in x.tolist()]
    found = trace_confidence(x, definition=Definition(window=7, compat="deepconf"))
    np.testing.assert_allclose(found.tokens, rounded, atol=1e-12)
    np.testing.assert_allclose(found.groups, [round(g, 3) for g in brute_groups(rounded, 7)], atol=1e-12)
    assert found.lowest != trace_confidence(x, definition=Definition(window=7)).lowest


def test_a_token_that_was_not_measured_is_left_out():
    spans = [(0, 2), (2, 3), (3, 3)]
    found = trace_confidence([np.nan, 1.0, 3.0], definition=Definition(window=2), spans=spans)
    assert found.mean == 2.0 and found.groups.tolist() == [2.0]
    np.testing.assert_array_equal(found.sentences, [1.0, 3.0, np.nan])


def test_sentence_confidence_is_the_mean_over_its_tokens(tiny, problem_trace):
    text = problem_trace.text[: problem_trace.boundaries[-1]]
    spans = token_spans(tiny.encode(text).offsets, problem_trace.spans).spans
    expected, entropy, logprob = by_definition(tiny, text, 20)
    found = sentence_confidence(problem_trace, tiny, resamples=200)
    for ours, brute in ((found.values, expected), (found.entropy, entropy), (found.logprob, logprob)):
        np.testing.assert_allclose(ours, [brute[a:b].mean() for a, b in spans], atol=2e-5)
    assert found.n.tolist() == [b - a for a, b in spans]
    assert (found.low <= found.values).all() and (found.values <= found.high).all()
    assert np.isnan(found.p).all()


def test_a_trace_under_a_model_is_read_from_the_end_of_its_prompt(tiny, problem_trace):
    rule = Definition(window=8, tail=10)
    (found,) = read_traces([problem_trace], tiny, definition=rule)
    start = token_spans(tiny.encode(problem_trace.text).offsets, [problem_trace.spans[0]]).spans[0][0]
    brute = by_definition(tiny, problem_trace.text, 20)[0][start:]
    np.testing.assert_allclose(found.tokens, brute, atol=2e-5)
    assert found.lowest == pytest.approx(min(brute_groups(list(brute), 8)), abs=2e-5)
    assert found.tail == pytest.approx(brute[-10:].mean(), abs=2e-5)
    np.testing.assert_allclose(found.sentences, sentence_confidence(problem_trace, tiny).values, atol=5e-3)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    bounds = [mean_interval(rng.normal(size=40), np.random.default_rng(i), resamples=300) for i in range(400)]
    assert 0.90 <= np.mean([low <= 0 <= high for low, high in bounds]) <= 0.97
    assert np.isnan(mean_interval(np.array([1.0, np.nan]), rng, resamples=10)).all()


def test_k_beyond_the_vocabulary_is_the_mean_over_all_of_it(checkpoints, problem_trace):
    model = load_model(checkpoints["llama"])
    whole = token_confidence(problem_trace.text, model, k=model.vocabulary)
    beyond = token_confidence(problem_trace.text, model, k=10 * model.vocabulary)
    np.testing.assert_array_equal(whole.confidence, beyond.confidence)
    np.testing.assert_allclose(beyond.confidence, by_definition(model, problem_trace.text, 10**6)[0], atol=2e-5)


def test_the_first_token_of_a_text_is_not_measured(checkpoints):
    model = load_model(checkpoints["gpt2"])
    for found in (token_confidence("We need 3.", model), *text_confidences(["We need 3."], [0], model)):
        assert all(np.isnan(row[0]) and np.isfinite(row[1:]).all() for row in found)


def test_numbers_do_not_depend_on_the_block_of_rows(checkpoints, problem_trace, monkeypatch):
    model = load_model(checkpoints["gemma2"])
    whole = token_confidence(problem_trace.text, model)
    monkeypatch.setattr(tokens, "ELEMENTS", 7 * model.vocabulary)
    for a, b in zip(whole, token_confidence(problem_trace.text, model), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_what_cannot_be_measured_is_refused(checkpoints, problem_trace):
    class BlackBox:
        name = "a server"

    with pytest.raises(CapabilityError, match="a server gives no log-probabilities"):
        sentence_confidence(problem_trace, BlackBox())
    with pytest.raises(CapabilityError, match="a server gives no log-probabilities"):
        read_traces([problem_trace], BlackBox())
    broken = load_model(checkpoints["llama"])
    with torch.no_grad():
        next(broken.module.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        sentence_confidence(problem_trace, broken)
    with pytest.raises(ValueError, match="NaN"):
        read_traces([problem_trace], broken)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"k": 0}, "k is 0"), ({"window": 0}, "window is 0"), ({"tail": 1.5}, "tail is 1.5"), ({"tail": 0}, "tail is 0"),
     ({"bottom": 0.0}, "bottom is 0.0")],
)  # fmt: skip
def test_a_definition_that_makes_no_sense_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Definition(**options)


def paired_auroc(values, right):
    """Share of (right, wrong) pairs in which the right one is higher, ties counting half."""
    pairs = [(a > b) + (a == b) / 2 for a, r in zip(values, right, strict=True) if r for b, s in
             zip(values, right, strict=True) if not s]  # fmt: skip
    return np.mean(pairs) if pairs else np.nan


def test_auroc_within_problems_equals_the_pairs_and_ignores_difficulty():
    rng = np.random.default_rng(0)
    problems = np.repeat(np.arange(30), 16)
    ease = rng.normal(scale=5, size=30)[problems]
    right = rng.random(480) < 1 / (1 + np.exp(-ease / 2))
    confidence = np.round(ease + rng.normal(size=480), 1)  # nothing but difficulty
    found = within_auroc(confidence, right, problems)
    each = [paired_auroc(confidence[problems == i], right[problems == i]) for i in range(30)]
    measured = [v for v in each if v == v]
    assert found.value == pytest.approx(np.mean(measured)) and found.values == pytest.approx(measured)
    assert (found.problems, found.asked) == (len(measured), 30)
    assert found.low < 0.5 < found.high and found.p > 0.05
    assert pooled_auroc(confidence, right) > 0.8  # the warning: pooled over problems it looks as if it worked


def test_a_gain_is_paired_by_problem_over_the_same_traces():
    rng = np.random.default_rng(1)
    problems = np.repeat(np.arange(40), 12)
    right = rng.random(480) < 0.6
    overall = right + rng.normal(scale=2.0, size=480)
    local = right + rng.normal(scale=0.5, size=480)
    local[::7] = np.nan
    kept = ~np.isnan(local)
    found = auroc_gain(local, overall, right, problems)
    each = []
    for i in range(40):
        rows = (problems == i) & kept
        each.append(paired_auroc(local[rows], right[rows]) - paired_auroc(overall[rows], right[rows]))
    assert found.value == pytest.approx(np.nanmean(each)) and found.low > 0 and found.p < 0.01
    assert auroc_gain(overall, overall, right, problems).value == 0


def test_problems_with_one_kind_of_trace_say_nothing():
    found = within_auroc([1.0, 2.0, 3.0], [True, True, True], ["p", "p", "q"])
    assert np.isnan(found.value) and (found.problems, found.asked) == (0, 2)
    one = within_auroc([1.0, 2.0, 3.0], [False, True, True], ["p", "p", "q"])
    assert one.value == 1.0 and np.isnan(one.low) and one.problems == 1
    with pytest.raises(ValueError, match="3 confidences, 2 outcomes and 3 problems"):
        within_auroc([1.0, 2.0, 3.0], [False, True], ["p", "p", "q"])
