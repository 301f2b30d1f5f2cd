"""Readers and writers: the released layout in our sign, generic JSON lines, and errors that name the place."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchors import datasets
from anchors.datasets import (
    find_rollouts,
    load_traces,
    read_jsonl,
    read_rollouts_folder,
    read_rollouts_rows,
    to_dataframe,
    write_jsonl,
)
from anchors.taxonomy import CATEGORIES
from anchors.trace import Trace

DATA = Path(os.environ.get("ANCHORS_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "math_rollouts"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"the released traces are not at {DATA}")
FOLDERS = find_rollouts(DATA) if DATA.exists() else []
REASONING = "Two and two make a sum. That sum is four."


@needs_data
def test_there_are_eight_released_traces_with_795_sentences():
    traces = load_traces(DATA)
    assert len(traces) == 8
    assert sum(map(len, traces)) == 795
    assert len({trace.id for trace in traces}) == 8
    assert all(set(trace.categories) <= set(CATEGORIES) for trace in traces)


@needs_data
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: "/".join(p.parts[-3:]))
def test_resampling_importance_is_kept_minus_resampled(folder):
    columns = read_rollouts_folder(folder).columns
    recomputed = np.append(np.diff(columns["accuracy"]), np.nan)
    np.testing.assert_allclose(recomputed, columns["resampling_importance_accuracy"], atol=1e-12)


@needs_data
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: "/".join(p.parts[-3:]))
def test_our_sense_against_the_stored_columns(folder):
    ours, paper = read_rollouts_folder(folder).columns, read_rollouts_folder(folder, compat="paper").columns
    column = "counterfactual_importance_accuracy"
    measured = ~np.isnan(ours[column])
    np.testing.assert_array_equal(ours[column][measured], -paper[column][measured])
    assert np.all(paper[column][~measured] == 0.0)
    assert all(np.isnan(ours[name][-1]) for name in ours if name != "accuracy")
    both = measured & ~np.isnan(ours["resampling_importance_accuracy"])
    assert np.corrcoef(ours[column][both], ours["resampling_importance_accuracy"][both])[0, 1] > 0


@needs_data
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: "/".join(p.parts[-3:]))
def test_counterfactual_accuracy_is_a_difference_of_shares_of_at_most_100_rollouts(folder):
    """Kept accuracy minus the score must be k/m for some m <= 100: the released form dissimilar - next, and no other."""
    columns = read_rollouts_folder(folder).columns
    dissimilar = np.append(columns["accuracy"][1:], np.nan) - columns["counterfactual_importance_accuracy"]
    dissimilar = dissimilar[~np.isnan(dissimilar)]
    assert len(dissimilar) > 10 and dissimilar.min() > -1e-9 and dissimilar.max() < 1 + 1e-9
    m = np.arange(1, 101)
    off = np.abs(dissimilar[:, None] * m - np.round(dissimilar[:, None] * m)).min(axis=1)
    assert off.max() < 1e-9


@needs_data
def test_released_trace_keeps_its_text_and_sentences():
    for folder in FOLDERS:
        base = json.loads(gzip.decompress((folder / "base_solution.json.gz").read_bytes()))
        rows = json.loads(gzip.decompress((folder / "chunks_labeled.json.gz").read_bytes()))
        trace = read_rollouts_folder(folder).trace
        assert trace.text == base["full_cot"]
        assert trace.prompt == base["prompt"]
        assert [" ".join(s.text.split()) for s in trace.sentences] == [" ".join(r["chunk"].split()) for r in rows]
        assert trace.answer == base["answer"]


@needs_data
def test_matrices_are_target_by_source():
    seen = 0
    for folder in FOLDERS:
        released = read_rollouts_folder(folder)
        size = len(released.trace)
        for matrix in filter(lambda m: m is not None, (released.effects, released.suppression)):
            assert matrix.shape == (size, size)
            assert np.isnan(matrix[np.triu_indices(size)]).all()
            assert not np.isnan(matrix[np.tril_indices(size, -1)]).any()
        seen += released.suppression is not None
        assert len(released.resampled) == size
        assert released.rollouts is None
    assert seen == 2


def category_means(model: str) -> np.ndarray:
    """Mean over traces of the trace means of the published counterfactual KL, by category."""
    per_trace = []
    for folder in (f for f in FOLDERS if model in str(f)):
        released = read_rollouts_folder(folder, compat="paper")
        values, labels = released.columns["counterfactual_importance_kl"], np.array(released.trace.categories)
        sums = sum(values[labels == category].sum() for category in CATEGORIES)
        assert sums == pytest.approx(values.sum())
        per_trace.append([values[labels == c].mean() if (labels == c).any() else np.nan for c in CATEGORIES])
    return np.nanmean(np.array(per_trace), axis=0)


@needs_data
def test_category_order_replicates_across_models():
    from scipy.stats import spearmanr

    qwen, llama = category_means("qwen"), category_means("llama")
    assert np.all(qwen >= 0) and np.all(llama >= 0)
    assert spearmanr(qwen, llama).statistic > 0
    final = list(CATEGORIES).index("final_answer_emission")
    assert qwen[final] < qwen.mean() and llama[final] < llama.mean()


def small_problem(**files: object) -> dict[str, object]:
    labels = [
        {
            "chunk": text,
            "function_tags": ["fact_retrieval"],
            "accuracy": accuracy,
            "resampling_importance_accuracy": 0.1,
            "counterfactual_importance_accuracy": 0.2,
            "different_trajectories_fraction": 0.5,
        }
        for text, accuracy in (("Two and two make a sum.", 0.5), ("That sum is four.", 0.6), ("It is so.", 0.0))
    ]
    prompt = "Solve: 2 + 2?\n<think>\n"
    solution = f"{REASONING} It is so.\n</think>\n\\boxed{{4}}"
    return {
        "base_solution.json": {"prompt": prompt, "solution": solution, "answer": "4", "is_correct": True},
        "problem.json": {"problem": "2 + 2?", "gt_answer": "4", "level": "Level 1", "type": "Sums"},
        "chunks_labeled.json": labels,
        **files,
    }


def write_problem(folder: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_folder_with_rollouts_and_rows_agree(tmp_path):
    solutions = {"chunk_1/solutions.json": [{"rollout": "Four. \\boxed{4}"}, {"error": "cut"}, {"rollout": "Five."}]}
    files = small_problem(**solutions)
    folder = write_problem(tmp_path / "some-model" / "correct_base_solution" / "problem_7", files)
    rows = [
        {"path": f"some-model/correct_base_solution/problem_7/{k}", "content": json.dumps(v)} for k, v in files.items()
    ]
    one, (two,) = read_rollouts_folder(folder), list(read_rollouts_rows([*rows, {"path": "README.md", "content": "x"}]))
    assert one.trace == two.trace
    assert one.trace.id == "some-model/correct/7"
    assert one.rollouts is not None and two.rollouts is not None
    assert one.rollouts.counts() == two.rollouts.counts() == [0, 2, 0, 0]
    assert one.rollouts.answers(1) == ["4", "<no answer>"]
    np.testing.assert_array_equal(one.columns["accuracy"], two.columns["accuracy"])


def test_sentences_without_rollouts_are_not_measured(tmp_path):
    drawn = {"chunks_resampled.json": {"0": ["a"], "1": ["b"], "2": []}}
    columns = read_rollouts_folder(write_problem(tmp_path / "problem_7", small_problem(**drawn))).columns
    assert np.isnan(columns["accuracy"]).tolist() == [False, False, True]
    assert np.isnan(columns["resampling_importance_accuracy"]).tolist() == [False, True, True]


def test_known_truncated_traces_are_not_measured():
    origin = {"model": "deepseek-r1-distill-llama-8b", "base": "correct", "problem": "6596"}
    assert datasets._unmeasured(origin, {}, 255).sum() == 115
    assert not datasets._unmeasured(origin | {"base": "incorrect"}, {}, 255).any()


def test_incomplete_folders_are_named(tmp_path):
    files = small_problem()
    del files["problem.json"]
    with pytest.raises(FileNotFoundError, match=r"has no problem\.json"):
        read_rollouts_folder(write_problem(tmp_path / "problem_7", files))
    with pytest.raises(ValueError, match="no released problem"):
        (tmp_path / "empty").mkdir()
        load_traces(tmp_path / "empty")


PARTS = st.tuples(
    st.text(max_size=20),
    st.text(max_size=80).filter(lambda t: t.strip() and "<" not in t),
    st.none() | st.text(max_size=5),
    st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=2),
)


@given(st.lists(PARTS, max_size=4))
@settings(max_examples=60, deadline=None)
def test_json_lines_round_trip(tmp_path_factory, parts):
    traces = [Trace.from_text(prompt, text, target=target, meta=meta) for prompt, text, target, meta in parts]
    path = tmp_path_factory.mktemp("jsonl") / "traces.jsonl"
    assert read_jsonl(write_jsonl(traces, path)) == traces


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Q", "text": f"<think>\n{REASONING}\n</think>\nIt is 4.", "target": 4},
        {"question": "Q", "response": REASONING, "gt_answer": "4"},
        {"problem": "Q", "solution": REASONING, "answer": "4"},
        {"prompt": "Q", "full_cot": f"Q{REASONING}", "answer": "4"},
        {"text": REASONING, "target": "4", "sentences": [REASONING]},
        {"messages": [{"role": "assistant", "content": "4", "reasoning": REASONING}], "target": "4"},
    ],
)
def test_generic_lines(record, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\n" + json.dumps(record) + "\r\n\n", encoding="utf-8")
    (trace,) = load_traces(path)
    assert trace.reasoning == REASONING
    assert trace.target == "4"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"x\.jsonl:2 is not JSON"),
        ("[1]", r"x\.jsonl:2: expected a JSON object, found list"),
        ('{"prompt": "Q"}', r"x\.jsonl:2: no text: give one of text, response, solution, full_cot or messages"),
        ('{"text": " "}', r"x\.jsonl:2: the trace has no reasoning"),
        ('{"messages": [{"role": "user"}]}', r"x\.jsonl:2: the chat has no assistant"),
        ('{"text": "abc", "sentences": ["x"]}', r"x\.jsonl:2: stored sentence 0"),
    ],
)
def test_bad_lines_are_named(line, message, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": REASONING}) + "\n" + line, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_jsonl(path)


def test_load_traces_by_kind(tmp_path):
    trace = Trace.from_text("Q", REASONING)
    trace.save(tmp_path / "a.json")
    (tmp_path / "b.json").write_text(json.dumps([trace.to_json(), {"text": REASONING}]), encoding="utf-8")
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": REASONING}]
    (tmp_path / "c.json").write_text(json.dumps(chat), encoding="utf-8")
    (tmp_path / "d.txt").write_text(REASONING, encoding="utf-8")
    assert load_traces(tmp_path / "a.json") == [trace]
    assert [len(t) for t in load_traces(tmp_path / "b.json")] == [2, 2]
    assert load_traces(tmp_path / "c.json")[0].reasoning == REASONING
    assert load_traces(tmp_path / "d.txt", prompt="Q", target="4")[0].text == "Q" + REASONING
    with pytest.raises(ValueError, match="of no known kind"):
        load_traces(write(tmp_path / "e.csv", b"x"))
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl"):
        load_traces(tmp_path / "nothing.jsonl")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_text_that_is_not_utf8_names_the_byte(tmp_path):
    with pytest.raises(ValueError, match="byte 3 is 0xe9"):
        load_traces(write(tmp_path / "x.txt", b"caf\xe9 au lait"))


def test_dataframe_has_a_row_a_sentence():
    pytest.importorskip("pandas")
    frame = to_dataframe([Trace.from_text("Q", REASONING, id="t"), Trace.from_text("Q", REASONING, id="u")])
    assert frame.shape == (4, 8)
    assert frame["sentence"].tolist() == [0, 1, 0, 1]
