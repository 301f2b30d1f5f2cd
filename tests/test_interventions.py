"""Interventions: every edit is a valid trace, edits nothing in place, and does what it says to numbers and answers."""

from __future__ import annotations

import copy
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchors import interventions as edit
from anchors.lab.worlds import load_world, write
from anchors.taxonomy import CATEGORIES
from anchors.trace import Sentence, Trace

KINDS = list(CATEGORIES)[:4]
STEPS = "We add 3 to 41. Then 3 + 41 = 44.\n\nThe half of it is 44 / 2 = 22. So the answer is 22."


def steps(**options) -> Trace:
    return Trace.from_text("Half of 3 + 41?\n", f"<think>\n{STEPS}\n</think>\n22", answer="22", **options)


def lab_trace(world_name: str, seed: int) -> Trace:
    world, rng = load_world(world_name), random.Random(seed)
    problem = world.problem(rng)
    written = write(world, problem, rng)
    answer = world.answer(written.end)
    text = written.reasoning + world.ending(answer)
    return Trace.from_text(world.prompt(problem), text, target=world.gold(problem))


WORDS = st.sampled_from(
    ["so", "we", "add", "-3.5", "1,000", "1/2", "7", "70", "0", "x1", "2nd", "=", "+", "= 7", "\u22124"]
)
SENTENCES = st.lists(
    st.lists(WORDS, min_size=3, max_size=8).map(lambda w: "Now then " + " ".join(w)), min_size=1, max_size=6
)


@st.composite
def parts(draw):
    """Numbers of every form, mixed white space, categories, and now and then leading white space."""
    texts = draw(SENTENCES)
    leads = [draw(st.sampled_from(["", " "])), *(draw(st.sampled_from([" ", "\n\n", "\n"])) for _ in texts[1:])]
    kinds = [draw(st.sampled_from([*CATEGORIES, None])) for _ in texts]
    return texts, leads, kinds, draw(st.sampled_from(["Q<think>\n", "Q?\n", "A long one.\n<think>"]))


def build(texts, leads, kinds, prompt) -> Trace:
    pieces = [lead + text + "." for lead, text in zip(leads, texts, strict=True)]
    edges = np.cumsum([0, *map(len, pieces)]).tolist()
    sentences = tuple(
        Sentence(i, p.strip(), a, b, kind)
        for i, (p, a, b, kind) in enumerate(zip(pieces, edges, edges[1:], kinds, strict=False))
    )
    return Trace(prompt, "".join(pieces), sentences, "\n</think>\n7", answer="7", target="1/2", meta={"a": 1})


def edits(trace: Trace, seed: int) -> dict[str, Trace]:
    """Every intervention that applies to a trace, on some choice of sentences."""
    rng = random.Random(seed)
    some = [i for i in range(len(trace)) if rng.random() < 0.5]
    other = Trace.from_text("Another question", "We look at 9 of them. That is all there is.")
    ways = {
        "keep": lambda: edit.keep(trace, some),
        "delete": lambda: edit.delete(trace, some),
        "block": lambda: edit.block(trace, some).trace,
        "replace": lambda: edit.replace(trace, {i: " Something else.\n" for i in some}),
        "paraphrase": lambda: edit.paraphrase(trace, some, str.upper),
        "shuffle": lambda: edit.shuffle_sentences(trace, seed=seed),
        "alter": lambda: edit.alter_numbers(trace, seed=seed),
        "alter some": lambda: edit.alter_numbers(trace, sentences=some, seed=seed),
        "invalid": lambda: edit.invalid_steps(trace, rate=0.5, seed=seed),
        "swap": lambda: edit.swap_reasoning(trace, [other, trace]),
        "fill": lambda: edit.fill(trace),
        "answer": lambda: edit.answer_only(trace),
        "strip": lambda: edit.strip_answer(trace),
        "first mention": lambda: edit.strip_answer(trace, mode="first_mention"),
        "draft": lambda: edit.draft(trace),
        "equations": lambda: edit.equations_only(trace),
        **{slot: lambda slot=slot: edit.place(trace, slot) for slot in edit.SLOTS},
    }
    found = {}
    for name, make in ways.items():
        try:
            found[name] = make()
        except ValueError as error:
            assert any(says in str(error) for says in ("no number", "no other order", "= number", "give one")), error
    return found


