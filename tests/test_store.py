"""The run's file: many writers, earlier schemas, full disks, places that cannot be written, and what it says then."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from anchors.rollouts import STORE, Rollout, Rollouts, Store
from anchors.trace import Trace

SETTINGS = {"model": "lab/reasoner", "seed": 7, "sampling": {"temperature": 0.6}}


def a_trace(sentences: int = 4, **options) -> Trace:
    body = " ".join(f"Sentence {i} says {i} + 1." for i in range(sentences))
    return Trace.from_text("Add.\n", f"<think>\n{body}\n</think>\n\\boxed{{4}}", **options)


def a_run(folder: Path | None, trace: Trace | None = None, *, n: int = 3, settings=SETTINGS) -> Rollouts:
    trace = a_trace() if trace is None else trace
    store = Store(folder, settings)
    store.claim([trace])
    run = Rollouts(store, trace)
    run.add(rollout(k, s) for k in range(len(trace) + 1) for s in range(n))
    return run


def rollout(k: int, s: int) -> Rollout:
    return Rollout(k, s, f"text {k} {s} é😀", 10 * k + s, "stop" if s % 2 else "length")


def everything(run: Rollouts) -> list[Rollout]:
    return [r for k in range(len(run.trace) + 1) for r in run.at(k)]


# --- what is stored -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "\0a\0", "a\ud83d", "\ud83d\ude00", "\udc00\ud800", "e\u0301\u202e\uffff", "😀"])
def test_every_string_comes_back(tmp_path, text):
    run = a_run(tmp_path / "run", n=0)
    run.add([Rollout(0, 0, text, 1, "stop")])
    assert Rollouts.open(tmp_path / "run")[0].at(0) == [Rollout(0, 0, text, 1, "stop")]


def test_missing_is_what_brute_force_says(tmp_path):
    run = a_run(tmp_path / "run", n=0)
    kept = [(k, s) for k in range(5) for s in range(6) if (k * 7 + s * 5) % 3 or k == 2]
    run.add(rollout(k, s) for k, s in kept)
    for n in (1, 4, 6, 9):
        assert run.missing(n) == [(k, s) for k in range(5) for s in range(n) if (k, s) not in kept]
    assert run.counts() == [sum(p == k for p, _ in kept) for k in range(5)]
    assert run.cost() == (len(kept), sum(10 * k + s for k, s in kept))
    assert Rollouts(run.store, run.trace, kind="other").cost() == (0, 0)


def test_rollouts_of_a_trace_nobody_claimed_are_not_dropped(tmp_path):
    run = Rollouts(Store(tmp_path / "run", SETTINGS), a_trace())
    run.add([rollout(0, 0)])
    assert everything(Rollouts.open(tmp_path / "run")[0]) == [rollout(0, 0)]
    with pytest.raises(ValueError, match="holds another trace"):
        Rollouts(run.store, a_trace(5)).add([rollout(0, 0)])


def test_the_same_text_with_other_sentences_is_another_trace(tmp_path):
    trace = a_trace()
    a_run(tmp_path / "run", trace)
    text = trace.reasoning + trace.ending
    halves = Trace.from_text(trace.prompt, text, sentences=[trace.reasoning[:50], trace.reasoning[50:]])
    assert halves.id == trace.id
    with pytest.raises(ValueError, match=r"the sentences of .* changed"):
        Store(tmp_path / "run", SETTINGS).claim([halves])


def test_settings_edited_by_hand_are_refused(tmp_path):
    run = a_run(tmp_path / "run")
    run.store.note("stop", {"k": 5})
    Store(tmp_path / "run", SETTINGS).close()
    run.store.db.execute("update settings set value = '8' where key = 'seed'")
    run.store.db.commit()
    for seed in (7, 8):
        with pytest.raises(ValueError, match="were edited since its rollouts were drawn"):
            Store(tmp_path / "run", SETTINGS | {"seed": seed})
    run.store.db.execute("update settings set value = '7' where key = 'seed'")
    run.store.db.commit()
    assert Store(tmp_path / "run", SETTINGS | {"dtype": "float32"}).settings["dtype"] == "float32"


# --- many writers -------------------------------------------------------------------------------------------


def write_share(folder: Path, number: int, seed: int, start) -> None:
    """What each process does: open the run at the same moment, write its share and some of its neighbour's, one by one."""
    start.wait(60)
    trace = a_trace(9)
    store = Store(folder, SETTINGS | {"seed": seed})
    store.claim([trace])
    run = Rollouts(store, trace)
    for s in range(12):
        run.add(rollout(k, s) for k in range(10) if k % 4 in (number, (number + 1) % 4))
        store.note("stop", {"k": number})


