"""A run as one JSONL or Parquet file, and back, without loss and a batch at a time.

1. JSONL: a line with the settings and counts, one a trace, then one a rollout. Parquet: one row a rollout, with the settings,
   counts and traces in the file's own metadata.
2. A text that is not Unicode (lone surrogates) is stored as bytes in a column of its own, UTF-8 with surrogates passed.
3. The file is written under another name and renamed; reading compares the counts, so that half a file is refused.
4. Scores are left out: `anchors score` computes them from the rollouts.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, Final, NamedTuple
from zlib import compress, decompressobj
from zlib import error as ZlibError

from tqdm.auto import tqdm

from anchors.extras import require
from anchors.opening import fresh_run
from anchors.rollouts import Rollouts
from anchors.store import BATCH, Store, read_text, stored_text
from anchors.trace import Trace

FORMAT: Final = 1
MOST: Final = 1 << 30
"""Bytes of all the traces of a Parquet file."""
COLUMNS: Final = ("trace", "kind", "position", "sample", "tokens", "finish", "text", "bytes")
"""Of a rollout; `trace` is its id, and `bytes` is null where `text` is not."""
FINISHES: Final = ("stop", "length")


class Exchanged(NamedTuple):
    """What was written or read."""

    path: Path
    traces: int
    rollouts: int


class _Head(NamedTuple):
    """What a file says before its rollouts."""

    settings: dict[str, Any]
    traces: list[Trace]
    rollouts: int


def export_run(run: str | Path, path: str | Path) -> Exchanged:
    """Write a run's settings, traces and rollouts to one .jsonl or .parquet file.

    Parquet needs the extra `tables`.

    Raises:
        ValueError: `run` is no run directory, or the suffix is another.
    """
    path = Path(path)
    write = _by_suffix(path, _write_jsonl, _write_parquet)
    runs = Rollouts.open(run)
    if not runs:
        raise ValueError(f"{run} holds no trace; there is nothing to export")
    store = runs[0].store
    with store.snapshot():
        count = store.read("select count(*) from rollouts join traces on traces.number = rollouts.trace")[0][0]
        head = _Head(store.settings, [rollouts.trace for rollouts in runs], count)
        rows = ({"trace": t.id, **_record(row)} for t in head.traces for row in store.rows(t))
        rows = _shown(rows, head, "export")
        partial = path.with_name(f"{path.name}.partial")
        try:
            write(partial, head, rows)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    store.close()
    return Exchanged(path, len(head.traces), head.rollouts)


def import_run(path: str | Path, *, out: str | Path) -> Exchanged:
    """Make the run directory `out` from a file that `export_run` wrote.

    Raises:
        ValueError: `out` exists, or the file is not whole, or a row cannot be a rollout of its trace.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    read = _by_suffix(path, _read_jsonl, _read_parquet)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    with fresh_run(out) as place:
        head, rows = read(path)
        with closing(Store(place, head.settings)) as store:
            store.claim(head.traces)
            _fill(store, head, _shown(rows, head, "import"), path)
    return Exchanged(Path(out), len(head.traces), head.rollouts)


def _shown(rows: Iterable[Any], head: _Head, name: str) -> Iterator[Any]:
    return iter(tqdm(rows, total=head.rollouts, desc=name, unit="", disable=None))


def _by_suffix(path: Path, jsonl: Callable, parquet: Callable) -> Callable:
    found = {".jsonl": jsonl, ".parquet": parquet}.get(path.suffix)
    if found is None:
        raise ValueError(f"{path} is neither .jsonl nor .parquet; name one of these")
    return found


def _fill(store: Store, head: _Head, rows: Iterable[tuple[str, Mapping[str, Any]]], path: Path) -> None:
    """Store the rows of a file, and compare their number with what it says."""
    traces = {trace.id: trace for trace in head.traces}
    for name, group in groupby(_checked(rows, traces), key=lambda row: row["trace"]):
        rest = (_row(row) for row in group)
        while batch := list(islice(rest, BATCH)):
            store.insert(traces[name], batch)
    found = store.read("select count(*) from rollouts")[0][0]
    if found != head.rollouts:
        raise ValueError(f"{path} says it holds {head.rollouts} rollouts, but {found} were found; export the run again")


def _checked(rows: Iterable[tuple[str, Mapping[str, Any]]], traces: Mapping[str, Trace]) -> Iterator[Mapping[str, Any]]:
    for where, row in rows:
        wrong = _wrong(row, traces)
        if wrong:
            raise ValueError(f"{where} is no rollout of this run: {wrong}")
        yield row


def _wrong(row: Mapping[str, Any], traces: Mapping[str, Trace]) -> str:
    """Why a row is no rollout of these traces; nothing where it is one."""
    if not isinstance(row, Mapping) or set(row) != set(COLUMNS):
        return f"it needs exactly {', '.join(COLUMNS)}"
    if not isinstance(row["trace"], str) or row["trace"] not in traces:
        return f"its trace {row['trace']!r} is not in the file"
    numbers = [row[name] for name in ("position", "sample", "tokens")]
    if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers) or row["position"] > len(
        traces[row["trace"]]
    ):
        return f"position, sample and tokens are {numbers}, of {len(traces[row['trace']]) + 1} boundaries"
    if not isinstance(row["kind"], str) or row["finish"] not in FINISHES:
        return f"kind is {row['kind']!r} and finish {row['finish']!r}; finish is stop or length"
    if (type(row["text"]), type(row["bytes"])) not in ((str, type(None)), (type(None), bytes)):
        return "it needs either text or bytes, and bytes in base64 where the file is JSONL"
    return "" if row["bytes"] is None else _undecodable(row["bytes"])


