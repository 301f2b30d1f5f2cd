"""Readers and writers of traces: what people already have, and the released rollouts of Thought Anchors.

1. `load_traces` looks at a path: a folder of released problems, .jsonl, .json (one trace, a chat or a list), or .txt.
2. `read_rollouts_folder` reads one problem of the released layout; `read_rollouts_rows` the same from the Hugging Face
   data set `uzaymacar/math-rollouts` (rows with `path` and `content`).
3. Stored sentences are aligned to the text and never re-split. Columns are turned to our sign: positive supports the
   outcome. Released resampling importance is kept - resampled and stays; released counterfactual importance is
   resampled - kept and is negated.
4. A stored zero that stands for no rollouts, no next sentence or no dissimilar rollout becomes NaN.

`compat="paper"` leaves every stored column as it is, signs and zeros included.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Float

from anchors.extras import require
from anchors.rollouts import Rollouts
from anchors.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

SIGNED: Final = "counterfactual_importance_accuracy"
"""The one released column that is resampled - kept; it is negated on reading."""

COLUMNS: Final = (
    "accuracy",
    "resampling_importance_accuracy",
    "resampling_importance_kl",
    "counterfactual_importance_accuracy",
    "counterfactual_importance_kl",
    "forced_importance_accuracy",
    "forced_importance_kl",
    "different_trajectories_fraction",
    "overdeterminedness",
)

TRUNCATED: Final = {("llama-8b", "correct", "6596"): 140, ("llama-8b", "incorrect", "4164"): 159}
"""Released traces whose sentences have no rollouts from an index on, stored as accuracy 0.0."""

LARGEST: Final = 1 << 30
"""Bytes that a .gz file may unpack to: a small file can claim more than any memory holds."""

_MALFORMED = (TypeError, KeyError, IndexError, AttributeError)
_PROBLEM = re.compile(r"problem_\d+(?:_[a-z]+)?")
_PROMPTS: Final = ("prompt", "question", "problem")
_TEXTS: Final = ("text", "response", "solution", "full_cot")
_TARGETS: Final = ("target", "answer", "gt_answer")


@dataclass(frozen=True)
class Released:
    """One released problem: its trace, and what was published about its sentences, in our sign.

    Shapes: `columns` are [sentence]; `effects` and `suppression` are [target, source] with NaN where target <= source
    (`suppression` in row-centred log nats, None where unpublished). `resampled[i]` are the first sentences drawn in
    place of sentence i. `rollouts` is None without the solutions.json files of the full data set.
    """

    trace: Trace
    columns: Mapping[str, Float[np.ndarray, " sentence"]]
    resampled: tuple[tuple[str, ...], ...]
    effects: Float[np.ndarray, "target source"] | None = None
    suppression: Float[np.ndarray, "target source"] | None = None
    rollouts: Rollouts | None = None
    summaries: tuple[str, ...] = field(default=(), repr=False)


def find_rollouts(root: str | Path) -> list[Path]:
    """The problem folders of the released layout at or under `root`, sorted."""
    found = {
        path.parent for name in ("chunks_labeled.json", "chunks_labeled.json.gz") for path in Path(root).rglob(name)
    }
    return sorted(found)


def read_rollouts_folder(path: str | Path, *, compat: Literal["paper"] | None = None) -> Released:
    """Read one released problem folder, with files plain or .gz; `compat="paper"` keeps the stored columns as they are.

    Raises:
        FileNotFoundError: base_solution.json, problem.json or chunks_labeled.json is missing.
        ValueError: a file is not UTF-8 or JSON or not as released, or a stored sentence is not in the text.
    """
    folder = Path(path)
    files: dict[str, Any] = {}
    for file in sorted(folder.rglob("*.json*")):
        name = file.relative_to(folder).as_posix().removesuffix(".gz")
        if name.endswith(".json"):
            files[name] = _parse(_text(file), str(file))
    return _released(files, folder.absolute().parts, str(folder), compat)


def read_rollouts_rows(
    rows: Iterable[Mapping[str, Any]], *, compat: Literal["paper"] | None = None
) -> Iterator[Released]:
    """Read the rows (`path`, `content`) of `uzaymacar/math-rollouts`, one `Released` a problem folder.

    All rows are held in memory, so filter by path first; content may be a string or already parsed. A folder that lacks
    chunks_labeled.json (forced-answer folders do) is passed over.
    """
    problems: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in rows:
        parts, content = str(row["path"]).split("/"), row["content"]
        place = max((i for i, part in enumerate(parts[:-1]) if _PROBLEM.fullmatch(part)), default=-1)
        if place < 0 or not parts[-1].endswith(".json"):
            continue
        folder, name = "/".join(parts[: place + 1]), "/".join(parts[place + 1 :])
        problems[folder][name] = _parse(content, str(row["path"])) if isinstance(content, str) else content
    for folder, files in problems.items():
        if "chunks_labeled.json" in files:
            yield _released(files, PurePosixPath(folder).parts, folder, compat)


def _released(files: Mapping[str, Any], parts: Sequence[str], where: str, compat: str | None) -> Released:
    for needed in ("base_solution.json", "problem.json", "chunks_labeled.json"):
        if needed not in files:
            raise FileNotFoundError(f"{where} has no {needed}; a released problem folder needs it (plain or .gz)")
    try:
        return _put_together(files, parts, compat)
    except _MALFORMED as error:
        raise ValueError(f"{where} is not laid out as released: {type(error).__name__} {error}") from error


def _put_together(files: Mapping[str, Any], parts: Sequence[str], compat: str | None) -> Released:
    base, problem, labels = (files[f"{name}.json"] for name in ("base_solution", "problem", "chunks_labeled"))
    origin = _origin(parts)
    trace = Trace.from_text(
        base["prompt"],
        base["solution"],
        target=str(problem["gt_answer"]),
        answer=base["answer"] or None,
        sentences=[row["chunk"] for row in labels],
        id="/".join(origin.values()),
        meta=origin | {"level": problem.get("level"), "type": problem.get("type"), "correct": base["is_correct"]},
    ).with_categories([_category(row) for row in labels])
    size, drawn, columns = len(trace), files.get("chunks_resampled.json", {}), _columns(labels)
    return Released(
        trace=trace,
        columns=columns if compat == "paper" else _in_our_sense(columns, _unmeasured(origin, drawn, size)),
        resampled=tuple(tuple(drawn.get(str(i), ())) for i in range(size)),
        effects=_matrix(files.get("step_importance.json"), size),
        suppression=_matrix(files.get("step_importance_supp.json"), size),
        rollouts=_rollouts(trace, files),
        summaries=tuple(row.get("summary", "") for row in labels),
    )


def _origin(parts: Sequence[str]) -> dict[str, str]:
    """Model, kind of base solution and problem number, from the last parts of the path, as far as they say."""
    problem = next((part for part in reversed(parts) if part.startswith("problem_")), parts[-1] if parts else "")
    kind = next((part for part in reversed(parts) if "base_solution" in part), "")
    place = list(parts).index(kind) - 1 if kind else -1
    found = {
        "model": parts[place] if place >= 0 else "",
        "base": kind.split("_base")[0],
        "problem": problem[8:] or problem,
    }
    return {key: value for key, value in found.items() if value}


def _category(row: Mapping[str, Any]) -> str | None:
    tag = next(iter(row.get("function_tags") or ()), "unknown")
    return None if tag == "unknown" else tag


def _columns(labels: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    return {
        name: np.array([np.nan if row.get(name) is None else row[name] for row in labels], dtype=float)
        for name in COLUMNS
        if any(name in row for row in labels)
    }


def _in_our_sense(columns: Mapping[str, np.ndarray], missing: Bool[np.ndarray, " sentence"]) -> dict[str, np.ndarray]:
    """The stored columns in our sign, with NaN where a stored zero was not measured.

    Not measured: all columns where there are no rollouts; effects of a sentence whose next one has none, so also of the
    last one; counterfactual effects where no rollout differed in meaning.
    """
    clean = {name: column.copy() for name, column in columns.items()}
    if SIGNED in clean:
        clean[SIGNED] = 0.0 - clean[SIGNED]
    effect = missing | np.append(missing[1:], True)
    unlike = columns.get("different_trajectories_fraction", np.ones(len(missing)))
    for name, column in clean.items():
        column[missing if name == "accuracy" else effect] = np.nan
        if name.startswith("counterfactual"):
            column[unlike == 0.0] = np.nan
    return clean


def _unmeasured(
    origin: Mapping[str, str], drawn: Mapping[str, Sequence[str]], size: int
) -> Bool[np.ndarray, " sentence"]:
    """Sentences without rollouts: an empty list of resampled sentences, or the two known truncated traces."""
    missing = np.array([bool(drawn) and not drawn.get(str(i)) for i in range(size)], dtype=bool)
    for (model, base, problem), first in TRUNCATED.items():
        if (base, problem) == (origin.get("base"), origin.get("problem")) and model in origin.get("model", ""):
            missing[first:] = True
    return missing


def _matrix(rows: Sequence[Mapping[str, Any]] | None, size: int) -> Float[np.ndarray, "target source"] | None:
    if rows is None:
        return None
    matrix = np.full((size, size), np.nan)
    for row in rows:
        source = row["source_chunk_idx"]
        for impact in row["target_impacts"]:
            target = impact["target_chunk_idx"]
            if not (0 <= source < size and 0 <= target < size):
                raise ValueError(f"an effect of sentence {source} on {target} is stored, but the trace has {size}")
            if target > source:
                matrix[target, source] = impact["importance_score"]
    return matrix


def _rollouts(trace: Trace, files: Mapping[str, Any]) -> Rollouts | None:
    """`chunk_i/solutions.json` holds the rollouts of the prefix that ends where sentence i starts: boundary i.

    Failed rollouts are left out. The release drew them from prefixes whose newlines had become spaces.
    """
    stored = [files.get(f"chunk_{i}/solutions.json") or () for i in range(len(trace))]
    if not any(stored):
        return None
    texts = [[row["rollout"] for row in rows if "rollout" in row] for rows in stored]
    wrong = next((text for row in texts for text in row if not isinstance(text, str)), "")
    if wrong != "":
        raise ValueError(f"a stored rollout is {wrong!r:.80} and not text")
    return Rollouts.from_texts(trace, texts)


def read_jsonl(path: str | Path) -> list[Trace]:
    """Read one trace a line.

    A line is a `Trace.to_json` record, or holds `messages`, or a prompt (`prompt`, `question` or `problem`; optional)
    and a text (`text`, `response`, `solution` or `full_cot`), with an optional right answer (`target`, `answer`,
    `gt_answer`) and `id`.

    Raises:
        ValueError: file:line, and what is missing there.
    """
    lines = enumerate(_text(Path(path)).split("\n"), 1)
    return [_trace(_parse(line, f"{path}:{n}"), f"{path}:{n}") for n, line in lines if line.strip()]


def write_jsonl(traces: Iterable[Trace], path: str | Path) -> Path:
    """Write one trace a line, so that `read_jsonl` returns equal traces."""
    path = Path(path)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(trace.to_json()) + "\n" for trace in traces)
    return path


def _trace(record: Any, where: str) -> Trace:
    try:
        return _from_record(record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _from_record(record: Any) -> Trace:
    if not isinstance(record, Mapping):
        raise ValueError(f"expected a JSON object, found {type(record).__name__}")
    if "reasoning" in record and "sentences" in record:
        return Trace.from_json(record)
    options = {"target": _first(record, _TARGETS), "id": str(record.get("id") or "")}
    options["target"] = None if options["target"] is None else str(options["target"])
    if "messages" in record:
        return Trace.from_chat(record["messages"], **options)
    text = _first(record, _TEXTS)
    if not isinstance(text, str):
        raise ValueError(
            f"no text: give one of {', '.join(_TEXTS)} or messages (found {', '.join(record) or 'nothing'})"
        )
    prompt = _first(record, _PROMPTS) or ""
    text = text.removeprefix(prompt) if "full_cot" in record else text
    sentences = record.get("sentences")
    if sentences is not None and not (isinstance(sentences, list) and all(isinstance(s, str) for s in sentences)):
        raise ValueError(
            f"sentences is {sentences!r:.80}; give a list of texts, or leave it out to have the text split"
        )
    return Trace.from_text(prompt, text, sentences=sentences, **options)


def read_prompts(path: str | Path) -> list[tuple[str, str | None]]:
    """Read the prompt and the right answer (None where there is none) of every line of a .jsonl file.

    Raises:
        ValueError: file:line, and what is missing there.
    """
    lines = [(line, f"{path}:{n}") for n, line in enumerate(_text(Path(path)).split("\n"), 1) if line.strip()]
    return [_prompt(_parse(line, where), where) for line, where in lines]


def _prompt(record: Any, where: str) -> tuple[str, str | None]:
    if not isinstance(record, Mapping) or not isinstance(record.get("prompt"), str):
        raise ValueError(f"{where}: every line needs a prompt, as text")
    target = record.get("target")
    return record["prompt"], None if target is None else str(target)


def _first(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def load_traces(path: str | Path, *, prompt: str = "", target: str | None = None) -> list[Trace]:
    """Read every trace at a path: released folders, .jsonl, .json (a trace, a chat, or a list of them), or .txt.

    `prompt` and `target` are for .txt, which holds only what the model wrote.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: the suffix is unknown, the folder holds no released problem, or the content has no trace.
    """
    path = Path(path)
    if path.is_dir():
        folders = find_rollouts(path)
        if not folders:
            raise ValueError(f"{path} holds no released problem: no chunks_labeled.json at or under it")
        return [read_rollouts_folder(folder).trace for folder in folders]
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "jsonl":
        return read_jsonl(path)
    if kind == "json":
        content = _parse(_text(path), str(path))
        chat = isinstance(content, list) and bool(content) and isinstance(content[0], Mapping) and "role" in content[0]
        records = [{"messages": content}] if chat else content if isinstance(content, list) else [content]
        return [_trace(record, f"{path}[{i}]") for i, record in enumerate(records)]
    if kind == "txt":
        return [Trace.from_text(prompt, _text(path), target=target)]
    raise ValueError(f"{path} is of no known kind; give a folder, .jsonl, .json or .txt")


def to_dataframe(traces: Iterable[Trace]) -> pd.DataFrame:
    """One row per sentence: trace, sentence, text, start, end, category, answer, target; needs the extra `tables`."""
    pandas = require("pandas", extra="tables")
    names = ["trace", "sentence", "text", "start", "end", "category", "answer", "target"]
    rows = [
        (t.id, s.index, s.text, s.start, s.end, s.category, t.answer, t.target) for t in traces for s in t.sentences
    ]
    return pandas.DataFrame(rows, columns=names)


def _text(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    data = path.read_bytes() if path.suffix != ".gz" else _unpacked(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}; save it as UTF-8"
        ) from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON that can be read: {error}") from error


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            data = file.read(LARGEST + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or no gzip file: {error}; fetch it again") from error
    if len(data) > LARGEST:
        raise ValueError(f"{path} unpacks to more than {LARGEST} bytes; unpack and split it yourself")
    return data
