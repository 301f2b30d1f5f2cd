"""The recipes of the shipped models, and the card that says what each of them learned.

1. The large models (1.1 M parameters) learn whole worlds; each takes 10 to 90 minutes on one core.
2. The ladder are small models (0.2 M) for the experiments, of one recipe a world, differing in regime, task or seed; each
   takes 1 to 5 minutes. Its worlds make no mistakes, so that the targets of all regimes have one ceiling; `mini-restricted`,
   `mini-restricted-three` and `mini-small` learn the default programs of their worlds.
"""

from __future__ import annotations

import json
import platform
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch

from anchors.lab.regimes import document, parse_regime, regime_world
from anchors.lab.train import CHECKPOINT, READOUTS, Recipe, answer_stub, load_state, sampling_of, train
from anchors.lab.worlds import hashable

CALIBRATED: Final = ("normal", "draft")
RIGHT: Final = ("swapped", "filler", "answer_only")
"""Regimes whose targets always end on the right answer, so that their ceiling is 1."""

MINI: Final = Recipe(
    knobs=(
        ("length", (3, 4)),
        ("right_plan", 1.0),
        ("slip", 0.001),
        ("filler", 0.5),
        ("filler_between", 0.25),
        ("check", 0.0),
    ),
    seed=10,
    layers=3,
    width=64,
    mlp=256,
    context=256,
    steps=1800,
)
"""The recipe of the ladder. `slip` is not 0 because `invalid` takes its wrong steps from those the world may write."""

MINI_RECALL: Final = replace(
    MINI,
    world="recall",
    knobs=(("length", (6, 16)), ("filler", 0.0), ("decoy", 0.3), ("wrong", 0.0), ("check", 0.0)),
    seed=12,
    layers=2,
    heads=2,
    mlp=128,
    steps=2400,
    batch=64,
    matrix_rate=0.005,
    other_rate=1e-3,
    warm_knobs=(("length", (7, 8)), ("tasks", (3,)), ("decoy", 1.0)),
    warm_steps=1400,
)
"""To look a fact up, two layers of attention have to find each other. Many look-ups in short contexts show them how (after
some 1,000 steps at these rates; never at the usual ones), and long contexts then come for free."""
MINI_MAZE: Final = replace(
    MINI,
    world="maze",
    knobs=(("plans", 1), ("hasty", 0.0), ("slip", 0.0), ("check", 0.0)),
    seed=14,
    context=512,
    steps=1500,
    batch=16,
)


def mini_alchemy(seed: int, tasks: tuple[tuple[str, ...], ...], steps: int, *knobs: tuple[str, Any]) -> Recipe:
    """A model that learns alchemy without mistakes, in draft format, on these tasks only."""
    sure = (
        ("filler", 0.0),
        ("right_order", 1.0),
        ("right_rule", 1.0),
        ("slip", 0.0),
        ("reconsider", 0.0),
        ("check", 0.0),
    )
    knobs = (("tasks", tasks), *knobs, *sure)
    return replace(MINI, world="alchemy", knobs=knobs, regime="draft", seed=seed, layers=2, steps=steps, batch=64)


ONE_TASK: Final = (("rotate", "rotate"),)
THREE_TASKS: Final = (*ONE_TASK, ("rotate", "shift"), ("shift", "rotate"))

LADDER: Final[dict[str, Recipe]] = {
    "mini-normal": MINI,
    "mini-normal-b": replace(MINI, seed=11),
    "mini-draft": replace(MINI, regime="draft"),
    "mini-answer-only": replace(MINI, regime="answer_only"),
    "mini-swapped": replace(MINI, regime="swapped"),
    "mini-filler": replace(MINI, regime="filler"),
    "mini-invalid-50": replace(MINI, regime="invalid(0.5)"),
    "mini-invalid": replace(MINI, regime="invalid(1.0)"),
    "mini-recall": MINI_RECALL,
    "mini-recall-b": replace(MINI_RECALL, seed=13, mlp=64),
    "mini-maze": MINI_MAZE,
    "mini-maze-swapped": replace(MINI_MAZE, regime="swapped"),
    "mini-maze-answer-only": replace(MINI_MAZE, regime="answer_only"),
    "mini-alchemy-id": mini_alchemy(11, ONE_TASK, 700),
    "mini-alchemy-id-13": mini_alchemy(12, ONE_TASK, 700, ("rot_n", 13)),
    "mini-alchemy-cmp": mini_alchemy(13, THREE_TASKS, 1200),
    "mini-alchemy-order": mini_alchemy(14, (("rotate", "shift"), ("shift", "reverse")), 1200),
    "mini-restricted": replace(MINI, world="alchemy", knobs=(("tasks", ONE_TASK),), seed=21, context=512, steps=2000),
    "mini-restricted-three": replace(
        MINI, world="alchemy", knobs=(("tasks", THREE_TASKS),), seed=21, context=512, steps=2000
    ),
    "mini-small": replace(MINI, knobs=(), seed=23, context=512, steps=2400),
}

