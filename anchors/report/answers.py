"""Answers of a trace's rollouts, and what they wrote instead of a sentence, grouped by meaning.

1. Answers are classes (`answer_classes`); the trace's own answer comes first, `NO_ANSWER` last, rare ones are "other".
2. Alternatives are the first sentences of the rollouts that continue a boundary.
3. They are grouped around leaders: first the trace's own sentence, then the most frequent text that no leader means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from anchors.answers import NO_ANSWER, answer_classes, same_answer
from anchors.outcomes import first_sentence
from anchors.report.content import clip
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.similarity import Similarity, default_similarity, lexical

SHOWN_ANSWERS = 5
NO_ANSWER_LABEL, OTHER_LABEL = "no answer", "other"
ALTERNATIVES = 600  # alternatives in one report: keeps a 150-sentence page under 1 MB
GROUPS = 6  # meanings of one sentence; the rest is one group
SENTENCE_CHARACTERS = 150  # of an alternative
SEARCHED_CHARACTERS = 2000  # of a rollout, for its first sentence
STOPPED = "(stopped reasoning)"
SAME, OTHER, REST = 0, 1, 2  # kinds of group


class Answers:
    """The answers of a trace's rollouts: classes to show, counts at every boundary, alternatives of every sentence."""

    def __init__(self, rollouts: Rollouts, *, found: Sequence[Sequence[str]] | None = None) -> None:
        self.rollouts, self.own = rollouts, rollouts.trace.answer
        read = [rollouts.answers(k) for k in range(len(rollouts.trace) + 1)] if found is None else found
        self.found = [list(row) for row in read]
        distinct = Counter(answer for row in self.found for answer in row)
        self._class = _classes(distinct, self.own)
        sizes = Counter[str]()
        for answer, count in distinct.items():
            sizes[self._class[answer]] += count
        sizes.pop(NO_ANSWER, None)
        first = [self.own] if self.own in sizes else []
        ranked = first + [a for a, _ in sizes.most_common() if a != self.own]
        self.kept = ranked[:SHOWN_ANSWERS] if len(ranked) > SHOWN_ANSWERS + len(first) else ranked

    @cached_property
    def labels(self) -> list[str]:
        """The shown answers, then "other" and "no answer"."""
        return [clip(a, 40) or "(blank)" for a in self.kept] + [OTHER_LABEL, NO_ANSWER_LABEL]

    @cached_property
    def colours(self) -> list[int]:
        """The colour of every label: 0 is the own answer and no other, 6 other answers, 7 no answer."""
        start = 0 if self.own in self.kept else 1
        return [*range(start, start + len(self.kept)), 6, 7]

    def shown(self, answer: str) -> int:
        """The index in `labels` of an answer."""
        if answer == NO_ANSWER:
            return len(self.kept) + 1
        known = self._class[answer]
        return self.kept.index(known) if known in self.kept else len(self.kept)

    @cached_property
    def counts(self) -> Int[np.ndarray, "boundary answer"]:
        """How often each shown answer was reached from each boundary."""
        counts = np.zeros((len(self.found), len(self.labels)), dtype=int)
        for k, row in enumerate(self.found):
            for answer in row:
                counts[k, self.shown(answer)] += 1
        return counts

    def reaches(self, boundary: int, answer: str) -> str | None:
        """The share of rollouts of a boundary that reach an answer, in words; None without rollouts."""
        row = self.found[boundary]
        if not row:
            return None
        hits, answered = (
            sum(found) / len(row) for found in ((same_answer(a, answer) for a in row), (a != NO_ANSWER for a in row))
        )
        return f"{hits:.2f} (answered {answered:.2f}, n = {len(row)})"

    def alternatives(self, similarity: Similarity) -> list[list[Any]]:
        """For every sentence its groups by meaning: [kind, rollouts, answers, [[first sentence, rollouts, answers], ...]].

        Answers are label, count, label, count, ... in falling order. Texts are by frequency, as many as fit in a report.
        """
        each = max(4, min(40, ALTERNATIVES // len(self.rollouts.trace)))
        return [self._meanings(k, similarity, each) for k in range(len(self.rollouts.trace))]

    def _meanings(self, k: int, similarity: Similarity, each: int) -> list[list[Any]]:
        texts: dict[str, Counter[int]] = {}
        for rollout, answer in zip(self.rollouts.at(k), self.found[k], strict=True):
            texts.setdefault(_opening(rollout.text), Counter())[self.shown(answer)] += 1
        groups = group_by_meaning(self.rollouts.trace.sentences[k].text, texts, similarity)
        total = sum(counts.total() for counts in texts.values())
        return [_group(kind, {text: texts[text] for text in members}, each / total) for kind, members in groups]


def group_by_meaning(
    sentence: str, texts: Mapping[str, Counter[int]], similarity: Similarity
) -> list[tuple[int, list[str]]]:
    """(kind, texts) of every meaning: SAME as the sentence first, then OTHER ones by rollouts, then the REST in one."""
    left = sorted(texts, key=lambda text: -texts[text].total())
    groups: list[tuple[int, list[str]]] = []
    leader: str | None = sentence
    while leader is not None and len(groups) < GROUPS:
        members = _same(leader, left, similarity)
        if members:
            groups.append((SAME if leader is sentence else OTHER, members))
        gone = set(members)
        left = [text for text in left if text not in gone]
        leader = left[0] if left else None
    order = sorted(groups, key=lambda group: (group[0], -sum(texts[t].total() for t in group[1])))
    return [*order, (REST, left)] if left else order


def _same(leader: str, texts: Sequence[str], similarity: Similarity) -> list[str]:
    """The texts that mean what the leader means, itself included; nothing said means only itself."""
    others = [text for text in texts if text not in (leader, STOPPED)]
    alike = similarity.same(leader, others) if others and leader != STOPPED else np.zeros(len(others), dtype=bool)
    said = {text for text, same in zip(others, alike, strict=True) if same}
    return [text for text in texts if text == leader or text in said]


def _group(kind: int, texts: Mapping[str, Counter[int]], share: float) -> list[Any]:
    """One group as JSON data; of its texts at least one, and as many as its rollouts are worth."""
    counts = sum(texts.values(), Counter[int]())
    shown = list(texts.items())[: max(1, round(share * counts.total()))]
    return [kind, counts.total(), _flat(counts), [[text, own.total(), _flat(own)] for text, own in shown]]


def _flat(counts: Counter[int]) -> list[int]:
    return [number for pair in counts.most_common() for number in pair]


def similarity_of(scores: Sequence[Scores]) -> Similarity:
    """The measure of likeness the scores used, else the default one."""
    named = next((s.details["similarity"] for s in scores if "similarity" in s.details), None)
    return lexical() if named == "lexical" else default_similarity()


def _classes(distinct: Mapping[str, int], own: str | None) -> dict[str, str]:
    """Every answer's class, named by the trace's own answer or else by its most frequent member."""
    spellings = [*([] if own is None else [own]), *sorted(distinct, key=lambda a: -distinct[a])]
    return dict(zip(spellings, answer_classes(spellings), strict=True))


def _opening(text: str) -> str:
    return clip(first_sentence(text[:SEARCHED_CHARACTERS]), SENTENCE_CHARACTERS) or STOPPED
