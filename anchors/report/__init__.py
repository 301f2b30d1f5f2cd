"""`write_report`: a trace, its scores and its rollouts as one self-contained HTML file.

1. The page is complete without its script: text, colours, strips, graphs, tables and matrices are rendered here.
2. Data reaches the script as JSON in which no character can end the element; text reaches the page through autoescape.
3. A content security policy allows that one script, by its hash, and no request at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anchors.report.page import render, render_transfers, script_json
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.similarity import Similarity
from anchors.trace import Trace
from anchors.transfer import Transfer, TransferMatrix

__all__ = ["script_json", "write_report", "write_transfer_report"]


def write_report(
    trace: Trace,
    scores: Sequence[Scores | Transfer | TransferMatrix],
    path: str | Path,
    *,
    rollouts: Rollouts | None = None,
    similarity: Similarity | None = None,
    title: str | None = None,
) -> Path:
    """Write one HTML file that shows a trace under all its scores, and what transfer tests found; it needs no network.

    The first score colours the text until another is chosen. `rollouts` adds the resampled alternatives, grouped by
    meaning (`similarity`, by default the measure the scores used), and the answer distribution around every sentence.

    Raises:
        ValueError: there are no scores, or scores or rollouts belong to another trace.
        TypeError: something in `scores` is neither `Scores`, a `Transfer` nor a `TransferMatrix`.
    """
    transfers = [item for item in scores if isinstance(item, Transfer)]
    matrices = [item for item in scores if isinstance(item, TransferMatrix)]
    plain = [item for item in scores if not isinstance(item, Transfer | TransferMatrix)]
    _check(trace, plain, rollouts)
    page = render(
        trace, plain, transfers=transfers, grids=matrices, rollouts=rollouts, similarity=similarity, title=title
    )
    path = Path(path)
    path.write_bytes(page.encode("utf-8"))
    return path


def write_transfer_report(
    found: Transfer | TransferMatrix | Sequence[Transfer | TransferMatrix],
    path: str | Path,
    *,
    title: str | None = None,
) -> Path:
    """Write transfer runs, of however many traces, as one HTML file without a script: gate, retention, balance, curves.

    Raises:
        ValueError: there is nothing to show.
        TypeError: something is neither a `Transfer` nor a `TransferMatrix`.
    """
    items = [found] if isinstance(found, Transfer | TransferMatrix) else list(found)
    wrong = next((item for item in items if not isinstance(item, Transfer | TransferMatrix)), None)
    if wrong is not None:
        raise TypeError(f"found holds a {type(wrong).__name__}; this page takes Transfer and TransferMatrix")
    if not items:
        raise ValueError("there is no transfer run; give what transfer_anchors or transfer_matrix returned")
    runs = [item for item in items if isinstance(item, Transfer)]
    grids = [item for item in items if isinstance(item, TransferMatrix)]
    path = Path(path)
    path.write_bytes(render_transfers(runs, grids, title=title).encode("utf-8"))
    return path


def _check(trace: Trace, scores: Sequence[Scores], rollouts: Rollouts | None) -> None:
    if not scores:
        raise ValueError("there are no scores; give at least one, e.g. [counterfactual_importance(rollouts)]")
    for score in scores:
        if not isinstance(score, Scores):
            raise TypeError(
                f"scores holds a {type(score).__name__}; the report takes Scores, Transfer and TransferMatrix"
            )
        if score.trace_id != trace.id:
            raise ValueError(
                f"the {score.method} scores belong to trace {score.trace_id}, not {trace.id}; "
                "one report shows one trace"
            )
    if rollouts is not None and rollouts.trace.id != trace.id:
        raise ValueError(
            f"the rollouts belong to trace {rollouts.trace.id}, not {trace.id}; one report shows one trace"
        )
