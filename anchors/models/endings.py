"""Where a rollout ends, decided by token: an end token, a stop string that the new token completes, or the limit.

A stop string is looked for only when the new token holds its last character; what tokens hold is worked out once each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Integer

from anchors.models.base import Completion, Sampling

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

CONTEXT = 8
UNKNOWN, NO, MAYBE = 0, 1, 2
BROKEN = "\ufffd"  # what a token that ends in the middle of a character decodes to


class Endings:
    """Decides ends and writes completions for one draw; `written` arguments are the tokens of a rollout so far."""

    def __init__(self, model: LensModel, sampling: Sampling) -> None:
        self.model, self.stop = model, sampling.stop
        self.last = {s[-1] for s in sampling.stop if s}
        self.tail = max(map(len, sampling.stop), default=0) + 4
        self.kinds = np.zeros(max(model.vocabulary, 1), dtype=np.int8)
        self.contexts: dict[tuple[int, ...], int] = {}  # characters of the last tokens of every prefix
        self.ends = np.isin(np.arange(len(self.kinds)), list(model.end_ids))

    def stopped(
        self, tokens: Integer[np.ndarray, " rollout"], written: Callable[[int], Sequence[int]]
    ) -> Bool[np.ndarray, " rollout"]:
        """Which rollouts the new token of each ends; `written(i)` gives the tokens of one, the new one included."""
        done = self.ends[tokens]
        for i in np.flatnonzero(~done & self.may_stop(tokens)):
            text = self.model.decode(written(int(i))[-self.tail :])
            done[i] = any(s in text for s in self.stop)
        return done

    def may_stop(self, tokens: Integer[np.ndarray, " rollout"]) -> Bool[np.ndarray, " rollout"]:
        """Which tokens end a rollout, or may complete a stop string."""
        ends = self.ends[tokens]
        if not self.stop:
            return ends
        for token in np.unique(tokens[self.kinds[tokens] == UNKNOWN]):
            self.kinds[token] = MAYBE if self._may_complete(int(token)) else NO
        return ends | (self.kinds[tokens] == MAYBE)

    def _may_complete(self, token: int) -> bool:
        # Between two others, because some tokenizers drop a space at either end.
        alone, around = self.model.decode([token]), self.model.decode([token, token, token])
        return "" in self.stop or any(c in alone or c in around for c in (*self.last, BROKEN))

    def completion(
        self, prefix: Sequence[int], written: Sequence[int], finish: Literal["stop", "length"]
    ) -> Completion:
        """The text of a finished rollout, without its end token and cut after the first stop string."""
        tokens, ended = len(written), bool(written) and written[-1] in self.model.end_ids
        context, body = tuple(prefix[-CONTEXT:]), written[:-1] if ended else written
        if context not in self.contexts:
            self.contexts[context] = len(self.model.decode(list(context)))
        text = self.model.decode([*context, *body])[self.contexts[context] :]
        cuts = [text.index(s) + len(s) for s in self.stop if s in text]
        return Completion(text[: min(cuts)] if cuts else text, tokens, finish)
