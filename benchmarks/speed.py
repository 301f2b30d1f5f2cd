"""Speed against named baselines: ratios from one run, with the results asserted equal in the same run.

1. Ours and the baseline run in turn, `--repeats` times; the table holds medians. On a shared machine trust the ratios.
2. Resampling: `model.generate` over all boundaries of a trace against `generate(num_return_sequences=n)` once a prefix
   on the same weights under sdpa. Randomness differs, so the answers and the openings of the rollouts are compared by
   total variation, with a permutation null within each boundary.
3. Suppression: the loop of `suppress` over all sources against one full forward with a 4-D mask per source.
4. Attention: `pooled_attention` against `output_attentions=True` and a numpy mean for every pair of sentences. Memory is
   the growth of the peak resident size of a fresh process for each, on a longer text of a random model of that shape.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import transformers

from anchors.answers import NO_ANSWER, extract_answer
from anchors.forced import forced_answer
from anchors.lab import world_trace
from anchors.lab.worlds import load_world
from anchors.models import Sampling, lab_models, load_model
from anchors.models.attention_pass import Block, TracePass
from anchors.models.base import Job
from anchors.models.lens import LensModel, share_weights
from anchors.models.tokens import token_spans
from anchors.outcomes import first_sentence
from anchors.scores import Scores
from anchors.stats import total_variation
from anchors.suppression import exact_kl, suppress
from anchors.trace import Trace

SPLITS = 20_000
CLOSE = 1e-5
LEAST_P = 1e-4
MEMORY_TOKENS = {True: 1000, False: 2000}


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


def main() -> None:
    options = _options()
    if options.memory:
        print(json.dumps(_peak_growth(options.memory, options.tokens)))
        return
    model, about = _model(options.model)
    repeats = options.repeats or (3 if options.quick else 7)
    few = 1 if options.quick else min(repeats, 3)
    print(_machine(), f"model: {about}", f"medians of {repeats} interleaved repetitions (resampling: {few})", sep="\n")
    results = [_resampling(model, n=4 if options.quick else options.n, repeats=few)]
    for tokens in (100, 400):
        results.append(_suppression(model, tokens, repeats))
    results.append(_attention(model, 400, repeats))
    results.append(_memory(MEMORY_TOKENS[options.quick]))
    _print_table(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure speed against named baselines.")
    parser.add_argument("-n", type=int, default=16, help="rollouts a boundary")
    parser.add_argument("--repeats", type=int, help="repetitions of each measurement (default 7, or 3 with --quick)")
    parser.add_argument("--quick", action="store_true", help="under a minute: 4 rollouts a boundary, 3 repetitions")
    parser.add_argument("--model", help="a local directory or hub id (default: lab/reasoner, else random weights)")
    parser.add_argument("--memory", choices=("ours", "baseline"), help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=2000, help=argparse.SUPPRESS)
    return parser.parse_args()


def _model(name: str | None) -> tuple[LensModel, str]:
    """The model to measure, and what to call it."""
    if name is None and "reasoner" not in lab_models():
        return _random_model(512), "random weights (lab/reasoner is not built), Llama 4 layers x 128, lab tokenizer"
    model = load_model(name or "lab/reasoner")
    return model, f"{model!r}"


def _random_model(context: int) -> LensModel:
    from anchors.lab.train import Recipe, build_model, build_tokenizer

    tokenizer = build_tokenizer(load_world("expression"), texts=300)
    module = build_model(Recipe(context=context), len(tokenizer))
    return LensModel(module, tokenizer, name="random", sampling=Sampling(1.0, 1.0, max_new_tokens=64))


def _machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return (
        f"speed  {datetime.now():%Y-%m-%d %H:%M}  {os.cpu_count()} cores ({names[0] if names else platform.processor()})  "
        f"load {os.getloadavg()[0]:.1f}  torch {torch.__version__}  transformers {transformers.__version__}  "
        f"{torch.get_num_threads()} threads"
    )


def _interleaved(ours: Callable[[int], Any], baseline: Callable[[int], Any], repeats: int) -> tuple[list, list]:
    """(seconds, result) of both, in turn, the first of each repetition changing sides; one warm-up of each before."""
    found: tuple[list, list] = ([], [])
    for repeat in range(-1, repeats):
        for side in (0, 1) if repeat % 2 else (1, 0):
            started = time.perf_counter()
            result = (ours, baseline)[side](max(repeat, 0))
            if repeat >= 0:
                found[side].append((time.perf_counter() - started, result))
    return found


# -- traces ------------------------------------------------------------------------------------------------------------


def _trace_of(model: LensModel, tokens: int) -> Trace:
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


# -- resampling --------------------------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """Continuations of every boundary, and how many tokens they took."""

    texts: list[list[str]]
    tokens: int


def _resampling(model: LensModel, *, n: int, repeats: int) -> Result:
    """Microseconds per generated token, over all boundaries of a world trace of at least 14 sentences."""
    world = load_world("expression")
    trace = next(t for t in (world_trace(world, seed=s) for s in range(100)) if len(t) >= 14)
    sampling = replace(model.sampling, stop=())
    plain = _plain(model, "sdpa")
    ours, theirs = _interleaved(
        lambda seed: _draw_ours(model, trace, sampling, n, seed),
        lambda seed: _draw_theirs(model, plain, trace, sampling, n, seed),
        repeats,
    )
    rates = [np.median([1e6 * seconds / drawn.tokens for seconds, drawn in side]) for side in (ours, theirs)]
    verdicts = []
    for words, read in (("answers", _answer), ("openings", _opening)):
        sides = [_counts([drawn for _, drawn in side], read) for side in (ours, theirs)]
        tv, floor, p = _same_distribution(*sides)
        assert p > LEAST_P, f"{words} of the two samplers differ: TV {tv:.3f}, null floor {floor:.3f}, p {p:.1e}"
        verdicts.append(f"{words} TV {tv:.3f} (null {floor:.3f}, p {p:.2f})")
    what = f"resampling, {len(trace) + 1} boundaries x {n}, vs HF generate per prefix"
    return Result(what, "us/token", float(rates[0]), float(rates[1]), "; ".join(verdicts))


def _draw_ours(model: LensModel, trace: Trace, sampling: Sampling, n: int, seed: int) -> Drawn:
    jobs = [Job(trace.text, end, trace.id, k, s) for k, end in enumerate(trace.boundaries) for s in range(n)]
    texts: list[list[str]] = [[] for _ in trace.boundaries]
    tokens = 0
    for job, completion in model.generate(jobs, sampling=sampling, seed=seed):
        texts[job.position].append(completion.text)
        tokens += completion.tokens
    return Drawn(texts, tokens)


@torch.inference_mode()
def _draw_theirs(model: LensModel, plain: Any, trace: Trace, sampling: Sampling, n: int, seed: int) -> Drawn:
    torch.manual_seed(seed)
    texts, tokens = [], 0
    for end in trace.boundaries:
        ids = model.encode(trace.text[:end]).ids
        out = plain.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            num_return_sequences=n,
            max_new_tokens=min(sampling.max_new_tokens, model.context - len(ids)),
            pad_token_id=model.tokenizer.pad_token_id,
        )
        rows = [_until_end(row, model.end_ids) for row in out[:, len(ids) :].tolist()]
        tokens += sum(map(len, rows))
        context = model.decode(ids[-8:])
        texts.append([_decoded(model, ids[-8:], row)[len(context) :] for row in rows])
    return Drawn(texts, tokens)


def _until_end(row: list[int], ends: frozenset[int]) -> list[int]:
    """The tokens written, the end token included, without the padding after it."""
    return row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))]


def _decoded(model: LensModel, context: Sequence[int], row: list[int]) -> str:
    return model.decode([*context, *(row[:-1] if row and row[-1] in model.end_ids else row)])


def _answer(text: str) -> str:
    return extract_answer(text) or NO_ANSWER


def _opening(text: str) -> str:
    return first_sentence(text)[:24]


def _counts(drawn: Sequence[Drawn], read: Callable[[str], str]) -> list[Counter[str]]:
    return [Counter(read(text) for run in drawn for text in run.texts[k]) for k in range(len(drawn[0].texts))]


def _same_distribution(first: list[Counter[str]], second: list[Counter[str]]) -> tuple[float, float, float]:
    """Mean total variation over boundaries, its mean when labels are exchanged within each boundary, and the p-value."""
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
    return observed / len(first), float(null.mean()) / len(first), p


# -- suppression -------------------------------------------------------------------------------------------------------


class Cut(NamedTuple):
    """A text, the token ranges of its sentences, and the token range of its forced answer."""

    ids: list[int]
    spans: list[tuple[int, int]]
    answer: tuple[int, int]

    def answer_logprob(self, logits: torch.Tensor) -> float:
        """log p of the answer from the logits of the tokens before each of its tokens."""
        targets = torch.tensor(self.ids[slice(*self.answer)])[:, None]
        return float(torch.log_softmax(logits, -1).gather(-1, targets).double().sum())


def _suppression(model: LensModel, tokens: int, repeats: int) -> Result:
    """Seconds for the answer effect of every source and its KL on every later token.

    Equality is asserted on a float64 copy: in float32 the two differ by rounding, more the sharper the model is.
    """
    trace = _trace_of(model, tokens)
    text, start = forced_answer(trace, model)
    encoded = model.encode(text)
    *spans, answer = token_spans(encoded.offsets, [*trace.spans, (start, len(text))]).spans
    cut, plain = Cut(encoded.ids, spans, answer), _plain(model, "sdpa")
    ours, theirs = _interleaved(
        lambda _: _suppress_suffixes(model, cut), lambda _: _suppress_masked(plain, cut), repeats
    )
    rounding = _gap(ours[0][1], theirs[0][1])
    exact = LensModel(copy.deepcopy(model.module).double(), model.tokenizer, name=model.name)
    exact.stub = model.stub
    baseline, scores = _suppress_masked(_plain(exact, "sdpa"), cut), suppress(trace, exact, resamples=1)
    gap = max(_gap(_suppress_suffixes(exact, cut), baseline), _gap(_cells(scores, spans), _means(baseline, spans)))
    assert gap <= CLOSE, f"suppression differs from masked forwards by {gap:.1e} of max(1 nat, value)"
    what = f"suppression, {len(cut.ids)} tokens, {len(spans)} sources, vs masked forwards"
    equal = f"max |difference| / max(1 nat, value) {gap:.1e} in float64 (in float32, not asserted: {rounding:.1e})"
    return Result(what, "s", _median(ours), _median(theirs), equal)


def _suppress_suffixes(model: LensModel, cut: Cut) -> list[np.ndarray]:
    """The loop of `suppress` without its bootstrap: per source the KL of every later token, and the answer effect."""
    hidden, past = model.prefill(cut.ids)
    (first, end), stop, found = cut.answer, cut.spans[-1][1], []
    plain = cut.answer_logprob(model.unembed(hidden[first - 1 : end - 1]))
    for a, b in cut.spans:
        blocked = model.hidden(cut.ids, TracePass(start=a, past=past, block=Block(a, b)))
        kl = exact_kl(model.unembed(hidden[a : stop - 1]), model.unembed(blocked[: stop - 1 - a])).numpy()
        found.append(np.append(kl, plain - cut.answer_logprob(model.unembed(blocked[first - 1 - a : end - 1 - a]))))
    return found


@torch.inference_mode()
def _suppress_masked(plain: Any, cut: Cut) -> list[np.ndarray]:
    """The same numbers from a full forward a source, with the source's columns closed in a 4-D mask."""
    ids, size = torch.tensor([cut.ids]), len(cut.ids)
    (first, end), stop, found = cut.answer, cut.spans[-1][1], []
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    whole = plain(input_ids=ids, attention_mask=causal[None, None], use_cache=False).logits[0].float()
    base = cut.answer_logprob(whole[first - 1 : end - 1])
    for a, b in cut.spans:
        mask = causal.clone()
        mask[:, a:b] = False
        logits = plain(input_ids=ids, attention_mask=mask[None, None], use_cache=False).logits[0].float()
        kl = exact_kl(whole[a : stop - 1], logits[a : stop - 1]).numpy()
        found.append(np.append(kl, base - cut.answer_logprob(logits[first - 1 : end - 1])))
    return found


