"""The live view of a run: right numbers while the run is written, read-only, and for this machine alone."""

from __future__ import annotations

import http.client
import json
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from anchors.importance import resampling_importance
from anchors.report.serving import Live, ReadOnly, live_server
from anchors.rollouts import STORE, Rollout, Rollouts, Store
from anchors.scores import Scores
from tests.reports import CHROMIUM, HOSTILE, a_trace, needs_chromium

SETTINGS = {"model": "lab/reasoner", "seed": 7, "sampling": {"temperature": 0.6}}


def a_run(folder: Path, trace=None, *, n: int = 10) -> Rollouts:
    store = Store(folder, SETTINGS)
    trace = a_trace() if trace is None else trace
    store.claim([trace])
    rollouts = Rollouts(store, trace)
    for k in range(len(trace) + 1):
        fill(rollouts, k, n)
    return rollouts


def fill(rollouts: Rollouts, k: int, n: int, *, first: int = 0) -> None:
    def text(s: int) -> str:
        return "\\boxed{19}" if s % 10 < 2 + k // 2 else "\\boxed{20}" if s % 10 < 9 else "gave up"

    rollouts.add(Rollout(k, s, text(s), 5, "stop") for s in range(first, first + n))


@pytest.fixture
def serve() -> Iterator:
    servers = []

    def started(run: Path) -> int:
        server = live_server(run)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server.server_address[1]

    yield started
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(port: int, path: str, *, method: str = "GET", host: str | None = None, body: str | None = None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body=body, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, answer.headers


def state(port: int, trace: int = 0) -> dict:
    return json.loads(ask(port, f"/state?trace={trace}")[1])


# --- what it shows ------------------------------------------------------------------------------------------


def test_the_state_has_the_numbers_of_resampling_importance(tmp_path, serve):
    rollouts = a_run(tmp_path / "run")
    found, expected = state(serve(tmp_path / "run")), resampling_importance(rollouts)
    assert found["rollouts"] == 130 and found["tokens"] == 650 and found["counts"] == [10] * 13
    for name in ("values", "low", "high"):
        np.testing.assert_allclose(found[name], getattr(expected, name), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(found["reached"][:-1], expected.p_before)
    assert "p" not in found and found["labels"] == ["19", "20", "other", "no answer"]


def test_a_boundary_without_rollouts_is_not_measured(tmp_path, serve):
    rollouts = a_run(tmp_path / "run", n=0)
    fill(rollouts, 0, 10)
    fill(rollouts, 1, 10)
    found = state(serve(tmp_path / "run"))
    assert found["values"][0] is not None and found["values"][1:] == [None] * 11


def test_it_follows_a_run_that_is_being_written(tmp_path, serve):
    rollouts = a_run(tmp_path / "run", n=0)
    port, done = serve(tmp_path / "run"), threading.Event()

    def write() -> None:
        own = Rollouts(Store(tmp_path / "run", SETTINGS), rollouts.trace)
        for s in range(20):
            for k in range(13):
                fill(own, k, 1, first=s)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not done.is_set():
        found = state(port)
        assert sum(found["counts"]) <= found["rollouts"], "counts are read before the sum"
        seen.append(found["rollouts"])
    writer.join()
    assert seen == sorted(seen) and len(set(seen)) > 2, "the view moves while the run is written"
    last = state(port)
    assert last["rollouts"] == 260
    np.testing.assert_allclose(last["values"], resampling_importance(rollouts).values, rtol=1e-4, atol=1e-9)


def test_answers_are_read_once_a_rollout(tmp_path, monkeypatch):
    rollouts, read = a_run(tmp_path / "run"), []
    plain = Rollouts.answers
    monkeypatch.setattr(Rollouts, "answers", lambda self, k, **options: read.append(k) or plain(self, k, **options))
    live = Live(tmp_path / "run")
    live.state(0)
    assert read == list(range(13))
    fill(rollouts, 4, 1, first=10)
    live.state(0)
    assert read[13:] == [4]


def test_the_report_of_what_is_stored(tmp_path, serve):
    rollouts = a_run(tmp_path / "run")
    port = serve(tmp_path / "run")
    status, page, _ = ask(port, "/report")
    assert status == 200 and "resampling" in page and "Answer</dt><dd><bdi>19" in page
    folder = tmp_path / "run" / "scores" / rollouts.trace.id
    folder.mkdir(parents=True)
    Scores.of(rollouts.trace, "forced", np.arange(12.0)).save(folder / "forced.npz")
    assert ">forced" in ask(port, "/report")[1]


def test_a_trace_without_anything_has_no_report_yet(tmp_path, serve):
    a_run(tmp_path / "run", n=0)
    status, text, _ = ask(serve(tmp_path / "run"), "/report")
    assert status == 404 and "neither rollouts nor scores" in text


def test_every_trace_has_its_page_and_hostile_text_stays_text(tmp_path, serve):
    evil = a_trace(texts=HOSTILE, answer=HOSTILE[0])
    store = Store(tmp_path / "run", SETTINGS)
    store.claim([a_trace(), evil])
    port = serve(tmp_path / "run")
    pages = [ask(port, f"/?trace={k}")[1] for k in (0, 1)]
    assert "sentence number 3" in pages[0] and "sentence number 3" not in pages[1]
    assert all(page.count("<script") == 1 and "<img" not in page for page in pages)
    assert state(port, 1)["values"] == [None] * len(evil)
    for wrong, status in (("/?trace=2", 404), ("/?trace=-1", 404), ("/?trace=x", 400), ("/etc/passwd", 404)):
        assert ask(port, wrong)[0] == status


# --- what it refuses ----------------------------------------------------------------------------------------


FOREIGN = (
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1",
    "127.0.0.1:1",
    "localhost.evil.example:{port}",
    "",
    "0.0.0.0:{port}",
)


@pytest.mark.parametrize("host", FOREIGN)
def test_a_request_under_another_name_is_refused(tmp_path, serve, host):
    a_run(tmp_path / "run", n=1)
    port = serve(tmp_path / "run")
    for path in ("/", "/state", "/report"):
        status, text, _ = ask(port, path, host=host.format(port=port))
        assert status == 403 and "127.0.0.1 and localhost only" in text


def test_this_machine_is_answered_under_both_names(tmp_path, serve):
    a_run(tmp_path / "run", n=1)
    port = serve(tmp_path / "run")
    assert [ask(port, "/state", host=f"{name}:{port}")[0] for name in ("127.0.0.1", "localhost", "LOCALHOST")] == [
        200
    ] * 3


def test_two_hosts_in_one_request_are_refused(tmp_path, serve):
    a_run(tmp_path / "run", n=1)
    port = serve(tmp_path / "run")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest("GET", "/state", skip_host=True)
    for host in ("evil.example", f"127.0.0.1:{port}"):
        connection.putheader("Host", host)
    connection.endheaders()
    assert connection.getresponse().status == 403
    connection.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_nothing_can_be_written(tmp_path, serve, method):
    a_run(tmp_path / "run", n=1)
    status, text, headers = ask(serve(tmp_path / "run"), "/state", method=method, body="x")
    assert status == 405 and "read-only" in text and "Access-Control-Allow-Origin" not in headers


def test_the_store_is_opened_read_only(tmp_path):
    a_run(tmp_path / "run", n=1)
    store = ReadOnly(tmp_path / "run")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store.db.execute("delete from rollouts")
    store.close()


def test_it_listens_on_loopback_alone_and_forbids_framing_and_caching(tmp_path):
    a_run(tmp_path / "run", n=1)
    server = live_server(tmp_path / "run")
    assert server.server_address[0] == "127.0.0.1"
    server.server_close()


def test_answers_forbid_framing_sniffing_and_caching(tmp_path, serve):
    a_run(tmp_path / "run", n=1)
    headers = ask(serve(tmp_path / "run"), "/")[2]
    rules = {"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    assert {name: headers[name] for name in rules} == rules
    assert ask(serve(tmp_path / "run"), "/", method="HEAD")[1] == ""


def test_a_browser_that_leaves_early_is_no_error(tmp_path, serve, monkeypatch, capsys):
    a_run(tmp_path / "run", n=1)
    port, left = serve(tmp_path / "run"), threading.Event()

    def report(live, number):
        left.wait(10)
        return "x" * 5_000_000

    monkeypatch.setattr(Live, "report", report)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(f"GET /report HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    left.set()
    assert ask(port, "/state")[0] == 200, "the lock is free again"
    time.sleep(0.2)
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused_and_left_alone(tmp_path):
    with pytest.raises(ValueError, match=f"no {STORE}"):
        live_server(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_its_address(tmp_path, monkeypatch):
    import typer

    from anchors.commands.serve import register

    a_run(tmp_path / "run", n=1)
    app = typer.Typer()
    register(app)
    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", lambda self: None)
    said = CliRunner().invoke(app, [str(tmp_path / "run"), "--no-open"])
    assert said.exit_code == 0 and said.output.startswith("http://127.0.0.1:")


# --- in a browser -------------------------------------------------------------------------------------------


@needs_chromium
def test_the_page_moves_with_the_run(tmp_path, serve):
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright; run: pip install playwright")
    rollouts = a_run(tmp_path / "run", n=0)
    port, errors, asked = serve(tmp_path / "run"), [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("html[data-ready='0']", state="attached", timeout=15000)
        assert page.locator(".s.nan").count() == 12
        for k in range(13):
            fill(rollouts, k, 10)
        page.wait_for_selector("html[data-ready='130']", state="attached", timeout=15000)
        assert page.inner_text("#rollouts") == "130" and page.inner_text("#tokens") == "650"
        assert page.locator(".s.nan").count() == 0 and "20" in page.inner_text("#keys")
        page.hover(".s >> nth=1")
        assert page.inner_text("#tip").startswith("1 · +0.100 [") and page.inner_text("#tip").endswith("n = 10")
        browser.close()
    assert errors == [] and all(url.startswith(f"http://127.0.0.1:{port}/") for url in asked)