def check(edited: Trace, trace: Trace) -> None:
    assert "".join(edited.reasoning[s.start : s.end] for s in edited.sentences) == edited.reasoning
    assert [s.index for s in edited.sentences] == list(range(len(edited)))
    assert all(s.text == edited.reasoning[s.start : s.end].strip() for s in edited.sentences)
    assert (edited.ending, edited.answer, edited.target, edited.meta) == (
        trace.ending, trace.answer, trace.target, trace.meta,
    )  # fmt: skip
    assert Trace.from_json(edited.to_json()) == edited


@given(parts(), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
@pytest.mark.slow
def test_every_edit_is_a_valid_trace_and_leaves_its_input_alone(drawn, seed):
    trace = build(*drawn)
    before = copy.deepcopy(trace)
    first, second = edits(trace, seed), edits(trace, seed)
    assert trace == before
    assert first == second
    for name, edited in first.items():
        check(edited, trace)
        moved = name in ("before", "after", "quoted")
        assert (edited.prompt == trace.prompt) == (not moved)
        assert edited.reasoning != "" or moved or name in ("keep", "delete", "strip", "first mention", "equations")


@given(parts(), st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_edits_compose(drawn, seed):
    trace = build(*drawn)
    for once in edits(trace, seed).values():
        for twice in edits(once, seed + 1).values():
            check(twice, trace)


@given(parts(), st.sets(st.integers(0, 5)))
@settings(max_examples=100, deadline=None)
def test_keep_and_delete_part_the_sentences(drawn, chosen):
    trace = build(*drawn)
    chosen = {i for i in chosen if i < len(trace)}
    rest = set(range(len(trace))) - chosen
    kept, left = edit.keep(trace, chosen), edit.delete(trace, chosen)
    assert kept == edit.delete(trace, rest)
    original = [(s.text, s.category) for s in trace.sentences]
    assert [(s.text, s.category) for s in kept.sentences] == [original[i] for i in sorted(chosen)]
    assert [(s.text, s.category) for s in left.sentences] == [original[i] for i in sorted(rest)]


@given(parts(), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_an_edit_of_nothing_is_the_trace_itself(drawn, seed):
    trace = build(*drawn)
    assert edit.delete(trace, []) is trace
    assert edit.keep(trace, range(len(trace))) is trace
    assert edit.replace(trace, {}) is trace
    assert edit.replace(trace, {i: s.text for i, s in enumerate(trace.sentences)}) is trace
    assert edit.paraphrase(trace, range(len(trace)), str.strip) is trace
    assert edit.alter_numbers(trace, sentences=[], seed=seed) is trace
    assert edit.invalid_steps(trace, rate=0.0, seed=seed) is trace
    assert edit.place(trace, "think") is trace
    assert edit.block(trace, []) == (trace, ())


@given(parts(), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_a_shuffle_is_another_order_of_the_same_sentences(drawn, seed):
    trace = build(*drawn)
    bodies = [s.text for s in trace.sentences]
    if len(set(bodies)) < 2:
        with pytest.raises(ValueError, match="no other order"):
            edit.shuffle_sentences(trace, seed=seed)
        return
    shuffled = edit.shuffle_sentences(trace, seed=seed)
    assert [s.text for s in shuffled.sentences] != bodies
    assert sorted((s.text, str(s.category)) for s in shuffled.sentences) == sorted(
        (s.text, str(s.category)) for s in trace.sentences
    )
    assert sorted(shuffled.reasoning) == sorted(trace.reasoning)


def test_a_shuffle_is_uniform_over_the_other_orders():
    trace = Trace.from_text("Q", "The first one. The second one. The third one.")
    seen = [tuple(s.text for s in edit.shuffle_sentences(trace, seed=k).sentences) for k in range(500)]
    counts = [seen.count(order) for order in set(seen)]
    assert len(counts) == 5
    assert min(counts) > 60


# --- sentences ------------------------------------------------------------------------------------------------------


def test_the_first_sentence_hands_on_its_white_space():
    trace = Trace("Q", "\n  One is here. \n\nTwo is here. Three.", (
        Sentence(0, "One is here.", 0, 15), Sentence(1, "Two is here.", 15, 30), Sentence(2, "Three.", 30, 37),
    ))  # fmt: skip
    assert trace.reasoning[15:30] == " \n\nTwo is here."
    assert edit.delete(trace, [0]).reasoning == "\n  Two is here. Three."
    assert edit.delete(trace, [0, 1]).reasoning == "\n  Three."
    assert edit.delete(trace, [1]).reasoning == "\n  One is here. Three."
    assert edit.replace(trace, {0: "  Other.\n"}).reasoning == "\n  Other. \n\nTwo is here. Three."


def test_all_sentences_can_go():
    trace = steps()
    nothing = edit.delete(trace, range(4))
    assert (nothing.reasoning, nothing.sentences, len(nothing)) == ("", (), 0)
    assert nothing.text == "Half of 3 + 41?\n<think>\n\n</think>\n22"
    assert nothing == edit.keep(trace, []) == edit.replace(trace, dict.fromkeys(range(4), " "))
    assert edit.keep(nothing, []) is nothing
    assert edit.fill(nothing) is nothing
    assert edit.answer_only(nothing).reasoning == "The answer is 22."


@pytest.mark.parametrize("index", [4, 99, -1])
@pytest.mark.parametrize("how", [edit.keep, edit.delete, edit.block])
def test_an_unknown_index_is_named(how, index):
    with pytest.raises(ValueError, match=f"no sentence {index}; it has 4"):
        how(steps(), [0, index])
    with pytest.raises(ValueError, match=f"no sentence {index}"):
        edit.replace(steps(), {index: "x"})
    with pytest.raises(ValueError, match=f"no sentence {index}"):
        edit.alter_numbers(steps(), sentences=[index], seed=0)
    with pytest.raises(ValueError, match=f"no sentence {index}"):
        edit.paraphrase(steps(), [index], str.upper)


def test_block_names_sentences_of_the_whole_trace():
    trace = steps()
    assert edit.block(trace, [2, 0, 2]) == edit.Edit(trace, (0, 2))
    assert edit.Edit(trace).blocked == ()


def test_categories_stay_with_their_sentences():
    trace = steps().with_categories(KINDS)
    assert edit.delete(trace, [1]).categories == (KINDS[0], *KINDS[2:])
    assert edit.replace(trace, {1: "We took another path. And one more."}).categories == tuple(KINDS)
    pairs = {(s.text, s.category) for s in edit.shuffle_sentences(trace, seed=1).sentences}
    assert pairs == {(s.text, s.category) for s in trace.sentences}


def test_a_resample_of_two_sentences_stays_one():
    longer = edit.replace(steps(), {1: "Now add them up. That is 44."})
    assert len(longer) == 4
    assert longer.sentences[1].text == "Now add them up. That is 44."


def test_math_aware_sentences_are_not_split_again():
    trace = Trace.from_text("Q", "1. Note $5! + 1 = 121$ here, e.g. by hand. Then we go on.", math_aware=True)
    assert len(edit.alter_numbers(trace, seed=0)) == len(trace) == 2


def test_a_paraphrase_is_given_the_text_and_must_say_something():
    assert edit.paraphrase(steps(), [0], lambda text: f"Well, {text}").sentences[0].text == "Well, We add 3 to 41."
    with pytest.raises(ValueError, match="returned ' ' for sentence 2"):
        edit.paraphrase(steps(), [2], lambda text: " ")


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0), ("none at all", 0), ("-3.5", 1), ("1,000", 1), ("1,000,000.25", 1), ("1/2", 1), ("-1/2 and \u22124", 2),
        ("5-3=2", 3), ("5 - 3 = 2", 3), ("x1 and y_2 and H2O", 0), ("the 2nd and 3rd of 4", 1), ("1,2,3", 3),
        ("1, 2", 2), ("(3, 4)", 2), ("2x + 3y", 2), (r"\frac{1}{2}", 2), ("50%", 1), (".5 of it", 1), ("7.", 1),
        ("1,0000", 2), ("on 3.", 1),
    ],
)  # fmt: skip
def test_numbers_are_counted_as_they_are_written(text, count):
    assert edit.count_numbers(text) == count


def altered(text: str, seed: int = 0, **options) -> str:
    sentences = (Sentence(0, text.strip(), 0, len(text)),)
    return edit.alter_numbers(Trace("Q", text, sentences), seed=seed, **options).reasoning


@pytest.mark.parametrize(
    "text", ["-3.5", "1,000", "1/2", "0.05", "007", "0", "9 of 10", "x1 is 3", "2nd of 45", "\u22124"]
)
def test_an_altered_number_keeps_its_form_and_loses_its_value(text):
    shape = "".join("d" if c.isdigit() else c for c in text)
    for seed in range(50):
        new = altered(text, seed)
        assert new != text
        assert "".join("d" if c.isdigit() else c for c in new) == shape
        assert edit.count_numbers(new) == edit.count_numbers(text)
        assert not text.startswith("0.") or new.startswith("0.")
        assert not text.startswith("1,") or not new.startswith("0")
        assert ("x1" in new) == ("x1" in text)
        assert ("2nd" in new) == ("2nd" in text)
        if "/" in text:
            assert Fraction(new) != Fraction(text)


def test_no_divisor_becomes_zero():
    for seed in range(200):
        new = altered(r"Take 8/4 and 6 / 2 and \frac{1}{5}.", seed)
        assert "/0" not in new and "/ 0" not in new and "}{0" not in new


@given(st.lists(st.integers(0, 999), min_size=2, max_size=12), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_the_map_of_numbers_is_one_to_one_and_leaves_none(numbers, seed):
    text = " and ".join(map(str, numbers))
    new = [int(n) for n in altered(text, seed).split(" and ")]
    assert all(a != b for a, b in zip(numbers, new, strict=True))
    assert [len(str(a)) for a in numbers] == [len(str(b)) for b in new]
    image = dict(zip(numbers, new, strict=True))
    assert [image[n] for n in numbers] == new
    assert len(set(image.values())) == len(image)


def test_the_same_number_is_altered_alike_in_every_call():
    trace = steps()
    whole = edit.alter_numbers(trace, seed=3)
    parts = [edit.alter_numbers(trace, sentences=[i], seed=3) for i in range(4)]
    assert [p.sentences[i].text for i, p in enumerate(parts)] == [s.text for s in whole.sentences]
    assert all(p.sentences[j] == trace.sentences[j] for i, p in enumerate(parts) for j in range(i))
    assert edit.alter_numbers(trace, seed=4) != whole


def test_randomness_depends_on_seed_and_id_only():
    trace = steps(id="p1")
    again = Trace.from_json(trace.to_json())
    random.seed(7)
    first = [edit.alter_numbers(trace, seed=5), edit.shuffle_sentences(trace, seed=5)]
    random.seed(8)
    second = [edit.shuffle_sentences(again, seed=5), edit.alter_numbers(again, seed=5)]
    assert first == second[::-1]
    assert edit.alter_numbers(steps(id="p2"), seed=5) != first[0]


def test_where_there_is_no_number_nothing_is_altered_in_silence():
    trace = Trace.from_text("Q", "We look at it first. Then we add 3 to it.")
    with pytest.raises(ValueError, match=r"sentences \[0\] .* hold no number"):
        edit.alter_numbers(trace, sentences=[0], seed=0)
    with pytest.raises(ValueError, match="hold no number"):
        edit.alter_numbers(edit.keep(trace, [0]), seed=0)


def test_endless_digits_are_altered_without_parsing_them():
    text = "It is " + "7" * 5000 + " now."
    new = altered(text)
    assert len(new) == len(text)
    assert new != text
    assert edit.leak(Trace("Q", text, (Sentence(0, text, 0, len(text)),), target="7")).tolist() == [False]


def test_invalid_steps_change_the_result_of_the_last_equation():
    trace = steps()
    for seed in range(20):
        wrong = edit.invalid_steps(trace, rate=1.0, seed=seed)
        assert [s.text.rpartition("=")[0] for s in wrong.sentences] == [
            s.text.rpartition("=")[0] for s in trace.sentences
        ]
        changed = [a.text != b.text for a, b in zip(wrong.sentences, trace.sentences, strict=True)]
        assert changed == [False, True, True, False]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("So x = -3.5 here.", "So x = -"), ("We have 1 = 1/2 there.", "We have 1 = "), ("a = 3 + 4 then", None),
        ("a = 34 + 1 then", None), ("a >= 5 then", None), ("a = 3 \\times 4 then", None), ("It is $= 7$ so", "It is $= "),
        ("no equation here", None), ("a = 1,000 coins", "a = "),
    ],
)  # fmt: skip
def test_which_results_can_be_made_wrong(text, kept):
    trace = Trace("Q", text, (Sentence(0, text, 0, len(text)),))
    if kept is None:
        with pytest.raises(ValueError, match="says"):
            edit.invalid_steps(trace, rate=1.0, seed=0)
    else:
        wrong = edit.invalid_steps(trace, rate=1.0, seed=0).reasoning
        assert wrong != text and wrong.startswith(kept)


