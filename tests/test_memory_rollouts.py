"""What rollouts take: the estimate against a measured peak, the refusal, and what must not fill memory on the way."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch

from anchors import memory
from anchors.models import load_model, row_pass, ties
from anchors.models.attention_pass import LayerCache
from anchors.models.base import Sampling
from anchors.resampling import plan_resampling, resample
from anchors.rollouts import Rollouts

SHORT = Sampling(max_new_tokens=6)
PEAK = """
import json, sys
sys.path.insert(0, "benchmarks")
from long_context import Draw, measure_draw
print(json.dumps(measure_draw(Draw(1, 500, 20, 6, 40, layers=4, width=256))))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_the_estimate_of_rollouts_is_within_a_factor_of_two_of_a_measured_peak():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    grown, foretold, _ = json.loads(done.stdout.splitlines()[-1])
    assert grown / 2 <= foretold <= 2 * grown, (grown, foretold)


def test_rollouts_that_clearly_will_not_fit_are_refused_and_others_warned_of(
    checkpoints, problem_trace, tmp_path, monkeypatch, capsys
):
    trace, tiny = problem_trace, load_model(checkpoints["llama"])
    need = plan_resampling([trace], tiny, n=3, sampling=SHORT).memory
    assert need is not None
    monkeypatch.setattr(memory, "available", lambda device="cpu": need // 3)
    assert "WILL NOT FIT: resample needs about" in str(plan_resampling([trace], tiny, n=3, sampling=SHORT))
    with pytest.raises(ValueError, match=r"resample needs about .* are free; pass a smaller batch_size"):
        resample(trace, tiny, n=3, sampling=SHORT, out=tmp_path / "run")
    (kept,) = Rollouts.open(tmp_path / "run")
    begun = kept.cost().rollouts
    kept.store.close()
    monkeypatch.setattr(memory, "available", lambda device="cpu": need * 2 // 3)
    run = resample(trace, tiny, n=3, sampling=SHORT, out=tmp_path / "run")
    assert 0 < begun < run.cost().rollouts == 3 * (len(trace) + 1)
    assert "WILL NOT FIT" in capsys.readouterr().err


def test_logits_are_compared_a_block_at_a_time(checkpoints, problem_trace, monkeypatch):
    model = load_model(checkpoints["llama"])
    ids = model.encode(problem_trace.text).ids
    hidden, referee = model.hidden(ids, ties.TracePass()), ties.Referee(model, ids, ())
    whole, seen, unembed = referee.margin(0.0, ids, hidden), [], model.unembed
    monkeypatch.setattr(ties, "LOGITS", 5 * model.vocabulary)
    monkeypatch.setattr(model, "unembed", lambda states: seen.append(len(states)) or unembed(states))
    assert referee.margin(0.0, ids, hidden) == pytest.approx(whole, rel=0.5)
    assert max(seen) == 5 and sum(seen) == len(ids)


def test_buffers_grow_a_layer_at_a_time(monkeypatch):
    monkeypatch.setattr(row_pass, "UNTOUCHED", 0)
    rows = row_pass.RowPass([LayerCache(*torch.zeros(2, 2, 8, 4)) for _ in range(5)])
    rows.reserve(4, 8)
    rows.own[3].keys[2, :, :8] = 7.0
    before = [weakref.ref(layer.keys) for layer in rows.own]
    larger, alive = row_pass._larger, []

    def made(*given):
        alive.append(sum(old() is not None for old in before))
        return larger(*given)

    monkeypatch.setattr(row_pass, "_larger", made)
    rows.reserve(40, 50)
    assert alive[::2] == [5, 4, 3, 2, 1], "the layer before is let go of when the next is made"
    assert rows.own[3].keys.shape[0] >= 40 and rows.own[3].keys.shape[2] >= 50
    np.testing.assert_array_equal(rows.own[3].keys[2, :, :8], 7.0)
    assert rows.own[3].keys.sum() == 7.0 * rows.own[3].keys[2, :, :8].numel()
