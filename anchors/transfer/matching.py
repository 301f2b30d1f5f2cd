"""Control sentences: what an anchor is compared with, and how well the two agree on what was matched.

1. Every sentence has covariates: length in the reader's tokens, position, category, answer mention, how many numbers.
2. A control of an anchor is another sentence of the same trace within the calipers; sentences the writer names are none.
3. A control set holds one control for every anchor, all different; up to `sets` such sets are drawn, all where there are
   few, no two of the same sentences. Anchors without a control are left out and counted.
4. Balance is the standardised mean difference between anchors and their controls, on every covariate.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from anchors.interventions import count_numbers, leak
from anchors.models.tokens import token_spans
from anchors.trace import Trace

VARIABLES = ("length", "position", "same category", "answer mention", "numbers")
SURPRISE = "log perplexity"
ENOUGH, TRIES = 2000, 200


@dataclass(frozen=True)
class Calipers:
    """How close a control must be to its anchor.

    `length` is a share of the anchor's tokens (one token is always allowed); position must be within `positions`
    sentences or the share `relative` of the trace. The flags ask for an equal category, answer mention (states the
    answer) and count of numbers.
    """

    length: float = 0.2
    positions: int = 4
    relative: float = 0.1
    category: bool = True
    answer_mention: bool = True
    numbers: bool = True


class Covariates(NamedTuple):
    """What sentences of one trace are matched on; one entry a sentence.

    `surprise`, which is not matched but reported, is how strange the writer's words are to the reader: its log
    perplexity, mean -log p a token in nats. None where the reader shows no distributions.
    """

    length: Float[np.ndarray, " sentence"]
    position: Float[np.ndarray, " sentence"]
    category: tuple[str | None, ...]
    mention: Bool[np.ndarray, " sentence"]
    numbers: Float[np.ndarray, " sentence"]
    surprise: Float[np.ndarray, " sentence"] | None = None

    def __len__(self) -> int:
        return len(self.length)


class Match(NamedTuple):
    """Anchors that could be matched, their control sets (one control an anchor, in the same order), and the rest."""

    anchors: tuple[int, ...]
    sets: tuple[tuple[int, ...], ...]
    unmatched: tuple[int, ...]


class Balance(NamedTuple):
    """Standardised mean difference between anchors and their controls on one covariate.

    NaN when they differ but neither varies, so that there is no spread to standardise by.
    """

    variable: str
    difference: float


def covariates(trace: Trace, reader: Any, *, answer: str) -> Covariates:
    """Covariates of every sentence; lengths in the reader's tokens, or in characters where it has no tokenizer here."""
    if hasattr(reader, "encode"):
        offsets = reader.encode(trace.text[: trace.boundaries[-1]]).offsets
        lengths = [b - a for a, b in token_spans(offsets, trace.spans).spans]
    else:
        lengths = [len(sentence.text) for sentence in trace.sentences]
    labels = trace.categories
    if None in labels:
        from anchors.taxonomy import label_by_rule

        labels = tuple(label_by_rule(trace))
    numbers = [count_numbers(sentence.text) for sentence in trace.sentences]
    mention = np.array(leak(trace, answers=(answer,)), dtype=bool)
    return Covariates(
        np.array(lengths, dtype=float),
        np.arange(len(trace), dtype=float),
        labels,
        mention,
        np.array(numbers, dtype=float),
        _surprise(trace, reader),
    )


def _surprise(trace: Trace, reader: Any) -> Float[np.ndarray, " sentence"] | None:
    """Log perplexity of every sentence under the reader, in nats a token; a first token that nothing predicts is left out."""
    if not hasattr(reader, "hidden"):
        return None
    from anchors.confidence import token_confidence

    text = trace.text[: trace.boundaries[-1]]
    nats, spans = -token_confidence(text, reader).logprob, token_spans(reader.encode(text).offsets, trace.spans).spans
    return np.array([np.nanmean(nats[a:b]) if np.isfinite(nats[a:b]).any() else np.nan for a, b in spans], dtype=float)


def candidates(found: Covariates, anchor: int, taken: Collection[int], calipers: Calipers) -> list[int]:
    """Sentences that may stand as control of an anchor, nearest in length first, then in position."""
    gap = np.abs(found.length - found.length[anchor])
    away = np.abs(found.position - found.position[anchor])
    fits = gap <= np.maximum(1.0, calipers.length * found.length[anchor])
    fits &= away <= max(calipers.positions, calipers.relative * len(found))
    if calipers.category:
        fits &= np.array([c == found.category[anchor] for c in found.category])
    if calipers.answer_mention:
        fits &= found.mention == found.mention[anchor]
    if calipers.numbers:
        fits &= found.numbers == found.numbers[anchor]
    return [int(i) for i in np.lexsort((away, gap)) if fits[i] and i not in taken and i != anchor]


