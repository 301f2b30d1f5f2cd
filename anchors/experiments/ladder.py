"""The ladder: models of one recipe that differ in training regime, and what they answer to the same problems.

1. quick and tiny take the shipped models, one an arm: the independent unit is the problem. full trains every arm anew for
   each of `SEEDS` seeds under `setting.out` (a finished model is found again): the unit is the training seed.
2. All models of a rung answer the same freshly drawn, distinct problems, near-greedily unless samples are asked for.
3. An answer is right if it is the gold one; on `maze`, if the plan leads to the goal (2505.13775).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from anchors.answers import extract_answer
from anchors.experiments.base import Finding, Setting
from anchors.experiments.verdicts import mean_finding
from anchors.models.base import Job, Sampling

if TYPE_CHECKING:
    from anchors.lab.train import Recipe
    from anchors.lab.worlds import World
    from anchors.models.lens import LensModel

SEEDS: Final = 5
GREEDY: Final = 0.01
SHARED: Final = 32
"""Samples of one prompt from which on they share its cache; fewer run beside other prompts in one batch."""

REPEATS: Final = 500
"""Draws in a row that bring nothing new, after which a world is taken to have no more problems."""


class Asked(NamedTuple):
    """What a model wrote: text, answer (None without one) and number of tokens of every sample of every problem."""

    texts: list[list[str]]
    answers: list[list[str | None]]
    tokens: Int[np.ndarray, "problem sample"]


Rung = dict[str, "LensModel"]


def rungs(setting: Setting, arms: Mapping[str, Recipe]) -> list[Rung]:
    """The models of the arms: one rung of shipped ones (`lab/NAME`), or (full) one rung for each training seed.

    `setting.model_name` stands in for the first arm, `setting.reader_name` for the second.

    Raises:
        ValueError: full was asked for with models of the user's, or without a folder.
    """
    if setting.preset != "full":
        names = dict(zip(arms, (setting.model_name, setting.reader_name), strict=False))
        return [{arm: _loaded(names.get(arm) or f"lab/{arm}") for arm in arms}]
    if setting.model_name or setting.reader_name:
        raise ValueError("the full preset trains its own models; drop --model and --reader, or use the quick preset")
    models = setting.folder("models")
    return [
        {arm: trained(replace(recipe, seed=100 + seed), models / f"{arm}-{seed}") for arm, recipe in arms.items()}
        for seed in range(SEEDS)
    ]


def _loaded(name: str) -> LensModel:
    """A model by name; the tests check the shipped ones, so that only others are checked here."""
    from anchors.models import load_model

    return load_model(name, check=not name.startswith("lab/"))


def trained(recipe: Recipe, folder: Path) -> LensModel:
    """A model of a recipe, trained in `folder` unless it is finished there."""
    from anchors.lab.train import answer_stub, sampling_of, train
    from anchors.models.lens import LensModel

    model = LensModel.from_directory(train(recipe, folder, held_out=0), name=folder.name)
    model.sampling = sampling_of(recipe)
    model.stub = answer_stub(recipe.program)
    return model


def distinct_problems(world: World, count: int, *, seed: int) -> list[Any]:
    """Freshly drawn problems, no two alike.

    >>> from anchors.lab.worlds import load_world
    >>> len(set(distinct_problems(load_world("expression", length=(3, 3)), 40, seed=0)))
    40
    """
    import random

    rng, found, repeats = random.Random(f"experiment {seed}"), {}, 0
    while len(found) < count and repeats < REPEATS:
        problem = world.problem(rng)
        repeats = repeats + 1 if problem in found else 0
        found[problem] = None
    if len(found) < count:
        raise ValueError(
            f"`{world.name}` seems to have {len(found)} problems, not the {count} asked for; ask for fewer"
        )
    return list(found)


def ask(
    model: LensModel,
    prompts: Sequence[str],
    *,
    samples: int = 1,
    temperature: float = GREEDY,
    limit: int | None = None,
    seed: int = 0,
) -> Asked:
    """Let a model continue every prompt `samples` times, each up to its own limit of tokens or `limit`."""
    own = model.sampling
    sampling = Sampling(temperature, 1.0, limit or own.max_new_tokens, own.stop)
    jobs = [Job(text, len(text), f"problem {i}", 0, s) for i, text in enumerate(prompts) for s in range(samples)]
    if samples < SHARED:
        jobs.sort(key=lambda job: job.sample)
    texts = [[""] * samples for _ in prompts]
    tokens = np.zeros((len(prompts), samples), dtype=int)
    for job, completion in model.generate(jobs, sampling=sampling, seed=seed):
        problem = int(job.trace.removeprefix("problem "))
        texts[problem][job.sample] = completion.text
        tokens[problem, job.sample] = completion.tokens
    return Asked(texts, [[extract_answer(text) for text in row] for row in texts], tokens)


def forced(model: LensModel, prompts: Sequence[str], reasonings: Sequence[str]) -> list[str | None]:
    """The answer a model gives after it was handed a trace for each prompt."""
    stub = model.stub.before.rstrip(" ")
    texts = [prompt + reasoning + stub for prompt, reasoning in zip(prompts, reasonings, strict=True)]
    return [extract_answer(stub + row[0]) for row in ask(model, texts, limit=48).texts]


def right_answers(
    world: World, problems: Sequence[Any], answers: Sequence[Sequence[str | None]]
) -> Bool[np.ndarray, "problem sample"]:
    """Which answers are right: the gold one, or on `maze` any plan that leads to the goal."""
    from anchors.lab.mazes import valid_plan

    if world.name == "maze":
        judged = [[a is not None and valid_plan(p, a) for a in row] for p, row in zip(problems, answers, strict=True)]
    else:
        judged = [[a == world.gold(p) for a in row] for p, row in zip(problems, answers, strict=True)]
    return np.array(judged, dtype=bool)


def units(per_rung: Sequence[Float[np.ndarray, " problem"]]) -> Float[np.ndarray, " unit"]:
    """One value an independent unit: the problems of the only rung, or the mean of each of several."""
    return per_rung[0] if len(per_rung) == 1 else np.array([x.mean() for x in per_rung])


def unit_name(per_rung: Sequence[Any]) -> str:
    return "problems" if len(per_rung) == 1 else "training seeds"


def difference(
    name: str, first: Sequence[np.ndarray], second: Sequence[np.ndarray], *, unit: str = "of problems"
) -> Finding:
    """Mean paired difference of two arms, one array [problem] a rung each."""
    paired = [a.astype(float) - b.astype(float) for a, b in zip(first, second, strict=True)]
    return mean_finding(name, units(paired), of=unit_name(paired), unit=unit)


def competence(accuracy: Mapping[str, Sequence[np.ndarray]], *, ceiling: float = 1.0) -> str:
    """A note that gives each arm's share of right answers beside the ceiling of its targets."""
    shares = ", ".join(f"{arm} {np.mean([np.mean(x) for x in per]):.3f}" for arm, per in accuracy.items())
    return f"right answers: {shares}; the targets of every arm allow {ceiling:.2f}"


def one_model_note(setting: Setting) -> str:
    """What the independent unit leaves out."""
    if setting.preset == "full":
        return f"{SEEDS} models an arm, trained from different seeds; the interval covers training seeds"
    return "one model an arm: the interval covers problems, not training seeds; `full` retrains over seeds"
