"""Suppression and pooled attention against full forwards, TransformerLens hooks and attention that is held whole.

1. Both sides run in turn on one thread; the table holds medians of CPU seconds, which a busy machine disturbs less.
2. Suppression: `suppress` (bootstrap left to one draw) against, for every source, one full SDPA forward with a 4-D mask
   and one forward under TransformerLens hooks on the attention scores. The baselines compute base log-probabilities
   once and the KL of later tokens only. Answer only: the baseline unembeds only where the answer is predicted.
3. A subset of layers: against our own full forward per source, since a 4-D mask acts in every layer.
4. Attention: `pooled_attention` against `output_attentions=True` with a mean a pair of sentences, and with P A P'.
5. Memory: growth of the peak resident size of a fresh process, one for each way.
Equality is asserted in the same run, on float64 copies, relative to max(1 nat, value).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from timing import Result, machine, plain_module, resident_mb, trace_of

from anchors.forced import forced_answer
from anchors.lab.train import Recipe, build_model, build_tokenizer
from anchors.lab.worlds import load_world
from anchors.models.lens import LensModel, share_weights
from anchors.models.suffixes import TOKENS
from anchors.models.tokens import token_spans
from anchors.scores import Scores
from anchors.suppression import suppress
from anchors.trace import Trace

CLOSE = 1e-5
MEMORY_TOKENS = {True: 1000, False: 4000}
Ways = Mapping[str, Callable[[], Any]]


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    if options.memory:
        print(json.dumps(peak_growth(options.memory, options.tokens, options.sources)))
        return
    from speed import print_table

    repeats = options.repeats or (1 if options.quick else 5)
    print(machine(), f"medians of {repeats} interleaved repetitions, CPU seconds on one thread", sep="\n", flush=True)
    print_table(list(results(repeats=repeats, quick=options.quick, only=options.only)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Suppression and pooled attention against named baselines.")
    parser.add_argument("--repeats", type=int, help="repetitions of each measurement (default 5, or 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="short texts and few sources: no figure to quote")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS), help="what to measure")
    parser.add_argument("--memory", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=1250, help=argparse.SUPPRESS)
    parser.add_argument("--sources", type=int, default=40, help=argparse.SUPPRESS)
    return parser.parse_args()


def results(*, repeats: int, quick: bool, only: Sequence[str] = ()) -> Iterator[Result]:
    """Every measurement, or those named."""
    for name in only or MEASUREMENTS:
        yield from MEASUREMENTS[name](repeats, quick)


# -- what is measured ----------------------------------------------------------------------------------------------


def build(*, vocabulary: int = 2048, layers: int = 4, width: int = 128, heads: int = 4, mlp: int = 512) -> LensModel:
    """A random Llama of any size over the lab's tokenizer; ids past the tokenizer's own are never read."""
    tokenizer = build_tokenizer(load_world("expression"), texts=300)
    recipe = Recipe(context=1 << 16, layers=layers, width=width, heads=heads, mlp=mlp)
    return LensModel(build_model(recipe, vocabulary), tokenizer, name="random")


def wide(layers: int = 2) -> LensModel:
    """A model of 32 heads."""
    return build(layers=layers, width=1024, heads=32, mlp=1024)


def grouped(model: LensModel, tokens: int, sources: int) -> Trace:
    """A trace of about so many tokens, its sentences joined to `sources` longer ones."""
    trace = trace_of(model, tokens)
    edges = np.linspace(0, len(trace), sources + 1).astype(int)
    texts = ["".join(s.text for s in trace.sentences[a:b]) for a, b in itertools.pairwise(edges)]
    return Trace.from_text(trace.prompt, trace.reasoning, sentences=texts, answer="7")


def exact_copy(model: LensModel) -> LensModel:
    """The same model in float64."""
    found = LensModel(copy.deepcopy(model.module).double(), model.tokenizer, name=model.name)
    found.stub = model.stub
    return found


def timed(ways: Ways, repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Median CPU seconds of every way, in turn and in changing order after one warm-up, and what each found last."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Any] = {}
    for repeat in range(-1, repeats):
        for name in list(ways) if repeat % 2 else reversed(list(ways)):
            started = time.process_time()
            found[name] = ways[name]()
            if repeat >= 0:
                seconds[name].append(time.process_time() - started)
    return {name: float(np.median(s)) for name, s in seconds.items()}, found


def lines(what: str, seconds: Mapping[str, float], equal: str) -> Iterator[Result]:
    """One line a baseline."""
    for name, value in seconds.items():
        if name != "ours":
            yield Result(f"{what} vs {name}", "s", seconds["ours"], value, equal)


# -- suppression ---------------------------------------------------------------------------------------------------


class Cut(NamedTuple):
    """A text, the token ranges of its sentences, and the token range of its forced answer."""

    ids: list[int]
    spans: list[tuple[int, int]]
    answer: tuple[int, int]

    @classmethod
    def of(cls, model: LensModel, trace: Trace) -> Cut:
        text, start = forced_answer(trace, model)
        encoded = model.encode(text)
        *spans, answer = token_spans(encoded.offsets, [*trace.spans, (start, len(text))]).spans
        return cls(encoded.ids, spans, answer)

    def answer_logprob(self, logp: torch.Tensor) -> float:
        """log p of the answer from the log-probabilities after the tokens before each of its tokens."""
        return float(logp.gather(-1, torch.tensor(self.ids[slice(*self.answer)])[:, None]).double().sum())


class Effects(NamedTuple):
    """What `suppress` measures: the answer effect of every source, and the matrix [target, source]."""

    values: np.ndarray
    matrix: np.ndarray | None

    @classmethod
    def of(cls, scores: Scores) -> Effects:
        return cls(scores.values, scores.matrix)


Forward = Callable[[tuple[int, int] | None], torch.Tensor]


@torch.inference_mode()
def by_forwards(cut: Cut, forward: Forward) -> Effects:
    """One full forward a source: `forward(columns)` gives the logits of every token with these columns cut off."""
    (first, end), stop, size = cut.answer, cut.spans[-1][1], len(cut.spans)
    base = torch.log_softmax(forward(None), -1)
    p, plain = base.exp(), cut.answer_logprob(base[first - 1 : end - 1])
    values, matrix = np.full(size, np.nan), np.full((size, size), np.nan)
    for s, (a, b) in enumerate(cut.spans):
        logits = forward((a, b))
        values[s] = plain - cut.answer_logprob(torch.log_softmax(logits[first - 1 : end - 1], -1))
        rows = slice(b - 1, stop - 1)
        kl = (p[rows] * (base[rows] - torch.log_softmax(logits[rows], -1))).sum(-1).numpy()
        for t in range(s + 1, size):
            matrix[t, s] = kl[cut.spans[t][0] - b : cut.spans[t][1] - b].mean()
    return Effects(values, matrix)


@torch.inference_mode()
def answers_by_forwards(cut: Cut, forward: Forward) -> Effects:
    """The answer effects alone; `forward` gives logits where the answer is predicted."""
    plain = cut.answer_logprob(torch.log_softmax(forward(None), -1))
    cuts = [cut.answer_logprob(torch.log_softmax(forward(span), -1)) for span in cut.spans]
    return Effects(plain - np.array(cuts), None)


def masked(plain: Any, cut: Cut, *, answer_only: bool = False) -> Forward:
    """A full forward of the plain module with a 4-D mask; with `answer_only` it unembeds only what is asked."""
    causal = torch.ones(len(cut.ids), len(cut.ids), dtype=torch.bool).tril()
    ids, (first, end) = torch.tensor([cut.ids]), cut.answer
    kept = torch.arange(first - 1, end - 1) if answer_only else 0

    def forward(columns: tuple[int, int] | None) -> torch.Tensor:
        mask = causal.clone()
        if columns:
            mask[:, slice(*columns)] = False
        return plain(input_ids=ids, attention_mask=mask[None, None], use_cache=False, logits_to_keep=kept).logits[0]

    return forward


def hooked(model: LensModel, cut: Cut) -> Forward:
    """A full forward of a TransformerLens bridge with hooks on the attention scores of every layer."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    module = share_weights(model.module)
    module.set_attn_implementation("eager")
    bridge = build_bridge_from_module(
        module,
        architecture="LlamaForCausalLM",
        hf_config=module.config,
        tokenizer=copy.deepcopy(model.tokenizer),
        model_name="random",
    )
    ids = torch.tensor([cut.ids])

    def forward(columns: tuple[int, int] | None) -> torch.Tensor:
        def close(scores: torch.Tensor, hook: Any) -> torch.Tensor:
            scores[..., slice(*(columns or (0, 0)))] = torch.finfo(scores.dtype).min
            return scores

        hooks = [(f"blocks.{layer}.attn.hook_attn_scores", close) for layer in range(model.layers)]
        return bridge.run_with_hooks(ids, fwd_hooks=hooks)[0]

    return forward


