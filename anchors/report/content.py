"""What the report says: plain records and sentences from a trace, its scores and its rollouts.

1. Anchors come from the scores' own false-discovery rule; a method without p-values marks its top three and says so.
2. Answers are classes (`answer_classes`); the trace's own answer comes first, `NO_ANSWER` last, rare ones are "other".
3. Alternatives are the first sentences of the rollouts that continue a boundary, grouped by the answer they ended in.
4. Only numbers and alternatives go to the script as data; every text of the trace is in the page once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from anchors.answers import NO_ANSWER, answer_classes, same_answer
from anchors.comparison import Agreement, agreement
from anchors.outcomes import first_sentence
from anchors.report.drawing import HUGE, Scale, clean, number, packed
from anchors.rollouts import Rollouts
from anchors.scores import Scores

FDR = 0.05
SHOWN_ANSWERS = 5
NO_ANSWER_LABEL, OTHER_LABEL = "no answer", "other"
ALTERNATIVES = 2400  # alternatives in one report: keeps a 150-sentence page under 1 MB
SENTENCE_CHARACTERS = 200  # of an alternative
SEARCHED_CHARACTERS = 2000  # of a rollout, for its first sentence


class Anchors(NamedTuple):
    """The marked sentences of one method, and whether a false-discovery rule chose them."""

    sentences: list[int]
    tested: bool


def marked(scores: Scores) -> Anchors:
    """`scores.anchors()` where the method has p-values, else its top three."""
    if np.isnan(scores.p).all():
        return Anchors(scores.top(3), tested=False)
    return Anchors(scores.anchors(fdr=FDR), tested=True)


def labels(scores: Sequence[Scores]) -> list[str]:
    """One readable, unique name a method."""
    names, seen = [s.method.replace("_", " ").replace(" kl", " KL") for s in scores], Counter[str]()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(clean(name if seen[name] == 1 else f"{name} ({seen[name]})"))
    return unique


def listed(items: Iterable[object]) -> str:
    """A, B and C."""
    words = [str(item) for item in items]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def lead(scores: Scores, label: str, *, answer: str | None) -> str:
    """The one sentence at the top: which sentences are anchors, of what, under which method."""
    found, goal = marked(scores), _goal(scores, answer)
    if not scores.measured.any():
        return f"No sentence was measured under {label}."
    if not found.tested:
        best = "Sentence {} has" if len(found.sentences) == 1 else "Sentences {} have"
        ranking = f"{best.format(listed(sorted(found.sentences)))} the highest {label} of {len(scores)}"
        return f"{ranking}; the method has no p-values, so these are a ranking, not tested anchors."
    if not found.sentences:
        return f"No sentence is an anchor of {goal} under {label} at a false-discovery rate of {FDR:.0%}."
    best = sorted(found.sentences, key=lambda i: -abs(scores.values[i]))
    shown = sorted(best[:6])
    more = f" The six strongest are named; {len(best)} are marked." if len(best) > 6 else ""
    plural = "Sentence {} is an anchor" if len(shown) == 1 else "Sentences {} are anchors"
    against = [i for i in shown if scores.values[i] < 0]
    sign = f"; {listed(against)} work{'s' if len(against) == 1 else ''} against it" if against else ""
    return f"{plural.format(listed(shown))} of {goal} under {label} (false-discovery rate {FDR:.0%}){sign}.{more}"


def _goal(scores: Scores, answer: str | None) -> str:
    words = clip(str(scores.details.get("outcome", "")), 80)
    if words and not words.startswith("own answer"):
        return f"the outcome ({words})"
    return f"the trace's answer {clip(answer, 60)}" if answer else "the outcome"


def clip(text: str | None, length: int) -> str:
    """Clean text of at most `length` characters, white space collapsed."""
    words = " ".join(clean(text or "").split())
    return words if len(words) <= length else words[: length - 1] + "…"


class Answers:
    """The answers of a trace's rollouts: classes to show, counts at every boundary, alternatives of every sentence."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts, self.own = rollouts, rollouts.trace.answer
        self.found = [rollouts.answers(k) for k in range(len(rollouts.trace) + 1)]
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

    def alternatives(self) -> list[list[Any]]:
        """For every sentence, [answer label, rollouts, [[first sentence, times], ...]] by frequency."""
        each = max(3, min(40, ALTERNATIVES // len(self.rollouts.trace)))
        return [self._groups(k, each) for k in range(len(self.rollouts.trace))]

    def _groups(self, k: int, each: int) -> list[Any]:
        groups: dict[int, Counter[str]] = {}
        for rollout, answer in zip(self.rollouts.at(k), self.found[k], strict=True):
            groups.setdefault(self.shown(answer), Counter())[_opening(rollout.text)] += 1
        ranked = sorted(groups.items(), key=lambda item: -item[1].total())
        return [
            [g, texts.total(), [list(t) for t in texts.most_common(max(1, each * texts.total() // len(self.found[k])))]]
            for g, texts in ranked
        ]


def _classes(distinct: Mapping[str, int], own: str | None) -> dict[str, str]:
    """Every answer's class, named by the trace's own answer or else by its most frequent member."""
    spellings = [*([] if own is None else [own]), *sorted(distinct, key=lambda a: -distinct[a])]
    return dict(zip(spellings, answer_classes(spellings), strict=True))


def _opening(text: str) -> str:
    return clip(first_sentence(text[:SEARCHED_CHARACTERS]), SENTENCE_CHARACTERS) or "(stopped reasoning)"


def agreement_table(scores: Sequence[Scores]) -> list[list[tuple[str, str]]]:
    """For every pair of methods, Spearman's correlation and the one with position held constant, as text."""
    if len(scores) < 2:
        return []
    table = agreement(scores)
    return [
        [(_correlation(*_cell(table, i, j, "")), _correlation(*_cell(table, i, j, "partial_"))) for j in range(i)]
        for i in range(len(scores))
    ]


def _cell(table: Agreement, i: int, j: int, prefix: str) -> tuple[float, float, float, int]:
    value = table.value if not prefix else table.partial
    return (
        float(value[i, j]),
        float(getattr(table, f"{prefix}low")[i, j]),
        float(getattr(table, f"{prefix}high")[i, j]),
        int(table.n[i, j]),
    )


def _correlation(value: float, low: float, high: float, n: int) -> str:
    if math.isnan(value):
        return f"not defined (n = {n})"
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}], n = {n}".replace("-", "−")


def provenance(scores: Scores) -> list[tuple[str, str]]:
    """How one method's numbers were made, as (name, value) pairs of text."""
    counts = scores.n[scores.measured]
    n = (
        f"{counts.min()} to {counts.max()} a sentence"
        if counts.size and counts.min() < counts.max()
        else f"{counts.max(initial=0)} a sentence"
    )
    tested = int((~np.isnan(scores.p)).sum())
    facts = {
        "unit": scores.unit or "none stated",
        "measured": f"{int(scores.measured.sum())} of {len(scores)} sentences",
        "n": n,
        "tested": f"{tested} sentences, Benjamini-Hochberg at {FDR:.0%}" if tested else "no p-values",
    }
    return [*facts.items(), *_flat({k: v for k, v in scores.details.items() if k != "warnings"})]


def _flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in record.items():
        name = clean(f"{prefix}{key}")
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name} · ")
        elif isinstance(value, list | tuple | set):
            rows.append((name, clean("; ".join(map(str, value))) or "none"))
        else:
            rows.append((name, clean(str(value))))
    return rows


def record(scores: Scores, label: str) -> dict[str, Any]:
    """One method as JSON data for the script."""
    scale, found = Scale.of(scores.values), marked(scores)
    return {
        "label": label,
        "unit": clean(scores.unit),
        "values": rounded(scores.values),
        "low": rounded(scores.low),
        "high": rounded(scores.high),
        "n": [int(n) for n in scores.n],
        "p": rounded(scores.p),
        "floor": rounded(scores.floor),
        "anchors": found.sentences,
        "tested": found.tested,
        "scale": [scale.low, scale.high],
        "legend": legend(scale),
        "matrix": None if scores.matrix is None else packed(scores.matrix),
    }


def legend(scale: Scale) -> list[str]:
    """The labels under the colour bar: at its left end, middle and right end."""
    if scale.diverging:
        return [number(-scale.high, signed=True), "0", number(scale.high, signed=True)]
    return ["", number(scale.low), number(scale.high)]


def rounded(values: np.ndarray) -> list[float | None]:
    """Five significant digits; None for NaN, and infinities as numbers JSON can carry."""
    return [None if math.isnan(v) else float(f"{min(max(v, -10 * HUGE), 10 * HUGE):.5g}") for v in map(float, values)]
