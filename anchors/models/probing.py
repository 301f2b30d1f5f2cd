"""What a server does with requests, found out by asking: what it serves, whether seeds act, what it tells.

1. The served model must be on its list, which may also say how long a context it has.
2. Short requests tell whether it keeps stop strings, gives log-probabilities and echoes those of a prompt.
3. Four seeds at a high temperature must not all write the same, unless the model is certain of its words; one seed is
   asked twice.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Any, Final

from anchors.models.base import CapabilityError, Scored
from anchors.models.transport import Client

logger = logging.getLogger(__name__)

PROMPT: Final = "Once upon a time there was a"
HOT, CERTAIN = 2.0, 0.9


@dataclass(frozen=True)
class Capabilities:
    """What a server was found to do. `context` and `seeded` are None where it could not be told."""

    seeded: bool | None
    repeats: bool
    logprobs: bool
    echo: bool
    keeps_stop: bool
    context: int | None


async def probe(client: Client, served: str, *, counted: bool) -> Capabilities:
    """Ask a server what it can do; `counted` where it must give log-probabilities, so that choices have their tokens counted.

    Raises:
        CapabilityError: it ignores seeds, or gives no log-probabilities where they are needed.
        ValueError: it does not serve the model.
    """
    async with client.session() as session:
        found = await _Probe(client, session, served).everything(counted=counted)
    if found.seeded is None:
        logger.warning(
            "server/%s is too certain of the probe to tell whether seeds act; look at the first rollouts", served
        )
    if not found.repeats:
        logger.warning(
            "server/%s does not repeat a completion under the same seed: a rerun draws other rollouts", served
        )
    return found


class _Probe:
    """Short requests to one server."""

    def __init__(self, client: Client, session: Any, served: str) -> None:
        self.client, self.session, self.served = client, session, served

    async def everything(self, *, counted: bool) -> Capabilities:
        context = self._listed(await self.client.get(self.session, "/models"))
        keeps = await self._offers({"stop": ["\n\n\n"], "include_stop_str_in_output": True})
        logprobs = await self._offers({"logprobs": 1})
        if counted and not logprobs:
            raise CapabilityError(f"server/{self.served} gives no log-probabilities, which count tokens when group > 1")
        drawn = [await self._draw(seed, logprobs=logprobs) for seed in (1, 1, 2, 3, 4)]
        texts = [text for text, _ in drawn]
        repeats, differ = texts[0] == texts[1], len(set(texts[1:])) > 1
        # A model that is certain of its words writes the same under every seed: that alone says nothing of the server.
        if not differ and min(p for _, p in drawn) <= CERTAIN:
            raise CapabilityError(
                f"server/{self.served} wrote the same text under four seeds at temperature {HOT}: it ignores seeds or "
                "samples greedily, and n rollouts would be one rollout n times"
            )
        echo = logprobs and await self._echoes()
        return Capabilities(differ or None, repeats, logprobs, echo, keeps, context)

    def _listed(self, reply: Any) -> int | None:
        entries = reply.get("data") if isinstance(reply, dict) else None
        models = {e["id"]: e for e in entries or [] if isinstance(e, dict) and isinstance(e.get("id"), str)}
        if self.served not in models:
            raise ValueError(f"{self.client.base_url} serves {', '.join(models) or 'nothing'}, not {self.served!r}")
        context = models[self.served].get("max_model_len")
        return context if isinstance(context, int) else None

    async def _offers(self, extra: dict[str, Any]) -> bool:
        """Whether a short request with these fields is answered, and with them."""
        body = self._short(1) | extra
        try:
            reply = await self.client.post(self.session, self.client.gate(), "/completions", body, first_choice)
        except CapabilityError:
            return False
        return "logprobs" not in extra or isinstance(reply.get("logprobs"), dict)

    async def _draw(self, seed: int, *, logprobs: bool) -> tuple[str, float]:
        """A short text under a seed, and the least probability of its tokens (0 where the server does not say)."""
        body = (
            self._short(16) | {"seed": seed, "temperature": HOT, "top_p": 1.0} | ({"logprobs": 1} if logprobs else {})
        )
        choice = await self.client.post(self.session, self.client.gate(), "/completions", body, first_choice)
        values = (choice.get("logprobs") or {}).get("token_logprobs") or []
        known = [float(v) for v in values if isinstance(v, float | int)]
        return choice["text"], math.exp(min(known)) if known else float(not choice["text"])

    async def _echoes(self) -> bool:
        body = self._short(1) | {"echo": True, "logprobs": 1}
        accept = lambda reply: echoed(reply, PROMPT, len(PROMPT) - 4)  # noqa: E731
        try:
            await replace(self.client, tries=1).post(self.session, self.client.gate(), "/completions", body, accept)
        except (CapabilityError, OSError):
            return False
        return True

    def _short(self, tokens: int) -> dict[str, Any]:
        return {"model": self.served, "prompt": PROMPT, "max_tokens": tokens, "n": 1}


def first_choice(reply: Any) -> dict[str, Any]:
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not choices or not isinstance(choices[0], dict) or not isinstance(choices[0].get("text"), str):
        raise ValueError("the reply has no choice with a text")
    return choices[0]


def echoed(reply: Any, text: str, start: int) -> Scored:
    """Sum of log p over the tokens of `text` that reach beyond `start`; ValueError when the reply does not hold them."""
    logprobs = first_choice(reply).get("logprobs") or {}
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
