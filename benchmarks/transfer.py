"""Is the transfer test right? Planted pairs of writer and reader, nulls, coverage, power, compression, shift, cost.

1. `planted`: anchors of `lab/reasoner` read by models trained on the same program (another seed, shape or tokenizer) and
   by models whose answers do not use the trace. The world's exact truth says what each pair must give.
2. `null`: random scores in the writer's place, many times over; how often "transfers" would be said.
3. `coverage`: d simulated with a known effect; how often the interval holds it. `power`: the table of our own design.
4. `curves`: every compressor on every budget, raw and with the answer stripped, short traces with their true ceiling.
   `shift`: d along each axis, and the figure of all axes.
5. `speed`: one trace with every operation, and batched readings against one forward each, equality checked.

Rollouts are kept under --out and continued, as are the readings.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from timing import MODELS
from transfer_cost import speed
from transfer_shared import MATRIX, fewer, interval, read, save, writer_runs
from transfer_shift import shift

from anchors import Rollouts, Scores, counterfactual_importance, load_model, resample_traces
from anchors.experiments.transfer_runs import RELAXED
from anchors.lab.oracle import same_event
from anchors.lab.truth import exact_resampling_importance, read_trace
from anchors.lab.worlds import load_world
from anchors.models import lab_models
from anchors.stats import simulate_power, t_interval, wilson_interval
from anchors.transfer import Transfer, transfer_matrix
from anchors.transfer.inputs import half, select_anchors
from anchors.transfer.matching import covariates, match_sets
from anchors.transfer.retention import estimated_effects, mean_over_traces, sides

READERS = ("reasoner-b", "reasoner-char", "drafter", "swapped", "answer-only")
EXPECTED = {
    "reasoner-b": "transfers",
    "reasoner-char": "transfers",
    "drafter": "either (knows the program, not this wording)",
    "swapped": "does not, or gate",
    "answer-only": "does not, or gate",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Check the transfer test on models and data whose answer is known.")
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--traces", type=int, default=40)
    parser.add_argument("-n", type=int, default=100, help="the writer's rollouts a boundary")
    parser.add_argument("--continuations", type=int, default=50, help="the reader's, a boundary")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument(
        "--restricted",
        nargs=2,
        default=["mini-restricted", "mini-restricted-three"],
        metavar="MODEL",
        help="readers of the task axis: trained on one task, and on the three of CMP",
    )
    parser.add_argument("--figures", type=Path, default=Path("docs"), help="where shift and matrix leave their figures")
    options = parser.parse_args()
    for part in options.parts:
        started = time.perf_counter()
        print(f"\n## {part}", flush=True)
        PARTS[part](options)
        print(f"({time.perf_counter() - started:.0f} s)", flush=True)


# -- planted pairs ----------------------------------------------------------------------------------------------------


def planted(options: argparse.Namespace) -> None:
    runs = writer_runs("expression", options)
    writer = load_model("lab/reasoner")
    print(
        f"{len(runs)} traces of lab/reasoner, {sum(len(r.trace) for r in runs)} sentences; d in probability or nats a token"
    )
    print(f"{'reader':14s} {'outcome':9s} {'verdict':18s} {'d [95 %]':28s} {'writer d':9s} {'retained':20s} expected")
    print(
        f"exact truth of the world for these anchors and controls: d = {interval(exact_d(runs))}; "
        "for a reader that ignores its trace: 0"
    )
    for name in READERS:
        if name not in lab_models():
            print(f"{name:14s} skipped, not built (make zoo)")
            continue
        for outcome in ("handover", "forced"):
            found = read(runs, name, outcome, options, writer=writer)
            print_planted(name, outcome, found)


def exact_d(runs: Sequence[Rollouts]) -> Any:
    """d of the same anchors and controls by the world's exact resampling importance, on traces that are on the program."""
    world, values = load_world("expression"), []
    for run in runs:
        try:
            states = read_trace(world, run.trace).states
        except ValueError:
            continue
        exact = exact_resampling_importance(world, states, str(run.trace.answer))
        scores = counterfactual_importance(half(run, 0), similarity=same_event(world), outcome=str(run.trace.answer))
        parts = matched_sides(run, scores, 0)
        values.append(estimated_effects(exact, parts).d if parts else np.nan)
    return mean_over_traces(values)


