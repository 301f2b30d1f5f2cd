"""How well a small model learned its world: steps, answers, and its answer distribution against exact truth."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from anchors.answers import NO_ANSWER, extract_answer
from anchors.lab.truth import answer_distribution
from anchors.lab.worlds import World, read, write
from anchors.models.base import Job, Model
from anchors.splitting import split_sentences

_STEP = re.compile(r"(\d) ([-+*]) (\d) = (\d)\.")


class Evaluation(NamedTuple):
    """Figures of one model on held-out problems; `ceiling` and `tv_floor` are what a perfect copy of the world gets.

    `steps_right`: share of written arithmetic steps that are right. `on_program`: share of traces the world could
    have written word for word. `gold`, `answered`: shares of traces. `tv`: mean total variation between the answer
    distribution of n rollouts and the exact one, over all boundaries of traces the world wrote.
    """

    traces: int
    steps_right: float
    steps_ceiling: float
    on_program: float
    answered: float
    gold: float
    ceiling: float
    boundaries: int
    rollouts: int
    tv: float
    tv_floor: float


def evaluate(
    model: Model, world: World, *, problems: int = 200, traces: int = 10, n: int = 200, seed: int = 0
) -> Evaluation:
    """Let the model write `problems` traces, and compare n rollouts at every boundary of `traces` with exact truth."""
    rng = random.Random(f"held out {seed}")
    drawn = [world.problem(rng) for _ in range(problems)]
    texts = _continuations(model, [world.prompt(p) for p in drawn], 1, seed)
    steps = [match.groups() for text in texts for match in _STEP.finditer(text)]
    right = [(int(a) + int(b) if op == "+" else int(a) - int(b) if op == "-" else int(a) * int(b)) % 10 == int(r)
             for a, op, b, r in steps]  # fmt: skip
    answers = [extract_answer(text) for text in texts]
    gold = [answer == world.gold(p) for answer, p in zip(answers, drawn, strict=True)]
    ceiling = [answer_distribution(world, world.start(p)).get(world.gold(p), 0.0) for p in drawn]
    followed = [_follows(world, p, text) for p, text in zip(drawn, texts, strict=True)]
    boundaries, tv, floor = _total_variations(model, world, traces, n, seed)
    return Evaluation(
        traces=problems,
        steps_right=float(np.mean(right)),
        steps_ceiling=1 - getattr(world, "slip", 0.0),
        on_program=float(np.mean(followed)),
        answered=float(np.mean([answer is not None for answer in answers])),
        gold=float(np.mean(gold)),
        ceiling=float(np.mean(ceiling)),
        boundaries=boundaries,
        rollouts=n,
        tv=tv,
        tv_floor=floor,
    )


def _continuations(model: Model, texts: Sequence[str], n: int, seed: int) -> list[str]:
    jobs = [Job(text, len(text), f"evaluate {i}", 0, s) for i, text in enumerate(texts) for s in range(n)]
    found = {(job.trace, job.sample): c.text for job, c in model.generate(jobs, sampling=model.sampling, seed=seed)}
    return [found[job.trace, job.sample] for job in jobs]


def _follows(world: World, problem: object, text: str) -> bool:
    reasoning = text.split("\n</think>")[0]
    sentences = [reasoning[a:b] for a, b in split_sentences(reasoning)]
    states = read(world, problem, sentences)
    ending = text[len(reasoning) :]
    return len(states) == len(sentences) + 1 and any(
        ending == world.ending(answer) for answer in answer_distribution(world, states[-1])
    )


def _total_variations(model: Model, world: World, traces: int, n: int, seed: int) -> tuple[int, float, float]:
    """Boundaries measured, mean total variation to exact truth, and its mean when the model is exactly the world."""
    rng, noise = random.Random(f"boundaries {seed}"), np.random.default_rng(seed)
    found, floor = [], []
    for index in range(traces):
        problem = world.problem(rng)
        written = write(world, problem, rng)
        text = world.prompt(problem) + written.reasoning
        ends = [
            len(world.prompt(problem)) + len(" ".join(m.text for m in written.moves[:k]))
            for k in range(len(written.states))
        ]
        jobs = [Job(text, end, f"boundaries {index}", k, s) for k, end in enumerate(ends) for s in range(n)]
        counts = [Counter[str]() for _ in ends]
        for job, completion in model.generate(jobs, sampling=model.sampling, seed=seed):
            counts[job.position][extract_answer(completion.text) or NO_ANSWER] += 1
        for state, count in zip(written.states, counts, strict=True):
            truth = answer_distribution(world, state)
            found.append(_tv(truth, lambda a, c=count: c[a] / n, set(count)))
            drawn = noise.multinomial(n, np.array(list(truth.values())) / sum(truth.values()))
            copy = dict(zip(truth, drawn / n, strict=True))
            floor.append(_tv(truth, lambda a, c=copy: c.get(a, 0.0), set()))
    return len(found), float(np.mean(found)), float(np.mean(floor))


def _tv(truth: dict[str, float], share: Callable[[str], float], seen: set[str]) -> float:
    return sum(abs(truth.get(a, 0.0) - share(a)) for a in truth.keys() | seen) / 2
