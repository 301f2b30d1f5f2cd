"""What each sentence does to the later ones: cut all attention to it and compare the next-token distributions.

1. One plain forward gives the base hidden states, and the keys and values of every layer.
2. Blocking source s cannot change tokens before it, so only the suffix after s is run over the recorded past, from the
   first layer that blocks; suffixes of many sources run packed (`models.suffixes`).
3. KL(p || p_blocked) of the distribution that predicts each later token, exact over the vocabulary: hidden states of
   several sources are held, and one block of rows after the other is compared for all of them, so that the base
   distribution of a block is computed once and no [token, vocabulary] array is kept.
4. The matrix entry [target, source] is the mean over the target's tokens; the forced answer's change in
   log-probability is the source's total effect.
Source: Thought Anchors (2506.19143), section 5. The published quantity truncates to the top-p tokens of each side and
fills in -1e9, so its values are dominated by tokens kept on one side only; `compat="paper"` reproduces it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from anchors.effect_matrix import Cells
from anchors.forced import forced_answer
from anchors.memory import suppression_memory
from anchors.models.attention_pass import Block
from anchors.models.base import CapabilityError, Tokens
from anchors.models.divergence import comparison
from anchors.models.leave_out import Cut, attention_without, leaves_out
from anchors.models.suffixes import Prefill, Suffix, packed, prefill_to, run_suffixes
from anchors.models.tokens import answer_tokens, token_spans
from anchors.scores import Scores, method
from anchors.token_effects import TokenEffects
from anchors.trace import Trace

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Logits of one block of rows; on a CPU a megabyte, which stays in cache."""

ROWS = 32
"""Fewest rows of a block: fewer would leave the unembedding waiting for its weights."""

HELD = 1 << 19
"""Hidden-state numbers held for one sweep over the rows, or four times the trace's own if that is more."""


class Base(NamedTuple):
    """The plain forward of a text, its tokens and the token range of its answer."""

    tokens: Tokens
    plain: Prefill
    answer: tuple[int, int]

    @property
    def hidden(self) -> Float[Tensor, "token width"]:
        return self.plain.hidden

    def answer_logprobs(self, model: LensModel, firsts: Sequence[int], hidden: Sequence[Tensor]) -> list[float]:
        """log p of the answer in nats for hidden states that begin at the tokens `firsts`."""
        first, end = self.answer
        states = [x[first - 1 - start : end - 1 - start] for start, x in zip(firsts, hidden, strict=True)]
        return model.logprobs_of([self.tokens.ids[first:end]] * len(states), states)


class Source(NamedTuple):
    """A blocked sentence: its index, and the final hidden states of tokens [first, T) without it."""

    index: int
    first: int
    hidden: Float[Tensor, "token width"]


