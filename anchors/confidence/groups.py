"""The confidence of a trace from the confidences of its tokens, by local and by global rules.

1. Groups: means of every `window` consecutive tokens. A trace shorter than the window has none.
2. Local: the lowest group, the mean of the lowest tenth of the groups, the mean of the last tokens.
3. Global: the mean of all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from anchors.confidence.definition import Definition, Kind
from anchors.stats import Numbers, measured


@dataclass(frozen=True, eq=False)
class TraceConfidence:
    """All confidences of one trace; higher means more certain, NaN means not measured.

    `tokens` and `groups` are the series, in nats; `sentences` the mean of each sentence, None where no spans were given.
    `spans` are the token ranges of the sentences within `tokens`. `window` is the group size they were computed with,
    larger than the trace where it has no full group.
    """

    tokens: Float[np.ndarray, " token"]
    groups: Float[np.ndarray, " group"]
    mean: float
    bottom: float
    lowest: float
    tail: float
    window: int
    sentences: Float[np.ndarray, " sentence"] | None = None
    spans: Sequence[tuple[int, int]] | None = None

    def of(self, kind: Kind) -> float:
        """The confidence of the trace by one rule: mean, bottom, lowest or tail."""
        return float(getattr(self, kind))

    @property
    def share(self) -> float:
        """n / N: the part of the trace one group covers."""
        return self.window / len(self.tokens) if len(self.tokens) else float("nan")


def group_confidence(tokens: Numbers, *, window: int = 2048) -> Float[np.ndarray, " group"]:
    """C_G(i) = mean of C_t over the last n tokens up to i, for every i that n tokens precede (2508.15260, section 3).

    `tokens` [token]; stride 1, so N - n + 1 groups, none when N < n.

    >>> group_confidence([1.0, 2.0, 6.0, 7.0], window=2)
    array([1.5, 4. , 6.5])
    """
    x = np.asarray(tokens, dtype=float)
    if len(x) < window:
        return np.empty(0)
    return np.lib.stride_tricks.sliding_window_view(x, window).mean(axis=-1)


def trace_confidence(
    tokens: Numbers, *, definition: Definition | None = None, spans: Sequence[tuple[int, int]] | None = None
) -> TraceConfidence:
    """Every confidence of a trace from its stored token confidences [token] (DeepConf, 2508.15260, section 3).

    C_avg = mean of C_t. Lowest group: min over i of C_G(i). Bottom: mean of the max(1, int(.1 G)) lowest of the G groups.
    Tail: mean over the last tokens, all where there are fewer. `spans` are token ranges of sentences. A token that was not
    measured (NaN, the first of a text) is left out. A trace without a full group has no lowest and bottom, NaN.

    >>> found = trace_confidence([4.0, 1.0, 1.0, 4.0, 5.0], definition=Definition(window=2, tail=2))
    >>> found.lowest, found.mean, found.tail
    (1.0, 3.0, 4.5)
    """
    rule = definition or Definition()
    every = _rounded(np.asarray(tokens, dtype=float), rule)
    x, kept = measured(every), np.append(0, np.cumsum(~np.isnan(every)))
    groups = _rounded(group_confidence(x, window=rule.window), rule)
    if not len(groups) and len(x) and rule.short == "mean":
        groups = np.array([x.mean()])
    return TraceConfidence(
        tokens=x,
        groups=groups,
        mean=_mean(x),
        bottom=_mean(np.sort(groups)[: max(1, int(rule.bottom * len(groups)))]),
        lowest=float(groups.min()) if len(groups) else float("nan"),
        tail=_mean(x[-_tail(rule, len(x)) :]),
        window=rule.window,
        sentences=None if spans is None else np.array([_mean(measured(every[a:b])) for a, b in spans], dtype=float),
        spans=None if spans is None else [(int(kept[a]), int(kept[b])) for a, b in spans],
    )


def _tail(rule: Definition, length: int) -> int:
    return rule.tail if isinstance(rule.tail, int) else max(1, int(rule.tail * length))


def _rounded(x: Float[np.ndarray, " n"], rule: Definition) -> Float[np.ndarray, " n"]:
    return x if rule.decimals is None else np.round(x, rule.decimals)


def _mean(x: Float[np.ndarray, " n"]) -> float:
    return float(x.mean()) if len(x) else float("nan")
