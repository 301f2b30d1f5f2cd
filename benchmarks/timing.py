"""What every speed measurement shares: interleaved repetitions, models and traces, equality of distributions, peak memory."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import transformers

from anchors.lab import world_trace
from anchors.lab.worlds import load_world
from anchors.models import Sampling, lab_models, load_model
from anchors.models.lens import LensModel, share_weights
from anchors.stats import total_variation
from anchors.trace import Trace

MODELS = {"expression": "lab/reasoner", "alchemy": "lab/alchemist"}
"""Which model writes a world."""
SPLITS = 20_000
LEAST_P = 1e-4
"""How often labels are exchanged to compare two samplers, and the least p-value at which they still count as one."""


class Result(NamedTuple):
    """One line of the table: medians of ours and of the baseline in `unit`, and what was found equal."""

    what: str
    unit: str
    ours: float
    baseline: float
    equal: str

    @property
    def row(self) -> tuple[str, ...]:
        ratio = f"{self.baseline / self.ours:.1f}x" if self.ours > 0 else "-"
        return self.what, f"{_short(self.ours)} {self.unit}", f"{_short(self.baseline)} {self.unit}", ratio, self.equal


def measured_model(name: str | None) -> tuple[LensModel, str]:
    """The model to measure, and what to call it."""
    if name is None and "reasoner" not in lab_models():
        return random_model(512), "random weights (lab/reasoner is not built), Llama 4 layers x 128, lab tokenizer"
    model = load_model(name or "lab/reasoner")
    return model, f"{model!r}"


def random_model(context: int) -> LensModel:
    from anchors.lab.train import Recipe, build_model, build_tokenizer

    tokenizer = build_tokenizer(load_world("expression"), texts=300)
    module = build_model(Recipe(context=context), len(tokenizer))
    return LensModel(module, tokenizer, name="random", sampling=Sampling(1.0, 1.0, max_new_tokens=64))


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return (
        f"speed  {datetime.now():%Y-%m-%d %H:%M}  {os.cpu_count()} cores ({names[0] if names else platform.processor()})  "
        f"load {os.getloadavg()[0]:.1f}  torch {torch.__version__}  transformers {transformers.__version__}  "
        f"{torch.get_num_threads()} threads  {'numba' if find_spec('numba') else 'no numba'}"
    )


def interleaved(ours: Callable[[int], Any], baseline: Callable[[int], Any], repeats: int) -> tuple[list, list]:
    """(seconds, result) of both, in turn, the first of each repetition changing sides; one warm-up of each before."""
    found: tuple[list, list] = ([], [])
    for repeat in range(-1, repeats):
        for side in (0, 1) if repeat % 2 else (1, 0):
            started = time.perf_counter()
            result = (ours, baseline)[side](max(repeat, 0))
            if repeat >= 0:
                found[side].append((time.perf_counter() - started, result))
    return found


def trace_of(model: LensModel, tokens: int) -> Trace:
    """World traces joined one after the other under the first one's prompt, as many whole sentences as fit `tokens`."""
    first = world_trace(load_world("expression"), seed=0)
    reasoning, seed = first.reasoning, 0
    while len(model.encode(first.prompt + reasoning).ids) < tokens:
        seed += 1
        reasoning += " " + world_trace(load_world("expression"), seed=seed).reasoning
    whole = Trace.from_text(first.prompt, reasoning, answer="7")
    room = tokens - 16
    last = max(i for i in range(len(whole)) if len(model.encode(whole.through(i)).ids) <= room)
    text = whole.through(last)[len(whole.prompt) :]
    return Trace.from_text(first.prompt, text + "\n</think>\nThe answer is 7.", target="7")


def plain_module(model: LensModel, attention: str) -> Any:
    """The same weights under one of transformers' own attentions."""
    plain = share_weights(model.module)
    plain.set_attn_implementation(attention)
    return plain


