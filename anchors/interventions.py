"""Edits of a trace: pure functions that return what a reader is given in place of the trace that was written.

1. A trace is taken apart into pieces, one a sentence: leading white space, body and category.
2. An edit drops, reorders or rewrites pieces; no sentence is split again. Granularity: sentences (keep, delete, block,
   replace, paraphrase, fill, strip_answer, shuffle_sentences), numbers (alter_numbers, invalid_steps), words (draft,
   equations_only), the whole trace (swap_reasoning, answer_only, place).
3. The pieces are joined. Each keeps its own leading white space; the first takes that of the original first sentence.
   Prompt (but for `place`), ending, answer, target and meta stay; the id becomes the digest of the new text.
4. An edit asked to change nothing returns the trace itself. Where a random edit cannot change anything (no number, no
   equation, no other order) it is a ValueError: read as a control it would pass for an effect of zero.
5. A random edit depends on (seed, trace.id) and on nothing that ran before it.
6. Sentences are named by index from 0; an index the trace does not have, and blank filler, are ValueErrors.

Source: the corruption controls of this project's transfer specification (T4), after 2307.13702 (filler, mistakes,
paraphrase), 2505.13775 (swap), 2307.10573 (invalid steps), 2502.18600 (draft) and 2507.22887 (placement).
"""

from __future__ import annotations

import dataclasses
import math
import operator
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool

from anchors.answers import NO_ANSWER, normalise_answer
from anchors.numerals import (
    NUMERAL,
    count_numbers,
    is_number,
    number_images,
    number_values,
    other_numbers,
    rewrite_numbers,
)
from anchors.trace import Sentence, Trace

QUOTE: Final = "Here is some reasoning about this problem:"
SLOTS: Final = ("think", "before", "after", "quoted")
STRIP_MODES: Final = ("sentences", "first_mention")

_RESULT = re.compile(
    rf"(?<![<>!])=\s*+\$?\s*+[-\u2212]?+(?P<result>{NUMERAL})(?:/{NUMERAL})?+"
    r"(?!\s*+(?:[-\u2212+*/^×÷·=(]|\\(?:times|cdot|div|pm)))"
)
_SYMBOL = re.compile(r"[-\u2212\u2013+*/=<>≤≥≈≡≠^×÷·±]+|\\(?:times|cdot|div|pm|leq?|geq?|approx|equiv)")
_FORMULA = re.compile(r"[0-9\\{}$^=]")
_RELATION = re.compile(r"(?<![<>!])=(?!>)|[≈≡]|\\(?:approx|equiv)")
_DANGLING = re.compile(r"\A[-\u2013*+•]\s+|(?: [-\u2013+*/]|(?<![.,;:?*_]))[.,;:?*_]*\Z")
_FUNCTION_WORD = re.compile(
    "(?i:an?|the|i|we|you|it|is|are|was|were|be|will|can|to|of|and|so|then|that|this|let|us|me|my|our)[.,;:!?]*"
)


class Edit(NamedTuple):
    """What a reader is given: a trace (without sentences if all were removed), and those no token may attend to."""

    trace: Trace
    blocked: tuple[int, ...] = ()


class _Piece(NamedTuple):
    lead: str
    body: str
    category: str | None


def keep(trace: Trace, sentences: Iterable[int]) -> Trace:
    """Only these sentences, in the order of the trace.

    >>> keep(Trace.from_text("Q", "We have 3 + 4. That is 7 of ten. So we go on."), [2, 0]).reasoning
    'We have 3 + 4. So we go on.'
    """
    chosen, pieces = _indices(trace, sentences), _pieces(trace)
    return _joined(trace, [pieces[i] for i in chosen])


def delete(trace: Trace, sentences: Iterable[int]) -> Trace:
    """The trace without these sentences."""
    gone = set(_indices(trace, sentences))
    return keep(trace, [i for i in range(len(trace)) if i not in gone])


