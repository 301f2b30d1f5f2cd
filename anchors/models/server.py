"""The black box behind any OpenAI-compatible /v1/completions server: vLLM, SGLang, llama.cpp, transformers.

1. At connect the server is asked what it serves, and probed: does a seed repeat, do seeds differ, are log-probabilities and
   echo offered, does it keep a stop string in the text? `capabilities` says what was found.
2. A rollout is one raw continuation of the exact prefix, under a seed hashed from (seed, trace, position, sample).
   `group` > 1 asks for that many samples a request under one seed; groups are aligned, so they never depend on what is missing.
3. Jobs go out text by text and boundary by boundary, so that the server's prefix cache is hit; at most `concurrency` at a time.
4. A reply is taken only if it holds the choices asked for, each with a finish reason we know and a token count; else it is asked
   again. Nothing is made up, and a sample is yielded once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final, NamedTuple

from anchors.models.base import CapabilityError, Completion, Job, Sampling, Scored
from anchors.models.randomness import stream
from anchors.models.transport import Client, Gate, Usage

logger = logging.getLogger(__name__)

PROBE: Final = "Once upon a time there was a"
SEED_BITS: Final = 31
HOT, CERTAIN = 2.0, 0.9
FINISHES: Final = {"stop": "stop", "length": "length", "eos": "stop", "eos_token": "stop"}


@dataclass(frozen=True)
class Capabilities:
    """What a server was found to do. `context` and `seeded` are None where it could not be told."""

    seeded: bool | None
    repeats: bool
    logprobs: bool
    echo: bool
    keeps_stop: bool
    context: int | None


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
        self.capabilities = _run(self._probe)
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

    def generate(
        self, jobs: Iterable[Job], *, sampling: Sampling, seed: int, batch_size: int | None = None
    ) -> Iterator[tuple[Job, Completion]]:
        """Yield every job's completion once, as they arrive; `batch_size` is taken as the concurrency.

        Raises:
            CapabilityError: a job blocks sentences, which a server cannot do, or the server refuses the request.
            ServerError: the server stopped answering; what was yielded before is whole.
        """
        pending = list(jobs)
        if any(job.blocked for job in pending):
            raise CapabilityError(f"{self.name} cannot block attention; use a local model")
        requests = list(_requests(pending, self.group))
        width = min(batch_size or self.client.concurrency, self.client.concurrency)
        found: queue.Queue[Any] = queue.Queue(maxsize=4 * width)
        worker = _Worker(lambda: self._run(requests, sampling, seed, width, found), found)
        try:
            yield from worker.results()
        finally:
            worker.stop()

    async def _run(
        self, requests: list[list[Job]], sampling: Sampling, seed: int, width: int, found: queue.Queue[Any]
    ) -> None:
        gate, waiting = self.client.gate(), iter(requests)
        async with self.client.session() as session, asyncio.TaskGroup() as tasks:

            async def work() -> None:
                for jobs in waiting:  # shared by the workers: each request is taken once
                    for pair in await self._complete(session, gate, jobs, sampling, seed):
                        await asyncio.to_thread(found.put, pair)

            for _ in range(width):
                tasks.create_task(work())

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
        return _run(lambda: self._score(pairs))

    async def _score(self, pairs: list[tuple[str, int]]) -> list[Scored]:
        gate = self.client.gate()
        async with self.client.session() as session:

            async def one(text: str, start: int) -> Scored:
                body = {"model": self.served, "prompt": text, "max_tokens": 1, "echo": True, "logprobs": 1}
                body["temperature"] = 1.0
                return await self.client.post(session, gate, "/completions", body, lambda r: _echoed(r, text, start))

            return list(await asyncio.gather(*(one(text, start) for text, start in pairs)))

    # -- connecting ----------------------------------------------------------------------------------------------

    async def _probe(self) -> Capabilities:
        async with self.client.session() as session:
            listed = await self.client.get(session, "/models")
            context = self._listed(listed)
            self.capabilities = Capabilities(True, True, True, False, False, context)
            keeps = await self._offers(session, {"stop": ["\n\n\n"], "include_stop_str_in_output": True})
            logprobs = await self._offers(session, {"logprobs": 1})
            if self.group > 1 and not logprobs:
                raise CapabilityError(f"{self.name} gives no log-probabilities, which count tokens when group > 1")
            drawn = [await self._draw(session, seed, logprobs=logprobs) for seed in (1, 1, 2, 3, 4)]
            texts = [text for text, _ in drawn]
            repeats, differ = texts[0] == texts[1], len(set(texts[1:])) > 1
            echo = logprobs and await self._echoes(session)
        # A model that is certain of its words writes the same under every seed: that alone says nothing of the server.
        certain = min((p for _, p in drawn), default=1.0) > CERTAIN
        found = Capabilities(differ or None, repeats, logprobs, echo, keeps, context)
        if not differ and not certain:
            raise CapabilityError(
                f"{self.name} wrote the same text under four seeds at temperature {HOT}: it ignores seeds or samples "
                "greedily, and n rollouts would be one rollout n times"
            )
        if not differ:
            logger.warning(
                "%s is too certain of the probe to tell whether seeds act; look at the first rollouts", self.name
            )
        if not repeats:
            logger.warning(
                "%s does not repeat a completion under the same seed: a rerun draws other rollouts", self.name
            )
        return found

    def _listed(self, reply: Any) -> int | None:
        entries = reply.get("data") if isinstance(reply, dict) else None
        models = {e["id"]: e for e in entries or [] if isinstance(e, dict) and isinstance(e.get("id"), str)}
        if self.served not in models:
            raise ValueError(f"{self.client.base_url} serves {', '.join(models) or 'nothing'}, not {self.served!r}")
        context = models[self.served].get("max_model_len")
        return context if isinstance(context, int) else None

    async def _offers(self, session: Any, extra: dict[str, Any]) -> bool:
        """Whether a short request with these fields is answered, and with them."""
        body = self._short(1) | extra
        try:
            reply = await self.client.post(session, self.client.gate(), "/completions", body, _first)
        except CapabilityError:
            return False
        return "logprobs" not in extra or isinstance(reply.get("logprobs"), dict)

    async def _draw(self, session: Any, seed: int, *, logprobs: bool) -> tuple[str, float]:
        """A short text under a seed, and the least probability of its tokens (0 where the server does not say)."""
        body = (
            self._short(16) | {"seed": seed, "temperature": HOT, "top_p": 1.0} | ({"logprobs": 1} if logprobs else {})
        )
        choice = await self.client.post(session, self.client.gate(), "/completions", body, _first)
        values = (choice.get("logprobs") or {}).get("token_logprobs") or []
        known = [float(v) for v in values if isinstance(v, float | int)]
        return choice["text"], math.exp(min(known)) if known else float(not choice["text"])

    async def _echoes(self, session: Any) -> bool:
        body = self._short(1) | {"echo": True, "logprobs": 1}
        accept = lambda reply: _echoed(reply, PROBE, len(PROBE) - 4)  # noqa: E731
        try:
            await replace(self.client, tries=1).post(session, self.client.gate(), "/completions", body, accept)
        except (CapabilityError, OSError):
            return False
        return True

    def _short(self, tokens: int) -> dict[str, Any]:
        return {"model": self.served, "prompt": PROBE, "max_tokens": tokens, "n": 1}


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


def _first(reply: Any) -> dict[str, Any]:
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not choices or not isinstance(choices[0], dict) or not isinstance(choices[0].get("text"), str):
        raise ValueError("the reply has no choice with a text")
    return choices[0]


def _echoed(reply: Any, text: str, start: int) -> Scored:
    """Sum of log p over the tokens of `text` that reach beyond `start`; ValueError when the reply does not hold them."""
    logprobs = _first(reply).get("logprobs") or {}
    tokens, values = logprobs.get("tokens"), logprobs.get("token_logprobs")
    if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
        raise ValueError("the reply echoes no log-probabilities")
    end, total, count = 0, 0.0, 0
    skip = 1 if tokens and not text.startswith(str(tokens[0])) else 0  # a beginning-of-text token spells nothing
    for token, value in zip(tokens[skip:], values[skip:], strict=True):
        if end >= len(text):
            break
        if not text.startswith(token, end):
            raise ValueError(f"the echoed token {token!r} does not spell the text at character {end}")
        end += len(token)
        if end > start:
            if not isinstance(value, float | int):
                raise ValueError("an echoed token has no log-probability")
            total, count = total + value, count + 1
    if end != len(text):
        raise ValueError(f"the echo ends at character {end} of {len(text)}")
    return Scored(total, count)


# -- running a loop beside the caller's ----------------------------------------------------------------------------------


def _run(make: Any) -> Any:
    """The result of a coroutine; where the caller (a notebook) already runs a loop, from a thread of its own."""
    from concurrent.futures import ThreadPoolExecutor

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(make())).result()


class _Worker:
    """A coroutine in a thread, its results in a bounded queue; `stop` cancels it."""

    def __init__(self, make: Any, found: queue.Queue[Any]) -> None:
        self.make, self.found = make, found
        self.done, self.error = object(), None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.task: asyncio.Task[Any] | None = None
        self.thread = threading.Thread(target=self._main, daemon=True)
        self.thread.start()

    def _main(self) -> None:
        try:
            asyncio.run(self._hold())
        except BaseExceptionGroup as group:
            self.error = next((e for e in group.exceptions if not isinstance(e, asyncio.CancelledError)), group)
        except (asyncio.CancelledError, OSError, ValueError, CapabilityError) as error:
            self.error = error
        self.found.put(self.done)

    async def _hold(self) -> None:
        self.loop, self.task = asyncio.get_running_loop(), asyncio.current_task()
        await self.make()

    def results(self) -> Iterator[Any]:
        while (item := self.found.get()) is not self.done:
            yield item
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Cancel what runs and let a writer that waits for room go on."""
        if self.thread.is_alive() and self.loop is not None and self.task is not None:
            self.loop.call_soon_threadsafe(self.task.cancel)
        while self.thread.is_alive():
            try:
                self.found.get(timeout=0.05)
            except queue.Empty:
                continue
        self.thread.join()
