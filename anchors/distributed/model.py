"""A model on a cluster, in the place of one that is here.

1. Rollouts are cut into slices that grow with the speed they are drawn at and shrink towards the end (`Slices`).
2. Everything else is one unit a call, or one an item (`map`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from anchors.billing import WIDE
from anchors.distributed.cluster import Cluster, Unit
from anchors.distributed.workers import About, Spec, call_method, describe, draw, score_variants
from anchors.models.base import Completion, Job, Sampling, Scored
from anchors.spending import generating

AHEAD: Final = 2
"""Slices with a worker at once: the one it draws, and the next."""
LEAST: Final = 16
"""Rollouts a slice has at least: fewer take as many forward passes."""
SECONDS: Final = 20.0
"""What a slice should take, where that is more than two batches."""

ASKED = ("encode", "decode", "render_prompt", "score", "logprobs", "pooled_attention")
"""Methods passed on to a replica."""


class RayModel:
    """A model whose replicas live in a cluster's workers: whatever takes a model and generates takes this one.

    It has the replicas' plain attributes and passes on `encode`, `score`, `pooled_attention` and the like to one of them.
    White-box methods need the weights beside them: `map` runs them where those are, as `score_traces` does by itself.
    """

    def __init__(self, cluster: Cluster, spec: Spec) -> None:
        about: About = cluster.call(spec, describe, None)
        self.cluster, self.remote = cluster, about.can
        self.name, self.sampling = about.values["name"], about.values["sampling"]
        vars(self).update(about.values)
        vars(self).update({name: partial(self._ask, name) for name in ASKED if name in about.can})
        self.spec = spec._replace(weights=str(about.values.get("fingerprint", "unknown")))

    def __repr__(self) -> str:
        return f"RayModel({self.name}, {self.cluster})"

    @property
    def replicas(self) -> int:
        """How many work at once."""
        return self.cluster.size

    @property
    def replica(self) -> Replica:
        """One of them, which draws all jobs of a call together."""
        return Replica(self.name, self.sampling, self)

    def generate(
        self, jobs: Iterable[Job], *, sampling: Sampling, seed: int, **options: Any
    ) -> Iterator[tuple[Job, Completion]]:
        """Yield every job's completion once, slice by slice as workers finish them; `options` go to the replicas'."""
        pending = list(jobs)
        if not pending:
            return
        slices = Slices(pending, width=int(options.get("batch_size") or WIDE), fixed=self.cluster.unit)
        given = {"sampling": sampling, "seed": seed, **options}

        def cut(workers: int) -> Unit | None:
            taken = slices.take(workers)
            return Unit(draw, taken, given) if taken else None

        for unit, found in self.cluster.results(self.spec, cut, ahead=AHEAD):
            slices.learn(len(unit.item) / max(found.seconds, 1e-6))
            yield from generating(zip(unit.item, found.value, strict=True))

    def map(self, function: Callable[..., Any], items: Iterable[Any], **options: Any) -> Iterator[tuple[int, Any]]:
        """(index, `function(item, replica, **options)`) of every item, as they finish; each is a unit of its own.

        `items` are taken as workers become free.
        """
        numbered, at = enumerate(items), {}

        def cut(_workers: int) -> Unit | None:
            index, item = next(numbered, (-1, None))
            if index < 0:
                return None
            unit = Unit(function, item, options)
            at[unit] = index
            return unit

        for unit, outcome in self.cluster.results(self.spec, cut):
            yield at.pop(unit), outcome.value

    def score_variants(self, variants: Sequence[Any]) -> list[Scored]:
        """`anchors.models.variants.score_variants`, neighbours together, a part for every worker."""
        size = max(LEAST, math.ceil(len(variants) / self.replicas))
        parts = [variants[a : a + size] for a in range(0, len(variants), size)]
        found = dict(self.map(score_variants, parts))
        return [scored for index in sorted(found) for scored in found[index]]

    def _ask(self, name: str, *args: Any, **options: Any) -> Any:
        return self.cluster.call(self.spec, call_method, (name, args, options))


@dataclass(frozen=True)
class Replica:
    """One worker's model, for what must be drawn together, as a bill's probes."""

    name: str
    sampling: Sampling
    model: RayModel

    def generate(self, jobs: Iterable[Job], **options: Any) -> Iterator[tuple[Job, Completion]]:
        given = list(jobs)
        found = self.model.cluster.call(self.model.spec, draw, given, **options)
        return zip(given, found, strict=True)


class Slices:
    """Jobs in their order, cut between texts or boundaries where that costs no more than half a slice."""

    def __init__(self, jobs: Sequence[Job], *, width: int, fixed: int | None) -> None:
        self.jobs, self.width, self.fixed = jobs, width, fixed
        self.at, self.rate = 0, 0.0

    def learn(self, rate: float) -> None:
        """Take in how many rollouts a second a worker drew; later slices tell more of those to come."""
        self.rate = (self.rate + rate) / 2 if self.rate else rate

    def take(self, workers: int) -> list[Job]:
        """The next slice for one of so many workers; empty when none is left.

        It holds a batch at first, then two or what takes `SECONDS`; never more than half an even share of what is left, but
        a quarter of one of the whole: every slice runs its trace again, so many small ones cost more than a worker that waits.
        """
        end = min(self.at + self._size(workers), len(self.jobs))
        taken = self.jobs[self.at : end if self.fixed else self._between(end)]
        self.at += len(taken)
        return list(taken)

    def _size(self, workers: int) -> int:
        pace = max(2 * self.width, round(self.rate * SECONDS)) if self.rate else self.width
        share = math.ceil(max((len(self.jobs) - self.at) / 2, len(self.jobs) / 4) / workers)
        return self.fixed or max(LEAST, min(pace, share))

    def _between(self, end: int) -> int:
        """The last change of text before `end`, else of boundary, else `end`, where the others are too far."""
        if end == len(self.jobs):
            return end
        pairs = [(cut, self.jobs[cut - 1], self.jobs[cut]) for cut in range(end, (self.at + end) // 2, -1)]
        texts = (cut for cut, before, after in pairs if before.text is not after.text and before.text != after.text)
        boundaries = (cut for cut, before, after in pairs if before.position != after.position)
        return next(texts, next(boundaries, end))
