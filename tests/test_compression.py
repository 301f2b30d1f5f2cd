"""Compressors against brute force on short traces, the shared selection by its properties, and the budget in tokens."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchors.compression import (
    BUDGETS,
    COMPRESSORS,
    Compressor,
    Context,
    best_subset,
    compress_curve,
    compress_trace,
    compressor,
    select,
)
from anchors.compressors import likelihood, positional
from anchors.compressors.base import count, keep_words, split_words
from anchors.interventions import keep
from anchors.models import CapabilityError, load_model
from anchors.reading import forced_logprobs
from anchors.scores import Scores
from anchors.trace import Trace

TEXT = "We need 6 - 1 modulo 10. Let me see.\n\nWe take 6 - 1 = 5. That leaves 5. Every step is right."


@pytest.fixture(scope="module")
def reader():
    return load_model("lab/reasoner")


@pytest.fixture(scope="module")
def char_reader():
    return load_model("lab/reasoner-char")


@pytest.fixture(scope="module")
def short():
    """Five sentences about one sum."""
    return Trace.from_text("Find 6 - 1 modulo 10.\n<think>\n", TEXT + "\n</think>\nThe answer is 5.", target="5")


def scores_of(trace, seed=0):
    return Scores.of(trace, "planted", np.random.default_rng(seed).normal(size=len(trace)))


def context(trace, reader=None, **options):
    given = {"writer_scores": scores_of(trace), "reader_scores": scores_of(trace, 1), "answer": trace.answer or ""}
    return Context(trace=trace, reader=reader, stub=None, **(given | options))


# -- selection ---------------------------------------------------------------------------------------------------

UNITS = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, 2.5, -3.0, float("nan"), float("-inf")]), st.integers(0, 9)),
    min_size=1,
    max_size=12,
)


@given(UNITS, st.integers(0, 60), st.integers(0, 3))
def test_selection_keeps_its_budget_and_order_and_leaves_no_unit_that_would_fit(units, limit, seed):
    scores, sizes = np.array([s for s, _ in units]), np.array([n for _, n in units])
    kept = select(scores, sizes, limit, seed=seed)
    assert list(kept) == sorted(set(kept))
    assert sizes[list(kept)].sum() <= limit
    assert not np.isneginf(scores[list(kept)]).any()
    room = limit - sizes[list(kept)].sum()
    assert all(sizes[i] > room for i in range(len(sizes)) if i not in kept and scores[i] != -np.inf)
    assert kept == select(scores, sizes, limit, seed=seed)


@given(UNITS, st.integers(0, 12), st.integers(0, 12), st.integers(0, 3))
def test_a_larger_budget_keeps_a_superset_of_units_of_one_length(units, one, other, seed):
    scores, sizes = np.array([s for s, _ in units]), np.full(len(units), 3)
    small, large = (set(select(scores, sizes, 3 * k, seed=seed)) for k in sorted((one, other)))
    assert small <= large


@given(UNITS, st.integers(0, 60), st.integers(0, 5))
def test_what_joining_adds_is_taken_from_the_lowest_units(units, limit, extra):
    scores, sizes = np.array([s for s, _ in units]), np.array([n for _, n in units])

    def measure(kept):
        return int(sizes[list(kept)].sum()) + extra * len(kept)

    kept, plain = select(scores, sizes, limit, measure=measure), select(scores, sizes, limit)
    assert not kept or measure(kept) <= limit
    assert set(kept) <= set(plain)
    left_out = [scores[i] for i in set(plain) - set(kept)]
    assert all(not s > min(scores[list(kept)]) for s in left_out if kept and not np.isnan(scores[list(kept)]).any())


def test_the_highest_scores_come_first_and_unmeasured_ones_last():
    scores, sizes = np.array([np.nan, 1.0, -2.0, 5.0]), np.array([1, 1, 1, 1])
    assert [select(scores, sizes, k) for k in range(5)] == [(), (3,), (1, 3), (1, 2, 3), (0, 1, 2, 3)]


def test_ties_are_broken_as_the_docstring_says():
    first = int(np.random.default_rng(7).permutation(6)[0])
    assert select(np.zeros(6), np.ones(6, dtype=int), 1, seed=7) == (first,)


def test_selection_needs_one_score_a_unit():
    with pytest.raises(ValueError, match="2 scores were given for 3 units"):
        select(np.zeros(2), np.ones(3, dtype=int), 1)


# -- every compressor --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(COMPRESSORS))
def test_every_compressor_runs_and_meets_the_budget(method, problem_trace, reader):
    options = {"scores": scores_of(problem_trace), "reader_scores": scores_of(problem_trace, 1), "reader": reader}
    found = compress_trace(problem_trace, method=method, budget=0.4, **options)
    assert found.tokens <= 0.4 * found.full_tokens
    assert found.tokens == count(found.trace, reader)
    assert found.counted == "tokens of lab/reasoner"
    assert found.trace.prompt == problem_trace.prompt and found.trace.answer == problem_trace.answer
    if found.kept is not None:
        texts = [s.text for s in found.trace.sentences if s.text != COMPRESSORS[method].marker]
        assert texts == [problem_trace.sentences[i].text for i in found.kept]
    if method not in ("equations", "answer_line"):
        assert found.tokens > 0.2 * found.full_tokens
    scores = COMPRESSORS[method].function(context(problem_trace, reader))
    units = len(problem_trace) if COMPRESSORS[method].unit == "sentence" else len(split_words(problem_trace))
    assert scores.shape == (units,) and not np.isnan(scores).any()


@pytest.mark.parametrize("method", ["random", "first", "draft", "gzip"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_trace_and_a_whole_budget_the_whole_trace(method, seed, problem_trace):
    once, again = (compress_trace(problem_trace, method=method, seed=seed) for _ in range(2))
    assert once == again
    assert compress_trace(problem_trace, method=method, budget=1.0).trace.reasoning == problem_trace.reasoning


@pytest.mark.parametrize("method", ["random", "spirit", "draft"])
def test_a_curve_is_one_trace_a_budget(method, short, reader):
    curve = compress_curve(short, method=method, budgets=[0.3, 0.7], reader=reader, seed=3)
    assert curve == tuple(compress_trace(short, method=method, budget=b, reader=reader, seed=3) for b in (0.3, 0.7))
    assert curve[0].tokens <= curve[1].tokens


def test_a_compressor_with_the_wrong_number_of_scores_is_refused(short):
    COMPRESSORS["broken"] = Compressor("broken", "word", (), lambda ctx: np.zeros(2))
    try:
        with pytest.raises(ValueError, match=r"'broken' gave scores of shape \(2,\) for 24 words"):
            compress_trace(short, method="broken")
    finally:
        del COMPRESSORS["broken"]


def test_positional_orders(short):
    ctx = context(short)
    orders = {name: list(np.argsort(-COMPRESSORS[name].function(ctx))) for name in ("first", "last", "head_tail")}
    assert orders == {"first": [0, 1, 2, 3, 4], "last": [4, 3, 2, 1, 0], "head_tail": [0, 4, 1, 3, 2]}
    assert list(np.argsort(-positional.stride(ctx))) == [0, 4, 2, 1, 3]
    assert int(positional.length(ctx).argmax()) == 0


def test_matched_random_orders_stay_near_the_anchors(problem_trace):
    place, size = [], []
    for seed in range(20):
        ctx = context(problem_trace, seed=seed)
        anchor = positional.best_first(ctx.writer_scores)[0]
        chosen = int(positional.random_position(ctx).argmax())
        place.append(abs(chosen - anchor))
        lengths = positional.length(ctx)
        near = int(positional.random_length(ctx).argmax())
        size.append(int((np.abs(lengths - lengths[anchor]) < abs(lengths[near] - lengths[anchor])).sum()))
        assert anchor not in (chosen, near)
    assert max(place) <= 4 and len(set(place)) > 1
    assert max(size) <= positional.CLOSEST


def test_signed_scores_are_used_as_they_are(short):
    scores = Scores.of(short, "planted", np.array([-9.0, 1.0, np.nan, 3.0, 2.0]))
    kept = [compress_trace(short, scores=scores, budget=b).kept for b in (0.25, 0.45)]
    assert 3 in kept[0] and 0 not in kept[0] and 0 not in kept[1]


def test_word_rules(short):
    assert compress_trace(short, method="equations", budget=1.0).trace.reasoning == "6 - 1 = 5."
    trace = Trace.from_text("Q", "Tom has many eggs, so 3 + 4 = 7 eggs are his. We will go on from left to right.")
    kept = {"3", "+", "4", "=", "7", "go", "on", "from", "left", "right."}
    words = [trace.reasoning[w.start : w.end].strip() for w in split_words(trace)]
    scores = COMPRESSORS["draft"].function(context(trace))
    assert {w for w, s in zip(words, scores, strict=True) if s == 1} == kept
    assert {w for w, s in zip(words, scores, strict=True) if s == 0}.isdisjoint(kept)
    share = len(" 3 + 4 = 7 go on from left right.") / len(trace.reasoning)
    assert compress_trace(trace, method="draft", budget=share).trace.reasoning == "3 + 4 = 7 go on from left right."


def test_words_keep_their_white_space_and_sentences(short):
    words = split_words(short)
    assert "".join(short.reasoning[w.start : w.end] for w in words) == short.reasoning
    assert keep_words(short, words) == keep(short, range(len(short)))
    cut = keep_words(short, [w for w in words if w.sentence in (1, 2)][1:-1])
    assert cut.reasoning == "me see.\n\nWe take 6 - 1 ="
    assert [s.text for s in cut.sentences] == ["me see.", "We take 6 - 1 ="]
    assert len(keep_words(short, [])) == 0


def test_only_the_last_statement_of_the_answer_is_kept(short):
    found = compress_trace(short, method="answer_line", budget=1.0)
    assert found.kept == (3,) and found.trace.reasoning == "That leaves 5."


def test_text_statistics_find_what_they_look_for():
    text = "The cat sat. The cat sat. Zebra quartz jumps over lazy dogs. What is modulo ten?"
    trace = Trace.from_text("Take nine modulo ten.", text)
    ctx = context(trace)
    assert int(COMPRESSORS["bm25"].function(ctx).argmax()) == 3
    assert int(COMPRESSORS["gzip"].function(ctx).argmax()) == 2
    assert set(np.argsort(-COMPRESSORS["centroid"].function(ctx))[:3]) >= {2}


def test_doubt_and_checks_go_first(short):
    labels = ["problem_setup", "uncertainty_management", "active_computation", "result_consolidation", "self_checking"]
    found = COMPRESSORS["category"].function(context(short.with_categories(labels)))
    assert list(found) == [1.0, 0.0, 4.0, 3.0, 0.0]


# -- the answer's likelihood -------------------------------------------------------------------------------------


def forced(reader, trace):
    text, start = reader.stub.force(trace.prompt + trace.reasoning, "5")
    return reader.score([text], [start])[0]


def test_leave_one_out_and_tts_are_differences_of_forced_answers(short, reader):
    everything = set(range(len(short)))
    drop = [forced(reader, short).logprob - forced(reader, keep(short, everything - {i})).logprob for i in range(5)]
    empty = forced(reader, keep(short, [])).logprob
    gain = [forced(reader, keep(short, [i])).logprob - empty for i in range(5)]
    ctx = context(short, reader)
    np.testing.assert_allclose(likelihood.leave_one_out(ctx), drop, atol=1e-4)
    np.testing.assert_allclose(likelihood.tts(ctx), (np.array(drop) + gain) / 2, atol=1e-4)


def brute_elimination(units, value):
    """Remove the unit whose removal leaves the highest value, one at a time."""
    left, order = list(units), []
    while left:
        gone = max(left, key=lambda u: value([v for v in left if v != u]))
        order.append(gone)
        left.remove(gone)
    return order


def test_spirit_removes_what_raises_perplexity_least(short, reader):
    def value(kept):
        scored = forced(reader, keep(short, kept))
        return scored.logprob / scored.tokens

    order = brute_elimination(range(len(short)), value)
    assert list(np.argsort(likelihood.spirit(context(short, reader)))) == order


def test_greedy_removes_the_chunk_that_costs_least(short, reader):
    chunks = [tuple(c) for c in likelihood.word_chunks(short, 3)]
    order = brute_elimination(
        chunks, lambda kept: forced(reader, keep_words(short, [w for c in kept for w in c])).logprob
    )
    scores = likelihood.greedy(context(short, reader), rounds=100)
    found = {w: s for w, s in zip(split_words(short), scores, strict=True)}
    assert [found[c[0]] for c in order] == list(range(len(chunks)))
    assert all(len({found[w] for w in c}) == 1 for c in chunks)


@given(st.integers(1, 30), st.integers(1, 12))
def test_elimination_takes_all_units_in_at_most_the_rounds_given(size, rounds):
    calls = []

    def value(kept):
        calls.append(len(kept))
        return np.array([sum(k) for k in kept], dtype=float)

    order = likelihood.eliminate(size, rounds, value)
    assert sorted(order) == list(range(size)) and len(calls) <= rounds
    assert list(np.argsort(order)) == list(range(size))


def test_greedy_refuses_no_rounds(short, reader):
    with pytest.raises(ValueError, match="rounds is 0"):
        likelihood.greedy(context(short, reader), rounds=0)


@pytest.mark.parametrize("leak", ["keep", "strip"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_sentence_compressor_beats_the_best_subset(reader, seed, leak):
    from anchors.lab.worlds import load_world, write

    world, rng = load_world("expression"), random.Random(seed)
    problem = world.problem(rng)
    written = write(world, problem, rng)
    whole = Trace.from_text(world.prompt(problem), written.reasoning, answer=world.answer(written.end))
    trace = keep(whole, range(len(whole) - 6, len(whole)))
    options = {"scores": scores_of(trace), "reader_scores": scores_of(trace, 1), "reader": reader, "leak": leak}
    ceiling = best_subset(trace, reader, BUDGETS, leak=leak)
    assert all(a.logprob <= b.logprob for a, b in pairwise(ceiling))
    marks = {"step_entropy_marker"}  # what it leaves is no subset
    for method in (name for name, c in COMPRESSORS.items() if c.unit == "sentence" and name not in marks):
        found = compress_curve(trace, method=method, **options)
        reached = forced_logprobs([f.trace for f in found], reader, answer=trace.answer).logprob
        for best, value, size in zip(ceiling, reached, found, strict=True):
            assert (
                size.tokens <= size.budget * size.full_tokens
                and best.compressed.tokens <= size.budget * size.full_tokens
            )
            assert value <= best.logprob + 1e-4, method


def test_the_best_subset_is_the_best_of_all(short, reader):
    full = count(short, reader)
    (best,) = best_subset(short, reader, [0.5])
    fits = [keep(short, k) for n in range(6) for k in combinations(range(5), n)]
    fits = [trace for trace in fits if count(trace, reader) <= 0.5 * full]
    assert best.logprob == pytest.approx(max(forced(reader, trace).logprob for trace in fits), abs=1e-4)
    assert best.compressed.trace == keep(short, best.compressed.kept)


def test_the_best_subset_of_a_long_trace_is_refused(problem_trace, reader):
    with pytest.raises(ValueError, match="15 sentences, so 32,768 subsets; best_subset takes at most 10"):
        best_subset(problem_trace, reader, [0.5])


# -- the reader's distributions ----------------------------------------------------------------------------------


def test_entropy_and_self_information_match_the_full_distributions(short, reader):
    text = short.prompt + short.reasoning
    tokens, logp = reader.encode(text), reader.logprobs(text).double()
    entropy = -(logp.exp() * logp).sum(-1).numpy()
    ctx = context(short, reader)
    summed = np.zeros(len(short))
    for t, (a, _) in enumerate(tokens.offsets[1:], start=1):
        i = next((i for i, (x, y) in enumerate(short.spans) if x <= a < y), None)
        if i is not None:
            summed[i] += entropy[t - 1]
    np.testing.assert_allclose(COMPRESSORS["step_entropy"].function(ctx), summed, rtol=1e-4)
    first = next(t for t, (a, _) in enumerate(tokens.offsets) if a >= len(short.prompt))
    own = -sum(float(logp[t - 1, tokens.ids[t]]) for t in range(first, len(tokens.ids)))
    assert COMPRESSORS["perplexity"].function(ctx).sum() == pytest.approx(own, rel=1e-4)


def test_the_question_explains_the_sentence_that_restates_it(short, reader):
    gain = COMPRESSORS["contrastive_perplexity"].function(context(short, reader))
    assert int(gain.argmax()) == 0 and gain[0] > 1
    bare = Trace.from_text("", TEXT, answer="5")
    np.testing.assert_allclose(COMPRESSORS["contrastive_perplexity"].function(context(bare, reader)), 0.0, atol=1e-6)


def test_attention_to_end_is_the_closing_tags_row(short, reader):
    text = short.prompt + short.reasoning + "\n</think>"
    pooled = reader.pooled_attention(text, [*short.spans, (len(text) - 9, len(text))])
    expected = pooled[:, :, -1, :-1].double().mean((0, 1)).numpy()
    np.testing.assert_allclose(COMPRESSORS["attention_to_end"].function(context(short, reader)), expected)


def test_attention_needs_a_reader_that_shows_it(short):
    class BlackBox:
        name = "box"

    with pytest.raises(CapabilityError, match="box does not show its attention"):
        compress_trace(short, method="attention_to_end", reader=BlackBox())


# -- budget, leak, marker, errors --------------------------------------------------------------------------------


def test_budgets_are_counted_in_the_readers_tokens(short, reader, char_reader):
    sizes = {}
    for model in (reader, char_reader):
        whole = model.encode(short.prompt + short.reasoning).offsets
        full = sum(a >= len(short.prompt) for a, _ in whole)
        found = compress_trace(short, method="last", budget=0.5, reader=model)
        left = model.encode(found.trace.prompt + found.trace.reasoning).offsets
        assert found.full_tokens == full and found.tokens == sum(a >= len(short.prompt) for a, _ in left) <= full / 2
        sizes[model.name] = full
    assert sizes["lab/reasoner-char"] == len(TEXT) > 2 * sizes["lab/reasoner"]
    bare = compress_trace(short, method="last", budget=0.5)
    assert bare.counted == "characters (no reader was given)" and bare.full_tokens == len(TEXT)
    assert bare.tokens == len(bare.trace.reasoning) <= len(TEXT) / 2


def test_a_budget_below_every_unit_keeps_nothing(short):
    found = compress_trace(short, method="first", budget=0.01)
    assert found.kept == () and found.tokens == 0 and len(found.trace) == 0 and found.trace.reasoning == ""


@pytest.mark.parametrize("method", ["answer_line", "last", "draft", "leave_one_out", "anchors"])
def test_stripping_removes_every_statement_of_the_answer(method, short, reader):
    scores = Scores.of(short, "planted", np.array([1.0, 2.0, 5.0, 4.0, 3.0]))
    found = compress_trace(short, method=method, budget=1.0, leak="strip", scores=scores, reader=reader)
    assert "5" not in found.trace.reasoning
    assert found.full_tokens == count(short, reader)
    if method in ("last", "leave_one_out", "anchors"):
        assert found.kept == (0, 1, 4)
    if method == "answer_line":
        assert found.kept == ()


def test_scores_follow_their_sentences_when_others_are_stripped(short):
    scores = Scores.of(short, "planted", np.array([1.0, 2.0, 5.0, 4.0, 3.0]), matrix=np.zeros((5, 5)))
    assert compress_trace(short, scores=scores, budget=0.27, leak="strip").kept == (4,)


def test_a_trace_that_only_states_its_answer_is_stripped_to_nothing():
    trace = Trace.from_text("q", "It is 5. So 5.", answer="5")
    assert compress_trace(trace, method="first", leak="strip", budget=1.0).kept == ()


def test_a_marker_stands_for_every_run_of_removed_sentences(short, char_reader):
    scores = Scores.of(short, "planted", np.array([0.0, 0.0, 5.0, 0.0, 0.0]))
    options = {"method": "step_entropy", "reader": char_reader}
    found = compress_trace(short, budget=0.45, scores=scores, reader=char_reader, marker="[SKIP]")
    assert found.kept == (2,)
    assert found.trace.reasoning == "[SKIP]\n\nWe take 6 - 1 = 5. [SKIP]"
    assert found.tokens == len(found.trace.reasoning) <= 0.45 * found.full_tokens
    deleted = compress_trace(short, budget=0.45, scores=scores, reader=char_reader)
    assert set(deleted.kept) >= {2} and "[SKIP]" not in deleted.trace.reasoning
    assert "[SKIP]" in compress_trace(short, budget=0.5, marker="[SKIP]", **options).trace.reasoning
    whole = compress_trace(short, budget=1.0, marker="[SKIP]", **options)
    assert whole.trace.reasoning == short.reasoning
    tiny = compress_trace(short, budget=0.02, marker="[SKIP]", **options)
    assert tiny.tokens == 0


def test_errors_name_the_value_and_the_remedy(short, reader):
    with pytest.raises(ValueError, match=r"compressor 'magic' is unknown; use one of anchors, answer_line, .*tts"):
        compress_trace(short, method="magic")
    with pytest.raises(ValueError, match="'anchors' needs writer_scores: give scores="):
        compress_trace(short)
    with pytest.raises(ValueError, match="'reader_anchors' needs reader_scores: give reader_scores="):
        compress_trace(short, method="reader_anchors")
    with pytest.raises(ValueError, match=r"'spirit' needs reader: give reader=load_model"):
        compress_trace(short, method="spirit")
    silent = Trace.from_text("q", "This is the first one. This is the second one.")
    with pytest.raises(ValueError, match="'tts' needs answer: give answer="):
        compress_trace(silent, method="tts", reader=reader)
    with pytest.raises(ValueError, match="leak='strip' needs an answer"):
        compress_trace(silent, method="first", leak="strip")
    with pytest.raises(ValueError, match=r"budget is 1.5; .* in \(0, 1\]"):
        compress_trace(short, method="first", budget=1.5)
    with pytest.raises(ValueError, match="'draft' keeps words"):
        compress_trace(short, method="draft", marker="[SKIP]")
    with pytest.raises(ValueError, match="visible character"):
        compress_trace(short, method="first", marker=" ")
    with pytest.raises(ValueError, match=r"scores are of trace .* with 2 sentences"):
        compress_trace(short, scores=scores_of(silent))


def test_a_compressor_is_one_function(short):
    @compressor("reversed_length", unit="sentence")
    def shortest(ctx):
        return -positional.length(ctx)

    try:
        assert 1 in compress_trace(short, method="reversed_length", budget=0.3).kept
    finally:
        del COMPRESSORS["reversed_length"]


def test_position_is_another_name_for_last(short):
    assert "position" not in COMPRESSORS
    named, last = (compress_trace(short, method=name, budget=0.5) for name in ("position", "last"))
    assert named.trace == last.trace and named.method == "position"


def test_step_entropy_leaves_its_marker(problem_trace, reader):
    marked = compress_trace(problem_trace, method="step_entropy_marker", budget=0.4, reader=reader)
    by_hand = compress_trace(problem_trace, method="step_entropy", budget=0.4, reader=reader, marker="[SKIP]")
    assert marked.trace.reasoning == by_hand.trace.reasoning and "[SKIP]" in marked.trace.reasoning
    other = compress_trace(problem_trace, method="step_entropy_marker", budget=0.4, reader=reader, marker="...")
    assert "..." in other.trace.reasoning and "[SKIP]" not in other.trace.reasoning
