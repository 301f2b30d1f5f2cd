"""Start-up: seconds of `anchors --help`, and from nothing to the first scores of a lab trace; and a run beside other work.

1. Every figure is a fresh process, from its start to its end, the median of `--repeats`; CPU seconds beside wall seconds.
2. Cold: the page cache is dropped before each run where this user may do so, and the output says whether it was.
3. The first score is `anchors score` by one method (`suppress`), then by every method with n = 10 rollouts a boundary.
4. Beside other work: a run of two threads while every core is kept busy, and on the machine as it is, with threads that spin
   for a short while as `anchors` sets it, and as long as the library's default; the rollouts are asserted equal.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from timing import machine

DROP = Path("/proc/sys/vm/drop_caches")
HELP_TARGET, SCORE_TARGET = 0.3, 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure start-up in fresh processes.")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(machine())
    print(f"page cache {'dropped before every cold run' if drop_cache() else 'not dropped: no permission'}")
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.jsonl")
        trace.write_bytes(
            subprocess.run(command("lab", "sample", "--seed", "3"), capture_output=True, check=True).stdout
        )
        score = command("score", str(trace), "--model", "lab/reasoner", "--quiet")
        for what, given, target in (
            ("anchors --help", command("--help"), HELP_TARGET),
            ("first score, one method", [*score, "--methods", "suppress"], SCORE_TARGET),
            ("every method, n = 10", [*score, "-n", "10"], SCORE_TARGET),
        ):
            for cold in (True, False):
                times = [once(given, cold, Path(folder, f"{len(what)}-{cold}-{k}")) for k in range(options.repeats)]
                wall, cpu = np.median(times, axis=0)
                state = "cold" if cold else "warm"
                print(f"{what:24s} {state}  {wall:5.2f} s  (CPU {cpu:5.2f} s; target {target:g} s)", flush=True)
        spinning([*score, "--methods", "resample", "--json"], Path(folder))


def spinning(score: Sequence[str], folder: Path) -> None:
    """Seconds of the same run by how long threads spin, beside busy processes and without them."""
    said = set()
    for busy, n in ((os.cpu_count() or 1, 20), (0, 300)):
        work = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            for name, count in (("a short while", "1000"), ("library's default", "300000")):
                env = os.environ | {"GOMP_SPINCOUNT": count, "OMP_NUM_THREADS": "2"}
                given, started = [*score, "-n", str(n), "--out", str(folder / f"{busy}-{count}")], time.perf_counter()
                told = subprocess.run(given, env=env, capture_output=True, check=True).stdout
                print(f"n = {n}, {busy} busy processes, spin {name}: {time.perf_counter() - started:.1f} s", flush=True)
                said.add((n, told))
        finally:
            for process in work:
                process.kill()
                process.wait()
    assert len(said) == 2, "the same run gave other scores"


def command(*words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("anchors")), *words]


def drop_cache() -> bool:
    """Drop the page cache; False where that is not allowed."""
    try:
        os.sync()
        DROP.write_text("3\n")
    except OSError:
        return False
    return True


def once(given: Sequence[str], cold: bool, out: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one fresh process, children included."""
    if cold:
        drop_cache()
    run = [*given, "--out", str(out)] if "score" in given else list(given)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(run, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
