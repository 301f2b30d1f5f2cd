"""Small random checkpoints of every supported architecture, saved locally and loaded through the real path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(os.environ.get("ANCHORS_SHARED", Path(__file__).parents[2] / "shared"))

COMMON = {"vocab_size": 420, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 512}
GATED = {"intermediate_size": 48, "num_key_value_heads": 2}
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2", "gpt_neox")


def build_config(architecture: str):
    import transformers as t

    if architecture == "llama":
        return t.LlamaConfig(**COMMON, **SHAPE, **GATED, initializer_range=0.12)
    if architecture == "qwen2":
        return t.Qwen2Config(**COMMON, **SHAPE, **GATED, initializer_range=0.12)
    if architecture == "qwen3":
        return t.Qwen3Config(**COMMON, **SHAPE, **GATED, head_dim=12, initializer_range=0.12)
    if architecture == "gemma2":
        window = {"sliding_window": 24, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 9.0}
        return t.Gemma2Config(**COMMON, **SHAPE, **GATED, **window, head_dim=12, initializer_range=0.12)
    if architecture == "gemma3":
        window = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
        return t.Gemma3TextConfig(**COMMON, **SHAPE, **GATED, **window, head_dim=12, initializer_range=0.12)
    if architecture == "gpt2":
        shape = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512}
        return t.GPT2Config(**COMMON, **shape, initializer_range=0.12)
    if architecture == "gpt_neox":
        return t.GPTNeoXConfig(**COMMON, **SHAPE, intermediate_size=48, initializer_range=0.12)
    raise ValueError(architecture)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A folder a architecture, each with weights and tokenizer in Hugging Face format."""
    import torch
    from transformers import AutoModelForCausalLM

    from anchors.lab.train import build_tokenizer
    from anchors.lab.worlds import load_world

    tokenizer = build_tokenizer(load_world("expression"), texts=300)
    folders = {}
    for architecture in ARCHITECTURES:
        folder = tmp_path_factory.mktemp(architecture)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(build_config(architecture)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[architecture] = folder
    return folders


@pytest.fixture(scope="session", params=ARCHITECTURES)
def tiny(request, checkpoints):
    """A small random model of every architecture, loaded and checked through `load_model`."""
    from anchors.models import load_model

    return load_model(checkpoints[request.param])


@pytest.fixture(scope="session")
def problem_trace():
    """A trace the expression world wrote: 15 sentences, with its own answer."""
    import random

    from anchors.lab.worlds import write
    from anchors.lab.worlds.expression import WORLD
    from anchors.trace import Trace

    rng = random.Random(3)
    problem = WORLD.problem(rng)
    written = write(WORLD, problem, rng)
    answer = WORLD.answer(written.end)
    text = written.reasoning + WORLD.ending(answer)
    return Trace.from_text(WORLD.prompt(problem), text, target=WORLD.gold(problem), id="world-3")


@pytest.fixture
def run(capsys, monkeypatch):
    """Call `anchors ...` in this process and return (exit code, stdout, stderr)."""

    def call(*words) -> tuple[int, str, str]:
        from anchors import cli

        monkeypatch.setattr("sys.argv", ["anchors", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
