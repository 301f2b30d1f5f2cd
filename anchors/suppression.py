"""What each sentence does to the later ones: cut all attention to it and compare the next-token distributions.

1. One plain forward gives the base distributions, and the keys and values of every layer.
2. Blocking source s cannot change tokens before it, so only the suffix from s on is run, over the recorded past.
3. KL(p || p_blocked) of the distribution that predicts each later token, exact over the vocabulary, in blocks of rows.
4. The matrix entry [target, source] is the mean over the target's tokens; the forced answer's change in
   log-probability is the source's total effect.
Source: Thought Anchors (2506.19143), section 5. The published quantity truncates to the top-p tokens of each side and
fills in -1e9, so its values are dominated by tokens kept on one side only; `compat="paper"` reproduces it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from anchors.forced import forced_answer
from anchors.models.attention_pass import LayerCache, TracePass
from anchors.models.base import CapabilityError, Tokens
from anchors.models.tokens import answer_tokens, token_spans
from anchors.scores import Scores, method
from anchors.stats import mean_interval
from anchors.trace import Trace

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

ELEMENTS = 1 << 23
PAPER_TOP_P, PAPER_TOP_K, PAPER_TEMPERATURE, PAPER_FLOOR, PAPER_EPSILON = 0.9999, 100, 0.6, -1e9, 1e-9


class Base(NamedTuple):
    """The plain forward of a text: its tokens, final hidden states, recorded past and the answer's token range."""

    tokens: Tokens
    hidden: Float[Tensor, "token width"]
    past: list[LayerCache]
    answer: tuple[int, int]


