"""The doctor finds every planted damage and nothing else; a repair keeps all that can be read."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from anchors.cli import app
from anchors.importance import resampling_importance
from anchors.integrity import examine_run
from anchors.rollouts import STORE, Rollout, Rollouts, Store
from anchors.salvage import repair_run
from anchors.scores import Scores
from anchors.scoring import scores_folder
from tests.test_store import SETTINGS, a_run, a_trace, an_old_run, everything, left_by_a_kill, rollout


def edit(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / STORE)) as db, db:
        for statement in statements:
            db.execute(statement)


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files with anything in them, but for the index of the WAL, which every reader makes."""
    files = (p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.endswith("-shm"))
    return {p.name: data for p in files if (data := p.read_bytes())}


def problems(folder: Path) -> list[str]:
    before = snapshot(folder)
    found = examine_run(folder)
    assert snapshot(folder) == before, "an examination changes nothing"
    assert found.sound == (not any(f.problem for f in found.findings))
    return [finding.what for finding in found.findings if finding.problem]


def test_a_sound_run_has_no_findings(tmp_path):
    run = a_run(tmp_path / "run")
    run.add([Rollout(0, 3, "\ud83d\0", 1, "stop")])
    scores = resampling_importance(run)
    folder = scores_folder(tmp_path / "run", run.trace)
    folder.mkdir(parents=True)
    scores.save(folder / "resampling.npz")
    run.store.close()
    found = examine_run(tmp_path / "run")
    assert (found.findings, found.traces, found.rollouts) == ((), 1, 16)


PLANTED = {
    "insert into rollouts select 900, 77, kind, position, sample, tokens, finish, checksum, text from rollouts where number = 1": (
        "1 rollouts of a trace the run does not hold"
    ),
    "update rollouts set position = 5 where position = 4 and sample < 2": (
        "2 rollouts at a boundary their trace does not have"
    ),
    "update rollouts set position = -1 where number = 2": "1 rollouts at a boundary their trace does not have",
    "update rollouts set sample = -3 where number = 2": "1 rollouts with a sample or tokens that are no count",
    "update rollouts set tokens = 'many' where number = 2": "1 rollouts with a sample or tokens that are no count",
    "update rollouts set finish = 'eos' where sample = 1": "5 rollouts that end neither by stop nor by length",
    "update rollouts set text = cast(x'ff41' as text) where number = 2": "1 rollouts changed after they were written",
    "update settings set value = '8' where key = 'seed'": "the settings were edited since the rollouts were drawn",
    "update rollouts set text = replace(text, 'text 1', 'text 7')": "3 rollouts changed after they were written",
    "update rollouts set tokens = tokens + 1 where number = 3": "1 rollouts changed after they were written",
    "update rollouts set sample = 9 where number = 3": "1 rollouts changed after they were written",
    "update traces set record = substr(record, 1, 90)": "the record of trace",
    "update traces set id = 'other'": "it says its id is",
    "drop index rollouts_key": "lacks the index rollouts_key",
    "drop table traces": "lacks the table traces",
    "update settings set value = '9' where key = 'schema'": "the schema is 9, this version reads up to 2",
}


@pytest.mark.parametrize("statement", PLANTED)
def test_planted_damage_is_named(tmp_path, statement):
    a_run(tmp_path / "run").store.close()
    edit(tmp_path / "run", statement)
    found = problems(tmp_path / "run")
    assert len(found) == 1 and PLANTED[statement] in found[0]


def test_what_a_killed_process_leaves_is_no_problem(tmp_path):
    left_by_a_kill(tmp_path / "run", 3)
    (finding,) = examine_run(tmp_path / "run").findings
    assert not finding.problem and "one was killed" in finding.what and "never delete" in finding.remedy
    a_run(tmp_path / "gap", n=0).add(rollout(k, s) for k, s in ((0, 0), (0, 1), (2, 1), (3, 4)))
    found = [f for f in examine_run(tmp_path / "gap").findings if "lack" in f.what]
    assert len(found) == 1 and not found[0].problem and "2 boundaries lack a sample" in found[0].what


def test_scores_of_other_rollouts_are_named(tmp_path):
    run = a_run(tmp_path / "run")
    folder = scores_folder(tmp_path / "run", run.trace)
    folder.mkdir(parents=True)
    other = Rollouts(a_run(None, settings=SETTINGS | {"seed": 8}).store, run.trace)
    resampling_importance(other).save(folder / "resampling.npz")
    (folder / "forced.npz").write_bytes(b"PK\3\4 half a file")
    strange = a_trace(3)
    Scores.of(strange, "attention", np.arange(3.0)).save(folder / "attention.npz")
    np.savez(folder / "suppression.npz", header=np.array([object()]), allow_pickle=True)
    run.store.close()
    found = sorted(problems(tmp_path / "run"))
    assert len(found) == 4
    assert "attention.npz" in found[0] and "whose sentences the run does not hold" in found[0]
    assert "forced.npz cannot be read" in found[1] and "suppression.npz cannot be read" in found[3]
    assert "rollout seed 8, the run has 7" in found[2]