def test_the_rate_is_a_share_and_errors_are_kept_as_it_grows():
    trace = Trace.from_text("Q", " ".join(f"We know {i} + 1 = {i + 1} now." for i in range(10)))
    before: set[int] = set()
    for count, rate in enumerate([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]):
        wrong = edit.invalid_steps(trace, rate=rate, seed=2)
        now = {i for i in range(10) if wrong.sentences[i].text != trace.sentences[i].text}
        assert len(now) == count and before <= now
        before = now
    for rate in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f"rate is {rate}"):
            edit.invalid_steps(trace, rate=rate, seed=0)


# --- whole traces ---------------------------------------------------------------------------------------------------


def test_a_swap_takes_the_closest_other_problem():
    trace = steps()
    close = Trace.from_text("Other", "x" * len(STEPS) + ".").with_categories(["plan_generation"])
    far, same = Trace.from_text("Third", "A short one."), Trace.from_text(trace.prompt, "The same prompt asks this.")
    swapped = edit.swap_reasoning(trace, [far, same, close, trace])
    assert (swapped.reasoning, swapped.sentences) == (close.reasoning, close.sentences)
    assert (swapped.prompt, swapped.answer, swapped.ending) == (trace.prompt, trace.answer, trace.ending)
    assert edit.swap_reasoning(trace, [close, far], length=lambda text: -len(text.split())).reasoning == far.reasoning
    assert edit.swap_reasoning(trace, iter([close])).reasoning == close.reasoning
    for others in ([], [same, trace], [edit.keep(close, [])]):
        with pytest.raises(ValueError, match="another prompt and reasoning"):
            edit.swap_reasoning(trace, others)