def gap(found: Effects, wanted: Effects) -> float:
    """Largest difference over max(1, |value|), which both must have at the same places."""
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        if a is not None and b is not None:
            assert np.array_equal(np.isnan(a), np.isnan(b)), "the two sides measured different cells"
            worst = max(worst, float(np.nanmax(np.abs(a - b) / np.maximum(1, np.abs(b)), initial=0)))
    return worst


def assert_same(ours: Effects, baseline: Effects, rounding: float) -> str:
    found = gap(ours, baseline)
    assert found <= CLOSE, f"suppression differs from full forwards by {found:.1e} of max(1 nat, value)"
    return f"max |difference| / max(1 nat, value) {found:.1e} in float64 ({rounding:.1e} in float32)"


def suppression(model: LensModel, tokens: int, repeats: int) -> Result:
    """Seconds of `suppress` against masked forwards on any model, every sentence a source."""
    trace = trace_of(model, tokens)
    return next(_suppression(model, trace, repeats, hooks=False))


def _suppression(model: LensModel, trace: Trace, repeats: int, *, hooks: bool) -> Iterator[Result]:
    cut, exact = Cut.of(model, trace), exact_copy(model)
    forward = masked(plain_module(model, "sdpa"), cut)
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: Effects.of(suppress(trace, model, resamples=1)),
        "masked forwards": lambda: by_forwards(cut, forward),
    }
    if hooks:
        bridge = hooked(model, cut)
        ways["TransformerLens hooks"] = lambda: by_forwards(cut, bridge)
    seconds, found = timed(ways, repeats)
    for name, effects in found.items():
        assert gap(effects, found["masked forwards"]) <= 1e-3, f"{name} is off in float32"
    ours = Effects.of(suppress(trace, exact, resamples=1))
    wanted = by_forwards(cut, masked(plain_module(exact, "sdpa"), cut))
    equal = assert_same(ours, wanted, gap(found["ours"], found["masked forwards"]))
    equal += f"; unpacked {_unpacked(trace, model, found['ours']):.1e}"
    yield from lines(f"suppression, {len(cut.ids)} tokens, {len(cut.spans)} sources,", seconds, equal)


