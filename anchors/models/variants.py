"""Log-probabilities of many variants of one text, over one shared key-value cache.

1. Variants with a common beginning are grouped; the longest of a group is run once, and its keys and values kept.
2. A variant takes from that cache what comes before its first different token, its first blocked token and the token
   that predicts the scored characters; only the rest of it is run, packed with others (`suffixes`).
3. Blocked characters are hidden from every query in every layer, so what later tokens would have carried of them is
   recomputed without them; a blocked token that predicts nothing scored is not run at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int

from anchors.models.attention_pass import LayerCache
from anchors.models.base import Scored
from anchors.models.suffixes import Suffix, run_suffixes
from anchors.models.tokens import answer_tokens, token_spans

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

COMMON = 16
"""Characters two texts must share at the start to be worth one cache."""


class Variant(NamedTuple):
    """A text whose characters from `start` on are scored, with the character spans no token may attend to."""

    text: str
    start: int
    blocked: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class Row:
    """A tokenised variant: `scored` is the token range of the score, `shared` how many tokens come from the cache."""

    index: int
    ids: Int[np.ndarray, " token"]
    scored: tuple[int, int]
    cut: list[tuple[int, int]]
    shared: int = 0

    def suffix(self) -> Suffix:
        """The tokens to run; the last scored one predicts nothing."""
        predicts, end = self.scored[0] - 1, self.scored[1] - 1
        positions = np.arange(self.shared, end)
        hidden = np.zeros(len(positions), dtype=bool)
        for a, b in self.cut:
            hidden |= (a <= positions) & (positions < b)
        run = ~hidden | (positions >= predicts)
        return Suffix(self.ids[positions[run]], positions[run], self.shared, hidden[run])


def score_variants(model: LensModel, variants: Sequence[Variant]) -> list[Scored]:
    """log p of the scored characters of every variant in nats, as one forward a variant would give them.

    Raises:
        ValueError: a variant does not fit the context, or the model returned NaN or infinite values.
    """
    found: dict[int, Scored] = {}
    rows = [_row(model, i, variant) for i, variant in enumerate(variants)]
    for group in _groups(variants):
        cache = _share(model, [rows[i] for i in group])
        packed = sorted((rows[i] for i in group), key=lambda row: row.scored[1] - row.shared)
        hidden = run_suffixes(model, cache, [row.suffix() for row in packed])
        predicts = [x[row.scored[0] - row.scored[1] :].clone() for row, x in zip(packed, hidden, strict=True)]
        sums = model.logprobs_of([row.ids[slice(*row.scored)].tolist() for row in packed], predicts)
        for row, total in zip(packed, sums, strict=True):
            found[row.index] = Scored(total, row.scored[1] - row.scored[0])
    return [found[i] for i in range(len(variants))]


def _row(model: LensModel, index: int, variant: Variant) -> Row:
    tokens = model.encode(variant.text)
    model.check_length(len(tokens.ids), what="the text with its forced answer")
    cut = [span for span in token_spans(tokens.offsets, variant.blocked).spans if span[0] < span[1]]
    return Row(index, np.array(tokens.ids), answer_tokens(tokens.offsets, variant.start), cut)


def _groups(variants: Sequence[Variant]) -> list[list[int]]:
    """Indices of variants that begin alike."""
    groups: dict[str, list[int]] = {}
    for i, variant in enumerate(variants):
        groups.setdefault(variant.text[:COMMON], []).append(i)
    return list(groups.values())


def _share(model: LensModel, rows: Sequence[Row]) -> list[LayerCache]:
    """The cache of the longest text of several, and in each row how many of its tokens the row takes from it."""
    if len(rows) < 2:
        return []
    base = max(rows, key=lambda row: len(row.ids)).ids
    limits = []
    for row in rows:
        length = min(len(base), len(row.ids))
        differ = np.flatnonzero(row.ids[:length] != base[:length])
        same = int(differ[0]) if len(differ) else length
        limits.append(min([same, row.scored[0] - 1, *(a for a, _ in row.cut)]))
    if not any(limits):
        return []
    for row, shared in zip(rows, limits, strict=True):
        row.shared = shared
    return model.prefill(base[: max(limits)].tolist())[1]
