"""Worlds with planted causal structure, exact truth about them, and the small models trained on them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from anchors.trace import Trace

if TYPE_CHECKING:
    from anchors.lab.worlds import World


def world_trace(world: World, *, seed: int) -> Trace:
    """A trace the world itself wrote, with its categories; target is the gold answer."""
    from anchors.lab.worlds import changed_knobs, write

    rng = random.Random(f"{world.name} {seed}")
    problem = world.problem(rng)
    written = write(world, problem, rng)
    answer = world.answer(written.end)
    assert answer is not None
    sentences = [move.text for move in written.moves]
    trace = Trace.from_text(
        world.prompt(problem),
        written.reasoning + world.ending(answer),
        target=world.gold(problem),
        answer=answer,
        sentences=sentences,
        meta={"world": world.name, "seed": seed, "knobs": changed_knobs(world)},
    )
    return trace.with_categories([move.category for move in written.moves])
