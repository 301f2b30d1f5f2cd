"""Optional dependencies: imported on use, and named together with the extra that brings them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


class MissingExtra(ImportError):
    """An optional dependency is not installed; the message is one line that names the extra."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module or raise `MissingExtra` naming the extra that brings it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{module} is not installed; run: pip install 'anchors[{extra}]'") from error
