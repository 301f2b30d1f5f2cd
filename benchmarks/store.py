"""The store at 10^4, 10^5 and 10^6 rollouts: rates, times and sizes, against the tables of schema 1.

1. Both stores get the same rollouts in the same order, in transactions of 256 (about what a commit every quarter second
   holds), in turns of one transaction each, so that both meet the same machine. Every commit waits for the disk.
2. One rollout in a hundred is left out. Resuming is: open, check settings and traces, find what is missing.
3. Queries are medians over boundaries; "all" reads every rollout as `Rollout`s. Every answer is compared with the other
   store's and with the rollouts as they were made.
4. Export, import, merge and doctor are the commands, each in a process of its own, with its peak memory.

    python benchmarks/store.py                        # all sizes, 400 characters a rollout, about ten minutes
    python benchmarks/store.py --rollouts 100000 --characters 5000 --shuffled
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from anchors.rollouts import STORE, Rollout, Rollouts, Store
from anchors.trace import Trace

SETTINGS = {"model": "benchmark", "weights": "none", "seed": 0, "sampling": {"temperature": 0.6}}
BOUNDARIES, N, COMMIT = 100, 100, 256
ABSENT = 100

BEFORE = """
create table settings (key text primary key, value text not null);
create table traces (number integer primary key, id text unique not null, record text not null);
create table rollouts (
    trace text not null, kind text not null, position integer not null, sample integer not null,
    text text not null, tokens integer not null, finish text not null,
    primary key (trace, kind, position, sample)
) without rowid;
insert into settings values ('schema', '1');
"""
"""The tables of schema 1, as anchors 0.1.0 made them."""


class Before:
    """One trace's rollouts in the tables of schema 1, with the queries of anchors 0.1.0."""

    def __init__(self, db: sqlite3.Connection, trace: Trace) -> None:
        self.db, self.trace = db, trace

    def add(self, rollouts: list[Rollout]) -> None:
        rows = [(self.trace.id, "free", r.position, r.sample, r.text, r.tokens, r.finish) for r in rollouts]
        with self.db:
            self.db.executemany("insert or ignore into rollouts values (?, ?, ?, ?, ?, ?, ?)", rows)

    def at(self, position: int) -> list[Rollout]:
        query = (
            "select position, sample, text, tokens, finish from rollouts "
            "where trace = ? and kind = 'free' and position = ? order by sample"
        )
        return [Rollout(*row) for row in self.db.execute(query, (self.trace.id, position))]

    def counts(self) -> list[int]:
        query = "select position, count(*) from rollouts where trace = ? and kind = 'free' group by position"
        found = dict(self.db.execute(query, (self.trace.id,)).fetchall())
        return [found.get(position, 0) for position in range(len(self.trace) + 1)]

    def missing(self, n: int) -> list[tuple[int, int]]:
        query = "select position, sample from rollouts where trace = ? and kind = 'free' and sample < ?"
        done = set(self.db.execute(query, (self.trace.id, n)).fetchall())
        pairs = ((p, s) for p in range(len(self.trace) + 1) for s in range(n))
        return [pair for pair in pairs if pair not in done]

    def cost(self) -> tuple[int, int]:
        query = "select count(*), coalesce(sum(tokens), 0) from rollouts where trace = ? and kind = 'free'"
        return self.db.execute(query, (self.trace.id,)).fetchone()


def make_traces(count: int) -> list[Trace]:
    body = " ".join(f"Sentence {i} says that {i} and {i + 1} make {2 * i + 1}." for i in range(BOUNDARIES - 1))
    return [Trace.from_text(f"Problem {t}.\n", f"<think>\n{body}\n</think>\n\\boxed{{{t}}}") for t in range(count)]


