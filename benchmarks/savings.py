"""What stopping early saves, and what it costs: anchors found, tokens, coverage, false discoveries, time.

1. Truth: the world's own program continues its own traces, so every importance is known exactly. The adaptive run holds a
   part of the full sweep's rollouts; a second full sweep of other rollouts says how well a full sweep finds its own anchors
   again, which is the most any method can be expected to find of them.
2. Null: in that world nothing matters, so a trace with an anchor is a false discovery.
3. Replay: full sweeps of the shipped models, of which an adaptive run is shown what it asks for. Large, false and covered
   are still the world's own truth, so what a model has not learned counts as error there.
4. `--bill`: predicted against real tokens and time, on settings the bill has not seen.
5. `--end-to-end`: time to the anchors against Hugging Face `generate`, n rollouts a prefix, on the same weights in the same
   run; it is timed on a random part of the boundaries, and scaled to all by their number. Its answers
   there and those of our full sweeps have one distribution, or the run fails.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from timing import MODELS, same_distribution

from anchors import Rollouts, Trace, load_model, resample, resample_traces, resampling_importance, write_trace
from anchors.answers import NO_ANSWER, extract_answer
from anchors.lab import world_trace
from anchors.lab.oracle import WorldModel
from anchors.lab.truth import truth_scores
from anchors.lab.worlds import World, load_world
from anchors.models.base import Completion
from anchors.resampling import plan_resampling
from anchors.stats import cluster_bootstrap, wilson_interval
from anchors.stopping import Anchors

SHORTEST = 6
FIRST_SEED = 10_000
"""Traces the rule's defaults were not chosen on (those had seeds below 100)."""


class Row(NamedTuple):
    """One trace: anchors of the full sweep and how many were found again, by the adaptive run and by a second sweep; the
    exactly large ones and how many each found; the adaptive run's anchors and false ones; coverage; shares of tokens."""

    reference: int
    again: int
    second: int
    large: int
    large_found: int
    large_full: int
    named: int
    false: int
    inside: float
    spent: float


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what stopping early saves.")
    parser.add_argument("--traces", type=int, default=100)
    parser.add_argument("--replays", type=int, default=20, help="traces of each shipped model")
    parser.add_argument("-n", type=int, default=100, help="rollouts a boundary of the full sweep")
    parser.add_argument("--worlds", default="expression,alchemy,null")
    parser.add_argument("--large", type=float, default=0.25, help="exact importance that must be found")
    parser.add_argument("--rules", type=int, default=4, help="how many settings of the rule, the default first")
    parser.add_argument("--hugging-face", type=int, default=12, help="boundaries Hugging Face is timed on, end to end")
    parser.add_argument("--end-to-end-traces", type=int, default=16)
    parser.add_argument("--end-to-end-world", default="expression", choices=sorted(MODELS), help="whose model is timed")
    parser.add_argument("--bill", action="store_true", help="only the bill")
    parser.add_argument("--end-to-end", action="store_true", help="only the time against Hugging Face generate")
    options = parser.parse_args()
    if options.bill:
        bill()
    elif options.end_to_end:
        end_to_end(options)
    else:
        for name in options.worlds.split(","):
            null(options) if name == "null" else planted(name, options)


# -- anchors and tokens ------------------------------------------------------------------------------------------------


def planted(name: str, options: argparse.Namespace) -> None:
    """The world's own rollouts, then the shipped model's."""
    world, started = load_world(name), time.perf_counter()
    traces = list(long_traces(world, options.traces))
    for stop in (Anchors(), Anchors(minimum=0.2), Anchors(k=3), Anchors(growth=0.5))[: options.rules]:
        report(
            f"{name}, world's own rollouts, {stop_words(stop)}", rows(traces, WorldModel(world), world, stop, options)
        )
    model = load_model(MODELS[name])
    few = traces[: options.replays]
    report(f"{name}, replay of {model.name}, {stop_words(Anchors())}", rows(few, model, world, Anchors(), options))
    print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)


def long_traces(world: World, wanted: int) -> Iterator[Trace]:
    seed = FIRST_SEED
    while wanted:
        trace = world_trace(world, seed=seed)
        seed += 1
        if len(trace) >= SHORTEST:
            wanted -= 1
            yield trace


def stop_words(stop: Anchors) -> str:
    changed = {k: v for k, v in stop.__dict__.items() if v != getattr(Anchors(), k)}
    return f"Anchors({', '.join(f'{k}={v}' for k, v in changed.items())})"


_FULL: dict[tuple[str, str, int], Rollouts] = {}


def full_sweep(trace: Trace, model: Any, n: int, seed: int) -> Rollouts:
    key = model.name, trace.id, seed
    if key not in _FULL:
        _FULL[key] = resample(trace, model, n=n, seed=seed, progress=False)
    return _FULL[key]


