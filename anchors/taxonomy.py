"""The eight categories of reasoning sentences, and three ways to label a trace with them.

1. `label_by_rule` adds up weighted cues in the sentence, its place, the question and the numbers already seen: offline.
2. `label_by_embedding` takes the nearest prototype, the mean embedding of each category in traces you have labelled.
3. `label_by_model` asks a chat model once for the whole trace, as the published labels were made (there by gpt-4o).

`label_report` compares two labellings. Measured against the published labels of two problems by two models (macro-F1
over the eight categories): the rules were tuned on problem 2236 (386 sentences), where they reach 0.67, and tried once
on problem 2238 (409 sentences), where they reach 0.49 (accuracy 0.52; plans and checks are their weak side). Prototypes
fitted on 2236 alone reach 0.59 there and only 0.15 on 2238: sentences of one problem resemble each other by topic, so
fit prototypes on many problems. Trust rule labels for summaries, not for single sentences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from anchors.extras import require
from anchors.similarity import Embed, minilm_embeddings
from anchors.trace import Trace

CATEGORIES: Final[Mapping[str, str]] = {
    "problem_setup": "restates or rephrases the problem",
    "plan_generation": "says what to do next, or decides on an approach",
    "fact_retrieval": "recalls a fact, a formula or a detail of the problem, without computing",
    "active_computation": "calculates, manipulates symbols or works through cases towards the answer",
    "result_consolidation": "sums up what was found so far, or states an intermediate result",
    "uncertainty_management": "expresses doubt or confusion, re-evaluates, or backtracks",
    "final_answer_emission": "states the final answer",
    "self_checking": "verifies an earlier step or confirms that it was right",
}
"""The taxonomy of Thought Anchors (2506.19143, section 3), in the order used by every matrix here."""

_CUES: Final[Mapping[str, Mapping[str, float]]] = {
    "problem_setup": {
        r"\b(?:this|the|a)(?: math)? (?:problem|question)(?: here)?\b.{0,40}\b(?:need|asks?|find|is|where|says)\b": 2.5,
    },
    "plan_generation": {
        r"\b(?:let me|let's|let us|i'll|i will|i need to|i should|we need to|we can|we should)\b": 2.0,
        r"\b(?:count|find|compute|calculate|consider|do|use|try)\b(?! the same)": 1.0,
        r"\b(?:approach|step by step|strategy|plan|break (?:this|it) down|start(?:ing)? (?:by|with)|moving on)\b": 1.5,
        r"^(?:\W*(?:so|now|next|then|first|after that),? )?(?:how|what)\b[^?]*\?$|^\W*(?:next|after that)\b": 1.5,
        r"^\W*(?:now|first|then|similarly|again)\b.*\b(?:count|find|compute|consider|calculate|look)\b": 0.5,
    },
    "fact_retrieval": {
        r"": 1.0,
        r"\b(?:recall|remember|formula|theorem|definition|known|given|property|identity|rule|term|in general)\b": 1.0,
        r"\b(?:each|every|cycles?|goes|go up|only|range|(?:is|are) given|for example|appears? in|such as)\b": 1.0,
        r"\b(?:since|because|where|which (?:is|are)|means that)\b|^\W*(?:the|each|if|in|from)\b": 0.5,
    },
    "active_computation": {
        r"\d[^.?]{0,12}(?:[-+*/×÷^]|\\(?:times|cdot|d?frac|binom|div))[^=]{0,60}=": 1.5,
        r"\b(?:divided by|multipl\w+|subtract\w*|simplif\w+|expand\w*|substitut\w+|plus|minus|comput\w+)\b": 1.0,
        r"=|\b(?:contributes?|(?:that's|so|is|are|have) \d+|\d+ times|full|complete|partial)\b": 1.0,
        r"\d\D+\d+\D+\d": 0.6,
    },
    "result_consolidation": {
        r"^\W*(?:so|therefore|thus|hence|this gives|that means|that gives|combining|overall)\b": 1.5,
        r"\b(?:total|altogether|adding (?:up|these|them|it)|summing|combined|together|summar\w+)\b": 2.0,
        r"\b(?:both|each) (?:have|appear)|\b(?:there are|gives|is) \d+ ": 0.5,
    },
    "uncertainty_management": {
        r"\b(?:wait|hold on|hmm+)\b": 0.5,
        r"^\W*(?:but )?(?:wait|hold on|hmm+)\b.{0,45}$": 2.5,
        r"\b(?:confus\w+|not sure|unsure|conflicting|tricki?\w*|more complex|doesn't (?:add|make|seem)"
        r"|can't be)\b": 2.5,
        r"\b(?:maybe|perhaps|alternatively|seems (?:a bit|quite|off|high|low)|but (?:is|does)|actually|mistake)\b": 1.0,
    },
    "final_answer_emission": {
        r"final answer|\\boxed|\bthe (?:final |correct )?answer (?:is|should|must|to)\b|the correct answer": 6.0,
    },
    "self_checking": {
        r"\b(?:double[- ]?check|re-?check|recount|verify|confirm|let me check|make sure"
        r"|check (?:that|this|again))": 3.5,
        r"\b(?:that|this|it|which|everything|all)(?:'s| is| seems| looks| checks| makes)(?: to be)? "
        r"(?:right|correct|fine|consistent|good|out|sense)\b": 3.5,
        r"^(?:yep|yes|correct|good)\b|\b(?:consistent|another way to (?:check|see)|as (?:before|expected))\b": 3.0,
    },
}
"""Weighted cues of `label_by_rule`; the empty pattern is the category of a sentence that says nothing special."""

_RULES: Final = tuple(
    (list(CATEGORIES).index(category), weight, re.compile(pattern, re.IGNORECASE))
    for category, cues in _CUES.items()
    for pattern, weight in cues.items()
)
_INDEX: Final = {category: index for index, category in enumerate(CATEGORIES)}
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_WORD = re.compile(r"[a-z]{3,}|\d+")
_CHECKING: Final = 1.5
"""Added to self_checking while a check goes on: after a checking sentence, as long as no new number appears."""


def label_by_rule(trace: Trace) -> list[str]:
    """The category of every sentence by weighted cues, without a model.

    A sentence's score in a category is the sum of the weights of its cues. Words shared with the question raise
    problem_setup in the first sentences; repeating only known numbers after a check raises self_checking; concluding
    with the trace's answer in its last fifth raises final_answer_emission. The highest score wins.

    >>> text = "First, let me add them. We have 2 + 3 = 5. The answer is \\\\boxed{5}."
    >>> trace = Trace.from_text("Add 2 and 3.", text)
    >>> label_by_rule(trace)
    ['plan_generation', 'active_computation', 'final_answer_emission']
    """
    question = set(_WORD.findall(trace.prompt.lower()))
    labels: list[str] = []
    seen: set[str] = set()
    checking = False
    for sentence in trace.sentences:
        numbers = set(_NUMBER.findall(sentence.text))
        scores = _cue_scores(sentence.text)
        scores[_INDEX["problem_setup"]] += _setup_bonus(sentence.text, sentence.index, question)
        scores[_INDEX["final_answer_emission"]] += _answer_bonus(trace, sentence.text, sentence.index)
        scores[_INDEX["self_checking"]] += _CHECKING if checking and numbers <= seen else 0.0
        labels.append(list(CATEGORIES)[int(scores.argmax())])
        checking = labels[-1] == "self_checking" or (checking and labels[-1] not in _ENDS_CHECK)
        seen |= numbers
    return labels


_ENDS_CHECK: Final = ("plan_generation", "final_answer_emission", "problem_setup")


def _cue_scores(text: str) -> Float[np.ndarray, " category"]:
    scores = np.zeros(len(CATEGORIES))
    for category, weight, pattern in _RULES:
        if pattern.search(text):
            scores[category] += weight
    return scores


def _setup_bonus(text: str, index: int, question: set[str]) -> float:
    words = set(_WORD.findall(text.lower()))
    shared = len(words & question) / max(1, len(words))
    return 4.0 * shared if index == 0 else 2.0 * shared if index < 6 else 0.0


def _answer_bonus(trace: Trace, text: str, index: int) -> float:
    late = index >= 0.8 * (len(trace) - 1)
    concludes = re.match(r"\W*(?:so|therefore|thus|hence)\b", text, re.IGNORECASE)
    return 3.0 if late and concludes and trace.answer and trace.answer in text else 0.0


@dataclass(frozen=True)
class Prototypes:
    """The mean embedding of each category found in labelled traces; `vectors` are unit length, [category, width]."""

    categories: tuple[str, ...]
    vectors: Float[np.ndarray, "category width"]


def fit_prototypes(traces: Iterable[Trace], *, embed: Embed = minilm_embeddings) -> Prototypes:
    """Prototypes of the categories of labelled traces.

    Raises:
        ValueError: no sentence of the traces has a category.
    """
    labelled = [(s.category, s.text) for trace in traces for s in trace.sentences if s.category is not None]
    if not labelled:
        raise ValueError("no sentence has a category; label the traces first, for example with label_by_model")
    vectors = np.asarray(embed([text for _, text in labelled]))
    names = np.array([category for category, _ in labelled])
    found = tuple(category for category in CATEGORIES if (names == category).any())
    means = np.stack([vectors[names == category].mean(axis=0) for category in found])
    return Prototypes(found, means / np.linalg.norm(means, axis=1, keepdims=True))


def label_by_embedding(trace: Trace, prototypes: Prototypes, *, embed: Embed = minilm_embeddings) -> list[str]:
    """The category whose prototype has the highest cosine with each sentence; `embed` as for `fit_prototypes`."""
    nearest = (np.asarray(embed([s.text for s in trace.sentences])) @ prototypes.vectors.T).argmax(axis=1)
    return [prototypes.categories[int(i)] for i in nearest]


def label_by_model(trace: Trace, ask: Callable[[str], str]) -> list[str]:
    """The categories a chat model gives, from one call for the whole trace; `ask` sends a prompt and returns the reply.

    Raises:
        ValueError: the reply is not a JSON object, misses a sentence, or names an unknown category.
    """
    return _read_labels(ask(label_prompt(trace)), len(trace))


def label_prompt(trace: Trace) -> str:
    """What `label_by_model` asks: the categories, the question, the numbered sentences, and the form of the reply."""
    meanings = "\n".join(f"- {category}: {meaning}" for category, meaning in CATEGORIES.items())
    numbered = "\n".join(f"[{s.index}] {s.text}" for s in trace.sentences)
    return (
        "Below are the numbered sentences of a reasoning trace. Give each sentence the one category that says what it "
        f"does in the reasoning.\n\nCategories:\n{meanings}\n\nQuestion:\n{trace.prompt}\n\nSentences:\n{numbered}\n\n"
        f"Reply with one JSON object from sentence number to category, for all of 0 to {len(trace) - 1}, and nothing "
        'else: {"0": "problem_setup", ...}'
    )


def _read_labels(reply: str, size: int) -> list[str]:
    start, end = reply.find("{"), reply.rfind("}")
    try:
        found = json.loads(reply[start : end + 1]) if start >= 0 else None
    except json.JSONDecodeError as error:
        raise ValueError(f"the model's reply is not JSON ({error.msg}): {reply[:120]!r}; ask again") from error
    if not isinstance(found, dict):
        raise ValueError(f"the model's reply holds no JSON object: {reply[:120]!r}; ask again")
    missing = [i for i in range(size) if str(i) not in found]
    if missing:
        raise ValueError(
            f"the model gave no category for sentence {missing[0]} ({len(missing)} of {size} missing); ask again"
        )
    unknown = [(i, found[str(i)]) for i in range(size) if found[str(i)] not in list(CATEGORIES)]
    if unknown:
        raise ValueError(f"sentence {unknown[0][0]} got {unknown[0][1]!r}; it must be one of {', '.join(CATEGORIES)}")
    return [found[str(i)] for i in range(size)]


def chat_endpoint(
    base_url: str, model: str, *, api_key: str | None = None, timeout: float = 120.0
) -> Callable[[str], str]:
    """A function that asks an OpenAI-compatible `/chat/completions` at temperature 0; needs the extra `server`.

    Raises (when asked):
        ValueError: the server refused; the message holds its status and what it said.
    """
    httpx = require("httpx", extra="server")
    url = f"{base_url.rstrip('/')}/chat/completions"
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def ask(prompt: str) -> str:
        body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
        reply = httpx.post(url, json=body, headers=headers, timeout=timeout)
        if reply.status_code != 200:
            raise ValueError(f"{url} answered {reply.status_code}: {reply.text[:200]}; check the URL, model and key")
        return reply.json()["choices"][0]["message"]["content"]

    return ask


class LabelReport(NamedTuple):
    """Agreement of two labellings; `confusion` counts [actual, predicted] in the order of `CATEGORIES`."""

    macro_f1: float
    accuracy: float
    precision: dict[str, float]
    recall: dict[str, float]
    f1: dict[str, float]
    confusion: Int[np.ndarray, "category category"]


def label_report(predicted: Sequence[str], actual: Sequence[str]) -> LabelReport:
    """Precision, recall and F1 = 2PR / (P + R) of each category, and their mean over the categories in `actual`.

    A category that is never predicted has precision NaN and F1 0; one absent from `actual` has recall and F1 NaN.

    Raises:
        ValueError: the lengths differ, nothing is given, or a label is not a category.
    """
    if len(predicted) != len(actual) or not actual:
        raise ValueError(
            f"{len(predicted)} predicted labels for {len(actual)} actual ones; give equally many, at least one"
        )
    unknown = sorted({*predicted, *actual} - set(CATEGORIES))
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a category; use one of {', '.join(CATEGORIES)}")
    confusion = np.zeros((len(CATEGORIES), len(CATEGORIES)), dtype=int)
    np.add.at(confusion, ([_INDEX[label] for label in actual], [_INDEX[label] for label in predicted]), 1)
    hits, said, there = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        precision, recall = hits / said, hits / there
        f1 = np.where(there > 0, 2 * hits / (said + there), np.nan)
    accuracy = float(hits.sum() / len(actual))
    return LabelReport(float(np.nanmean(f1)), accuracy, _named(precision), _named(recall), _named(f1), confusion)


def _named(column: Float[np.ndarray, " category"]) -> dict[str, float]:
    return dict(zip(CATEGORIES, map(float, column), strict=True))
