"""Keep a budget of a trace: every compressor scores units, and one shared selection keeps the best that fit.

1. With leak="strip" the sentences that state the answer or the target (`interventions.leak`) are removed first.
2. The compressor scores the sentences or words that are left; see `anchors.compressors` for the registry.
3. The budget is a share of the whole reasoning's tokens in the reader's tokenizer (characters where there is none), the
   same for every method and leak policy, rounded down.
4. Units are taken from the highest score down; one that does not fit is skipped. What is kept is joined in its original
   order and tokenised again, and while that is over the budget, the lowest kept unit goes.
5. `best_subset` is the ceiling: it forces the answer after every subset of a short trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from anchors import interventions
from anchors.compressors import COMPRESSORS, Compressor, Context, compressor
from anchors.compressors.base import (
    ALIASES,
    REMEDIES,
    Unit,
    count,
    counts_tokens,
    keep_words,
    split_words,
    unit_sizes,
    unit_spans,
)
from anchors.forced import AnswerStub
from anchors.interventions import keep
from anchors.scores import Scores
from anchors.stats import Seed
from anchors.trace import Trace

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

__all__ = ["ALIASES", "COMPRESSORS", "Best", "Compressed", "Compressor", "Context", "best_subset", "compress_curve",
           "compress_trace", "compressor", "select"]  # fmt: skip

Leak = Literal["keep", "strip"]
LARGEST: Final = 10
"""Sentences of the longest trace whose subsets are all forced: 1,024 answers."""
BATCH: Final = 256
BUDGETS: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Shares of the tokens at which a compression curve is read."""


class Compressed(NamedTuple):
    """A trace cut to a budget.

    `kept` holds the indices of the original sentences that are left, None where words were kept. `tokens` is the size
    of the compressed reasoning and `full_tokens` that of the original, both counted in `counted`. `budget` is the share
    that was asked for; `tokens` never exceeds budget x full_tokens.
    """

    trace: Trace
    kept: tuple[int, ...] | None
    tokens: int
    full_tokens: int
    budget: float
    method: str
    leak: Leak
    counted: str


class Best(NamedTuple):
    """The subset of sentences with the highest forced log-probability of the answer at one budget, in nats."""

    compressed: Compressed
    logprob: float


def compress_trace(
    trace: Trace,
    *,
    method: str = "anchors",
    budget: float = 0.3,
    reader: LensModel | Any = None,
    scores: Scores | None = None,
    reader_scores: Scores | None = None,
    answer: str | None = None,
    leak: Leak = "keep",
    seed: int = 0,
    marker: str | None = None,
    stub: AnswerStub | None = None,
) -> Compressed:
    """The trace with only what `method` would keep of it under a budget of the reader's tokens.

    `budget` is the share of the reasoning's tokens that may stay, in the reader's tokenizer; without a reader
    characters are counted. `scores` are the writer's, `reader_scores` the reader's own, both of this trace. `answer`
    defaults to the trace's own, then to its target. `leak="strip"` removes sentences that state the answer before
    anything is scored. `marker`, such as "[SKIP]", stands in place of every run of removed sentences and counts as
    tokens; a budget that cannot hold even one leaves nothing. Ties of score are broken by `seed`.

    >>> trace = Trace.from_text("2 + 2?", "Let me see. Two and two. That is four.", answer="four")
    >>> compress_trace(trace, method="last", budget=0.4).trace.reasoning
    'That is four.'

    Raises:
        ValueError: the method or leak policy is unknown, it lacks something it needs, the budget is outside (0, 1], the
            scores are of another trace, or a marker is given for a method that keeps words.
        CapabilityError: the method asks the reader for something a black box does not have.
    """
    given = {"reader": reader, "scores": scores, "reader_scores": reader_scores, "answer": answer, "stub": stub}
    return compress_curve(trace, budgets=[budget], method=method, leak=leak, seed=seed, marker=marker, **given)[0]


def compress_curve(
    trace: Trace,
    *,
    method: str = "anchors",
    budgets: Sequence[float] = BUDGETS,
    reader: LensModel | Any = None,
    scores: Scores | None = None,
    reader_scores: Scores | None = None,
    answer: str | None = None,
    leak: Leak = "keep",
    seed: int = 0,
    marker: str | None = None,
    stub: AnswerStub | None = None,
) -> tuple[Compressed, ...]:
    """What `compress_trace` gives at each of several budgets, for one scoring of the units.

    Raises:
        ValueError, CapabilityError: as `compress_trace`.
    """
    chosen = _known(method)
    marker = chosen.marker if marker is None else marker
    _check_options(chosen, budgets, leak, marker)
    answer = answer or trace.answer or trace.target or ""
    cut, origin = _without_leak(trace, answer, leak)
    ctx = Context(
        trace=cut,
        reader=reader,
        writer_scores=_restrict(scores, trace, cut, origin, "scores"),
        reader_scores=_restrict(reader_scores, trace, cut, origin, "reader_scores"),
        answer=answer,
        stub=stub,
        seed=seed,
    )
    _check_needs(chosen, ctx)
    unit_scores, full, found = _scored(chosen, ctx), count(trace, reader), []
    for budget in budgets:
        kept, short = _fitted(chosen.unit, ctx, unit_scores, token_limit(budget, full), marker)
        indices = tuple(origin[i] for i in kept) if chosen.unit == "sentence" else None
        size = count(short, reader)
        found.append(Compressed(short, indices, size, full, budget, method, leak, _counted(reader)))
    return tuple(found)