def test_an_old_run_is_examined_and_not_migrated(tmp_path):
    an_old_run(tmp_path / "run", [a_trace()])
    assert problems(tmp_path / "run") == []
    edit(tmp_path / "run", "insert into rollouts values ('nobody', 'free', 0, 0, 'x', 1, 'stop')")
    found = problems(tmp_path / "run")
    assert len(found) == 1 and "1 of its 16 rollouts are of traces it does not hold" in found[0]
    done = repair_run(tmp_path / "run")
    assert done.rollouts == 15 and done.left_out == {"rollouts of a trace the run does not hold": 1}
    assert everything(Rollouts.open(tmp_path / "run")[0]) == [rollout(k, s) for k in range(5) for s in range(3)]
    assert problems(tmp_path / "run") == []


# --- repair -------------------------------------------------------------------------------------------------


def big_run(folder: Path, old: bool) -> dict[tuple[int, int], Rollout]:
    """A run of some two hundred pages."""
    if old:
        an_old_run(folder, [a_trace()], n=600)
        return {(k, s): rollout(k, s) for k in range(5) for s in range(600)}
    run = a_run(folder, n=0)
    rows = [Rollout(k, s, f"{k} {s} " * 30, s, "stop") for s in range(600) for k in range(5)]
    run.add(rows)
    run.store.close()
    return {(r.position, r.sample): r for r in rows}


@pytest.mark.parametrize("old", [False, True], ids=["schema 2", "schema 1"])
@pytest.mark.parametrize("seed", range(6))
def test_a_repair_keeps_what_can_be_read_and_the_run_goes_on(tmp_path, seed, old):
    """Random pages are overwritten: what is kept is right, the damaged file is kept byte for byte, the run goes on."""
    written = big_run(tmp_path / "run", old)
    path, rng = tmp_path / "run" / STORE, random.Random(seed)
    data = bytearray(path.read_bytes())
    pages = len(data) // 4096
    torn = rng.sample(range(8, pages), 3)
    for page in torn:
        data[page * 4096 : page * 4096 + 4096] = rng.randbytes(4096)
    path.write_bytes(data)
    assert problems(tmp_path / "run")
    done = repair_run(tmp_path / "run")
    assert done.damaged.read_bytes() == bytes(data) and done.damaged.name == f"{STORE}.damaged-1"
    assert problems(tmp_path / "run") == []
    run = Rollouts.open(tmp_path / "run")[0]
    kept = {(r.position, r.sample): r for r in everything(run)}
    assert all(written[key] == r for key, r in kept.items()) and len(kept) == done.rollouts
    if not old:
        assert len(kept) >= len(written) - 3 * 25, "at most the rows of three pages are lost"
    run.add(written.values())
    assert {(r.position, r.sample): r for r in everything(run)} == written
    Store(tmp_path / "run", SETTINGS).close()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_overwritten_is_said_and_nothing_altered_is_kept(tmp_path, seed):
    """Bits, bytes and ends of the file are lost at random: every failure is one line, and what a repair keeps is as written."""
    a_run(tmp_path / "whole", n=150).store.close()
    whole, rng, repaired = (tmp_path / "whole" / STORE).read_bytes(), random.Random(seed), 0
    for case in range(8):
        data, folder = bytearray(whole), tmp_path / str(case)
        if case % 4 == 0:
            del data[rng.randrange(len(data)) :]
        for _ in range(rng.choice((1, 5, 30))):
            data[rng.randrange(100 if case % 4 == 1 else len(data))] ^= 1 << rng.randrange(8)
        folder.mkdir()
        (folder / STORE).write_bytes(data)
        found = examine_run(folder)
        try:
            repair_run(folder)
        except (ValueError, OSError):
            assert not found.sound
            continue
        repaired += 1
        assert examine_run(folder).sound
        (run,) = Rollouts.open(folder)
        assert all(r == rollout(r.position, r.sample) for r in everything(run))
        run.store.close()
    assert repaired >= 2


def test_a_repair_takes_the_wal_and_leaves_it_beside(tmp_path):
    left_by_a_kill(tmp_path / "run", 3)
    before = snapshot(tmp_path / "run")
    done = repair_run(tmp_path / "run")
    assert done.rollouts == 15 and done.left_out == {}
    after = snapshot(tmp_path / "run")
    for ending in ("", "-wal"):
        assert after[f"{STORE}.damaged-1{ending}"] == before[f"{STORE}{ending}"]
    (run,) = Rollouts.open(tmp_path / "run")
    assert everything(run) == [rollout(k, s) for k in range(5) for s in range(3)]
    run.store.close()
    assert repair_run(tmp_path / "run").damaged.name == f"{STORE}.damaged-2"


