"""What the reader makes of the trace when it is corrupted, replaced or moved (T4), and how it recovers.

1. Every way to show a trace is one intervention; the outcome is read after each.
2. Contrasts are differences of two of them, tested over traces, Holm over the family.
3. Recovery: a number of an anchor is altered, the reader goes on from there, and its answer says what it did. The same
   from the unaltered prefix is the baseline: slips and second thoughts that no altered number caused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from anchors.answers import NO_ANSWER, extract_answer
from anchors.interventions import (
    Edit,
    alter_numbers,
    answer_only,
    count_numbers,
    delete,
    draft,
    fill,
    invalid_steps,
    keep,
    paraphrase,
    place,
    shuffle_sentences,
    strip_answer,
    swap_reasoning,
)
from anchors.models.base import Job
from anchors.outcomes import judge
from anchors.stats import holm_adjusted
from anchors.trace import Trace
from anchors.transfer.measure import about_text
from anchors.transfer.results import Contrast, Controls
from anchors.transfer.retention import mean_over_traces

CONTRASTS: Final = {
    "scaffold": ("full", "none"),
    "content": ("full", "swapped"),
    "order": ("full", "shuffled"),
    "length": ("filler", "none"),
    "leak": ("answer only", "none"),
    "stripped": ("full", "stripped"),
    "paraphrase": ("full", "paraphrased"),
    "anchor specificity": ("numbers altered in controls", "numbers altered in anchors"),
    "necessity": ("full", "without anchors"),
    "sufficiency": ("anchors only", "none"),
}
RECOVERY: Final = ("copied", "explicit", "silent")
_DOUBT = re.compile(r"\b(wait|mistake|wrong|error|incorrect|again|correct(?:ion|ed)|should be|actually)\b", re.I)


def corruptions(
    trace: Trace,
    *,
    anchors: Sequence[int],
    controls: Sequence[int],
    others: Sequence[Trace],
    answer: str,
    length: Callable[[str], int],
    how: Callable[[str], str] | None = None,
    seed: int = 0,
) -> dict[str, Edit]:
    """Every way this trace can be shown; one that does not apply to it is left out.

    `anchors` are those that support the answer (those against it would cancel them); `controls` one matched set of theirs.
    """
    others_of = [i for i in range(len(trace)) if i not in anchors]
    ways: dict[str, Callable[[], Trace]] = {
        "none": lambda: keep(trace, []),
        "full": lambda: trace,
        "shuffled": lambda: shuffle_sentences(trace, seed=seed),
        "numbers altered": lambda: alter_numbers(trace, seed=seed),
        "numbers altered in anchors": lambda: alter_numbers(trace, sentences=_numbered(trace, anchors), seed=seed),
        "numbers altered in others": lambda: alter_numbers(trace, sentences=_numbered(trace, others_of), seed=seed),
        "numbers altered in controls": lambda: alter_numbers(trace, sentences=_numbered(trace, controls), seed=seed),
        "invalid steps": lambda: invalid_steps(trace, rate=0.5, seed=seed),
        "swapped": lambda: swap_reasoning(trace, others, length=length),
        "filler": lambda: fill(trace, length=length),
        "answer only": lambda: answer_only(trace, answer=answer),
        "stripped": lambda: strip_answer(trace, answers=(answer,)),
        "draft": lambda: draft(trace),
        "without anchors": lambda: delete(trace, _some(anchors)),
        "anchors only": lambda: keep(trace, _some(anchors)),
        "before the question": lambda: place(trace, "before"),
        "after the question": lambda: place(trace, "after"),
        "quoted": lambda: place(trace, "quoted"),
    }
    if how is not None:
        ways["paraphrased"] = lambda: paraphrase(trace, range(len(trace)), how)
    return {name: Edit(edited) for name, make in ways.items() if (edited := _possible(make)) is not None}


def _some(sentences: Sequence[int]) -> Sequence[int]:
    if not sentences:
        raise ValueError("no anchor of this trace supports the answer")
    return sentences


def _numbered(trace: Trace, sentences: Sequence[int]) -> list[int]:
    found = [i for i in sentences if count_numbers(trace.sentences[i].text)]
    if not found:
        raise ValueError("none of these sentences has a number to alter")
    return found


def _possible(make: Callable[[], Trace]) -> Trace | None:
    """The edited trace, or None where the intervention says it does not apply (no numbers, no other trace)."""
    try:
        return make()
    except ValueError:
        return None


def compare_controls(
    outcomes: Sequence[dict[str, float]], recovery: Sequence[str], *, unaltered: Sequence[str] = ()
) -> Controls | None:
    """Means and contrasts over traces; a trace enters a contrast where both sides were measured."""
    if not outcomes:
        return None
    names = list(dict.fromkeys(name for row in outcomes for name in row))
    columns = {name: np.array([row.get(name, np.nan) for row in outcomes]) for name in names}
    differences = {
        name: mean_over_traces(columns[a] - columns[b])
        for name, (a, b) in CONTRASTS.items()
        if a in columns and b in columns
    }
    adjusted = holm_adjusted([mean.p for mean in differences.values()])
    contrasts = [
        Contrast(name, " - ".join(CONTRASTS[name]), mean, float(p))
        for (name, mean), p in zip(differences.items(), adjusted, strict=True)
    ]
    means = {name: mean_over_traces(column) for name, column in columns.items()}
    return Controls(means, tuple(contrasts), _class_shares(recovery), _class_shares(unaltered))


def _class_shares(found: Sequence[str]) -> dict[str, float]:
    counts = Counter(found)
    return {kind: counts[kind] / len(found) for kind in RECOVERY} if found else {}


def recovery_classes(
    trace: Trace, reader: Any, *, anchors: Sequence[int], answer: str, n: int, seed: int, altered: bool = True
) -> list[str]:
    """What each of n continuations does after the numbers of the first anchor that has some were altered, or were not.

    The reader goes on from that sentence. "copied": any other answer (ordinary slips among them); "silent": the
    right answer; "explicit": the right answer after words of doubt or correction. Continuations without an answer are
    left out.
    """
    numbered = [i for i in anchors if count_numbers(trace.sentences[i].text)]
    if not numbered:
        return []
    prefix = keep(trace, range(numbered[0] + 1))
    prefix = alter_numbers(prefix, sentences=[numbered[0]], seed=seed) if altered else prefix
    text = prefix.prompt + prefix.reasoning
    jobs = [Job(text, len(text), f"{trace.id} recovery", numbered[0], s) for s in range(n)]
    with about_text(reader, [text]):
        drawn = list(reader.generate(jobs, sampling=reader.sampling, seed=seed))
    return [kind for _, completion in drawn if (kind := _recovery(completion.text, answer))]


def _recovery(text: str, answer: str) -> str:
    found = extract_answer(text)
    if found is None or found == NO_ANSWER:
        return ""
    if not judge([found], answer)[0]:
        return "copied"
    return "explicit" if _DOUBT.search(text) else "silent"
