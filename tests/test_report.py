"""The report is one closed file: right numbers, nothing breaks out of it, and it works in a real browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from anchors.report import content, drawing, script_json, write_report
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.trace import Trace
from anchors.transfer import Transfer
from tests.transfers import a_gate, a_mean, a_transfer, retentions

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium; run: apt-get install chromium")

CATEGORIES = ("problem_setup", "plan_generation", "active_computation", "uncertainty_management", "self_checking")
HOSTILE = (
    "</script><script>document.documentElement.dataset.hacked = 1</script>",
    '"><img src=x onerror="document.documentElement.dataset.hacked=2">',
    "{{ 7 * 7 }} {% raw %} <!-- ]]> &amp; &lt;b&gt;",
    "\u202eright to left \u2066 שלום עולם",
    "lone \ud800 surrogate and \x00 and \u2028 separators",
    "${alert(1)}` ' \\u003c \\",
)


def a_trace(sentences: int = 12, *, texts: tuple[str, ...] = (), answer: str = "19") -> Trace:
    texts = texts or tuple(f"This is sentence number {i} of the reasoning, {i * i} in words." for i in range(sentences))
    ending = f"\n</think>\n\\boxed{{{answer}}}"
    trace = Trace.from_text(
        "How many?\n", "<think>\n" + " ".join(texts) + ending, sentences=texts, answer=answer, target="19"
    )
    return trace.with_categories([CATEGORIES[i % 5] for i in range(len(trace))])


def with_p(trace: Trace, *, method: str = "resampling") -> Scores:
    values = np.linspace(-0.2, 0.2, len(trace))
    values[3], values[-1] = 0.625, np.nan
    p = np.where(np.isnan(values), np.nan, 0.6)
    p[3] = 1e-7
    details = {"model": "lab/reasoner", "seed": 7, "sampling": {"temperature": 0.6}, "warnings": ["few rollouts"]}
    return Scores.of(
        trace, method, values, low=values - 0.1, high=values + 0.1, n=100, p=p, unit="probability", details=details
    )


def suppression_scores(trace: Trace) -> Scores:
    square = np.random.default_rng(0).normal(size=(len(trace), len(trace)))
    square[np.triu_indices(len(trace))] = np.nan
    return Scores.of(trace, "suppression", np.arange(len(trace)) * 0.01, matrix=square, unit="nats")


def some_rollouts(
    trace: Trace, *, n: int = 10, text: str = " An alternative {i}. Then more. \\boxed{{{a}}}"
) -> Rollouts:
    def row(k: int) -> list[str]:
        return [text.format(i=i, a="19" if i < 2 + 6 * (k > 3) else "20") for i in range(n - 1)] + ["gave up"]

    return Rollouts.from_texts(trace, [row(k) for k in range(len(trace) + 1)])


def written(folder: Path, trace: Trace, scores: list[Scores | Transfer] | None = None, **options) -> str:
    scores = scores or [with_p(trace), suppression_scores(trace)]
    return write_report(trace, scores, folder / "report.html", **options).read_text(encoding="utf-8")


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text of every sentence."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sentences: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if ("class", "w") in attrs:
            self.inside = True
            self.sentences.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.sentences[-1] += data


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
    answers = content.Answers(Rollouts.from_texts(trace, texts))
    assert answers.labels == ["19", "20", "other", "no answer"]
    assert answers.counts[0].tolist() == [2, 3, 0, 1] and answers.counts[1].sum() == 0


def test_rare_answers_are_counted_as_other():
    trace = a_trace()
    texts = [[f"\\boxed{{{i}}}" for i in range(9) for _ in range(20 - i)]] + [[] for _ in trace.sentences]
    answers = content.Answers(Rollouts.from_texts(trace, texts))
    assert answers.labels == ["0", "1", "2", "3", "4", "other", "no answer"]
    assert answers.counts[0, 5] == sum(20 - i for i in range(5, 9))


def test_the_first_colour_is_the_own_answers_alone():
    trace = a_trace()
    texts = [["\\boxed{20}", "\\boxed{21}"]] + [[] for _ in trace.sentences]
    answers = content.Answers(Rollouts.from_texts(trace, texts))
    assert answers.labels[:2] == ["20", "21"] and answers.colours == [1, 2, 6, 7]


def test_alternatives_are_grouped_by_the_answer_they_led_to(tmp_path):
    trace = a_trace()
    data = data_of(
        written(
            tmp_path, trace, rollouts=some_rollouts(trace, text=" The same sentence. Then more of it. \\boxed{{{a}}}")
        )
    )
    assert data["alternatives"][0] == [
        [1, 7, [["The same sentence.", 7]]],
        [0, 2, [["The same sentence.", 2]]],
        [3, 1, [["gave up", 1]]],
    ]


def test_matrices_survive_packing():
    square = np.array([[np.nan, -2.0], [0.5, 0.0]])
    stored = drawing.packed(square)
    steps = np.frombuffer(base64.b64decode(stored["cells"]), "<i2").reshape(2, 2)
    restored = np.where(steps == drawing.BLANK, np.nan, steps * stored["step"])
    np.testing.assert_allclose(restored, square, atol=1e-4)


def test_pooled_blocks_keep_their_strongest_cell_and_their_blanks():
    square = np.full((100, 100), np.nan)
    square[60, 10], square[61, 11] = -3.0, 2.0
    blocks = drawing.pooled(square, side=10)
    assert blocks.shape == (10, 10) and blocks[6, 1] == -3.0 and np.isnan(blocks).sum() == 99


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


def hostile_report(folder: Path) -> str:
    trace = a_trace(texts=HOSTILE, answer=HOSTILE[0])
    rollouts = Rollouts.from_texts(
        trace, [[f"{text} \\boxed{{{text}}}" for text in HOSTILE if "\ud800" not in text]] * 7
    )
    scores = with_p(trace, method=HOSTILE[1])
    details = {HOSTILE[0]: HOSTILE[1], "warnings": HOSTILE}
    scores = Scores.of(trace, HOSTILE[1], scores.values, p=scores.p, unit=HOSTILE[0], details=details)
    trace = trace.with_categories(HOSTILE)
    return written(folder, trace, [scores, suppression_scores(trace)], rollouts=rollouts, title=HOSTILE[0])


def test_hostile_text_adds_no_element_and_no_attribute(tmp_path):
    page = Page(hostile_report(tmp_path))
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert not [tag for tag, _ in page.elements if tag in ("img", "iframe", "object", "link", "base")]
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert page.sentences == [drawing.clean(text) for text in HOSTILE]


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


def test_a_report_of_150_sentences_is_under_a_megabyte(tmp_path):
    trace = a_trace(150)
    long = " This first sentence {i} of an alternative is as long as they usually are, {i}{i}. \\boxed{{{a}}}"
    scores = [with_p(trace, method=f"method {i}") for i in range(4)] + [suppression_scores(trace)] * 2
    assert len(written(tmp_path, trace, scores, rollouts=some_rollouts(trace, n=100, text=long)).encode()) < 1_000_000


def test_the_document_does_not_grow_with_the_square_of_the_trace(tmp_path):
    small, large = (len(Page(written(tmp_path, a_trace(n))).elements) for n in (100, 200))
    assert large < 2.2 * small


def test_a_hundred_kilobytes_of_latex_appear_once(tmp_path):
    formula = "\\frac{a}{b}" * 9500
    trace = a_trace(texts=("So we start.", f"${formula}$ holds now.", "It is done here.", "And that is four."))
    assert written(tmp_path, trace, rollouts=some_rollouts(trace)).count(formula) == 1


# --- contrast -----------------------------------------------------------------------------------------------


def luminance(colour: tuple[float, ...]) -> float:
    parts = [c / 12.92 if (c := v / 255) <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for v in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def palettes() -> list[dict[str, str]]:
    css = (Path(drawing.__file__).parent / "report.css").read_text()
    light, dark = (
        dict(re.findall(r"--([\w]+): ([^;]+);", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    )
    return [light, light | dark]


@pytest.mark.parametrize("colours", palettes(), ids=["light", "dark"])
def test_text_meets_wcag_aa_on_every_tint(colours):
    def rgb(text: str) -> tuple[float, ...]:
        return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5)) if text[0] == "#" else tuple(map(float, text.split()))

    ground, ink = rgb(colours["bg"]), float(colours["ink"])
    tints = [
        tuple(ink * t + (1 - ink) * g for t, g in zip(rgb(colours[c]), ground, strict=True)) for c in ("pos", "neg")
    ]
    assert all(contrast(rgb(colours["fg"]), tint) >= 4.5 for tint in tints)
    assert all(
        contrast(rgb(colours[text]), rgb(colours[on])) >= 4.5 for text in ("fg", "dim", "link") for on in ("bg", "soft")
    )


# --- in a browser -------------------------------------------------------------------------------------------


def browse(page: Path, *, fragment: str = "") -> str:
    """The document after its script ran."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    command = [str(CHROMIUM), *options, "--virtual-time-budget=4000", "--dump-dom", page.as_uri() + fragment]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def acting(page: Path, script: str) -> Path:
    """A copy of a report that runs `script` after its own, as a reader's clicks and keys would."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    copy = page.with_name("acting.html")
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    return copy


@pytest.fixture
def report(tmp_path) -> Path:
    trace = a_trace()
    written(tmp_path, trace, rollouts=some_rollouts(trace))
    return tmp_path / "report.html"


def panel_of(dom: str) -> str:
    inside = dom[dom.index('id="panel"') :]
    return re.sub(r"<[^>]+>", " ", inside[: inside.index("</aside>")])


@needs_chromium
def test_the_page_opens_on_its_strongest_anchor_without_errors(report):
    dom = browse(report)
    assert 'data-ready="1"' in dom and "data-error" not in dom
    panel = panel_of(dom)
    for text in ("Sentence 3", "+0.625", "[0.525, 0.725]", "1.0e-07", "before, n = 10", "An alternative"):
        assert text in panel
    assert dom.count("<canvas") == 1


@needs_chromium
def test_the_address_chooses_sentence_and_method(report):
    dom = browse(report, fragment="#s5,1")
    assert "Sentence 5" in panel_of(dom) and "+0.050" in panel_of(dom)
    assert re.search(r'class="s pos on"[^>]*id="s5"', dom) and "data-error" not in dom


@needs_chromium
def test_keys_move_and_the_select_recolours(report):
    keys = (
        "const key = (k) => "
        "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: k, bubbles: true}));"
    )
    choose = "const by = document.getElementById('by'); by.value = '1'; by.dispatchEvent(new Event('change'));"
    dom = browse(acting(report, f"{keys} key('ArrowRight'); key('ArrowRight'); key('ArrowLeft'); {choose}"))
    assert "Sentence 4" in panel_of(dom) and "data-error" not in dom
    assert re.search(r'class="s pos anchor"[^>]*id="s11"', dom) and "untested" in dom


@needs_chromium
def test_pointing_at_a_sentence_shows_its_interval_n_and_p(report):
    point = (
        "const where = {bubbles: true, clientX: 9, clientY: 9};"
        "document.querySelector('#s3 .w').dispatchEvent(new PointerEvent('pointermove', where));"
    )
    tip = browse(acting(report, point)).partition('id="tip"')[2][:300]
    for text in ("+0.625", "95% [0.525, 0.725]", "n = 100", "p = 1.0e-07", "anchor"):
        assert text in tip


@needs_chromium
def test_pointing_at_a_matrix_reads_the_cell(report):
    square = suppression_scores(a_trace()).matrix
    assert square is not None
    expected = drawing.number(float(square[11, 0]), signed=True)
    point = (
        "const host = document.querySelector('[data-matrix]'), box = host.getBoundingClientRect();"
        "const where = {bubbles: true, clientX: box.left + 4, clientY: box.bottom - 4};"
        "host.dispatchEvent(new PointerEvent('pointermove', where));"
        "host.dispatchEvent(new MouseEvent('click', where));"
    )
    dom = browse(acting(report, point))
    assert f"Sentence 0 on sentence 11: {expected} nats" in dom and "Sentence 0" in panel_of(dom)


@needs_chromium
def test_hostile_text_runs_nothing_in_a_browser(tmp_path):
    hostile_report(tmp_path)
    for page in (tmp_path / "report.html", acting(tmp_path / "report.html", "")):
        dom = browse(page)
        assert 'data-ready="1"' in dom and "data-error" not in dom and "data-hacked" not in dom


@needs_chromium
def test_one_sentence_without_rollouts_opens(tmp_path):
    trace = a_trace(1)
    written(tmp_path, trace, [Scores.of(trace, "resampling", np.array([np.nan]), low=np.array([-np.inf]))])
    dom = browse(tmp_path / "report.html")
    assert "Sentence 0" in panel_of(dom) and "not measured" in panel_of(dom) and "data-error" not in dom


@needs_chromium
def test_screenshots_are_not_blank(report):
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={report.parent / 'profile'}",
        "--hide-scrollbars",
    ]
    for name, size in (("wide", "1280,1600"), ("phone", "400,900")):
        shot = report.with_name(f"{name}.png")
        command = [str(CHROMIUM), *options, f"--window-size={size}", f"--screenshot={shot}", report.as_uri()]
        subprocess.run(command, capture_output=True, timeout=120, check=True)
        assert shot.stat().st_size > 20_000
