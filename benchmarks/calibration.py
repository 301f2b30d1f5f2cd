"""How far the small models are from the programs they learned, and at which sentences.

    python benchmarks/calibration.py                                  # every shipped model of the normal and draft regimes
    python benchmarks/calibration.py reasoner drafter --traces 12 -n 500

Printed for each: the mean total variation between its answers and the exact distribution at the boundaries of traces the
world wrote [95 %, bootstrap over traces] beside that of a perfect copy; the probability of the right verdict at self-checks,
after a slip and after none; and, without sampling, the total variation between its next sentence and the world's, by the
category of the sentence that is due.
"""

from __future__ import annotations

import argparse
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from anchors import load_model
from anchors.lab.evaluate import calibration, self_checks, sentence_distances
from anchors.lab.recipes import CALIBRATED, LADDER, RECIPES
from anchors.lab.regimes import regime_world
from anchors.lab.worlds import World, write
from anchors.stats import cluster_bootstrap, pooled_mean


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how far small models are from their worlds' programs.")
    known = [name for name, recipe in RECIPES.items() if recipe.regime in CALIBRATED and name not in LADDER]
    parser.add_argument("names", nargs="*", default=known, help=f"shipped models (default: {', '.join(known)})")
    parser.add_argument("--traces", type=int, default=12)
    parser.add_argument("-n", type=int, default=500, help="rollouts a boundary")
    parser.add_argument("--checks", type=int, default=100, help="self-checks after a slip, and as many after none")
    options = parser.parse_args()
    for name in options.names:
        model, recipe = load_model(f"lab/{name}"), RECIPES[name]
        world = regime_world(recipe.program, recipe.regime)
        found = calibration(model, world, traces=options.traces, n=options.n)
        print(
            f"{name}: {options.traces} traces, {found.boundaries} boundaries, n = {options.n}: total variation {found.tv:.3f} "
            f"[{found.tv_low:.3f}, {found.tv_high:.3f}], a perfect copy {found.tv_floor:.3f}",
            flush=True,
        )
        told = self_checks(model, world, checks=options.checks)
        print(
            f"  right verdict of a self-check: {told.finds_slip:.3f} after a slip, {told.passes_right:.3f} after none "
            f"({told.checks} checks)",
            flush=True,
        )
        for category, distances in by_category(model, world, 4 * options.traces).items():
            low, high = cluster_bootstrap(distances, pooled_mean)
            mean, count = pooled_mean(distances), sum(map(len, distances))
            print(f"  next sentence, {category}: {mean:.3f} [{low:.3f}, {high:.3f}] ({count})", flush=True)


def by_category(model: Any, world: World, traces: int) -> dict[str, Sequence[Sequence[float]]]:
    """Distances of next sentences, a list a trace, by the category of the likeliest one."""
    rng = random.Random("sentences 0")
    found: dict[str, list[list[float]]] = defaultdict(list)
    for _ in range(traces):
        written = write(world, world.problem(rng), rng)
        here: dict[str, list[float]] = defaultdict(list)
        for state, distance in zip(written.states, sentence_distances(model, world, written), strict=True):
            due = max(world.moves(state), key=lambda move: move.probability, default=None)
            here[due.category if due is not None else "final_answer_emission"].append(distance)
        for category, distances in here.items():
            found[category].append(distances)
    return dict(sorted(found.items()))


if __name__ == "__main__":
    main()