def test_filler_is_about_as_long():
    trace = steps()
    for s, filled in zip(trace.sentences, edit.fill(trace).sentences, strict=True):
        assert abs(len(filled.text) - len(s.text)) <= 2
        assert set(filled.text) == {".", " "}
    words = edit.fill(trace, filler="hmm", length=lambda text: len(text.split()))
    assert [len(s.text.split()) for s in words.sentences] == [len(s.text.split()) for s in trace.sentences]
    assert edit.fill(trace, filler="Let me think.", length=lambda text: 1).sentences[0].text == "Let me think."
    with pytest.raises(ValueError, match="filler is ' '"):
        edit.fill(trace, filler=" ")


def test_answer_only_says_the_traces_own_answer():
    trace = steps()
    assert edit.answer_only(trace).reasoning == "The answer is 22."
    boxed = edit.answer_only(trace, answer="5", wording=r"So \boxed{{answer}}")
    assert boxed.reasoning == r"So \boxed{5}"
    with pytest.raises(ValueError, match="must contain"):
        edit.answer_only(trace, wording="The answer.")
    with pytest.raises(ValueError, match="give answer="):
        edit.answer_only(Trace.from_text("Q", "There is nothing."))


# --- leaks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("7", "So it is 7.", True), ("7", "So it is 17.", False), ("7", "So it is 7.5 now", False),
        ("7", "So it is -7.", False), ("7", "It is 9-7 so", True), ("7", "of x7 there", False), ("7", "14/2 is it", True),
        ("7", "7/2 is it", False), ("7", "7.0 is it", True), ("7", "the 7th", False), ("7", "7x is not", False),
        ("-7", "So it is -7.", True), ("-7", "So it is \u22127.", True), ("-7", "So it is 7.", False),
        ("1000", "all 1,000 of them", True), ("1,000", "all 1000 of them", True), ("0", "1,000 of them", False),
        ("1/2", "it is 0.5 then", True), (r"\frac{1}{2}", "it is 1/2 then", True), ("0.5", r"it is \frac{1}{2}", True),
        ("1/2", r"it is $\dfrac{1}{2}$.", True), ("2", "it is 1/2 then", False), ("50%", "it is 50 then", True),
        ("Y C S Z", "That leaves Y C S Z.", True), ("Y C S Z", "That leaves Y C S.", False), ("B", "take a b here", False),
        ("B", "so (B) it is", True), ("Yes", "so yes, it is", True), ("west south", "go west  south now", True),
        ("(3, 4)", "the point (3,4) is", True), ("(3, 4)", "the point (3, 4) is", True), ("7.", "it is 7 then", True),
        ("x^2+1", "so x^2+1 it is", True), ("x^2+1", "so x^2+12 it is", False),
    ],
)  # fmt: skip
def test_an_answer_is_found_as_a_whole_value(answer, text, found):
    trace = Trace("Q", text, (Sentence(0, text, 0, len(text)),), target=answer)
    assert edit.leak(trace).tolist() == [found]