def test_a_repair_leaves_out_what_no_rollout_may_be_and_says_so(tmp_path):
    run = a_run(tmp_path / "run")
    odd = [("free", 1, s, 1, "eos", "x") for s in (3, 4, 5)] + [("free", 9, 0, 1, "stop", "x")]
    run.store.insert(run.trace, odd)
    run.store.close()
    edit(
        tmp_path / "run",
        "update rollouts set text = cast(x'ff41' as text) where position = 3 and sample = 0",
        "update rollouts set tokens = 5 where position = 2 and sample = 0",
        "update settings set value = '8' where key = 'seed'",
    )
    done = repair_run(tmp_path / "run")
    assert done.left_out == {
        "rollouts that end neither by stop nor by length": 3,
        "rollouts at a boundary their trace does not have": 1,
        "rollouts that changed after they were written": 1,
        "unreadable rows of rollouts": 1,
    }
    assert problems(tmp_path / "run") == []
    run = Rollouts(Store(tmp_path / "run", SETTINGS | {"seed": 8}), a_trace())
    assert run.counts() == [3, 3, 2, 2, 3]


def test_what_cannot_be_repaired_is_said_and_left_alone(tmp_path):
    a_run(tmp_path / "run").store.close()
    whole = (tmp_path / "run" / STORE).read_bytes()
    for name, data, message in (
        ("noise", random.Random(0).randbytes(40000), "nothing of .* can be salvaged: file is not a database"),
        ("short", whole[:3000], "nothing of .* can be salvaged"),
        ("empty", b"", "it has no table of rollouts; restore a copy"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / STORE).write_bytes(data)
        with pytest.raises(ValueError, match=message):
            repair_run(tmp_path / name)
        assert (tmp_path / name / STORE).read_bytes() == data
        assert not list((tmp_path / name).glob("*fresh*")) and not list((tmp_path / name).glob("*damaged*"))
    assert problems(tmp_path / "noise") and problems(tmp_path / "short")


def test_a_run_that_another_process_has_open_is_not_repaired(tmp_path):
    a_run(tmp_path / "run").store.close()
    code = (
        "import sys\nfrom anchors.rollouts import Store\nstore = Store(sys.argv[1])\n"
        "store.note('stop', {'k': 1})\nprint('open', flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "open\n"
        with pytest.raises(TimeoutError, match="is open elsewhere; stop what uses it"):
            repair_run(tmp_path / "run")
        child.communicate("")
    assert repair_run(tmp_path / "run").rollouts == 15


# --- the commands -------------------------------------------------------------------------------------------


def said(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def test_doctor_says_what_is_wrong_by_its_exit_code(tmp_path):
    a_run(tmp_path / "run").store.close()
    code, text = said("doctor", tmp_path / "run")
    assert code == 0 and "is sound: 1 traces, 15 rollouts can be read" in text
    edit(tmp_path / "run", "update rollouts set finish = 'eos' where position = 1")
    code, text = said("doctor", tmp_path / "run")
    assert code == 1 and "problem: 3 rollouts that end neither" in text and "--repair" in text
    code, text = said("doctor", tmp_path / "run", "--json")
    record = json.loads(text)
    assert code == 1 and record["sound"] is False and record["findings"][0]["problem"] is True
    code, text = said("doctor", tmp_path / "run", "--repair", "--json")
    record = json.loads(text)
    assert code == 0 and record["rollouts"] == 12 and record["repair"]["rollouts"] == 12
    assert Path(record["repair"]["damaged"]).exists()


def test_the_other_commands_round_trip(tmp_path):
    a_run(tmp_path / "a", n=2).store.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    a_run(tmp_path / "b", n=3).store.close()
    code, text = said("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c", "--json")
    assert (code, json.loads(text)["rollouts"], json.loads(text)["duplicates"]) == (0, 15, 10)
    for suffix in ("jsonl", "parquet"):
        code, text = said("export", tmp_path / "c", "-o", tmp_path / f"c.{suffix}")
        assert code == 0 and "15 rollouts of 1 traces" in text
        code, text = said("import", tmp_path / f"c.{suffix}", "--out", tmp_path / suffix, "--json")
        assert code == 0 and json.loads(text)["rollouts"] == 15
        assert everything(Rollouts.open(tmp_path / suffix)[0]) == everything(Rollouts.open(tmp_path / "b")[0])