def block(trace: Trace, sentences: Iterable[int]) -> Edit:
    """The whole trace, with these sentences hidden from the attention of every other token."""
    return Edit(trace, tuple(_indices(trace, sentences)))


def replace(trace: Trace, texts: Mapping[int, str]) -> Trace:
    """The trace with other text in place of some sentences: a resample of the writer's or of the reader's.

    White space around a text is dropped, and a blank text removes its sentence. The sentence keeps its category.

    >>> replace(Trace.from_text("Q", "We have 3 + 4. That is 7 of ten."), {1: "That is 8."}).reasoning
    'We have 3 + 4. That is 8.'
    """
    pieces = _pieces(trace)
    for i in _indices(trace, texts):
        if texts[i].strip() != pieces[i].body.strip():
            pieces[i] = pieces[i]._replace(body=texts[i].strip())
    return _joined(trace, pieces)


def paraphrase(trace: Trace, sentences: Iterable[int], how: Callable[[str], str]) -> Trace:
    """The trace with each of these sentences put in other words by `how`; blank words from it are a ValueError."""
    texts = {i: how(trace.sentences[i].text) for i in _indices(trace, sentences)}
    for i, text in texts.items():
        if not text.strip():
            raise ValueError(f"`how` returned {text!r} for sentence {i}; return text, or use delete")
    return replace(trace, texts)


def shuffle_sentences(trace: Trace, *, seed: int) -> Trace:
    """The same sentences in a random order that reads differently, so that order is lost and content kept.

    Uniform over the orders that change the text. The old and the new first sentence exchange leading white space.
    """
    pieces, rng = _pieces(trace), random.Random(f"{seed} {trace.id}")
    bodies = [p.body for p in pieces]
    if len(set(bodies)) < 2:
        raise ValueError(f"trace {trace.id} has no other order; a shuffle needs two different sentences")
    order = list(range(len(pieces)))
    while [bodies[i] for i in order] == bodies:
        rng.shuffle(order)
    pieces[0] = pieces[0]._replace(lead=pieces[order[0]].lead)
    return _joined(trace, [pieces[i] for i in order])


def alter_numbers(trace: Trace, *, sentences: Iterable[int] | None = None, seed: int) -> Trace:
    """Every number in these sentences (None: in all) replaced by another of the same digits, decimals and sign.

    The map is drawn once for the whole trace, so it is one to one, coherent, and the same whichever sentences are
    chosen. Numbers are told apart as written: 5 and 5.0 map independently, -3 as 3 does, 1/2 part by part. Letters
    with digits (x1) and ordinals (2nd) stay. No divisor becomes 0 and no fraction keeps its value, where possible.

    >>> alter_numbers(Trace.from_text("Q", "We add 3 to 41. So 3 + 41 = 44."), seed=0).reasoning
    'We add 7 to 42. So 7 + 42 = 84.'
    """
    pieces = _pieces(trace)
    images = number_images("\n".join(p.body for p in pieces), random.Random(f"{seed} {trace.id}"))
    chosen = _indices(trace, range(len(trace)) if sentences is None else sentences)
    if not any(count_numbers(pieces[i].body) for i in chosen) and (chosen or sentences is None):
        raise ValueError(f"sentences {chosen} of trace {trace.id} hold no number to alter; choose others")
    for i in chosen:
        pieces[i] = pieces[i]._replace(body=rewrite_numbers(pieces[i].body, images))
    return _joined(trace, pieces)


