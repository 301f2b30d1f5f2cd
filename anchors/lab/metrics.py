"""How close a completion comes to the gold one, part by part, as DataAlchemy measures it (2508.01191).

1. A completion is reasoning, ``</think>`` and an answer sentence. Its parts are the whole chain, the reasoning before
   ``\\n</think>`` (all of it where that is missing), and what `extract_answer` finds ("" where it finds nothing).
2. Exact match: 1 for equal parts, else 0.
3. Edit: Levenshtein distance in characters, divided by the longer length.
4. BLEU over words (split at white space) with equal weights and smoothing method 1 (epsilon 0.1). Where the shorter
   part has n < 4 words, n-grams up to n count instead of up to 4, so that equal short parts reach 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from anchors.answers import extract_answer
from anchors.extras import require

ORDER = 4
"""The longest n-grams BLEU counts."""


class Segment(NamedTuple):
    """One metric on the whole chain, on the reasoning and on the answer."""

    chain: float
    reasoning: float
    answer: float


class Comparison(NamedTuple):
    """`exact` is 0 or 1 (in a mean, a share), `edit` runs from 0 (equal) to 1, `bleu` from 0 to 1 (equal)."""

    exact: Segment
    edit: Segment
    bleu: Segment


def compare_completions(found: str, gold: str) -> Comparison:
    """Exact match, edit distance / longer length, and BLEU of a completion against the gold one; needs the extra `lab`.

    Two empty parts are equal, so two missing answers match; an empty part against another has edit 1 and BLEU 0.

    >>> compare_completions("So 3.\\n</think>\\nThe answer is 3.", "So 4.\\n</think>\\nThe answer is 3.").exact
    Segment(chain=0.0, reasoning=0.0, answer=1.0)
    """
    pairs = list(zip(_parts(found), _parts(gold), strict=True))
    metrics = (float(a == b) for a, b in pairs), (_edit(a, b) for a, b in pairs), (_bleu(a, b) for a, b in pairs)
    return Comparison(*(Segment(*values) for values in metrics))


def mean_comparison(pairs: Iterable[tuple[str, str]]) -> Comparison:
    """The mean of every figure of `compare_completions` over pairs (found, gold).

    Raises:
        ValueError: there are no pairs.
    """
    compared = [compare_completions(found, gold) for found, gold in pairs]
    if not compared:
        raise ValueError("there are no pairs to compare; give at least one (found, gold)")
    means = np.mean(compared, axis=0)  # [metric, part]
    return Comparison(*(Segment(*map(float, row)) for row in means))


def _parts(completion: str) -> tuple[str, str, str]:
    return completion, completion.split("\n</think>")[0], extract_answer(completion) or ""


def _edit(found: str, gold: str) -> float:
    return require("rapidfuzz", extra="lab").distance.Levenshtein.normalized_distance(found, gold)


def _bleu(found: str, gold: str) -> float:
    words, reference = found.split(), gold.split()
    order = min(ORDER, len(words), len(reference))
    if order == 0:
        return float(words == reference)
    bleu = require("nltk", extra="lab").translate.bleu_score
    smoothing = bleu.SmoothingFunction(epsilon=0.1).method1
    return float(bleu.sentence_bleu([reference], words, [1 / order] * order, smoothing))
