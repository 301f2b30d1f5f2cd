"""The demonstration: a fresh problem, a model that reasons on it, every method, a report and figures."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anchors.confidence import Definition, TraceConfidence, read_traces
from anchors.lab.worlds import load_world
from anchors.models import load_model
from anchors.report import write_report
from anchors.resampling import write_trace
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.scoring import score_traces
from anchors.taxonomy import label_by_rule
from anchors.trace import Trace
from anchors.transfer import Calipers, Transfer, transfer_anchors

ENOUGH, HANDED = 8, 30
READERS = ("lab/reasoner-b", "lab/reasoner")  # trained on the same problems; the first that is not the writer reads
LOOSE = Calipers(category=False, numbers=False)  # with few sentences a trace has no control of equal kind


class Demonstration(NamedTuple):
    """What the demonstration made."""

    trace: Trace
    scores: list[Scores]
    transfer: Transfer
    report: Path
    summary: list[str]


def run_demo(out: Path, *, model: str, n: int, seed: int, progress: bool = True) -> Demonstration:
    """Sample a problem of the `expression` world, let the model reason, score every sentence, write report and figures.

    Problems are drawn until the model's trace has at least eight sentences and an answer.
    """
    if out.exists() and not (out / "run").exists() and any(out.iterdir()):
        raise ValueError(f"{out} exists and was not made by a demonstration; give another --out")
    shutil.rmtree(out, ignore_errors=True)
    loaded = load_model(model)
    trace = _fresh_trace(loaded, seed)
    ((rollouts, scores),) = score_traces([trace], loaded, n=n, seed=seed, out=out / "run", progress=progress)
    moved = _transfer(rollouts, loaded, seed)
    report = write_report(trace, [*scores, moved], out / "report.html", rollouts=rollouts)
    figures = _figures(out / "figures", scores, rollouts, loaded)
    summary = [
        *_summary(trace, scores[0]),
        _moved(moved),
        f"report:  {report}",
        f"figures: {figures} (vector PDF, and PNG to look at)",
        f"run:     {out / 'run'}   repeat with --seed {seed}",
    ]
    return Demonstration(trace, scores, moved, report, summary)


def _fresh_trace(model: Any, seed: int) -> Trace:
    world, rng = load_world("expression"), random.Random(f"demo {seed}")
    for attempt in range(100):
        problem = world.problem(rng)
        trace = write_trace(world.prompt(problem), model, seed=seed + attempt, target=world.gold(problem))
        if len(trace) >= ENOUGH and trace.answer is not None:
            return trace.with_categories(label_by_rule(trace))
    raise ValueError(f"{model.name} wrote no trace of {ENOUGH} sentences with an answer in 100 problems")


def _transfer(rollouts: Rollouts, writer: Any, seed: int) -> Transfer:
    """What another shipped model makes of the same anchors."""
    reader = load_model(next(name for name in READERS if name != writer.name))
    return transfer_anchors(
        rollouts, reader=reader, writer=writer, outcome="handover", calipers=LOOSE, n=HANDED, seed=seed
    )


def _moved(found: Transfer) -> str:
    """The transfer test in a sentence; one trace never has a verdict."""
    d = found.retention[0].reader.value
    if np.isnan(d):
        why = found.excluded[0].partition(": ")[2] if found.excluded else found.reason
        return f"Another model, {found.reader}, was not tested: {why}."
    return (
        f"When another model, {found.reader}, takes over the trace, an anchor changes its chance of the same answer by "
        f"{d:+.2f} more than matched control sentences do (one trace: no verdict)."
    )


def _summary(trace: Trace, scores: Scores) -> Sequence[str]:
    found = scores.anchors(fdr=0.05)
    right = "right" if trace.answer == trace.target else f"wrong: it is {trace.target}"
    lines = ["", f"The model answered {trace.answer} ({right})."]
    if not found:
        return [*lines, "No sentence is an anchor at a false-discovery rate of 5 %."]
    lines.append(
        f"Its answer hangs on {len(found)} of {len(trace)} sentences ({scores.method}, 5 % false discoveries):"
    )
    for i in sorted(found, key=lambda i: -abs(scores.values[i])):
        towards = "towards" if scores.values[i] > 0 else "away from"
        low, high = scores.low[i], scores.high[i]
        lines.append(f"  {scores.values[i]:+.2f} [{low:+.2f}, {high:+.2f}] {towards} it: {trace.sentences[i].text}")
    return lines


def _confidence(trace: Trace, model: Any) -> TraceConfidence:
    """Confidence token by token, in groups of a sixth of the trace."""
    window = max(8, len(model.encode(trace.reasoning).ids) // 6)
    return read_traces([trace], model, definition=Definition(window=window, tail=window))[0]


def _figures(folder: Path, scores: Sequence[Scores], rollouts: Rollouts, model: Any) -> Path:
    from matplotlib.figure import Figure

    from anchors import plotting

    folder.mkdir(parents=True)
    by_name = {s.method: s for s in scores}
    drawings: dict[str, tuple[Callable[..., Any], Any]] = {
        f"profile_{name}": (plotting.importance_profile, s) for name, s in by_name.items()
    }
    drawings["suppression_matrix"] = (plotting.matrix, by_name["suppression"])
    drawings["kurtosis"] = (plotting.kurtosis, by_name["attention"])
    drawings["agreement"] = (plotting.agreement, list(scores))
    drawings["answers"] = (plotting.answer_distribution, rollouts)
    drawings["confidence"] = (plotting.confidence_trace, _confidence(rollouts.trace, model))
    for name, (draw, data) in drawings.items():
        figure = Figure(figsize=(3.3, 2.6), layout="constrained")
        draw(data, ax=figure.subplots())
        figure.savefig(folder / f"{name}.pdf")
        figure.savefig(folder / f"{name}.png", dpi=200)
    return folder