def test_processes_write_one_run_and_nothing_is_lost_or_doubled(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    shares = [context.Process(target=write_share, args=(tmp_path / "run", k, 7, start)) for k in range(4)]
    for process in shares:
        process.start()
    for process in shares:
        process.join(120)
    assert [process.exitcode for process in shares] == [0] * 4
    found = Rollouts.open(tmp_path / "run")
    assert len(found) == 1
    assert everything(found[0]) == [rollout(k, s) for k in range(10) for s in range(12)]


def test_a_writer_waits_for_a_lock_and_says_so_when_it_gives_up(tmp_path, monkeypatch):
    run = a_run(tmp_path / "run", n=0)
    monkeypatch.setattr("anchors.sqlite.PATIENCE", 0.3)
    monkeypatch.setattr("anchors.opening.BUSY", 0.05)
    other = Rollouts(Store(tmp_path / "run", SETTINGS), run.trace)
    run.store.db.execute("begin immediate")
    with pytest.raises(TimeoutError, match=r"kept .*rollouts.sqlite locked .* run the same command again"):
        other.add([rollout(0, 0)])
    assert everything(other) == []
    run.store.db.execute("rollback")
    other.add([rollout(0, 0)])
    assert everything(run) == [rollout(0, 0)]


# --- schema 1 -----------------------------------------------------------------------------------------------

SCHEMA_1 = """
pragma journal_mode = wal;
create table if not exists settings (key text primary key, value text not null);
create table if not exists traces (number integer primary key, id text unique not null, record text not null);
create table if not exists rollouts (
    trace text not null, kind text not null, position integer not null, sample integer not null,
    text text not null, tokens integer not null, finish text not null,
    primary key (trace, kind, position, sample)
) without rowid;
insert or ignore into settings values ('schema', '1');
"""
"""The statements by which anchors 0.1.0 made a run."""


def an_old_run(folder: Path, traces: list[Trace], *, n: int = 3, kinds=("free",), stray: bool = False) -> None:
    """A run as anchors 0.1.0 left it."""
    import json

    folder.mkdir(parents=True)
    db = sqlite3.connect(folder / STORE)
    db.executescript(SCHEMA_1)
    rows = [(key, json.dumps(value, sort_keys=True)) for key, value in SETTINGS.items()]
    db.executemany("insert or ignore into settings values (?, ?)", rows)
    names = [(t.id, json.dumps(t.to_json())) for t in traces]
    db.executemany("insert or ignore into traces (id, record) values (?, ?)", names)
    owners = [(t.id, len(t)) for t in traces] + ([("nobody", 2)] if stray else [])
    drawn = [(i, q, rollout(k, s)) for i, size in owners for q in kinds for k in range(size + 1) for s in range(n)]
    rows = [(i, q, r.position, r.sample, r.text, r.tokens, r.finish) for i, q, r in drawn]
    db.executemany("insert or ignore into rollouts values (?, ?, ?, ?, ?, ?, ?)", rows)
    db.commit()
    db.close()


def test_a_run_of_schema_1_is_brought_to_this_one(tmp_path):
    traces = [a_trace(4), a_trace(6)]
    an_old_run(tmp_path / "run", traces, kinds=("free", "different"))
    for kind in ("free", "different"):
        found = Rollouts.open(tmp_path / "run", kind=kind)
        assert [r.trace for r in found] == traces
        for run in found:
            assert everything(run) == [rollout(k, s) for k in range(len(run.trace) + 1) for s in range(3)]
    store = Store(tmp_path / "run", SETTINGS)
    store.claim(traces)
    Rollouts(store, traces[0]).add([rollout(0, 3)])
    assert Rollouts(store, traces[0]).counts() == [4, 3, 3, 3, 3]
    fresh = sqlite3.connect(":memory:")
    from anchors.migrations import create

    create(fresh)
    query = "select type, name, sql from sqlite_master order by name"
    assert store.db.execute(query).fetchall() == fresh.execute(query).fetchall()


KILLED = """
import os, signal, sys
from anchors import opening
from anchors.rollouts import Store
real, calls = opening.migrate, [0]
def dying(db, schema):
    def tick():
        calls[0] += 1
        if calls[0] == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
    db.set_progress_handler(tick, 200)
    real(db, schema)
opening.migrate = dying
Store(sys.argv[1])
"""


def test_a_killed_migration_leaves_the_old_run(tmp_path):
    """Killed at several moments; the file is of schema 1 and whole each time, and the next opening migrates it."""
    trace = a_trace()
    an_old_run(tmp_path / "run", [trace], n=400)
    for moment in (1, 40, 90):
        child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run"), str(moment)], check=False)
        assert child.returncode == -signal.SIGKILL
        db = sqlite3.connect(tmp_path / "run" / STORE)
        assert db.execute("select value from settings where key = 'schema'").fetchone() == ("1",)
        assert db.execute("select count(*), count(distinct trace) from rollouts").fetchone() == (2000, 1)
        db.close()
    assert everything(Rollouts.open(tmp_path / "run")[0]) == [rollout(k, s) for k in range(5) for s in range(400)]


def test_rows_that_a_migration_would_lose_stop_it(tmp_path):
    an_old_run(tmp_path / "run", [a_trace()], stray=True)
    with pytest.raises(ValueError, match=r"9 of its 24 rollouts are of traces it does not hold.*doctor"):
        Rollouts.open(tmp_path / "run")
    db = sqlite3.connect(tmp_path / "run" / STORE)
    assert db.execute("select count(*) from rollouts").fetchone() == (24,)
    db.close()


def test_a_later_schema_is_refused(tmp_path):
    run = a_run(tmp_path / "run")
    run.store.note("schema", 3)
    with pytest.raises(ValueError, match="written with schema 3, this version reads up to 2; update anchors"):
        Rollouts.open(tmp_path / "run")
    assert run.store.db.execute("select value from settings where key = 'schema'").fetchone() == ("3",)


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    db = sqlite3.connect(tmp_path / "run" / STORE)
    db.execute("create table photos (name text)")
    db.commit()
    db.close()
    with pytest.raises(ValueError, match=r"is not a rollout store: it does not say its schema \(tables photos\)"):
        Store(tmp_path / "run", SETTINGS)


# --- full disks ---------------------------------------------------------------------------------------------


@contextmanager
def mounted(*command: str) -> Iterator[None]:
    """A mount for the length of a test, which is skipped where mounting is not allowed."""
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(command[:3])} is not allowed here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", command[-1]], check=True)


