"""Weights, tokenizer and card of a checkpoint directory or hub id, without running what it holds and without filling gaps.

1. Code that a repository ships runs only where the caller sets `trust_remote_code`; nobody is asked in the middle of a run.
2. Weights are read from safetensors; `use_safetensors=False` also takes torch files, which are unpickled as weights only.
3. Where the checkpoint lacks a weight, transformers would draw it at random: that is refused, and so is a configuration
   with fewer layers than the checkpoint has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # the error alone
from typing import Any, Final, NamedTuple

import torch

from anchors.forced import AnswerStub
from anchors.models.base import Sampling

CARD: Final = "card.json"
_SHARED: Final = (
    "revision",
    "token",
    "cache_dir",
    "local_files_only",
    "force_download",
    "trust_remote_code",
    "subfolder",
)
_LAYER = re.compile(r"\.\d+\.")


class Card(NamedTuple):
    """Defaults a lab checkpoint carries: sampling, answer stub, and ids its tokenizer must reproduce."""

    sampling: Sampling
    stub: AnswerStub
    probe: dict[str, Any] | None


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar while it reads files of this machine."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def load_checkpoint(path: str | Path, *, name: str, **options: Any) -> tuple[Any, Any]:
    """Module and tokenizer, by transformers; float32 and safetensors unless the options say otherwise.

    Raises:
        ValueError: transformers cannot load it, or the weights do not cover the model.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    damaged = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)
    options = {"dtype": torch.float32, "attn_implementation": "eager", "use_safetensors": True} | options
    options.setdefault("trust_remote_code", False)
    try:
        with no_progress_bar():
            tokenizer = AutoTokenizer.from_pretrained(path, **{key: options[key] for key in _SHARED if key in options})
            loaded: Any = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **options)
        module, found = loaded
    except (*damaged, SafetensorError, StrictDataclassError, UnpicklingError) as error:
        hint = "; torch files are read with use_safetensors=False only" if "model.safetensors" in str(error) else ""
        raise ValueError(f"cannot load {name!r} as a Hugging Face causal language model: {error}{hint}") from error
    _require_whole(module, found, name)
    return module, tokenizer


def _require_whole(module: Any, found: Mapping[str, Iterable[Any]], name: str) -> None:
    """Every weight of the model is in the checkpoint, and every layer of the checkpoint is in the model."""
    missing, known = sorted(map(str, found["missing_keys"])), module.state_dict().keys()
    if missing:
        raise ValueError(
            f"cannot load {name!r}: its checkpoint lacks {len(missing)} weights, the first {missing[0]}, which would be "
            "random numbers; fetch the checkpoint again, or correct config.json"
        )
    unused = sorted(str(key) for key in found["unexpected_keys"] if _LAYER.sub(".0.", str(key), count=1) in known)
    if unused:
        raise ValueError(
            f"cannot load {name!r}: its config.json leaves out layers that the checkpoint has, the first weight is "
            f"{unused[0]}; correct num_hidden_layers"
        )


def read_card(folder: Path) -> Card | None:
    """The card of a lab checkpoint, None where there is none.

    Raises:
        ValueError: the card is damaged or was edited into something else.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        sampling = Sampling(**card["sampling"] | {"stop": tuple(card["sampling"]["stop"])})
        stub, probe = AnswerStub(**card["stub"]), card["tokenizer_probe"]
        if not all(isinstance(text, str) for text in (*sampling.stop, *stub)):
            raise ValueError("stop strings and the stub are text")
        if probe is not None and not isinstance(probe["text"], str):
            raise ValueError("the probe's text is text")
        return Card(sampling, stub, probe)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is no card of a lab checkpoint: {type(error).__name__} {error}") from error
