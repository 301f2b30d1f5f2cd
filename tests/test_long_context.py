"""Long traces: numbers that do not depend on how sources are grouped, and memory told before a run starts."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from anchors import effect_matrix, memory
from anchors.attention import receiver_heads
from anchors.datasets import write_jsonl
from anchors.effect_matrix import Cells
from anchors.forecast import white_box_seconds
from anchors.memory import Estimate, largest, memory_of, resampling_memory
from anchors.models import leave_out, load_model
from anchors.models.attention_pass import Call
from anchors.models.leave_out import Cut, attention_without
from anchors.scores import METHODS
from anchors.scoring import score_traces
from anchors.suppression import suppress
from anchors.trace import Trace
from tests.test_leave_out import SIZE, by_masks

SPANS = [(0, 3), (3, 4), (4, 4), (4, 11), (11, 40), (40, 46)]


@pytest.fixture(scope="module")
def trace(problem_trace):
    end = problem_trace.sentences[9].end
    return Trace.from_text(problem_trace.prompt, problem_trace.reasoning[:end], answer="5")


def filled(effects, groups, *, resamples=200):
    cells = Cells.of(SPANS, resamples, 7, shift=1)
    for group in groups:
        cells.add(group, effects[list(group)])
    return cells.finished(centred=False)


@pytest.mark.parametrize("waiting, drawn", [(1, 1), (100, 64), (1 << 21, 1 << 20)])
def test_cells_are_the_same_however_sources_are_grouped(monkeypatch, waiting, drawn):
    effects = np.random.default_rng(0).exponential(size=(6, 46))
    wanted = filled(effects, [range(6)])
    monkeypatch.setattr(effect_matrix, "WAITING", waiting)
    monkeypatch.setattr(effect_matrix, "DRAWN", drawn)
    for groups in ([[0], [1], [2], [3], [4], [5]], [[0, 1, 2], [3, 4], [5]]):
        found = filled(effects, groups)
        for name in ("matrix", "low", "high"):
            np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-12)


def test_cells_are_percentile_bootstraps_of_the_tokens_drawn_from_seed_and_target():
    effects = np.random.default_rng(1).exponential(size=(6, 46))
    found = filled(effects, [range(6)])
    for target in (3, 4, 5):
        a, b = SPANS[target]
        draws = np.random.default_rng((7, target)).integers(b - a, size=(200, b - a))
        for source in range(target):
            row = effects[source, a - 1 : b - 1]
            assert found.matrix[target, source] == pytest.approx(row.mean())
            low, high = np.quantile(row[draws].mean(1), [0.025, 0.975])
            assert (found.low[target, source], found.high[target, source]) == pytest.approx((low, high))
    assert np.isnan(found.low[1]).all() and np.isnan(found.matrix[2]).all() and np.isfinite(found.matrix[1, 0])


def test_resamples_of_a_target_are_drawn_once_for_all_sources_that_wait(monkeypatch):
    drawn = []
    counts = Cells._counts
    monkeypatch.setattr(Cells, "_counts", lambda self, size, target: drawn.append(target) or counts(self, size, target))
    filled(np.ones((6, 46)), [[s] for s in range(6)])
    assert drawn == [3, 4, 5]


@pytest.mark.parametrize("subset", [{}, {"answer_only": True}, {"layers": [1]}])
def test_some_sources_have_the_numbers_of_all(checkpoints, trace, subset):
    model = load_model(checkpoints["llama"])
    whole = suppress(trace, model, resamples=20, **subset)
    some = suppress(trace, model, resamples=20, sources=[6, 2], **subset)
    chosen, others = [2, 6], [s for s in range(len(trace)) if s not in (2, 6)]
    np.testing.assert_allclose(some.values[chosen], whole.values[chosen], atol=1e-5)
    assert np.isnan(some.values[others]).all()
    assert (some.n > 0).tolist() == [s in chosen for s in range(len(trace))]
    if not subset.get("answer_only"):
        for name in ("matrix", "matrix_low", "matrix_high"):
            np.testing.assert_allclose(getattr(some, name)[:, chosen], getattr(whole, name)[:, chosen], atol=1e-6)
        assert np.isnan(some.matrix[:, others]).all() and np.isnan(some.outgoing[others]).all()
        assert set(some.token_sources) == {2, 6}
    with pytest.raises(ValueError, match=f"source 99 does not exist.*0 to {len(trace) - 1}"):
        suppress(trace, model, sources=[99])
    with pytest.raises(ValueError, match="needs all sources"):
        suppress(trace, model, sources=[1], compat="paper")


def test_no_source_leaves_everything_unmeasured(checkpoints, trace):
    found = suppress(trace, load_model(checkpoints["llama"]), sources=[], resamples=2)
    assert np.isnan(found.values).all() and np.isnan(found.matrix).all() and np.isfinite(found.answer_logprob)


def test_the_cache_of_the_estimate_is_the_cache_of_the_model(tiny, trace):
    ids = tiny.encode(trace.text).ids
    _, past = tiny.prefill(ids)
    assert memory.Shape.of(tiny).cache(len(ids)) == sum(t.nbytes for layer in past for t in layer)
    assert all(t.untyped_storage().nbytes() == t.nbytes for layer in past for t in layer), "more is kept alive"


PEAK = """
import json, sys
sys.path.insert(0, "benchmarks")
from long_context import Setting, measure
print(json.dumps(measure(Setting("suppression", 6000, 300, 4))))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_the_estimate_is_within_a_factor_of_two_of_a_measured_peak():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    *_, grown, foretold = json.loads(done.stdout.splitlines()[-1])
    assert grown / 2 <= foretold <= 2 * grown, (grown, foretold)


