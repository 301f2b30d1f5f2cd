"""A /v1/completions server on loopback that continues text by a known rule, and can be told to misbehave.

The completion of (prompt, seed, index) is a function of these alone, so what a client should end with is known; the faults it
plans (429 and 5xx, connections dropped in the middle of a body, broken JSON, a wrong number of choices, truncated
log-probabilities, unknown finish reasons) only decide how often it must be asked.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "scripted"
FAULTS = ("429", "500", "503", "drop", "cut", "json", "few", "many", "logprobs", "reason", "null", "slow")


def written(prompt: str, seed: int, index: int, *, stop: tuple[str, ...] = (), keep: bool = False) -> dict[str, Any]:
    """The completion of a prompt: words, their log-probabilities and why it ended."""
    rng = random.Random(f"{prompt}/{seed}/{index}")
    words = [f" {rng.choice(['so', 'then', 'seven', 'three'])}" for _ in range(rng.randrange(3, 9))] + [" \\boxed{7}."]
    text, reason, stopped = "".join(words), "stop", None
    for mark in stop:
        if mark in text:
            stopped = mark
            text = text[: text.index(mark) + (len(mark) if keep else 0)]
    return {"text": text, "words": words, "finish_reason": reason, "stop_reason": stopped}


@dataclass
class Behaviour:
    """How the server behaves: the share of requests that meet a fault, which faults, and what it offers.

    `before` is called with every request before it is answered.
    """

    rate: float = 0.0
    faults: tuple[str, ...] = FAULTS
    seeds: bool = True
    echo: bool = True
    keeps_stop: bool = False
    context: int | None = None
    key: str | None = None
    refuse: int | None = None
    before: Callable[[dict[str, Any]], object] | None = None
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    met: Counter[str] = field(default_factory=Counter)
    asked: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self) -> str | None:
        with self.lock:
            if self.rng.random() >= self.rate:
                return None
            kind = self.rng.choice(self.faults)
            self.met[kind] += 1
            return kind


class Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        entry: dict[str, Any] = {"id": MODEL, "object": "model"}
        if self.behaviour.context is not None:
            entry["max_model_len"] = self.behaviour.context
        self._send(200, {"data": [entry]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.behaviour.lock:
            self.behaviour.running += 1
            self.behaviour.most = max(self.behaviour.most, self.behaviour.running)
            self.behaviour.asked.append(body)
        try:
            if self.behaviour.before is not None:
                self.behaviour.before(body)
            self._answer(body)
        finally:
            with self.behaviour.lock:
                self.behaviour.running -= 1

    def _answer(self, body: dict[str, Any]) -> None:
        me = self.behaviour
        if me.key is not None and self.headers.get("Authorization") != f"Bearer {me.key}":
            return self._send(401, {"error": "bad key " + str(self.headers.get("Authorization"))})
        if me.refuse is not None:
            return self._send(me.refuse, {"error": "no such thing"})
        if ("include_stop_str_in_output" in body and not me.keeps_stop) or (body.get("echo") and not me.echo):
            return self._send(400, {"error": "unknown field"})
        fault = me.fault()
        if fault in ("429", "503"):
            return self._send(int(fault), {"error": "slow down"}, {"Retry-After": "0.02"})
        if fault == "500":
            return self._send(500, {"error": "oh dear"})
        if fault == "drop":
            self.close_connection = True
            return None
        if fault == "slow":
            time.sleep(0.05)
        reply = self._reply(body)
        return self._send(200, _spoilt(reply, fault) if fault else reply, cut=fault == "cut", broken=fault == "json")

    def _reply(self, body: dict[str, Any]) -> dict[str, Any]:
        me, prompt, n = self.behaviour, body["prompt"], body.get("n", 1)
        seed = body.get("seed", 0) if me.seeds else 0
        stop, keep = tuple(body.get("stop", ())), bool(body.get("include_stop_str_in_output"))
        choices = []
        for index in range(n):
            made = written(prompt, seed, index, stop=stop, keep=keep)
            words = made.pop("words")
            if body.get("echo"):
                made["text"] = prompt + made["text"]
                words = [prompt[i : i + 3] for i in range(0, len(prompt), 3)] + words
            if body.get("logprobs") is not None:
                made["logprobs"] = {"tokens": words, "token_logprobs": [None] + [-0.5] * (len(words) - 1)}
            choices.append({**made, "index": index})
        tokens = sum(len(c["text"].split()) for c in choices)
        details = {"cached_tokens": len(prompt) // 2}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": tokens, "prompt_tokens_details": details}
        return {"choices": choices, "usage": usage}

    def _send(
        self, status: int, reply: Any, headers: dict[str, str] | None = None, *, cut: bool = False, broken: bool = False
    ) -> None:
        data = json.dumps(reply).encode()
        data = data[: len(data) // 2] if broken else data
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True


def _spoilt(reply: dict[str, Any], fault: str) -> dict[str, Any]:
    choices = reply["choices"]
    if fault == "few":
        return reply | {"choices": choices[:-1]}
    if fault == "many":
        return reply | {"choices": [*choices, choices[0] | {"index": len(choices), "text": "never asked for"}]}
    if fault == "reason":
        return reply | {"choices": [choices[0] | {"finish_reason": "abort"}, *choices[1:]]}
    if fault == "null":
        return reply | {"choices": [choices[0] | {"text": None}, *choices[1:]]}
    if fault == "logprobs":
        spoilt = {"tokens": [], "token_logprobs": []}
        return {"choices": [choice | {"logprobs": spoilt} for choice in choices], "usage": {}}
    return reply


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """The address of a server that behaves so, while the block runs."""
    handler = type("Bound", (Handler,), {"behaviour": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
