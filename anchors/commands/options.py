"""What the commands share: their options, how they log, and how they read a choice or a list."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from anchors.printable import PrintableFormatter


def complete_model(incomplete: str) -> list[str]:
    """Shipped models, and local directories that hold one."""
    from anchors.models import lab_models

    found = Path().glob(f"{glob.escape(incomplete)}*/config.json")
    names = [f"lab/{name}" for name in lab_models()] + sorted(str(path.parent) for path in found)
    return [name for name in names if name.startswith(incomplete)]


def complete_methods(incomplete: str) -> list[str]:
    """Groups and single methods, after what is already listed."""
    from anchors.scoring import GROUPS

    before, comma, last = incomplete.rpartition(",")
    names = dict.fromkeys([*GROUPS, *(name for group in GROUPS.values() for name in group)])
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]


MODELS = "lab/NAME, a hub id or a local directory"
ModelName = Annotated[str, typer.Option("--model", "-m", help=MODELS, autocompletion=complete_model)]
Methods = Annotated[str, typer.Option(help="comma-separated", autocompletion=complete_methods)]
Out = Annotated[Path, typer.Option("--out", "-o", help="run directory")]
N = Annotated[int, typer.Option("-n", help="rollouts a boundary")]
Seed = Annotated[int, typer.Option(help="the same seed gives the same numbers")]
Json = Annotated[bool, typer.Option("--json", help="print machine-readable results")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar and no log")]
TraceFile = Annotated[Path, typer.Argument(help="trace file (.json, .jsonl, .txt) or math-rollouts folder")]
Ray = Annotated[str | None, typer.Option("--ray", help="work on a Ray cluster: its address, or auto")]
Workers = Annotated[int | None, typer.Option("--workers", help="workers to ask for; default: as many as fit")]
Gpus = Annotated[
    float | None, typer.Option("--gpus-per-worker", help="may be a fraction; default: 1 where there are any")
]
RunFolder = Annotated[Path, typer.Argument(help="run directory")]


def quiet_logging(quiet: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, handlers=[handler])
    for name in ("httpx", "transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("anchors.models").setLevel(logging.WARNING)


@contextmanager
def loading(ray: str | None, workers: int | None = None, gpus: float | None = None) -> Iterator[Callable[[str], Any]]:
    """How models are loaded: here, or a replica on every worker of a cluster, which is named on standard error."""
    if ray is None:
        from anchors.models import load_model

        yield load_model
        return
    from anchors.distributed import Cluster

    with Cluster(ray, workers=workers, gpus_per_worker=gpus) as cluster:
        typer.echo(str(cluster), err=True)
        yield cluster.model


def one_of(name: str, value: str | None, known: Sequence[str]) -> Any:
    if value is not None and value not in known:
        raise ValueError(f"{name} is {value!r}; use {', '.join(known)}")
    return value


def listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]