def test_leaks_are_of_the_target_the_answer_or_others():
    trace = Trace.from_text("Q", "First it is 5. Then it is 6. Then it is 8.", answer="5", target="6")
    assert edit.leak(trace).tolist() == [True, True, False]
    assert edit.leak(trace, answers=["8"]).tolist() == [True, True, True]
    assert edit.leak(trace, answers="8").tolist() == [True, True, True]
    silent = Trace.from_text("Q", "First it is 5. Then it is 6.")
    assert edit.leak(silent, answers=["6", "<no answer>"]).tolist() == [False, True]
    for answers in (None, [], ["<no answer>"]):
        with pytest.raises(ValueError, match="give answers="):
            edit.leak(silent, answers=answers)
    assert edit.leak(edit.keep(trace, [])).tolist() == []


def test_answers_are_stripped_by_sentence_or_from_the_first_mention():
    trace = Trace.from_text("Q", "We add 3 and 4. So 3 + 4 = 7. Check it: fine. So it is 7.", target="7")
    assert edit.strip_answer(trace).reasoning == "We add 3 and 4. Check it: fine."
    assert edit.strip_answer(trace, mode="first_mention").reasoning == "We add 3 and 4."
    assert not edit.leak(edit.strip_answer(trace, answers=["3"]), answers=["3"]).any()
    clean = edit.strip_answer(trace)
    assert edit.strip_answer(clean) is clean
    with pytest.raises(ValueError, match="mode is 'cut'; it must be one of sentences, first_mention"):
        edit.strip_answer(trace, mode="cut")


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "drafted", "equations"),
    [
        ("1 - 0 = 1.", "1 - 0 = 1.", "1 - 0 = 1."),
        ("We need 1 - 0 + 0 * 8 + 6 modulo 10.", "1 - 0 + 0 * 8 + 6, 10.", ""),
        ("I will go from left to right.", "go from left right.", ""),
        ("plant gives kite.", "plant gives kite.", ""),
        ("So the total speed = 5 km in every hour.", "speed = 5.", "speed = 5."),
        ("Since Tom has 3 eggs, then 3 + 4 = 7 eggs are there.", "3, 3 + 4 = 7.", "3 + 4 = 7."),
        ("Well - as I said before - the cat sat down there.", "Well - as said before.", ""),
        ("Then x - y = 3, and so y = x - 3 is the case.", "x - y = 3, y = x - 3.", "x - y = 3, y = x - 3."),
        (r"So we get \frac{a b}{c} = 2 for this one?", r"\frac{a b}{c} = 2?", r"\frac{a b}{c} = 2?"),
        ("We see it now => done and over with it all", "see now => done over", ""),
    ],
)  # fmt: skip
def test_drafts_and_equations(text, drafted, equations):
    trace = Trace("Q", text, (Sentence(0, text, 0, len(text)),))
    assert edit.draft(trace).reasoning == drafted
    assert edit.equations_only(trace).reasoning == equations


