"""Requests to a completions server: many at once, retried only where a second try can help, and paid for once.

1. `Client.post` sends one request. Failures that a later try may not meet (connection lost, time out, 408, 409, 425, 429,
   5xx, a body that is cut off or no JSON) are tried again after a growing, jittered pause; anything else is an error at once.
2. At most `concurrency` requests are in flight. A 429 or 503 halves that allowance and holds everyone back as long as
   the server's Retry-After or rate-limit headers say; successes raise it again by one.
3. `Usage` counts what was asked, answered, tried again, and the tokens the server says it billed.
4. The key comes from the environment, is sent as a header, and appears in no message, log or representation.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from anchors.extras import require
from anchors.models.base import CapabilityError

logger = logging.getLogger(__name__)

AGAIN: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
SLOW_DOWN: Final = frozenset({429, 503, 529})
KEYS: Final = ("ANCHORS_API_KEY", "OPENAI_API_KEY")
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 60.0
_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class ServerError(OSError):
    """The server could not be made to answer; the message says how often it was tried and what came back."""


@dataclass
class Usage:
    """What a server was asked for and says it did; `money` follows from the prices per million tokens."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cache_reported: bool = False
    completion_tokens: int = 0
    dropped: int = 0
    prices: tuple[float, float] = (0.0, 0.0)

    @property
    def money(self) -> float:
        """Price of the tokens billed, prompt and completion."""
        return (self.prompt_tokens * self.prices[0] + self.completion_tokens * self.prices[1]) / 1e6

    @property
    def hit_rate(self) -> float:
        """Share of prompt tokens found in the server's prefix cache; NaN where it does not say."""
        return self.cached_tokens / self.prompt_tokens if self.cache_reported and self.prompt_tokens else float("nan")

    def add(self, reported: Any) -> None:
        """Count one reply's `usage`; what is missing or no number is not counted."""
        reported = reported if isinstance(reported, dict) else {}
        self.prompt_tokens += _count(reported.get("prompt_tokens"))
        self.completion_tokens += _count(reported.get("completion_tokens"))
        details = reported.get("prompt_tokens_details")
        if isinstance(details, dict) and details.get("cached_tokens") is not None:
            self.cache_reported = True
            self.cached_tokens += _count(details["cached_tokens"])


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


