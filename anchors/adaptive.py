"""One trace's adaptive sweep, replayed from its store: what to draw next, until `anchors.stopping` says stop.

1. A sweep is a number of rollouts at every boundary; a round raises some of them, as a function of the rollouts below them.
2. Samples are numbered from 0, so the store tells which rollouts of a round are missing, whatever the order they came in.
3. A rollout's answer is read from its whole text. Scores read it from what follows a boundary: that differs only where a
   sentence of the trace itself states an answer and the rollout that repeats it gives none of its own.
4. Nothing else is kept: after a kill the same decisions are made again from the same rollouts.
"""

from __future__ import annotations

import numpy as np

from anchors.answers import NO_ANSWER, extract_answer
from anchors.outcomes import judge, resolve_outcome
from anchors.rollouts import Rollout, Rollouts
from anchors.stopping import Anchors, Draws, leaves_at, next_targets

Key = tuple[int, int]


class AdaptiveSweep:
    """The rollouts `stop` asks for, at most n a boundary.

    Raises:
        ValueError: the trace has no answer of its own and `stop.outcome` names none.
    """

    def __init__(self, run: Rollouts, stop: Anchors, n: int) -> None:
        if stop.outcome is None and run.trace.answer is None:
            raise ValueError(
                f"trace {run.trace.id} has no answer of its own, so nothing says what its anchors support; "
                "use Anchors(outcome=...)"
            )
        self.run, self.stop, self.n = run, stop, n
        self.outcome, _ = resolve_outcome(run, stop.outcome)
        self.own = np.zeros(len(run.trace) + 1, dtype=int)
        self.rounds = 0
        self.waits_for: set[Key] = set()
        self._seen: dict[Key, tuple[int, bool, int]] = {}
        self._hits: dict[str, bool] = {}

    def missing(self) -> list[Key]:
        """(position, sample) pairs to draw now; none once the sweep has stopped.

        Rounds whose rollouts are all stored are passed over.
        """
        while True:
            self._read()
            absent = [key for key in self._wanted() if key not in self._seen]
            if absent:
                self.waits_for = set(absent)
                return absent
            target = next_targets(self.own, self.draws(), stop=self.stop, n=self.n)
            if target is None:
                return []
            self.own, self.rounds = target, self.rounds + 1

    def take(self, rollout: Rollout) -> None:
        """Take in a rollout of this round that was just drawn, before or after it is stored."""
        self._seen[rollout.position, rollout.sample] = self._summary(rollout)
        self.waits_for.discard((rollout.position, rollout.sample))

    def draws(self) -> Draws:
        """The rollouts of all rounds so far."""
        keys = self._wanted()
        columns = np.array([(key[0], *self._seen[key]) for key in keys], dtype=int).reshape(-1, 4).T
        return Draws(columns[0], columns[1], columns[2].astype(bool), columns[3])

    def _wanted(self) -> list[Key]:
        return [(k, sample) for k, own in enumerate(self.own) for sample in range(own)]

    def _read(self) -> None:
        """Take in the stored rollouts of boundaries where some are not known yet."""
        for k in sorted({k for k, sample in self._wanted() if (k, sample) not in self._seen}):
            for rollout in self.run.at(k):
                if rollout.sample < self.own[k] and (k, rollout.sample) not in self._seen:
                    self._seen[k, rollout.sample] = self._summary(rollout)

    def _summary(self, rollout: Rollout) -> tuple[int, bool, int]:
        trace, answer = self.run.trace, extract_answer(rollout.text) or NO_ANSWER
        if answer not in self._hits:
            self._hits[answer] = bool(judge([answer], self.outcome)[0])
        leave = leaves_at(rollout.text, rollout.position, trace.text, trace.boundaries)
        return leave, self._hits[answer], rollout.tokens