def _unpacked(trace: Trace, model: LensModel, packed: Effects) -> float:
    """How far one suffix at a time differs from the packed path, in float32."""
    held = TOKENS["cpu"]
    TOKENS["cpu"] = 1
    try:
        found = gap(Effects.of(suppress(trace, model, resamples=1)), packed)
    finally:
        TOKENS["cpu"] = held
    assert found <= 1e-4, f"the packed path differs from the unpacked one by {found:.1e}"
    return found


def _sources(repeats: int, quick: bool) -> Iterator[Result]:
    model = build()
    for sources in (5, 10) if quick else (10, 20, 40, 80):
        trace = grouped(model, 300 if quick else 1250, sources)
        yield from _suppression(model, trace, repeats, hooks=sources in (10, 40))


def _answer_only(repeats: int, quick: bool) -> Iterator[Result]:
    model = build()
    trace = grouped(model, 300 if quick else 1250, 10 if quick else 40)
    cut = Cut.of(model, trace)
    forward = masked(plain_module(model, "sdpa"), cut, answer_only=True)
    ways = {
        "ours": lambda: Effects.of(suppress(trace, model, answer_only=True)),
        "masked forwards": lambda: answers_by_forwards(cut, forward),
        "the suffixes alone": lambda: _suffixes(model, cut),
    }
    seconds, found = timed(ways, repeats)
    exact = exact_copy(model)
    wanted = answers_by_forwards(cut, masked(plain_module(exact, "sdpa"), cut, answer_only=True))
    ours = Effects.of(suppress(trace, exact, answer_only=True))
    equal = assert_same(ours, wanted, gap(found["ours"], found["masked forwards"]))
    yield from lines(f"answer only, {len(cut.ids)} tokens, {len(cut.spans)} sources,", seconds, equal)