class Made:
    """The rollouts, as a function of their key."""

    def __init__(self, characters: int) -> None:
        self.size = characters
        self.base = "".join(random.Random(0).choices("abcdefghij klmnop 0123456789.\n", k=2_000_000))

    def __call__(self, t: int, k: int, s: int) -> Rollout:
        start = (t * 7919 + k * 104729 + s * 1299709) % (len(self.base) - self.size)
        return Rollout(k, s, self.base[start : start + self.size], self.size // 4, "stop")


def batches(made: Made, traces: int, shuffled: bool) -> Iterator[tuple[int, list[Rollout]]]:
    for t in range(traces):
        keys = [(k, s) for k in range(BOUNDARIES) for s in range(N) if (k * N + s + t) % ABSENT]
        if shuffled:
            random.Random(t).shuffle(keys)
        for i in range(0, len(keys), COMMIT):
            yield t, [made(t, k, s) for k, s in keys[i : i + COMMIT]]


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = action()
    return time.perf_counter() - start, found


def fill(folder: Path, old: Path, traces: list[Trace], made: Made, shuffled: bool) -> tuple[int, float, float]:
    """Both stores filled in turns: rollouts, and seconds of each."""
    store = Store(folder, SETTINGS)
    store.claim(traces)
    old.mkdir()
    db = sqlite3.connect(old / STORE, timeout=30)
    db.execute("pragma journal_mode = wal")
    db.executescript(BEFORE)
    with db:
        db.executemany(
            "insert into settings values (?, ?)", [(k, json.dumps(v, sort_keys=True)) for k, v in SETTINGS.items()]
        )
        db.executemany(
            "insert into traces (id, record) values (?, ?)", [(t.id, json.dumps(t.to_json())) for t in traces]
        )
    ours, theirs, count = 0.0, 0.0, 0
    for turn, (t, rows) in enumerate(batches(made, len(traces), shuffled)):
        sides = [Rollouts(store, traces[t]), Before(db, traces[t])]
        took = {}
        for side in sides if turn % 2 else sides[::-1]:
            took[type(side)] = timed(partial(side.add, rows))[0]
        ours, theirs, count = ours + took[Rollouts], theirs + took[Before], count + len(rows)
    for close in (store.close, db.close):
        close()
    return count, ours, theirs


def queries(traces: list[Trace], sides: list[Callable[[Trace], Any]], made: Made) -> list[tuple[str, float, float]]:
    """Milliseconds of ours and of schema 1 for every query, and equality of the answers."""
    rng = random.Random(1)
    chosen = [(rng.randrange(len(traces)), rng.randrange(BOUNDARIES)) for _ in range(200)]
    for t, k in chosen:
        expected = [made(t, k, s) for s in range(N) if (k * N + s + t) % ABSENT]
        assert [side(traces[t]).at(k) for side in sides] == [expected] * 2
    rows = []
    for name, ask in (
        ("at(i), one boundary", lambda run, k: run.at(k)),
        ("counts(), one trace", lambda run, k: run.counts()),
        ("cost(), one trace", lambda run, k: run.cost()),
        ("missing(n), one trace", lambda run, k: run.missing(N)),
    ):
        took: list[list[float]] = [[], []]
        for t, k in chosen[:60]:
            answers = []
            for number, side in enumerate(sides):
                seconds, answer = timed(partial(ask, side(traces[t]), k))
                took[number].append(1e3 * seconds)
                answers.append(answer)
            assert answers[0] == answers[1], name
        rows.append((name, *(statistics.median(times) for times in took)))
    everything = [
        timed(lambda side=side: sum(len(side(t).at(k)) for t in traces for k in range(BOUNDARIES))) for side in sides
    ]
    assert everything[0][1] == everything[1][1]
    rows.append(("read all", *(1e3 * seconds for seconds, _ in everything)))
    return rows


def resume(folder: Path, old: Path, traces: list[Trace]) -> tuple[float, float]:
    """Milliseconds from nothing to the list of what is missing."""

    def ours() -> list:
        store = Store(folder, SETTINGS)
        store.claim(traces)
        found = [Rollouts(store, trace).missing(N) for trace in traces]
        store.close()
        return found

    def theirs() -> list:
        db = sqlite3.connect(old / STORE)
        stored = {t.id: t for t in (Trace.from_json(json.loads(r)) for (r,) in db.execute("select record from traces"))}
        assert all(stored[trace.id].text == trace.text for trace in traces)
        found = [Before(db, trace).missing(N) for trace in traces]
        db.close()
        return found

    times: list[list[float]] = [[], []]
    for _ in range(3):
        answers = []
        for number, action in enumerate((ours, theirs)):
            seconds, answer = timed(action)
            times[number].append(1e3 * seconds)
            answers.append(answer)
        assert answers[0] == answers[1] and sum(map(len, answers[0])) == len(traces) * BOUNDARIES * N // ABSENT
    return statistics.median(times[0]), statistics.median(times[1])


def command(*words: str | Path) -> tuple[float, float, dict[str, Any]]:
    """Seconds, peak megabytes and output of an `anchors` command."""
    code = (
        "import resource, sys\nfrom anchors.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *map(str, words), "--json"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.perf_counter() - start, int(done.stderr.split()[-1]) / 1024, json.loads(done.stdout)


def commands(place: Path, folder: Path, count: int) -> None:
    size = {name: 0.0 for name in ("jsonl", "parquet")}
    for suffix in size:
        seconds, peak, found = command("export", folder, "-o", place / f"run.{suffix}")
        size[suffix] = (place / f"run.{suffix}").stat().st_size / 1e6
        assert found["rollouts"] == count
        show(f"export .{suffix}", f"{seconds:.1f} s, {peak:.0f} MB peak, file {size[suffix]:.1f} MB")
        seconds, peak, found = command("import", place / f"run.{suffix}", "--out", place / suffix)
        assert found["rollouts"] == count and same(folder, place / suffix)
        show(f"import .{suffix}", f"{seconds:.1f} s, {peak:.0f} MB peak, rows equal")
        (place / f"run.{suffix}").unlink()
    seconds, peak, found = command("merge", place / "jsonl", place / "parquet", "--out", place / "merged")
    assert found["rollouts"] == found["duplicates"] == count and same(folder, place / "merged")
    show("merge with itself", f"{seconds:.1f} s, {peak:.0f} MB peak, rows equal, {count:,} duplicates")
    seconds, peak, found = command("doctor", place / "merged")
    assert found["sound"] and found["rollouts"] == count
    show("doctor", f"{seconds:.1f} s, {peak:.0f} MB peak")
    seconds, peak, found = command("doctor", place / "merged", "--repair")
    assert found["repair"]["rollouts"] == count and same(folder, place / "merged")
    show("doctor --repair", f"{seconds:.1f} s, {peak:.0f} MB peak, rows equal")


def same(a: Path, b: Path) -> bool:
    """Whether two runs hold the same rows, whatever their order in the file."""
    with sqlite3.connect(a / STORE) as db:
        db.execute("attach ? as other", (str(b / STORE),))
        query = (
            "select t.id, kind, position, sample, tokens, finish, text "
            "from {0}rollouts r join {0}traces t on t.number = r.trace"
        )
        ours, theirs = query.format("main."), query.format("other.")
        (differ,) = db.execute(f"select count(*) from ({ours} except {theirs})").fetchone()
        counts = [db.execute(f"select count(*) from {name}.rollouts").fetchone()[0] for name in ("main", "other")]
    db.close()
    return differ == 0 and counts[0] == counts[1]


def show(name: str, text: str) -> None:
    print(f"  {name:<24} {text}", flush=True)


def against(name: str, ours: float, theirs: float, unit: str, *, more_is_better: bool = False) -> None:
    ratio = ours / theirs if more_is_better else theirs / ours
    show(name, f"{ours:>12,.2f} {unit:<5} schema 1 {theirs:>12,.2f} {unit:<5} {ratio:.2f}x")


def measure(place: Path, rollouts: int, characters: int, shuffled: bool) -> None:
    traces, made = make_traces(max(1, rollouts // (BOUNDARIES * N))), Made(characters)
    folder, old = place / "run", place / "old"
    count, ours, theirs = fill(folder, old, traces, made, shuffled)
    order = "shuffled" if shuffled else "in order"
    print(f"\n{count:,} rollouts of {len(traces)} traces, {characters} characters each, {order}")
    against("insert, 256 a commit", count / ours, count / theirs, "/s", more_is_better=True)
    against("file size", *((f / STORE).stat().st_size / 1e6 for f in (folder, old)), "MB")
    against("resume", *resume(folder, old, traces), "ms")
    store, db = Store(folder), sqlite3.connect(old / STORE)
    for row in queries(traces, [lambda t: Rollouts(store, t), lambda t: Before(db, t)], made):
        against(*row, "ms")
    for close in (store.close, db.close):
        close()
    seconds, migrated = timed(lambda: Store(old))
    migrated.close()
    assert same(folder, old)
    show("migration from schema 1", f"{seconds:.1f} s, rows equal, file {(old / STORE).stat().st_size / 1e6:.1f} MB")
    shutil.rmtree(old)
    commands(place, folder, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--characters", type=int, default=400)
    parser.add_argument("--shuffled", action="store_true", help="drawn in no order, as with many workers")
    parser.add_argument("--place", type=Path, default=None, help="directory on the disk to measure")
    options = parser.parse_args()
    print(
        f"SQLite {sqlite3.sqlite_version}, Python {sys.version.split()[0]}, {os.cpu_count()} cores, pid {os.getpid()}"
    )
    for rollouts in options.rollouts:
        with tempfile.TemporaryDirectory(dir=options.place) as place:
            measure(Path(place), rollouts, options.characters, options.shuffled)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak memory of this process: {peak:.0f} MB")


if __name__ == "__main__":
    main()
