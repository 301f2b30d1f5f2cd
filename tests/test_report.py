"""The report is one closed file that says the right things, and nothing breaks out of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from anchors.report import content, drawing, script_json, write_report
from anchors.report.answers import OTHER, REST, SAME, Answers, group_by_meaning
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.similarity import lexical
from anchors.transfer import Transfer
from tests.reports import (
    HOSTILE,
    Page,
    a_trace,
    data_of,
    every_score,
    head_scores,
    hostile_report,
    some_rollouts,
    suppression_scores,
    with_p,
    written,
)
from tests.transfers import a_gate, a_mean, a_transfer, retentions

# --- what it says -------------------------------------------------------------------------------------------


def test_the_lead_names_the_anchors_the_method_and_the_rule(tmp_path):
    page = written(tmp_path, a_trace())
    assert "Sentence 3 is an anchor of the trace&#39;s answer 19 under resampling (false-discovery rate 5%)." in page


def test_the_lead_says_which_anchors_work_against_the_outcome():
    trace = a_trace()
    against = Scores.of(trace, "resampling", -np.eye(12)[5], p=1 - 0.999999 * np.eye(12)[5])
    assert content.lead(against, "resampling", answer="19").endswith("; 5 works against it.")


def test_a_method_without_p_values_says_that_its_top_three_are_not_tested(tmp_path):
    trace = a_trace()
    page = written(tmp_path, trace, [suppression_scores(trace)])
    assert "Sentences 9, 10 and 11 have the highest suppression of 12" in page and "no p-values" in page
    assert "top 3, not tested" in page


def test_the_lead_names_an_outcome_other_than_the_own_answer():
    trace = a_trace()
    scores = Scores.of(
        trace, "resampling", np.eye(12)[5], p=1 - 0.999999 * np.eye(12)[5], details={"outcome": "target '20'"}
    )
    assert "of the outcome (target '20')" in content.lead(scores, "resampling", answer="19")


def test_the_header_gives_the_probability_of_the_answer_beside_that_of_answering(tmp_path):
    trace = a_trace()
    page = written(tmp_path, trace, rollouts=some_rollouts(trace))
    assert "P(answer) from the prompt" in page and "0.20 (answered 0.90, n = 10)" in page
    assert "P(answer) after the reasoning" in page and "0.80 (answered 0.90, n = 10)" in page
    assert "P(target)" not in page


def test_the_data_carries_the_numbers_of_every_method(tmp_path):
    trace = a_trace()
    scores = [with_p(trace), suppression_scores(trace)]
    first, second = data_of(written(tmp_path, trace, scores))["scores"]
    assert first["values"][3] == 0.625 and first["values"][-1] is None
    assert (first["low"][3], first["high"][3], first["n"][3], first["p"][3]) == (0.525, 0.725, 100, 1e-7)
    assert (first["anchors"], first["tested"]) == ([3], True) and (second["anchors"], second["tested"]) == (
        [11, 10, 9],
        False,
    )


def test_the_text_is_coloured_by_the_first_score_without_a_script(tmp_path):
    page = Page(written(tmp_path, a_trace()))
    spans = [attributes for tag, attributes in page.elements if str(attributes.get("class", "")).startswith("s ")]
    assert spans[3] == {"class": "s pos anchor", "style": "--t:1.0", "id": "s3", "dir": "auto"}
    assert spans[0]["class"] == "s neg" and spans[11]["class"] == "s nan"


def test_the_trace_is_shown_verbatim(tmp_path):
    trace = a_trace()
    assert Page(written(tmp_path, trace)).sentences == [s.text for s in trace.sentences]


def test_answers_count_classes_with_the_own_answer_first_and_no_answer_last():
    trace = a_trace()
    texts = [["\\boxed{20}"] * 3 + ["\\boxed{19.0}", "\\boxed{19}", "hm"]] + [[] for _ in trace.sentences]
    answers = Answers(Rollouts.from_texts(trace, texts))
    assert answers.labels == ["19", "20", "other", "no answer"]
    assert answers.counts[0].tolist() == [2, 3, 0, 1] and answers.counts[1].sum() == 0


def test_rare_answers_are_counted_as_other():
    trace = a_trace()
    texts = [[f"\\boxed{{{i}}}" for i in range(9) for _ in range(20 - i)]] + [[] for _ in trace.sentences]
    answers = Answers(Rollouts.from_texts(trace, texts))
    assert answers.labels == ["0", "1", "2", "3", "4", "other", "no answer"]
    assert answers.counts[0, 5] == sum(20 - i for i in range(5, 9))


def test_the_first_colour_is_the_own_answers_alone():
    trace = a_trace()
    texts = [["\\boxed{20}", "\\boxed{21}"]] + [[] for _ in trace.sentences]
    answers = Answers(Rollouts.from_texts(trace, texts))
    assert answers.labels[:2] == ["20", "21"] and answers.colours == [1, 2, 6, 7]


def test_alternatives_are_grouped_by_meaning_with_the_answers_they_led_to(tmp_path):
    trace = a_trace()
    own, other = trace.sentences[0].text, " Let us count the doors instead."
    row = [f"{own} Then. \\boxed{{19}}"] * 4 + [f"{own} Then. \\boxed{{20}}"] + [f"{other} So. \\boxed{{20}}"] * 3
    row += [" Let us count the doors now instead. So. \\boxed{20}", "</think> nothing"]
    rollouts = Rollouts.from_texts(trace, [row] + [[] for _ in trace.sentences])
    labels = Answers(rollouts).labels
    right, wrong, none = (labels.index(name) for name in ("19", "20", "no answer"))
    groups = data_of(written(tmp_path, trace, rollouts=rollouts))["meanings"][0]
    assert groups[0] == [SAME, 5, [right, 4, wrong, 1], [[own, 5, [right, 4, wrong, 1]]]]
    assert groups[1][:3] == [OTHER, 4, [wrong, 4]] and groups[1][3][0] == [other.strip(), 3, [wrong, 3]]
    assert groups[2] == [OTHER, 1, [none, 1], [["(stopped reasoning)", 1, [none, 1]]]] and len(groups) == 3


def test_meanings_beyond_the_sixth_are_one_group():
    words = ["red", "blue", "green", "black", "white", "brown", "grey", "pink", "gold", "lilac"]
    texts = {f"{word} {word}.": Counter({0: 20 - i}) for i, word in enumerate(words)}
    groups = group_by_meaning("Something else.", texts, lexical())
    assert [kind for kind, _ in groups] == [OTHER] * 6 + [REST]
    assert sorted(t for _, members in groups for t in members) == sorted(texts)
    assert groups[0][1] == ["red red."]


def test_every_rollout_is_in_one_group(tmp_path):
    trace = a_trace()
    data = data_of(written(tmp_path, trace, rollouts=some_rollouts(trace, n=40)))
    assert all(sum(group[1] for group in groups) == 40 for groups in data["meanings"])
    assert all(sum(group[2][1::2]) == group[1] for groups in data["meanings"] for group in groups)


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([-1.0, 3.0], (0.0, 3.0, True)),
        ([0.1, 3.0], (0.0, 3.0, False)),
        ([0.8, 0.9], (0.8, 0.9, False)),
        ([0.0, 0.0], (0.0, 1.0, False)),
        ([2.0, 2.0], (0.0, 2.0, False)),
        ([np.nan, np.inf], (0.0, 1.0, False)),
    ],
)
def test_a_scale_starts_at_zero_where_zero_is_in_reach(values, scale):
    assert drawing.Scale.of(np.array(values)) == scale


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.6251, "+0.625"),
        (-0.5, "−0.500"),
        (123.456, "+123.5"),
        (1e-7, "+1.0e-07"),
        (np.nan, "not measured"),
        (-np.inf, "−∞"),
    ],
)
def test_numbers_are_readable(value, text):
    assert drawing.number(value, signed=True) == text


def test_provenance_flattens_details_and_shows_warnings_once(tmp_path):
    rows = dict(content.provenance(with_p(a_trace())))
    assert rows["sampling · temperature"] == "0.6" and rows["seed"] == "7" and "warnings" not in rows
    assert written(tmp_path, a_trace()).count("few rollouts") == 1


def test_provenance_names_versions_rollouts_and_what_was_not_measured(tmp_path):
    trace = a_trace()
    page = written(tmp_path, trace, rollouts=some_rollouts(trace))
    for shown in (
        "Python 3.",
        "anchors 0.",
        "sentences 11",
        "13 of 130; counted as an outcome",
        "lexical, the same from 0.5",
    ):
        assert shown in page, shown


def test_sentences_that_state_the_answer_are_marked(tmp_path):
    trace = a_trace(
        texts=("We start with nothing.", "So it is 19 in all.", "That is 190 or 1.9 to some.", "Done with it.")
    )
    page = Page(written(tmp_path, trace, [with_p(trace)]))
    marked = [a["class"] for tag, a in page.elements if tag == "span" and str(a.get("class")) in ("no", "no leak")]
    assert marked == ["no", "no leak", "no", "no"]


def test_a_trace_without_an_answer_has_no_leak():
    trace = a_trace(texts=("We start with nothing.", "So it is 19 in all."), answer="")
    assert content.leaks(trace.__class__(**{**trace.__dict__, "answer": None, "target": None})) == [False, False]


# --- transfer -----------------------------------------------------------------------------------------------


def moved_section(folder: Path, *runs: Transfer) -> str:
    """The transfer part of a page as text, white space collapsed."""
    page = written(folder, a_trace(), [with_p(a_trace()), *runs])
    inside = page[page.index('<section class="moved">') : page.index("<h2>All numbers</h2>")]
    return " ".join(re.sub(r"<[^>]+>", " ", inside).split())


def test_a_transfer_says_its_verdict_first_then_what_it_rests_on(tmp_path):
    text = moved_section(tmp_path, a_transfer())
    start = "Transfer: counterfactual anchors of lab/reasoner, read by lab/reasoner-b The anchors transfer. The anchors move"
    assert text.startswith(start)
    parts = ["Gate, fixed before the run", "Retention", "Rank agreement", "Balance", "Compression", "shown otherwise"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    for shown in (
        "12 traces; 20 anchors with matched control sentences, 4 without. Outcome: nats a token of the forced answer.",
        "reader alone P(outcome) without the trace is 0.41 passed",
        "replace by reader +0.150",
        "0.600 [+0.400, +0.800]",
        "within traces: +0.620",
        "position −0.380",
        "order full - shuffled +0.900",
        "copied 40%, explicit 60%, silent 0%",
        "Left out: 1 trace t9: the writer&#39;s scores name no anchor at fdr 0.05",
    ):
        assert shown in text, shown


def test_the_pairs_preset_is_reported_beside_it(tmp_path):
    pairs = {
        "pairs": 6, "mean d": 0.7, "trace means": a_mean(0.71), "p within sentence": 0.01, "percentile": 0.66,
        "percentile interval": (0.3, 1.0), "percentile p": 0.38,
    }  # fmt: skip
    text = moved_section(tmp_path, a_transfer(pairs=pairs))
    assert "6 pairs of an anchor" in text and "mean difference +0.700, over traces +0.710 [" in text
    assert "closest prior study" not in moved_section(tmp_path, a_transfer())


def test_a_failed_gate_has_no_verdict_and_one_trace_no_interval(tmp_path):
    run = a_transfer(
        traces=1, verdict="gate failed", reason="nothing to transfer", gate=a_gate(passed=False), rank=None, curve=(),
        controls=None, balance=(), excluded=(),
    )  # fmt: skip
    text = moved_section(tmp_path, run)
    assert "No verdict: the gate failed. Nothing to transfer. 1 trace;" in text
    assert (
        "scaffold the whole trace moves the reader failed" in text
        and "negative control not measured not measured" in text
    )
    assert "+0.300 (no interval)" in text
    for absent in ("Rank agreement", "Compression", "shown otherwise", "Balance", "Left out"):
        assert absent not in text


def test_compression_curves_are_drawn_without_a_script(tmp_path):
    page = Page(written(tmp_path, a_trace(), [with_p(a_trace()), a_transfer()]))
    kinds = [
        str(a.get("class")) for tag, a in page.elements if tag == "path" and str(a.get("class")).startswith("line")
    ]
    assert len(kinds) == 3 * 12 and kinds.count("line own") == 3 and kinds[11] == "line own", "the anchors lie on top"
    assert all(
        re.fullmatch(r"M[\d. ]+(L[\d. ]+)*z?", str(a["d"])) for tag, a in page.elements if str(a.get("class")) == "band"
    )


def test_lines_break_at_what_was_not_measured_and_cut_a_wide_band():
    drawn = drawing.lines([("own", [0.0, 0.5, 1.0], [0.0, np.nan, 1.0])], ([-9.0, -9.0, -9.0], [9.0, 9.0, 9.0]))
    assert drawn.paths == [("own", "M0 75.0M100 25.0")]
    assert (drawn.top, drawn.bottom) == ("1.500", "−0.500") and drawn.band.startswith("M0 0.0 50 0.0 100 0.0 100 100.0")
    assert drawing.lines([], None).band == "" and drawing.lines([("own", [1.0], [np.nan])], None).paths == [("own", "")]


def test_what_a_transfer_names_cannot_break_out(tmp_path):
    evil = HOSTILE[0]
    run = a_transfer(
        writer=evil, reader=HOSTILE[1], method=evil, reason=evil, excluded=HOSTILE, details={"not measured": [evil]},
        retention=tuple(r._replace(operation=evil, partial=HOSTILE[1]) for r in retentions(0.3, 12)),
    )  # fmt: skip
    page = Page(written(tmp_path, a_trace(), [with_p(a_trace()), run]))
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert not [tag for tag, _ in page.elements if tag in ("img", "iframe", "object", "link", "base")]
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]


# --- what it refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "error", "says"),
    [
        (lambda t: [], ValueError, "at least one"),
        (lambda t: ["a name"], TypeError, "str"),
        (lambda t: [with_p(a_trace(7))], ValueError, "belong to trace"),
    ],
)
def test_wrong_scores_are_refused_and_nothing_is_written(tmp_path, scores, error, says):
    with pytest.raises(error, match=says):
        write_report(a_trace(), scores(a_trace()), tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_rollouts_of_another_trace_are_refused(tmp_path):
    with pytest.raises(ValueError, match="rollouts belong"):
        written(tmp_path, a_trace(), rollouts=some_rollouts(a_trace(7)))


# --- nothing breaks out -------------------------------------------------------------------------------------


def test_hostile_text_adds_no_element_and_no_attribute(tmp_path):
    page = Page(hostile_report(tmp_path))
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert not [tag for tag, _ in page.elements if tag in ("img", "iframe", "object", "link", "base")]
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert page.sentences == [drawing.clean(text) for text in HOSTILE]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\u2066left open", "\u2066left open\u2069"),
        ("\u2067two \u2068open", "\u2067two \u2068open\u2069\u2069"),
        ("closes\u2069 what it never opened", "closes\ufffd what it never opened"),
        ("\u2066balanced\u2069 \u202eoverride", "\u2066balanced\u2069 \u202eoverride"),
    ],
)
def test_direction_marks_cannot_reach_beyond_their_text(text, shown):
    assert drawing.clean(text) == shown == drawing.clean(shown)


def test_json_cannot_end_its_element():
    text = script_json(["</script>", "<!--", "&", "\u2028", "\ud800"])
    assert not set("<>&\u2028") & set(text) and text.isascii()
    assert json.loads(text) == ["</script>", "<!--", "&", "\u2028", "\ud800"]


def test_the_page_asks_for_nothing(tmp_path):
    trace = a_trace()
    page = written(tmp_path, trace, [with_p(trace), a_transfer()], rollouts=some_rollouts(trace))
    assert not re.search(r"https?:|url\(|@import|src=|fetch\(|XMLHttpRequest", page)
    assert {str(a["href"])[0] for _, a in Page(page).elements if "href" in a} == {"#"}
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_every_control_has_a_label(tmp_path):
    page = written(tmp_path, a_trace())
    for control in re.findall(r"<(?:select|input)[^>]*>", page):
        before = page[: page.index(control)]
        assert before.rfind("<label") > before.rfind("</label>")


# --- size ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_report_of_150_sentences_is_under_a_megabyte(tmp_path):
    trace = a_trace(150)
    long = " This first sentence {i} of an alternative is as long as they usually are, {i}{i}. \\boxed{{{a}}}"
    scores = [with_p(trace, method=f"method {i}") for i in range(3)] + every_score(trace)
    sharp = head_scores(trace, layers=28, heads=16)
    twenty = {"heads": np.argwhere(np.ones((28, 16)))[:20], "pooled": np.tile(sharp.pooled[:1], (20, 1, 1))}
    scores[-1] = Scores.of(trace, "attention", sharp.values, matrix=sharp.matrix, extras={**sharp.extras, **twenty})
    page = written(tmp_path, trace, scores, rollouts=some_rollouts(trace, n=100, text=long))
    assert 400_000 < len(page.encode()) < 1_000_000


def test_the_document_does_not_grow_with_the_square_of_the_trace(tmp_path):
    small, large = (len(Page(written(tmp_path, a_trace(n))).elements) for n in (100, 200))
    assert large < 2.2 * small


def test_a_hundred_kilobytes_of_latex_appear_once(tmp_path):
    formula = "\\frac{a}{b}" * 9500
    trace = a_trace(texts=("So we start.", f"${formula}$ holds now.", "It is done here.", "And that is four."))
    assert written(tmp_path, trace, rollouts=some_rollouts(trace)).count(formula) == 1
