"""More of the rollouts that matter: those that wrote something else in a sentence's place.

1. Counterfactual importance compares kept with different. Where a sentence is near certain, a hundred rollouts hold four
   different ones, and their noise is the score's.
2. A rollout's randomness depends on (seed, trace, position, sample) only, so its first sentence can be drawn alone and the
   rest later: the same rollout. First sentences are drawn until enough are different, and only those are finished.
3. Given that a first sentence is different, the rollouts finished are independent draws: nothing is biased by stopping.
   They say nothing of how often a sentence is replaced, so every other number rests on the plain rollouts alone.
Both are stored in the run under kinds of their own; the same call continues after a kill.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Bool

from anchors.models.base import Job, Model, Sampling
from anchors.outcomes import first_sentence
from anchors.rollouts import Rollout, Rollouts
from anchors.similarity import Similarity, default_similarity

FIRST, DIFFERENT = "first sentence", "different"
ROUND: Final = 32
SENTENCE_ENDS: Final = (". ", "? ", "! ", "\n")
SHORTEST: Final = 10
"""A piece shorter than this may still be merged with the next one, so its sentence is not known yet."""


def seek_alternatives(
    rollouts: Rollouts,
    model: Model,
    *,
    wanted: int = 25,
    most: int = 400,
    similarity: Similarity | None = None,
    **options: object,
) -> Rollouts:
    """Rollouts of other first sentences until every boundary has `wanted` of them, plain ones counted.

    At most `most` first sentences a boundary are drawn in addition. `similarity` says which differ; `options` go to
    `model.generate`. Returns the rollouts of kind "different", for `counterfactual_importance(alternatives=...)`.

    Raises:
        ValueError: the rollouts were drawn by another model, or do not say with which seed and sampling.
    """
    similarity = default_similarity() if similarity is None else similarity
    sampling, seed = _settings(rollouts, model)
    firsts, found = (Rollouts(rollouts.store, rollouts.trace, kind=kind) for kind in (FIRST, DIFFERENT))
    short = replace(sampling, stop=(*sampling.stop, *SENTENCE_ENDS))
    pending = [k for k in range(len(rollouts.trace)) if rollouts.at(k)]
    while pending:
        pending = [k for k in pending if _left(k, rollouts, firsts, found, similarity, wanted, most)]
        jobs = [job for k in pending for job in _jobs(rollouts, firsts, k, most)]
        drawn = [(job, c) for job, c in model.generate(jobs, sampling=short, seed=seed, **options)]
        candidates = [job for job, c in drawn if _may_differ(c.text, rollouts, job.position, similarity)]
        _add(found, model.generate(candidates, sampling=sampling, seed=seed, **options))
        _add(firsts, iter(drawn))
    return found


def _settings(rollouts: Rollouts, model: Model) -> tuple[Sampling, int]:
    stored = rollouts.store.settings
    if not {"sampling", "seed"} <= set(stored):
        raise ValueError("these rollouts do not say how they were drawn; alternatives need rollouts made with resample")
    if stored.get("weights") != getattr(model, "fingerprint", "unknown"):
        raise ValueError(
            f"the rollouts were drawn by {stored.get('model')}, not by {model.name} as it is; give that model"
        )
    made = stored["sampling"]
    return Sampling(**made | {"stop": tuple(made["stop"])}), int(stored["seed"])


def _left(
    k: int, rollouts: Rollouts, firsts: Rollouts, found: Rollouts, similarity: Similarity, wanted: int, most: int
) -> bool:
    """Whether boundary k still needs first sentences."""
    have = sum(int(different_firsts(held, k, similarity).sum()) for held in (rollouts, found))
    return have < wanted and len(firsts.at(k)) < most


def different_firsts(rollouts: Rollouts, position: int, similarity: Similarity) -> Bool[np.ndarray, " _rollout"]:
    """Which rollouts of a boundary began with a sentence of another meaning than the trace's."""
    firsts = [first_sentence(rollout.text) for rollout in rollouts.at(position)]
    return similarity.different(rollouts.trace.sentences[position].text, firsts)


def _jobs(rollouts: Rollouts, firsts: Rollouts, k: int, most: int) -> Iterator[Job]:
    """The next first sentences of boundary k: samples that no plain rollout has."""
    trace, base = rollouts.trace, 1 + max(r.sample for r in rollouts.at(k))
    done = {r.sample for r in firsts.at(k)}
    fresh = (s for s in range(base, base + most) if s not in done)
    for _, sample in zip(range(ROUND), fresh, strict=False):
        yield Job(trace.text, trace.boundaries[k], trace.id, k, sample)


def _may_differ(text: str, rollouts: Rollouts, k: int, similarity: Similarity) -> bool:
    first = first_sentence(text)
    if len(first) < SHORTEST:
        return True
    return not similarity.same(rollouts.trace.sentences[k].text, [first])[0]


def _add(rollouts: Rollouts, drawn: Iterator) -> None:
    rollouts.add(Rollout.of(job, completion) for job, completion in drawn)


def join_alternatives(
    rollouts: Rollouts, alternatives: Rollouts
) -> tuple[Rollouts, list[Bool[np.ndarray, " _rollout"]]]:
    """Both in one set, in memory, and which rollouts of each of the S + 1 boundaries are plain ones.

    Raises:
        ValueError: they are of different traces.
    """
    if rollouts.trace.text != alternatives.trace.text:
        raise ValueError(f"the alternatives are of trace {alternatives.trace.id}, not of {rollouts.trace.id}")
    rows, plain = [], []
    for k in range(len(rollouts.trace) + 1):
        own, other = rollouts.at(k), alternatives.at(k)
        rows += [replace(r, sample=i) for i, r in enumerate([*own, *other])]
        plain.append(np.arange(len(own) + len(other)) < len(own))
    return rollouts.held(rows), plain
