"""Extraction and equality of answers, on hand-written pairs."""

from __future__ import annotations

import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchors import answers
from anchors.answers import NO_ANSWER, answer_classes, extract_answer, normalise_answer, same_answer, too_large
from anchors.extras import MissingExtra

STRINGS = [
    ("1/2", "0.5"), (r"\frac{1}{2}", ".5"), ("1,000", "1000"), (r"1{,}000", "1000"), (r"1,\!000", "1000"), ("x=3", "3"),
    ("6.17", r"6.17\%"), (r"\frac{-1}{4027}", r"-\frac{1}{4027}"), (r"90^\circ", "90"), ("$7$", "7"), ("(A)", "A"),
    (r"\text{Tuesday}", "tuesday"), (r"\dfrac{3}{4}", "0.75"), ("3.0", "3"), ("+5", "5"), (r"\$20", "20"),
    (r"\left(3, 4\right)", "(3,4)"), (r"\(12\)", "12"), ("\u22125", "-5"), (r"\tfrac12", "1/2"), ("7.", "7"),
    ("1,234,567", "1234567"), (r"2\cdot x", "2*x"),
]  # fmt: skip
MATHS = [
    ("2pi", "2*pi"), (r"2\pi", r"2*\pi"), (r"\{1,2\}", r"\{2,1\}"), (r"5\text{ cm}", "5"), ("10 cm", "10"),
    (r"\sqrt{8}", r"2\sqrt{2}"), ("(x+1)(x-1)", "x^2-1"), ("x+y", "y+x"), ("10^{3}", "1000"), ("3+4i", "4i+3"),
    (r"3\frac{1}{2}", "7/2"), ("1,2", "2,1"),
]  # fmt: skip
DIFFERENT = [
    ("11", "1 1"), ("1,5", "1.5"), ("cat", "act"), ("(1,2)", "(2,1)"), ("[0,1]", "(0,1)"), ("50%", "0.5"), ("2", "1 1"),
    ("0.3333333", "1/3"), ("x=5", "x=6"), ("(3,456)", "3456"), ("1, 500", "1500"), (NO_ANSWER, ""), ("AB", "BA"),
    (NO_ANSWER, "no answer"), ("2003^{2002^{2001}}", "1"), ("5", "five"), ("listen", "silent"), ("A", "B"), ("1", "-1"),
    (r"x \le 3", "x<3"), (r"\pm 3", "3"), ("3.14", "3.141"), ("1/0", "0"), ("(100!)!", "1"), ("1.2.3", "1.23"),
    (r"3\frac{1}{2}", "31/2"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), STRINGS)
def test_equal_without_math_verify(a, b, monkeypatch):
    monkeypatch.setattr(answers, "_math_verify", lambda: None)
    assert same_answer(a, b) and same_answer(b, a)


@pytest.mark.parametrize(("a", "b"), MATHS)
def test_equal_for_math_verify(a, b):
    pytest.importorskip("math_verify")
    assert same_answer(a, b) and same_answer(b, a)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different(a, b):
    start = time.monotonic()
    assert not same_answer(a, b) and not same_answer(b, a)
    assert time.monotonic() - start < 10


def test_no_answer_equals_only_itself():
    assert same_answer(NO_ANSWER, NO_ANSWER)
    assert not same_answer(NO_ANSWER, "7")


def test_comparison_works_in_threads():
    pytest.importorskip("math_verify")
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda pair: same_answer(*pair), MATHS * 2))


def test_absent_math_verify_is_logged_once(monkeypatch, caplog):
    def refuse(module: str, *, extra: str):
        raise MissingExtra(f"{module} is not installed; run: pip install 'anchors[{extra}]'")

    answers._math_verify.cache_clear()
    monkeypatch.setattr(answers, "require", refuse)
    with caplog.at_level(logging.WARNING):
        assert not same_answer("x+y", "y+x")
        assert not same_answer("x+z", "z+x")
    answers._math_verify.cache_clear()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "anchors[math]" in caplog.text