class Replayed:
    """A model that gives out the rollouts of a stored sweep."""

    def __init__(self, run: Rollouts, model: Any) -> None:
        self.name, self.sampling = model.name, model.sampling
        self.stored = {(k, r.sample): r for k in range(len(run.trace) + 1) for r in run.at(k)}

    def generate(self, jobs: Any, *, sampling: Any, seed: int) -> Iterator[tuple[Any, Completion]]:
        for job in jobs:
            r = self.stored[job.position, job.sample]
            yield job, Completion(r.text, r.tokens, r.finish)


def rows(
    traces: Sequence[Trace], model: Any, world: World, stop: Anchors, options: argparse.Namespace
) -> Iterator[Row]:
    for trace in traces:
        full, other = (full_sweep(trace, model, options.n, seed) for seed in (0, 1))
        run = resample(trace, Replayed(full, model), n=options.n, stop=stop, progress=False)
        exact = truth_scores(trace, world, kind="resampling").values
        scores = resampling_importance(run)
        found = top(scores, stop)
        reference, second = (top(resampling_importance(sweep), stop) for sweep in (full, other))
        order = np.argsort(-np.abs(exact), kind="stable")[: stop.k]
        large = {int(i) for i in order if abs(exact[i]) >= options.large}
        inside = (scores.low - 1e-9 <= exact) & (exact <= scores.high + 1e-9)
        yield Row(
            len(reference), len(reference & found), len(reference & second), len(large), len(large & found),
            len(large & reference), len(found), sum(abs(exact[i]) < 1e-9 for i in found), float(inside.mean()),
            run.cost().tokens / full.cost().tokens,
        )  # fmt: skip


def top(scores: Any, stop: Anchors) -> set[int]:
    """The k largest of the anchors at the rule's false-discovery rate."""
    found = scores.anchors(fdr=stop.fdr)
    return set(sorted(found, key=lambda i: -abs(scores.values[i]))[: stop.k])


def report(what: str, found: Iterator[Row]) -> None:
    table = list(found)
    if not table:
        return
    sums = {name: sum(getattr(row, name) for row in table) for name in Row._fields}
    fdr = [row.false / max(1, row.named) for row in table]
    low, high = cluster_bootstrap([[1 - row.spent] for row in table])
    print(
        f"\n{what}: {len(table)} traces\n"
        f"  tokens saved: {1 - sums['spent'] / len(table):.3f} [{low:.3f}, {high:.3f}] (mean over traces)\n"
        f"  large anchors found: {share(sums['large_found'], sums['large'])}; by the full sweep "
        f"{share(sums['large_full'], sums['large'])}\n"
        f"  full sweep's anchors found: {share(sums['again'], sums['reference'])}; by a second full sweep "
        f"{share(sums['second'], sums['reference'])}\n"
        f"  anchors named: {sums['named']}, false discovery rate {np.mean(fdr):.4f} (the world's exact importance 0)\n"
        f"  coverage of the world's exact importance at stopping: {sums['inside'] / len(table):.4f} (mean over traces)",
        flush=True,
    )


def share(k: int, n: int) -> str:
    low, high = wilson_interval(k, n)
    return f"{k}/{n} = {k / max(n, 1):.3f} [{low:.3f}, {high:.3f}]"


def null(options: argparse.Namespace) -> None:
    """Traces of the null world with any anchor."""
    world, false, spent = load_world("null"), 0, []
    for trace in long_traces(world, options.traces):
        run = resample(trace, WorldModel(world), n=options.n, stop=Anchors(), progress=False)
        false += bool(resampling_importance(run).anchors())
        sizes = [np.mean([r.tokens for r in run.at(k)]) for k in range(len(trace) + 1)]
        spent.append(run.cost().tokens / (options.n * sum(sizes)))
    print(
        f"\nnull: traces with an anchor {share(false, options.traces)}; tokens saved {1 - np.mean(spent):.3f}",
        flush=True,
    )


# -- the bill ----------------------------------------------------------------------------------------------------------