@method("suppression", needs="model", unit="nats of answer log-probability")
def suppress(
    trace: Trace,
    model: LensModel,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[tuple[int, int]] | None = None,
    answer: str | None = None,
    answer_only: bool = False,
    sources: Sequence[int] | None = None,
    compat: Literal["paper"] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> Scores:
    """Effect of each sentence on the answer and on every later sentence when attention to it is blocked.

    values[s] = log p(answer) - log p(answer | s blocked) in nats, exact; positive means s supports the answer.
    matrix[t, s] = mean over the tokens of t of KL(p || p_blocked) in nats, NaN where t <= s;
    extras: `matrix_low`, `matrix_high` (bootstrap over the target's tokens), `outgoing` (mean KL over later
    sentences, [sentence]), `answer_logprob`, and token by token for the sources that do most, as many as a bounded size
    allows, `token_effects` [kept, token], `token_sources`, `token_offsets` (`anchors.token_effects`). With
    `compat="paper"` the matrix holds the published log-KL with every row's mean subtracted, artefacts included
    (temperature 0.6, truncation, windows of positions). `answer_only=True` leaves out the matrix and what is made of it,
    at the cost of little more than one suffix a sentence. `sources` blocks these sentences only: all else is NaN.

    Raises:
        CapabilityError: the model is a black box.
        ValueError: the trace has no answer, it does not fit the context or memory, a layer or head does not exist, `compat` is
            unknown, or it is given with `answer_only` or `sources`, or a source does not exist.
    """
    chosen = _known_sources(trace, sources)
    _check_compat(compat, answer_only, sources)
    if not hasattr(model, "prefill"):
        raise CapabilityError(f"{model.name} cannot block attention; suppression needs a local model")
    block = model.column_block((0, 0), layers=layers, heads=heads)
    base = _base(trace, model, answer, block, answer_only)
    spans = _paper_spans(trace, model) if compat else token_spans(base.tokens.offsets, trace.spans).spans
    (plain,) = base.answer_logprobs(model, [0], [base.hidden])
    values = np.full(len(trace), np.nan)
    cells = None if answer_only else Cells.of(spans, resamples, seed, shift=0 if compat else 1)
    kept = None if answer_only or compat else TokenEffects(base.tokens.offsets[: spans[-1][1] if spans else 0])
    blocked = _blocked(model, base, spans, chosen, block, answer_only, progress)
    limit = max(HELD, 4 * base.hidden.numel())
    for held in packed(blocked, lambda source: source.hidden.numel(), limit):
        indices, firsts, states = zip(*held, strict=True)
        values[list(indices)] = plain - np.array(base.answer_logprobs(model, firsts, states))
        if cells is not None:
            effects = _token_effects(model, base, held, spans[-1][1], compat)
            cells.add(indices, effects)
            if kept is not None:
                kept.add(indices, effects)
    if cells is not None:
        cells = cells.finished(centred=compat == "paper")
    return Scores.of(
        trace,
        "suppression",
        values,
        n=np.where(np.isnan(values), 0, base.answer[1] - base.answer[0]),
        matrix=None if cells is None else cells.matrix,
        extras={"answer_logprob": np.array(plain)}
        | ({} if cells is None else cells.extras())
        | ({} if kept is None else kept.extras()),
        details=_details(model, layers, heads, compat, seed, answer_only)
        | ({} if sources is None else {"sources": f"{len(chosen)} of {len(trace)}"}),
    )


def _known_sources(trace: Trace, sources: Sequence[int] | None) -> list[int]:
    """The sentences to block, ascending, each once."""
    chosen = list(range(len(trace))) if sources is None else sorted({int(s) for s in sources})
    unknown = [s for s in chosen if not 0 <= s < len(trace)]
    if unknown:
        raise ValueError(f"source {unknown[0]} does not exist; the trace has sentences 0 to {len(trace) - 1}")
    return chosen


def _check_compat(compat: str | None, answer_only: bool, sources: Sequence[int] | None) -> None:
    if compat not in (None, "paper"):
        raise ValueError(f"compat is {compat!r}; it must be None (exact) or 'paper'")
    if compat and answer_only:
        raise ValueError("compat='paper' asks for the published matrix, which answer_only=True leaves out; drop one")
    if compat and sources is not None:
        raise ValueError("compat='paper' subtracts every row's mean, which needs all sources; drop sources or compat")


def _paper_spans(trace: Trace, model: LensModel) -> list[tuple[int, int]]:
    """The published token windows: lengths of the tokenised prefixes, which run through trailing white space."""
    starts = [a + len(trace.text[a:b]) - len(trace.text[a:b].lstrip()) for a, b in trace.spans]
    edges = [len(model.encode(trace.text[:at]).ids) for at in [*starts, trace.boundaries[-1]]]
    return list(itertools.pairwise(edges))


def _details(
    model: LensModel, layers: Any, heads: Any, compat: str | None, seed: int, answer_only: bool
) -> dict[str, Any]:
    unit = "row-centred mean log KL (published)" if compat == "paper" else "nats of KL a token"
    return {
        "model": model.name,
        "layers": "all" if layers is None else list(layers),
        "heads": "all" if heads is None else [list(pair) for pair in heads],
        "matrix unit": "not measured (answer_only)" if answer_only else unit,
        "compat": compat or "exact",
        "seed": seed,
        "interval": "values are exact; matrix cells by bootstrap over the target's tokens",
    }


def _base(trace: Trace, model: LensModel, answer: str | None, block: Block, answer_only: bool) -> Base:
    text, start = forced_answer(trace, model, answer=answer)
    tokens = model.encode(text)
    model.check_length(len(tokens.ids), what="the trace with its forced answer")
    scored = answer_tokens(tokens.offsets, start)
    acting = (layer for layer in range(model.layers) if block.heads_in(layer, model.heads))
    first = next(acting, model.layers)
    suppression_memory(model, len(tokens.ids), len(trace), first=first, answer_only=answer_only).check()
    return Base(tokens, prefill_to(model, tokens.ids, first), scored)


def _blocked(
    model: LensModel,
    base: Base,
    spans: Sequence[tuple[int, int]],
    chosen: Sequence[int],
    block: Block,
    answer_only: bool,
    progress: bool,
) -> Iterator[Source]:
    """Every chosen sentence that has tokens, blocked where `block` says: hidden states from its last token on, or the answer's."""
    everywhere = all(len(block.heads_in(layer, model.heads)) == model.heads for layer in range(model.layers))
    ranges = [(index, *spans[index]) for index in chosen]
    sources = [(index, Cut(b - 1 if everywhere else a, a, b)) for index, a, b in ranges if a < b]
    firsts = [base.answer[0] - 1 if answer_only else cut.end - 1 for _, cut in sources]
    suffixes = _suffixes(model, base, [cut for _, cut in sources], firsts, block)
    states = run_suffixes(model, base.plain.past, suffixes, late=base.plain.late)
    shown = tqdm(sources, desc="suppress", disable=None if progress else True)
    for (index, _), first, hidden in zip(shown, firsts, states, strict=True):
        yield Source(index, first, hidden)


def _suffixes(
    model: LensModel, base: Base, cuts: Sequence[Cut], firsts: Sequence[int], block: Block
) -> Iterator[Suffix]:
    """The tokens to run of each source, with their attention in the first layer where that can be told.

    The hidden states of tokens from `firsts` on are wanted.
    """
    ids, entries = np.array(base.tokens.ids), itertools.repeat(None)
    if base.plain.first is not None and leaves_out(base.plain.first[0]):
        heads = block.heads_in(base.plain.first[0].layer, model.heads)
        entries = attention_without(*base.plain.first, cuts, heads)
    for cut, first, entry in zip(cuts, firsts, entries, strict=False):
        # Its last token predicts the next sentence; the others matter only where something still sees them.
        positions = np.arange(cut.first, len(ids))
        yield Suffix(ids[positions], positions, cut.start, positions < cut.end, block, entry, len(ids) - first)


@torch.inference_mode()
def _token_effects(
    model: LensModel, base: Base, held: Sequence[Source], stop: int, compat: str | None
) -> Float[np.ndarray, "source row"]:
    """What each source does to the distribution after each token before `stop`; NaN before its last token."""
    effects = np.full((len(held), stop), np.nan)
    budget = ELEMENTS.get(model.device.type, ELEMENTS["cpu"])
    block = max(ROWS, budget // model.vocabulary)
    for a in range(min(source.first for source in held), stop, block):
        end = min(a + block, stop)
        rows = comparison(model, base.hidden[a:end], paper=compat == "paper")
        for out, source in zip(effects, held, strict=True):
            first = max(a, source.first)
            if first < end:
                hidden = source.hidden[first - source.first : end - source.first]
                out[first:end] = rows.after(first - a).compare(hidden).cpu().numpy()
    return effects
