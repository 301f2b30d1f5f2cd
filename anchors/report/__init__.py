"""`write_report`: a trace, its scores and its rollouts as one self-contained HTML file.

1. The page is complete without its script: text, colours, strips, tables and matrices are rendered here.
2. Data reaches the script as JSON in which no character can end the element; text reaches the page through autoescape.
3. A content security policy allows that one script, by its hash, and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from anchors.answers import same_answer
from anchors.plotting import SHORT
from anchors.report import content, drawing
from anchors.report.content import Answers
from anchors.report.transfers import section
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.trace import Trace
from anchors.transfer import Transfer

__all__ = ["write_report"]


def write_report(
    trace: Trace,
    scores: Sequence[Scores | Transfer],
    path: str | Path,
    *,
    rollouts: Rollouts | None = None,
    title: str | None = None,
) -> Path:
    """Write one HTML file that shows a trace under all its scores, and what transfer tests found; it needs no network.

    The first score colours the text until another is chosen. `rollouts` adds the resampled alternatives and the answer
    distribution around every sentence.

    Raises:
        ValueError: there are no scores, or scores or rollouts belong to another trace.
        TypeError: something in `scores` is neither `Scores` nor a `Transfer`.
    """
    transfers = [item for item in scores if isinstance(item, Transfer)]
    plain = [item for item in scores if not isinstance(item, Transfer)]
    _check(trace, plain, rollouts)
    page = render(trace, plain, transfers=transfers, rollouts=rollouts, title=title)
    path = Path(path)
    path.write_bytes(page.encode("utf-8"))
    return path


def render(
    trace: Trace, scores: list[Scores], *, transfers: Sequence[Transfer], rollouts: Rollouts | None, title: str | None
) -> str:
    """The report as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    env = Environment(
        loader=PackageLoader("anchors.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"number": drawing.number, "clean": drawing.clean}
    context = _context(trace, scores, None if rollouts is None else Answers(rollouts))
    heading = drawing.clean(title or f"Trace {trace.id}")
    return env.get_template("report.html.j2").render(
        title=heading, transfers=[section(t) for t in transfers], **_assets(), **context
    )


def script_json(data: Any) -> str:
    """JSON that is safe inside a script element: ASCII, with no <, > or & in it.

    >>> script_json("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _check(trace: Trace, scores: Sequence[Scores], rollouts: Rollouts | None) -> None:
    if not scores:
        raise ValueError("there are no scores; give at least one, e.g. [counterfactual_importance(rollouts)]")
    for score in scores:
        if not isinstance(score, Scores):
            raise TypeError(f"scores holds a {type(score).__name__}; the report takes Scores and Transfer")
        if score.trace_id != trace.id:
            raise ValueError(
                f"the {score.method} scores belong to trace {score.trace_id}, not {trace.id}; "
                "one report shows one trace"
            )
    if rollouts is not None and rollouts.trace.id != trace.id:
        raise ValueError(
            f"the rollouts belong to trace {rollouts.trace.id}, not {trace.id}; one report shows one trace"
        )


def _assets() -> dict[str, Any]:
    from markupsafe import Markup

    folder = resources.files("anchors.report")
    css, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return {"css": Markup(css), "script": Markup(script), "script_hash": digest}


def _context(trace: Trace, scores: list[Scores], answers: Answers | None) -> dict[str, Any]:
    from markupsafe import Markup

    names = content.labels(scores)
    data = {
        "scores": [content.record(s, name) for s, name in zip(scores, names, strict=True)],
        "answers": None if answers is None else _counted(answers),
        "alternatives": None if answers is None else answers.alternatives(),
    }
    return {
        "trace": trace,
        "sentences": _sentences(trace, scores[0]),
        "categories": SHORT,
        "methods": [_method(s, name) for s, name in zip(scores, names, strict=True)],
        "lead": _lead(trace, scores, names),
        "facts": _facts(trace, answers),
        "agreement": content.agreement_table(scores),
        "answers": _bands(answers),
        "anchors": content.marked(scores[0]),
        "legend": data["scores"][0]["legend"],
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
    scale = drawing.Scale.of(scores.values)
    return [
        {
            "index": s.index,
            "lead": drawing.clean(_leading_space(trace.reasoning[s.start : s.end])),
            "text": drawing.clean(trace.reasoning[s.start : s.end].strip()),
            "category": s.category,
            "tint": scale.tint(float(scores.values[s.index])),
        }
        for s in trace.sentences
    ]


def _leading_space(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _method(scores: Scores, name: str) -> dict[str, Any]:
    warnings = scores.details.get("warnings") or ()
    return {
        "name": name,
        "scores": scores,
        "unit": drawing.clean(scores.unit),
        "strip": drawing.strip(scores),
        "anchors": content.marked(scores),
        "matrix": None if scores.matrix is None else drawing.shaded(scores.matrix),
        "bound": None if scores.matrix is None else drawing.matrix_bound(scores.matrix),
        "provenance": content.provenance(scores),
        "warnings": [drawing.clean(str(w)) for w in ([warnings] if isinstance(warnings, str) else warnings)],
    }


def _counted(answers: Answers) -> dict[str, Any]:
    return {"labels": answers.labels, "colours": answers.colours, "counts": answers.counts.tolist()}


def _bands(answers: Answers | None) -> list[tuple[str, int, str]]:
    """(label, colour index, path) of every answer that occurs."""
    if answers is None:
        return []
    paths = drawing.areas(answers.counts)
    return [band for band in zip(answers.labels, answers.colours, paths, strict=True) if band[2]]