def same_distribution(what: str, first: Sequence[Counter[str]], second: Sequence[Counter[str]]) -> str:
    """Mean total variation over boundaries, its mean when labels are exchanged within each boundary, and the p-value.

    Raises:
        AssertionError: the p-value is so small that the two cannot be one distribution.
    """
    rng = np.random.default_rng(0)
    observed, null = 0.0, np.zeros(SPLITS)
    for a, b in zip(first, second, strict=True):
        kinds = sorted({*a, *b})
        rows = np.array([[side[kind] for kind in kinds] for side in (a, b)])
        pooled = rows.sum(0)
        splits = rng.multivariate_hypergeometric(pooled, int(rows[0].sum()), size=SPLITS, method="marginals")
        observed += float(total_variation(*rows))
        null += total_variation(splits, pooled - splits)
    p = (1 + int((null >= observed - 1e-9).sum())) / (SPLITS + 1)
    tv, floor = observed / len(first), float(null.mean()) / len(first)
    assert p > LEAST_P, f"{what} differ from ours: TV {tv:.3f}, null floor {floor:.3f}, p {p:.1e}"
    return f"TV {tv:.3f} (null {floor:.3f}, p {p:.2f})"


def resident_mb(name: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process. getrusage's peak is no use: a child inherits its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def median(runs: Sequence[tuple[float, Any]]) -> float:
    return float(np.median([seconds for seconds, _ in runs]))


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def medium_model() -> LensModel:
    """A Qwen2 of random weights: 8 layers, width 512, 8 heads over 2 key-value heads, 8,192 tokens all of which decode."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from anchors.lab.train import build_tokenizer

    tokenizer = build_tokenizer(load_world("expression"), texts=300)
    tokenizer.add_tokens([f"<{i}>" for i in range(8192 - len(tokenizer))])
    shape = {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1408, "max_position_embeddings": 4096}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 1}
    torch.manual_seed(0)
    module = Qwen2ForCausalLM(Qwen2Config(vocab_size=8192, pad_token_id=0, **shape, **heads))
    with tempfile.TemporaryDirectory() as folder:
        module.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        model = load_model(folder)
        model.bridge  # noqa: B018 - built while its tokenizer's folder exists
    return model


def rotated(sides: Mapping[str, Callable[[int], Any]], repeats: int) -> dict[str, list[Any]]:
    """What every side returns, in turn, a repetition at a time, each beginning with another side."""
    found: dict[str, list[Any]] = {name: [] for name in sides}
    names = list(sides)
    for repeat in range(repeats):
        for name in [*names[repeat % len(names) :], *names[: repeat % len(names)]]:
            found[name].append(sides[name](repeat))
    return found


def roofline(model: LensModel, rows: int, seconds: float, trace_tokens: int) -> str:
    """The matrix rate and memory bandwidth of this machine, and the share of the rate that `rows` in `seconds` reach."""
    rate, bandwidth = _matrix_rate(), _bandwidth()
    layer = sum(p.numel() for name, p in model.module.named_parameters() if "layers." in name and p.dim() == 2)
    config = model.module.config.get_text_config()
    width = config.hidden_size
    attention = 4 * model.layers * width * trace_tokens / 2
    work = rows * (2 * layer + 2 * width * model.vocabulary + attention)
    return (
        f"roofline: matrix products {rate / 1e9:.0f} GFLOP/s, copy {bandwidth / 1e9:.1f} GB/s on "
        f"{torch.get_num_threads()} threads; {work / 1e9:.0f} GFLOP of weights and half the trace in {seconds:.1f} s: "
        f"{work / seconds / rate:.0%} of the matrix rate, all else included"
    )


def _matrix_rate(size: int = 1024) -> float:
    a, b = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(12):
        started = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def _bandwidth(megabytes: int = 256) -> float:
    a = torch.zeros(megabytes * 2**18)
    b, times = torch.ones_like(a), []
    for _ in range(5):
        started = time.perf_counter()
        b.copy_(a)
        times.append(time.perf_counter() - started)
    return 2 * megabytes * 2**20 / min(times)