def test_a_draft_without_maths_has_at_most_so_many_words():
    trace = Trace.from_text("Q", "The quick brown fox jumps over one lazy dog. And so it is to be.")
    for most in (1, 3, 5, 20):
        assert all(len(s.text.split()) <= most for s in edit.draft(trace, words=most).sentences)
    assert edit.draft(trace, words=20) is trace
    with pytest.raises(ValueError, match="words is 0"):
        edit.draft(trace, words=0)


# --- placement ------------------------------------------------------------------------------------------------------


def test_slots_of_a_prompt_with_and_without_a_think_tag():
    trace = Trace.from_text("3 + 4?\n", "<think>\nAdd them up.\n\nIt is 7.\n</think>\n7")
    assert edit.place(trace, "before").prompt == "Add them up.\n\nIt is 7.\n\n3 + 4?\n<think>\n"
    assert edit.place(trace, "after").prompt == "3 + 4?\n\nAdd them up.\n\nIt is 7.\n<think>\n"
    quoted = edit.place(trace, "quoted", introduction="A note:")
    assert quoted.prompt == "3 + 4?\n\nA note:\n> Add them up.\n>\n> It is 7.\n<think>\n"
    assert (quoted.reasoning, quoted.sentences, quoted.answer) == ("", (), trace.answer)
    bare = Trace.from_text("3 + 4?\n", "Add them up. It is 7.")
    assert edit.place(bare, "before").prompt == "Add them up. It is 7.\n\n3 + 4?\n"
    assert edit.place(bare, "after").prompt == "3 + 4?\n\nAdd them up. It is 7.\n"


