"""What the panel says of every sentence, for a reader without a script: answers, alternatives, what hiding it changed.

1. One row a sentence: answers before and after as two bars, what rollouts wrote there by meaning, effects on what follows.
2. The rows share `BYTES`: a short trace shows every meaning and more of its words, a long one the most frequent.
3. Effects on tokens are a line of block characters, the largest of each column, and the three tokens moved most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from anchors.report.answers import OTHER, SAME, Answers
from anchors.report.content import clip, marked
from anchors.report.drawing import number
from anchors.report.tokens import PARTS
from anchors.scores import Scores

BYTES = 100_000  # of all rows: keeps a 150-sentence page under 1 MB
ROW, MEANING = 820, 90  # characters of a row without meanings, and of a meaning without its text
LONG, SHORT, MOST = 150, 60, 8  # characters of a text, and meanings, at most
COLUMNS, MOVED, NAMED = 32, 3, 3
BLOCKS = " ▁▂▃▄▅▆▇█"


class Meaning(NamedTuple):
    """What some rollouts wrote in place of a sentence: their share, and the answers it led to."""

    text: str
    own: bool
    share: str
    led: list[tuple[str, int]]


class Moved(NamedTuple):
    """What hiding a sentence did to the tokens after it: a line of blocks, its peak, and (token, sentence, nats) each."""

    line: str
    peak: str
    tokens: list[tuple[str, int, str]]


class Row(NamedTuple):
    """One sentence: its first words, a bar of (colour, percent) a side, shares in words, rollouts, and the rest."""

    index: int
    words: str
    bars: list[tuple[str, list[tuple[int, int]]]]
    shares: list[tuple[str, str, str]]
    rollouts: str
    meanings: list[Meaning]
    more: int
    strongest: list[tuple[str, int, str]]
    moved: Moved | None


@dataclass(frozen=True)
class _Source:
    """What rows are made of, and how much of it they show."""

    scores: Sequence[Scores]
    names: Sequence[str]
    answers: Answers | None
    groups: Sequence[list[Any]]
    effects: Scores | None
    length: int
    shown: int

    def row(self, i: int) -> Row:
        words = clip(self.scores[0].trace.sentences[i].text, self.length)
        strongest = list(_strongest(self.scores, self.names, i))
        moved = None if self.effects is None else _moved(self.effects, i)
        if self.answers is None:
            return Row(i, words, [], [], "", [], 0, strongest, moved)
        groups, rollouts = self.groups[i], " → ".join(str(int(n)) for n in self.answers.counts[i : i + 2].sum(axis=1))
        said = [_meaning(group, groups, self.answers, self.length) for group in groups[: self.shown]]
        bars, shares = list(_bars(self.answers, i)), list(_shares(self.answers, i))
        return Row(i, words, bars, shares, rollouts, said, len(groups) - len(said), strongest, moved)


def rows(
    scores: Sequence[Scores], names: Sequence[str], answers: Answers | None, groups: Sequence[list[Any]] | None
) -> list[Row]:
    """The rows of as many sentences as fit, marked ones and large effects first, in the order of the text.

    `groups` are those of `Answers.alternatives`. There are no rows where there are neither rollouts nor a matrix.
    """
    if answers is None and all(s.matrix is None for s in scores):
        return []
    room = BYTES // len(scores[0].trace) - ROW
    length = LONG if room > 4 * (MEANING + LONG) else SHORT
    shown = min(max(room // (MEANING + length), 2), MOST)
    effects = next((s for s in scores if set(PARTS) <= set(s.extras)), None)
    source = _Source(scores, names, answers, groups or (), effects, length, shown)
    wanted, sizes = marked(scores[0]).places, np.abs(np.nan_to_num(scores[0].values))
    order = sorted(range(len(sizes)), key=lambda i: (i not in wanted, -sizes[i]))
    return [source.row(i) for i in sorted(order[: BYTES // (ROW + 2 * (MEANING + SHORT))])]


def _bars(answers: Answers, i: int) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    for name, counts in (("before", answers.counts[i]), ("after", answers.counts[i + 1])):
        total = int(counts.sum())
        yield name, [(k, round(100 * int(c) / total)) for k, c in zip(answers.colours, counts, strict=True) if c]


def _shares(answers: Answers, i: int) -> Iterator[tuple[str, str, str]]:
    """(answer, share before, share after) of the answers that are most frequent on either side."""
    sides = answers.counts[i : i + 2]
    shares = [[f"{c / n:.2f}" if n else "–" for c in row] for row, n in zip(sides, sides.sum(axis=1), strict=True)]
    for k in np.argsort(-sides.max(axis=0), kind="stable")[:NAMED]:
        if sides[:, k].any():
            yield answers.labels[k], shares[0][k], shares[1][k]


def _meaning(group: list[Any], groups: Sequence[list[Any]], answers: Answers, length: int) -> Meaning:
    kind, count, led, texts = group
    words = clip(texts[0][0], length) if kind == OTHER else "the same" if kind == SAME else "other meanings"
    pairs = list(zip(led[::2], led[1::2], strict=True))[:NAMED]
    share = count / sum(other[1] for other in groups)
    return Meaning(words, kind != OTHER, f"{share:.0%}", [(answers.labels[k], n) for k, n in pairs])


def _strongest(scores: Sequence[Scores], names: Sequence[str], i: int) -> Iterator[tuple[str, int, str]]:
    """(method, target, effect with its interval) of the largest effect under every method with a matrix."""
    for s, name in zip(scores, names, strict=True):
        if s.matrix is None or not np.any(np.abs(np.nan_to_num(s.matrix[i + 1 :, i]))):
            continue
        target = i + 1 + int(np.nanargmax(np.abs(s.matrix[i + 1 :, i])))
        low, high = (float(s.extras[f"matrix_{end}"][target, i]) if f"matrix_{end}" in s.extras else np.nan
                     for end in ("low", "high"))  # fmt: skip
        interval = f" [{number(low)}, {number(high)}]" if high > low else ""
        yield name, target, number(float(s.matrix[target, i]), signed=True) + interval


def _moved(scores: Scores, i: int) -> Moved | None:
    places = np.flatnonzero(np.asarray(scores.token_sources) == i)
    if not len(places):
        return None
    effects = np.asarray(scores.token_effects[places[0]], dtype=float)
    first = int(np.argmax(~np.isnan(effects)))
    later = np.nan_to_num(effects[first:])
    peak = float(later.max(initial=0.0))
    if not peak > 0:
        return None
    trace, tokens = scores.trace, []
    for k in first + np.argsort(-later, kind="stable")[:MOVED]:
        a, b = map(int, scores.token_offsets[k])
        sentence = int(np.searchsorted(trace.boundaries, (a + b) / 2, side="right")) - 1
        if effects[k] > 0:
            tokens.append((clip(trace.text[a:b], 20) or "␣", sentence, number(float(effects[k]))))
    return Moved(line(later, peak), number(peak), tokens)


def line(values: np.ndarray, peak: float) -> str:
    """Values as block characters, the largest of each of at most `COLUMNS` columns; what is above 0 is never blank.

    >>> line(np.array([0.0, 0.01, 0.5, 1.0]), 1.0)
    ' ▁▄█'
    """
    tall = [float(part.max()) / peak for part in np.array_split(values, min(len(values), COLUMNS))]
    return "".join(BLOCKS[max(int(t > 0), round(t * (len(BLOCKS) - 1)))] for t in tall)
