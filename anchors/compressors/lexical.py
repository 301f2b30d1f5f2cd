"""Compressors that look at the words alone: rules for drafts and equations, and standard text statistics.

1. Word rules: `draft` and `equations` keep the words that the interventions of these names leave.
2. `answer_line` keeps the last sentence that states the answer: what leaks, and nothing else.
3. Text statistics: `bm25` against the question, `gzip` novelty, `centroid` closeness to the whole trace.
4. `category` keeps computation before talk, and doubt and checks last (an approximation of Prune-on-Logic 2505.14582,
   whose graph of steps needs a language model).
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import groupby
from typing import Final

import numpy as np
from jaxtyping import Float

from anchors import interventions
from anchors.compressors.base import Context, compressor, split_words
from anchors.taxonomy import label_by_rule
from anchors.trace import Trace

K1, B, NGRAM = 1.5, 0.75, 3
RANKS: Final = {
    "active_computation": 4.0,
    "result_consolidation": 3.0,
    "final_answer_emission": 3.0,
    "fact_retrieval": 2.0,
    "problem_setup": 1.0,
    "plan_generation": 1.0,
    "uncertainty_management": 0.0,
    "self_checking": 0.0,
}
"""Order in which `category` keeps sentences."""

_TERM = re.compile(r"\w+")


@compressor("draft", unit="word")
def draft(ctx: Context) -> Float[np.ndarray, " word"]:
    """1 for the words that `interventions.draft` keeps (equations and numbers, or five content words), 0 for others.

    The words a draft drops come last, so that a budget the draft leaves unused is used.
    """
    return _kept_words(ctx.trace, interventions.draft, otherwise=0.0)


@compressor("equations", unit="word")
def equations(ctx: Context) -> Float[np.ndarray, " word"]:
    """1 for the words of equations, by `interventions.equations_only`; others are never kept (-inf).

    A budget above the length of the equations therefore stays unused.
    """
    return _kept_words(ctx.trace, interventions.equations_only, otherwise=-np.inf)


def _kept_words(trace: Trace, rule: Callable[[Trace], Trace], *, otherwise: float) -> Float[np.ndarray, " word"]:
    """1 for the words that a rule leaves in their sentence, found again by the longest matching blocks."""
    scores: list[float] = []
    for i, group in groupby(split_words(trace), key=lambda word: word.sentence):
        words = [_bare(trace.reasoning[word.start : word.end]) for word in group]
        left = [_bare(word) for word in rule(interventions.keep(trace, [i])).reasoning.split()]
        own = np.full(len(words), otherwise)
        for a, _, size in SequenceMatcher(None, words, left, autojunk=False).get_matching_blocks():
            own[a : a + size] = 1.0
        scores += own.tolist()
    return np.array(scores, dtype=float)


def _bare(word: str) -> str:
    """A word without the punctuation after it, which a rule may change."""
    return word.strip().rstrip(".,;:?") or word.strip()


@compressor("answer_line", unit="sentence", needs="answer")
def answer_line(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """1 for the last sentence that states the answer; every other one is never kept (-inf)."""
    said = interventions.leak(replace(ctx.trace, answer=None, target=None), answers=ctx.answer)
    scores = np.full(len(ctx.trace), -np.inf)
    scores[np.flatnonzero(said)[-1:]] = 1.0
    return scores


@compressor("bm25", unit="sentence")
def bm25(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """BM25 of each sentence against the prompt, the sentences being the collection (Robertson and Zaragoza 2009).

    sum over the prompt's terms of ln(1 + (N - df + 1/2) / (df + 1/2)) tf (k1 + 1) / (tf + k1 (1 - b + b l / mean l)),
    with k1 = 1.5 and b = 0.75.
    """
    query = set(_terms(ctx.trace.prompt))
    bags = [Counter(_terms(s.text)) for s in ctx.trace.sentences]
    lengths = np.array([bag.total() for bag in bags], dtype=float)
    shape = K1 * (1 - B + B * lengths / max(lengths.mean(), 1.0))
    scores = np.zeros(len(bags))
    for term in sorted(query):
        tf = np.array([bag[term] for bag in bags], dtype=float)
        df = int((tf > 0).sum())
        scores += math.log(1 + (len(bags) - df + 0.5) / (df + 0.5)) * tf * (K1 + 1) / (tf + shape)
    return scores


def _terms(text: str) -> list[str]:
    return _TERM.findall(text.lower())


@compressor("gzip", unit="sentence")
def gzip(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """Novelty: bytes that a compressed trace (DEFLATE, level 9) grows by when the sentence is added to the others."""
    texts = [ctx.trace.reasoning[s.start : s.end] for s in ctx.trace.sentences]
    rests = ["".join(texts[:i] + texts[i + 1 :]) for i in range(len(texts))]
    grown = [_deflated(rest + text) - _deflated(rest) for rest, text in zip(rests, texts, strict=True)]
    return np.array(grown, dtype=float)


def _deflated(text: str) -> int:
    return len(zlib.compress(text.encode("utf-8", "surrogatepass"), 9))


@compressor("centroid", unit="sentence")
def centroid(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """Cosine between the counts of character 3-grams of each sentence and of the whole reasoning."""
    bags = [_ngrams(s.text) for s in ctx.trace.sentences]
    whole: Counter[str] = sum(bags, Counter())
    return np.array([_cosine(bag, whole) for bag in bags], dtype=float)


def _ngrams(text: str) -> Counter[str]:
    padded = f" {text.lower()} "
    return Counter(padded[i : i + NGRAM] for i in range(max(1, len(padded) - NGRAM + 1)))


def _cosine(a: Counter[str], b: Counter[str]) -> float:
    dot = sum(n * b[gram] for gram, n in a.items())
    return dot / math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))


@compressor("category", unit="sentence")
def category(ctx: Context) -> Float[np.ndarray, " sentence"]:
    """Computation first, then results, facts, plans; doubt and self-checks last.

    A sentence without a category is labelled by rule; one outside the taxonomy ranks with plans. Sentences of one rank
    are in seeded random order.
    """
    known = ctx.trace.categories
    rules = label_by_rule(ctx.trace) if None in known else known
    labels = [given or rule or "" for given, rule in zip(known, rules, strict=True)]
    return np.array([RANKS.get(label, RANKS["plan_generation"]) for label in labels], dtype=float)
