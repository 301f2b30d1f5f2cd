"""Labels: the rules on written traces and on released ones, prototypes, models that answer badly, and the report."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest

from anchors.datasets import find_rollouts, read_rollouts_folder
from anchors.taxonomy import (
    CATEGORIES,
    chat_endpoint,
    fit_prototypes,
    label_by_embedding,
    label_by_model,
    label_by_rule,
    label_prompt,
    label_report,
)
from anchors.trace import Trace

DATA = Path(os.environ.get("ANCHORS_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "math_rollouts"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"the released traces are not at {DATA}")

WRITTEN = (
    ("We need the last digit of the product of 7 and 8.", "problem_setup"),
    ("I will multiply the numbers first.", "plan_generation"),
    ("The definition of a digit is known to everyone.", "fact_retrieval"),
    ("Multiplying, 7 * 8 = 56.", "active_computation"),
    ("Hmm, wait, I am not sure.", "uncertainty_management"),
    ("Let me double-check that.", "self_checking"),
    ("Yes, that is correct.", "self_checking"),
    ("So in total we have 56.", "result_consolidation"),
    ("The final answer is \\boxed{6}.", "final_answer_emission"),
)
TRACE = Trace.from_text("Find the last digit of the product of 7 and 8.", " ".join(text for text, _ in WRITTEN))
ACTUAL = [category for _, category in WRITTEN]


def test_rules_on_plain_sentences():
    assert len(TRACE) == len(WRITTEN)
    report = label_report(label_by_rule(TRACE), ACTUAL)
    assert report.accuracy >= 7 / 9


@needs_data
@pytest.mark.parametrize(("problem", "least"), [("problem_2236", 0.66), ("problem_2238", 0.48)])
def test_rules_reach_the_documented_agreement(problem, least):
    traces = [read_rollouts_folder(folder).trace for folder in find_rollouts(DATA) if folder.name == problem]
    predicted = [label for trace in traces for label in label_by_rule(trace)]
    actual = [category for trace in traces for category in trace.categories]
    assert label_report(predicted, actual).macro_f1 >= least


def bag(texts):
    """A deterministic embedding: unit counts of hashed words."""
    vectors = np.zeros((len(texts), 64)) + 1e-6
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.lower()):
            vectors[row, sum(map(ord, word)) % 64] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_prototypes_recall_what_they_were_fitted_on():
    prototypes = fit_prototypes([TRACE.with_categories(ACTUAL)], embed=bag)
    assert prototypes.vectors.shape == (len(set(ACTUAL)), 64)
    assert label_report(label_by_embedding(TRACE, prototypes, embed=bag), ACTUAL).accuracy > 0.8


def test_prototypes_need_labels():
    with pytest.raises(ValueError, match="no sentence has a category"):
        fit_prototypes([TRACE], embed=bag)


def test_a_model_is_asked_once_for_the_whole_trace():
    asked = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "Here you are:\n```json\n" + json.dumps({str(i): c for i, c in enumerate(ACTUAL)}) + "\n```"

    assert label_by_model(TRACE, ask) == ACTUAL
    assert asked == [label_prompt(TRACE)]
    assert all(s.text in asked[0] for s in TRACE.sentences) and all(c in asked[0] for c in CATEGORIES)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("I cannot.", "holds no JSON object"),
        ("{0: x}", "is not JSON"),
        ('{"0": "problem_setup"}', r"no category for sentence 1 \(8 of 9 missing\)"),
        (json.dumps({str(i): "thinking" for i in range(9)}), "sentence 0 got 'thinking'"),
        (json.dumps({str(i): ["problem_setup"] for i in range(9)}), "sentence 0 got"),
    ],
)
def test_bad_replies_are_refused(reply, message):
    with pytest.raises(ValueError, match=message):
        label_by_model(TRACE, lambda prompt: reply)


def test_chat_endpoint(monkeypatch):
    httpx = pytest.importorskip("httpx")
    sent = {}

    def post(url, **options):
        sent.update(options, url=url)
        status = 401 if options["headers"] == {} else 200
        return httpx.Response(status, json={"choices": [{"message": {"content": "hi"}}]})

    monkeypatch.setattr(httpx, "post", post)
    assert chat_endpoint("http://host/v1/", "m", api_key="k")("hello") == "hi"
    assert sent["url"] == "http://host/v1/chat/completions"
    assert sent["json"]["messages"] == [{"role": "user", "content": "hello"}]
    with pytest.raises(ValueError, match="answered 401"):
        chat_endpoint("http://host/v1", "m")("hello")


def test_report_by_hand():
    a, b, c = list(CATEGORIES)[:3]
    report = label_report([a, a, b, c], [a, b, b, b])
    assert report.confusion[0, 0] == 1 and report.confusion[1].tolist()[:3] == [1, 1, 1]
    assert report.precision[a] == 0.5 and report.recall[a] == 1
    assert report.f1[b] == pytest.approx(2 * 1 / (1 + 3)) and math.isnan(report.f1[c])
    assert report.macro_f1 == pytest.approx((2 / 3 + 0.5) / 2)
    assert report.accuracy == 0.5


@pytest.mark.parametrize(
    ("predicted", "actual", "message"),
    [([], [], "at least one"), (["x"], [], "1 predicted"), (["x"], ["problem_setup"], "'x' is not a category")],
)
def test_report_refuses(predicted, actual, message):
    with pytest.raises(ValueError, match=message):
        label_report(predicted, actual)
