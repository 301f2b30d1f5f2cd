"""The long counts of the fault and abuse tests: python benchmarks/faults.py [--kills 50] [--seconds 60]

1. A resampling run is killed with SIGKILL at random moments and resumed, and compared with an undisturbed one.
2. atheris fuzzes the splitter, the answer parser, the readers and the report, each in a process of its own.
3. Every regular expression is timed on long repetitions, and 10 MB lines are read, labelled and searched.
4. The tests in tests/faults run once. Counts are printed and written to runs/faults.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
TARGETS = ("split", "answers", "readers", "report")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
ENVIRONMENT.setdefault("HF_HUB_OFFLINE", "1")


def call(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a Python file of the project and catch what it says."""
    return subprocess.run([sys.executable, *map(str, words)], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)


def kills(count: int, seed: int) -> dict[str, Any]:
    """Runs killed and resumed."""
    with tempfile.TemporaryDirectory() as folder:
        done = call("tests/faults/killed.py", folder, "--kills", count, "--seed", seed)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def fuzzed(target: str, seconds: int, seed: int) -> dict[str, Any]:
    """Inputs tried on one target, and the first crash."""
    done = call("benchmarks/fuzz.py", target, "--seconds", seconds, "--seed", seed)
    tried = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    crash = "" if done.returncode == 0 else done.stderr[-1500:]
    return {"inputs": int(tried[1]) if tried else 0, "crashes": int(bool(crash)), "last words": crash}


def regexes() -> dict[str, Any]:
    """Patterns, traps tried on them, and those that took more than linear time."""
    from tests.faults.hostile import patterns, superlinear, traps

    found = patterns()
    slow = {name: bad for name, p in found.items() if (bad := superlinear(p, size=2000, name=name))}
    return {"patterns": len(found), "inputs": 2 * len(found) * len(list(traps(40))), "slow": slow}


def long_lines(size: int) -> dict[str, float]:
    """Seconds to read, split, label and search one line of so many characters, of every shape."""
    from anchors.interventions import leak
    from anchors.taxonomy import label_by_rule
    from anchors.trace import Trace
    from tests.faults.hostile import shapes

    taken = {}
    for name, text in shapes(size).items():
        started = time.perf_counter()
        trace = Trace.from_text("Q", text, target="7")
        label_by_rule(trace)
        leak(trace)
        taken[name] = round(time.perf_counter() - started, 1)
        print(f"  {size / 1e6:g} MB, {name}: {taken[name]} s, {len(trace)} sentences", flush=True)
    return taken


def tests() -> dict[str, Any]:
    """The tests themselves."""
    done = call("-m", "pytest", "tests/faults", "-q", "-p", "no:cacheprovider", "-o", "addopts=-q")
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:]
    return {"passed": done.returncode == 0, "said": last}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=60, help="of fuzzing, a target")
    parser.add_argument("--size", type=int, default=10_000_000, help="characters of the long lines")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found: dict[str, Any] = {"day": date.today().isoformat()}
    found["kills"] = kills(given.kills, given.seed)
    print("kills:", json.dumps(found["kills"]), flush=True)
    for target in TARGETS:
        found[f"fuzz {target}"] = fuzzed(target, given.seconds, given.seed + 1)
        print(f"fuzz {target}:", json.dumps(found[f"fuzz {target}"]), flush=True)
    for name, measure in (("regexes", regexes), ("tests", tests)):
        found[name] = measure()
        print(f"{name}:", json.dumps(found[name]), flush=True)
    if given.size:
        found["long lines"] = long_lines(given.size)
    inputs = sum(found[f"fuzz {t}"]["inputs"] for t in TARGETS) + found["regexes"]["inputs"] + given.kills
    bad = (
        sum(found[f"fuzz {t}"]["crashes"] for t in TARGETS)
        + len(found["regexes"]["slow"])
        + found["kills"]["different"]
    )
    print(f"inputs tried: {inputs:,}; faults survived: {inputs - bad:,}; open: {bad}")
    (ROOT / "runs").mkdir(exist_ok=True)
    (ROOT / "runs" / "faults.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
