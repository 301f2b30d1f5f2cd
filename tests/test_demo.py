"""The demonstration: what it makes, and what it says of another model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from anchors import demo
from anchors.demo import run_demo
from anchors.rollouts import Rollouts
from anchors.trace import Trace
from tests.transfers import a_transfer, retentions


def test_the_demonstration_scores_reads_by_another_model_and_writes_a_report(tmp_path):
    found = run_demo(tmp_path / "demo", model="lab/reasoner", n=8, seed=3, progress=False)
    assert found.transfer.reader == "lab/reasoner-b" and found.transfer.writer == "lab/reasoner"
    assert found.transfer.outcome == "handover" and found.transfer.verdict == "gate failed", (
        "one trace gives no verdict"
    )
    page = found.report.read_text()
    assert "Transfer: " in page and "No verdict: the gate failed" in page
    assert {"agreement.pdf", "confidence.pdf"} <= {path.name for path in (tmp_path / "demo" / "figures").iterdir()}
    said = [line for line in found.summary if "another model" in line.lower()]
    assert len(said) == 1 and "lab/reasoner-b" in said[0]


def test_the_summary_says_what_losing_the_anchors_costs_or_why_it_was_not_tested():
    assert "changes its chance of the same answer by +0.30 more than matched control" in demo._moved(a_transfer())
    nothing = a_transfer(retention=retentions(float("nan"), 1), traces=1, excluded=("t9: it names no anchor",))
    assert np.isnan(nothing.retention[0].reader.value)
    assert demo._moved(nothing) == "Another model, lab/reasoner-b, was not tested: it names no anchor."


def test_no_model_reads_itself(monkeypatch):
    class Called(Exception):
        pass

    def called(scores, *, reader, **rest):
        raise Called(reader)

    monkeypatch.setattr(demo, "load_model", lambda name: name)
    monkeypatch.setattr(demo, "transfer_anchors", called)
    trace = Trace.from_text("2 + 2?", "It is four.", answer="4")
    for writer, reader in (
        ("lab/reasoner-b", "lab/reasoner"),
        ("lab/reasoner", "lab/reasoner-b"),
        ("x", "lab/reasoner-b"),
    ):
        with pytest.raises(Called, match=f"^{reader}$"):
            demo._transfer(Rollouts.from_texts(trace, [["x"]]), SimpleNamespace(name=writer), 0)


def test_a_folder_that_no_demonstration_made_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="was not made by a demonstration"):
        run_demo(tmp_path, model="lab/reasoner", n=8, seed=0, progress=False)
    assert (tmp_path / "mine.txt").exists()
