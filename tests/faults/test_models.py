"""Checkpoints that are damaged, edited or hostile, and models that misbehave: refused by name, or measured as they are."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from anchors.lab.train import CHECKPOINT, Recipe, load_state, train
from anchors.models import load_model
from anchors.models.base import CapabilityError, Sampling
from anchors.models.sampling import next_token_odds
from anchors.resampling import resample
from anchors.rollouts import Rollouts
from anchors.trace import Trace
from tests.faults.test_inputs import Planted

REFUSED = (ValueError, CapabilityError)
EVIL = (
    "import os\nos.mkdir({path!r})\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as M\n"
    "class EvilConfig(C):\n    model_type = 'evil'\nclass EvilModel(M):\n    config_class = EvilConfig\n"
)
AUTO = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}


@pytest.fixture
def copy(checkpoints, tmp_path):
    return Path(shutil.copytree(checkpoints["llama"], tmp_path / "model"))


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def tensors(folder: Path, change) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    found = load_file(path)
    change(found)
    save_file(found, path, {"format": "pt"})


Q = "model.layers.0.self_attn.q_proj.weight"
DAMAGE = {
    "truncated weights": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]),
    "no bytes of weights": lambda f: (f / "model.safetensors").write_bytes(b""),
    "junk for weights": lambda f: (f / "model.safetensors").write_bytes(os.urandom(999)),
    "a missing weight": lambda f: tensors(f, lambda found: found.pop(Q)),
    "a weight of another shape": lambda f: tensors(f, lambda found: found.update({Q: found[Q][:3].clone()})),
    "NaN weights": lambda f: tensors(f, lambda found: found.update({Q: found[Q] * float("nan")})),
    "infinite weights": lambda f: tensors(f, lambda found: found.update({"model.norm.weight": found[Q][0] / 0})),
    "more layers": lambda f: edit(f / "config.json", num_hidden_layers=5),
    "fewer layers": lambda f: edit(f / "config.json", num_hidden_layers=2),
    "layers in words": lambda f: edit(f / "config.json", num_hidden_layers="three"),
    "heads that do not divide": lambda f: edit(f / "config.json", num_attention_heads=3),
    "a list for a configuration": lambda f: (f / "config.json").write_text("[]"),
    "half a configuration": lambda f: (f / "config.json").write_text("{"),
    "a configuration in UTF-16": lambda f: (f / "config.json").write_text("{}", encoding="utf-16"),
    "half a tokenizer": lambda f: (f / "tokenizer.json").write_text("{"),
    "a list for a tokenizer": lambda f: (f / "tokenizer.json").write_text("[]"),
    "a tokenizer that lowers case": lambda f: edit(f / "tokenizer.json", normalizer={"type": "Lowercase"}),
    "half a card": lambda f: (f / "card.json").write_text("{"),
    "an empty card": lambda f: (f / "card.json").write_text("{}"),
    "a card with numbers for stop": lambda f: (f / "card.json").write_text(
        json.dumps({"sampling": {"stop": [5]}, "stub": {"before": "", "after": ""}, "tokenizer_probe": None})),
    "a card whose temperature is hot": lambda f: (f / "card.json").write_text(
        json.dumps({"sampling": {"temperature": "hot", "stop": []}, "stub": {}, "tokenizer_probe": None})),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_refused(name, copy):
    DAMAGE[name](copy)
    with pytest.raises(REFUSED, match="model"):
        load_model(copy)


def test_the_undamaged_copy_loads(copy):
    assert load_model(copy).layers == 3


def test_nothing_a_repository_ships_is_executed(copy, tmp_path):
    owned = tmp_path / "owned"
    (copy / "evil.py").write_text(EVIL.format(path=str(owned)))
    edit(copy / "config.json", auto_map=AUTO)
    assert load_model(copy, check=False).layers == 3  # transformers knows the kind and needs none of the code
    edit(copy / "config.json", model_type="evil")
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(copy)
    edit(copy / "config.json", model_type="llama")
    edit(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}, tokenizer_class="T")
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(copy)
    assert not owned.exists()


def test_pickles_in_place_of_weights_are_not_loaded(copy, tmp_path):
    owned, weights = tmp_path / "owned", copy / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(pickle.dumps(Planted(owned)))
    with pytest.raises(ValueError, match="cannot load"):
        load_model(copy)
    weights.unlink()
    for data in (pickle.dumps(Planted(owned)), good):
        (copy / "pytorch_model.bin").write_bytes(data)
        with pytest.raises(ValueError, match="torch files are read with use_safetensors=False only"):
            load_model(copy)
    torch.save({"x": Planted(owned)}, copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot load"):
        load_model(copy, use_safetensors=False)
    assert not owned.exists()


@pytest.mark.parametrize("name", ["", "a\x00b", "../../etc", "/etc/passwd", "lab/../zoo/reasoner", "lab/", "server/x"])
def test_names_lead_nowhere(name, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ValueError, match=r".+"):
        load_model(name)


def test_a_token_the_model_does_not_have(copy):
    added = json.loads((copy / "tokenizer.json").read_text())["added_tokens"]
    extra = added[0] | {"id": 5000, "content": "zzz", "special": False}
    edit(copy / "tokenizer.json", added_tokens=[*added, extra])
    with pytest.raises(ValueError, match="gives token"):
        load_model(copy, check=False).encode("Find zzz now")


# -- models that misbehave -------------------------------------------------------------------------------------------

TRACE = Trace.from_text("Find 3 + 4 modulo 10.\n<think>\n", "We have 3 + 4. That leaves 7.\n</think>\nThe answer is 7.")


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_named_and_store_nothing(value, checkpoints, tmp_path, monkeypatch):
    model = load_model(checkpoints["llama"], check=False)
    sampling, plain = Sampling(max_new_tokens=6), model.unembed
    run = resample(TRACE, model, n=2, out=tmp_path / "run", sampling=sampling, progress=False)
    before = [run.at(k) for k in range(len(TRACE) + 1)]
    run.store.close()
    monkeypatch.setattr(model, "unembed", lambda hidden: torch.full_like(plain(hidden), value))
    with pytest.raises(ValueError, match="NaN or infinite logits"):
        resample(TRACE, model, n=5, out=tmp_path / "run", sampling=sampling, progress=False)
    (after,) = Rollouts.open(tmp_path / "run")
    assert [after.at(k) for k in range(len(TRACE) + 1)] == before


def test_one_bad_logit_in_a_row_is_seen():
    logits = torch.zeros(3, 40)
    for bad in (float("nan"), float("inf")):
        logits[1, 7] = bad
        with pytest.raises(ValueError, match="NaN or infinite logits"):
            next_token_odds(logits, Sampling())
    logits[1, 7] = -float("inf")
    assert bool(torch.isfinite(next_token_odds(logits, Sampling()).probabilities).all())


@pytest.mark.slow
def test_a_model_that_never_stops_ends_at_its_limit(checkpoints, monkeypatch):
    model = load_model(checkpoints["llama"], check=False)
    model.__dict__["end_ids"] = frozenset()
    run = resample(TRACE, model, n=2, sampling=Sampling(max_new_tokens=9), progress=False)
    assert {(r.finish, r.tokens) for k in range(len(TRACE) + 1) for r in run.at(k)} == {("length", 9)}
    longest = 30
    model.context = len(model.encode(TRACE.before(0)).ids) + longest
    run = resample(TRACE, model, n=1, sampling=Sampling(max_new_tokens=10**6), progress=False)
    assert run.at(0)[0].tokens == longest and run.at(0)[0].finish == "length"


def test_a_model_that_stops_at_once_writes_nothing(checkpoints):
    model = load_model(checkpoints["llama"], check=False)
    model.__dict__["end_ids"] = frozenset(range(model.vocabulary))
    run = resample(TRACE, model, n=3, progress=False)
    assert {(r.text, r.tokens, r.finish) for k in range(len(TRACE) + 1) for r in run.at(k)} == {("", 1, "stop")}


TEXTS = {
    "empty completions": ["", "", ""],
    "single tokens": ["7", " ", "."],
    "the answer alone": ["\\boxed{7}", "\\boxed{7}", "\\boxed{8}"],
    "nothing but white space": [" \n\n ", "\t", "\u2003"],
    "closing at once": ["</think>", "</think>\\boxed{7}", "\n</think>\n"],
    "control characters": ["\x00\x1b[2J", "\x07", "\u202e7"],
}


@pytest.mark.parametrize("name", TEXTS)
def test_odd_completions_are_scored_and_reported(name, tmp_path):
    from anchors.effects import sentence_effects
    from anchors.importance import counterfactual_importance, resampling_importance
    from anchors.report import write_report
    from anchors.similarity import lexical

    text = "It is so again. It is so again. \\boxed{7}. It is so again. 7 7 7 7 7 7."
    trace = Trace.from_text("Q\n<think>\n", text, answer="7", target="7")
    run = Rollouts.from_texts(trace, [TEXTS[name] * 4] * (len(trace) + 1))
    scores = [resampling_importance(run)]
    scores += [function(run, similarity=lexical()) for function in (counterfactual_importance, sentence_effects)]
    for found in scores:
        finite = found.values[found.measured]
        assert (
            len(found) == len(trace) and (np.abs(finite) <= 1).all() and (found.low <= found.high)[found.measured].all()
        )
    assert np.allclose(scores[0].values, 0)
    page = write_report(trace, scores, tmp_path / "r.html", rollouts=run).read_bytes().decode("utf-8")
    assert "\x00" not in page and "\x1b" not in page


# -- training --------------------------------------------------------------------------------------------------------

SMALL = Recipe(knobs=(("length", (3, 3)),), layers=1, width=16, heads=2, mlp=16, steps=2, batch=2, tokenizer="char")


@pytest.mark.slow
def test_a_damaged_training_checkpoint_is_named_and_not_trusted(tmp_path):
    train(SMALL, tmp_path, save_every=1, held_out=0)
    path = tmp_path / CHECKPOINT
    good = path.read_bytes()
    assert load_state(path)["step"] == 2
    torch.save({"x": Planted(tmp_path / "owned")}, tmp_path / "evil.pt")
    others = [(tmp_path / "evil.pt").read_bytes(), pickle.dumps(Planted(tmp_path / "owned"), protocol=2)]
    for data in (good[: len(good) // 2], b"", os.urandom(500), *others):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged"):
            train(SMALL, tmp_path, held_out=0)
    torch.save([1], path)
    with pytest.raises(ValueError, match="not a checkpoint"):
        train(SMALL, tmp_path, held_out=0)
    assert not (tmp_path / "owned").exists()