@dataclass
class Gate:
    """How many requests may be in flight, and until when nobody may start one."""

    limit: int
    allowed: float = 0.0
    running: int = 0
    closed_until: float = 0.0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.allowed = float(self.limit)

    async def enter(self) -> None:
        while (pause := self.closed_until - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        async with self.changed:
            await self.changed.wait_for(lambda: self.running < max(1, int(self.allowed)))
            self.running += 1

    async def leave(self, *, overloaded: bool, pause: float = 0.0) -> None:
        async with self.changed:
            self.running -= 1
            if overloaded:
                self.allowed = max(1.0, self.allowed / 2)
                self.closed_until = max(self.closed_until, time.monotonic() + pause)
            else:
                self.allowed = min(float(self.limit), self.allowed + 1 / max(1.0, self.allowed))
            self.changed.notify_all()


@dataclass
class Client:
    """One server. `tries` counts the first attempt too; `timeout` is in seconds a request."""

    base_url: str
    concurrency: int = 16
    tries: int = 8
    timeout: float = 600.0
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"base_url is {self.base_url!r}; give the address of the API, http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise ValueError(f"base_url holds a password; put the key into the environment as {KEYS[0]}")
        if min(self.concurrency, self.tries) < 1:
            raise ValueError(f"concurrency is {self.concurrency} and tries {self.tries}; both are at least 1")
        self.base_url = self.base_url.rstrip("/")

    def session(self) -> Any:
        """An httpx client for one event loop."""
        httpx = require("httpx", extra="server")
        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        return httpx.AsyncClient(headers=headers, limits=limits, timeout=self.timeout, follow_redirects=False)

    def gate(self) -> Gate:
        """A fresh allowance."""
        return Gate(self.concurrency)

    async def get(self, session: Any, path: str) -> Any:
        """The JSON at a path of the server."""
        return await self._until_answered(lambda: session.get(self.base_url + path), self.gate(), path, _anything)

    async def post(
        self, session: Any, gate: Gate, path: str, body: dict[str, Any], accept: Callable[[Any], Any]
    ) -> Any:
        """Send a request until `accept(reply)` raises no ValueError, and return what it returns.

        Raises:
            ServerError: no try succeeded.
            CapabilityError: the server refuses this kind of request.
            ValueError: the key or the model is not known there.
        """
        return await self._until_answered(lambda: session.post(self.base_url + path, json=body), gate, path, accept)

    async def _until_answered(
        self, send: Callable[[], Any], gate: Gate, path: str, accept: Callable[[Any], Any]
    ) -> Any:
        httpx, reason = require("httpx", extra="server"), ""
        for attempt in range(self.tries):
            await gate.enter()
            overloaded, pause = False, _pause(attempt)
            self.usage.requests += 1
            try:
                response = await send()
                if response.status_code in AGAIN:
                    overloaded = response.status_code in SLOW_DOWN
                    reason = f"status {response.status_code}: {_excerpt(response)}"
                    pause = max(pause, _asked_pause(response.headers)) if overloaded else pause
                elif response.status_code >= 300:
                    raise _refusal(response, self.base_url + path)
                else:
                    reply = json.loads(response.content)
                    accepted = accept(reply)
                    self.usage.add(reply.get("usage") if isinstance(reply, dict) else None)
                    return accepted
            except (httpx.TransportError, ValueError, RecursionError) as error:  # the last: JSON nested without end
                if isinstance(error, _Refused):
                    raise error.public from None
                reason = f"{type(error).__name__}: {error}"
            finally:
                await gate.leave(overloaded=overloaded, pause=min(pause, LONGEST_PAUSE))
            if attempt + 1 < self.tries:
                self.usage.retries += 1
                logger.debug("%s%s: %s; trying again in %.2f s", self.base_url, path, reason, pause)
                await asyncio.sleep(min(pause, LONGEST_PAUSE))
        raise ServerError(
            f"{self.base_url}{path} did not answer in {self.tries} tries; the last: {reason}. Finished rollouts are "
            "stored; the same call continues"
        )


class _Refused(ValueError):
    """A reply that no second try can change."""

    def __init__(self, public: Exception) -> None:
        super().__init__(str(public))
        self.public = public


def _refusal(response: Any, url: str) -> _Refused:
    status, said = response.status_code, _excerpt(response)
    if status in (401, 403):
        given = next((name for name in KEYS if os.environ.get(name)), None)
        key = f"the key in {given} is refused" if given else f"it wants a key: set {KEYS[0]}"
        return _Refused(ValueError(f"{url} answers {status}: {key}"))
    if status == 404:
        return _Refused(ValueError(f"{url} answers 404: {said}; is base_url right, and is the model served there?"))
    if status < 400:
        return _Refused(ValueError(f"{url} answers {status}, a redirection; give the address it leads to as base_url"))
    return _Refused(CapabilityError(f"{url} answers {status}: {said}"))


def _excerpt(response: Any) -> str:
    """The server's own words, short, on one line, without anything that looks like a key."""
    text = re.sub(r"\s+", " ", response.text)[:300]
    for name in KEYS:
        if os.environ.get(name):
            text = text.replace(os.environ[name], "***")
    return re.sub(r"(?i)(bearer\s+|sk-)[\w.-]{6,}", r"\1***", text) or "no words"


def _pause(attempt: int) -> float:
    """Exponential growth with full jitter; it decides when, never what, so it need not be reproducible."""
    return random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)


def _asked_pause(headers: Any) -> float:
    """Seconds the server asks for: Retry-After in seconds, or the reset of an exhausted x-ratelimit header."""
    found = [_duration(headers.get("retry-after"))]
    for kind in ("requests", "tokens"):
        if headers.get(f"x-ratelimit-remaining-{kind}") == "0":
            found.append(_duration(headers.get(f"x-ratelimit-reset-{kind}")))
    return max(found)


def _duration(text: str | None) -> float:
    """Seconds in "2", "1.5s", "350ms" or "1m30s"; 0 for anything else.

    >>> [_duration(text) for text in ("2", "250ms", "1m30s", None, "soon")]
    [2.0, 0.25, 90.0, 0.0, 0.0]
    """
    if text is None or len(text) > 40:
        return 0.0
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    return sum((float(value) * _SECONDS[unit] for value, unit in parts), 0.0)


def _anything(reply: Any) -> Any:
    return reply
