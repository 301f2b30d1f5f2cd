"""The black box behind any OpenAI-compatible /v1/completions server: vLLM, SGLang, llama.cpp, transformers.

1. At connect the server is probed (`probing`); `capabilities` says what was found.
2. A rollout is one raw continuation of the exact prefix, under a seed hashed from (seed, trace, position, sample).
   `group` > 1 asks for that many samples a request under one seed; groups are aligned, so they never depend on what is missing.
3. Jobs go out text by text and boundary by boundary, so that the server's prefix cache is hit; at most `concurrency` at a
   time. Rounds of an adaptive run go out as each is known, so that the server need not wait for another trace's.
4. A reply is taken only if it holds the choices asked for, each with a finish reason we know and a token count; else it is asked
   again. Nothing is made up, and a sample is yielded once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

from anchors.models.background import Background, run
from anchors.models.base import CapabilityError, Completion, Job, Sampling, Scored
from anchors.models.probing import echoed, probe
from anchors.models.randomness import stream
from anchors.models.transport import Client, Gate, Usage
from anchors.spending import generating

SEED_BITS: Final = 31
FINISHES: Final = {"stop": "stop", "length": "length", "eos": "stop", "eos_token": "stop"}


class Choice(NamedTuple):
    """One completion of a reply, checked."""

    index: int
    completion: Completion


class ServerModel:
    """A served model; see `anchors.models.load_model`. `usage` counts requests, tokens and money.

    `group` samples share a request; `prices` are for a million prompt and a million completion tokens. The key is read from
    ANCHORS_API_KEY or OPENAI_API_KEY.
    """

    def __init__(
        self,
        name: str,
        *,
        base_url: str,
        sampling: Sampling | None = None,
        concurrency: int = 16,
        group: int = 1,
        tries: int = 8,
        timeout: float = 600.0,
        prices: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        if group < 1:
            raise ValueError(f"group is {group}; a request asks for at least one sample")
        self.served = name.removeprefix("server/")
        self.name, self.group = f"server/{self.served}", group
        self.sampling = sampling or Sampling()
        self._counted: dict[str, int] = {}
        usage = Usage(prices=prices)
        self.client = Client(base_url, concurrency=concurrency, tries=tries, timeout=timeout, usage=usage)
        self.capabilities = run(lambda: probe(self.client, self.served, counted=group > 1))
        self.context = self.capabilities.context

    @property
    def usage(self) -> Usage:
        return self.client.usage

    @property
    def fingerprint(self) -> str:
        """What a run directory remembers of the model: the served name and how samples are grouped, not the address."""
        return f"{self.served}/group={self.group}"

    def __repr__(self) -> str:
        return f"ServerModel({self.served}, {self.client.base_url}, {self.capabilities})"

    # -- generating ----------------------------------------------------------------------------------------------

    live = True

    def generate(
        self, jobs: Iterable[Job | None], *, sampling: Sampling, seed: int, batch_size: int | None = None
    ) -> Iterator[tuple[Job, Completion]]:
        """Yield every job's completion once, as they arrive; `batch_size` is taken as the concurrency.

        A None says that what follows depends on rollouts still in flight; the stream is asked again after every one.

        Raises:
            CapabilityError: a job blocks sentences, which a server cannot do, or the server refuses the request.
            ServerError: the server stopped answering; what was yielded before is whole.
            ValueError: the stream waits while nothing is in flight.
        """
        width = min(batch_size or self.client.concurrency, self.client.concurrency)
        work = Background(lambda work: self._work(work, sampling, seed, width), room=4 * width)
        try:
            yield from generating(self._answers(work, jobs))
        finally:
            work.stop()

    def _answers(self, work: Background, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Completion]]:
        """Ask for jobs as soon as they are known, and yield what comes meanwhile."""
        found, flying = work.results(), 0
        for together in _rounds(jobs):
            if any(job.blocked for job in together):
                raise CapabilityError(f"{self.name} cannot block attention; use a local model")
            for request in _requests(together, self.group):
                work.ask(request)
            flying += len(together)
            if not flying:
                raise ValueError("the stream of jobs waits for rollouts, but none is in flight; let it end instead")
            yield next(found)
            flying -= 1
        work.enough()
        yield from found

    async def _work(self, work: Background, sampling: Sampling, seed: int, width: int) -> None:
        gate = self.client.gate()
        async with self.client.session() as session, asyncio.TaskGroup() as tasks:

            async def one_after_another() -> None:
                async for jobs in work.asked():
                    for pair in await self._complete(session, gate, jobs, sampling, seed):
                        await work.found(pair)

            for _ in range(width):
                tasks.create_task(one_after_another())

    async def _complete(
        self, session: Any, gate: Gate, jobs: list[Job], sampling: Sampling, seed: int
    ) -> list[tuple[Job, Completion]]:
        body = self._body(jobs[0], sampling, seed)
        body["max_tokens"] = await self._room(session, gate, jobs[0].prefix, sampling.max_new_tokens)
        choices = await self.client.post(session, gate, "/completions", body, lambda r: self._read(r, sampling))
        by_index = {choice.index: choice.completion for choice in choices}
        return [(job, by_index[job.sample % self.group]) for job in jobs]

    async def _room(self, session: Any, gate: Gate, prefix: str, wanted: int) -> int:
        """Tokens that may follow a prefix: what was asked for, less where the context ends before.

        A token has at least one byte, so most prefixes need no count; the others are counted by the server, once each.
        """
        if self.context is None or len(prefix.encode()) + 1 + wanted <= self.context:
            return wanted
        if prefix not in self._counted:
            body = {"model": self.served, "prompt": prefix, "max_tokens": 1}
            self._counted[prefix] = await self.client.post(session, gate, "/completions", body, _prompt_tokens)
        room = self.context - self._counted[prefix]
        if room < 1:
            raise ValueError(
                f"a prefix has {self._counted[prefix]} tokens but {self.name} has {self.context} positions; shorten it"
            )
        return min(wanted, room)

    def _body(self, job: Job, sampling: Sampling, seed: int) -> dict[str, Any]:
        first = job.sample - job.sample % self.group
        body: dict[str, Any] = {
            "model": self.served,
            "prompt": job.prefix,
            "n": self.group,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": stream(seed, job.trace, job.position, first) >> (64 - SEED_BITS),
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
            if self.capabilities.keeps_stop:
                body["include_stop_str_in_output"] = True
        if self.group > 1:
            body["logprobs"] = 1  # tells how many tokens each choice has; usage only tells their sum
        return body

    def _read(self, reply: Any, sampling: Sampling) -> list[Choice]:
        """The choices of a reply, all of them or ValueError, which asks again."""
        if not isinstance(reply, dict) or not isinstance(reply.get("choices"), list):
            raise ValueError("the reply has no list of choices")
        choices = [self._choice(raw, reply, sampling) for raw in reply["choices"]]
        indices = [choice.index for choice in choices]
        if len(set(indices)) != len(indices):
            raise ValueError(f"the reply numbers its choices {indices}")
        wanted = [choice for choice in choices if choice.index < self.group]
        self.usage.dropped += len(choices) - len(wanted)
        if len(wanted) != self.group:
            raise ValueError(f"{self.group} choices were asked for and {len(wanted)} came back")
        return wanted

    def _choice(self, raw: Any, reply: dict[str, Any], sampling: Sampling) -> Choice:
        text, reason = (raw.get("text"), raw.get("finish_reason")) if isinstance(raw, dict) else (None, None)
        if not isinstance(text, str) or reason not in FINISHES:
            raise ValueError(f"a choice has no text or ends for a reason we do not know: {reason!r}")
        index = raw.get("index", 0)
        if not isinstance(index, int) or index < 0:
            raise ValueError(f"a choice has the index {index!r}")
        stopped = raw.get("stop_reason")
        if not self.capabilities.keeps_stop and isinstance(stopped, str) and stopped in sampling.stop:
            text += stopped
        finish = "stop" if FINISHES[reason] == "stop" else "length"
        return Choice(index, Completion(text, self._tokens(raw, reply), finish))

    def _tokens(self, raw: dict[str, Any], reply: dict[str, Any]) -> int:
        usage = reply.get("usage") or {}
        total = usage.get("completion_tokens") if self.group == 1 and isinstance(usage, dict) else None
        if isinstance(total, int) and total >= 0:
            return total
        logprobs = raw.get("logprobs")
        tokens = logprobs.get("tokens") if isinstance(logprobs, dict) else None
        if not isinstance(tokens, list) or (raw["text"] and not tokens):
            raise ValueError("the reply does not say how many tokens a choice has")
        return len(tokens)

    # -- scoring -------------------------------------------------------------------------------------------------

    def score(self, texts: Sequence[str], starts: Sequence[int]) -> list[Scored]:
        """log p of the characters from `starts[i]` to the end of `texts[i]`, in nats, from echoed log-probabilities.

        A first token that begins before `starts[i]` is scored whole, as on a local model.

        Raises:
            CapabilityError: the server does not echo log-probabilities, or its tokens do not spell the text.
        """
        if not self.capabilities.echo:
            raise CapabilityError(f"{self.name} does not echo log-probabilities of a prompt; use a local model")
        pairs = list(zip(texts, starts, strict=True))
        return run(lambda: self._score(pairs))

    async def _score(self, pairs: list[tuple[str, int]]) -> list[Scored]:
        gate = self.client.gate()
        async with self.client.session() as session:

            async def one(text: str, start: int) -> Scored:
                body = {"model": self.served, "prompt": text, "max_tokens": 1, "echo": True, "logprobs": 1}
                body["temperature"] = 1.0
                return await self.client.post(session, gate, "/completions", body, lambda r: echoed(r, text, start))

            return list(await asyncio.gather(*(one(text, start) for text, start in pairs)))


def _rounds(jobs: Iterable[Job | None]) -> Iterator[list[Job]]:
    """The jobs up to each None, and up to the end."""
    held: list[Job] = []
    for job in jobs:
        if job is not None:
            held.append(job)
            continue
        yield held
        held = []
    if held:
        yield held


def _requests(jobs: list[Job], group: int) -> Iterator[list[Job]]:
    """Jobs by request: text by text in order of appearance, boundary by boundary, group by group."""
    order = {text: i for i, text in enumerate(dict.fromkeys(job.text for job in jobs))}

    def key(job: Job) -> tuple[Any, ...]:
        return order[job.text], job.end, job.trace, job.position, job.sample // group

    for _, together in groupby(sorted(jobs, key=lambda job: (*key(job), job.sample)), key=key):
        yield list(together)


def _prompt_tokens(reply: Any) -> int:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if not isinstance(tokens, int):
        raise ValueError("the reply does not say how many tokens the prompt has")
    return tokens