def _scored(chosen: Compressor, ctx: Context) -> Float[np.ndarray, " unit"]:
    """The compressor's scores, one a unit; none for a trace without sentences."""
    if not len(ctx.trace):
        return np.zeros(0)
    scores = np.asarray(chosen.function(ctx), dtype=float)
    units = len(unit_spans(ctx.trace, chosen.unit))
    if scores.shape != (units,):
        raise ValueError(
            f"compressor {chosen.name!r} gave scores of shape {scores.shape} for {units} {chosen.unit}s; "
            "return one score a unit"
        )
    return scores


def _fitted(
    unit: Unit, ctx: Context, scores: Float[np.ndarray, " unit"], limit: int, marker: str | None
) -> tuple[tuple[int, ...], Trace]:
    """The units that are kept under a limit, and the trace they make."""

    def built(kept: Sequence[int]) -> Trace:
        short = _built(ctx.trace, unit, kept, marker)
        # Where not even the marker fits there is nothing left to drop, so it goes too.
        return short if kept or marker is None or count(short, ctx.reader) <= limit else keep(ctx.trace, [])

    sizes = unit_sizes(ctx.trace, unit_spans(ctx.trace, unit), ctx.reader)
    kept = select(scores, sizes, limit, seed=ctx.rng(0), measure=lambda kept: count(built(kept), ctx.reader))
    return kept, built(kept)


def select(
    scores: Float[np.ndarray, " unit"],
    sizes: Int[np.ndarray, " size"],
    limit: int,
    *,
    seed: Seed = 0,
    measure: Callable[[Sequence[int]], int] | None = None,
) -> tuple[int, ...]:
    """Indices of the units to keep, in order: highest score first, those that do not fit skipped, never over `limit`.

    Equal scores, NaN among them, are ordered by a random permutation drawn from `seed`: of tied units, the one that
    comes first in `np.random.default_rng(seed).permutation(n)` is taken first. NaN (not measured) ranks below every
    number; -inf is never kept. `measure` gives the size of a kept set as joined text, by default the sum of `sizes`;
    while it is over the limit, the kept unit that ranks lowest is dropped.

    >>> select(np.array([3.0, 1.0, 2.0]), np.array([5, 1, 4]), 6)
    (0, 1)

    Raises:
        ValueError: scores and sizes differ in number.
    """
    if len(scores) != len(sizes):
        raise ValueError(f"{len(scores)} scores were given for {len(sizes)} units; give one a unit")
    order = _order(scores, seed)
    chosen, total = [], 0
    for i in order:
        if total + int(sizes[i]) <= limit:
            chosen.append(i)
            total += int(sizes[i])
    size_of = measure or (lambda kept: int(sum(int(sizes[i]) for i in kept)))
    while chosen and size_of(tuple(sorted(chosen))) > limit:
        chosen.pop()
    return tuple(sorted(chosen))


def _order(scores: Float[np.ndarray, " unit"], seed: Seed) -> list[int]:
    """Units that may be kept, best first."""
    ties = np.empty(len(scores), dtype=int)
    ties[np.random.default_rng(seed).permutation(len(scores))] = np.arange(len(scores))
    missing = np.isnan(scores)
    order = np.lexsort((ties, -np.where(missing, 0.0, scores), missing))
    return [int(i) for i in order if scores[i] != -np.inf]


def token_limit(budget: float, full: int) -> int:
    """Tokens a share of `full` allows, rounded down; 1e-9 keeps 0.3 x 10 at 3.

    >>> token_limit(0.3, 10), token_limit(0.29, 10)
    (3, 2)
    """
    return int(budget * full + 1e-9)


def _built(trace: Trace, unit: Unit, kept: Sequence[int], marker: str | None) -> Trace:
    """The trace of the kept units, joined by the shared rule; the first sentence of a removed run becomes the marker."""
    if unit == "word":
        words = split_words(trace)
        return keep_words(trace, [words[i] for i in kept])
    if marker is None:
        return keep(trace, list(kept))
    staying = set(kept)
    first_gone = [i for i in range(len(trace)) if i not in staying and (i == 0 or i - 1 in staying)]
    return keep(interventions.replace(trace, dict.fromkeys(first_gone, marker)), sorted({*staying, *first_gone}))


