"""Traces: exact slices, think tags in every state, chats, and round trips."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchors.trace import Sentence, Trace

REASONING = "Two and two make a sum. That sum is four."


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Q", f"<think>\n{REASONING}\n</think>\n\nThe answer is 4."),
        ("Q<think>\n", f"{REASONING}\n</think>\n\nThe answer is 4."),
        ("Q", f"<think>\n{REASONING}"),
        ("Q<think>\n", REASONING),
        ("Q", REASONING),
        ("Q", f"<think>\r\n{REASONING}\r\n</think>\r\nDone."),
        ("Q<think>\n", f"{REASONING}\n</think>\nThe tag <think> opens a thought."),
        ("Q", f"Sure. <think>{REASONING}</think> The tags <think> and </think> again."),
    ],
)
def test_think_tags_in_every_state(prompt, text):
    trace = Trace.from_text(prompt, text)
    assert trace.text == prompt + text
    assert trace.reasoning == REASONING
    assert [s.text for s in trace.sentences] == ["Two and two make a sum.", "That sum is four."]


@given(
    st.text(max_size=30), st.text(max_size=99).filter(lambda t: "think>" not in t and t.strip()), st.text(max_size=9)
)
@settings(max_examples=300, deadline=None)
def test_prefixes_are_exact_slices(prompt, reasoning, ending):
    trace = Trace.from_text(prompt, f"<think>\n{reasoning}</think>{ending}")
    assert trace.text == f"{prompt}<think>\n{reasoning}</think>{ending}"
    for i in range(len(trace)):
        assert trace.through(i).startswith(trace.before(i))
        assert trace.text.startswith(trace.through(i))
        start, end = trace.spans[i]
        assert trace.text[start:end].strip() == trace.sentences[i].text
    assert Trace.from_json(trace.to_json()) == trace


def test_negative_and_foreign_indices():
    trace = Trace.from_text("Q", REASONING)
    assert trace.before(-1) == trace.before(1)
    with pytest.raises(IndexError):
        trace.before(2)


def test_answer_is_read_after_the_reasoning_first():
    text = r"<think>Perhaps it is \boxed{3} after all.</think> So \boxed{4}."
    assert Trace.from_text("Q", text).answer == "4"
    assert Trace.from_text("Q", r"Perhaps it is \boxed{3} after all.").answer == "3"
    assert Trace.from_text("Q", text, answer="9").answer == "9"


@pytest.mark.parametrize("text", ["", "  \n", "<think>\n\n</think>\n\nFour."])
def test_no_reasoning_is_refused(text):
    with pytest.raises(ValueError, match="no reasoning"):
        Trace.from_text("Q", text)


def test_an_edited_trace_may_have_lost_all_its_reasoning():
    empty = Trace("Q<think>\n", "", (), ending="\n</think>\n4", answer="4")
    assert len(empty) == 0
    assert (empty.text, empty.boundaries, empty.spans) == ("Q<think>\n\n</think>\n4", (9,), ())
    assert Trace.from_json(empty.to_json()) == empty
    with pytest.raises(ValueError, match="no reasoning"):
        Trace("Q", "  \n", ())
    with pytest.raises(ValueError, match="tile"):
        Trace("Q", "", (Sentence(0, "", 0, 0),))


def test_stored_sentences_are_never_split_again():
    stored = ["Two and two make a sum. That", "sum is four."]
    trace = Trace.from_text("Q", REASONING, sentences=stored)
    assert [s.text for s in trace.sentences] == stored


def test_spans_must_tile():
    with pytest.raises(ValueError, match="should start at 0"):
        Trace("Q", "abc def", (Sentence(0, "def", 4, 7),))
    with pytest.raises(ValueError, match="end at character 3 of 7"):
        Trace("Q", "abc def", (Sentence(0, "abc", 0, 3),))


@pytest.mark.parametrize(
    "message",
    [
        {"content": f"<think>\n{REASONING}\n</think>\n\n4"},
        {"reasoning": REASONING, "content": "4"},
        {"reasoning_content": REASONING, "content": "4"},
        {"content": [{"type": "thinking", "thinking": REASONING}, {"type": "text", "text": "4"}]},
        {"reasoning": REASONING, "content": None},
    ],
)
def test_chats(message):
    chat = [{"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]}, {"role": "assistant", **message}]
    trace = Trace.from_chat(chat, target="4")
    assert trace.reasoning == REASONING
    assert trace.prompt.startswith("user: 2 + 2?\n\nassistant: ")
    assert trace.target == "4"


def test_a_chat_needs_an_assistant():
    with pytest.raises(ValueError, match="no assistant message"):
        Trace.from_chat([{"role": "user", "content": "hello"}])


def test_categories_and_files(tmp_path):
    trace = Trace.from_text("Q \ud800 é", REASONING, meta={"a": [1, 2]}).with_categories(["plan_generation", None])
    assert trace.categories == ("plan_generation", None)
    trace.save(tmp_path / "t.json")
    assert Trace.load(tmp_path / "t.json") == trace
    with pytest.raises(ValueError):
        trace.with_categories([None])


def test_ids_depend_on_the_text_only():
    assert Trace.from_text("Q", REASONING).id == Trace.from_text("Q", REASONING, target="4").id
    assert Trace.from_text("Q", REASONING).id != Trace.from_text("Q2", REASONING).id
    assert Trace.from_text("Q", REASONING, id="mine").id == "mine"
