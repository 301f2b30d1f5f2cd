"""What the report says: plain records and sentences from a trace and its scores.

1. Anchors come from the scores' own false-discovery rule; a method without p-values marks its top three and says so.
2. Only numbers and alternatives go to the script as data; every text of the trace is in the page once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anchors.comparison import Agreement, agreement
from anchors.interventions import leak
from anchors.report.drawing import HUGE, Scale, axis, clean, number
from anchors.scores import Scores
from anchors.stats import benjamini_hochberg_adjusted
from anchors.trace import Trace

FDR = 0.05
LISTED = 30  # sentences named one by one


class Anchors(NamedTuple):
    """The marked sentences of one method, as a set too, and whether a false-discovery rule chose them."""

    sentences: list[int]
    places: frozenset[int]
    tested: bool


def marked(scores: Scores) -> Anchors:
    """`scores.anchors()` where the method has p-values, else its top three."""
    tested = not np.isnan(scores.p).all()
    found = scores.anchors(fdr=FDR) if tested else scores.top(3)
    return Anchors(found, frozenset(found), tested)


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


def agreement_table(scores: Sequence[Scores]) -> list[list[tuple[tuple[str, str], tuple[str, str]]]]:
    """For every pair of methods, Spearman's correlation and the one with position held constant, with their intervals."""
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


def _correlation(value: float, low: float, high: float, n: int) -> tuple[str, str]:
    """A correlation, and its interval with n."""
    if math.isnan(value):
        return "not defined", f"n = {n}"
    return f"{value:+.2f}".replace("-", "−"), f"[{low:+.2f}, {high:+.2f}] n = {n}".replace("-", "−")


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
        "unit": clean(scores.unit) or "none stated",
        "measured": f"{int(scores.measured.sum())} of {len(scores)} sentences",
        "n": n,
        "tested": f"{tested} sentences, Benjamini-Hochberg at {FDR:.0%}" if tested else "no p-values",
    }
    if not scores.measured.all():
        facts["not measured"] = _listed(np.flatnonzero(~scores.measured))
    return [*facts.items(), *flat({k: v for k, v in scores.details.items() if k != "warnings"})]


def _listed(sentences: np.ndarray) -> str:
    more = f" and {len(sentences) - LISTED} more" if len(sentences) > LISTED else ""
    return f"sentences {', '.join(map(str, sentences[:LISTED]))}{more}"


def leaks(trace: Trace) -> list[bool]:
    """Which sentences state the answer or the target; none where the trace has neither."""
    if not any((a or "").strip() for a in (trace.answer, trace.target)):
        return [False] * len(trace)
    return [bool(said) for said in leak(trace)]


def flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested record as (name, value) pairs of text."""
    rows = []
    for key, value in record.items():
        name = clean(f"{prefix}{key}")
        if isinstance(value, Mapping):
            rows += flat(value, f"{name} · ")
        elif isinstance(value, list | tuple | set):
            items = [_said(item) for item in value]
            more = f"; and {len(items) - LISTED} more" if len(items) > LISTED else ""
            rows.append((name, f"{'; '.join(items[:LISTED])}{more}" or "none"))
        else:
            rows.append((name, _said(value)))
    return rows


def _said(value: object) -> str:
    """A setting in words, a computed number to four digits."""
    if isinstance(value, float):
        return "not measured" if math.isnan(value) else f"{value:.4g}"
    return clean(str(value))


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
        "q": rounded(benjamini_hochberg_adjusted(scores.p)),
        "floor": rounded(scores.floor),
        "anchors": found.sentences,
        "tested": found.tested,
        "scale": [scale.low, scale.high],
        "legend": legend(scale),
        "axis": [*map(float, axis(scores))],
    }


def legend(scale: Scale) -> list[str]:
    """The labels under the colour bar: at its left end, middle and right end."""
    if scale.diverging:
        return [number(-scale.high, signed=True), "0", number(scale.high, signed=True)]
    return ["", number(scale.low), number(scale.high)]


def rounded(values: np.ndarray) -> list[float | None]:
    """Five significant digits; None for NaN, and infinities as numbers JSON can carry."""
    return [None if math.isnan(v) else float(f"{min(max(v, -10 * HUGE), 10 * HUGE):.5g}") for v in map(float, values)]