@pytest.mark.parametrize(
    "text",
    ["2003^{2002^{2001}}", "9^9^9", "2**(10**9)", "(9^{999})^{999}", "1000!", "(5!)!", r"\sum_{k=1}^{9} k", "1" * 201],
)
def test_runaway_expressions_are_refused_at_once(text):
    assert too_large(text)
    assert not same_answer(text, "5")


@pytest.mark.parametrize("text", ["2^{100}", "x^2y^2", "10!", r"\frac{3^{5}}{2}", "12345678901234567890"])
def test_ordinary_expressions_are_not(text):
    assert not too_large(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{3} and \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{7} and then \boxed{}", "7"),
        (r"\boxed{7} and then \boxed{12", "7"),
        (r"\boxed{12", None),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"stray } then \boxed{5} { too", "5"),
        (r"\boxed {9}", "9"),
        ("so\n#### 1,200\n", "1,200"),
        ("#### Step 1\nWe add.", None),
        ("The answer is 7.", "7"),
        ("THE ANSWER IS 3.14", "3.14"),
        ("the answer is 3.14.", "3.14"),
        ("So the final answer is: **42**.", "42"),
        ("The answer is $x=5$ because it fits.", "x=5"),
        ("The answer is (3, 4), hence done.", "(3, 4)"),
        ("The answer is 1. No, the answer is 2.", "2"),
        ("The answer is not 5", None),
        ("nothing to see", None),
        ("", None),
    ],
)
def test_extraction(text, answer):
    assert extract_answer(text) == answer


def test_extraction_by_the_users_rule():
    text = "Choice: (A) or (C)"
    assert extract_answer(text, pattern=r"\(([A-D])\)") == "C"
    assert extract_answer(text, pattern=re.compile(r"[A-D]\b")) == "C"
    assert extract_answer(text, pattern=lambda t: t[:6]) == "Choice"
    assert extract_answer(text, pattern=r"\d") is None
    assert extract_answer(text, pattern=lambda t: "") is None


@pytest.mark.parametrize("unit", [r"\boxed{", "{", "the answer is ", "####\n", r"\boxed{1}", "#### a\n", " "])
def test_extraction_is_linear(unit):
    start = time.process_time()
    extract_answer("the answer is 5" + unit * (1_000_000 // len(unit)) + "x")
    assert time.process_time() - start < 3


def test_classes_are_named_by_the_first_spelling():
    found = answer_classes(["1/2", NO_ANSWER, "0.5", "7", r"\frac12", "7.0", NO_ANSWER, "11", "1 1"])
    assert found == ["1/2", NO_ANSWER, "1/2", "7", "1/2", "7", NO_ANSWER, "11", "1 1"]
    assert answer_classes([]) == []


def test_classes_compare_unique_answers_only(monkeypatch):
    calls = []
    monkeypatch.setattr(answers, "same_answer", lambda a, b: calls.append((a, b)) or False)
    answer_classes(["1", "2", "3", "1.0"] * 100)
    assert len(calls) == 3


@given(st.lists(st.sampled_from([a for pair in STRINGS for a in pair] + [NO_ANSWER]), max_size=12))
@settings(max_examples=50, deadline=None)
@pytest.mark.slow
def test_classes_are_an_equivalence(given_answers):
    labels = answer_classes(given_answers)
    assert answer_classes(labels) == labels
    assert set(labels) <= set(given_answers)


@given(st.text(alphabet="01 ,.%$x=\\{}()+-/", max_size=20))
@settings(max_examples=300, deadline=None)
def test_normalisation_never_fails(text):
    assert isinstance(normalise_answer(text), str)
    assert extract_answer("\\boxed{" + text) is None or "}" in text


@given(st.integers(-(10**9), 10**9))
def test_thousands_separators_do_not_matter(number):
    assert same_answer(f"{number:,}", str(number))
    assert extract_answer(f"The answer is {number}.") == str(number)