def test_the_question_of_a_chat_template_is_named():
    prompt = "<|user|>\n3 + 4?<|end|>\n<|assistant|>\n<think>\n"
    trace = Trace(prompt, "It is 7.", (Sentence(0, "It is 7.", 0, 8),))
    assert edit.place(trace, "before", question="3 + 4?").prompt.startswith("<|user|>\nIt is 7.\n\n3 + 4?<|end|>")
    assert edit.place(trace, "after", question="3 + 4?").prompt.startswith("<|user|>\n3 + 4?\n\nIt is 7.<|end|>")
    assert "> It is 7.<|end|>" in edit.place(trace, "quoted", question="3 + 4?").prompt
    with pytest.raises(ValueError, match="the question '5' is not in the prompt"):
        edit.place(trace, "after", question="5")


def test_a_thought_of_an_earlier_turn_is_not_the_place_of_this_one():
    trace = Trace.from_text("Q1<think>a</think>A1. Q2?\n<think>\n", "It is that one then.")
    assert edit.place(trace, "after", question="Q2?").prompt == (
        "Q1<think>a</think>A1. Q2?\n\nIt is that one then.\n<think>\n"
    )
    untagged = Trace("Q1<think>a</think>A1. Q2?", "It is that.", (Sentence(0, "It is that.", 0, 11),))
    assert edit.place(untagged, "after").prompt == "Q1<think>a</think>A1. Q2?\n\nIt is that."


def test_bad_slots_and_empty_prompts():
    with pytest.raises(ValueError, match="slot is 'system'; it must be one of think, before, after, quoted"):
        edit.place(steps(), "system")
    with pytest.raises(ValueError, match="give question="):
        edit.place(Trace.from_text("", "<think>\nIt is seven."), "after")
    empty = edit.keep(steps(), [])
    assert edit.place(empty, "quoted") is empty


@pytest.mark.parametrize("world", ["expression", "alchemy", "maze", "recall", "null"])
def test_traces_of_the_lab(world):
    others = [lab_trace(world, seed) for seed in range(1, 6)]
    trace = lab_trace(world, 0)
    swapped = edit.swap_reasoning(trace, others)
    assert swapped.reasoning in {o.reasoning for o in others}
    shuffled = edit.shuffle_sentences(trace, seed=0)
    assert sorted(shuffled.reasoning.split()) == sorted(trace.reasoning.split())
    assert shuffled.text.startswith(trace.prompt)
    assert not edit.leak(edit.strip_answer(trace)).any()
    question = trace.prompt.removesuffix("\n<think>\n")
    after = edit.place(trace, "after")
    assert after.prompt == f"{question}\n\n{trace.reasoning}\n<think>\n"
    assert after.text == after.prompt + trace.ending
    for edited in edits(trace, 0).values():
        check(edited, trace)