def match_sets(
    found: Covariates,
    anchors: Sequence[int],
    *,
    taken: Collection[int] = (),
    sets: int = 5,
    calipers: Calipers,
    seed: int = 0,
) -> Match:
    """Control sets of a trace's anchors; `taken` are further sentences that may not be controls.

    Raises:
        ValueError: fewer than one set is asked for.
    """
    if sets < 1:
        raise ValueError(f"controls is {sets}; at least one control set is needed")
    forbidden = {*anchors, *taken}
    options = {anchor: candidates(found, anchor, forbidden, calipers) for anchor in anchors}
    used = _first_assignment(options)
    kept = [anchor for anchor in anchors if anchor in used]
    unmatched = tuple(anchor for anchor in anchors if anchor not in used)
    if not kept:
        return Match((), (), unmatched)
    first = tuple(used[anchor] for anchor in kept)
    chosen = {frozenset(first): first}
    for row in _assignments([options[anchor] for anchor in kept], seed):
        if len(chosen) == sets:
            break
        chosen.setdefault(frozenset(row), row)
    return Match(tuple(kept), tuple(chosen.values()), unmatched)


def _first_assignment(options: dict[int, list[int]]) -> dict[int, int]:
    """A largest assignment of different controls to anchors (augmenting paths, Kuhn 1955), nearest controls first."""
    holder: dict[int, int] = {}

    def place(anchor: int, seen: set[int]) -> bool:
        for control in options[anchor]:
            if control in seen:
                continue
            seen.add(control)
            if control not in holder or place(holder[control], seen):
                holder[control] = anchor
                return True
        return False

    for anchor in options:
        place(anchor, set())
    return {anchor: control for control, anchor in holder.items()}


def _assignments(options: Sequence[list[int]], seed: int) -> Iterator[tuple[int, ...]]:
    """Assignments of different controls, one an anchor: all of them where there are few, else drawn at random."""
    rng = np.random.default_rng(seed)
    if np.prod([len(row) for row in options], dtype=float) <= ENOUGH:
        every = [row for row in itertools.product(*options) if len(set(row)) == len(row)]
        yield from (every[i] for i in rng.permutation(len(every)))
        return
    for _ in range(TRIES):
        shuffled = {anchor: [int(i) for i in rng.permutation(row)] for anchor, row in enumerate(options)}
        found = _first_assignment(shuffled)
        yield tuple(found[anchor] for anchor in range(len(options)))


def balance(pairs: Sequence[tuple[Covariates, Match]]) -> tuple[Balance, ...]:
    """(mean of anchors - mean of their controls) / pooled standard deviation, for every covariate, over all traces.

    The reader's log perplexity is among them where it was measured in every trace.
    """
    rows = [_rows(found, match) for found, match in pairs if match.anchors]
    if not rows:
        return ()
    anchors, controls = (np.concatenate([row[side] for row in rows]) for side in (0, 1))
    gap, spread = anchors.mean(0) - controls.mean(0), np.sqrt((anchors.var(0) + controls.var(0)) / 2)
    flat = np.where(np.abs(gap) < 1e-12, 0.0, np.nan)
    difference = np.where(spread > 1e-12, gap / np.where(spread > 1e-12, spread, 1.0), flat)
    names = (*VARIABLES, SURPRISE)
    measured = len(names) if all(found.surprise is not None for found, _ in pairs) else len(VARIABLES)
    return tuple(Balance(v, float(d)) for v, d in zip(names[:measured], difference[:measured], strict=True))


def _rows(found: Covariates, match: Match) -> tuple[np.ndarray, np.ndarray]:
    """Covariates [anchor, variable] of the anchors, and the means over their controls; category as agreement."""
    surprise = np.full(len(found), np.nan) if found.surprise is None else found.surprise
    columns = np.stack(
        [found.length, found.position, np.ones(len(found)), found.mention, found.numbers, surprise], axis=1
    )
    anchors = columns[list(match.anchors)]
    controls = []
    for place, anchor in enumerate(match.anchors):
        own = columns[[row[place] for row in match.sets]].astype(float)
        own[:, 2] = [found.category[row[place]] == found.category[anchor] for row in match.sets]
        controls.append(own.mean(0))
    return anchors.astype(float), np.array(controls)
