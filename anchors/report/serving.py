"""`anchors serve RUN`: a live view of a running job, for this machine only.

1. The run's SQLite file is opened read-only; the job writes on undisturbed (WAL).
2. The server listens on 127.0.0.1 alone, answers GET and HEAD, and refuses a request whose Host is not this machine: a
   page elsewhere cannot reach it under a name of its own that it lets point here.
3. The page asks for `/state` every two seconds; only boundaries with new rollouts are read again.
4. Numbers on the way are looked at many times, so they come with intervals and n but without p-values or anchors.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from anchors.answers import NO_ANSWER
from anchors.opening import connect_to_read
from anchors.outcomes import judge
from anchors.report import content, drawing
from anchors.report.answers import Answers
from anchors.report.page import assets, render, template
from anchors.rollouts import STORE, Rollouts, Store
from anchors.stats import difference_interval
from anchors.trace import Trace

logger = logging.getLogger(__name__)

HOME = "127.0.0.1"
STYLES = ("page", "strips", "text", "live", "narrow")
SCRIPTS = ("words", "live")


class ReadOnly(Store):
    """A run's store that cannot be written through, shared by the threads of one server under its lock."""

    def __init__(self, folder: Path) -> None:
        if not (folder / STORE).exists():
            raise ValueError(f"{folder} is not a run directory: it has no {STORE}; start anchors score first")
        self.folder = folder
        self.db = connect_to_read(folder, check_same_thread=False)


class Live:
    """What a run holds so far; answers are read once a rollout."""

    def __init__(self, run: Path) -> None:
        self.run, self.store, self.lock = run, ReadOnly(run), threading.Lock()
        self._answers: dict[tuple[str, int], list[str]] = {}

    def traces(self) -> list[Trace]:
        return self.store.traces()

    def found(self, rollouts: Rollouts) -> list[list[str]]:
        """The answers at every boundary; a boundary is read again when it has more rollouts than before."""
        rows = []
        for k, count in enumerate(rollouts.counts()):
            known = self._answers.get((rollouts.trace.id, k), [])
            if len(known) != count:
                known = self._answers[rollouts.trace.id, k] = rollouts.answers(k)
            rows.append(known)
        return rows

    def state(self, number: int) -> dict[str, Any]:
        """What the page shows of one trace, as JSON data."""
        rollouts = Rollouts(self.store, self.traces()[number])
        answers, cost = Answers(rollouts, found=self.found(rollouts)), rollouts.cost()
        return {
            "rollouts": cost.rollouts,
            "tokens": cost.tokens,
            "counts": answers.counts.sum(axis=1).tolist(),
            "labels": answers.labels,
            "colours": answers.colours,
            "areas": drawing.areas(answers.counts),
            **_so_far(rollouts.trace, answers.found),
        }

    def report(self, number: int) -> str:
        """The whole report of what is stored: finished scores, else resampling importance of the rollouts so far."""
        from anchors.importance import resampling_importance
        from anchors.scoring import stored_scores
        from anchors.similarity import lexical

        rollouts = Rollouts(self.store, self.traces()[number])
        drawn = rollouts if rollouts.cost().rollouts else None
        scores = stored_scores(self.run, rollouts.trace)
        if not scores and drawn is None:
            raise LookupError("the run holds neither rollouts nor scores of this trace yet")
        return render(rollouts.trace, scores or [resampling_importance(rollouts)], rollouts=drawn, similarity=lexical())

    def page(self, number: int) -> str:
        """The live page of one trace."""
        traces = self.traces()
        trace = traces[number]
        sentences = [
            {"index": s.index, "text": drawing.clean(trace.reasoning[s.start : s.end]).strip()} for s in trace.sentences
        ]
        return template("live.html.j2").render(
            title=f"Trace {drawing.clean(trace.id)}",
            number=number,
            names=[content.clip(t.id, 60) for t in traces],
            sentences=sentences,
            outcome=content.clip(_outcome(trace), 60),
            settings=content.flat(self.store.settings),
            **assets(STYLES, SCRIPTS),
        )


def _outcome(trace: Trace) -> str:
    return trace.answer or trace.target or ""


def _so_far(trace: Trace, found: list[list[str]]) -> dict[str, list[float | None]]:
    """P(outcome) kept less P(outcome) resampled at every sentence, with Newcombe's interval."""
    outcome = _outcome(trace)
    hits = [int(judge(row, outcome).sum()) if row and outcome else 0 for row in found]
    k, n = np.array(hits), np.array([len(row) if outcome else 0 for row in found])
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = k / np.where(n > 0, n, np.nan)
    low, high = difference_interval(k[1:], n[1:], k[:-1], n[:-1])
    answered = [1 - row.count(NO_ANSWER) / len(row) if row else float("nan") for row in found]
    columns = {"values": shares[1:] - shares[:-1], "low": low, "high": high, "reached": shares, "answered": answered}
    return {name: content.rounded(np.asarray(column, dtype=float)) for name, column in columns.items()}


class _Answering(BaseHTTPRequestHandler):
    """One request; GET and HEAD only."""

    server_version, sys_version = "anchors", ""
    protocol_version = "HTTP/1.1"
    timeout = 30

    def __init__(self, live: Live, *rest: Any) -> None:
        self.live = live
        super().__init__(*rest)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError as error:
            logger.debug("the browser left: %s", error)

    def do_GET(self) -> None:
        if not self._asked_here():
            self._send(HTTPStatus.FORBIDDEN, "this server answers 127.0.0.1 and localhost only")
            return
        address = urlsplit(self.path)
        try:
            number = int(parse_qs(address.query).get("trace", ["0"])[0])
            with self.live.lock:
                if not 0 <= number < len(self.live.traces()):
                    raise LookupError(f"the run has no trace {number}")
                self._send(HTTPStatus.OK, *self._body(address.path, number))
        except LookupError as error:
            self._send(HTTPStatus.NOT_FOUND, str(error.args[0]))
        except ValueError as error:
            self._send(HTTPStatus.BAD_REQUEST, str(error))
        except (sqlite3.OperationalError, TimeoutError) as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"the run cannot be read now: {error}")

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self.close_connection = True
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, "this server is read-only")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse

    def _body(self, path: str, number: int) -> tuple[str, str]:
        if path == "/":
            return self.live.page(number), "text/html"
        if path == "/state":
            return json.dumps(self.live.state(number), allow_nan=False), "application/json"
        if path == "/report":
            return self.live.report(number), "text/html"
        raise LookupError("there is /, /state and /report")

    def _asked_here(self) -> bool:
        """Whether the Host header, exactly one, names this machine and port."""
        hosts = self.headers.get_all("Host") or []
        port = self.connection.getsockname()[1]
        return len(hosts) == 1 and hosts[0].lower() in {f"{name}:{port}" for name in (HOME, "localhost")}

    def _send(self, status: HTTPStatus, text: str, kind: str = "text/plain") -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


def live_server(run: str | Path, *, port: int = 0) -> ThreadingHTTPServer:
    """A server of the live view on 127.0.0.1, not yet running; port 0 takes a free one.

    Raises:
        ValueError: `run` is no run directory.
        OSError: the port is taken.
    """
    server = ThreadingHTTPServer((HOME, port), partial(_Answering, Live(Path(run))))
    server.daemon_threads = True
    return server
