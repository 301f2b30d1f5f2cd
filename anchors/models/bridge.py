"""Between TransformerLens bridges and plain transformers modules, sharing weights both ways."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from anchors.models.base import CapabilityError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from anchors.models.lens import LensModel

_WRAPPED = re.compile(r"\b_?original_component\.")


def build_bridge(model: LensModel) -> TransformerBridge:
    """Wrap a weight-sharing copy of the module; the copy is what the bridge changes in place."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    from anchors.models.lens import share_weights

    module = share_weights(model.module)
    module.set_attn_implementation("eager")
    architecture = (module.config.architectures or [type(module).__name__])[0]
    tokenizer = model.tokenizer.__class__.from_pretrained(model.tokenizer.name_or_path)
    return build_bridge_from_module(
        module, architecture=architecture, hf_config=module.config, tokenizer=tokenizer, model_name=model.name
    )


def plain_module(bridge: Any) -> Any:
    """The plain module under a bridge: built from its configuration, holding the bridge's own tensors.

    Raises:
        CapabilityError: the object is no bridge, or its weights were processed (folded) and no longer fit the module.
    """
    from transformers import AutoModelForCausalLM

    original = getattr(bridge, "original_model", None)
    if original is None or not hasattr(original, "config"):
        raise CapabilityError(f"{type(bridge).__name__} is neither a model name nor a TransformerBridge")
    tensors = {_WRAPPED.sub("", name): t for name, t in original.state_dict().items()}
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(original.config, attn_implementation="eager")
    wanted = plain.state_dict()
    missing = [n for n, t in wanted.items() if n not in tensors or tensors[n].shape != t.shape]
    if missing:
        raise CapabilityError(
            f"the bridge's weights do not fit a plain {type(plain).__name__} (first mismatch: {missing[0]}); "
            "weights that were folded or centred cannot be measured, load the model without processing"
        )
    plain.load_state_dict({name: tensors[name] for name in wanted}, assign=True)
    _restore_buffers(plain, original)
    plain.tie_weights()
    return plain


def _restore_buffers(plain: Any, original: Any) -> None:
    """Buffers outside the state dict (rotary frequencies) still sit on the meta device: take the original's."""
    held = {_WRAPPED.sub("", name): buffer for name, buffer in original.named_buffers()}
    for name, buffer in list(plain.named_buffers()):
        if buffer.is_meta:
            owner, _, leaf = name.rpartition(".")
            plain.get_submodule(owner).register_buffer(leaf, held[name], persistent=False)
