"""The metrics of DataAlchemy against brute force and figures worked out by hand."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchors.lab.metrics import Comparison, Segment, compare_completions, mean_comparison

GOLD = "We start with A B. Rotate gives F G. That leaves F G.\n</think>\nThe answer is F G."
TEXTS = st.lists(st.sampled_from(["a", "b", "ab", "ca", "."]), max_size=9).map(" ".join)


def levenshtein(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def brute_bleu(found: list[str], gold: list[str]) -> float:
    order = min(4, len(found), len(gold))
    if order == 0:
        return float(found == gold)
    product = 1.0
    for n in range(1, order + 1):
        ours, theirs = (Counter(zip(*(words[k:] for k in range(n)), strict=False)) for words in (found, gold))
        hits = sum((ours & theirs).values())
        if n == 1 and hits == 0:
            return 0.0
        product *= (hits or 0.1) / sum(ours.values())
    return min(1.0, math.exp(1 - len(gold) / len(found))) * product ** (1 / order)


def completion(reasoning: str, answer: str) -> str:
    return f"{reasoning}\n</think>\nThe answer is {answer}."


@given(TEXTS, TEXTS, st.sampled_from("ABC"), st.sampled_from(["A", "B", "C A"]))
@settings(max_examples=300, deadline=None)
def test_every_part_agrees_with_brute_force(found, gold, said, right):
    parts = [(completion(found, said), completion(gold, right)), (found, gold), (said, right)]
    compared = compare_completions(*parts[0])
    assert compared.exact == tuple(float(a == b) for a, b in parts)
    assert compared.edit == pytest.approx([levenshtein(a, b) / max(len(a), len(b), 1) for a, b in parts])
    assert compared.bleu == pytest.approx([brute_bleu(a.split(), b.split()) for a, b in parts])
    assert all(0 <= value <= 1 for segment in compared for value in segment)


def test_figures_worked_out_by_hand():
    """4 of 5 words right, then 2 of 4, 0 of 3 and 0 of 2; no brevity penalty. One of 2 answer words is right."""
    compared = compare_completions(completion("a b x d e", "F H"), completion("a b c d e", "F G"))
    assert compared.exact == Segment(0.0, 0.0, 0.0)
    assert compared.edit.reasoning == pytest.approx(1 / 9) and compared.edit.answer == pytest.approx(1 / 3)
    assert compared.edit.chain == pytest.approx(2 / len(completion("a b c d e", "F G")))
    assert compared.bleu.reasoning == pytest.approx((4 / 5 * 2 / 4 * 0.1 / 3 * 0.1 / 2) ** 0.25)
    assert compared.bleu.answer == pytest.approx((1 / 2 * 0.1 / 1) ** 0.5)


def test_a_short_completion_pays_the_brevity_penalty():
    compared = compare_completions(completion("a b", "7"), completion("a b c d e f", "7"))
    assert compared.bleu.reasoning == pytest.approx(math.exp(1 - 6 / 2))


@pytest.mark.parametrize("text", [GOLD, completion("", "7"), completion("one two", "x"), "", "no end in sight"])
def test_identical_completions_are_perfect(text):
    assert compare_completions(text, text) == Comparison(Segment(1, 1, 1), Segment(0, 0, 0), Segment(1, 1, 1))


def test_nothing_found():
    assert compare_completions("", GOLD) == Comparison(Segment(0, 0, 0), Segment(1, 1, 1), Segment(0, 0, 0))


def test_a_missing_answer_is_wrong_and_text_without_an_end_is_reasoning():
    reasoning = GOLD.split("\n")[0]
    compared = compare_completions(reasoning, GOLD)
    assert compared.exact == Segment(0, 1, 0)
    assert compared.edit == pytest.approx((1 - len(reasoning) / len(GOLD), 0, 1))
    assert compared.bleu.answer == 0 and compared.bleu.reasoning == 1 and 0 < compared.bleu.chain < 1


def test_a_right_answer_after_wrong_reasoning_shows():
    compared = compare_completions(completion("Shift gives B A.", "F G"), GOLD)
    assert compared.exact == Segment(0, 0, 1) and compared.edit.reasoning > 0.5 and compared.bleu.answer == 1


def test_means():
    other = completion("Shift gives B A.", "F G")
    a, b = compare_completions(GOLD, GOLD), compare_completions(other, GOLD)
    means = mean_comparison([(GOLD, GOLD), (other, GOLD)])
    assert means.exact == Segment(0.5, 0.5, 1.0)
    for mean, one, two in zip(means, a, b, strict=True):
        assert mean == pytest.approx([(x + y) / 2 for x, y in zip(one, two, strict=True)])
    with pytest.raises(ValueError, match="no pairs to compare"):
        mean_comparison(iter([]))