def test_a_full_disk_is_said_and_the_same_command_continues(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    with mounted("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)):
        run, stored = a_run(place / "run", n=1), 1
        with pytest.raises(OSError, match=r"the disk of .*run.*rollouts.sqlite is full .* run the same command again"):
            for stored in range(1, 99):
                run.add(Rollout(k, stored, "x" * 9000, 1, "stop") for k in range(5))
        assert run.counts() == [stored] * 5, "whole transactions only"
        filler = place / "filler"
        filler.write_bytes(b"x" * max(0, shutil.disk_usage(place).free - 4096))
        again = Rollouts.open(place / "run")[0]
        assert again.counts() == [stored] * 5, "it can be read while the disk is full"
        with pytest.raises((OSError, ValueError), match="full"):
            again.add(Rollout(k, stored, "x" * 9000, 1, "stop") for k in range(5))
        for rollouts in (run, again):
            rollouts.store.close()
        with pytest.raises((OSError, ValueError), match="full"):
            a_run(place / "run", n=99)
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=3m", str(place)], check=True)
        whole = a_run(place / "run", n=1)
        whole.add(Rollout(k, stored, "x" * 9000, 1, "stop") for k in range(5))
        assert whole.counts() == [stored + 1] * 5
        assert whole.store.read("pragma integrity_check") == [("ok",)]
        whole.store.close()


def test_resampling_goes_on_where_the_disk_was_full(tmp_path, monkeypatch):
    from anchors import resampling
    from tests.scripted import ScriptedModel, plant

    planted, place = plant([0.2] * 6), tmp_path / "small"
    draw = partial(resampling.resample, planted.trace, ScriptedModel(planted), n=400, progress=False)
    monkeypatch.setattr(resampling, "COMMIT", 0.005)
    place.mkdir()
    with mounted("mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)):
        with pytest.raises(OSError, match="free some space and run the same command again"):
            draw(out=place / "run")
        (kept,) = Rollouts.open(place / "run")
        assert 0 < kept.cost().rollouts < 2800
        kept.store.close()
        subprocess.run(["mount", "-o", "remount,size=4m", str(place)], check=True)
        whole = draw(out=place / "run")
        assert everything(whole) == everything(draw())
        whole.store.close()


def test_a_store_that_may_not_grow_keeps_what_it_has(tmp_path):
    run = a_run(tmp_path / "run")
    pages = run.store.db.execute("pragma page_count").fetchone()[0]
    run.store.db.execute(f"pragma max_page_count = {pages + 1}")
    before = everything(run)
    with pytest.raises(OSError, match="full or failing"):
        run.add(Rollout(0, s, "x" * 5000, 1, "stop") for s in range(3, 9))
    assert everything(run) == before
    run.store.db.execute("pragma max_page_count = 100000")
    run.add([rollout(0, 3)])
    assert len(everything(run)) == len(before) + 1


# --- places that cannot be written --------------------------------------------------------------------------


def left_by_a_kill(folder: Path, n: int) -> None:
    """A run whose writer was killed: its rollouts are in the WAL, and the WAL's index is gone."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom tests.test_store import a_run\n"
        "a_run(Path(sys.argv[1]), n=int(sys.argv[2]))\nos.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), str(n)], check=False, cwd=Path(__file__).parents[1])
    assert (folder / f"{STORE}-wal").stat().st_size
    (folder / f"{STORE}-shm").unlink()


@pytest.mark.parametrize("kind", ["closed", "killed", "schema 1"])
@pytest.mark.parametrize("lock", ["mount", "attribute"])
def test_a_run_that_cannot_be_written_is_read(tmp_path, kind, lock):
    folder, trace = tmp_path / "run", a_trace()
    if kind == "closed":
        a_run(folder).store.close()
    elif kind == "killed":
        left_by_a_kill(folder, 3)
    else:
        an_old_run(folder, [trace])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with unwritable(folder, lock):
        run = Rollouts.open(folder)[0]
        assert everything(run) == [rollout(k, s) for k in range(5) for s in range(3)]
        assert run.missing(4) == [(k, 3) for k in range(5)]
        same = Store(folder, SETTINGS)
        same.claim([trace])
        for rollouts in (run, Rollouts(same, trace)):
            with pytest.raises(ValueError, match=r"cannot write the run directory .*copy it to a writable place"):
                rollouts.add([rollout(0, 3)])
        with pytest.raises(ValueError, match="seed was 7, now 8"):
            Store(folder, SETTINGS | {"seed": 8})
        run.store.close()
        same.close()
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    grown = a_run(folder, n=4)
    assert grown.counts() == [4] * 5


@contextmanager
def unwritable(folder: Path, lock: str) -> Iterator[None]:
    if lock == "mount":
        with mounted("mount", "--bind", str(folder), str(folder)):
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
            yield
        return
    places = [folder, *folder.iterdir()]
    done = subprocess.run(["chattr", "+i", *places], capture_output=True, check=False)
    try:
        if done.returncode:
            pytest.skip(f"chattr +i is not allowed here: {done.stderr.decode().strip()}")
        yield
    finally:
        subprocess.run(["chattr", "-i", *places], capture_output=True, check=False)


def test_a_run_that_does_not_exist_cannot_be_made_where_nothing_can_be_written(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    with unwritable(place, "mount"), pytest.raises(ValueError, match="cannot write the run directory"):
        Store(place / "run", SETTINGS)
    assert os.listdir(place) == []