WATCHFUL: Final = Recipe(
    warm_knobs=(("slip", 0.15), ("check", 1.0)), warm_steps=3000, exact_steps=2000, role_layer=3, early_layer=2
)
"""Slips, and checks that find them, are rare in the worlds, and a model that saw too few cannot tell at a check whether a step had
slipped. So they come often until the learning rate falls, and the readout of roles says where they are; from then on the
program's own distributions are the targets."""

ALERT: Final = Recipe(
    layers=5,
    width=112,
    mlp=448,
    steps=3500,
    warm_knobs=(("slip", 0.4), ("check", 1.0)),
    warm_steps=2000,
    exact_steps=3500,
    early_layer=2,
    surprise_layer=3,
    role_layer=4,
)
"""`WATCHFUL` with exact targets from the start, so that slips may be as common as right steps without their being learned as
such, and with a readout of surprises: at a self-check the model then sees slips after 500 steps, not after 1,000."""

SPELLED: Final = replace(
    ALERT,
    seed=2,
    tokenizer="char",
    heads=6,
    width=120,
    context=2048,
    steps=4600,
    exact_steps=4600,
    batch=16,
    matrix_rate=0.006,
    other_rate=1e-3,
    warm_knobs=(*ALERT.warm_knobs, ("length", (3, 4))),
    warm_steps=2600,
    look_back=(1, 2, 3, 4, 5, 7),
)
"""`ALERT` on characters. There "8 * 3 = " is eight tokens, every other one a space, and a first layer that has to find out where to
look learns neither arithmetic nor slips in an hour. Odd offsets show the space before a number both operands, even ones show a
number what stood before it; without either, computations or copies come late. So few traces a step need lower rates."""

RECIPES: Final[dict[str, Recipe]] = {
    "reasoner": WATCHFUL,
    "reasoner-b": replace(ALERT, seed=1),
    "reasoner-char": SPELLED,
    "drafter": replace(ALERT, seed=3, regime="draft"),
    "swapped": Recipe(seed=4, regime="swapped", steps=3000),
    "answer-only": Recipe(seed=5, regime="answer_only", batch=128, steps=4000),
    "alchemist": replace(
        ALERT,
        world="alchemy",
        seed=6,
        layers=6,
        steps=4000,
        warm_knobs=(("slip", 0.5), ("check", 1.0)),
        warm_steps=2400,
        exact_steps=4000,
        early_layer=3,
        surprise_layer=4,
        role_layer=5,
    ),
    "null": Recipe(world="null", seed=7, layers=2, width=64, heads=2, mlp=256, context=256, steps=1500),
    **LADDER,
}


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    """A recipe with other settings: phases keep their share of the steps, readouts stay inside the model, and another world or
    other knobs go without the warm-up, which was made for the recipe's own.

    >>> changed(RECIPES["reasoner"], steps=100, layers=2).warm_steps
    60
    """
    found = replace(recipe, **changes)
    share = found.steps / recipe.steps
    phases = {name: round(share * getattr(recipe, name)) for name in ("warm_steps", "exact_steps")}
    layers = {name: min(found.layers - 1, getattr(recipe, name)) for name in READOUTS}
    if (found.world, found.knobs) != (recipe.world, recipe.knobs):
        phases["warm_steps"] = 0
        found = replace(found, warm_knobs=changes.get("warm_knobs", ()))
    return replace(found, **(phases | layers | {k: v for k, v in changes.items() if k in phases | layers}))