def matched_sides(run: Rollouts, scores: Scores, seed: int) -> list[Any]:
    """Anchors of these scores and their matched controls, by sign."""
    chosen = select_anchors(scores, k=3, fdr=0.05)
    if run.trace.id not in _MATCHED:
        _MATCHED[run.trace.id] = covariates(run.trace, _writer(), answer=str(run.trace.answer))
    taken = [] if np.isnan(scores.p).all() else scores.anchors(fdr=0.05)
    found = match_sets(_MATCHED[run.trace.id], chosen, taken=taken, sets=5, calipers=RELAXED, seed=seed)
    return sides(found, {i: float(np.sign(scores.values[i])) for i in found.anchors})


def print_planted(name: str, outcome: str, found: Transfer) -> None:
    d = found.retention[0].reader
    writer = found.retention[0].writer
    ratio = found.retention[0].ratio
    kept = "" if ratio is None else f"{ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}]"
    wrote = "" if writer is None else f"{writer.value:+.3f}"
    cells = f"{name:14s} {outcome:9s} {found.verdict:18s} {interval(d):28s} {wrote:9s} {kept:20s} {EXPECTED[name]}"
    print(cells)
    print(f"{'':14s} {found.reason}")
    if found.rank is not None and outcome == "handover":
        r = found.rank
        print(
            f"{'':14s} rank {r.spearman.value:+.2f} [{r.spearman.low:+.2f}, {r.spearman.high:+.2f}], ceiling {r.ceiling:.2f}; "
            f"top-k overlap {r.overlap:.2f} (chance {r.chance:.2f}); {found.traces} traces, {found.unmatched} of "
            f"{found.anchors + found.unmatched} anchors unmatched, {len(found.excluded)} traces left out",
            flush=True,
        )


def matrix(options: argparse.Namespace) -> None:
    """All pairs of models that write and read the expression world, both directions, on a part of the traces."""
    names = [n for n in ("reasoner", "reasoner-b", "reasoner-char") if n in lab_models()]
    few = fewer(options, MATRIX, out=options.out / "matrix")
    runs = {n: writer_runs("expression", few, writer=n) for n in names}
    readers = {n: load_model(f"lab/{n}") for n in [*names, "swapped", "answer-only"] if n in lab_models()}
    settings: dict[str, Any] = {"calipers": RELAXED, "n": few.continuations, "outcome": "handover"}
    settings |= {"similarity": same_event(load_world("expression")), "out": few.out / "readings"}
    found = transfer_matrix(runs, readers, **settings)
    print(found)
    print("d one way less d the other: " + ", ".join(f"{a} / {b} {gap:+.3f}" for (a, b), gap in found.gaps.items()))
    save(found.plot(), options, "transfer_matrix")


# -- nulls, coverage, power -------------------------------------------------------------------------------------------


def null(options: argparse.Namespace) -> None:
    """Random scores as the writer's, over the reader's measured single effects; the whole selection is redone each time."""
    runs = writer_runs("expression", options)
    for reader in ("reasoner-b", "reasoner"):
        for outcome in ("handover", "forced"):
            singles = single_effects(runs, reader, outcome, options)
            fires = sum(random_run(runs, singles, seed) for seed in range(REPETITIONS))
            low, high = wilson_interval(fires, REPETITIONS)
            print(
                f"{reader} {outcome}: random anchors 'transfer' in {fires} of {REPETITIONS} runs of {len(runs)} traces "
                f"({fires / REPETITIONS:.1%} [{low:.1%}, {high:.1%}]; at most 5 % allowed)",
                flush=True,
            )


REPETITIONS = 200


def single_effects(
    runs: Sequence[Rollouts], reader: str, outcome: str, options: argparse.Namespace
) -> list[np.ndarray]:
    """Effect of every single sentence in the reader."""
    from anchors.reading import shares
    from anchors.transfer.measure import Ask, Operations, set_effects

    model, found = load_model(f"lab/{reader}"), []
    if outcome == "handover":
        folder = options.out / f"reader-{reader}"
        read_runs = resample_traces([r.trace for r in runs], model, n=options.continuations, seed=1, out=folder)
        for run in read_runs:
            p = shares([run.answers(k) for k in range(len(run.trace) + 1)], str(run.trace.answer))
            found.append(np.diff(p))
        return found
    for run in runs:
        ask = Ask(model, "forced", str(run.trace.answer), 1, 0)
        found.append(set_effects(run.trace, ask, [[i] for i in range(len(run.trace))], "delete", Operations()))
    return found


_MATCHED: dict[str, Any] = {}


@cache
def _writer() -> Any:
    return load_model("lab/reasoner")


def random_run(runs: Sequence[Rollouts], singles: Sequence[np.ndarray], seed: int) -> bool:
    """Whether one run with random scores ends with an interval above 0."""
    rng, values = np.random.default_rng([seed, 7]), []
    for run, effects in zip(runs, singles, strict=True):
        scores = Scores.of(run.trace, "random", rng.normal(size=len(run.trace)), unit="")
        values.append(estimated_effects(effects, matched_sides(run, scores, seed)).d)
    return bool(mean_over_traces(values).low > 0)


