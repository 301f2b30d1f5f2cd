"""Whether inner loops run compiled by numba: once a process has fed `SOON` rows, since loading them takes most of a second.

A bill of more than that loads them before it is timed. The first time on a machine they are compiled, which takes some seconds; the
result is kept beside the code. Where numba is not installed or does not run, tensor calls go on, and the log says so.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

log = logging.getLogger(__name__)

SOON = 1 << 13


@dataclass
class Process:
    """What this process has done: the loops it loaded, whether it tried to, and rows fed without them."""

    compiled: ModuleType | None = None
    tried: bool = False
    rows: int = 0


process = Process()


def suit(like: Any) -> bool:
    """Whether they can run on such a tensor, or for a model with such weights."""
    return str(getattr(like, "device", None)) == "cpu" and getattr(like, "dtype", None) == torch.float32


def loaded() -> ModuleType | None:
    """The compiled loops, where something has loaded them."""
    return process.compiled


def loaded_for(like: Any) -> ModuleType | None:
    """The compiled loops, where something has loaded them and they can run on such a tensor."""
    return loaded() if suit(like) else None


def after(rows: int) -> ModuleType | None:
    """The compiled loops, loaded if with these rows enough have been fed."""
    process.rows += rows
    return load() if process.rows >= SOON else process.compiled


def load() -> ModuleType | None:
    """Load the compiled loops; None where numba is not installed or does not run."""
    if not process.tried:
        process.tried = True
        process.compiled = _imported()
    return process.compiled


def _imported() -> ModuleType | None:
    if find_spec("numba") is None:
        log.info("numba is not installed, so rollouts go without compiled loops; pip install 'anchors[fast]' brings it")
        return None
    try:
        from anchors.models import compiled
    except ImportError as error:  # numba refuses a numpy that is too new for it
        log.warning("numba does not run here (%s), so rollouts go without compiled loops", error)
        return None
    compiled.warm()
    return compiled
