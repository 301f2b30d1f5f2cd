"""The claims C1 to C11 as experiments: each one file, with its verdict rule written down before it runs.

1. A module of this package defines `CLAIM`, `run(setting)`, `judge(evidence)` and `draw(result, ax)`.
2. `run_experiment` joins them into a `Result`, and leaves a JSON file and a figure where it is told to.
3. `summary` is the table of all results: claim, verdict, effect, interval, n, what it does and does not show.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import date
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from anchors.experiments.base import Claim, Evidence, Finding, Result, Setting, Verdict, provenance

__all__ = [
    "CLAIMS",
    "Claim",
    "Evidence",
    "Finding",
    "Result",
    "Setting",
    "Verdict",
    "claim_module",
    "run_experiment",
    "summary",
]

CLAIMS: Final[dict[str, str]] = {
    "C1": "c01_compressor",
    "C2": "c02_draft",
    "C3": "c03_swapped",
    "C4": "c04_invalid",
    "C5": "c05_format",
    "C6": "c06_budget",
    "C7": "c07_shift",
    "C8": "c08_anchors",
    "C9": "c09_confidence",
    "C10": "c10_transfer",
    "C11": "c11_regime",
}


def claim_module(name: str) -> ModuleType:
    """The module of a claim: "C7", "c7" or "7".

    Raises:
        ValueError: there is no such claim.
    """
    key = "C" + name.strip().upper().removeprefix("C").lstrip("0")
    if key not in CLAIMS:
        raise ValueError(f"no claim is called {name!r}; there are {', '.join(CLAIMS)}")
    return import_module(f"anchors.experiments.{CLAIMS[key]}")


def run_experiment(name: str, setting: Setting | None = None) -> Result:
    """Run a claim's experiment and judge it; with `setting.out` its JSON and figure (svg, png) are left there.

    Raises:
        ValueError: there is no such claim, or the setting does not fit it.
    """
    setting = setting or Setting()
    module = claim_module(name)
    started = time.perf_counter()
    evidence = module.run(setting)
    made = provenance(setting, time.perf_counter() - started, day=date.today().isoformat())
    result = Result(module.CLAIM, module.judge(evidence), evidence, made)
    if setting.out is not None:
        store(result, setting.out)
    return result


def store(result: Result, folder: str | Path) -> Path:
    """Write a result's JSON and figure into a folder and return the JSON's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ax = claim_module(result.claim.id).draw(result)
    for suffix in ("svg", "png"):
        ax.figure.savefig(folder / f"{result.claim.id}.{suffix}", dpi=200)
    return result.save(folder / f"{result.claim.id}.json")


def summary(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row a result: claim, verdict and why, effect, interval, n, what it shows and what it does not."""
    return [
        {
            "claim": f"{r.claim.id} {r.claim.title}",
            "verdict": r.verdict.word,
            "reason": r.verdict.reason,
            "finding": r.evidence.primary.name,
            "effect": r.evidence.primary.effect,
            "low": r.evidence.primary.low,
            "high": r.evidence.primary.high,
            "unit": r.evidence.primary.unit,
            "n": f"{r.evidence.primary.n} {r.evidence.primary.of}",
            "detectable": r.verdict.detectable,
            "shows": r.claim.shows,
            "does not show": r.claim.does_not_show,
        }
        for r in results
    ]