def invalid_steps(trace: Trace, *, rate: float, seed: int) -> Trace:
    """A share `rate` of the sentences that say "... = number" with another number of equal digits there instead.

    round(rate n) of the n such sentences, halves upwards; the last equation of each. With one seed a higher rate
    keeps the errors of a lower one. The number differs from what the trace says, which may itself be wrong.

    Raises:
        ValueError: `rate` is outside [0, 1], or above 0 where no sentence says such an equation.

    >>> invalid_steps(Trace.from_text("Q", "We see 3 + 4 = 7. And so 7 - 2 = 5."), rate=0.5, seed=0).reasoning
    'We see 3 + 4 = 1. And so 7 - 2 = 5.'
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}; it is the share of equations made wrong, between 0 and 1")
    rng = random.Random(f"{seed} {trace.id}")
    found = {i: m for i, s in enumerate(trace.sentences) for m in [*_RESULT.finditer(s.text)][-1:]}
    if rate > 0 and not found:
        raise ValueError(f'no sentence of trace {trace.id} says "... = number", so no step can be made wrong')
    wrong: dict[int, str] = {}
    for i, m in found.items():
        image = rewrite_numbers(m["result"], other_numbers([m["result"].replace(",", "")], rng))
        wrong[i] = m.string[: m.start("result")] + image + m.string[m.end("result") :]
    order = rng.sample(list(wrong), len(wrong))
    return replace(trace, {i: wrong[i] for i in order[: math.floor(rate * len(wrong) + 0.5)]})


def swap_reasoning(trace: Trace, others: Iterable[Trace], *, length: Callable[[str], int] = len) -> Trace:
    """The trace with the reasoning of another problem's trace, the closest in length.

    Give a reader's token count as `length` to match in its tokens; ties go to the smaller id. Traces of the same
    prompt, of equal reasoning or without sentences are passed over; those that happen to share the answer are not.

    Raises:
        ValueError: no such trace is among `others`.
    """
    others = list(others)
    fit = [o for o in others if o.sentences and o.prompt != trace.prompt and o.reasoning != trace.reasoning]
    if not fit:
        raise ValueError(f"none of the {len(others)} traces has another prompt and reasoning than {trace.id}; give one")
    wanted = length(trace.reasoning)
    best = min(fit, key=lambda o: (abs(length(o.reasoning) - wanted), o.id))
    return dataclasses.replace(trace, reasoning=best.reasoning, sentences=best.sentences, id="")


def fill(trace: Trace, *, filler: str = "...", length: Callable[[str], int] = len) -> Trace:
    """Every sentence replaced by repetitions of `filler`, as many as come closest to its length (at least one).

    >>> fill(Trace.from_text("Q", "We add 3 and 4. So we have 7.")).reasoning
    '... ... ... ... ... ... ...'
    """
    if not filler.strip():
        raise ValueError(f"filler is {filler!r}; it needs at least one visible character")
    return replace(trace, {i: _filled(s.text, filler, length) for i, s in enumerate(trace.sentences)})


def answer_only(trace: Trace, *, answer: str | None = None, wording: str = "The answer is {answer}.") -> Trace:
    """The reasoning replaced by one sentence that states the trace's own answer (or `answer`): the leak control.

    Raises:
        ValueError: there is no answer, or `wording` has no place for it.
    """
    answer = trace.answer if answer is None else answer
    if answer is None:
        raise ValueError(f"trace {trace.id} has no answer of its own; give answer=...")
    if "{answer}" not in wording:
        raise ValueError(f"wording is {wording!r}; it must contain {{answer}} where the answer goes")
    return _joined(trace, [_Piece("", wording.replace("{answer}", answer).strip(), None)])


def leak(trace: Trace, *, answers: str | Iterable[str] | None = None) -> Bool[np.ndarray, " sentence"]:
    """Which sentences mention an answer: the target, the trace's own, or one of `answers`.

    A number is mentioned where a number of equal value stands: 7 by "7.0" or "14/2", not by "17", "-7", "7.5" or "x7".
    Other answers are mentioned as whole words, in any case unless they are one character.

    Raises:
        ValueError: there is neither an answer nor a target, and none is given.

    >>> leak(Trace.from_text("Q", "We have 17 of them. Take 10 away: 7.", target="7")).tolist()
    [False, True]
    """
    given = [answers] if isinstance(answers, str) else list(answers or ())
    wanted = [a for a in (trace.answer, trace.target, *given) if a is not None and a.strip() and a != NO_ANSWER]
    if not wanted:
        raise ValueError(f"trace {trace.id} has neither an answer nor a target; give answers=[...]")
    written, normal = {a.strip().rstrip(".") for a in wanted}, set(map(normalise_answer, wanted))
    spellings = (written | {form for form in normal if len(form) > 1 or form.isdecimal()}) - {""}
    numeric = {form for form in spellings if is_number(form)}
    words = {form: r"\s*".join(map(re.escape, form.split())) for form in spellings - numeric}
    phrases = [re.compile(rf"(?<!\w){w}(?!\w)", re.IGNORECASE if len(form) > 1 else 0) for form, w in words.items()]
    values = {value for form in numeric for value in number_values(form)} - {None}
    said = [
        not values.isdisjoint(number_values(s.text)) or any(p.search(s.text) for p in phrases) for s in trace.sentences
    ]
    return np.array(said, dtype=bool)


def strip_answer(trace: Trace, *, answers: str | Iterable[str] | None = None, mode: str = "sentences") -> Trace:
    """The trace without the sentences that `leak`, or ("first_mention") without all from the first of them on.

    Raises:
        ValueError: an unknown mode, or there is no answer to look for.

    >>> strip_answer(Trace.from_text("Q", "We add 3 and 4. So 3 + 4 = 7. Good, go on.", target="7")).reasoning
    'We add 3 and 4. Good, go on.'
    """
    if mode not in STRIP_MODES:
        raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(STRIP_MODES)}")
    said = leak(trace, answers=answers)
    return delete(trace, np.flatnonzero(said if mode == "sentences" else np.logical_or.accumulate(said)).tolist())


def draft(trace: Trace, *, words: int = 5) -> Trace:
    """Every sentence of more than `words` words cut to its equations and numbers, or to its first content words.

    A rule for Chain of Draft (2502.18600), which asks for at most five words a step; `words` is at least 1.

    >>> draft(Trace.from_text("Q", "Tom buys eggs, so 3 + 4 = 7 eggs are his. We will go from left to right.")).reasoning
    '3 + 4 = 7. go from left right.'
    """
    if words < 1:
        raise ValueError(f"words is {words}; a draft keeps at least 1 word of a sentence")
    return replace(trace, {i: _drafted(s.text, words) for i, s in enumerate(trace.sentences)})


def equations_only(trace: Trace) -> Trace:
    """Every sentence cut to its equations; sentences without one are removed.

    >>> equations_only(Trace.from_text("Q", "First we look. Then 3 + 4 = 7 eggs, and x = 2.")).reasoning
    '3 + 4 = 7, x = 2.'
    """
    equations = [[run for run in _runs(s.text) if _RELATION.search(run)] for s in trace.sentences]
    return replace(trace, {i: _ended(runs, trace.sentences[i].text) for i, runs in enumerate(equations)})


def place(trace: Trace, slot: str, *, question: str | None = None, introduction: str = QUOTE) -> Trace:
    """The reasoning moved to another slot of the reader's prompt: whose thought it is, and where it stands.

    "think" leaves it; "before" and "after" put it as plain text before or after the question, "quoted" after it as a
    quoted block under one line of introduction, and the reasoning becomes "". `question` is the user's exact text, by
    default all of the prompt before its opening think tag (give it where a chat template surrounds the question).

    Raises:
        ValueError: an unknown slot, or the question is blank or not in the prompt.

    >>> place(Trace.from_text("3 + 4?\\n", "<think>\\nIt must be 7."), "after").prompt
    '3 + 4?\\n\\nIt must be 7.\\n<think>\\n'
    """
    if slot not in SLOTS:
        raise ValueError(f"slot is {slot!r}; it must be one of {', '.join(SLOTS)}")
    text = trace.reasoning.strip()
    if slot == "think" or not text:
        return trace
    start, end = _question(trace, question)
    if slot == "quoted":
        text = "\n".join([introduction, *(f"> {line}".rstrip() for line in text.splitlines())])
    at, text = (start, f"{text}\n\n") if slot == "before" else (end, f"\n\n{text}")
    prompt = trace.prompt[:at] + text + trace.prompt[at:]
    return dataclasses.replace(trace, prompt=prompt, reasoning="", sentences=(), id="")


def _indices(trace: Trace, sentences: Iterable[int]) -> list[int]:
    """The distinct indices in order, each of them of a sentence of the trace."""
    found = sorted({operator.index(i) for i in sentences})
    if foreign := [i for i in found if not 0 <= i < len(trace)]:
        raise ValueError(f"trace {trace.id} has no sentence {foreign[0]}; it has {len(trace)}, counted from 0")
    return found


def _pieces(trace: Trace) -> list[_Piece]:
    texts = [(trace.reasoning[s.start : s.end], s.category) for s in trace.sentences]
    return [_Piece(t[: len(t) - len(t.lstrip())], t.lstrip(), category) for t, category in texts]


def _joined(trace: Trace, pieces: Sequence[_Piece]) -> Trace:
    """The trace with other pieces; blank ones are dropped."""
    pieces = [p for p in pieces if p.body]
    first = next((p.lead for p in _pieces(trace)), "")
    texts = [(p.lead if i else first) + p.body for i, p in enumerate(pieces)]
    spans = enumerate(pairwise(accumulate(map(len, texts), initial=0)))
    found = zip(pieces, spans, strict=True)
    sentences = tuple(Sentence(i, p.body.strip(), a, b, p.category) for p, (i, (a, b)) in found)
    if (reasoning := "".join(texts)) == trace.reasoning and sentences == trace.sentences:
        return trace
    return dataclasses.replace(trace, reasoning=reasoning, sentences=sentences, id="")


def _filled(body: str, filler: str, length: Callable[[str], int]) -> str:
    wanted, text = length(body), filler
    while abs(length(longer := f"{text} {filler}") - wanted) < abs(length(text) - wanted):
        text = longer
    return text


def _drafted(text: str, most: int) -> str:
    words = text.split()
    if len(words) <= most:
        return text
    content = [w for w in words if not _FUNCTION_WORD.fullmatch(w)] or words
    return _ended(_runs(text) or [" ".join(content[:most])], text)


def _ended(parts: Sequence[str], text: str) -> str:
    """The parts with the full stop or question mark of the text they are from; "" where there are none."""
    end = text[-1:] if text.endswith((".", "?")) else ""
    return ", ".join(parts).rstrip(".,;:?") + end if parts else ""


def _runs(text: str) -> list[str]:
    """The stretches of a text that are mathematics: numbers, operators, and the words next to an operator."""
    words = text.split()
    runs: list[list[str]] = [[]]
    for i, word in enumerate(words):
        near = [w for w in words[max(i - 1, 0) : i] + words[i + 1 : i + 2] if _SYMBOL.fullmatch(w)]
        joins = any(w not in "-\u2212\u2013" or len(word.strip(".,;:?")) == 1 for w in near)
        if formula := (joins or _SYMBOL.fullmatch(word) or _FORMULA.search(word)):
            runs[-1].append(word)
        if not formula or word[-1] in ".,;:?":
            runs.append([])
    found = (_DANGLING.sub("", " ".join(run)) for run in runs)
    return [run for run in found if re.search(r"[0-9]", run) or _RELATION.search(run)]


def _question(trace: Trace, question: str | None) -> tuple[int, int]:
    """Where the question stands in the prompt, as a span of characters."""
    tag = trace.prompt.rfind("<think>")
    top = trace.prompt if tag < 0 or "</think>" in trace.prompt[tag:] else trace.prompt[:tag]
    question = top.strip() if question is None else question
    if not question.strip():
        raise ValueError(f"trace {trace.id} asks nothing before its think tag; give question=... a part of its prompt")
    start = top.rfind(question)
    if start < 0:
        raise ValueError(f"the question {question[:80]!r} is not in the prompt of {trace.id}; give its exact text")
    return start, start + len(question)
