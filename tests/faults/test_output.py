"""Traces, answers, ids and settings that attack whoever reads the results: in the report, the terminal and exports."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from anchors import cli
from anchors.printable import cell, printable
from anchors.report.page import render
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.similarity import lexical
from anchors.table import top_sentences
from anchors.trace import Trace
from tests.faults.hostile import BREAKOUT, ESCAPES, MARKUP, seconds

FAST = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, max_examples=6)
VOID = {"meta", "br", "input", "img", "link", "hr", "path", "col"}
UNCLOSED = {"p", "li", "td", "th", "tr"}
"""Elements whose end tag may be left out: their parent's end ends them, and the start of any of `ENDED_BY`."""
BLOCKS = dict.fromkeys(["p", "div", "ul", "ol", "section", "details", "table", "figure", "h2", "h3"], ("p",))
ENDED_BY = BLOCKS | {"li": ("p", "li"), "td": ("td", "th"), "th": ("td", "th"), "tr": ("td", "th", "tr")}
NASTY = st.sampled_from([BREAKOUT, ESCAPES, MARKUP, "<", ">", "&", '"', "'", "{{ 7*7 }}", "{% raw %}", "\ud800", "\x00", "\u2028",
                         "<!--", "]]>", "javascript:", "onload=", " ", "a", ". "])  # fmt: skip
WORDS = st.lists(NASTY, min_size=1, max_size=12).map("".join)


class Tags(HTMLParser):
    """What a browser would build: element names, attributes, scripts, and whether elements close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names, self.attributes, self.texts, self.astray = [], [], {}, []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]
        for ended in ENDED_BY.get(tag, ()):
            self.leave({ended})
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.append(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        while self.open and self.open[-1] != tag:
            if not self.leave(UNCLOSED):
                break
        if not self.open or self.open.pop() != tag:
            self.astray.append(tag)

    def leave(self, tags):
        """End the innermost element if it is one of these."""
        return bool(self.open) and self.open[-1] in tags and bool(self.open.pop())

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def read(page: str) -> Tags:
    found = Tags()
    found.feed(page)
    found.close()
    return found


def report(words: str) -> str:
    trace = Trace.from_text(words, f"{words} is what we add. That is {words}.", answer=words, target=words, id=words,
                            meta={words: [words]})  # fmt: skip
    trace = trace.with_categories([words] * len(trace))
    details = {"outcome": words, "warnings": [words], words: words}
    scores = Scores.of(trace, words or "m", np.linspace(-1, 1, len(trace)), unit=words, details=details,
                       matrix=np.full((len(trace), len(trace)), 0.5))  # fmt: skip
    run = Rollouts.from_texts(trace, [[words.replace("\ud800", "?"), "\\boxed{7}"]] * (len(trace) + 1))
    return render(trace, [scores], rollouts=run, similarity=lexical(), title=words)


PLAIN = read(report("It is a word so we go on."))


def assert_inert(page: str) -> None:
    """A page has the elements, in order, and the data of one with plain words; no attribute of it runs code."""
    page.encode("utf-8")
    assert "\x00" not in page and "\x1b" not in page
    found = read(page)
    assert found.open == [] and found.astray == []
    assert found.names.count("script") == 2 and set(found.names) <= set(PLAIN.names)
    assert not [name for name in found.attributes if name.startswith("on")]
    data = json.loads(
        "".join(found.texts["script"][:1]) if len(found.texts["script"]) == 2 else found.texts["script"][0]
    )
    assert set(data) == {*json.loads(PLAIN.texts["script"][0])}


@FAST
@given(WORDS)
def test_no_text_breaks_out_of_the_report(words):
    assert_inert(report(words))


def shown(renderable) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=False, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def safe(text: str) -> bool:
    return not any(c in text for c in "\x1b\x07\x9b\r\x00\u202e\u2066")


@pytest.mark.parametrize("words", [ESCAPES, MARKUP, BREAKOUT, "[/]", "[bold", "\\[red]"])
def test_a_trace_cannot_command_the_terminal(words):
    trace = Trace.from_text("Q", f"We add {words} to it. That is {words} then.", answer=words, id=words or "x")
    table = shown(top_sentences(trace, [Scores.of(trace, "made up", np.linspace(0, 1, len(trace)))]))
    assert safe(table) and "score" in table
    if safe(words):
        assert words.split()[0] in table
    assert safe(printable(words)) and safe(cell(words))


@pytest.mark.parametrize("words", [ESCAPES, MARKUP, "[/]"])
def test_commands_print_hostile_traces(words, tmp_path, monkeypatch, capsys):
    record = {
        "prompt": words,
        "text": f"We add {words} to it.\n</think>\n\\boxed{{{words}}}",
        "target": words,
        "id": words,
    }
    (tmp_path / "t.jsonl").write_text("\n".join([json.dumps(record)] * 2))
    monkeypatch.setattr("sys.argv", ["anchors", "vote", str(tmp_path / "t.jsonl"), "-q"])
    try:
        cli.main()
    except SystemExit as stop:
        assert not stop.code
    assert safe(capsys.readouterr().out.replace("\r\n", "\n"))


def test_a_report_of_many_marked_sentences_is_linear():
    def write(size: int) -> None:
        trace = Trace.from_text("Q", " ".join(f"So we add {i} and go on now." for i in range(size)), answer="7")
        render(trace, [Scores.of(trace, "made up", np.ones(size), p=np.full(size, 1e-9))])

    write(50)
    assert seconds(lambda: write(4000)) < 8 * max(0.1, seconds(lambda: write(1000)))


def test_many_alternatives_are_grouped_in_linear_time():
    from collections import Counter

    from anchors.report.answers import group_by_meaning
    from anchors.similarity import Similarity

    same = Similarity("none", 1.0, lambda reference, others: np.zeros(len(others)))
    texts = {f"text {i}": Counter({0: 1}) for i in range(4000)}
    assert seconds(lambda: group_by_meaning("sentence", texts, same)) < 2
