"""Resampling speed: `model.generate` over all boundaries of a trace against named baselines on the same weights.

1. Two settings: the shipped reasoner on a trace of 400 tokens, and a medium Qwen2 of random weights (8 layers, width 512,
   vocabulary 8k) on 1,500 tokens, whose rollouts are as spread out as can be and share nothing.
2. Baselines: Hugging Face `generate(num_return_sequences=n)` and TransformerLens `generate`, once a prefix; vLLM with
   prefix caching in its own environment (`VLLM_PYTHON`), all prefixes at once. The first two run on every k-th boundary
   only, because prefixes cost them the same time each way; figures are microseconds per generated token.
3. A generated token counts as generated whether it was computed or shared; the share that was computed is printed.
4. Randomness differs, so answers and openings of the rollouts are compared by total variation, with a permutation null
   within each boundary. And some of our rollouts are drawn again by the plain way, one token after the other through
   transformers' own cache in float64 with the same uniforms: they must be equal, token for token.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from timing import Result, medium_model, plain_module, roofline, rotated, same_distribution, trace_of

from anchors.answers import NO_ANSWER, extract_answer
from anchors.models import Sampling
from anchors.models.base import Completion, Job
from anchors.models.engine import Tally, draw
from anchors.models.lens import LensModel
from anchors.models.randomness import stream
from anchors.models.sampling import sample
from anchors.models.ties import double_copy
from anchors.outcomes import first_sentence
from anchors.trace import Trace

REPLAYED = 12
BATCH = 256
VLLM = os.environ.get("VLLM_PYTHON", "/work/vllm-env/bin/python")


class Drawn(NamedTuple):
    """Continuations by boundary, how many tokens they took, and in how many seconds."""

    texts: dict[int, list[str]]
    tokens: int
    seconds: float

    @property
    def rate(self) -> float:
        return 1e6 * self.seconds / self.tokens


@dataclass(frozen=True)
class Setting:
    """What is drawn: n rollouts at `boundaries` of a trace; the peers that run once a prefix take every `stride`-th."""

    name: str
    model: LensModel
    trace: Trace
    sampling: Sampling
    boundaries: tuple[int, ...]
    n: int
    stride: int
    compare: bool

    @property
    def few(self) -> tuple[int, ...]:
        return self.boundaries[:: self.stride]

    def prefix(self, k: int) -> list[int]:
        return self.model.encode(self.trace.text[: self.trace.boundaries[k]]).ids

    def limit(self, ids: Sequence[int]) -> int:
        return min(self.sampling.max_new_tokens, self.model.context - len(ids))

    def jobs(self) -> list[Job]:
        ends, text = self.trace.boundaries, self.trace.text
        return [Job(text, ends[k], self.trace.id, k, s) for k in self.boundaries for s in range(self.n)]


def resampling(model: LensModel, *, n: int, repeats: int, quick: bool) -> list[Result]:
    """Both settings, each against every baseline that is there."""
    trace = trace_of(model, 100 if quick else 400)
    sampling, every = replace(model.sampling, stop=()), tuple(range(len(trace.boundaries)))
    small = Setting(model.name, model, trace, sampling, every, n, 4 if quick else 6, compare=True)
    medium = medium_model()
    long = trace_of(medium, 300 if quick else 1500)
    some = tuple(range(0, len(long.boundaries), 5))
    new = Sampling(1.0, 1.0, max_new_tokens=16 if quick else 64)
    large = Setting("medium Qwen2", medium, long, new, some, min(n, 16), 8, compare=False)
    return [*_against_all(small, repeats), *_against_all(large, repeats)]


def _against_all(setting: Setting, repeats: int) -> list[Result]:
    tally, kept = Tally(), {}
    sides: dict[str, Callable[[int], Drawn]] = {
        "ours": partial(_draw_ours, setting, tally, kept),
        "HF generate per prefix": partial(_draw_hugging_face, setting, plain_module(setting.model, "sdpa")),
        "TransformerLens generate": partial(_draw_bridge, setting),
    }
    if Path(VLLM).exists():
        sides["vLLM"] = partial(_draw_vllm, setting)
    else:
        print(f"vLLM: not measured, there is no {VLLM} (set VLLM_PYTHON to the python of its environment)")
    runs = rotated(sides, repeats)
    replayed = _replay(setting, kept)
    ours = runs.pop("ours")
    size = len(setting.prefix(setting.boundaries[-1]))
    print(
        f"{setting.name}: {size} tokens, {len(setting.boundaries)} boundaries x {setting.n}, "
        f"{tally.generated} tokens generated, {tally.computed} rows computed ({tally.computed / tally.generated:.0%}), "
        f"{tally.ties} ties decided in float64; {replayed} rollouts equal the plain float64 way token for token"
    )
    seconds = sum(drawn.seconds for drawn in ours)
    print(f"  {roofline(setting.model, tally.computed, seconds, size)}")
    return [_compared(setting, name, ours, theirs) for name, theirs in runs.items()]


def _compared(setting: Setting, name: str, ours: Sequence[Drawn], theirs: Sequence[Drawn]) -> Result:
    rates = [float(np.median([drawn.rate for drawn in side])) for side in (ours, theirs)]
    what = f"resampling, {setting.name} x {setting.n}, vs {name}"
    verdicts = ["random weights: no distribution test"] if not setting.compare else []
    for words, read in (("answers", _answer), ("openings", _opening)) if setting.compare else ():
        where = sorted(set(theirs[0].texts))
        found = same_distribution(f"{name}: {words}", *(_counts(side, where, read) for side in (ours, theirs)))
        verdicts.append(f"{words} {found}")
    return Result(what, "us/token", *rates, "; ".join(verdicts))


# -- the ways ----------------------------------------------------------------------------------------------------------


def _draw_ours(setting: Setting, tally: Tally, kept: dict[Job, tuple[int, Completion]], seed: int) -> Drawn:
    texts: dict[int, list[str]] = {k: [] for k in setting.boundaries}
    tokens, started = 0, time.perf_counter()
    options = {"sampling": setting.sampling, "seed": seed, "batch_size": BATCH, "tally": tally}
    for job, completion in draw(setting.model, setting.jobs(), **options):
        texts[job.position].append(completion.text)
        tokens += completion.tokens
        if job.sample == 0:
            kept[job] = seed, completion
    return Drawn(texts, tokens, time.perf_counter() - started)


@torch.inference_mode()
def _draw_hugging_face(setting: Setting, plain: Any, seed: int) -> Drawn:
    torch.manual_seed(seed)

    def continued(ids: list[int]) -> torch.Tensor:
        return plain.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=True,
            temperature=setting.sampling.temperature,
            top_p=setting.sampling.top_p,
            top_k=0,
            num_return_sequences=setting.n,
            max_new_tokens=setting.limit(ids),
            pad_token_id=setting.model.tokenizer.pad_token_id,
        )

    return _per_prefix(setting, continued)


@torch.inference_mode()
def _draw_bridge(setting: Setting, seed: int) -> Drawn:
    torch.manual_seed(seed)
    bridge, (end, *_) = setting.model.bridge, sorted(setting.model.end_ids)

    def continued(ids: list[int]) -> torch.Tensor:
        return bridge.generate(
            torch.tensor([ids]).expand(setting.n, -1).contiguous(),
            do_sample=True,
            temperature=setting.sampling.temperature,
            top_p=setting.sampling.top_p if setting.sampling.top_p < 1 else None,
            max_new_tokens=setting.limit(ids),
            eos_token_id=end,
            stop_at_eos=True,
            prepend_bos=False,
            return_type="tokens",
            verbose=False,
        )

    return _per_prefix(setting, continued)


def _per_prefix(setting: Setting, continued: Callable[[list[int]], torch.Tensor]) -> Drawn:
    found, seconds = {}, 0.0
    for k in setting.few:
        ids = setting.prefix(k)
        started = time.perf_counter()
        rows = continued(ids)[:, len(ids) :].tolist()
        seconds += time.perf_counter() - started
        found[k] = [_until_end(row, setting.model.end_ids) for row in rows]
    return _drawn(setting, found, seconds)


def _draw_vllm(setting: Setting, seed: int) -> Drawn:
    """All prefixes in one call, in a process of vLLM's own environment, on as many threads as we use."""
    prompts = [setting.prefix(k) for k in setting.boundaries]
    with tempfile.TemporaryDirectory() as folder:
        setting.model.module.save_pretrained(folder)
        shape = {"temperature": setting.sampling.temperature, "top_p": setting.sampling.top_p, "n": setting.n}
        shape |= {"context": setting.model.context, "ends": sorted(setting.model.end_ids), "seeds": [seed]}
        limits = [setting.limit(ids) for ids in prompts]
        asked, told = Path(folder, "asked.json"), Path(folder, "told.json")
        asked.write_text(json.dumps({"model": folder, "prompts": prompts, "limits": limits, **shape}))
        script = Path(__file__).with_name("peers") / "vllm_resampling.py"
        settings = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        settings |= {"VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
        done = subprocess.run(
            [VLLM, str(script), str(asked), str(told)], env=os.environ | settings, capture_output=True
        )
        if done.returncode:
            raise RuntimeError(f"vLLM failed: {done.stderr.decode()[-2000:]}")
        (run,) = json.loads(told.read_text())
    ends, given = setting.model.end_ids, zip(setting.boundaries, run["rows"], strict=True)
    rows = {k: [_until_end(row, ends) for row in written] for k, written in given}
    return _drawn(setting, rows, run["seconds"])


def _drawn(setting: Setting, rows: dict[int, list[list[int]]], seconds: float) -> Drawn:
    tokens = sum(len(row) for given in rows.values() for row in given)
    return Drawn({k: [_text(setting, k, row) for row in given] for k, given in rows.items()}, tokens, seconds)


def _until_end(row: list[int], ends: frozenset[int]) -> list[int]:
    """The tokens written, the end token included, without the padding after it."""
    return row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))]


