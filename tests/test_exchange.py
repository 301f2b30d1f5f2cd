"""A run as one file and back: nothing is lost, half a file is refused, memory does not grow with the run."""

from __future__ import annotations

import json
import random
import shutil
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchors.exchange import export_run, import_run
from anchors.extras import MissingExtra
from anchors.rollouts import Rollout, Rollouts, Store
from tests.test_store import SETTINGS, a_run, a_trace, everything

FORMATS = ("jsonl", "parquet")
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
"""Every code point there is: NUL, lone surrogates, unassigned ones."""


def contents(run: Path) -> tuple:
    """All a run holds: settings, traces, and every row but its own number."""
    store = Store(run)
    rows = store.read("select trace, kind, position, sample, tokens, finish, text from rollouts order by 1, 2, 3, 4")
    found = store.settings, store.traces(), rows
    store.close()
    return found


values = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), ANY_TEXT)
rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), ANY_TEXT, st.integers(0, 2**40), st.booleans()))


@settings(max_examples=15, deadline=None)
@given(
    chosen=st.dictionaries(
        st.text("abcé😀.", min_size=1), st.one_of(values, st.lists(values), st.dictionaries(st.text(), values))
    ),
    free=rows,
    other=rows,
    kind=st.text("aé \n", min_size=1, max_size=5),
)
def test_everything_comes_back(tmp_path_factory, chosen, free, other, kind):
    folder = tmp_path_factory.mktemp("exchange")
    traces = [a_trace(4, target="4", meta={"model": "é", "n": 1}), a_trace(5, id="a/b c"), a_trace(6)]
    store = Store(folder / "run", chosen)
    store.claim(traces)
    for trace, name, drawn in ((traces[0], "free", free), (traces[1], kind, other), (traces[1], "free", free)):
        Rollouts(store, trace, kind=name).add(
            Rollout(k, s, text, tokens, "stop" if stop else "length") for k, s, text, tokens, stop in drawn
        )
    store.close()
    before = contents(folder / "run")
    for suffix in FORMATS:
        written = export_run(folder / "run", folder / f"out.{suffix}")
        read = import_run(folder / f"out.{suffix}", out=folder / suffix)
        assert written[1:] == read[1:] == (3, len(before[2]))
        assert contents(folder / suffix) == before
        export_run(folder / suffix, folder / f"again.{suffix}")
        assert (folder / f"again.{suffix}").read_bytes() == (folder / f"out.{suffix}").read_bytes()
    shutil.rmtree(folder)


def test_an_imported_run_goes_on(tmp_path):
    a_run(tmp_path / "run").store.close()
    export_run(tmp_path / "run", tmp_path / "run.jsonl")
    import_run(tmp_path / "run.jsonl", out=tmp_path / "new")
    with pytest.raises(ValueError, match="seed was 7, now 8"):
        Store(tmp_path / "new", SETTINGS | {"seed": 8})
    assert a_run(tmp_path / "new", n=4).counts() == [4] * 5


def test_other_tools_read_the_parquet_file(tmp_path):
    import pandas

    run = a_run(tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "run.parquet")
    frame = pandas.read_parquet(tmp_path / "run.parquet")
    found = [Rollout(*row) for row in frame[["position", "sample", "text", "tokens", "finish"]].itertuples(index=False)]
    assert found == everything(run) and set(frame["trace"]) == {run.trace.id}


