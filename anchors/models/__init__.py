"""Models by name: `lab/NAME` ships with the package, anything else is a hub id, a local directory or a bridge you hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from anchors.models.base import CapabilityError, Completion, Job, Model, Sampling, Scored, Tokens, WhiteBox

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

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


def load_model(model: Any, *, check: bool = True, **options: Any) -> LensModel:
    """Load a model to measure: `lab/NAME`, a hub id, a local Hugging Face directory, or a TransformerBridge.

    Options go to `from_pretrained` (dtype, device_map, revision, ...). Unless `check=False` the model must pass
    `check_model` first.

    Raises:
        ValueError: no such lab model, or the directory or hub id cannot be read.
        CapabilityError: the model cannot be measured safely.
    """
    from anchors.models.checks import check_model
    from anchors.models.lens import LensModel

    if not isinstance(model, str | Path):
        loaded = LensModel.from_bridge(model)
    elif str(model).startswith("server/"):
        raise CapabilityError(
            f"{model}: server backends are not part of this version; give a hub id or local directory"
        )
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
