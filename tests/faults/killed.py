"""Kill a resampling run with SIGKILL at random moments, resume it, and compare with a run nobody disturbed.

    python tests/faults/killed.py FOLDER --kills 50 --seed 0

1. The model is loaded once; every run is a process of its own, forked from there, so that a trial costs no import.
2. A run is killed at a moment drawn uniformly from the length of the undisturbed run, then resumed to its end; every
   fourth trial is killed a second time while it resumes. A kill counts where the run had not ended before it.
3. Rollouts are compared row by row. One JSON line: trials, killed while running, rollouts found after the kill, differences.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

ROLLOUTS = int(os.environ.get("KILLED_ROLLOUTS", "24"))


def run(trace: Any, model: Any, folder: Path) -> None:
    """Draw the whole run, or what is missing of it."""
    from anchors.resampling import resample

    resample(trace, model, n=ROLLOUTS, seed=5, out=folder, progress=False, batch_size=16)


def forked(trace: Any, model: Any, folder: Path) -> int:
    """Start the run in a process of its own."""
    pid = os.fork()
    if pid:
        return pid
    try:
        run(trace, model, folder)
        os._exit(0)
    finally:
        os._exit(1)


def killed(pid: int, after: float) -> bool:
    """Kill a process after so many seconds; whether it was still running then."""
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """Everything a run stored, in order."""
    from anchors.rollouts import STORE, Rollouts

    if not (folder / STORE).exists():
        return []
    found = []
    for rollouts in Rollouts.open(folder):
        for k in range(len(rollouts.trace) + 1):
            found += [(rollouts.trace.id, r.position, r.sample, r.text, r.tokens, r.finish) for r in rollouts.at(k)]
        rollouts.store.close()
    return found


def trials(folder: Path, *, kills: int, seed: int, model: str = "lab/mini-small") -> dict[str, Any]:
    """Kill and resume runs until so many kills met a running one, or thrice as many trials were made."""
    from anchors.lab import world_trace
    from anchors.lab.worlds import load_world
    from anchors.models import load_model

    loaded = load_model(model, check=False)  # nothing may run before the fork: threads do not survive it
    trace = world_trace(load_world("expression"), seed=3)
    started = time.perf_counter()
    assert os.waitpid(forked(trace, loaded, folder / "whole"), 0)[1] == 0
    length, whole = time.perf_counter() - started, rows(folder / "whole")
    rng, found, different, running = random.Random(seed), [], 0, 0
    while running < kills and len(found) < 3 * kills:
        trial = len(found)
        out = folder / f"trial-{trial}"
        running += killed(forked(trace, loaded, out), rng.uniform(0, length))
        found.append(len(rows(out)))
        if trial % 4 == 3:
            running += killed(forked(trace, loaded, out), rng.uniform(0, length / 2))
        ended = os.waitpid(forked(trace, loaded, out), 0)[1]
        different += ended != 0 or rows(out) != whole
    facts = {"rollouts": len(whole), "seconds": round(length, 2), "trials": len(found), "killed while running": running}
    return facts | {"stored at the kill": found, "different": different}


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(trials(given.folder, kills=given.kills, seed=given.seed)))  # noqa: T201
