"""The server backend over real HTTP on loopback: exact rollouts from honest servers, and the same from hostile ones."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

import anchors.models.transport as transport
from anchors import load_model
from anchors.forced import AnswerStub
from anchors.importance import forced_importance, resampling_importance
from anchors.models.base import CapabilityError, Completion, Job, Sampling
from anchors.models.randomness import stream
from anchors.models.server import SEED_BITS, ServerModel
from anchors.models.transport import ServerError
from anchors.resampling import resample, resample_traces
from anchors.stopping import Anchors
from anchors.trace import Trace
from tests.completions_server import FAULTS, MODEL, Behaviour, serving, written

TRACE = Trace.from_text("2 + 5?", "First I think. Then I add them up. So it must be seven.", answer="7")
SAMPLING = Sampling(max_new_tokens=20)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_PAUSE", 0.002)
    for name in transport.KEYS:
        monkeypatch.delenv(name, raising=False)


@contextmanager
def served(behaviour: Behaviour | None = None, **options: Any) -> Iterator[tuple[ServerModel, Behaviour]]:
    """A model behind an honest server, whose faults begin once it is connected."""
    behaviour = behaviour or Behaviour()
    rate, behaviour.rate = behaviour.rate, 0.0
    with serving(behaviour) as url:
        model = ServerModel(MODEL, base_url=url, **options)
        behaviour.rate = rate
        behaviour.asked.clear()
        yield model, behaviour


def jobs(n: int = 6) -> list[Job]:
    return [Job(TRACE.text, end, TRACE.id, k, s) for k, end in enumerate(TRACE.boundaries) for s in range(n)]


def expected(job: Job, group: int = 1, seed: int = 3) -> str:
    first = job.sample - job.sample % group
    salted = stream(seed, job.trace, job.position, first) >> (64 - SEED_BITS)
    return written(job.prefix, salted, job.sample % group)["text"]


def drawn(model: ServerModel, wanted: list[Job]) -> dict[Job, Completion]:
    pairs = list(model.generate(wanted, sampling=SAMPLING, seed=3))
    assert len(dict(pairs)) == len(pairs) == len(wanted)
    return dict(pairs)


def test_every_rollout_has_a_seed_of_its_own() -> None:
    with served() as (model, behaviour):
        found = drawn(model, jobs())
    assert all(completion.text == expected(job) for job, completion in found.items())
    assert all(completion.tokens == len(completion.text.split()) for completion in found.values())
    assert len({body["seed"] for body in behaviour.asked}) == len(found)


@pytest.mark.parametrize("group", [1, 4])
def test_a_hostile_server_changes_nothing(group: int) -> None:
    wanted = jobs(n=8 * group)
    with served(Behaviour(rate=0.4), group=group, tries=60) as (model, behaviour):
        found = drawn(model, wanted)
    assert {job: c.text for job, c in found.items()} == {job: expected(job, group) for job in wanted}
    assert sum(behaviour.met.values()) > 10
    assert model.usage.retries >= sum(
        n for kind, n in behaviour.met.items() if kind not in ("slow", "many", "logprobs")
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone_is_survived(fault: str) -> None:
    wanted = jobs(n=4)
    with served(Behaviour(rate=0.5, faults=(fault,)), group=2, tries=40) as (model, behaviour):
        assert {job: c.text for job, c in drawn(model, wanted).items()} == {job: expected(job, 2) for job in wanted}
    assert behaviour.met[fault] > 0
    assert (model.usage.dropped > 0) == (fault == "many")


def test_groups_are_aligned_whatever_is_missing() -> None:
    with served(group=4) as (model, _):
        whole, part = drawn(model, jobs(n=8)), drawn(model, [job for job in jobs(n=8) if job.sample in (1, 6)])
    assert part == {job: completion for job, completion in whole.items() if job in part}


def test_requests_go_out_boundary_by_boundary() -> None:
    with served(concurrency=1) as (model, behaviour):
        drawn(model, jobs(n=3)[::-1])
    lengths = [len(body["prompt"]) for body in behaviour.asked]
    assert lengths == sorted(lengths)
    assert model.usage.hit_rate == pytest.approx(0.5, abs=0.05)


def test_no_more_in_flight_than_allowed() -> None:
    with served(Behaviour(rate=1.0, faults=("slow",)), concurrency=3) as (model, behaviour):
        behaviour.most = 0
        drawn(model, jobs(n=4))
    assert behaviour.most == 3


def test_what_depends_on_a_quick_rollout_does_not_wait_for_a_slow_one() -> None:
    slow, quick, later = (Job(TRACE.text, end, TRACE.id, k, 0) for k, end in enumerate(TRACE.boundaries[:3]))
    came, waited, done = threading.Event(), [], {}

    def before(body: dict[str, Any]) -> None:
        if body["prompt"] == slow.prefix:
            waited.append(came.wait(10))
        elif body["prompt"] == later.prefix:
            came.set()

    def rounds() -> Iterator[Job | None]:
        yield from (slow, quick)
        while quick not in done:
            yield None
        yield later

    with served(concurrency=2) as (model, behaviour):
        behaviour.before = before
        for job, completion in model.generate(rounds(), sampling=SAMPLING, seed=3):
            done[job] = completion.text
    assert waited == [True] and done == {job: expected(job) for job in (slow, quick, later)}


def test_adaptive_rounds_in_a_stream_draw_what_rounds_one_by_one_do() -> None:
    traces = [replace(TRACE, id=name) for name in ("a", "b", "c")]
    found = []
    for live in (True, False):
        with served(Behaviour(rate=0.2), group=2, tries=40) as (model, _):
            model.live = live
            options = {"n": 60, "stop": Anchors(k=1), "seed": 3, "sampling": SAMPLING, "progress": False}
            found.append(resample_traces(traces, model, **options))
    assert [run.cost() for run in found[0]] == [run.cost() for run in found[1]]
    for live, apart in zip(*found, strict=True):
        assert all(live.at(k) == apart.at(k) for k in range(len(TRACE) + 1))
        assert min(live.counts()) > 0


def test_a_stream_that_waits_for_nothing_is_refused() -> None:
    with served() as (model, _), pytest.raises(ValueError, match="none is in flight"):
        list(model.generate(iter([None]), sampling=SAMPLING, seed=3))


def test_a_dead_server_ends_with_what_was_done() -> None:
    with served(tries=2, concurrency=1) as (model, behaviour):
        stream_of = model.generate(jobs(), sampling=SAMPLING, seed=3)
        done = [next(stream_of) for _ in range(3)]
        behaviour.rate, behaviour.faults = 1.0, ("500",)
        with pytest.raises(ServerError, match=r"did not answer in 2 tries; the last: status 500: .*oh dear"):
            done += list(stream_of)
    assert all(completion.text == expected(job) for job, completion in done)


def test_a_run_goes_on_where_a_server_died(tmp_path) -> None:
    with served(tries=1, concurrency=2) as (model, behaviour):
        whole = resample(TRACE, model, n=5, seed=3, sampling=SAMPLING, progress=False)
        behaviour.rate, behaviour.faults = 0.3, ("500",)
        for _ in range(200):
            try:
                rollouts = resample(TRACE, model, n=5, seed=3, sampling=SAMPLING, out=tmp_path / "run", progress=False)
                break
            except ServerError:
                continue
    for position in range(len(TRACE) + 1):
        assert rollouts.at(position) == whole.at(position)
    assert resampling_importance(rollouts).n.tolist() == [5] * len(TRACE)


def test_stopping_early_leaves_no_thread_behind() -> None:
    with served() as (model, _):
        stream_of = model.generate(jobs(n=40), sampling=SAMPLING, seed=3)
        next(stream_of)
        stream_of.close()
        assert len(drawn(model, jobs(n=1))) == 4


def test_it_works_inside_a_running_loop() -> None:
    async def inside(url: str) -> int:
        model = ServerModel(MODEL, base_url=url)
        assert len(model.score([TRACE.text], [10])) == 1
        return len(drawn(model, jobs(n=1)))

    with serving(Behaviour()) as url:
        assert asyncio.run(inside(url)) == 4


def test_scores_come_from_the_echo() -> None:
    with served() as (model, _):
        text = TRACE.text
        (scored,) = model.score([text], [len(text) - 5])
        cut = sum(1 for i in range(0, len(text), 3) if i + 3 > len(text) - 5)
        assert scored.tokens == cut
        assert scored.logprob == pytest.approx(-0.5 * cut)
        forced = forced_importance(TRACE, model, stub=AnswerStub(" It is ", "."))
        ends = [(end + len(" It is"), end + len(" It is 7.")) for end in TRACE.boundaries]
        assert forced.logprob.tolist() == [-0.5 * sum(i + 3 > a for i in range(0, b, 3)) for a, b in ends]


def test_what_a_server_cannot_do_is_said() -> None:
    with served(Behaviour(echo=False)) as (model, _):
        assert not model.capabilities.echo
        with pytest.raises(CapabilityError, match="does not echo"):
            model.score([TRACE.text], [3])
        with pytest.raises(CapabilityError, match="cannot block attention"):
            list(model.generate([Job("abc", 3, "t", 0, 0, ((0, 1),))], sampling=SAMPLING, seed=0))
    with serving(Behaviour(seeds=False)) as url, pytest.raises(CapabilityError, match="ignores seeds"):
        ServerModel(MODEL, base_url=url)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_stop_string_stays_in_the_text(keeps: bool) -> None:
    sampling = Sampling(max_new_tokens=20, stop=("\\boxed",))
    with served(Behaviour(keeps_stop=keeps)) as (model, _):
        assert model.capabilities.keeps_stop is keeps
        pairs = list(model.generate(jobs(n=2), sampling=sampling, seed=3))
    assert all(completion.text.endswith("\\boxed") and completion.finish == "stop" for _, completion in pairs)


def test_the_context_limits_what_is_asked_for() -> None:
    with served(Behaviour(context=len(TRACE.text) + 5)) as (model, behaviour):
        list(model.generate(jobs(n=2), sampling=Sampling(max_new_tokens=1000), seed=3))
        asked = {len(b["prompt"]): b["max_tokens"] for b in behaviour.asked if "seed" in b}
        assert all(tokens == len(TRACE.text) + 5 - length for length, tokens in asked.items())
        with pytest.raises(ValueError, match=r"a prefix has \d+ tokens"):
            list(model.generate([Job(TRACE.text * 2, 120, "t", 0, 0)], sampling=SAMPLING, seed=0))


def test_the_key_is_sent_and_never_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("ANCHORS_API_KEY", "secret-key-1")
    caplog.set_level(logging.DEBUG)
    with served(Behaviour(key="secret-key-1", rate=0.3), tries=40) as (model, behaviour):
        drawn(model, jobs(n=2))
        behaviour.key = "another"
        with pytest.raises(ValueError, match="the key in ANCHORS_API_KEY is refused") as refused:
            drawn(model, jobs(n=1))
    assert "secret" not in caplog.text + repr(model) + str(refused.value) + str(vars(model.client))


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, ValueError, "set ANCHORS_API_KEY"),
        (404, ValueError, "is base_url right"),
        (422, CapabilityError, "no such"),
    ],
)
def test_a_refusal_is_not_tried_again(status: int, error: type[Exception], words: str) -> None:
    with served() as (model, behaviour):
        behaviour.refuse = status
        with pytest.raises(error, match=words):
            list(model.generate(jobs(n=1)[:1], sampling=SAMPLING, seed=0))
    assert len(behaviour.asked) == 1


def test_load_model_connects_and_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Behaviour()) as url:
        assert load_model(f"server/{MODEL}", base_url=url).name == f"server/{MODEL}"
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        assert isinstance(load_model(f"server/{MODEL}"), ServerModel)
        with pytest.raises(ValueError, match=f"serves {MODEL}, not 'other'"):
            load_model("server/other")
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(ValueError, match="needs the address"):
        load_model("server/x")
    for address in ("localhost:8000", "ftp://host/v1", "http://user:pass@host/v1"):
        with pytest.raises(ValueError, match="base_url"):
            ServerModel("x", base_url=address)
