"""The run directory: plan, resume, refuse, and survive a kill."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from anchors.models import load_model
from anchors.models.base import Sampling
from anchors.resampling import plan_resampling, resample, resample_traces, write_trace
from anchors.rollouts import STORE, Rollout, Rollouts, Store
from anchors.trace import Trace

SHORT = Sampling(1.0, 1.0, 12)


@pytest.fixture(scope="module")
def model(checkpoints):
    return load_model(checkpoints["llama"])


def texts(rollouts):
    return [[r.text for r in rollouts.at(k)] for k in range(len(rollouts.trace) + 1)]


def test_every_boundary_gets_n_rollouts(model, problem_trace):
    rollouts = resample(problem_trace, model, n=3, sampling=SHORT, progress=False)
    assert rollouts.counts() == [3] * (len(problem_trace) + 1)
    assert rollouts.missing(3) == []
    assert rollouts.cost().rollouts == 3 * (len(problem_trace) + 1)


def test_a_run_grows_and_resumes_with_the_same_rollouts(model, problem_trace, tmp_path):
    whole = resample(problem_trace, model, n=4, sampling=SHORT, progress=False)
    first = resample(problem_trace, model, n=2, sampling=SHORT, out=tmp_path / "run", progress=False)
    spent = first.cost()
    grown = resample(problem_trace, model, n=4, sampling=SHORT, out=tmp_path / "run", progress=False, batch_size=3)
    assert texts(grown) == texts(whole)
    assert grown.cost().rollouts == 2 * spent.rollouts
    again = resample(problem_trace, model, n=4, sampling=SHORT, out=tmp_path / "run", progress=False)
    assert again.cost() == grown.cost()


def test_many_traces_share_a_run(model, problem_trace, tmp_path):
    other = Trace.from_text(problem_trace.prompt, problem_trace.before(6)[len(problem_trace.prompt) :])
    runs = resample_traces([problem_trace, other], model, n=2, sampling=SHORT, out=tmp_path / "run", progress=False)
    assert [r.trace.id for r in Rollouts.open(tmp_path / "run")] == [problem_trace.id, other.id]
    alone = resample(other, model, n=2, sampling=SHORT, progress=False)
    assert texts(runs[1]) == texts(alone)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"sampling": Sampling(0.7, 1.0, 12)}, r"sampling was .*'temperature': 1.0.* now .*0.7"),
    ],
)
def test_changed_settings_are_refused_by_name(model, problem_trace, tmp_path, change, message):
    options = {"seed": 0, "sampling": SHORT} | change
    resample(problem_trace, model, n=1, sampling=SHORT, out=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match=message):
        resample(problem_trace, model, n=1, out=tmp_path / "run", progress=False, **options)


def test_a_changed_model_or_prompt_is_refused(model, checkpoints, problem_trace, tmp_path):
    resample(problem_trace, model, n=1, sampling=SHORT, out=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="model was"):
        other = load_model(checkpoints["qwen2"])
        resample(problem_trace, other, n=1, sampling=SHORT, out=tmp_path / "run", progress=False)
    changed = Trace.from_text("Find 1 + 1.\n<think>\n", problem_trace.reasoning + problem_trace.ending)
    with pytest.raises(ValueError, match=r"the prompt was .* now 'Find 1 \+ 1"):
        resample(changed, model, n=1, sampling=SHORT, out=tmp_path / "run", progress=False)


def test_foreign_and_unwritable_directories_are_refused(model, problem_trace, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not a run directory \(it holds 'notes.txt'"):
        resample(problem_trace, model, n=1, sampling=SHORT, out=tmp_path, progress=False)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / STORE).write_text("not a database, just some text that is long enough to be read as a header")
    with pytest.raises(ValueError, match="is not a rollout store"):
        Store(tmp_path / "bad", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write the run directory"):
        Store(tmp_path / "file", {})
    with pytest.raises(ValueError, match="is not a run directory"):
        Rollouts.open(tmp_path / "absent")


def test_the_bill_says_what_is_missing_and_leaves_nothing(model, problem_trace, tmp_path):
    bill = plan_resampling([problem_trace], model, n=5, sampling=SHORT, out=tmp_path / "run", price=2.0)
    assert not (tmp_path / "run").exists()
    assert bill.rollouts == 5 * (len(problem_trace) + 1)
    assert bill.stored == 0 and bill.seconds > 0
    assert bill.price == pytest.approx(bill.tokens * 2e-6)
    assert str(bill).startswith("80 rollouts (0 more stored), about")
    real = resample(problem_trace, model, n=5, sampling=SHORT, progress=False).cost().tokens
    assert real / 2 < bill.tokens < real * 2
    near = plan_resampling([problem_trace], model, n=1, sampling=Sampling(1.0, 1.0, 500))
    assert near.limited == len(problem_trace) + 1


def test_n_below_one_is_refused(model, problem_trace):
    with pytest.raises(ValueError, match="n is 0"):
        resample(problem_trace, model, n=0, sampling=SHORT)


def test_adding_a_rollout_twice_keeps_the_first(problem_trace):
    rollouts = Rollouts.from_texts(problem_trace, [["a"]])
    rollouts.add([Rollout(0, 0, "b", 1, "stop"), Rollout(0, 1, "c", 1, "stop")])
    assert [r.text for r in rollouts.at(0)] == ["a", "c"]


def test_an_interrupt_keeps_what_was_drawn(model, problem_trace, tmp_path, monkeypatch):
    from anchors import resampling

    real = resampling._drawn

    def broken(*args):
        for count, item in enumerate(real(*args)):
            if count == 17:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(resampling, "_drawn", broken)
    with pytest.raises(KeyboardInterrupt):
        resample(problem_trace, model, n=4, sampling=SHORT, out=tmp_path / "run", progress=False)
    monkeypatch.undo()
    kept = Rollouts.open(tmp_path / "run")[0].cost().rollouts
    assert kept >= 17
    whole = resample(problem_trace, model, n=4, sampling=SHORT, progress=False)
    resumed = resample(problem_trace, model, n=4, sampling=SHORT, out=tmp_path / "run", progress=False)
    assert texts(resumed) == texts(whole)


CHILD = """
import sys
from anchors.models import load_model
from anchors.models.base import Sampling
from anchors.resampling import resample
from anchors.trace import Trace
trace = Trace.load(sys.argv[2])
resample(trace, load_model(sys.argv[1]), n=60, sampling=Sampling(1.0, 1.0, 30), out=sys.argv[3], progress=False)
"""


@pytest.mark.slow
def test_kill_9_loses_only_rollouts_in_flight(checkpoints, problem_trace, tmp_path):
    problem_trace.save(tmp_path / "trace.json")
    command = [
        sys.executable,
        "-c",
        CHILD,
        str(checkpoints["llama"]),
        str(tmp_path / "trace.json"),
        str(tmp_path / "run"),
    ]
    rng, kept = random.Random(0), 0
    for _ in range(2):
        child = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while child.poll() is None and stored(tmp_path) <= kept + 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(rng.random() / 10)
        child.send_signal(signal.SIGKILL)
        child.wait()
        now = stored(tmp_path)
        assert now > kept
        kept = now
    model = load_model(checkpoints["llama"])
    options = {"n": 60, "sampling": Sampling(1.0, 1.0, 30), "progress": False}
    resumed = resample(problem_trace, model, out=tmp_path / "run", **options)
    assert texts(resumed) == texts(resample(problem_trace, model, **options))


def stored(folder) -> int:
    path = folder / "run" / STORE
    if not path.exists():
        return 0
    db = sqlite3.connect(path, timeout=10)
    try:
        return db.execute("select count(*) from rollouts").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
    finally:
        db.close()


def test_write_trace_takes_a_chat_template_or_raw_text(model):
    raw = write_trace("Find 3 + 4 * 2 modulo 10.\n<think>\n", model, sampling=Sampling(1.0, 1.0, 30), target="1")
    assert raw.prompt.startswith("Find 3 + 4 * 2 modulo 10.\n<think>\n") and raw.target == "1"
    model.tokenizer.chat_template = "{{ messages[0].content + '\\n<think>\\n' }}"
    try:
        templated = write_trace("Find 3 + 4 * 2 modulo 10.", model, sampling=Sampling(1.0, 1.0, 30), seed=0)
    finally:
        model.tokenizer.chat_template = None
    assert templated.text == raw.text


def test_two_processes_with_other_settings_cannot_both_open_a_fresh_run(tmp_path):
    """Many processes race for fresh directories, each with its own seed: exactly one seed wins each."""
    code = (
        "import sys\nfrom anchors.rollouts import Store\nfor i in range(8):\n"
        "    try: Store(f'{sys.argv[1]}/{i}', {'seed': int(sys.argv[2])}); print(i)\n    except ValueError: pass\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    children = [subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True) for seed in range(4)]
    opened = sorted(int(line) for child in children for line in child.communicate()[0].split())
    assert opened == list(range(8))
