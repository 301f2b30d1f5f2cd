"""Files and records of every broken kind: a ValueError that names the file, or a trace whose spans tile; nothing else."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchors import datasets
from anchors.answers import NO_ANSWER, answer_classes, extract_answer, normalise_answer, same_answer
from anchors.datasets import load_traces, read_jsonl, read_prompts, read_rollouts_folder, read_rollouts_rows
from anchors.exchange import import_run
from anchors.scores import Scores
from anchors.splitting import align_sentences, split_sentences
from anchors.trace import Trace
from tests.faults.hostile import IDS, seconds, shapes

TRACE = Trace.from_text("Q\n<think>\n", "We add 3 and 4. That is 7 of them.\n</think>\n\\boxed{7}", target="7")
RECORD = TRACE.to_json()
BASE = {"prompt": "p", "solution": "Hello there friend. More text here.", "answer": "", "is_correct": True}
LABELS = [{"chunk": "Hello there friend."}, {"chunk": "More text here."}]
FAST = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


BYTES = {
    "latin.txt": "caf\xe9 is a word. It is so.".encode("latin-1"),
    "utf16.txt": "Hello there. Yes it is.".encode("utf-16"),
    "empty.txt": b"",
    "blank.jsonl.gz": b"",
    "cut.json.gz": gzip.compress(json.dumps(RECORD).encode() * 40)[:40],
    "no.json.gz": b"hello",
    "deep.json": b"[" * 200_000,
    "deep.jsonl": b'{"a":' * 100_000,
    "long.json": b'{"text": ' + b"9" * 10_000 + b"}",
    "null.json": b"null",
    "nested.json": b"[[1]]",
    "cut.json": json.dumps(RECORD).encode()[:-20],
    "nan.jsonl": b'{"text": NaN}',
}


@pytest.mark.parametrize("name", BYTES)
def test_a_broken_file_is_named(name, tmp_path):
    path = write(tmp_path / name, BYTES[name])
    if name == "blank.jsonl.gz":
        assert load_traces(path) == []
        return
    with pytest.raises(ValueError, match=r".+") as error:
        load_traces(path)
    assert name in str(error.value) or name == "empty.txt"


def test_flipped_bytes_of_an_archive(tmp_path):
    data = bytearray(gzip.compress(os.urandom(2000)))
    for place in (40, 700, 1500, len(data) - 3):
        broken = data.copy()
        broken[place] ^= 0xFF
        with pytest.raises(ValueError, match=r"x\.jsonl\.gz"):
            load_traces(write(tmp_path / "x.jsonl.gz", bytes(broken)))


def test_an_archive_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "LARGEST", 10_000)
    with pytest.raises(ValueError, match="unpacks to more than"):
        load_traces(write(tmp_path / "bomb.txt.gz", gzip.compress(b"a" * 20_000)))


WRONG = {
    "a float start": {"sentences": [{"index": 0, "text": "abc", "start": 0.0, "end": 3}]},
    "a string end": {"sentences": [{"index": 0, "text": "abc", "start": 0, "end": "3"}]},
    "another index": {"sentences": [{"index": 9, "text": "abc", "start": 0, "end": 3}]},
    "another text": {"sentences": [{"index": 0, "text": "xyz", "start": 0, "end": 3}]},
    "a gap": {"sentences": [{"index": 0, "text": "bc", "start": 1, "end": 3}]},
    "an unknown field": {"sentences": [{"index": 0, "text": "abc", "start": 0, "end": 3, "x": 1}]},
    "no list": {"sentences": 5},
    "a category of numbers": {"sentences": [{"index": 0, "text": "abc", "start": 0, "end": 3, "category": 7}]},
    "a list of meta": {"meta": [1]},
    "a number for the prompt": {"prompt": 5},
    "a number for the id": {"id": 5},
    "a list for the answer": {"answer": ["7"]},
    "another field": {"extra": 1},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_record_edited_by_hand_is_refused(name, tmp_path):
    good = {"prompt": "", "reasoning": "abc", "sentences": [{"index": 0, "text": "abc", "start": 0, "end": 3}]}
    assert len(Trace.from_json(good)) == 1
    path = write(tmp_path / "t.json", json.dumps(good | WRONG[name]).encode())
    for read in (load_traces, Trace.load):
        with pytest.raises(ValueError, match=r"t\.json"):
            read(path)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*RECORD, "messages", "role", "content", "text", "sentences", "reasoning", "index", "start", "end"]
            )
            | st.text(max_size=4),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@FAST
@given(JUNK | st.builds(lambda key, value: RECORD | {key: value}, st.sampled_from(sorted(RECORD)), JUNK))
def test_any_json_is_a_trace_or_a_value_error(record):
    try:
        found = datasets._trace(record, "here:1")
    except ValueError as error:
        assert "here:1" in str(error)
    else:
        assert found.text[found.boundaries[0] : found.boundaries[-1]] == found.reasoning
        assert Trace.from_json(json.loads(json.dumps(found.to_json()))).text == found.text


@FAST
@given(st.binary(max_size=200), st.sampled_from(["json", "jsonl", "txt", "json.gz", "jsonl.gz", "txt.gz"]))
def test_any_bytes_are_read_or_refused(data, kind):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / f"x.{kind}", gzip.compress(data) if kind.endswith("gz") and len(data) % 2 else data)
        with contextlib.suppress(ValueError):
            load_traces(path)


RELEASED = {
    "a list for base": {"base_solution": []},
    "no prompt": {"base_solution": {}},
    "an object of labels": {"chunks_labeled": {"a": 1}},
    "labels without text": {"chunks_labeled": [{"x": 1}]},
    "numbers for labels": {"chunks_labeled": [5]},
    "a column of words": {"chunks_labeled": [row | {"accuracy": "high"} for row in LABELS]},
    "tags of numbers": {"chunks_labeled": [row | {"function_tags": 5} for row in LABELS]},
    "a target out of range": {"step_importance": [
        {"source_chunk_idx": 0, "target_impacts": [{"target_chunk_idx": 99, "importance_score": 1}]}]},
    "a negative source": {"step_importance": [
        {"source_chunk_idx": -2, "target_impacts": [{"target_chunk_idx": -1, "importance_score": 1}]}]},
    "a list of resampled": {"chunks_resampled": [1]},
    "numbers of resampled": {"chunks_resampled": {"0": 5}},
    "numbers for rollouts": {"chunk_0/solutions": [5]},
    "a rollout of numbers": {"chunk_0/solutions": [{"rollout": 7}]},
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_folder_edited_by_hand_is_refused(name, tmp_path):
    files = {"base_solution": BASE, "problem": {"gt_answer": "3"}, "chunks_labeled": LABELS}
    for file, content in (files | RELEASED[name]).items():
        path = tmp_path / "problem_1" / f"{file}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r".+"):
        read_rollouts_folder(tmp_path / "problem_1")


def test_rows_of_a_data_set_with_hostile_paths():
    path = "problem_1/" * 20_000
    rows = [
        {"path": path, "content": "{}"},
        {"path": "../problem_2/problem.json", "content": {}},
        {"path": "\x00", "content": 0},
    ]
    assert seconds(lambda: list(read_rollouts_rows(rows))) < 1


def test_a_line_separator_inside_a_prompt_is_no_line(tmp_path):
    path = write(
        tmp_path / "p.jsonl", json.dumps({"prompt": "a\u2028b\x85c", "target": 7}, ensure_ascii=False).encode()
    )
    assert read_prompts(path) == [("a\u2028b\x85c", "7")]
    for line in (b"5", b'{"prompt": 5}', b"{", b"\xff"):
        with pytest.raises(ValueError, match=r"p\.jsonl"):
            read_prompts(write(path, line))


EXPORTED = [
    {"anchors": "run", "format": 1, "settings": {"seed": 0}, "traces": 1, "rollouts": 1},
    RECORD,
    {"trace": TRACE.id, "kind": "free", "position": 0, "sample": 0, "tokens": 3, "finish": "stop", "text": "so", "bytes": None},
]  # fmt: skip


@pytest.mark.parametrize("value", [None, {}, ["t"], float("inf"), float("nan"), -1, 2**70])
@pytest.mark.parametrize("line, name", [(0, "traces"), (0, "rollouts"), (2, "trace"), (2, "position"), (2, "finish")])
def test_an_exported_run_edited_by_hand_is_refused(line, name, value, tmp_path):
    records = [record | {name: value} if i == line else record for i, record in enumerate(EXPORTED)]
    path = write(tmp_path / "run.jsonl", "\n".join(map(json.dumps, records)).encode())
    with pytest.raises(ValueError, match=r"run\.jsonl"):
        import_run(path, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def stored(tmp_path):
    scores = Scores.of(TRACE, "made up", np.zeros(2))
    return scores.save(tmp_path / "s.npz")


def test_damaged_and_pickled_scores(stored, tmp_path):
    whole = stored.read_bytes()
    broken = [whole[: len(whole) // 2], b"", whole[:200] + bytes([whole[200] ^ 0xFF]) + whole[201:]]
    broken.append(pickle.dumps(Planted(tmp_path / "owned")))
    for data in broken:
        with pytest.raises(ValueError, match=r"s\.npz"):
            Scores.load(write(stored, data))
    arrays = {name: np.zeros(2) for name in ("values", "low", "high", "p", "floor")} | {"n": np.ones(2, int)}
    header = np.array(json.dumps({"method": "m", "unit": "", "trace": RECORD, "details": {}}))
    edits = [
        {"header": np.array([Planted(tmp_path / "owned")], dtype=object)}, {}, {"header": header},
        arrays | {"header": header, "values": np.array(["a", "b"])}, arrays | {"header": header, "values": np.array(1.0)},
        arrays | {"header": header, "values": np.zeros(3)}, arrays | {"header": header, "odd": np.zeros(2)},
    ]  # fmt: skip
    for edit in edits:
        np.savez(stored, **edit)
        with pytest.raises(ValueError, match=r"s\.npz"):
            Scores.load(stored)
    np.save(tmp_path / "a.npy", np.zeros(2))
    with pytest.raises(ValueError, match="no readable scores"):
        Scores.load((tmp_path / "a.npy").rename(stored))
    assert not (tmp_path / "owned").exists()
    np.savez(stored, header=header, **arrays)
    assert Scores.load(stored).method == "m"


# -- text ------------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from([
    ".", "?", "!", " ", "\n", "\r\n", "\t", "\n\n", "$", "\\(", "\\)", "\\[", "\\boxed{", "}", "{", "1", "e.g.", "####", "\x0b",
    "the answer is ", "</think>", "<think>", "\ud800", "\u2028", "\xa0", "7!", "\\frac", "-(1/\u0660)", "\u0660", "a", "word ",
    "/", "^", "=", "%", ",", "\\text{", "\x00", "\U0001f642", "²", "−",
])  # fmt: skip
TEXTS = st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=60)


@FAST
@given(TEXTS, st.booleans())
def test_spans_tile_any_text(text, math_aware):
    spans = split_sentences(text, math_aware=math_aware)
    assert "".join(text[a:b] for a, b in spans) == (text if text.strip() else "")
    assert all(text[a:b].strip() for a, b in spans)
    if spans:
        edges = align_sentences(text, [text[a:b] for a, b in spans])
        assert [text[a:b].strip() for a, b in edges] == [text[a:b].strip() for a, b in spans]


@FAST
@given(TEXTS, TEXTS)
def test_answers_of_any_text(a, b):
    for text in (a, b):
        found = extract_answer(text)
        assert found is None or (found and found == found.strip())
    assert normalise_answer(a) == normalise_answer(a) and isinstance(same_answer(a, b), bool)
    assert same_answer(a, b) == same_answer(b, a) and same_answer(a, a)
    assert len(answer_classes([a, b, NO_ANSWER])) == 3


def test_a_number_stuck_to_letters_is_read_at_once():
    assert seconds(lambda: same_answer("6" + "x" * 40 + "2", "5 apples")) < 1


def test_a_digit_of_another_script_is_no_division_by_zero():
    assert not same_answer("-(1/\u0660)", "3")


@pytest.mark.parametrize("id", IDS)
def test_a_trace_of_any_id_is_written_and_read(id, tmp_path):
    trace = Trace.from_text("Q", "It is seven now. So 7.", id=id)
    assert read_jsonl(datasets.write_jsonl([trace], tmp_path / "t.jsonl")) == [trace]


TEXT_SHAPES = shapes(40_000)


@pytest.mark.parametrize("name", TEXT_SHAPES)
def test_long_single_lines_take_linear_time(name):
    from anchors.interventions import leak
    from anchors.taxonomy import label_by_rule

    def read(text: str) -> None:
        trace = Trace.from_text("Q", text, target="7")
        split_sentences(text, math_aware=True)
        if len(trace):
            label_by_rule(trace)
            leak(trace)

    long = TEXT_SHAPES[name]
    if (taken := seconds(lambda: read(long))) > 0.15:
        assert (
            taken < 9 * seconds(lambda: read(shapes(10_000)[name]), tries=3) or seconds(lambda: read(long)) < taken / 4
        )