def coverage(options: argparse.Namespace) -> None:
    """d = effect + trace deviation + noise of counted rollouts; share of intervals that hold the effect."""
    rng = np.random.default_rng(options.seed)
    print(
        f"{'traces':>6s} {'effect':>7s} {'t interval':>12s} {'bootstrap':>12s}   (1,000 simulations, binomial arms of 50)"
    )
    for traces in (10, 20, 40):
        for effect in (0.0, 0.1, 0.3):
            held = np.zeros(2)
            for _ in range(1000):
                true = effect + rng.normal(0, 0.08, traces)
                kept, gone = (rng.binomial(50, np.clip(0.5 + half, 0, 1)) for half in (true / 2, -true / 2))
                d = (kept - gone) / 50
                low, high = t_interval(d)
                boot = np.quantile(d[rng.integers(traces, size=(400, traces))].mean(1), [0.025, 0.975])
                held += [low <= effect <= high, boot[0] <= effect <= boot[1]]
            print(f"{traces:6d} {effect:7.2f} {held[0] / 1000:12.1%} {held[1] / 1000:12.1%}")


def power(options: argparse.Namespace) -> None:
    """The design of the specification's power table, and its figures (not ours) beside it."""
    table = {
        (20, 20): (0.05, 0.13, 0.30, 0.86), (50, 20): (0.04, 0.22, 0.53, 0.98), (50, 40): (0.04, 0.43, 0.86, 1.0),
        (100, 10): (0.08, 0.14, 0.35, 0.89), (100, 40): (0.06, 0.58, 0.96, 1.0), (100, 80): (0.05, 0.87, 1.0, 1.0),
    }  # fmt: skip
    print("rollouts traces   effect 0       .03          .05          .10        (specification's figure in brackets)")
    for (rollouts, traces), known in table.items():
        cells = []
        for effect, before in zip((0.0, 0.03, 0.05, 0.10), known, strict=True):
            found = simulate_power(traces, rollouts, effect=effect, simulations=1000, seed=options.seed)
            cells.append(f"{found.value:.2f} ({before:.2f})")
        print(f"{rollouts:8d} {traces:6d}   " + "  ".join(cells), flush=True)


# -- compression ------------------------------------------------------------------------------------------------------


def curves(options: argparse.Namespace) -> None:
    for world, reader in (("expression", "reasoner-b"), ("alchemy", "alchemist")):
        runs = writer_runs(world, options)
        for method in ("counterfactual", "suppression"):
            given = runs if method == "counterfactual" else white_box(runs, MODELS[world])
            more: dict[str, Any] = {"world": world, "itself": True, "compressors": "all", "corrupt": True}
            found = read(given, reader, "forced", options, writer=load_model(MODELS[world]), **more)  # type: ignore[arg-type]
            print(
                f"\n{world}: {found.writer} ({method}) -> {found.reader}, {found.traces} traces; normalised area by arm"
            )
            print_curves(found)


def white_box(runs: Sequence[Rollouts], model: str) -> list[Scores]:
    from anchors import suppress

    loaded = load_model(model)
    return [suppress(run.trace, loaded) for run in runs]


def print_curves(found: Transfer) -> None:
    for arm in dict.fromkeys(c.arm for c in found.curve):
        rows = sorted((c for c in found.curve if c.arm == arm), key=lambda c: -c.area if c.area == c.area else np.inf)
        print(f"  {arm}")
        if all(c.area != c.area for c in rows):
            print("    undefined: in this arm the whole trace is no better than none")
            continue
        for c in rows:
            gain = (
                ""
                if c.gain != c.gain
                else f"anchors less it {c.gain:+.3f} [{c.gain_low:+.3f}, {c.gain_high:+.3f}] p {c.p:.2g}"
            )
            print(f"    {c.compressor:21s} {c.area:+.3f} [{c.area_low:+.3f}, {c.area_high:+.3f}]  {gain}")
    if found.controls is not None:
        for c in found.controls.contrasts:
            print(f"  {c.name:20s} {c.formula:55s} {interval(c.difference)}, Holm p {c.p_holm:.2g}")
        print(f"  recovery: {found.controls.recovery}", flush=True)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "planted": planted, "matrix": matrix, "null": null, "coverage": coverage, "power": power, "curves": curves,
    "shift": shift, "speed": speed,
}  # fmt: skip


if __name__ == "__main__":
    main()
