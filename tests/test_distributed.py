"""Work on a Ray cluster of several nodes: equal to one process, whatever dies, joins or fails meanwhile."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anchors.distributed import Cluster
from anchors.distributed import cluster as running
from anchors.distributed.cluster import Unit
from anchors.distributed.model import LEAST, RayModel, Slices
from anchors.distributed.workers import Spec, replica
from anchors.extras import MissingExtra
from anchors.interventions import Edit, block, delete, keep
from anchors.models import load_model
from anchors.models.base import CapabilityError, Job
from anchors.reading import forced_logprobs, free_answers
from anchors.resampling import plan_resampling, resample, write_trace
from anchors.rollouts import Rollouts
from anchors.scoring import score_traces, stored_scores
from anchors.stopping import Anchors
from anchors.transfer import transfer_anchors
from tests.made_up import Reader, halves, planted_run, step
from tests.scripted import SAME_TEXT, ScriptedModel, plant

pytestmark = [
    # Ray leaves the pipes and logs of the processes it started open, and announces a change of its own.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::ResourceWarning:ray"),
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning", "ignore::FutureWarning:ray"),
]

PLANTED = plant([0.2, 0.8, 0.5, 0.1, 0.9, 0.4], seed=4)
N = 40


@dataclass(eq=False)
class Slow(ScriptedModel):
    """Takes its time over every rollout, and does something at the first rollout of boundary `at`."""

    pause: float = 0.0
    at: int = -1
    act: Callable[[], None] = lambda: None

    def generate(self, jobs: Any, **options: Any) -> Any:
        for job, completion in super().generate(jobs, **options):
            time.sleep(self.pause)
            if (job.position, job.sample) == (self.at, 0):
                self.act()
            yield job, completion


@dataclass
class Meanwhile:
    """A model on a cluster with things that happen when so many rollouts have come; it counts every one of them."""

    model: RayModel
    acts: dict[int, Callable[[], Any]]
    seen: Counter[tuple[int, int]] = field(default_factory=Counter)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def sampling(self) -> Any:
        return self.model.sampling

    def generate(self, jobs: Any, **options: Any) -> Iterator[Any]:
        for job, completion in self.model.generate(jobs, **options):
            self.seen[job.position, job.sample] += 1
            self.acts.get(self.seen.total(), lambda: None)()
            yield job, completion


def scripted(**options: Any) -> Callable[[], Slow]:
    return partial(Slow, PLANTED, **options)


@pytest.fixture(scope="module")
def nodes():
    """A head without room for workers, and a node with room for one; tests add others."""
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'anchors[ray]', or make test-ray")
    from ray.cluster_utils import Cluster as LocalCluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    local = LocalCluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    local.add_node(num_cpus=1)
    ray.init(address=local.address, log_to_driver=False, logging_level=logging.WARNING)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield local
    ray.shutdown()
    local.shutdown()


@pytest.fixture
def two(nodes):
    """A second node with room for a worker."""
    node = nodes.add_node(num_cpus=1)
    yield nodes
    nodes.remove_node(node)


@pytest.fixture
def warned(caplog):
    """What was logged on workers, as text."""
    caplog.set_level(logging.WARNING, "anchors.distributed")
    return lambda: caplog.text


def same(found: Rollouts, wanted: Rollouts) -> bool:
    boundaries = range(len(wanted.trace) + 1)
    return all(found.at(k) == wanted.at(k) for k in boundaries) and found.store.settings == wanted.store.settings


def drawn(model: Any, **options: Any) -> Rollouts:
    return resample(PLANTED.trace, model, n=N, seed=3, progress=False, **options)


def job(position: int, sample: int) -> Job:
    return Job("text", position, "trace", position, sample)


# -- cutting, without a cluster --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3, 64])
@pytest.mark.parametrize("rate", [0.0, 0.1, 40.0, 1e6])
def test_slices_hold_every_job_once_and_shrink_towards_the_end(workers, rate):
    jobs = [job(k, s) for k in range(37) for s in range(25)]
    slices, taken = Slices(jobs, width=32, fixed=None), []
    while part := slices.take(workers):
        if rate:
            slices.learn(rate)
        left = len(jobs) - sum(map(len, taken))
        most = max(left / 2, len(jobs) / 4) / workers
        assert len(part) <= max(LEAST, most + 1), "no worker may hold the others up for long"
        taken.append(part)
    assert [j for part in taken for j in part] == jobs
    assert all(len(part) >= LEAST // 2 for part in taken[:-1])


def test_slices_grow_with_the_speed_and_begin_at_boundaries():
    slices = Slices([job(k, s) for k in range(1000) for s in range(20)], width=32, fixed=None)
    first = slices.take(2)
    slices.learn(100.0)
    second = slices.take(2)
    assert (len(first), len(second)) == (20, 2000), "a batch at first, then what takes twenty seconds"
    assert [j.sample for j in (first[0], second[0], slices.take(2)[0])] == [0, 0, 0]
    assert len(Slices(slices.jobs, width=32, fixed=7).take(2)) == 7
    others = [replace(j, text="other") for j in slices.jobs[:40]]
    assert len(Slices([*slices.jobs[:60], *others], width=90, fixed=None).take(1)) == 40, (
        "of 50 the last whole boundary"
    )
    assert len(Slices([*slices.jobs[:30], *others], width=90, fixed=None).take(1)) == 30, "of 35 the first text"


# -- equal to one process --------------------------------------------------------------------------------------------------


def test_workers_and_nodes_come_and_go_and_nothing_is_lost_or_doubled(two, tmp_path, warned):
    other = two.add_node(num_cpus=1)
    late = []
    with Cluster(unit=4) as cluster:
        model = cluster.model(scripted(pause=0.02))
        acts = {
            20: lambda: os.kill(next(m.place.pid for m in cluster.team if m.place), signal.SIGKILL),
            50: lambda: two.remove_node(other),
            80: lambda: late.append(two.add_node(num_cpus=1)),
        }
        watched = Meanwhile(model, acts)
        found = drawn(watched, out=tmp_path / "run")
        places = {m.place.node for m in cluster.team if m.place and m.proven}
    two.remove_node(late[0])
    assert set(watched.seen.values()) == {1} and len(watched.seen) == 7 * N
    assert same(found, drawn(ScriptedModel(PLANTED)))
    assert found.cost().rollouts == 7 * N
    assert warned().count("lost worker") >= 2, "the process and the node"
    assert other.node_id not in places and late[0].node_id in places
    assert same(Rollouts.open(tmp_path / "run")[0], found)


def test_adaptive_stopping_makes_the_same_decisions(nodes):
    stop = Anchors(k=2, fdr=0.05)
    with Cluster(unit=16) as cluster:
        found = drawn(cluster.model(scripted()), stop=stop)
    assert same(found, drawn(ScriptedModel(PLANTED), stop=stop))
    assert found.cost().rollouts < 7 * N, "or nothing was stopped"


def test_a_stopped_run_goes_on_on_a_cluster_and_back(nodes, tmp_path):
    def stopping() -> None:
        raise KeyboardInterrupt

    with Cluster(unit=8) as cluster:
        model = cluster.model(scripted())
        with pytest.raises(KeyboardInterrupt):
            drawn(Meanwhile(model, {60: stopping}), out=tmp_path)
        held = Rollouts.open(tmp_path)[0].cost().rollouts
        assert held == 59, "those that came before the interruption"
        second = Meanwhile(model, {})
        assert same(drawn(second, out=tmp_path), drawn(ScriptedModel(PLANTED)))
        assert second.seen.total() == 7 * N - held


def test_a_real_model_writes_the_same_tokens_and_scores_the_same(two, tmp_path):
    local = load_model("lab/reasoner")
    trace = write_trace("Find 8 - 1 * 5 * 6 modulo 10.", local, target="8")
    with Cluster() as cluster:
        model = cluster.model("lab/reasoner")
        assert (model.name, model.fingerprint, model.context) == (local.name, local.fingerprint, local.context)
        assert model.encode(trace.text) == local.encode(trace.text)
        options = {"n": 8, "seed": 1, "progress": False, "methods": "resample,attention,suppress,confidence,forced"}
        ((mine, there),) = score_traces([trace], model, out=tmp_path / "far", **options)
        ((wanted, here),) = score_traces([trace], local, out=tmp_path / "near", **options)
        assert same(mine, wanted)
        assert [s.method for s in there] == [s.method for s in here]
        for a, b in zip(there, here, strict=True):
            np.testing.assert_allclose(a.values, b.values, atol=1e-6, err_msg=a.method)
        assert [s.method for s in stored_scores(tmp_path / "far", trace)] == [
            s.method for s in stored_scores(tmp_path / "near", trace)
        ]
        edits = [Edit(trace), block(trace, [0, 2]), *(Edit(delete(trace, [i])) for i in range(len(trace)))]
        answers = {"answer": str(trace.answer)}
        forced = forced_logprobs(edits, model, **answers)
        np.testing.assert_allclose(forced.logprob, forced_logprobs(edits, local, **answers).logprob, atol=1e-4)
        assert free_answers(edits[:4], model, n=4) == free_answers(edits[:4], local, n=4), "blocked sentences too"
        assert len({m.place for m in cluster.team if m.proven}) == 2


@pytest.mark.parametrize("outcome", ["forced", "handover"])
def test_transfer_reads_the_same(nodes, tmp_path, outcome):
    scores, weights, traces = planted_run([{5: (2.0, 1.0 + i / 10), 10: (-1.0, -0.5)} for i in range(4)])
    given = scores if outcome == "forced" else [halves(t, step(5), step(5)) for t in traces]
    chances = {s.text: 0.03 for t in traces for s in t.sentences}
    reader = partial(Reader, weights=weights, chances=chances)
    options = {"outcome": outcome, "n": 4, "similarity": SAME_TEXT, "corrupt": True, "method": "resampling"}
    with Cluster() as cluster:
        far = cluster.model(reader)
        writer = cluster.model(partial(Reader, weights=weights, chances=chances, name="writer"))
        found = transfer_anchors(given, reader=far, writer=writer, out=tmp_path, **options)
        records = sorted(tmp_path.glob("*.json"))
        assert len(records) == 4
        again = transfer_anchors(given, reader=far, writer=writer, out=tmp_path, **options)
        with pytest.raises(ValueError, match="so the writer must be"):
            transfer_anchors(given, reader=far, writer=reader(name="writer"), **options)
    wanted = transfer_anchors(given, reader=reader(), writer=reader(name="writer"), **options)
    text = [json.dumps(run.to_json(), sort_keys=True) for run in (found, again, wanted)]
    assert text[0] == text[1] == text[2]


# -- sharing and waiting ---------------------------------------------------------------------------------------------------


def visible(_item: int, _model: Any) -> tuple[int, str]:
    time.sleep(0.2)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", "")


def test_two_workers_share_a_gpu_and_nobody_waits_for_a_third(nodes):
    node = nodes.add_node(num_cpus=3, num_gpus=1)
    with Cluster(workers=3, gpus_per_worker=0.5) as cluster:
        assert (cluster.capacity, cluster.size) == (2, 2)
        found = dict(cluster.model(scripted()).map(visible, range(8)))
        assert sorted(found) == list(range(8))
        assert {device for _, device in found.values()} == {"0"} and len({pid for pid, _ in found.values()}) == 2
        assert [m.place is None for m in cluster.team].count(True) == 1, "the third is asked for, should a node join"
    with Cluster() as cluster:
        assert cluster.need["GPU"] == 1.0 and cluster.capacity == 1
    nodes.remove_node(node)


def test_units_in_flight_are_bounded_and_calls_may_be_nested(nodes):
    out: list[int] = []
    came = peak = 0

    def cut(_workers: int) -> Unit | None:
        if len(out) == 30:
            return None
        out.append(len(out))
        return Unit(lambda item, model: item, out[-1], {})

    with Cluster() as cluster:
        model = cluster.model(scripted())
        for unit, outcome in cluster.results(model.spec, cut, ahead=2):
            peak, came = max(peak, len(out) - came), came + 1
            assert outcome.value == unit.item
            assert cluster.call(model.spec, lambda item, model: item, "nested") == "nested"
        assert came == 30 and peak == 2, "the one being done and the next"
        for place, _ in model.map(visible, range(50)):
            if place == 1:
                break
        assert same(drawn(model), drawn(ScriptedModel(PLANTED))), "units nobody wants any more do no harm"


def test_the_bill_counts_the_replicas(two):
    with Cluster() as cluster:
        model = cluster.model(scripted(pause=0.01))
        bill = plan_resampling([PLANTED.trace], model, n=N)
        one = plan_resampling([PLANTED.trace], scripted(pause=0.01)(), n=N)
    assert bill.rollouts == one.rollouts and bill.tokens == one.tokens
    assert bill.seconds == pytest.approx(one.seconds / 2, rel=0.3)


# -- what goes wrong -------------------------------------------------------------------------------------------------------


def raising(error: Exception, log: Path, times: int) -> Callable[[], None]:
    """Raises so many times, a line in a file each."""

    def act() -> None:
        with log.open("a") as lines:
            lines.write("tried\n")
        if log.read_text().count("tried") <= times:
            raise error

    return act


def test_a_unit_that_fails_now_and_then_is_done_again(nodes, tmp_path, warned):
    act = raising(RuntimeError("the GPU fell off the bus"), tmp_path / "log", 1)
    with Cluster(unit=10) as cluster:
        found = drawn(cluster.model(scripted(at=3, act=act)))
    assert same(found, drawn(ScriptedModel(PLANTED)))
    assert "a unit failed on worker" in warned() and "(1 of 3): RuntimeError('the GPU fell off" in warned()


@pytest.mark.parametrize("error, tries", [(RuntimeError("out of memory"), 2), (ValueError("too long"), 1)])
def test_what_a_model_raises_is_raised_and_the_rest_is_kept(nodes, tmp_path, error, tries):
    act = raising(error, tmp_path / "log", 99)
    with Cluster(unit=10, tries=2) as cluster, pytest.raises(type(error), match=str(error)) as raised:
        drawn(cluster.model(scripted(at=3, act=act)), out=tmp_path / "run")
    assert type(raised.value.__cause__).__name__.startswith("RayTaskError"), "with the worker's traceback"
    assert (tmp_path / "log").read_text().count("tried") == tries
    (held,) = Rollouts.open(tmp_path / "run")
    assert held.cost().rollouts >= 3 * N - 20


def test_a_unit_that_kills_its_workers_is_given_up(nodes, monkeypatch):
    monkeypatch.setattr(running, "LOSSES", 2)
    with Cluster(unit=10) as cluster, pytest.raises(CapabilityError, match="lost 2 workers"):
        drawn(cluster.model(scripted(at=1, act=partial(os._exit, 1))))


class Stillborn:
    def __init__(self, gpus: float) -> None:
        raise RuntimeError("no anchors here")

    def place(self) -> None: ...


def test_workers_that_cannot_start_are_not_asked_for_ever(nodes, monkeypatch):
    monkeypatch.setattr(running, "LOSSES", 2)
    monkeypatch.setattr(running, "Worker", Stillborn)
    with Cluster() as cluster, pytest.raises(CapabilityError, match="died at their start"):
        cluster.model(scripted())


def test_nobody_comes(nodes):
    with (
        Cluster(resources={"tape drive": 1.0}, patience=1.0) as cluster,
        pytest.raises(CapabilityError, match=r"no worker with .*tape drive.* came within 1 s"),
    ):
        cluster.model(scripted())


def test_other_weights_on_a_node_are_refused(monkeypatch):
    monkeypatch.setattr("anchors.distributed.workers._REPLICAS", {})
    source = partial(SimpleNamespace, name="m", fingerprint="b")
    assert replica(Spec("m", source, {}, weights="b")).fingerprint == "b"
    with pytest.raises(CapabilityError, match="holds other weights of m"):
        replica(Spec("m", source, {}, weights="a"))


def test_a_model_that_does_not_load_says_why(nodes):
    with Cluster() as cluster, pytest.raises(ValueError, match="no lab model is called 'nobody'"):
        cluster.model("lab/nobody")


@pytest.mark.parametrize(
    "options, match",
    [
        ({"workers": 0}, "workers is 0"),
        ({"cpus_per_worker": 0.0}, "cpus_per_worker is 0.0"),
        ({"gpus_per_worker": 1.5}, "a fraction of one GPU, or a whole number"),
        ({"gpus_per_worker": -1.0}, "a fraction of one GPU"),
        ({"unit": 0}, "unit is 0"),
    ],
)
def test_impossible_shares_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        Cluster(**options)


def fake_ray(running_at: str | None, made: list[Any]) -> ModuleType:
    def init(address: str | None = None, **options: Any) -> None:
        made.append((address, options))
        if address is not None and address != running_at:
            raise ConnectionError("nothing there")

    module = ModuleType("ray")
    vars(module).update(init=init, is_initialized=lambda: False)
    return module


def test_auto_connects_or_starts_a_cluster_that_keeps_to_itself(monkeypatch):
    made: list[Any] = []
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    monkeypatch.setitem(sys.modules, "ray", fake_ray("auto", made))
    assert running._connect("auto")[1] == "connected" and len(made) == 1
    monkeypatch.setitem(sys.modules, "ray", fake_ray(None, made))
    assert running._connect("auto")[1] == "started"
    assert made[-1][1] | {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} == made[-1][1]
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    with pytest.raises(ValueError, match=r"no Ray cluster answers at '10\.0\.0\.1:6379'"):
        running._connect("10.0.0.1:6379")


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match="ray"):
        Cluster()


# -- the commands ----------------------------------------------------------------------------------------------------------


def test_the_commands_take_a_cluster(nodes, tmp_path):
    from typer.testing import CliRunner

    from anchors.cli import app
    from anchors.datasets import write_jsonl

    trace = write_trace("Find 8 - 1 * 5 * 6 modulo 10.", load_model("lab/reasoner"), target="8")
    write_jsonl([keep_short(trace)], tmp_path / "t.jsonl")
    told = []
    for name, more in (("near", []), ("far", ["--ray", "auto", "--workers", "1"])):
        given = [
            "score",
            str(tmp_path / "t.jsonl"),
            "--model",
            "lab/reasoner",
            "--out",
            str(tmp_path / name),
            "-n",
            "4",
        ]
        result = CliRunner().invoke(app, [*given, "--methods", "resampling,forced", "--json", "-q", *more])
        assert result.exit_code == 0, result.output
        told.append(json.loads(result.stdout))
        assert ("connected to a running Ray cluster" in result.stderr) == bool(more)
    assert told[0] == told[1]


def keep_short(trace: Any) -> Any:
    return keep(trace, range(min(3, len(trace))))
