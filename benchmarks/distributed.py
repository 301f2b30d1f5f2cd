"""Throughput of a Ray cluster on this machine against one process, and what 1,000 traces of a 14B model should cost.

1. The same rollouts are drawn by one process and by workers of one thread each, in turn, and must be equal token for token;
   starting the cluster and loading the replicas is timed apart. Two settings: the shipped reasoner, whose rollouts are mostly
   equal to each other and computed once, so that cutting the work loses some of that; a medium model that shares next to nothing.
2. What the driver can take: units that cost nothing, as rollouts a second.
3. `--estimate`: hours and money from cited rates and from the roofline of the card, in the bill's own model of cost.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from timing import machine, median, medium_model, rotated, trace_of

from anchors.billing import Rates, predicted_seconds
from anchors.distributed import Cluster
from anchors.lab import world_trace
from anchors.lab.worlds import load_world
from anchors.models import Completion, Job, Sampling, load_model
from anchors.trace import Trace


class Free:
    """Writes nothing, at once."""

    name, sampling = "free", Sampling()

    def generate(self, jobs: Any, **_: Any) -> Any:
        return ((job, Completion("", 1, "stop")) for job in jobs)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--repeats", type=int, default=3)
    asked.add_argument("--workers", type=int, default=None, help="default: one a core")
    asked.add_argument("--estimate", action="store_true", help="only the paper estimate")
    given = asked.parse_args()
    if not given.estimate:
        measure(given.repeats, given.workers)
    estimate()


def measure(repeats: int, workers: int | None) -> None:
    torch.set_num_threads(1)
    print(machine())
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Cluster(workers=workers) as cluster:
        print(f"{cluster} ({time.perf_counter() - started:.1f} s)")
        traces = [world_trace(load_world("expression"), seed=seed) for seed in range(6)]
        compare("lab/reasoner, 6 traces", cluster, "lab/reasoner", traces, n=30, repeats=repeats)
        medium = medium_model()
        medium.module.save_pretrained(folder)
        medium.tokenizer.save_pretrained(folder)
        short = Sampling(1.0, 1.0, max_new_tokens=48)
        compare("8 layers x 512, random weights, 1 trace", cluster, folder, [trace_of(medium, 600)], n=8,
                repeats=repeats, sampling=short)  # fmt: skip
        overhead(cluster)


def compare(
    what: str, cluster: Cluster, name: str, traces: Sequence[Trace], *, n: int, repeats: int, sampling: Any = None
) -> None:
    """Rollouts of all boundaries by one process and by the cluster, in turn."""
    local = load_model(name)
    sampling = sampling or local.sampling
    started = time.perf_counter()
    far = cluster.model(name)
    jobs = [Job(t.text, end, t.id, k, s) for t in traces for k, end in enumerate(t.boundaries) for s in range(n)]
    list(far.map(_warm, range(4 * far.replicas), jobs=jobs[:8], sampling=sampling))
    loading = time.perf_counter() - started
    _warm(0, local, jobs=jobs[:8], sampling=sampling)

    spent: dict[tuple[str, bool], list[float]] = defaultdict(list)

    def side(model: Any) -> Any:
        def draw(repeat: int) -> tuple[float, dict[Job, Completion]]:
            begun, busy = time.perf_counter(), time.process_time() + cluster.cpu_seconds
            found = dict(model.generate(jobs, sampling=sampling, seed=repeat))
            spent[model.name, model is far].append(time.process_time() + cluster.cpu_seconds - busy)
            return time.perf_counter() - begun, found

        return draw

    runs = rotated({"one": side(local), "ray": side(far)}, repeats)
    for (_, one), (_, ray) in zip(runs["one"], runs["ray"], strict=True):
        assert one == ray and len(one) == len(jobs), "a rollout differs between one process and the cluster"
    tokens = float(np.mean([sum(c.tokens for c in found.values()) for _, found in runs["one"]]))
    one, ray = median(runs["one"]), median(runs["ray"])
    print(
        f"{what}: {len(jobs):,} rollouts, {tokens:,.0f} tokens, equal in {repeats} runs. One process {tokens / one:,.0f} tokens/s, "
        f"{far.replicas} workers {tokens / ray:,.0f} tokens/s: {one / ray:.2f}x ({one / ray / far.replicas:.0%} of linear); "
        f"replicas loaded in {loading:.1f} s"
    )
    alone, shared = (float(np.median(spent[far.name, there])) for there in (False, True))
    print(
        f"  CPU: {alone:.1f} s in one process, {shared:.1f} s in driver and workers: at most "
        f"{far.replicas * alone / shared:.2f}x where each has a core to itself"
    )


def _warm(_item: int, model: Any, *, jobs: list[Job], sampling: Any) -> None:
    time.sleep(0.5)  # or one worker would take all units before the other has begun
    list(model.generate(jobs, sampling=sampling, seed=0))


def overhead(cluster: Cluster, jobs: int = 50_000) -> None:
    """Rollouts a second that the driver hands out and takes back, each on a trace of 4,000 characters."""
    free, text = cluster.model(Free), "word " * 800
    given = [Job(text, 4000, "t", k, s) for k in range(jobs // 100) for s in range(100)]
    begun = time.perf_counter()
    assert len(dict(free.generate(given, sampling=free.sampling, seed=0))) == jobs
    seconds = time.perf_counter() - begun
    print(f"driver: {jobs / seconds:,.0f} rollouts/s that cost nothing")


# -- the paper estimate ----------------------------------------------------------------------------------------------------

TRACES, ROLLOUTS, LENGTH, PREFIX, GPUS = 1000, 15_000, 1600, 1600, 8
WEIGHTS = 14.8e9 * 2  # bytes; Qwen3-14B in bfloat16
CACHE = 40 * 8 * 128 * 2 * 2  # bytes a token: layers, key-value heads, head width, keys and values, bfloat16
WIDTH = 256
SAVED = {"full sweep": (0.0, 0.0), "stop=Anchors": (0.891, 0.805)}  # share of tokens, docs/savings.md


class Card(NamedTuple):
    """A GPU: tokens a second others measured it to write with Qwen3-14B, its bandwidth, prompt tokens a second, dollars an hour.

    Sources: docs/distributed.md.
    """

    name: str
    measured: float
    bandwidth: float
    prompt: float
    price: tuple[float, float]


CARDS = (
    Card("H100 SXM", 3173.92, 3.35e12, 9218.03, (1.99, 5.00)),
    Card("A100 SXM", 1887.31, 2.0e12, 5153.42, (0.80, 3.00)),
)


def estimate() -> None:
    print(
        f"\n{TRACES:,} traces x {ROLLOUTS:,} rollouts x {LENGTH:,} tokens = {TRACES * ROLLOUTS * LENGTH / 1e9:.0f} billion, "
        f"14B in bfloat16, {GPUS} GPUs, prefixes cached"
    )
    lengths = np.full(ROLLOUTS, float(LENGTH))
    context = PREFIX + LENGTH / 2
    for card in CARDS:
        ideal = Rates(0.0, WEIGHTS / card.bandwidth, context * CACHE / card.bandwidth)
        seconds = [predicted_seconds(r, lengths, 1, WIDTH) for r in (ideal, Rates(0.0, 0.0, 1 / card.measured))]
        rates = [ROLLOUTS * LENGTH / s for s in seconds]
        print(
            f"{card.name}: {rates[1]:,.0f} tokens/s a GPU measured, {rates[0]:,.0f} at its bandwidth, {WIDTH} rollouts wide"
        )
        for name, saved in SAVED.items():
            hours = [TRACES * s * (1 - x) / GPUS / 3600 for s, x in zip(seconds, saved, strict=True)]
            money = [h * GPUS * p for h, p in zip(hours, card.price, strict=True)]
            print(f"  {name}: {hours[0]:,.0f} to {hours[1]:,.0f} h, {money[0]:,.0f} to {money[1]:,.0f} dollars")
        again = TRACES * ROLLOUTS * PREFIX / card.prompt / GPUS / 3600
        each = [p / (r * 3600) * 1e6 for p, r in zip(card.price, rates, strict=True)]
        print(f"  {each[0]:.2f} to {each[1]:.2f} dollars a million tokens; without a prefix cache {again:,.0f} h more")


if __name__ == "__main__":
    main()
