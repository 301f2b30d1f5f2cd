"""A world as a black-box model: its own program continues any trace, so scores can be tested without a model's error.

1. The prefix is read back into a state of the world; the program writes on from there.
2. What is written depends on (seed, trace, position, sample), as for every model.
3. A prefix that is off the program, or ends inside a sentence, cannot be continued and is refused by name.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from anchors.lab.worlds import World, read_moves, write
from anchors.models.base import Completion, Job, Sampling
from anchors.similarity import Similarity
from anchors.splitting import split_sentences

OPENING = "<think>\n"


class WorldModel:
    """The exact sampler of a world, as a `Model`: `resample(trace, WorldModel(world))`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = f"world/{world.name}"
        self.fingerprint = repr(world)
        self.sampling = Sampling(temperature=1.0, top_p=1.0)

    def __repr__(self) -> str:
        return f"WorldModel({self.world.name})"

    def generate(
        self, jobs: Iterable[Job], *, sampling: Sampling, seed: int, batch_size: int = 256
    ) -> Iterator[tuple[Job, Completion]]:
        """Continue every job's prefix; lengths are counted in words.

        Raises:
            ValueError: a prefix is off the program, or the sampling is not the world's own.
        """
        if (sampling.temperature, sampling.top_p) != (1.0, 1.0):
            raise ValueError("a world samples its own program: use temperature 1 and top_p 1")
        state = lru_cache(maxsize=1024)(self._state)
        for job in jobs:
            problem, now = state(job.prefix)
            rng = random.Random(f"{seed} {job.trace} {job.position} {job.sample}")
            written = write(self.world, problem, rng, state=now)
            answer = self.world.answer(written.end)
            assert answer is not None
            space = " " if written.moves and not job.prefix[-1:].isspace() else ""
            text = space + written.reasoning + self.world.ending(answer)
            yield job, Completion(text, len(text.split()), "stop")

    def _state(self, prefix: str) -> tuple[Any, Any]:
        prompt, opening, reasoning = prefix.partition(OPENING)
        problem = self.world.parse(prompt + opening)
        sentences = [reasoning[a:b] for a, b in split_sentences(reasoning)]
        moves = read_moves(self.world, problem, sentences)
        if len(moves) < len(sentences):
            raise ValueError(
                f"the program of `{self.world.name}` cannot have written {sentences[len(moves)].strip()!r} "
                f"as sentence {len(moves)}, so it cannot continue this prefix"
            )
        return problem, moves[-1].state if moves else self.world.start(problem)


def same_event(world: World) -> Similarity:
    """The exact "different meaning" filter of a world: 1 where two sentences are the same event, else 0."""

    def compare(reference: str, others: Any) -> Any:
        import numpy as np

        meaning = world.meaning(reference)
        return np.array([float(world.meaning(other) == meaning) for other in others])

    return Similarity(f"same event of `{world.name}`", 0.5, compare)
