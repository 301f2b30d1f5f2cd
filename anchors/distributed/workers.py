"""What runs inside a worker: it loads each model it is asked for once, and carries out units with it.

1. A replica must have the weights the driver knows, wherever its files came from.
2. On a GPU it is put there; where several workers share one, each may take its share of the memory only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from anchors.extras import require
from anchors.models.base import CapabilityError, Completion, Job, Scored

TOLD = (
    "sampling",
    "fingerprint",
    "dtype",
    "context",
    "layers",
    "heads",
    "stub",
    "vocabulary",
    "end_ids",
    "capabilities",
)
"""Attributes of a replica that its stand-in in the driver has too."""


class Spec(NamedTuple):
    """Which model: a name and options as `load_model` takes them, or a function that returns one.

    `key` tells it from others; `name` is what it is called where that is not its source; `weights` are known once it is loaded.
    """

    key: str
    source: str | Callable[[], Any]
    options: Mapping[str, Any]
    name: str | None = None
    weights: str | None = None


class Place(NamedTuple):
    """Where a worker runs."""

    node: str
    pid: int


class Outcome(NamedTuple):
    """What a unit gave, and the seconds it took without the loading of its model, by the clock and of its CPUs."""

    value: Any
    seconds: float
    cpu: float


class About(NamedTuple):
    """A replica's plain attributes, and the names of what it can do."""

    values: dict[str, Any]
    can: frozenset[str]


_REPLICAS: dict[str, Any] = {}
_SHARE = {"gpus": 0.0}


def replica(spec: Spec) -> Any:
    """This process's model of that specification, loaded once.

    Raises:
        CapabilityError: its weights are not those the driver knows.
    """
    if spec.key not in _REPLICAS:
        _REPLICAS[spec.key] = spec.source() if callable(spec.source) else _load(spec.source, **spec.options)
        _REPLICAS[spec.key].name = spec.name or _REPLICAS[spec.key].name
    model = _REPLICAS[spec.key]
    found = _weights(model)
    if spec.weights not in (None, found):
        raise CapabilityError(
            f"node {os.uname().nodename} holds other weights of {model.name} ({found}) than the first worker "
            f"({spec.weights}); put the same files on all nodes"
        )
    return model


def _load(name: str, **options: Any) -> Any:
    import torch

    from anchors.models import load_model

    gpus = _SHARE["gpus"]
    if gpus and torch.cuda.is_available() and not name.startswith("server/"):
        options.setdefault("device_map", "cuda")
        if gpus < 1:
            torch.cuda.set_per_process_memory_fraction(gpus)
    return load_model(name, **options)


def _weights(model: Any) -> str:
    return str(getattr(model, "fingerprint", "unknown"))


class Worker:
    """The actor: it says where it is and carries out units, one after the other."""

    def __init__(self, gpus: float) -> None:
        _SHARE["gpus"] = gpus

    def place(self) -> Place:
        return Place(require("ray", extra="ray").get_runtime_context().get_node_id(), os.getpid())

    def run(self, spec: Spec, function: Callable[..., Any], item: Any, options: Mapping[str, Any]) -> Outcome:
        model = replica(spec)
        started, busy = time.perf_counter(), time.process_time()
        value = function(item, model, **options)
        return Outcome(value, time.perf_counter() - started, time.process_time() - busy)


def draw(jobs: list[Job], model: Any, **options: Any) -> list[Completion]:
    found = dict(model.generate(jobs, **options))
    missing = [job for job in jobs if job not in found]
    if missing:
        raise RuntimeError(f"{model.name} left out {len(missing)} of {len(jobs)} rollouts")
    return [found[job] for job in jobs]


def describe(_item: None, model: Any) -> About:
    values = {name: getattr(model, name) for name in TOLD if hasattr(model, name)}
    if "dtype" in values:
        values["dtype"] = str(values["dtype"])
    return About({"name": model.name, **values}, frozenset(name for name in dir(model) if not name.startswith("_")))


def call_method(call: tuple[str, tuple, dict[str, Any]], model: Any) -> Any:
    name, args, options = call
    return getattr(model, name)(*args, **options)


def score_variants(variants: Sequence[Any], model: Any) -> list[Scored]:
    from anchors.models import variants as local

    return local.score_variants(model, variants)
