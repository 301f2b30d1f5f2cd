"""Models by name: `lab/NAME` ships with the package, `server/NAME` answers at an address, else a hub id, directory or bridge."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anchors.models.base import CapabilityError, Completion, Job, Model, Sampling, Scored, Tokens, WhiteBox

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

    # A served model is the black-box half of one: static checkers see the whole, calls it lacks raise CapabilityError.
    Loaded = LensModel
else:
    Loaded = Any

__all__ = [
    "CapabilityError",
    "Completion",
    "Job",
    "Model",
    "Sampling",
    "Scored",
    "Tokens",
    "WhiteBox",
    "lab_models",
    "load_model",
]

ZOO = Path(__file__).parent.parent / "lab" / "zoo"


def lab_models() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(path.parent.name for path in ZOO.glob("*/card.json"))


def load_model(model: Any, *, check: bool = True, **options: Any) -> Loaded:
    """Load a model to measure: `lab/NAME`, a hub id, a local Hugging Face directory, `server/NAME`, or a TransformerBridge.

    Options go to `from_pretrained` (dtype, device_map, revision, ...); a server takes `base_url` and the options of
    `ServerModel`, and is a black box. Unless `check=False` the model must pass `check_model` first.

    Raises:
        ValueError: no such lab model, the directory or hub id cannot be read, or the server does not serve that name.
        CapabilityError: the model cannot be measured safely.
        ServerError: the server does not answer.
    """
    from anchors.models.checks import check_model
    from anchors.models.lens import LensModel

    loaded: Any
    if not isinstance(model, str | Path):
        loaded = LensModel.from_bridge(model)
    elif str(model).startswith("server/"):
        loaded = _served(str(model), **options)
    elif str(model).startswith("lab/"):
        name = str(model).removeprefix("lab/")
        if name not in lab_models():
            raise ValueError(f"no lab model is called {name!r}; there are {', '.join(lab_models()) or 'none'}")
        loaded = LensModel.from_directory(ZOO / name, name=str(model), **options)
    else:
        loaded = LensModel.from_directory(model, name=str(model), **options)
    if check:
        check_model(loaded).require()
    return loaded


def _served(name: str, *, base_url: str | None = None, **options: Any) -> Any:
    from anchors.models.server import ServerModel

    base_url = base_url or os.environ.get("OPENAI_BASE_URL")
    if base_url is None:
        raise ValueError(
            f"{name} needs the address of its server: base_url='http://127.0.0.1:8000/v1', or OPENAI_BASE_URL"
        )
    return ServerModel(name, base_url=base_url, **options)
