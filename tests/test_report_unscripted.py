"""Without a script a reader still sees every sentence's answers, alternatives and effects, with the numbers of the Scores."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from anchors.report import unscripted, write_transfer_report
from anchors.report.answers import Answers
from anchors.report.drawing import number
from anchors.rollouts import Rollouts
from anchors.similarity import lexical
from tests.reports import (
    HOSTILE,
    Page,
    a_trace,
    effect_scores,
    every_score,
    hostile_report,
    some_rollouts,
    suppression_scores,
    with_p,
    written,
)
from tests.transfers import a_matrix, a_transfer


def rows_of(trace, scores, rollouts=None):
    answers = None if rollouts is None else Answers(rollouts)
    meanings = None if answers is None else answers.alternatives(lexical())
    return unscripted.rows(scores, [s.method for s in scores], answers, meanings)


def still(page: str) -> str:
    """The text inside the noscript element, white space collapsed."""
    inside = page[page.index("<noscript>") : page.index("</noscript>")]
    return " ".join(re.sub(r"<[^>]+>", " ", inside).split())


def test_the_answers_before_and_after_are_the_counts_at_the_two_boundaries():
    trace = a_trace(2)
    texts = [["\\boxed{19}"] * 6 + ["\\boxed{20}"] * 3 + ["hm"], ["\\boxed{19}"] * 3 + ["\\boxed{20}"], []]
    first, second = rows_of(trace, [suppression_scores(trace)], Rollouts.from_texts(trace, texts))
    assert first.bars == [("before", [(0, 60), (1, 30), (7, 10)]), ("after", [(0, 75), (1, 25)])]
    assert first.shares == [("19", "0.60", "0.75"), ("20", "0.30", "0.25"), ("no answer", "0.10", "0.00")]
    assert first.rollouts == "10 → 4"
    assert second.bars[1] == ("after", []) and second.shares[0] == ("19", "0.75", "–") and second.rollouts == "4 → 0"


def test_what_rollouts_wrote_is_grouped_by_meaning_with_what_it_led_to(tmp_path):
    trace = a_trace()
    own = trace.sentences[0].text
    row = [f"{own} Then. \\boxed{{19}}"] * 5 + [" Let us count the doors instead. So. \\boxed{20}"] * 3
    row += ["</think> nothing"] * 2
    rollouts = Rollouts.from_texts(trace, [row] + [[] for _ in trace.sentences])
    found = rows_of(trace, [with_p(trace)], rollouts)[0]
    assert [(m.text, m.own, m.share, m.led) for m in found.meanings] == [
        ("the same", True, "50%", [("19", 5)]),
        ("Let us count the doors instead.", False, "30%", [("20", 3)]),
        ("(stopped reasoning)", False, "20%", [("no answer", 2)]),
    ]
    said = still(written(tmp_path, trace, [with_p(trace)], rollouts=rollouts))
    assert "50% the same → 19 × 5 30% Let us count the doors instead. → 20 × 3" in said


def test_the_strongest_effect_and_the_tokens_moved_most_are_those_of_the_scores():
    trace = a_trace()
    effects, suppression = effect_scores(trace), suppression_scores(trace)
    for row in rows_of(trace, [effects, suppression])[:-1]:
        for (name, target, told), scores in zip(row.strongest, (effects, suppression), strict=True):
            assert scores.matrix is not None
            column = [(abs(scores.matrix[t, row.index]), t) for t in range(row.index + 1, len(trace))]
            assert (name, target) == (scores.method, max(column)[1])
            assert told.startswith(number(float(scores.matrix[target, row.index]), signed=True) + " [")
        later = np.nan_to_num(suppression.token_effects[row.index].astype(float))
        best = [int(k) for k in np.argsort(-later)[:3]]
        words = [trace.text[slice(*suppression.token_offsets[k])].strip() for k in best]
        where = [int(np.searchsorted(trace.boundaries, suppression.token_offsets[k][1], side="left")) - 1 for k in best]
        assert row.moved is not None and row.moved.peak == number(float(later.max()))
        assert row.moved.tokens == [(w, s, number(float(later[k]))) for w, s, k in zip(words, where, best, strict=True)]
        assert Counter(row.moved.line)["█"] >= 1 and len(row.moved.line) <= unscripted.COLUMNS


def test_the_last_sentence_and_one_without_effects_say_nothing():
    trace = a_trace()
    last = rows_of(trace, [suppression_scores(trace)])[-1]
    assert last.strongest == [] and last.moved is None and last.bars == [] and last.meanings == []
    assert rows_of(trace, [with_p(trace)]) == []


@pytest.mark.parametrize("sentences", [8, 200])
def test_the_rows_stay_within_their_bytes_and_keep_the_marked_sentences(tmp_path, sentences):
    trace = a_trace(sentences)
    long = " This first sentence {i} of an alternative is as long as they usually are, {i}{i}. \\boxed{{{a}}}"
    page = written(tmp_path, trace, every_score(trace), rollouts=some_rollouts(trace, n=12, text=long))
    inside = page[page.index("<noscript>") : page.index("</noscript>")]
    assert len(inside.encode()) < 1.05 * unscripted.BYTES
    shown = {int(i) for i in re.findall(r"<li><p><a href=#s(\d+)>", inside)}
    assert set(every_score(trace)[0].anchors()) <= shown
    assert len(shown) == len(trace) or f"The {len(shown)} sentences that are marked" in inside


def test_hostile_text_stays_text_in_the_rows(tmp_path):
    page = hostile_report(tmp_path)
    inside = Page(page[page.index("<noscript>") : page.index("</noscript>")])
    known = {"noscript", "section", "h2", "p", "ol", "li", "a", "i", "bdi", "div", "span", "ul", "em", "b", "mark"}
    assert {tag for tag, _ in inside.elements} <= known
    assert not [a for _, attributes in inside.elements for a in attributes if a.startswith("on")]
    assert HOSTILE[0] not in page and page.count("</noscript>") == 1


# --- a page of transfer runs alone --------------------------------------------------------------------------


def test_a_page_of_transfer_runs_has_their_parts_and_no_script(tmp_path):
    page = write_transfer_report([a_matrix(), a_transfer()], tmp_path / "moved.html").read_text("utf-8")
    assert "<script" not in page and "http-equiv" in page
    for shown in (
        "Gate, fixed before the run",
        "Retention",
        "Balance",
        "Compression",
        "writer, by reader",
        "Python 3.",
    ):
        assert shown in page, shown
    said = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "How it was run trace ids t0; t1" in said and "n 50" in said


def test_a_page_of_transfer_runs_refuses_what_is_none(tmp_path):
    for wrong, error in (([], ValueError), ([with_p(a_trace())], TypeError)):
        with pytest.raises(error):
            write_transfer_report(wrong, tmp_path / "x.html")  # type: ignore[arg-type]
    assert not (tmp_path / "x.html").exists()


def test_hostile_names_cannot_break_out_of_a_transfer_page(tmp_path):
    run = a_transfer(writer=HOSTILE[0], reader=HOSTILE[1], details={HOSTILE[0]: HOSTILE[1], "ids": list(HOSTILE)})
    page = Page(write_transfer_report(run, tmp_path / "x.html", title=HOSTILE[6]).read_text("utf-8"))
    assert not [tag for tag, _ in page.elements if tag in ("script", "img", "iframe", "object", "link", "base")]
    assert [tag for tag, _ in page.elements].count("style") == 1
