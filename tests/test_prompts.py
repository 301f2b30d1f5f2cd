"""Prompt builders: every slot on hand-made chats, demonstrations that are right, answers that can be read back."""

from __future__ import annotations

import re

import pytest

from anchors.answers import extract_answer
from anchors.interventions import QUOTE, place
from anchors.prompts import (
    ARITHMETIC,
    BASE_SLOTS,
    INSTRUCTIONS,
    SLOTS,
    STYLES,
    Demo,
    base_prompt,
    chat_prompt,
    demo_block,
    insert,
    place_in_chat,
)
from anchors.trace import Trace

ONE = (Demo("1 + 1?", "One and one make 1 + 1 = 2.", "1 + 1 = 2.", "2"),)
CHAT = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]


@pytest.mark.parametrize("demo", ARITHMETIC, ids=lambda d: d.answer)
def test_the_equations_of_the_demonstrations_hold_and_end_on_the_answer(demo):
    for text in (demo.reasoning, demo.draft):
        equations = re.findall(r"(\d[\d +*/-]*\d) = (\d+)", text)
        assert len(equations) == text.count("=") > 0
        for left, right in equations:
            assert eval(left) == int(right), left
        assert equations[-1][1] == demo.answer
    assert all(len(part.split()) <= 8 for part in demo.draft.split(". "))
    assert len(demo.draft.split()) < len(demo.reasoning.split())


@pytest.mark.parametrize("style", STYLES)
def test_answers_of_every_style_are_read_by_extract_answer(style):
    for demo in ARITHMETIC:
        assert extract_answer(demo_block([demo], style).split("A: ", 1)[1]) == demo.answer


def test_a_style_decides_what_a_demonstration_shows():
    assert demo_block(ONE, "standard") == "Q: 1 + 1?\nA: #### 2"
    assert demo_block(ONE, "step_by_step") == "Q: 1 + 1?\nA: One and one make 1 + 1 = 2.\n#### 2"
    assert demo_block(ONE * 2, "draft") == "Q: 1 + 1?\nA: 1 + 1 = 2.\n#### 2\n\nQ: 1 + 1?\nA: 1 + 1 = 2.\n#### 2"
    assert demo_block((), "draft") == ""


@pytest.mark.parametrize(
    ("slot", "expected"),
    [
        ("system_start", [("system", "X\n\nS"), ("user", "U")]),
        ("system_end", [("system", "S\n\nX"), ("user", "U")]),
        ("user_start", [("system", "S"), ("user", "X\n\nU")]),
        ("user_end", [("system", "S"), ("user", "U\n\nX")]),
        ("think", [("system", "S"), ("user", "U"), ("assistant", "<think>\nX")]),
    ],
)
def test_slots_of_a_chat(slot, expected):
    given = [dict(m) for m in CHAT]
    assert [(m["role"], m["content"]) for m in insert(given, "X", slot)] == expected
    assert given == CHAT


def test_insert_makes_a_system_message_uses_the_last_user_message_and_ignores_blank_text():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert insert(turns, "X", "system_end")[0] == {"role": "system", "content": "X"}
    assert [m["content"] for m in insert(turns, "X", "user_start")] == ["a", "b", "X\n\nc"]
    assert insert(turns, "  ", "system_start") == turns


def test_insert_refuses_what_it_cannot_place():
    with pytest.raises(ValueError, match="slot is 'middle'"):
        insert(CHAT, "X", "middle")
    with pytest.raises(ValueError, match="no user message"):
        insert([{"role": "system", "content": "S"}], "X", "user_end")
    with pytest.raises(ValueError, match="ends with an assistant"):
        insert([*CHAT, {"role": "assistant", "content": "done"}], "X", "think")


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("style", STYLES)
def test_a_chat_prompt_holds_instruction_question_and_demonstrations_once(style, slot):
    text = "\n".join(m["content"] for m in chat_prompt("Why 7?", style=style, demos=ONE, slot=slot))
    assert text.count(INSTRUCTIONS[style]) == text.count("Why 7?") == text.count(demo_block(ONE, style)) == 1


def test_a_system_text_of_your_own_and_none():
    assert chat_prompt("Why?", system="Be kind.", demos=())[0]["content"] == "Be kind."
    assert [m["role"] for m in chat_prompt("Why?", system="", demos=ONE)] == ["user"]
    with pytest.raises(ValueError, match="blank"):
        chat_prompt(" ")
    with pytest.raises(ValueError, match="style is 'cot'"):
        chat_prompt("Why?", style="cot")


def test_a_trace_is_quoted_in_a_chat_as_in_a_raw_prompt_and_bare_in_the_think_block():
    trace = Trace.from_text("3 + 4?\n", "<think>\nIt must be 7.\nSo we stop here.")
    quoted = place_in_chat(trace, [{"role": "user", "content": "3 + 4?"}], "user_end")[-1]["content"]
    assert quoted == f"3 + 4?\n\n{QUOTE}\n> It must be 7.\n> So we stop here."
    assert place(trace, "quoted").prompt.startswith(quoted)
    assert place_in_chat(trace, CHAT, "think")[-1]["content"] == "<think>\nIt must be 7.\nSo we stop here."
    assert place_in_chat(Trace("Q", "", ()), CHAT, "user_end") == CHAT


def test_raw_text_for_base_models():
    top, block = INSTRUCTIONS["draft"], demo_block(ONE, "draft")
    made = {slot: base_prompt("Why 7?", style="draft", demos=ONE, slot=slot) for slot in BASE_SLOTS}
    assert made["before"] == f"{top}\n\n{block}\n\nQ: Why 7?\nA:"
    assert made["after"] == f"{top}\n\nQ: Why 7?\n\n{block}\nA:"
    assert made["think"] == f"{top}\n\nQ: Why 7?\nA: <think>\n{block}\n"
    assert base_prompt("Why 7?", style="draft", demos=(), slot="think") == f"{top}\n\nQ: Why 7?\nA:"
    with pytest.raises(ValueError, match="slot is 'user_end'"):
        base_prompt("Why?", slot="user_end")