def test_memory_grows_with_what_it_is_made_of(checkpoints, trace):
    model = load_model(checkpoints["llama"])
    whole, answer = (memory_of("suppression", trace, model, answer_only=only) for only in (False, True))
    assert answer.peak < whole.peak and whole.sentences == len(trace)
    small, large = (memory.suppression_memory(model, t, t // 32) for t in (32_000, 64_000))
    assert 1.5 < large.peak / small.peak < 4
    one, many = (memory.attention_memory(model, 4000, 1000, kept=k) for k in (1, 20))
    assert many.peak - one.peak == 19 * 2 * 1000**2 * 4
    rows = [resampling_memory(model, [1000], 30, rollouts=r, width=256, longest=100).peak for r in (1, 256)]
    assert rows[1] - rows[0] >= 255 * memory.Shape.of(model).cache(100)
    assert memory_of("suppression", trace, object()) is None and memory_of("counterfactual", trace, model) is None


def test_memory_of_suppression_hardly_grows_with_the_number_of_sources():
    model = load_model("lab/reasoner", check=False)
    peaks = [memory.suppression_memory(model, 1000, sources).peak for sources in (20, 40, 80, 160)]
    assert max(peaks) <= 1.15 * min(peaks)


def test_a_run_that_will_not_fit_is_refused_before_it_starts(checkpoints, trace, monkeypatch):
    model = load_model(checkpoints["llama"])
    monkeypatch.setattr(memory, "available", lambda device="cpu": 1 << 20)
    monkeypatch.setattr(model, "run_module", lambda *_: pytest.fail("the model ran"))
    words = r"suppression needs about \d+ MB of cpu memory for \d+ tokens and 10 sentences, and 1 MB are free; .*answer_only"
    with pytest.raises(ValueError, match=words):
        suppress(trace, model)
    with pytest.raises(ValueError, match=r"attention needs about .* and 1 MB are free; ask for fewer heads"):
        receiver_heads(trace, model)


def test_what_is_free_is_no_reason_to_refuse_where_nothing_says_it(checkpoints, trace, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device="cpu": None)
    assert len(suppress(trace, load_model(checkpoints["llama"]), answer_only=True)) == len(trace)


def test_a_run_warns_before_its_rollouts_and_keeps_the_methods_that_fit(checkpoints, trace, monkeypatch, caplog):
    model = load_model(checkpoints["llama"])
    need = memory_of("confidence", trace, model).peak
    assert need < memory_of("suppression", trace, model).peak
    monkeypatch.setattr(memory, "available", lambda device="cpu": need)
    ((_, scores),) = score_traces([trace], model, methods="suppress,confidence", progress=False)
    assert [s.method for s in scores] == ["confidence"]
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("suppression needs about") and second.startswith("suppression left out for trace")


def test_a_card_and_its_host_are_compared_each_with_its_own(monkeypatch):
    estimate = Estimate("suppression", 10, 2, {"keys and values": 300}, {"matrices": 200}, "cuda")
    assert estimate.needs() == {"cuda": 300, "cpu": 200} and estimate.peak == 500
    for free, fits in (
        ({"cuda": 300, "cpu": 200}, True),
        ({"cuda": 299, "cpu": 500}, False),
        ({"cuda": 500, "cpu": 1}, False),
    ):
        monkeypatch.setattr(memory, "available", free.get)
        assert (estimate.shortage() is None) == fits


def test_what_is_free_is_read_from_the_system_and_its_control_group(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:     700 kB\n")
    assert memory._system_free(tmp_path / "meminfo") == 700 * 1024 and memory._system_free(tmp_path / "none") is None
    assert memory._group_free(tmp_path) is None
    for name, text in {
        "memory.max": "1000\n",
        "memory.current": "600\n",
        "memory.stat": "anon 9\ninactive_file 50\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert memory._group_free(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._group_free(tmp_path) is None


def test_the_dry_run_prints_what_every_method_takes(checkpoints, trace, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from anchors.cli import app

    write_jsonl([trace], tmp_path / "t.jsonl")
    line = ["score", str(tmp_path / "t.jsonl"), "--model", str(checkpoints["llama"]), "--out", str(tmp_path / "run")]
    line += ["-n", "2", "--max-new-tokens", "4", "--dry-run", "--methods", "resample,attention,suppress,confidence"]
    told = CliRunner().invoke(app, [*line, "--json"])
    found = json.loads(told.stdout)
    assert found["memory"] > 0 and found["shortage"] is None
    assert set(found["white_box"]) == {"attention", "suppression", "confidence"}
    assert all(row["seconds"] > 0 and row["shortage"] is None for row in found["white_box"].values())
    plain = CliRunner().invoke(app, line).stdout
    assert "MB of memory" in plain and "suppression: about" in plain and "free on cpu" in plain
    monkeypatch.setattr(memory, "available", lambda device="cpu": 1 << 20)
    refused = CliRunner().invoke(app, line).stdout
    assert (
        "WILL NOT FIT: suppression needs about" in refused
        and "; about" not in refused.split("WILL NOT FIT: suppression")[1].splitlines()[0]
    )


def test_only_the_trace_that_needs_most_is_told(checkpoints, trace):
    model = load_model(checkpoints["llama"])
    short = Trace.from_text(trace.prompt, "One thing. Another thing.", answer="5")
    (found,) = largest([short, trace], model, ["attention", "counterfactual"])
    assert found.sentences == len(trace)


@pytest.mark.parametrize("width", [1, 2])
def test_halved_ranges_leave_out_the_same_keys(monkeypatch, width):
    monkeypatch.setattr(leave_out, "HELD", 1)
    torch.manual_seed(0)
    query, key, value = (2 * torch.randn(1, 4, SIZE, 8, dtype=torch.float64) for _ in range(3))
    call = Call(0, query, key, value, 0.3, None, None)
    cuts = [Cut(b - 1, b - width, b) for b in range(width, SIZE + 1, width)]
    assert sum(SIZE - cut.end for cut in cuts) > 2 * 4 * SIZE, "these ranges fit one group"
    plain, *wanted = by_masks(call, cuts, [0, 1, 2, 3])
    for ours, mask in zip(attention_without(call, plain, cuts, [0, 1, 2, 3]), wanted, strict=True):
        torch.testing.assert_close(ours, mask, rtol=1e-12, atol=1e-13)


class Slow:
    """A made-up method: what was done once, then seconds a source and a pair of sentences, on a clock of its own."""

    name = "slow"

    def __init__(self):
        self.now = 0.0

    def suppression(self, trace, model, *, sources=None):
        self.now += 2.0 + 0.5 * (len(trace) if sources is None else len(sources))

    def other(self, trace, model):
        self.now += 0.1 * len(trace) + 0.01 * len(trace) ** 2


@pytest.mark.parametrize("sentences", [1, 3, 12, 40, 300])
def test_seconds_come_from_a_part_of_the_work(monkeypatch, sentences):
    clock = Slow()
    monkeypatch.setattr("anchors.forecast.time.perf_counter", lambda: clock.now)
    texts = [f"This is sentence {i}." for i in range(sentences)]
    trace = Trace.from_text("?", " ".join(texts), answer="1")
    assert len(trace) == sentences
    for name, function in (("suppression", clock.suppression), ("attention", clock.other)):
        monkeypatch.setitem(METHODS, name, replace(METHODS[name], function=function))
        told = white_box_seconds(name, [trace], clock)
        probed, clock.now = clock.now, 0.0
        function(trace, clock)
        assert told == pytest.approx(clock.now, rel=1e-6)
        if sentences == 300:
            assert probed < clock.now / 2
        both = white_box_seconds(name, [trace, replace(trace, id="other")], clock)
        assert both == pytest.approx(2 * told)


@pytest.mark.slow
def test_the_forecast_is_near_the_time_of_suppression(checkpoints, problem_trace):
    model = load_model(checkpoints["llama"])
    text = " ".join([problem_trace.reasoning.strip()] * 3)
    trace = Trace.from_text(problem_trace.prompt, text, answer="5")
    ratios = []
    for _ in range(3):
        told = white_box_seconds("suppression", [trace], model)
        started = time.perf_counter()
        suppress(trace, model)
        ratios.append(told / (time.perf_counter() - started))
    assert 0.5 < np.median(ratios) < 2, ratios


def test_pooled_attention_keeps_nothing_of_a_layer_it_has_left(checkpoints, trace):
    model = load_model(checkpoints["llama"])
    held = {}

    def visit(layer, head, _means):
        if not head:
            tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
            held[layer] = sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())

    gc.collect()
    model.visit_attention(trace.text, trace.spans, visit)
    tokens = len(model.encode(trace.text).ids)
    assert len(held) == 3 and abs(held[2] - held[1]) < memory.Shape.of(model).cache(tokens) / model.layers
