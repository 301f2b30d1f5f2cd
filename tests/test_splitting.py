"""Sentence spans: tiling, the paper's rule on released traces, mathematics, and speed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchors.datasets import _parse, _text, find_rollouts
from anchors.splitting import SHORTEST, align_sentences, split_sentences

SHARED = Path(os.environ.get("ANCHORS_SHARED", Path(__file__).parents[2] / "shared"))
DATA = SHARED / "data" / "math_rollouts"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"the released traces are not at {DATA}")

PIECES = st.text(alphabet="ab1.?! \n\r$\\()[]{}é漢😀\t\u00a0", max_size=200)


def parts(text: str, **options: bool) -> list[str]:
    return [text[a:b].strip() for a, b in split_sentences(text, **options)]


def assert_tiles(text: str, spans: list[tuple[int, int]]) -> None:
    assert "".join(text[a:b] for a, b in spans) == text
    assert all(text[a:b].strip() for a, b in spans)


@given(PIECES, st.booleans())
@settings(max_examples=500, deadline=None)
def test_spans_tile_any_text(text, math_aware):
    spans = split_sentences(text, math_aware=math_aware)
    assert_tiles(text, spans) if text.strip() else None
    assert bool(spans) == bool(text.strip())
    edges = [b for _, b in spans[:-1]]
    assert all(not text[edge - 1].isspace() and text[edge].isspace() for edge in edges)


@given(PIECES)
@settings(max_examples=300, deadline=None)
def test_math_aware_only_removes_cuts_before_merging(text):
    assert len(split_sentences(text, math_aware=True)) <= len(split_sentences(text))


@given(PIECES)
@settings(max_examples=300, deadline=None)
def test_no_sentence_is_short_unless_alone(text):
    found = parts(text)
    assert len(found) <= 1 or all(len(" ".join(s.split())) >= SHORTEST or len(s) >= SHORTEST for s in found)


@given(PIECES.filter(str.strip))
@settings(max_examples=300, deadline=None)
def test_alignment_inverts_splitting(text):
    spans = split_sentences(text)
    assert align_sentences(text, [text[a:b] for a, b in spans]) == spans
    assert align_sentences(text, [" ".join(text[a:b].split()) for a, b in spans]) == spans


def released(folder: Path) -> tuple[str, list[str]]:
    base = _parse(_text(folder / "base_solution.json.gz"), "base")
    stored = _parse(_text(folder / "chunks_labeled.json.gz"), "labels")
    text = base["full_cot"].split("<think>")[1].split("</think>")[0]
    return text, [row["chunk"] for row in stored]


@needs_data
def test_released_sentences_are_reproduced_exactly():
    folders = find_rollouts(DATA)
    assert len(folders) == 8
    for folder in folders:
        text, stored = released(folder)
        found = parts(text)
        assert len(found) == len(stored)
        for ours, theirs in zip(found, stored, strict=True):
            joined = ours != theirs  # a merge joined pieces with one space there
            assert " ".join(ours.split()) == " ".join(theirs.split()), folder
            assert not joined or any(len(piece) < SHORTEST for piece in ours.split("\n\n") + ours.split("\n")), ours
        assert align_sentences(text, stored) == split_sentences(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  \n\n ", []),
        ("no punctuation at all", ["no punctuation at all"]),
        ("One sentence.", ["One sentence."]),
        ("Pi is 3.14 or so. Then stop here.", ["Pi is 3.14 or so.", "Then stop here."]),
        ("First sentence\n\nSecond sentence", ["First sentence", "Second sentence"]),
        ("First sentence\nstill the first", ["First sentence\nstill the first"]),
        ("Long enough one. Yes. Long enough two.", ["Long enough one.", "Yes. Long enough two."]),
        ("Long enough one. Yes.", ["Long enough one. Yes."]),
        ("A. B. C.", ["A. B. C."]),
        (
            "Крутое предложение. 漢字の文です! 次の文はここから。",
            ["Крутое предложение.", "漢字の文です! 次の文はここから。"],
        ),
    ],
)
def test_paper_rule(text, expected):
    assert parts(text) == expected


@given(st.text(alphabet="abc.?! \n", max_size=120))
@settings(max_examples=200, deadline=None)
def test_windows_newlines_change_nothing(text):
    windows = text.replace("\n", "\r\n")
    unix = [s.replace("\n", " ").split() for s in parts(text)]
    assert [s.replace("\r\n", " ").split() for s in parts(windows)] == unix


@pytest.mark.parametrize(
    "text",
    [
        r"We have $x = 1. y$ in one piece.",
        r"We have \(f(x). g(x)\) in one piece.",
        "We have \\[ a = 1. \n\n b = 2 \\] in one piece.",
        "We have $$a! + b. c$$ in one piece.",
        "1. Multiply the first pair of numbers",
        "A number, e.g. the first of them, is enough",
        "As Dr. Euler vs. Mr. Gauss would have it",
        "The number of orders is 9! = 362880 in all",
        "Apples, pears, etc. are all fruits here",
    ],
)
def test_math_aware_does_not_cut(text):
    assert parts(text, math_aware=True) == [text]


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 in all. Then $6 more is paid.",
        "An unclosed $x is here. Another sentence follows.",
        r"An unclosed \( is here. Another sentence follows.",
        "The answer is surely 7. Another sentence follows.",
        "What a result that was! Another sentence follows.",
        "We buy apples, pears, etc. Another sentence follows.",
    ],
)
def test_math_aware_still_cuts(text):
    assert len(parts(text, math_aware=True)) == 2


@pytest.mark.parametrize("unit", ["Some words of a sentence. ", "$ ", r"\(", "a\n\n", ". ", " ", "$x = 1. y$ too. "])
def test_time_is_linear(unit):
    def seconds(size: int) -> float:
        text = (unit * size)[:size] + "x"
        start = time.process_time()
        split_sentences(text, math_aware=True)
        return time.process_time() - start

    assert seconds(400_000) < 0.2 + 12 * seconds(100_000)


def test_ten_megabytes_take_under_two_seconds():
    text = "Let us count the pages of the book one by one. The sum is 3.14 here?\n\n" * 140_000
    start = time.process_time()
    spans = split_sentences(text)
    assert time.process_time() - start < 2
    assert len(spans) == 280_000


def test_alignment_of_ten_megabytes_is_linear():
    text = "Let us count the pages of the book one by one. The sum is 3.14 here?\n\n" * 70_000
    spans = split_sentences(text)
    stored = [" ".join(text[a:b].split()) for a, b in spans]
    start = time.process_time()
    assert align_sentences(text, stored) == spans
    assert time.process_time() - start < 6


def test_alignment_absorbs_what_stands_between():
    text = "One sentence here. (aside) Another one there.  trailing"
    assert align_sentences(text, ["One sentence here.", "Another one there."]) == [(0, 18), (18, len(text))]


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        (["Not in there."], r"sentence 0 \('Not in there.'\)"),
        (["The second.", "The first."], "sentence 1"),
        (["The first.", " "], "sentence 1 is blank"),
        ([], "no stored sentences"),
    ],
)
def test_alignment_names_what_is_wrong(sentences, message):
    with pytest.raises(ValueError, match=message):
        align_sentences("The first. The second.", sentences)
