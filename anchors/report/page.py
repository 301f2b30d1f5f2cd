"""From a trace and its scores to the text of the page.

1. Templates are in `page/`, styles in `page/css/`, scripts in `page/js/`; each is joined in the order listed here.
2. The script is one closure, its files share it; its hash goes into the content security policy.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
from collections import Counter
from collections.abc import Sequence
from importlib import metadata, resources
from typing import Any

import numpy as np

from anchors.answers import NO_ANSWER, same_answer
from anchors.plotting.palette import SHORT, style_sheet
from anchors.report import content, drawing, graph, heads, matrices, tokens, unscripted
from anchors.report.answers import Answers, similarity_of
from anchors.report.grid import forest, heat_map
from anchors.report.transfers import section
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.similarity import Similarity
from anchors.trace import Trace
from anchors.transfer import Transfer, TransferMatrix

STYLES = ("page", "strips", "text", "panel", "still", "figures", "transfer", "narrow", "print")
SCRIPTS = ("words", "state", "strips", "threshold", "panel", "tokens", "matrices", "heads", "arcs", "pointer", "start")
VERSIONS = ("anchors", "numpy", "scipy", "torch", "transformers", "transformer-lens")


def render(
    trace: Trace,
    scores: list[Scores],
    *,
    transfers: Sequence[Transfer] = (),
    grids: Sequence[TransferMatrix] = (),
    rollouts: Rollouts | None = None,
    similarity: Similarity | None = None,
    title: str | None = None,
) -> str:
    """The report as text."""
    answers = None if rollouts is None else Answers(rollouts)
    return template("report.html.j2").render(
        title=drawing.clean(title or f"Trace {trace.id}"),
        **_moved(transfers, grids),
        **assets(STYLES, SCRIPTS),
        **_context(trace, scores, answers, similarity),
    )


def render_transfers(
    transfers: Sequence[Transfer], grids: Sequence[TransferMatrix], *, title: str | None = None
) -> str:
    """A page of transfer runs alone; it has no script."""
    return template("moved.html.j2").render(
        title=drawing.clean(title or "Transfer of anchors"),
        versions=_versions(),
        **_moved(transfers, grids),
        **assets(STYLES, ()),
    )


def _moved(transfers: Sequence[Transfer], grids: Sequence[TransferMatrix]) -> dict[str, Any]:
    shown = [section(t) | {"forest": forest(t.retention)} for t in transfers]
    return {"transfers": shown, "grids": [heat_map(g) for g in grids]}


def template(name: str) -> Any:
    """A template of `page/`, with autoescape and no undefined names."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    env = Environment(
        loader=PackageLoader("anchors.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"number": drawing.number, "clean": drawing.clean}
    return env.get_template(name)


def assets(styles: Sequence[str], scripts: Sequence[str]) -> dict[str, Any]:
    """Style, script and the script's hash; neither may hold text from outside."""
    from markupsafe import Markup

    css = style_sheet() + "".join(_read(f"css/{name}.css") for name in styles)
    script = '"use strict";\n(() => {\n' + "".join(_read(f"js/{name}.js") for name in scripts) + "})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return {"css": Markup(css), "script": Markup(script), "script_hash": digest}


def _read(name: str) -> str:
    return resources.files("anchors.report").joinpath("page", name).read_text(encoding="utf-8")


def script_json(data: Any) -> str:
    """JSON that is safe inside a script element: ASCII, with no <, > or & in it.

    >>> script_json("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _context(
    trace: Trace, scores: list[Scores], answers: Answers | None, similarity: Similarity | None
) -> dict[str, Any]:
    from markupsafe import Markup

    names = content.labels(scores)
    methods = [_method(s, name) for s, name in zip(scores, names, strict=True)]
    measure = None if answers is None else similarity or similarity_of(scores)
    meanings = None if answers is None or measure is None else answers.alternatives(measure)
    peaked = heads.with_heads(scores)
    data = {
        "scores": [content.record(s, name) for s, name in zip(scores, names, strict=True)],
        "matrices": [_matrix(s, k) for k, s in enumerate(scores) if s.matrix is not None],
        "heads": None if peaked is None else heads.record(peaked),
        "tokens": tokens.record(scores),
        "answers": None if answers is None else _counted(answers),
        "meanings": meanings,
    }
    return {
        "trace": trace,
        "sentences": _sentences(trace, scores[0]),
        "categories": SHORT,
        "methods": methods,
        "lead": _lead(trace, scores, names),
        "facts": _facts(trace, answers),
        "agreement": content.agreement_table(scores),
        "answers": _bands(answers),
        "rows": unscripted.rows(scores, names, answers, meanings),
        "anchors": content.marked(scores[0]),
        "legend": data["scores"][0]["legend"],
        "heads": None if peaked is None else _heads(peaked),
        "provenance": _provenance(trace, answers, measure),
        "data": Markup(script_json(data)),
    }


def _lead(trace: Trace, scores: list[Scores], names: list[str]) -> str:
    """The sentence of the first method that can be tested, else of the first method."""
    chosen = next((i for i, s in enumerate(scores) if not np.isnan(s.p).all()), 0)
    return content.lead(scores[chosen], names[chosen], answer=trace.answer)


def _facts(trace: Trace, answers: Answers | None) -> list[tuple[str, str]]:
    facts = [("Sentences", str(len(trace)))]
    facts += [("Answer", content.clip(trace.answer, 80) or "none found")]
    if trace.target is not None:
        facts.append(("Target", content.clip(trace.target, 80)))
    wanted = {"answer": trace.answer, "target": trace.target}
    if wanted["answer"] and wanted["target"] and same_answer(wanted["answer"], wanted["target"]):
        del wanted["target"]
    for name, answer in wanted.items():
        for boundary, where in ((0, "from the prompt"), (len(trace), "after the reasoning")):
            share = None if answers is None or answer is None else answers.reaches(boundary, answer)
            facts += [(f"P({name}) {where}", share)] if share else []
    return facts


def _sentences(trace: Trace, scores: Scores) -> list[dict[str, Any]]:
    scale, leaks = drawing.Scale.of(scores.values), content.leaks(trace)
    return [
        {
            "index": s.index,
            "lead": drawing.clean(_leading_space(trace.reasoning[s.start : s.end])),
            "text": drawing.clean(trace.reasoning[s.start : s.end].strip()),
            "category": s.category,
            "leaks": leaks[s.index],
            "tint": scale.tint(float(scores.values[s.index])),
        }
        for s in trace.sentences
    ]


def _leading_space(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _method(scores: Scores, name: str) -> dict[str, Any]:
    warnings = scores.details.get("warnings") or ()
    found = None if scores.matrix is None else graph.graph(scores)
    return {
        "name": name,
        "scores": scores,
        "unit": drawing.clean(scores.unit),
        "cells": drawing.clean(str(scores.details.get("matrix unit", scores.unit))),
        "strip": drawing.strip(scores),
        "anchors": content.marked(scores),
        "matrix": None if scores.matrix is None else matrices.shaded(scores.matrix),
        "bound": None if scores.matrix is None else matrices.matrix_bound(scores.matrix),
        "signed": scores.matrix is not None and bool(np.nanmin(scores.matrix, initial=0.0) < 0),
        "arcs": [] if found is None else graph.arcs(found, len(scores)),
        "graph": "" if found is None else graph.in_words(found),
        "provenance": content.provenance(scores),
        "warnings": [drawing.clean(str(w)) for w in ([warnings] if isinstance(warnings, str) else warnings)],
    }


def _matrix(scores: Scores, k: int) -> dict[str, Any]:
    """The matrix of score `k` for the script, with the bounds of its cells where it has them, and its graph."""
    if scores.matrix is None:
        raise ValueError(f"{scores.method} has no matrix")
    bounds = [scores.extras[name] for name in ("matrix_low", "matrix_high") if name in scores.extras]
    found = graph.graph(scores)
    return {
        "score": k,
        "unit": drawing.clean(str(scores.details.get("matrix unit", scores.unit))),
        **matrices.packed(scores.matrix, bounds if len(bounds) == 2 else ()),
        "edges": graph.record(found),
        "shown": found.shown,
        "pairs": found.cells,
        "tested": found.tested,
    }


def _heads(scores: Scores) -> dict[str, Any]:
    """The static figure of the heads."""
    ranked = heads.ranking(scores.kurtosis)[:10]
    rows = [(f"layer {a}, head {b}", drawing.number(float(scores.kurtosis[a, b]))) for a, b in ranked]
    return {"shape": scores.kurtosis.shape, "shades": heads.shades(scores.kurtosis), "top": rows}


def _counted(answers: Answers) -> dict[str, Any]:
    return {"labels": answers.labels, "colours": answers.colours, "counts": answers.counts.tolist()}


def _bands(answers: Answers | None) -> list[tuple[str, int, str]]:
    """(label, colour index, path) of every answer that occurs."""
    if answers is None:
        return []
    paths = drawing.areas(answers.counts)
    return [band for band in zip(answers.labels, answers.colours, paths, strict=True) if band[2]]


def _provenance(trace: Trace, answers: Answers | None, measure: Similarity | None) -> list[tuple[str, str]]:
    """Where trace and rollouts come from, and the versions that wrote this page."""
    rows = [("trace", drawing.clean(trace.id)), *content.flat(trace.meta)]
    if answers is not None:
        rows += _drawn(answers)
    if measure is not None:
        rows.append(("alternatives grouped by", f"{measure.name}, the same from {measure.threshold:g}"))
    return [*rows, ("versions", _versions())]


def _versions() -> str:
    versions = [f"{name} {found}" for name in VERSIONS if (found := _version(name))]
    return ", ".join([f"Python {platform.python_version()}", *versions])


def _drawn(answers: Answers) -> list[tuple[str, str]]:
    """How the rollouts were made and how they ended."""
    rollouts, counts = answers.rollouts, answers.rollouts.counts()
    ends = Counter(r.finish for k in range(len(counts)) for r in rollouts.at(k))
    silent = sum(row.count(NO_ANSWER) for row in answers.found)
    spread = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    total = sum(counts)
    return [
        *content.flat(rollouts.provenance()),
        ("rollouts a boundary", spread),
        ("stopped at the length limit", f"{ends['length']} of {total}"),
        ("without an answer", f"{silent} of {total}; counted as an outcome of their own"),
    ]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