def best_subset(
    trace: Trace,
    reader: LensModel,
    budgets: Sequence[float],
    answer: str | None = None,
    *,
    leak: Leak = "keep",
    stub: AnswerStub | None = None,
) -> tuple[Best, ...]:
    """The best set of sentences at every budget, by forcing the answer after all 2^n of them: the true ceiling.

    No sentence compressor without a marker can leave a higher log p(answer) in this reader at the same budget and leak
    policy. Of equal sets the smaller one, then the earlier one, is returned.

    Raises:
        ValueError: the trace has more than 10 sentences, no answer, or a budget lies outside (0, 1].
        CapabilityError: the reader cannot score forced text.
    """
    from anchors.reading import forced_logprobs

    if len(trace) > LARGEST:
        raise ValueError(
            f"the trace has {len(trace)} sentences, so {2 ** len(trace):,} subsets; best_subset takes at most {LARGEST}: "
            "use a shorter trace, or method='spirit' for a greedy approximation"
        )
    for budget in budgets:
        _check_budget(budget)
    answer = answer or trace.answer or trace.target
    if not answer:
        raise ValueError(f"best_subset needs an answer: {REMEDIES['answer']}")
    cut, origin = _without_leak(trace, answer, leak)
    subsets = [kept for size in range(len(cut) + 1) for kept in combinations(range(len(cut)), size)]
    shorts = [keep(cut, list(kept)) for kept in subsets]
    batches = [shorts[i : i + BATCH] for i in range(0, len(shorts), BATCH)]
    logprob = np.concatenate([forced_logprobs(b, reader, answer=answer, stub=stub).logprob for b in batches])
    sizes, full = np.array([count(short, reader) for short in shorts]), count(trace, reader)
    found = []
    for budget in budgets:
        best = int(np.where(sizes <= token_limit(budget, full), logprob, -np.inf).argmax())
        kept = tuple(origin[i] for i in subsets[best])
        made = (shorts[best], kept, int(sizes[best]), full, float(budget), "best_subset", leak, _counted(reader))
        found.append(Best(Compressed(*made), float(logprob[best])))
    return tuple(found)


def _counted(reader: Any) -> str:
    if reader is None:
        return "characters (no reader was given)"
    return f"tokens of {reader.name}" if counts_tokens(reader) else f"characters ({reader.name} shows no tokens)"


def _known(method: str) -> Compressor:
    name = ALIASES.get(method, method)
    if name not in COMPRESSORS:
        raise ValueError(f"compressor {method!r} is unknown; use one of {', '.join(sorted(COMPRESSORS))}")
    return COMPRESSORS[name]


def _check_budget(budget: float) -> None:
    if not 0 < budget <= 1:
        raise ValueError(f"budget is {budget}; it is the share of the reasoning's tokens to keep, in (0, 1]")


def _check_options(chosen: Compressor, budgets: Sequence[float], leak: str, marker: str | None) -> None:
    for budget in budgets:
        _check_budget(budget)
    if leak not in ("keep", "strip"):
        raise ValueError(f"leak is {leak!r}; it must be 'keep', or 'strip' to remove sentences that state the answer")
    if marker is not None and not marker.strip():
        raise ValueError(f"marker is {marker!r}; it must have a visible character, or be None to delete")
    if marker is not None and chosen.unit != "sentence":
        raise ValueError(
            f"marker is {marker!r}, a text in place of removed sentences, but {chosen.name!r} keeps {chosen.unit}s; "
            "leave it out or choose a method that keeps sentences"
        )


def _check_needs(chosen: Compressor, ctx: Context) -> None:
    for need in chosen.needs:
        if getattr(ctx, need) in (None, ""):
            raise ValueError(f"compressor {chosen.name!r} needs {need}: {REMEDIES[need]}")


def _without_leak(trace: Trace, answer: str, leak: str) -> tuple[Trace, tuple[int, ...]]:
    """The trace under the leak policy, and the original index of each of its sentences."""
    if leak == "keep":
        return trace, tuple(range(len(trace)))
    if not answer:
        raise ValueError(f"leak='strip' needs an answer: {REMEDIES['answer']}")
    origin = tuple(int(i) for i in np.flatnonzero(~interventions.leak(trace, answers=answer)))
    return keep(trace, origin), origin


def _restrict(scores: Scores | None, trace: Trace, cut: Trace, origin: Sequence[int], name: str) -> Scores | None:
    """The scores of the sentences that the leak policy left."""
    if scores is None:
        return None
    if scores.trace.id != trace.id or len(scores) != len(trace):
        raise ValueError(
            f"{name} are of trace {scores.trace.id} with {len(scores)} sentences, not of {trace.id} with {len(trace)}; "
            "score the trace that is compressed"
        )
    if cut is trace:
        return scores
    rows = list(origin)
    columns = {f: getattr(scores, f)[rows] for f in ("values", "low", "high", "n", "p", "floor")}
    matrix = None if scores.matrix is None else scores.matrix[np.ix_(rows, rows)]
    return replace(scores, trace=cut, matrix=matrix, extras={}, **columns)