def _undecodable(data: bytes) -> str:
    try:
        read_text(data)
    except ValueError as error:
        return f"its bytes are no text: {error}"
    return ""


def _record(row: tuple[str, int, int, int, str, str]) -> dict[str, Any]:
    """A stored rollout under the names of the columns."""
    stored = stored_text(row[-1])
    texts = (stored, None) if isinstance(stored, str) else (None, stored)
    return dict(zip(COLUMNS[1:], (*row[:-1], *texts), strict=True))


def _row(record: Mapping[str, Any]) -> tuple[str, int, int, int, str, str]:
    kind, position, sample, tokens, finish, text, data = (record[name] for name in COLUMNS[1:])
    return kind, position, sample, tokens, finish, read_text(data if text is None else text)


def _about(head: _Head) -> dict[str, Any]:
    return {"anchors": "run", "format": FORMAT, "settings": head.settings, "traces": len(head.traces)} | {
        "rollouts": head.rollouts
    }


def _head(about: Any, records: Iterable[Any], path: Path) -> _Head:
    """The head of a file, from what it says about itself and its traces' records."""
    if not isinstance(about, Mapping) or about.get("anchors") != "run":
        raise ValueError(f"{path} was not written by anchors export: it does not begin with a run's settings")
    if about.get("format") != FORMAT:
        raise ValueError(f"{path} has format {about.get('format')!r}, this version reads {FORMAT}; update anchors")
    try:
        traces = [Trace.from_json(record) for record in records]
        if len({trace.id for trace in traces}) < len(traces):
            raise ValueError("two of its traces share an id")
        return _Head(dict(about["settings"]), traces, int(about["rollouts"]))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} is damaged before its first rollout: {error!r}; export the run again") from error


# --- JSONL --------------------------------------------------------------------------------------------------


def _write_jsonl(path: Path, head: _Head, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="ascii", newline="\n") as file:
        first = chain([_about(head)], (trace.to_json() for trace in head.traces))
        file.writelines(json.dumps(record) + "\n" for record in first)
        for row in rows:
            data = row["bytes"]
            file.write(json.dumps({**row, "bytes": None if data is None else b64encode(data).decode()}) + "\n")


def _read_jsonl(path: Path) -> tuple[_Head, Iterator[tuple[str, dict[str, Any]]]]:
    lines = _lines(path)
    _, about = next(lines, ("", None))
    count = about.get("traces") if isinstance(about, dict) else 0
    count = count if type(count) is int and 0 <= count < 2**63 else 0
    head = _head(about, [record for _, record in islice(lines, count)], path)
    return head, ((where, _with_bytes(row)) for where, row in lines)


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, 1):
                yield f"{path}:{number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read as JSON lines: {error}; export the run again") from error


def _with_bytes(row: Any) -> Any:
    """A row whose base64 is decoded; what is none stays as it is, to be refused."""
    if isinstance(row, dict) and isinstance(row.get("bytes"), str):
        with suppress(ValueError):
            return {**row, "bytes": b64decode(row["bytes"], validate=True)}
    return row


# --- Parquet ------------------------------------------------------------------------------------------------


def _write_parquet(path: Path, head: _Head, rows: Iterable[dict[str, Any]]) -> None:
    arrow, parquet = (require(name, extra="tables") for name in ("pyarrow", "pyarrow.parquet"))
    types = (*[arrow.string()] * 2, *[arrow.int64()] * 3, arrow.string(), arrow.string(), arrow.binary())
    schema = arrow.schema(list(zip(COLUMNS, types, strict=True)))
    rows = iter(rows)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(islice(rows, BATCH)):
            writer.write_batch(arrow.RecordBatch.from_pylist(batch, schema=schema))
        records = json.dumps([trace.to_json() for trace in head.traces]).encode()
        packed = b64encode(compress(records)).decode()
        writer.add_key_value_metadata({"anchors": json.dumps(_about(head)), "anchors.traces": packed})


def _read_parquet(path: Path) -> tuple[_Head, Iterator[tuple[str, dict[str, Any]]]]:
    arrow, parquet = (require(name, extra="tables") for name in ("pyarrow", "pyarrow.parquet"))
    try:
        file = parquet.ParquetFile(path, pre_buffer=False)  # buffering ahead holds the whole file
        stored = file.metadata.metadata or {}
        about = json.loads(stored.get(b"anchors", b"null"))
        records = json.loads(_inflated(b64decode(stored.get(b"anchors.traces", b"")))) if about else []
    except (arrow.ArrowException, OSError, ValueError, ZlibError) as error:
        raise _unreadable(path, error) from error
    head = _head(about, records, path)
    return head, ((f"{path}, row {number}", row) for number, row in enumerate(_rows(file, path)))


def _inflated(data: bytes) -> bytes:
    """What was compressed, of which a crafted file may claim to hold any amount."""
    found = decompressobj()
    text = found.decompress(data, MOST)
    if found.unconsumed_tail:
        raise ValueError(f"its traces are larger than {MOST >> 20:,} MB")
    return text


def _rows(file: Any, path: Path) -> Iterator[dict[str, Any]]:
    try:
        for batch in file.iter_batches(batch_size=BATCH):
            yield from batch.to_pylist()
    except (require("pyarrow", extra="tables").ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read as Parquet: {error}; export the run again")
