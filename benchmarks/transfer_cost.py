"""What reading costs, and that batches change no number: the part `speed` of `transfer.py`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from transfer_shared import writer_runs

from anchors import load_model
from anchors.experiments.transfer_runs import RELAXED
from anchors.interventions import Edit, block, delete
from anchors.models.attention_pass import TracePass
from anchors.models.tokens import answer_tokens, token_spans
from anchors.reading import forced_logprobs
from anchors.transfer import transfer_anchors


def speed(options: argparse.Namespace) -> None:
    """All operations on one trace of 20 sentences; and every removal read in batches against one forward each."""
    runs = writer_runs("expression", options)
    run = min(runs, key=lambda r: abs(len(r.trace) - 20))
    reader, trace = load_model("lab/reasoner-b"), run.trace
    operations = ("delete", "block", "replace_reader", "replace_writer", "paraphrase")
    started = time.perf_counter()
    more: dict[str, Any] = {"operations": operations, "paraphrase": lambda text: text.replace("I will", "Let me")}
    more |= {"compressors": "all", "corrupt": True, "preset": "pairs", "calipers": RELAXED, "n": options.continuations}
    transfer_anchors([run], reader=reader, writer=load_model("lab/reasoner"), **more)
    print(f"one trace of {len(trace)} sentences, everything: {time.perf_counter() - started:.1f} s (target 30 s)")
    edits = [
        Edit(trace),
        *(Edit(delete(trace, [i])) for i in range(len(trace))),
        *(block(trace, [i]) for i in range(len(trace))),
    ]
    rng = np.random.default_rng(0)
    for _ in range(200):
        edits.append(
            Edit(delete(trace, rng.choice(len(trace), int(rng.integers(1, len(trace))), replace=False).tolist()))
        )
    answer = str(trace.answer)
    batched, one = (
        timed(lambda: forced_logprobs(edits, reader, answer=answer).logprob),
        timed(lambda: one_each(edits, reader, answer)),
    )
    gap = float(np.abs(batched[1] - one[1]).max())
    assert gap < 1e-3, f"batched and single readings differ by {gap}"
    print(
        f"{len(edits)} interventions: batched {batched[0]:.2f} s, one forward each {one[0]:.2f} s, ratio "
        f"{one[0] / batched[0]:.1f} (target 5); largest difference {gap:.1e} nats\n"
        f"a perfect tree of shared prefixes would compute {tree_share(edits, reader, answer):.0%} of the tokens"
    )


def tree_share(edits: Sequence[Edit], reader: Any, answer: str) -> float:
    """Distinct prefixes over all tokens: what is left to compute if no prefix is ever computed twice.

    A prefix is its tokens and which of them later ones may not see.
    """
    seen, total = set(), 0
    for edit in edits:
        text, _ = reader.stub.force(edit.trace.prompt + edit.trace.reasoning, answer)
        tokens = reader.encode(text)
        cut = token_spans(tokens.offsets, [edit.trace.spans[i] for i in edit.blocked]).spans
        prefix = 0
        for at, token in enumerate(tokens.ids):
            prefix = hash((prefix, token, any(a <= at < b for a, b in cut)))
            seen.add(prefix)
        total += len(tokens.ids)
    return len(seen) / total


def timed(run: Callable[[], Any], *, repeats: int = 5) -> tuple[float, Any]:
    """Median seconds, and the result."""
    seconds, result = [], run()
    for _ in range(repeats):
        started = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)), result


def one_each(edits: Sequence[Edit], reader: Any, answer: str) -> np.ndarray:
    """The same readings, one whole forward an intervention."""
    return np.array(list(_each(edits, reader, answer)))


def _each(edits: Sequence[Edit], reader: Any, answer: str) -> Iterator[float]:
    for edit in edits:
        text, start = reader.stub.force(edit.trace.prompt + edit.trace.reasoning, answer)
        tokens = reader.encode(text)
        first, end = answer_tokens(tokens.offsets, start)
        cut = token_spans(tokens.offsets, [edit.trace.spans[i] for i in edit.blocked]).spans
        hidden = reader.hidden(tokens.ids, TracePass(cut=cut))
        yield reader.logprob_of(tokens.ids[first:end], hidden[first - 1 : end - 1])