def bill() -> None:
    """Predicted against real, in turn and in one process, of traces and numbers of rollouts the cost model was not made on."""
    settings = (
        ("lab/reasoner", "expression", 100, (11,)), ("lab/alchemist", "alchemy", 60, (12,)),
        ("lab/reasoner", "expression", 20, (13,)), ("lab/reasoner-b", "expression", 200, (14,)),
        ("lab/alchemist", "alchemy", 30, (15, 16, 17, 18)), ("lab/reasoner", "expression", 50, (19, 20, 21)),
        ("lab/reasoner", "expression", 400, (22,)), ("lab/alchemist", "alchemy", 400, (23,)),
    )  # fmt: skip
    errors = []
    for name, world, n, seeds in settings:
        model = load_model(name)
        traces = [write_trace(load_world(world).prompt(_problem(world, seed)), model, seed=seed) for seed in seeds]
        resample(traces[0], model, n=2, seed=99, progress=False)
        for seed in range(3):
            model.kept_trunks = None  # as if each were a process of its own
            predicted = plan_resampling(traces, model, n=n, seed=seed)
            model.kept_trunks = None
            started, cpu = time.perf_counter(), time.process_time()
            runs = resample_traces(traces, model, n=n, seed=seed, progress=False)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            tokens = sum(run.cost().tokens for run in runs)
            errors.append((predicted.tokens / tokens - 1, predicted.seconds / seconds - 1))
            print(
                f"bill, {name}, {sum(map(len, traces))} sentences of {len(traces)}, n = {n}: tokens {predicted.tokens:,} "
                f"predicted, {tokens:,} real ({errors[-1][0]:+.0%}); seconds {predicted.seconds:.2f} predicted, "
                f"{seconds:.2f} real ({errors[-1][1]:+.0%}), CPU {cpu:.2f}",
                flush=True,
            )
    for what, found in zip(("tokens", "seconds"), np.abs(np.array(errors)).T, strict=True):
        print(
            f"error of {what}: median {np.median(found):.0%}, largest {found.max():.0%}, "
            f"within 25 % {(found <= 0.25).sum()} of {len(found)}",
            flush=True,
        )


def _problem(world: str, seed: int) -> Any:
    import random

    return load_world(world).problem(random.Random(f"bill {seed}"))


# -- end to end --------------------------------------------------------------------------------------------------------


def end_to_end(options: argparse.Namespace) -> None:
    """Seconds to the anchors of some traces: ours, and the published procedure."""
    import torch
    from transformers import AutoModelForCausalLM

    from anchors.models import ZOO

    traces, boundaries = options.end_to_end_traces, options.hugging_face
    name = MODELS[options.end_to_end_world]
    model, world = load_model(name), load_world(options.end_to_end_world)
    plain = AutoModelForCausalLM.from_pretrained(ZOO / name.removeprefix("lab/"), attn_implementation="sdpa").eval()
    chosen = list(long_traces(world, traces))
    resample(chosen[0], model, n=2, seed=99, progress=False)
    started = time.perf_counter()
    runs = resample_traces(chosen, model, n=options.n, stop=Anchors(), progress=False)
    anchors = [top(resampling_importance(run), Anchors()) for run in runs]
    ours = time.perf_counter() - started
    places = [(t, k) for t, trace in enumerate(chosen) for k in range(len(trace.boundaries))]
    picks = np.random.default_rng(0).choice(len(places), boundaries, replace=False)
    torch.manual_seed(0)
    measured, written = [], []
    with torch.inference_mode():
        for t, k in (places[i] for i in picks):
            started = time.perf_counter()
            ids = torch.tensor([model.encode(chosen[t].text[: chosen[t].boundaries[k]]).ids])
            rows = plain.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, num_return_sequences=options.n,
                temperature=model.sampling.temperature, top_p=model.sampling.top_p,
                max_new_tokens=min(model.sampling.max_new_tokens, model.context - ids.shape[1]),
                pad_token_id=model.tokenizer.pad_token_id,
            )  # fmt: skip
            measured.append(time.perf_counter() - started)
            bodies = (
                takewhile(lambda token: token not in model.end_ids, row) for row in rows[:, ids.shape[1] :].tolist()
            )
            written.append(Counter(extract_answer(model.decode([*body])) or NO_ANSWER for body in bodies))
    theirs = np.mean(measured) * len(places)
    low, high = (len(places) * bound / ours for bound in cluster_bootstrap([[seconds] for seconds in measured]))
    spent = sum(run.cost().tokens for run in runs)
    sweeps = [full_sweep(trace, model, options.n, 0) for trace in chosen]
    drawn = [Counter(sweeps[t].answers(k)) for t, k in (places[i] for i in picks)]
    equal = same_distribution("Hugging Face's answers", drawn, written)
    full = [resampling_importance(sweep) for sweep in sweeps]
    hits = sum(len(top(scores, Anchors()) & found) for scores, found in zip(full, anchors, strict=True))
    print(
        f"end to end, {model.name}, {traces} traces, {len(places)} boundaries, n = {options.n}: ours {ours:.1f} s "
        f"({spent:,} tokens), Hugging Face generate {theirs:.0f} s (measured {sum(measured):.0f} s on {boundaries} boundaries "
        f"drawn at random, scaled): {theirs / ours:.0f}x [{low:.0f}, {high:.0f}]; full sweep's anchors found "
        f"{share(hits, sum(len(top(scores, Anchors())) for scores in full))}; a full sweep's answers and Hugging Face's: "
        f"{equal}; {torch.get_num_threads()} threads",
        flush=True,
    )


if __name__ == "__main__":
    main()
