"""Prompts with worked demonstrations for real models: standard, step by step or draft, in any slot of a chat or a raw text.

1. A demonstration holds a question, its reasoning in full, the same as a draft, and the answer. Give your own, or take
   `ARITHMETIC`, written for this project.
2. A style decides the instruction and what a demonstration shows: the answer alone, the full reasoning, or the draft.
3. `insert` puts any text into a slot of a chat: start or end of the system or of the user's message, or the think block that
   the model then continues. Demonstrations and quoted traces go through it, so that place is one factor of both.
4. A base model has three slots: before the question, after it, and inside the think block; `base_prompt` returns raw text.

Everything here is pure: texts in, messages or text out. Traces of base models are placed by `interventions.place`.
Sources: Chain of Draft 2502.18600 (styles), the four slots of 2507.22887; wording and demonstrations are our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from anchors.interventions import QUOTE
from anchors.trace import Trace

Messages = list[dict[str, str]]

STYLES: Final = ("standard", "step_by_step", "draft")
SLOTS: Final = ("system_start", "system_end", "user_start", "user_end", "think")
BASE_SLOTS: Final = ("before", "after", "think")
SEPARATOR: Final = "####"
THINK: Final = "<think>\n"

INSTRUCTIONS: Final = {
    "standard": f"Give the answer at once, after {SEPARATOR}, without any reasoning.",
    "step_by_step": f"Reason step by step. Then give the answer on a new line after {SEPARATOR}.",
    "draft": "Reason step by step, but note down at most five words a step, as in a rough draft. "
    f"Then give the answer on a new line after {SEPARATOR}.",
}


class Demo(NamedTuple):
    """One worked demonstration: the same reasoning in full sentences and as a draft."""

    question: str
    reasoning: str
    draft: str
    answer: str


ARITHMETIC: Final = (
    Demo(
        "A baker has 3 trays of 12 rolls and sells 20 of them. How many rolls are left?",
        "Three trays of 12 rolls make 3 * 12 = 36 rolls. The baker sells 20 of them, so 36 - 20 = 16 rolls are left.",
        "3 * 12 = 36. 36 - 20 = 16.",
        "16",
    ),
    Demo(
        "Mira reads 14 pages on Monday and twice as many on Tuesday. How many pages does she read in the two days?",
        "On Tuesday she reads twice as many pages as on Monday, which is 2 * 14 = 28. Together that makes 14 + 28 = 42 pages.",
        "Tuesday: 2 * 14 = 28. 14 + 28 = 42.",
        "42",
    ),
    Demo(
        "A tank holds 90 litres and loses 6 litres an hour. How many litres are left after 7 hours?",
        "In 7 hours the tank loses 7 * 6 = 42 litres. Of the 90 litres, 90 - 42 = 48 are left.",
        "lost: 7 * 6 = 42. 90 - 42 = 48.",
        "48",
    ),
    Demo(
        "Four friends share the cost of a 52 euro boat and a 16 euro picnic equally. How many euros does each pay?",
        "Boat and picnic cost 52 + 16 = 68 euros together. Shared among four friends, each pays 68 / 4 = 17 euros.",
        "52 + 16 = 68. 68 / 4 = 17.",
        "17",
    ),
)
"""Small word problems whose every equation holds (a test computes them)."""


def demo_block(demos: Sequence[Demo], style: str) -> str:
    """The demonstrations in one style, blank lines between them; "" without any.

    Raises:
        ValueError: there is no such style.

    >>> print(demo_block(ARITHMETIC[:1], "draft"))
    Q: A baker has 3 trays of 12 rolls and sells 20 of them. How many rolls are left?
    A: 3 * 12 = 36. 36 - 20 = 16.
    #### 16
    """
    _known(style, STYLES, "style")
    return "\n\n".join(f"Q: {demo.question}\nA: {_shown(demo, style)}" for demo in demos)


def _shown(demo: Demo, style: str) -> str:
    """The answer stands on a line of its own, where `extract_answer` finds it."""
    body = {"standard": "", "step_by_step": f"{demo.reasoning}\n", "draft": f"{demo.draft}\n"}[style]
    return f"{body}{SEPARATOR} {demo.answer}"


def chat_prompt(
    question: str,
    *,
    style: str = "step_by_step",
    demos: Sequence[Demo] = ARITHMETIC,
    slot: str = "user_start",
    system: str | None = None,
) -> Messages:
    """Messages for a chat model: the style's instruction as system message, the question, and the demonstrations in a slot.

    `system` replaces the instruction; "" leaves the system message out unless a slot fills it.

    Raises:
        ValueError: an unknown style or slot, or a blank question.

    >>> [m["role"] for m in chat_prompt("What is 2 + 2?", style="draft")]
    ['system', 'user']
    """
    _known(style, STYLES, "style")
    if not question.strip():
        raise ValueError("the question is blank; a prompt needs one")
    top = INSTRUCTIONS[style] if system is None else system
    messages = [{"role": "system", "content": top}] if top.strip() else []
    return insert([*messages, {"role": "user", "content": question}], demo_block(demos, style), slot)


def insert(messages: Sequence[dict[str, str]], text: str, slot: str) -> Messages:
    """The messages with a text in one slot, a blank line between it and what stands there; blank text changes nothing.

    "system_start", "system_end": of the system message, which is made where there is none. "user_start", "user_end": of the
    last user message. "think": an assistant message that opens its think block with the text, for the model to continue.

    Raises:
        ValueError: an unknown slot, no user message for a user slot, or an answered chat for "think".

    >>> insert([{"role": "user", "content": "2 + 2?"}], "Two and two.", "user_end")
    [{'role': 'user', 'content': '2 + 2?\\n\\nTwo and two.'}]
    """
    _known(slot, SLOTS, "slot")
    found = [dict(message) for message in messages]
    if not text.strip():
        return found
    if slot == "think":
        if found and found[-1]["role"] == "assistant":
            raise ValueError("the chat ends with an assistant message; the think block belongs to the next one")
        return [*found, {"role": "assistant", "content": THINK + text}]
    role, _, end = slot.partition("_")
    if role == "system" and not any(m["role"] == "system" for m in found):
        return [{"role": "system", "content": text}, *found]
    places = [i for i, message in enumerate(found) if message["role"] == role]
    if not places:
        raise ValueError(f"the chat has no {role} message; slot {slot!r} needs one")
    there = found[places[-1]]["content"]
    found[places[-1]]["content"] = "\n\n".join([text, there] if end == "start" else [there, text])
    return found


def place_in_chat(
    trace: Trace, messages: Sequence[dict[str, str]], slot: str, *, introduction: str = QUOTE
) -> Messages:
    """A trace handed over in a slot of a chat: quoted under one line of introduction, or as the model's own thought ("think").

    Raises:
        ValueError: as `insert`.
    """
    text = trace.reasoning.strip()
    if not text or slot == "think":
        return insert(messages, text, slot)
    return insert(messages, "\n".join([introduction, *(f"> {line}".rstrip() for line in text.splitlines())]), slot)


def base_prompt(
    question: str, *, style: str = "step_by_step", demos: Sequence[Demo] = ARITHMETIC, slot: str = "before"
) -> str:
    """Raw text for a base model, which has no roles: it ends where the model is to write its answer.

    "before" and "after": the demonstrations stand before or after the question. "think": they open a think block after it.

    Raises:
        ValueError: an unknown style or slot, or a blank question.

    >>> base_prompt("What is 2 + 2?", demos=())
    'Reason step by step. Then give the answer on a new line after ####.\\n\\nQ: What is 2 + 2?\\nA:'
    """
    _known(slot, BASE_SLOTS, "slot")
    if not question.strip():
        raise ValueError("the question is blank; a prompt needs one")
    block, asked = demo_block(demos, style), f"Q: {question}"
    parts = [block, asked] if slot == "before" else [asked, block] if slot == "after" else [asked]
    text = "\n\n".join(part for part in (INSTRUCTIONS[style], *parts) if part)
    if slot == "think" and block:
        return f"{text}\nA: {THINK}{block}\n"
    return f"{text}\nA:"


def _known(given: str, known: Sequence[str], what: str) -> None:
    if given not in known:
        raise ValueError(f"{what} is {given!r}; it must be one of {', '.join(known)}")
