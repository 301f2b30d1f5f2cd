"""Rollouts that repeat their text: they climb its trunk without a row, until they draw another token.

1. The trunk's hidden states give the odds after each of its tokens. The draws of a stretch are made for all rollouts at once.
2. Up to the first draw that is anything but the trunk's own token, or could be (a tie, an end), a rollout just moves up.
   That draw is made again by `Draws.advance`, which decides ties and ends as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Integer

from anchors.models.base import Completion, Job
from anchors.models.sampling import Odds, draw_tokens, next_token_odds
from anchors.models.tree import Strand

if TYPE_CHECKING:
    from anchors.models.engine import Draws
    from anchors.models.trunks import Trunk

LOGITS = 1 << 23  # how many are held at once
BLOCK, STRETCH = 64, 16  # places whose odds are worked out at once, and whose draws are
GONE = -1


class Climb:
    """The rollouts `on` a trunk, each `at` a place; those that leave go to `groups` by place and tokens of their own."""

    def __init__(
        self,
        draws: Draws,
        trunk: Trunk,
        number: int,
        following: Mapping[int, Sequence[int]],
        groups: dict[tuple[int, ...], list[int]],
    ) -> None:
        self.draws, self.trunk, self.number, self.groups = draws, trunk, number, groups
        self.on = np.array([i for _, rollouts in sorted(following.items()) for i in rollouts])
        self.at = np.array([k for k, rollouts in sorted(following.items()) for _ in rollouts])
        self.own = np.array([*trunk.ids, GONE])  # the trunk's own token at each place, and nothing after the last

    def run(self) -> Iterator[tuple[Job, Completion]]:
        """Climb to the end of the trunk; yields those that finish on it."""
        model, end = self.draws.model, len(self.own)
        block = max(1, min(BLOCK, LOGITS // model.vocabulary))
        stretch = max(1, min(STRETCH, LOGITS // (model.vocabulary * len(self.on))))
        for first in range(int(self.at.min()), end, block):
            last = min(first + block, end)
            if ((self.at >= first) & (self.at < last)).any():
                odds = next_token_odds(model.unembed(self.trunk.hidden[first - 1 : last - 1]), self.draws.sampling)
                for a in range(first, last, stretch):
                    yield from self._stretch(odds, first, np.arange(a, min(a + stretch, last)))

    def _stretch(
        self, odds: Odds, first: int, places: Integer[np.ndarray, " place"]
    ) -> Iterator[tuple[Job, Completion]]:
        """Move the rollouts at these places beyond them; `first` is the place of the first row of `odds`."""
        here = np.flatnonzero((self.at >= places[0]) & (self.at <= places[-1]))
        event = self._events(odds, first, here, places)
        while len(here):
            ahead = event & (places >= self.at[here, None])
            there = np.where(ahead.any(axis=1), places[0] + ahead.argmax(axis=1), places[-1] + 1)
            self.draws.tally.generated += int((there - self.at[here]).sum())
            self.at[here] = there
            stop = there <= places[-1]
            here, event, there = here[stop], event[stop], there[stop]
            tokens, going, finished = self.draws.advance(
                odds, there - first, self.on[here], there, lambda row: Strand(self.number, row + first, [])
            )
            yield from finished
            stays = going & (tokens == self.own[there])
            leaves = going & ~stays
            for k, token, i in zip(*(x[leaves].tolist() for x in (there, tokens, self.on[here])), strict=True):
                self.groups.setdefault((k, token), []).append(i)
            self.at[here] = np.where(stays, there + 1, GONE)
            here, event = here[stays], event[stays]

    def _events(
        self, odds: Odds, first: int, here: Integer[np.ndarray, " rollout"], places: Integer[np.ndarray, " place"]
    ) -> Bool[np.ndarray, "rollout place"]:
        """Where a rollout that comes there may do anything but go on with the trunk's own token."""
        draws, event = self.draws, np.zeros((len(here), len(places)), dtype=bool)
        who, where = np.nonzero(places >= self.at[here, None])
        rollouts = self.on[here[who]]
        steps = places[where] - draws.starts[rollouts]
        tokens, ties = draw_tokens(
            odds, places[where] - first, draws.sampling,
            streams=draws.streams[rollouts], steps=steps, margin=draws.margin, surely=False,
        )  # fmt: skip
        ends = draws.endings.may_stop(tokens) | (steps + 1 >= draws.limits[rollouts])
        event[who, where] = ties | ends | (tokens != self.own[places[where]])
        return event
