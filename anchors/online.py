"""Stop traces that lose confidence, and stop drawing once the vote is decided (DeepConf online, 2508.15260, section 3).

1. Warm-up: N_init whole traces; the threshold s is percentile_{100 - eta} of their lowest-group confidence.
2. A further trace stops at the first token whose full-window group confidence is below s (by more than rounding, see
   `voting.reaches`: traces of one prompt share text, and so share confidences). It casts no vote.
3. After the warm-up, and after every further trace, drawing ends when the consensus beta >= tau, or at the budget.
4. The warm-up traces with a lowest group of at least s and the traces that were not stopped vote, each with the weight of
   its lowest-group confidence. The end token is paid for and has no confidence; the token that stops a trace is paid for.

`vote_online` runs this on a model: the warm-up in one batch, every further trace token by token, so that the tokens after
a stop are never computed. `replay_online` runs it on stored traces, and can then say what was saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from anchors.answers import extract_answer
from anchors.confidence import Definition, TraceConfidence, group_confidence, text_confidences, trace_confidence
from anchors.confidence.sentences import read_traces
from anchors.models.base import Job, Sampling
from anchors.trace import Trace
from anchors.voting import Vote, reaches, top_threshold, vote

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

Extract = Callable[[str], str | None]


@dataclass(frozen=True)
class EarlyStop:
    """When to stop: `warm_up` is N_init, `top` eta / 100, `consensus` tau, `budget` all traces, the warm-up included.

    `top` 0.1 is the paper's "low" setting (90th percentile, aggressive), 0.9 its "high". `consensus=None` never stops on
    consensus. `compat="deepconf"` sets what the public wrapper does: no consensus stop, and `top` 0.9.
    """

    warm_up: int = 16
    top: float = 0.1
    budget: int = 256
    consensus: float | None = 0.95
    compat: Literal["deepconf"] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.warm_up <= self.budget:
            raise ValueError(f"warm_up is {self.warm_up} and budget {self.budget}; need 1 <= warm_up <= budget")
        if not 0 < self.top <= 1:
            raise ValueError(
                f"top is {self.top}; it is a share in (0, 1] (0.1 puts the threshold at the 90th percentile)"
            )
        if self.consensus is not None and not 0 < self.consensus <= 1:
            raise ValueError(f"consensus is {self.consensus}; it is a share of the votes in (0, 1], or None")
        if self.compat == "deepconf":
            object.__setattr__(self, "top", 0.9)
            object.__setattr__(self, "consensus", None)


@dataclass(frozen=True, eq=False)
class StoredTrace:
    """A whole trace to vote with or to replay: its answer, its confidences and the tokens it cost, end token included.

    `logprob` is the mean log p of its tokens in nats, for comparison: unlike confidence it depends on what was drawn.
    """

    answer: str | None
    confidence: TraceConfidence
    cost: int
    text: str = ""
    logprob: float = float("nan")


class OnlineTrace(NamedTuple):
    """What became of one trace: tokens `spent` on it, and whether it was `stopped` before its end, with no answer."""

    answer: str | None
    spent: int
    lowest: float
    stopped: bool


@dataclass(frozen=True)
class OnlineVote:
    """The vote, the threshold it was made with, what every trace cost, and why drawing ended.

    `spent` are all generated tokens. `full` is what the whole budget would have cost, None live, where nobody knows.
    """

    vote: Vote
    threshold: float
    traces: tuple[OnlineTrace, ...]
    warm_up: int
    ended: Literal["consensus", "budget"]
    full: int | None = None

    @property
    def spent(self) -> int:
        return sum(trace.spent for trace in self.traces)

    @property
    def saved(self) -> float:
        """Share of the tokens of the whole budget that were not generated; NaN live."""
        return float("nan") if not self.full else 1 - self.spent / self.full

    @property
    def stopped(self) -> int:
        return sum(trace.stopped for trace in self.traces)


def vote_online(
    prompt: str,
    model: LensModel,
    *,
    rule: EarlyStop | None = None,
    definition: Definition | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    extract: Extract = extract_answer,
    warm_up: Sequence[StoredTrace] | None = None,
) -> OnlineVote:
    """Let a model answer a prompt by online voting; trace i is the one `draw_traces` gives, up to where it was stopped.

    `warm_up` are the traces `draw_traces` gave with the same sampling and seed, where you have drawn them already.

    Raises:
        CapabilityError: the model gives no log-probabilities.
        ValueError: no warm-up trace fills one group.
    """
    rule, definition = rule or EarlyStop(), definition or Definition()
    sampling = sampling or model.sampling
    if warm_up is None:
        options: dict[str, Any] = {"sampling": sampling, "seed": seed, "extract": extract}
        warm_up = draw_traces(prompt, model, rule.warm_up, definition=definition, **options)
    warm = regrouped(warm_up[: rule.warm_up], definition)
    threshold = online_threshold(warm, rule=rule)
    jobs = _jobs(prompt, model, range(rule.warm_up, rule.budget))
    further = (_live(job, model, threshold, definition, sampling, seed, extract) for job in jobs)
    return _decide(warm, further, threshold, rule)


def replay_online(traces: Sequence[StoredTrace], *, rule: EarlyStop | None = None) -> OnlineVote:
    """Online voting over stored traces in their order, as if they were being written; the budget ends with them.

    Raises:
        ValueError: there are fewer traces than the warm-up takes, or none of it fills one group.
    """
    rule = rule or EarlyStop()
    if len(traces) < rule.warm_up:
        raise ValueError(
            f"{len(traces)} traces do not make a warm-up of {rule.warm_up}; give more or a smaller warm_up"
        )
    traces = traces[: rule.budget]
    warm, threshold = traces[: rule.warm_up], online_threshold(traces[: rule.warm_up], rule=rule)
    further = (_cut(trace, threshold) for trace in traces[rule.warm_up :])
    return _decide(warm, further, threshold, rule, full=sum(trace.cost for trace in traces))


def online_threshold(warm_up: Sequence[StoredTrace], *, rule: EarlyStop) -> float:
    """s = percentile_{100 - eta} of the lowest-group confidences of the warm-up traces (2508.15260, section 3).

    Raises:
        ValueError: no trace fills one group.
    """
    lowest = np.array([trace.confidence.lowest for trace in warm_up])
    if np.isnan(lowest).all():
        window, longest = warm_up[0].confidence.window, max(len(trace.confidence.tokens) for trace in warm_up)
        raise ValueError(
            f"no warm-up trace fills a window of {window} tokens, the longest has {longest}; "
            "use Definition(window=...), a tenth to a quarter of a trace"
        )
    return top_threshold(lowest, top=rule.top)


def _decide(
    warm: Sequence[StoredTrace],
    further: Iterable[OnlineTrace],
    threshold: float,
    rule: EarlyStop,
    *,
    full: int | None = None,
) -> OnlineVote:
    traces = [OnlineTrace(trace.answer, trace.cost, trace.confidence.lowest, False) for trace in warm]
    found, source = _vote(traces, threshold), iter(further)
    while not _agreed(found, rule):
        trace = next(source, None)
        if trace is None:
            return OnlineVote(found, threshold, tuple(traces), len(warm), "budget", full)
        traces.append(trace)
        found = _vote(traces, threshold)
    return OnlineVote(found, threshold, tuple(traces), len(warm), "consensus", full)


def _agreed(found: Vote, rule: EarlyStop) -> bool:
    return rule.consensus is not None and found.consensus >= rule.consensus


def _vote(traces: Sequence[OnlineTrace], threshold: float) -> Vote:
    able = [trace for trace in traces if np.isnan(trace.lowest) or reaches(trace.lowest, threshold)]
    return vote([trace.answer for trace in able], [trace.lowest for trace in able])


def _cut(trace: StoredTrace, threshold: float) -> OnlineTrace:
    """A stored trace up to and with the first token whose group is below the threshold."""
    found = trace.confidence
    below = np.flatnonzero(~reaches(found.groups, threshold))
    spent = min(trace.cost, int(below[0]) + found.window) if len(below) else trace.cost
    stopped = spent < trace.cost
    return OnlineTrace(None if stopped else trace.answer, spent, found.lowest, stopped)


def _live(
    job: Job,
    model: LensModel,
    threshold: float,
    definition: Definition,
    sampling: Sampling,
    seed: int,
    extract: Extract,
) -> OnlineTrace:
    """Write one trace until its group confidence falls below the threshold, or to its end."""
    import torch

    from anchors.confidence.tokens import read_logits
    from anchors.streaming import completion_of, stream_rollout

    ids: list[int] = []
    confidences: list[float] = []
    for written in stream_rollout(job, model, sampling=sampling, seed=seed):
        ids.append(written.id)
        if written.id in model.end_ids:
            break
        own = torch.tensor([written.id], device=written.logits.device)
        confidences.append(float(read_logits(written.logits, own, definition)[0, 0]))
        if _below(confidences, threshold, definition):
            lowest = trace_confidence(confidences, definition=definition).lowest
            return OnlineTrace(None, len(ids), lowest, True)
    answer = extract(completion_of(ids, job, model, sampling=sampling).text)
    return OnlineTrace(answer, len(ids), trace_confidence(confidences, definition=definition).lowest, False)


def _below(confidences: Sequence[float], threshold: float, definition: Definition) -> bool:
    """Whether the group that ends at the last token is full and below the threshold."""
    if len(confidences) < definition.window:
        return False
    (group,) = group_confidence(confidences[-definition.window :], window=definition.window)
    return not reaches(group if definition.decimals is None else np.round(group, definition.decimals), threshold)


def draw_traces(
    prompt: str,
    model: LensModel,
    n: int,
    *,
    definition: Definition | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    extract: Extract = extract_answer,
) -> list[StoredTrace]:
    """n whole traces of one prompt, through the model's chat template where it has one, with their confidences.

    Trace i depends on (seed, prompt, i) only and is the i-th that `write_traces` writes for the prompt.
    """
    jobs = _jobs(prompt, model, range(n))
    drawn = {job.sample: c for job, c in model.generate(jobs, sampling=sampling or model.sampling, seed=seed)}
    texts = [job.prefix + drawn[job.sample].text for job in jobs]
    read = text_confidences(texts, [job.end for job in jobs], model, definition=definition)
    return [
        StoredTrace(
            answer=extract(drawn[job.sample].text),
            confidence=trace_confidence(tokens.confidence, definition=definition),
            cost=drawn[job.sample].tokens,
            text=drawn[job.sample].text,
            logprob=float(tokens.logprob.mean()) if len(tokens.logprob) else float("nan"),
        )
        for job, tokens in zip(jobs, read, strict=True)
    ]


def _jobs(prompt: str, model: LensModel, samples: Iterable[int]) -> list[Job]:
    """The jobs of `write_traces` for a prompt given several times."""
    render = getattr(model, "render_prompt", lambda text: text)
    text = render(prompt)
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return [Job(text, len(text), digest, 0, sample) for sample in samples]


def regrouped(traces: Iterable[StoredTrace], definition: Definition) -> list[StoredTrace]:
    """The same traces with their confidences summarised anew from the same token confidences: window, tail, bottom, short."""
    return [replace(t, confidence=trace_confidence(t.confidence.tokens, definition=definition)) for t in traces]


def stored_traces(
    traces: Sequence[Trace], model: LensModel, *, definition: Definition | None = None
) -> list[StoredTrace]:
    """Traces you already have, read by a model (best the one that wrote them); each costs its tokens and an end token.

    A trace whose `meta` says that it ran into its limit (`finish` "length") has no end token.
    """
    read = read_traces(traces, model, definition=definition)
    ended = [trace.meta.get("finish") != "length" for trace in traces]
    return [
        StoredTrace(trace.answer, found, len(found.tokens) + end, trace.text[len(trace.prompt) :])
        for trace, found, end in zip(traces, read, ended, strict=True)
    ]