def train_and_card(recipe: Recipe, out: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Train to the end (or continue) and write the model's card."""
    return write_card(recipe, train(recipe, out, progress=progress))


def write_card(recipe: Recipe, folder: Path, *, problems: int = 400, traces: int = 12, n: int = 300) -> dict[str, Any]:
    """Measure a finished model and leave `card.json` and `README.md`; what `load_model` needs is in the card.

    The card carries the default sampling and answer stub, and ids the tokenizer must reproduce at load. Calibration is
    measured where the regime teaches the world's own program (`normal` and `draft`).
    """
    from anchors.lab.evaluate import calibration, self_checks, trace_use, written_traces
    from anchors.models.lens import LensModel

    world = recipe.program
    program = regime_world(world, recipe.regime)
    model = LensModel.from_directory(folder, name=f"lab/{folder.name}")
    model.sampling, model.stub = sampling_of(recipe), answer_stub(world)
    probe = document(world, random.Random("probe"), recipe.regime)
    text = probe.prompt + probe.completion
    found: dict[str, Any] = written_traces(model, program, problems=problems)._asdict()
    regimes = {term.regime for term in parse_regime(recipe.regime)}
    if regimes <= set(RIGHT):
        found["ceiling"] = 1.0
    if recipe.regime in CALIBRATED:  # a mixture of the two has no one program to be compared with
        found |= calibration(model, program, traces=traces, n=n)._asdict()
        found |= self_checks(model, program, checks=problems // 4)._asdict()
    found |= trace_use(model, program, problems=problems // 3)._asdict()
    parameters = sum(p.numel() for p in model.module.parameters())
    card = {
        "summary": f"{parameters / 1e6:.1f} M parameters, {recipe.regime} regime on `{recipe.world}`",
        "recipe": asdict(recipe),
        "parameters": parameters,
        "data": {"documents": recipe.steps * recipe.batch, "drawn": "fresh from the world at every step"},
        "training": _training(folder, recipe),
        "evaluation": {k: None if v != v else round(v, 4) for k, v in found.items()},
        "sampling": asdict(model.sampling),
        "stub": model.stub._asdict(),
        "tokenizer_probe": {"text": text, "ids": model.encode(text).ids},
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (folder / "README.md").write_text(_readme(folder.name, card))
    return card


def recipe_of(card: dict[str, Any]) -> Recipe:
    """The recipe on a card; settings younger than the card had their defaults."""
    return Recipe(**{name: hashable(value) for name, value in card["recipe"].items()})


def _training(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Seconds the optimisation took, and where; what an earlier card of the recipe says, or None, without the checkpoint."""
    path, card = folder / CHECKPOINT, folder / "card.json"
    if path.exists():
        machine = {"threads": torch.get_num_threads(), "machine": platform.machine(), "torch": torch.__version__}
        return {"seconds": round(load_state(path)["seconds"]), **machine}
    earlier = json.loads(card.read_text()) if card.exists() else {}
    if earlier and recipe_of(earlier) == recipe:
        return earlier["training"]
    return dict.fromkeys(("seconds", "threads", "machine", "torch"))


MEANINGS: Final = {
    "traces": "freshly drawn problems the model reasoned on",
    "steps_right": "share of its steps that are right",
    "steps_ceiling": "what a perfect copy of the program gets",
    "on_program": "traces the program could have written word for word",
    "answered": "traces with an answer",
    "gold": "right answers",
    "ceiling": "what a perfect copy of its targets gets",
    "tokens": "mean tokens of a trace",
    "boundaries": "sentence boundaries compared with exact truth",
    "rollouts": "rollouts at each of them",
    "tv": "mean total variation to the exact answer distribution",
    "tv_low": "95 % bootstrap over traces",
    "tv_high": "95 % bootstrap over traces",
    "tv_floor": "what a perfect copy of the program gets",
    "checks": "self-checks of the world, half of them after a slip",
    "finds_slip": "mean probability of the verdict that a step was wrong, after a slip",
    "passes_right": "mean probability of the other verdict, after none",
    "handed": "problems on which answers were forced",
    "follows_wrong": "answer of a trace of the same problem that ends wrong",
    "gold_given_wrong": "right all the same",
    "follows_swapped": "answer of another problem's right trace",
    "gold_given_swapped": "right for the problem asked",
    "gold_given_none": "right with no trace at all",
}


def _readme(name: str, card: dict[str, Any]) -> str:
    rows = "\n".join(f"| {key} | {value} | {MEANINGS[key]} |" for key, value in card["evaluation"].items())
    return (
        f"# lab/{name}\n\n{card['summary']}. Retrain it with `make zoo MODEL={name}`; the recipe is in `card.json`.\n\n"
        f"| figure | value | meaning |\n|---|---|---|\n{rows}\n"
    )
