"""Attention of rows against a softmax written out, and our own forward against the module's."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
import torch

from anchors import models
from anchors.models import engine, lean, load_model, loops, row_loops, row_pass
from anchors.models.attention_pass import Call, LayerCache
from anchors.models.base import Job, Sampling
from anchors.models.decoding import Group, Rows, Strand
from anchors.models.row_pass import RowPass

KV, GROUPS, WIDTH, TRACE = 2, 3, 4, 20


def brute(query, keys, values, allowed, softcap):
    """Softmax attention of one query head over the allowed keys, in double precision."""
    scores = (keys @ query).double() * 0.3
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    weights = torch.softmax(scores.masked_fill(~allowed, -torch.inf), dim=-1)
    return (weights @ values.double()).float()


@pytest.fixture(params=["compiled", "pooled", "tensors"])
def way(request, monkeypatch):
    """Rows in compiled loops, but for their trunk; in compiled loops with it; and by tensor calls alone."""
    monkeypatch.setattr(loops, "process", loops.Process(tried=request.param == "tensors"))
    if request.param != "tensors":
        pytest.importorskip("numba", reason="numba is not installed, so no loop is compiled")
        loops.load()
        monkeypatch.setattr(row_loops, "FEW", 0 if request.param == "compiled" else 1 << 60)
    return request.param


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("cut", [(), ((3, 8),)])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_rows_attend_to_the_trace_up_to_their_boundary_and_to_themselves(window, cut, softcap, way):
    generator = torch.Generator().manual_seed(0)
    traces = [LayerCache(*torch.randn(2, KV, TRACE + n, WIDTH, generator=generator)) for n in range(3)]
    trunk = np.array([2, 0, 2, 1])
    shared, steps = np.array([20, 5, 12, 1]), 40
    own = torch.randn(3, steps, 4, KV * GROUPS, WIDTH, generator=generator)  # query, key, value by step
    run = RowPass([traces[0]])
    for number, trace in enumerate(traces):
        run.grow(number, [trace], cut)
    born = np.array([0, 0, 7, 35])  # so that rows are of different lengths
    run.reserve(4, 1)
    for step in range(steps):
        fed = np.maximum(step - born, 0)
        run.prepare(shared, fed, trunk)
        query, key, value = (x[:, :, None] for x in own[:, step])
        out = run.attend(Call(0, query, key[:, :KV], value[:, :KV], 0.3, window, softcap))
    assert (run.looped is not None and run.looped.trunks_too) == (way == "pooled" and not cut)
    at = torch.arange(TRACE)
    for row in range(4):
        trace = traces[trunk[row]]
        used = own[:, max(born[row], 0) :, row]
        positions = torch.cat([at[: shared[row]], shared[row] + torch.arange(used.shape[1])])
        allowed = positions > positions[-1] - (window or 1000)
        for a, b in cut:
            allowed &= (positions < a) | (positions >= b)
        for head in range(KV * GROUPS):
            kv = head // GROUPS
            keys = torch.cat([trace.keys[kv, : shared[row]], used[1, :, kv]])
            values = torch.cat([trace.values[kv, : shared[row]], used[2, :, kv]])
            wanted = brute(used[0, -1, head], keys, values, allowed, softcap)
            torch.testing.assert_close(out[row, head, 0], wanted, atol=1e-5, rtol=1e-5)


@pytest.fixture
def said(monkeypatch):
    """What is logged about the loops, whatever levels other tests have left behind."""
    found = []
    for level in ("info", "warning"):
        monkeypatch.setattr(loops.log, level, lambda text, *values: found.append(text % values))
    return found


def test_without_numba_tensor_calls_do_it_and_the_log_says_so(said, monkeypatch):
    monkeypatch.setattr(loops, "find_spec", lambda _: None)
    monkeypatch.setattr(loops, "process", loops.Process())
    assert loops.after(loops.SOON) is None and loops.after(1) is None
    assert len(said) == 1 and "numba is not installed" in said[0] and "anchors[fast]" in said[0]


def test_a_numba_that_does_not_run_is_said_and_stops_nothing(said, monkeypatch):
    monkeypatch.setitem(sys.modules, "anchors.models.compiled", None)  # importing it raises
    monkeypatch.delattr(models, "compiled", raising=False)
    monkeypatch.setattr(loops, "find_spec", lambda _: True)
    monkeypatch.setattr(loops, "process", loops.Process())
    assert loops.load() is None and "numba does not run here" in said[0]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_loops_are_compiled_for_the_types_they_are_called_with(checkpoints, problem_trace, architecture, way):
    compiled, model = loops.loaded(), load_model(checkpoints[architecture])
    if compiled is None:
        pytest.skip("by tensor calls nothing is compiled")
    jobs = [Job(problem_trace.text, end, "t", k, 0) for k, end in enumerate(problem_trace.boundaries)]
    assert len(list(engine.draw(model, jobs, sampling=Sampling(1.0, 0.9, 8), seed=0, batch_size=64))) == len(jobs)
    names = ("attend", "add_and_norm", "rotate", "copy_rows", "sum_up", "descend")
    assert {name: len(getattr(compiled, name).signatures) for name in names} == dict.fromkeys(names, 1)


def test_compiled_loops_between_matrix_products_are_the_tensor_calls(monkeypatch):
    pytest.importorskip("numba", reason="numba is not installed, so no loop is compiled")
    generator, norm = torch.Generator().manual_seed(0), (torch.linspace(-1, 2, 24), 1e-6)
    x, more = torch.randn(2, 7, 24, generator=generator)
    heads, angle = torch.randn(7, 3, 8, generator=generator), torch.randn(7, 1, 8, generator=generator)
    found = []
    for tried in (False, True):
        monkeypatch.setattr(loops, "process", loops.Process(tried=tried))
        assert (loops.load() is None) == tried
        total, turned = x.clone(), lean._rotated(heads.clone(), angle.cos(), angle.sin())
        found.append((lean._added(total, more, norm), total, turned))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=2e-6)
    doubles = lean._added(x.double(), more.double(), (norm[0].double(), norm[1]))
    torch.testing.assert_close(found[0][0], doubles.float(), atol=2e-6, rtol=2e-6)


def test_trunks_in_the_pool_stay_what_they_are_while_others_come_and_go(way):
    if way != "pooled":
        pytest.skip("only compiled loops that meet trunks have a pool")
    generator, made = torch.Generator().manual_seed(0), []
    fresh = lambda size: [LayerCache(*torch.randn(2, KV, size, WIDTH, generator=generator)) for _ in range(2)]  # noqa: E731
    run = RowPass(fresh(1))
    for number in range(40):
        run.grow(number, fresh(3 + number % 5))
        if number > 3:
            run.fell(number - 3)
        run.prepare(np.array([2]), np.array([0]), np.array([number]))
        pool, first = run.looped.pool, run.looped.first
        made += [pool] if not made or made[-1] is not pool else []
        live = sum(held.cache[0][0].shape[2] for held in run.trunks.values())
        assert pool[0].keys.shape[1] <= 4 * live
        for n, held in run.trunks.items():
            size = held.cache[0][0].shape[2]
            for layer, kept in zip(pool, held.cache, strict=True):
                for tensor, wanted in zip(layer, kept, strict=True):
                    assert torch.equal(tensor[:, first[n] : first[n] + size], wanted[0])
    assert 2 < len(made) < 20  # most trunks found room behind the last one


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_nobody_has_written_to_is_zero_and_lies_at_a_line_of_the_cache(dtype):
    """Where numbers of a head straddle two lines, a loop reads three for two."""
    held = row_pass._untouched((3, 5, 7), dtype)
    assert held.shape == (3, 5, 7) and held.dtype == dtype and not held.any()
    assert held.data_ptr() % 64 == 0 and held.is_contiguous()
    assert not (held + 1).eq(0).any()


@pytest.mark.parametrize("room", [0, 1 << 20])
def test_rows_split_by_token_and_keep_what_they_have_written(way, room, monkeypatch):
    """A random walk: every rollout's own tokens, and the key stored for each of them, must follow it from row to row."""
    monkeypatch.setattr(row_pass, "UNTOUCHED", room)  # at 0 buffers are copied into larger ones on the way
    rng = np.random.default_rng(0)
    run = RowPass([LayerCache(*torch.zeros(2, 1, 4, 1))])
    run.grow(7, [LayerCache(*torch.zeros(2, 1, 4, 1))])
    rows, written = Rows(run), {i: [50 + i // 6] for i in range(30)}
    for a in range(0, 30, 6):
        rows.admit(Group(Strand(7, 4, [50 + a // 6]), np.arange(a, a + 6)), [])

    def forward(ids, run):
        x = ids[:, None, None, None].float()
        run.attend(Call(0, x, x, x, 1.0, None, None))
        return x[:, 0, 0]

    for _ in range(40):
        rows.feed(forward)
        tokens, going = rng.integers(0, 3, len(rows.rollouts)), rng.random(len(rows.rollouts)) < 0.97
        for rollout, token, goes in zip(rows.rollouts.tolist(), tokens.tolist(), going, strict=True):
            if goes:
                written[rollout].append(token)
        rows.split(tokens, going)
        assert sorted(set(rows.row.tolist())) == list(range(len(rows.shared)))
        assert len({tuple(rows.strand(r).own) for r in range(len(rows.shared))}) == len(rows.shared)
        for rollout, row in zip(rows.rollouts.tolist(), rows.row.tolist(), strict=True):
            own = rows.strand(row).own
            assert rows.strand(row) == (7, 4, written[rollout])
            assert run.own[0].keys[row, 0, : len(own) - 1, 0].tolist() == own[:-1]


@pytest.mark.parametrize("architecture, own", [("llama", True), ("qwen2", True), ("qwen3", True), ("gpt2", False)])
def test_our_own_forward_is_used_where_it_reproduces_the_module(checkpoints, architecture, own):
    forward = lean.lean_forward(load_model(checkpoints[architecture]))
    assert isinstance(forward, lean.LeanForward) == own


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_rollouts_do_not_depend_on_which_forward_runs(checkpoints, problem_trace, architecture, monkeypatch):
    model = load_model(checkpoints[architecture])
    jobs = [Job(problem_trace.text, end, "t", k, s) for k, end in enumerate(problem_trace.boundaries) for s in range(3)]
    options = {"sampling": Sampling(1.0, 1.0, 8), "seed": 0, "batch_size": 64}
    ours = {(j.position, j.sample): c for j, c in engine.draw(model, jobs, **options)}
    monkeypatch.setattr(engine, "lean_forward", lean.ModuleForward)
    assert {(j.position, j.sample): c for j, c in engine.draw(model, jobs, **options)} == ours


def test_a_module_that_differs_or_was_touched_is_run_itself(checkpoints, caplog, monkeypatch):
    model = load_model(checkpoints["llama"])
    mlp = model.module.model.layers[0].mlp
    handle = mlp.register_forward_hook(lambda *_: None)
    assert isinstance(lean.lean_forward(model), lean.ModuleForward)
    handle.remove()
    assert isinstance(lean.lean_forward(model), lean.LeanForward)
    mlp.forward = lambda x: 0 * x
    assert isinstance(lean.lean_forward(model), lean.ModuleForward)
    del mlp.forward
    monkeypatch.setattr(lean, "rotate", lambda x, cos, sin: x)
    lean._verdicts.pop(model)
    with caplog.at_level(logging.WARNING):
        assert isinstance(lean.lean_forward(model), lean.ModuleForward)
    assert "does not reproduce" in caplog.text


def test_rollouts_of_a_hooked_model_are_the_hooked_models(checkpoints, problem_trace):
    """Neither our own forward nor the double-precision copy may forget what a user has put on a module."""
    model = load_model(checkpoints["llama"])
    end = problem_trace.boundaries[4]
    jobs = [Job(problem_trace.text, end, "t", 4, s) for s in range(40)]
    options = {"sampling": Sampling(1.0, 1.0, 3), "seed": 0, "batch_size": 64}
    plain = {j.sample: c for j, c in engine.draw(model, jobs, **options)}
    push = model.module.get_output_embeddings().weight[7].detach() * 100
    handle = model.module.model.norm.register_forward_hook(lambda _m, _x, y: y + push)
    hooked = {j.sample: c for j, c in engine.draw(model, jobs, **options)}
    handle.remove()
    assert {c.text for c in hooked.values()} == {model.decode([5, 7, 7, 7])[len(model.decode([5])) :]}
    assert {j.sample: c for j, c in engine.draw(model, jobs, **options)} == plain
