"""Runs of several machines as one: the union of their rollouts, or the first thing in which they differ."""

from __future__ import annotations

import random

import pytest

from anchors.merging import merge_runs
from anchors.rollouts import Rollout, Rollouts, Store
from anchors.trace import Trace
from tests.test_store import SETTINGS, a_run, a_trace, everything, rollout


def share(folder, keys, *, trace=None, settings=SETTINGS, kind="free"):
    trace = a_trace() if trace is None else trace
    store = Store(folder, settings)
    store.claim([trace])
    run = Rollouts(store, trace, kind=kind)
    run.add(rollout(k, s) for k, s in keys)
    return run


@pytest.mark.parametrize("seed", range(5))
def test_the_merged_run_is_the_union(tmp_path, seed):
    rng = random.Random(seed)
    pairs = [(k, s) for k in range(5) for s in range(12)]
    shares = [sorted(rng.sample(pairs, rng.randint(0, 40))) for _ in range(3)]
    for name, keys in zip("abc", shares, strict=True):
        share(tmp_path / name, keys)
        share(tmp_path / name, keys[:3], kind="different")
    found = merge_runs([tmp_path / name for name in "abc"], out=tmp_path / "all")
    for kind, parts in (("free", shares), ("different", [keys[:3] for keys in shares])):
        (run,) = Rollouts.open(tmp_path / "all", kind=kind)
        assert everything(run) == [rollout(*key) for key in sorted(set().union(*parts))]
    every = [key for keys in shares for key in keys] + [("d", *key) for keys in shares for key in keys[:3]]
    assert found.rollouts == len(set(every)) and found.duplicates == len(every) - len(set(every))
    assert found.traces == 1 and Store(tmp_path / "all").settings == SETTINGS


def test_the_first_rollout_that_differs_is_named_and_nothing_is_made(tmp_path):
    share(tmp_path / "a", [(0, 0), (2, 1), (3, 0)])
    other = share(tmp_path / "b", [(0, 0), (1, 5)])
    other.add([Rollout(2, 1, rollout(2, 1).text + " ", 21, "stop"), Rollout(3, 0, "x", 1, "stop")])
    with pytest.raises(ValueError, match=r"rollout \(2, 1\) of trace .* differs between .*a and .*b \(kind 'free'\)"):
        merge_runs([tmp_path / "a", tmp_path / "b"], out=tmp_path / "all")
    for change in ({"tokens": 22}, {"finish": "length"}):
        same = {"position": 2, "sample": 1, "text": rollout(2, 1).text, "tokens": 21, "finish": "stop"} | change
        name = next(iter(change))
        share(tmp_path / name, []).add([Rollout(**same)])
        with pytest.raises(ValueError, match=r"rollout \(2, 1\)"):
            merge_runs([tmp_path / "a", tmp_path / name], out=tmp_path / "all")
    assert not (tmp_path / "all").exists() and not list(tmp_path.glob(".all*"))


def test_settings_that_differ_are_refused_by_name(tmp_path):
    share(tmp_path / "a", [(0, 0)])
    changed = {"model": SETTINGS["model"], "seed": 8, "sampling": {"temperature": 0.7}, "dtype": "float32"}
    share(tmp_path / "b", [(0, 1)], settings=changed)
    wanted = r"dtype is absent and 'float32'; sampling is .*0.6.* and .*0.7.*; seed is 7 and 8"
    with pytest.raises(ValueError, match=wanted):
        merge_runs([tmp_path / "a", tmp_path / "b"], out=tmp_path / "all")


def test_the_rule_of_stopping_may_differ_and_marks_the_merged_run(tmp_path):
    share(tmp_path / "a", [(0, 0)])
    share(tmp_path / "b", [(0, 1)]).store.note("stop", {"k": 5, "n": 100})
    merge_runs([tmp_path / "a", tmp_path / "b"], out=tmp_path / "all")
    (run,) = Rollouts.open(tmp_path / "all")
    assert run.adaptive and len(everything(run)) == 2


def test_traces_of_either_run_are_kept_and_other_sentences_are_refused(tmp_path):
    trace, other = a_trace(), a_trace(6)
    share(tmp_path / "a", [(0, 0)], trace=trace)
    share(tmp_path / "b", [(6, 0)], trace=other)
    merge_runs([tmp_path / "a", tmp_path / "b"], out=tmp_path / "all")
    assert [everything(run) for run in Rollouts.open(tmp_path / "all")] == [[rollout(0, 0)], [rollout(6, 0)]]
    halves = [trace.reasoning[:50], trace.reasoning[50:]]
    cut = Trace.from_text(trace.prompt, trace.reasoning + trace.ending, sentences=halves)
    share(tmp_path / "c", [(0, 0)], trace=cut)
    with pytest.raises(ValueError, match=r"the sentences of trace .* differ between .*a and .*c"):
        merge_runs([tmp_path / "a", tmp_path / "c"], out=tmp_path / "no")


def test_what_cannot_be_merged_is_said(tmp_path):
    a_run(tmp_path / "a")
    Store(tmp_path / "empty", SETTINGS)
    for runs in ([tmp_path / "a"], [tmp_path / "a", tmp_path / "x" / ".." / "a"]):
        with pytest.raises(ValueError, match="give two or more different ones"):
            merge_runs(runs, out=tmp_path / "all")
    with pytest.raises(ValueError, match="holds no trace; leave it out"):
        merge_runs([tmp_path / "a", tmp_path / "empty"], out=tmp_path / "all")
    with pytest.raises(ValueError, match="is there already"):
        merge_runs([tmp_path / "a", a_run(tmp_path / "b").store.folder], out=tmp_path / "a")