@method("suppression", needs="model", unit="nats of answer log-probability")
def suppress(
    trace: Trace,
    model: LensModel,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[tuple[int, int]] | None = None,
    answer: str | None = None,
    compat: Literal["paper"] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> Scores:
    """Effect of each sentence on the answer and on every later sentence when attention to it is blocked.

    values[s] = log p(answer) - log p(answer | s blocked) in nats, exact; positive means s supports the answer.
    matrix[t, s] = mean over the tokens of t of KL(p || p_blocked) in nats, NaN where t <= s;
    extras: `matrix_low`, `matrix_high` (bootstrap over the target's tokens), `outgoing` (mean KL over later
    sentences, [sentence]), `answer_logprob`. With `compat="paper"` the matrix holds the published log-KL with every
    row's mean subtracted, artefacts included (temperature 0.6, truncation, windows of positions).

    Raises:
        CapabilityError: the model is a black box.
        ValueError: the trace has no answer, it does not fit the context, a layer or head does not exist, or `compat`
            is unknown.
    """
    if compat not in (None, "paper"):
        raise ValueError(f"compat is {compat!r}; it must be None (exact) or 'paper'")
    if not hasattr(model, "prefill"):
        raise CapabilityError(f"{model.name} cannot block attention; suppression needs a local model")
    base = _base(trace, model, answer)
    spans = _paper_spans(trace, model) if compat else token_spans(base.tokens.offsets, trace.spans).spans
    size = len(trace)
    matrix, low, high = (np.full((size, size), np.nan) for _ in range(3))
    values = np.full(size, np.nan)
    plain = _answer_logprob(model, base, base.hidden, 0)
    rng = np.random.default_rng(seed)
    for s, (a, b) in enumerate(tqdm(spans, desc="suppress", disable=None if progress else True)):
        if a == b:
            continue
        block = model.column_block((a, b), layers=layers, heads=heads)
        hidden = model.hidden(base.tokens.ids, TracePass(start=a, past=base.past, block=block))
        values[s] = plain - _answer_logprob(model, base, hidden, a)
        effects = _token_effects(model, base, hidden, a, spans[-1][1], compat)
        for t in range(s + 1, size):
            rows = effects[spans[t][0] - a : spans[t][1] - a]
            if len(rows):
                matrix[t, s] = rows.mean()
                low[t, s], high[t, s] = mean_interval(rows, rng, resamples=resamples)
    if compat == "paper":
        centre = _means(matrix, axis=1)[:, None]
        matrix, low, high = matrix - centre, low - centre, high - centre
    return Scores.of(
        trace,
        "suppression",
        values,
        n=np.where(np.isnan(values), 0, base.answer[1] - base.answer[0]),
        matrix=matrix,
        extras={
            "matrix_low": low,
            "matrix_high": high,
            "outgoing": _means(matrix, axis=0),
            "answer_logprob": np.array(plain),
        },
        details=_details(model, layers, heads, compat, seed),
    )


def _paper_spans(trace: Trace, model: LensModel) -> list[tuple[int, int]]:
    """The published token windows: lengths of the tokenised prefixes, which run through trailing white space."""
    starts = [a + len(trace.text[a:b]) - len(trace.text[a:b].lstrip()) for a, b in trace.spans]
    edges = [len(model.encode(trace.text[:at]).ids) for at in [*starts, trace.boundaries[-1]]]
    return list(itertools.pairwise(edges))


def _details(model: LensModel, layers: Any, heads: Any, compat: str | None, seed: int) -> dict[str, Any]:
    return {
        "model": model.name,
        "layers": "all" if layers is None else list(layers),
        "heads": "all" if heads is None else [list(pair) for pair in heads],
        "matrix unit": "row-centred mean log KL (published)" if compat == "paper" else "nats of KL a token",
        "compat": compat or "exact",
        "seed": seed,
        "interval": "values are exact; matrix cells by bootstrap over the target's tokens",
    }


def _base(trace: Trace, model: LensModel, answer: str | None) -> Base:
    text, start = forced_answer(trace, model, answer=answer)
    tokens = model.encode(text)
    model.check_length(len(tokens.ids), what="the trace with its forced answer")
    hidden, past = model.prefill(tokens.ids)
    return Base(tokens, hidden, past, answer_tokens(tokens.offsets, start))


def _answer_logprob(model: LensModel, base: Base, hidden: Tensor, start: int) -> float:
    """log p of the answer's tokens, from hidden states that begin at token `start`."""
    first, end = base.answer
    return model.logprob_of(base.tokens.ids[first:end], hidden[first - 1 - start : end - 1 - start])


def _token_effects(
    model: LensModel, base: Base, hidden: Tensor, start: int, stop: int, compat: str | None
) -> Float[np.ndarray, " token"]:
    """The effect on each token in [start, stop): row t - start compares the distributions that predict token t.

    The paper's positions are one later: its row t is the distribution after token t.
    """
    shift = 0 if compat == "paper" else 1
    rows = range(max(start, shift), stop)
    step = max(1, ELEMENTS // model.vocabulary)
    blocks = [rows[i : i + step] for i in range(0, len(rows), step)]
    parts = [_compare(model, base, hidden, start, block, shift, compat) for block in blocks]
    out = np.concatenate(parts) if parts else np.zeros(0)
    return np.concatenate([np.zeros(rows.start - start), out])


def _compare(
    model: LensModel, base: Base, hidden: Tensor, start: int, tokens: range, shift: int, compat: str | None
) -> Float[np.ndarray, " token"]:
    """KL of the rows `tokens - shift`; a row before `start` is unchanged and reads zero."""
    rows = np.array(tokens) - shift
    moved = rows >= start
    logits = model.unembed(base.hidden[rows[moved]])
    blocked = model.unembed(hidden[rows[moved] - start])
    out = np.full(len(rows), np.log(PAPER_EPSILON) if compat == "paper" else 0.0)
    out[moved] = (paper_log_kl if compat == "paper" else exact_kl)(logits, blocked).cpu().numpy()
    return out


def exact_kl(
    base: Float[Tensor, "token vocabulary"], blocked: Float[Tensor, "token vocabulary"]
) -> Float[Tensor, " token"]:
    """KL(softmax(base) || softmax(blocked)) in nats over the full vocabulary, summed in float64, clipped at 0."""
    p, q = torch.log_softmax(base.double(), -1), torch.log_softmax(blocked.double(), -1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


def paper_log_kl(
    base: Float[Tensor, "token vocabulary"], blocked: Float[Tensor, "token vocabulary"]
) -> Float[Tensor, " token"]:
    """The published ln(KL + 1e-9): temperature 0.6, each side cut to top-p 0.9999 and 100 tokens, -1e9 elsewhere."""
    sides = [_paper_truncated(x) for x in (base, blocked)]
    union = sides[0].isfinite() | sides[1].isfinite()
    filled = [torch.where(side.isfinite(), side, PAPER_FLOOR).masked_fill(~union, -torch.inf) for side in sides]
    p, q = (torch.log_softmax(side.double() / PAPER_TEMPERATURE, -1) for side in filled)
    kl = torch.where(union, p.exp() * (p - q), 0.0).sum(-1).clamp(min=0)
    return torch.log(kl + PAPER_EPSILON)


def _paper_truncated(logits: Tensor) -> Tensor:
    """Logits rounded to float16, -inf outside the smallest set of mass 0.9999 at temperature 0.6, at most 100 tokens."""
    p, order = torch.softmax(logits / PAPER_TEMPERATURE, -1).sort(-1, descending=True)
    keep = p.cumsum(-1) - p < PAPER_TOP_P
    keep[..., PAPER_TOP_K:] = False
    mask = torch.zeros_like(keep).scatter(-1, order, keep)
    return logits.half().float().masked_fill(~mask, -torch.inf)


def _means(matrix: Float[np.ndarray, "target source"], *, axis: int) -> Float[np.ndarray, " sentence"]:
    """Means over the measured cells, NaN where there is none."""
    measured = ~np.isnan(matrix)
    count = measured.sum(axis)
    return np.where(count > 0, np.where(measured, matrix, 0.0).sum(axis) / np.maximum(count, 1), np.nan)
