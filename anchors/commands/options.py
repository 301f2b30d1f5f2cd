"""What the commands share: their options, how they log, and how they read a choice or a list."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

ModelName = Annotated[str, typer.Option("--model", "-m", help="lab/NAME, a hub id or a local directory")]
Out = Annotated[Path, typer.Option("--out", "-o", help="run directory")]
N = Annotated[int, typer.Option("-n", help="rollouts a boundary")]
Seed = Annotated[int, typer.Option(help="the same seed gives the same numbers")]
Json = Annotated[bool, typer.Option("--json", help="print machine-readable results")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar and no log")]
TraceFile = Annotated[Path, typer.Argument(help="trace file (.json, .jsonl, .txt) or math-rollouts folder")]
RunFolder = Annotated[Path, typer.Argument(help="run directory")]


def quiet_logging(quiet: bool) -> None:
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(message)s")
    for name in ("httpx", "transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


def one_of(name: str, value: str | None, known: Sequence[str]) -> Any:
    if value is not None and value not in known:
        raise ValueError(f"{name} is {value!r}; use {', '.join(known)}")
    return value


def listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]