def _text(setting: Setting, k: int, row: list[int]) -> str:
    model, context = setting.model, setting.prefix(k)[-8:]
    body = row[:-1] if row and row[-1] in model.end_ids else row
    return model.decode([*context, *body])[len(model.decode(context)) :]


# -- equality ----------------------------------------------------------------------------------------------------------


def _replay(setting: Setting, kept: dict[Job, tuple[int, Completion]]) -> int:
    """Draw some rollouts again the plain way and require the same text and number of tokens."""
    exact = double_copy(setting.model)
    plain = plain_module(exact, "sdpa")
    chosen = list(kept.items())[:: max(1, len(kept) // REPLAYED)]
    for job, (seed, completion) in chosen:
        row = _plain_rollout(setting, plain, job, seed)
        assert completion.tokens == len(row), (
            f"boundary {job.position}: {completion.tokens} tokens, {len(row)} the plain way"
        )
        assert completion.text == _text(setting, job.position, row), f"boundary {job.position}: {completion.text!r}"
    return len(chosen)


@torch.inference_mode()
def _plain_rollout(setting: Setting, plain: Any, job: Job, seed: int) -> list[int]:
    ids = setting.prefix(job.position)
    key = np.array([stream(seed, job.trace, job.position, job.sample)], dtype=np.uint64)
    feed, past, written = ids, None, []
    while len(written) < setting.limit(ids) and not (written and written[-1] in setting.model.end_ids):
        out = plain(input_ids=torch.tensor([feed]), past_key_values=past, use_cache=True)
        step = np.array([len(written)])
        found = sample(out.logits[:, -1], setting.sampling, streams=key, steps=step, margin=0.0)
        written.append(int(found.ids[0]))
        feed, past = written[-1:], out.past_key_values
    return written


def _answer(text: str) -> str:
    return extract_answer(text) or NO_ANSWER


def _opening(text: str) -> str:
    return first_sentence(text)[:24]


def _counts(drawn: Sequence[Drawn], where: Sequence[int], read: Callable[[str], str]) -> list[Counter[str]]:
    return [Counter(read(text) for run in drawn for text in run.texts[k]) for k in where]