def _suffixes(model: LensModel, cut: Cut) -> None:
    """A forward over each source's suffix and nothing else: what one suffix a source costs at least, one at a time."""
    from anchors.models.attention_pass import TracePass

    _, past = model.prefill(cut.ids)
    for _, b in cut.spans:
        model.hidden(cut.ids, TracePass(start=b - 1, past=past))


def _subset(repeats: int, quick: bool) -> Iterator[Result]:
    model = build()
    trace = grouped(model, 300 if quick else 1250, 10 if quick else 40)
    for subset in ({"layers": [model.layers - 1]}, {"heads": [(2, 1), (3, 0)]}):
        seconds, found = timed(
            {
                "ours": lambda subset=subset: Effects.of(suppress(trace, model, resamples=1, **subset)),
                "full forwards": lambda subset=subset: by_forwards(*_own_forward(model, trace, subset)),
            },
            repeats,
        )
        exact = exact_copy(model)
        wanted = by_forwards(*_own_forward(exact, trace, subset))
        ours = Effects.of(suppress(trace, exact, resamples=1, **subset))
        equal = assert_same(ours, wanted, gap(found["ours"], found["full forwards"]))
        yield from lines(f"suppression in {subset},", seconds, equal)


def _own_forward(model: LensModel, trace: Trace, subset: Mapping[str, Any]) -> tuple[Cut, Forward]:
    from anchors.models.attention_pass import TracePass

    cut = Cut.of(model, trace)

    def forward(columns: tuple[int, int] | None) -> torch.Tensor:
        block = model.column_block(columns, **subset) if columns else None
        return model.unembed(model.hidden(cut.ids, TracePass(block=block)))

    return cut, forward


# -- attention -----------------------------------------------------------------------------------------------------


def attention(model: LensModel, tokens: int, repeats: int) -> Result:
    """Seconds for the sentence means of every head against loops, on any model."""
    return next(_attention(model, trace_of(model, tokens), repeats))


def _attention(model: LensModel, trace: Trace, repeats: int) -> Iterator[Result]:
    plain = plain_module(model, "eager")
    seconds, found = timed(
        {
            "ours": lambda: model.pooled_attention(trace.text, trace.spans).numpy(),
            "output_attentions + loops": lambda: pooled_by_loops(model, plain, trace),
            "output_attentions + P A P'": lambda: pooled_by_matrices(model, plain, trace),
        },
        repeats,
    )
    worst = max(float(np.abs(found["ours"] - other).max()) for name, other in found.items() if name != "ours")
    assert worst <= CLOSE, f"pooled attention differs from the baselines by {worst:.1e}"
    what = f"attention, {len(model.encode(trace.text).ids)} tokens, {model.heads} heads, {len(trace)} sentences,"
    yield from lines(what, seconds, f"max |difference| {worst:.1e}")


def _long_attention(repeats: int, quick: bool) -> Iterator[Result]:
    model = wide()
    yield from _attention(model, grouped(model, 500 if quick else 4000, 20 if quick else 130), min(repeats, 2))


@torch.inference_mode()
def _attentions(model: LensModel, plain: Any, trace: Trace) -> tuple[Any, list[tuple[int, int]]]:
    tokens = model.encode(trace.text)
    weights = plain.base_model(input_ids=torch.tensor([tokens.ids]), output_attentions=True, use_cache=False).attentions
    return weights, token_spans(tokens.offsets, trace.spans).spans