def _gap(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    pairs = [(a, b) for a, b in zip(found, wanted, strict=True) if len(b)]
    return float(max((np.abs(a - b) / np.maximum(1, np.abs(b))).max() for a, b in pairs))


def _cells(scores: Scores, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """What `suppress` returned, a source at a time: its column of the matrix below the diagonal, and its value."""
    assert scores.matrix is not None
    return [np.append(scores.matrix[s + 1 :, s], scores.values[s]) for s in range(len(spans))]


def _means(rows: Sequence[np.ndarray], spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """The same from the numbers of every token; row t - 1 of a source that starts at 0 predicts token t."""
    out = []
    for s, (row, (a, _)) in enumerate(zip(rows, spans, strict=True)):
        later = [row[first - 1 - a : end - 1 - a].mean() for first, end in spans[s + 1 :]]
        out.append(np.array([*later, row[-1]]))
    return out


# -- attention ---------------------------------------------------------------------------------------------------------


def _attention(model: LensModel, tokens: int, repeats: int) -> Result:
    """Seconds for the sentence means of every head."""
    trace, plain = _trace_of(model, tokens), _plain(model, "eager")
    ours, theirs = _interleaved(
        lambda _: model.pooled_attention(trace.text, trace.spans).numpy(),
        lambda _: _pooled_by_loops(model, plain, trace),
        repeats,
    )
    gap = float(np.abs(ours[0][1] - theirs[0][1]).max())
    assert gap <= CLOSE, f"pooled attention differs from the loops by {gap:.1e}"
    size = len(model.encode(trace.text).ids)
    what = f"attention, {size} tokens, {len(trace)} sentences, vs output_attentions + loops"
    return Result(what, "s", _median(ours), _median(theirs), f"max |difference| {gap:.1e}")


def _plain(model: LensModel, attention: str) -> Any:
    """The same weights under one of transformers' own attentions."""
    plain = share_weights(model.module)
    plain.set_attn_implementation(attention)
    return plain


@torch.inference_mode()
def _pooled_by_loops(model: LensModel, plain: Any, trace: Trace) -> np.ndarray:
    """A mean for every head and every pair of sentences up to the diagonal, over attention that is held whole."""
    tokens = model.encode(trace.text)
    spans = token_spans(tokens.offsets, trace.spans).spans
    weights = plain(input_ids=torch.tensor([tokens.ids]), output_attentions=True, use_cache=False).attentions
    pooled = np.zeros((len(weights), weights[0].shape[1], len(spans), len(spans)), dtype=np.float32)
    for layer, attention in enumerate(w[0].numpy() for w in weights):
        for head in range(attention.shape[0]):
            for i, (a, b) in enumerate(spans):
                for j, (c, d) in enumerate(spans[: i + 1]):
                    pooled[layer, head, i, j] = attention[head, a:b, c:d].mean()
    return pooled


def _memory(tokens: int) -> Result:
    """Growth of the peak resident size, each way in a process of its own; needs Linux's /proc."""
    what = f"attention memory, {tokens} tokens, random weights of that shape"
    if not Path("/proc/self/clear_refs").exists():
        return Result(what, "MB", np.nan, np.nan, "not measured: this system has no /proc/self/clear_refs")
    grown = {}
    for way in ("ours", "baseline"):
        command = [sys.executable, __file__, "--memory", way, "--tokens", str(tokens)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        grown[way] = json.loads(done.stdout.splitlines()[-1])
    whole = grown["baseline"]["weights_mb"]
    note = f"peak RSS growth of a fresh process; all weights [layer, head, token, token] are {whole:.0f} MB"
    return Result(what, "MB", grown["ours"]["mb"], grown["baseline"]["mb"], note)


def _peak_growth(way: str, tokens: int) -> dict[str, float]:
    """How far one call raises the resident size at its peak, after the same call on a short text."""
    model = _random_model(4096)
    plain = _plain(model, "eager")
    run = {
        "ours": lambda trace: model.pooled_attention(trace.text, trace.spans),
        "baseline": partial(_pooled_by_loops, model, plain),
    }[way]
    run(_trace_of(model, 64))
    trace = _trace_of(model, tokens)
    size = len(model.encode(trace.text).ids)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present size
    before = _resident_mb("VmRSS")
    run(trace)
    grown = _resident_mb("VmHWM") - before
    return {"mb": grown, "weights_mb": model.layers * model.heads * size * size * 4 / 2**20}


def _resident_mb(name: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process. getrusage's peak is no use: a child inherits its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


# -- output ------------------------------------------------------------------------------------------------------------


def _median(runs: Sequence[tuple[float, Any]]) -> float:
    return float(np.median([seconds for seconds, _ in runs]))


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _print_table(results: Sequence[Result]) -> None:
    head = ("measurement", "ours", "baseline", "baseline/ours", "equality, asserted in this run")
    rows = [head, *(result.row for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:4], widths[1:4], strict=True)),
            row[4],
        ]
        print("  ".join(cells))


if __name__ == "__main__":
    main()