@pytest.mark.parametrize("suffix", FORMATS)
def test_half_a_file_is_refused_and_leaves_nothing(tmp_path, suffix):
    a_run(tmp_path / "run", n=40)
    path = export_run(tmp_path / "run", tmp_path / f"run.{suffix}").path
    whole = path.read_bytes()
    for share in (0.2, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"export the run again|was not written by anchors export"):
            import_run(path, out=tmp_path / "new")
    if suffix == "jsonl":
        path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
        with pytest.raises(ValueError, match="says it holds 200 rollouts, but 199 were found"):
            import_run(path, out=tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", f"run.{suffix}"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"position": 5}, "of 5 boundaries"),
        ({"position": -1}, "position, sample and tokens are"),
        ({"sample": 1.5}, "position, sample and tokens are"),
        ({"tokens": True}, "position, sample and tokens are"),
        ({"tokens": 2**63}, "position, sample and tokens are"),
        ({"finish": "eos"}, "finish 'eos'"),
        ({"trace": "other"}, "its trace 'other' is not in the file"),
        ({"text": None}, "either text or bytes"),
        ({"bytes": "eA=="}, "either text or bytes"),
        ({"more": 1}, "it needs exactly trace, kind"),
        ({"bytes": "=", "text": None}, "bytes in base64"),
        ({"bytes": "/w==", "text": None}, "its bytes are no text"),
        ({"text": 5}, "either text or bytes"),
    ],
)
def test_a_row_that_is_no_rollout_is_refused_by_line(tmp_path, change, message):
    a_run(tmp_path / "run")
    path = export_run(tmp_path / "run", tmp_path / "run.jsonl").path
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[7] |= change
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=message):
        import_run(path, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, suffix):
    """Bytes changed at random: the run is refused with an error that is shown as one line, or is read as it says."""
    a_run(tmp_path / "run")
    path = export_run(tmp_path / "run", tmp_path / f"run.{suffix}").path
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for case in range(40):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 3, 20))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            import_run(path, out=tmp_path / f"new{case}")
        except ValueError:
            refused += 1
            assert not (tmp_path / f"new{case}").exists()
    assert refused >= 15


def test_what_cannot_be_exchanged_is_said(tmp_path, monkeypatch):
    a_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"run.csv is neither .jsonl nor .parquet"):
        export_run(tmp_path / "run", tmp_path / "run.csv")
    with pytest.raises(ValueError, match="is not a run directory"):
        export_run(tmp_path / "none", tmp_path / "run.jsonl")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        import_run(tmp_path / "none.jsonl", out=tmp_path / "new")
    (tmp_path / "other.jsonl").write_text('{"prompt": "x"}\n')
    with pytest.raises(ValueError, match="was not written by anchors export"):
        import_run(tmp_path / "other.jsonl", out=tmp_path / "new")
    export_run(tmp_path / "run", tmp_path / "run.jsonl")
    with pytest.raises(ValueError, match="is there already"):
        import_run(tmp_path / "run.jsonl", out=tmp_path / "run")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'anchors\[tables\]'"):
        export_run(tmp_path / "run", tmp_path / "run.parquet")
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("suffix", FORMATS)
def test_memory_does_not_grow_with_the_run(tmp_path, suffix, monkeypatch):
    """The text of the run is 6 MB; a batch of it is 0.2 MB."""
    for module in ("exchange", "store"):
        monkeypatch.setattr(f"anchors.{module}.BATCH", 100)
    run = a_run(tmp_path / "run", n=0)
    for k in range(5):
        run.add(Rollout(k, s, f"{k} {s} " * 300, 1, "stop") for s in range(600))
    run.store.close()
    export_run(tmp_path / "run", tmp_path / f"warm.{suffix}")
    tracemalloc.start()
    try:
        export_run(tmp_path / "run", tmp_path / f"run.{suffix}")
        import_run(tmp_path / f"run.{suffix}", out=tmp_path / "new")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5e6
    assert contents(tmp_path / "new") == contents(tmp_path / "run")


def test_traces_of_a_parquet_file_that_unpack_without_end_are_refused(tmp_path, monkeypatch):
    store = Store(tmp_path / "run", {})
    store.claim([a_trace(4)])
    store.close()
    export_run(tmp_path / "run", tmp_path / "out.parquet")
    monkeypatch.setattr("anchors.exchange.MOST", 64)
    with pytest.raises(ValueError, match=r"out.parquet.*its traces are larger than"):
        import_run(tmp_path / "out.parquet", out=tmp_path / "back")
    assert not (tmp_path / "back").exists()
