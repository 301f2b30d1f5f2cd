"""The long counts of the fault and abuse tests: python benchmarks/faults.py [--kills 50] [--seconds 60]

1. A resampling run is killed with SIGKILL at random moments and resumed, and compared with an undisturbed one.
2. atheris fuzzes the splitter, the answer parser, the readers of traces and of exported runs, and the report, each in a
   process of its own.
3. Every regular expression is timed on long repetitions, 10 MB lines of every shape are split, labelled and searched, one
   is read by every reader, and 10^5 sentences go through the parts that look at each.
4. The tests in tests/faults run once. Counts are printed and written to runs/faults.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
TARGETS = ("split", "answers", "readers", "runs", "report")
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


def long_files(size: int) -> dict[str, float]:
    """Seconds to read a file of every kind that holds one line of so many characters."""
    from anchors.datasets import load_traces
    from tests.faults.hostile import shapes

    taken = {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in ("one letter", "sentences", "spaces in the middle"):
            text = shapes(size)[shape]
            record = json.dumps({"prompt": "Q", "text": text, "target": "7"}).encode()
            packed = {"txt": text.encode(), "json": record, "jsonl": record, "json.gz": gzip.compress(record, 1)}
            for kind, data in packed.items():
                path = Path(folder, f"long.{kind}")
                path.write_bytes(data)
                taken[f"{kind}, {shape}"] = _seconds(lambda path=path: load_traces(path))
    return taken


def many_sentences(count: int) -> dict[str, float]:
    """Seconds of each part for a trace of so many sentences."""
    import numpy as np

    from anchors.datasets import load_traces, write_jsonl
    from anchors.report.page import render
    from anchors.rollouts import Rollouts, Store
    from anchors.scores import Scores
    from anchors.taxonomy import label_by_rule
    from anchors.trace import Trace

    text = " ".join(f"So we add {i % 97} now." for i in range(count))
    trace = Trace.from_text("Q", text, answer="7")
    assert len(trace) == count
    with tempfile.TemporaryDirectory() as folder:
        path = write_jsonl([trace], Path(folder, "many.jsonl"))
        store = Store(Path(folder, "run"), {"model": "none", "weights": "", "seed": 0, "sampling": {}})
        scores = Scores.of(trace, "made up", np.linspace(-1, 1, count))
        taken = {
            "split": _seconds(lambda: Trace.from_text("Q", text, answer="7")),
            "label": _seconds(lambda: label_by_rule(trace)),
            "read": _seconds(lambda: load_traces(path)),
            "store and plan": _seconds(lambda: (store.claim([trace]), Rollouts(store, trace).missing(1))),
            "report": _seconds(lambda: render(trace, [scores])),
        }
        store.close()
    return taken


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return round(time.perf_counter() - started, 1)


def tests() -> dict[str, Any]:
    """The tests themselves."""
    done = call("-m", "pytest", "tests/faults", "-q", "-p", "no:cacheprovider", "-o", "addopts=-q")
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:]
    return {"passed": done.returncode == 0, "said": last}


def survived(found: dict[str, Any]) -> str:
    """Inputs tried, faults survived and what is open, over all parts measured so far."""
    fuzzing = [part for name, part in found.items() if name.startswith("fuzz ")]
    killed, expressions = found.get("kills", {}), found.get("regexes", {})
    inputs = (
        sum(part["inputs"] for part in fuzzing) + expressions.get("inputs", 0) + killed.get("killed while running", 0)
    )
    inputs += sum(len(found.get(name, ())) for name in ("long lines", "long files", "sentences"))
    bad = sum(part["crashes"] for part in fuzzing) + len(expressions.get("slow", ())) + killed.get("different", 0)
    return f"inputs tried: {inputs:,}; faults survived: {inputs - bad:,}; open: {bad}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=60, help="of fuzzing, a target")
    parser.add_argument("--size", type=int, default=10_000_000, help="characters of the long lines")
    parser.add_argument("--sentences", type=int, default=100_000, help="of the trace with many")
    parser.add_argument("--only", nargs="+", default=[], help="names of parts, such as kills or 'fuzz report'")
    parser.add_argument("--seed", type=int, default=0)
    given, parts = parser.parse_args(), {}
    parts["kills"] = lambda: kills(given.kills, given.seed)
    parts |= {f"fuzz {t}": lambda t=t: fuzzed(t, given.seconds, given.seed + 1) for t in TARGETS}
    parts |= {"regexes": regexes, "tests": tests, "long lines": lambda: long_lines(given.size)}
    parts |= {"long files": lambda: long_files(given.size), "sentences": lambda: many_sentences(given.sentences)}
    path = ROOT / "runs" / "faults.json"
    path.parent.mkdir(exist_ok=True)
    found: dict[str, Any] = json.loads(path.read_text()) if given.only and path.exists() else {}
    found["day"] = date.today().isoformat()
    for name, measure in ((n, m) for n, m in parts.items() if not given.only or n in given.only):
        found[name] = measure()
        print(f"{name}:", json.dumps(found[name]), flush=True)
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(survived(found))


if __name__ == "__main__":
    main()