def pooled_by_loops(model: LensModel, plain: Any, trace: Trace) -> np.ndarray:
    """A mean for every head and every pair of sentences up to the diagonal, over attention that is held whole."""
    weights, spans = _attentions(model, plain, trace)
    pooled = np.zeros((len(weights), weights[0].shape[1], len(spans), len(spans)), dtype=np.float32)
    for layer, attention in enumerate(w[0].numpy() for w in weights):
        for head in range(attention.shape[0]):
            for i, (a, b) in enumerate(spans):
                for j, (c, d) in enumerate(spans[: i + 1]):
                    pooled[layer, head, i, j] = attention[head, a:b, c:d].mean()
    return pooled


def pooled_by_matrices(model: LensModel, plain: Any, trace: Trace) -> np.ndarray:
    """The same by two matrix products with the membership of tokens in sentences, P A P'."""
    weights, spans = _attentions(model, plain, trace)
    membership = torch.zeros(len(spans), weights[0].shape[-1])
    for row, (a, b) in zip(membership, spans, strict=True):
        row[a:b] = 1 / (b - a)
    return torch.stack([membership @ w[0] @ membership.T for w in weights]).numpy()


# -- memory --------------------------------------------------------------------------------------------------------


def memory(tokens: int) -> Result:
    """Growth of the peak resident size for pooled attention of 32 heads against `output_attentions=True`."""
    ours, baseline = (measured_growth(way, tokens, 130) for way in ("attention", "output_attentions"))
    note = f"peak RSS growth of a fresh process; {baseline / max(ours, 1e-9):.0f} times"
    return Result(f"attention memory, {tokens} tokens, 32 heads", "MB", ours, baseline, note)


def _memory(repeats: int, quick: bool) -> Iterator[Result]:
    yield memory(MEMORY_TOKENS[quick])
    tokens, sizes = (300, (5, 10)) if quick else (1250, (10, 80))
    grown = [measured_growth("suppression", tokens, sources) for sources in sizes]
    baseline = measured_growth("masked", tokens, sizes[0])
    for sources, mb in zip(sizes, grown, strict=True):
        what = f"suppression memory, {tokens} tokens, {sources} sources, vs masked forwards"
        yield Result(what, "MB", mb, baseline, "peak RSS growth of a fresh process")


def measured_growth(way: str, tokens: int, sources: int) -> float:
    """`peak_growth` in a process of its own; NaN where the system has no /proc/self/clear_refs."""
    if not Path("/proc/self/clear_refs").exists():
        return float("nan")
    command = [sys.executable, __file__, "--memory", way, "--tokens", str(tokens), "--sources", str(sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["mb"]


def peak_growth(way: str, tokens: int, sources: int = 40) -> dict[str, float]:
    """How far one call raises the resident size at its peak, after the same call on a short text."""
    model, run = WAYS[way]()
    short, trace = grouped(model, 100, 2), grouped(model, tokens, sources)
    run(model, short)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present size
    before = resident_mb("VmRSS")
    run(model, trace)
    return {"mb": resident_mb("VmHWM") - before}


def _eager(model: LensModel, trace: Trace) -> Any:
    return pooled_by_matrices(model, plain_module(model, "eager"), trace)


def _masked(model: LensModel, trace: Trace) -> Any:
    cut = Cut.of(model, trace)
    return by_forwards(cut, masked(plain_module(model, "sdpa"), cut))


WAYS: dict[str, Callable[[], tuple[LensModel, Callable[[LensModel, Trace], Any]]]] = {
    "attention": lambda: (wide(), lambda model, trace: model.pooled_attention(trace.text, trace.spans)),
    "output_attentions": lambda: (wide(), _eager),
    "suppression": lambda: (build(), lambda model, trace: suppress(trace, model)),
    "masked": lambda: (build(), _masked),
    "ours": lambda: (wide(), lambda model, trace: model.pooled_attention(trace.text, trace.spans)),
    "baseline": lambda: (wide(), _eager),
}

MEASUREMENTS: dict[str, Callable[[int, bool], Iterator[Result]]] = {
    "suppression": _sources,
    "answer": _answer_only,
    "subset": _subset,
    "attention": _long_attention,
    "memory": _memory,
}

if __name__ == "__main__":
    main()
