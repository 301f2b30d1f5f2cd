"""Confidence of sentences and traces under a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from anchors.confidence.definition import Definition
from anchors.confidence.groups import TraceConfidence, trace_confidence
from anchors.confidence.tokens import text_confidences, token_confidence
from anchors.models.tokens import token_spans
from anchors.scores import Scores, method
from anchors.stats import mean_interval, measured
from anchors.trace import Trace

if TYPE_CHECKING:
    from anchors.models.lens import LensModel


@method("confidence", needs="model", unit="nats")
def sentence_confidence(
    trace: Trace,
    model: LensModel,
    *,
    k: int = 20,
    resamples: int = 1000,
    seed: int = 0,
    definition: Definition | None = None,
) -> Scores:
    """Mean token confidence of each sentence, with a bootstrap interval over its tokens (DeepConf, 2508.15260).

    extras: `entropy` and `logprob`, the sentence means in nats. Confidence is not an effect: it has no null and says
    nothing about which outcome a sentence supports. `definition` takes the place of `k`.
    """
    text = trace.text[: trace.boundaries[-1]]
    tokens = token_confidence(text, model, k=k, definition=definition)
    spans = token_spans(model.encode(text).offsets, trace.spans).spans
    rng = np.random.default_rng(seed)
    means = np.array([[_mean(row[a:b]) for row in tokens] for a, b in spans]).T
    low, high = np.array([mean_interval(tokens.confidence[a:b], rng, resamples=resamples) for a, b in spans]).T
    k = k if definition is None else definition.k
    return Scores.of(
        trace,
        "confidence",
        means[0],
        low=low,
        high=high,
        n=np.array([int((~np.isnan(tokens.confidence[a:b])).sum()) for a, b in spans]),
        extras={"entropy": means[1], "logprob": means[2]},
        details={"model": model.name, "k": k, "seed": seed, "sign": "higher means more certain; no outcome is implied"},
    )


def _mean(x: np.ndarray) -> float:
    x = measured(x)
    return float(x.mean()) if len(x) else float("nan")


def read_traces(
    traces: Sequence[Trace], model: LensModel, *, definition: Definition | None = None
) -> list[TraceConfidence]:
    """Every confidence of every trace under a model, over the tokens after its prompt, its ending among them.

    The tokens are those of one tokenisation of the whole text; `sentences` is filled in.
    """
    rule = definition or Definition()
    starts = [len(trace.prompt) for trace in traces]
    read = text_confidences([trace.text for trace in traces], starts, model, definition=rule)
    found = []
    for trace, start, tokens in zip(traces, starts, read, strict=True):
        offsets = model.encode(trace.text).offsets
        (first, _), *spans = token_spans(offsets, [(start, start), *trace.spans]).spans
        within = [(a - first, b - first) for a, b in spans]
        found.append(trace_confidence(tokens.confidence, definition=rule, spans=within))
    return found
