"""Run directories that are killed, rot, are edited or were made to attack: nothing lost, nothing doubled, nothing outside."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anchors.models.base import Job, Sampling
from anchors.resampling import resample, resample_traces
from anchors.rollouts import STORE, Rollout, Rollouts
from anchors.scores import Scores
from anchors.scoring import score_traces, scores_folder, stored_scores
from anchors.trace import Trace
from tests.faults.hostile import IDS
from tests.scripted import ScriptedModel, plant

PLANTED = plant([0.2, 0.5, 0.8])
MODEL = ScriptedModel(PLANTED)
KILLED = Path(__file__).with_name("killed.py")


def rows(runs: list[Rollouts]) -> list[Rollout]:
    return [row for run in runs for k in range(len(run.trace) + 1) for row in run.at(k)]


def draw(folder: Path | None, n: int = 6, **options) -> Rollouts:
    return resample(PLANTED.trace, MODEL, n=n, seed=3, out=folder, progress=False, **options)


WHOLE = rows([draw(None)])


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_rollouts(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "KILLED_ROLLOUTS": "8", "PYTHONPATH": str(KILLED.parents[2])}
    command = [sys.executable, str(KILLED), str(tmp_path), "--kills", "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["trials"] >= 3 and found["killed while running"] >= 1 and found["different"] == 0
    assert any(0 < count < found["rollouts"] for count in found["stored at the kill"]) or found["rollouts"] < 50


def broken_copy(source: Path, target: Path, name: str, change) -> Path:
    shutil.copytree(source, target)
    data = bytearray((target / name).read_bytes())
    (target / name).write_bytes(change(data))
    return target


@pytest.fixture(scope="module")
def open_run(tmp_path_factory):
    """A run as a kill leaves it: rollouts in the write-ahead log, nothing in the file itself."""
    folder, kept = tmp_path_factory.mktemp("open"), tmp_path_factory.mktemp("kept") / "run"
    run = draw(folder)
    shutil.copytree(folder, kept)
    run.store.close()
    assert (kept / f"{STORE}-wal").stat().st_size > 0
    return kept


def flip(share: float):
    def change(data: bytearray) -> bytes:
        for place in range(int(len(data) * share), min(len(data), int(len(data) * share) + 40)):
            data[place] ^= 0xFF
        return bytes(data)

    return change


LOGS = {f"flipped at {share}": flip(share) for share in (0.0, 0.1, 0.5, 0.9, 0.999)} | {
    f"cut at {share}": lambda data, share=share: bytes(data[: int(len(data) * share)])
    for share in (0.0, 0.01, 0.3, 0.77)
}


@pytest.mark.parametrize("name", LOGS)
def test_a_damaged_log_loses_what_it_held_and_no_more(name, open_run, tmp_path):
    """SQLite keeps the transactions before the damage: a run resumes from there, or is refused, and never invents."""
    run = broken_copy(open_run, tmp_path / "run", f"{STORE}-wal", LOGS[name])
    (run / f"{STORE}-shm").unlink(missing_ok=True)
    try:
        again = draw(run)
    except (ValueError, OSError) as error:
        assert str(error)
    else:
        assert rows([again]) == WHOLE
        again.store.close()


@pytest.mark.parametrize("share", (0.0, 0.02, 0.3, 0.6, 0.95))
def test_a_damaged_store_is_refused_or_whole(share, tmp_path):
    draw(tmp_path / "good").store.close()
    run = broken_copy(tmp_path / "good", tmp_path / "run", STORE, flip(share))
    try:
        again = draw(run)
        assert rows([again]) == WHOLE
        again.store.close()
    except (ValueError, OSError) as error:
        assert str(error)


EDITS = {
    "a setting that is no JSON": "update settings set value = '{' where key = 'seed'",
    "another seed": "update settings set value = '4' where key = 'seed'",
    "another schema": "update settings set value = '99' where key = 'schema'",
    "a schema of words": "update settings set value = 'x' where key = 'schema'",
    "a trace that is no JSON": "update traces set record = '{'",
    "a trace of another text": "update traces set record = replace(record, 'Question', 'Answer')",
    "a trace without sentences": "update traces set record = json_remove(record, '$.sentences')",
    "no traces table": "drop table traces",
    "no rollouts table": "drop table rollouts",
}


@pytest.mark.parametrize("name", EDITS)
def test_a_store_edited_by_hand_is_refused(name, tmp_path):
    draw(tmp_path / "run").store.close()
    with sqlite3.connect(tmp_path / "run" / STORE) as db:
        db.execute(EDITS[name])
    db.close()
    with pytest.raises(ValueError) as error:
        draw(tmp_path / "run")
    assert str(error.value)


CLOCKS = {
    "stands still": lambda real: lambda: 1000.0,
    "runs backwards": lambda real: lambda: 1e6 - real(),
    "jumps a century": lambda real: lambda: real() + 3e9 * (int(real() * 1e6) % 2),
    "is negative": lambda real: lambda: real() - 1e9,
}


@pytest.mark.parametrize("name", CLOCKS)
def test_no_clock_changes_or_loses_a_rollout(name, tmp_path, monkeypatch):
    for clock in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, clock, CLOCKS[name](getattr(time, clock)))
    run = resample(PLANTED.trace, MODEL, n=6, seed=3, out=tmp_path / "run", price=1.0, progress=True)
    assert rows([run]) == WHOLE
    run.store.close()


class Stumbling(ScriptedModel):
    """Fails in the middle, as a model whose logits became NaN does."""

    def generate(self, jobs, *, sampling: Sampling, seed: int):
        for i, (job, completion) in enumerate(super().generate(jobs, sampling=sampling, seed=seed)):
            if i == 9:
                raise ValueError("the model returned NaN or infinite logits; load it with dtype=torch.float32")
            yield job, completion


def test_what_was_drawn_before_a_failure_is_kept_and_nothing_else(tmp_path):
    stumbling = Stumbling(PLANTED)
    with pytest.raises(ValueError, match="NaN or infinite logits"):
        resample(PLANTED.trace, stumbling, n=6, seed=3, out=tmp_path / "run", progress=False)
    (half,) = Rollouts.open(tmp_path / "run")
    assert half.cost().rollouts == 9 and set(rows([half])) < set(WHOLE)
    half.store.close()
    assert rows([draw(tmp_path / "run")]) == WHOLE


def test_hostile_ids_stay_inside_the_run_and_apart(tmp_path):
    traces = [replace(PLANTED.trace, id=id) for id in IDS if id != "\ud800"]
    outside = {path for path in tmp_path.parent.rglob("*") if tmp_path not in path.parents}
    folders = {scores_folder(tmp_path / "run", trace) for trace in traces}
    assert len(folders) == len(traces)
    for trace in traces:
        folder = scores_folder(tmp_path / "run", trace)
        assert folder.parent == tmp_path / "run" / "scores" and folder.resolve().parent == folder.parent.resolve()
        folder.mkdir(parents=True)
        scores = Scores.of(trace, "made up", np.zeros(3))
        scores.save(folder / "made_up.npz")
        assert [s.trace_id for s in stored_scores(tmp_path / "run", trace)] == [trace.id]
    runs = resample_traces(traces, MODEL, n=2, out=tmp_path / "other", progress=False)
    assert [run.trace.id for run in Rollouts.open(tmp_path / "other")] == [trace.id for trace in traces]
    assert all(run.cost().rollouts == 2 * 4 for run in runs)
    assert {path for path in tmp_path.parent.rglob("*") if tmp_path not in path.parents} <= outside


def test_an_id_cannot_take_the_folder_of_another(tmp_path):
    first = Trace.from_text("Q", "It is seven now. So it is 7.", id="a/b")
    second = Trace.from_text("Q", "It is eight now. So it is 8.", id=scores_folder(tmp_path, first).name)
    assert scores_folder(tmp_path, first) != scores_folder(tmp_path, second)
    folder = scores_folder(tmp_path, second)
    folder.mkdir(parents=True)
    Scores.of(first, "made up", np.zeros(2)).save(folder / "made_up.npz")
    with pytest.raises(ValueError, match="holds scores of trace 'a/b'"):
        stored_scores(tmp_path, second)


def test_a_link_does_not_lead_scores_out_of_the_run(tmp_path, caplog):
    draw(tmp_path / "run").store.close()
    (tmp_path / "outside").mkdir()
    (tmp_path / "run" / "scores").symlink_to(tmp_path / "outside")
    options = {"methods": "resampling", "n": 6, "seed": 3, "out": tmp_path / "run", "progress": False}
    ((_, scores),) = score_traces([PLANTED.trace], MODEL, **options)
    assert scores == [] and "leads out of the run directory" in caplog.text
    assert not [path for path in (tmp_path / "outside").rglob("*") if path.is_file()]
    (tmp_path / "run" / "scores").unlink()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = scores_folder(tmp_path / "run", PLANTED.trace)
    folder.mkdir(parents=True)
    (folder / "resampling.tmp").symlink_to(victim)
    ((_, scores),) = score_traces([PLANTED.trace], MODEL, **options)
    assert len(scores) == 1 and victim.read_text() == "precious"


def test_a_trace_is_put_together_once_for_all_its_jobs():
    trace = Trace.from_text("Q", "It is seven now. So it is 7.")
    jobs = Rollouts.from_texts(trace, []).jobs([(0, 0), (1, 0)])
    assert isinstance(jobs[0], Job) and jobs[0].text is jobs[1].text
