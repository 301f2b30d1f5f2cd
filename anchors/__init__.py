"""Find the sentences of a reasoning trace that its answer hangs on, say how sure that is, and whether others hang on them.

Names are loaded on first use: importing this package imports neither torch nor transformer_lens.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anchors.alternatives import seek_alternatives
    from anchors.attention import ablate_heads, receiver_heads, shared_receiver_heads
    from anchors.comparison import agreement
    from anchors.compression import best_subset, compress_curve, compress_trace
    from anchors.confidence import sentence_confidence
    from anchors.datasets import load_traces
    from anchors.effects import sentence_effects
    from anchors.extras import MissingExtra
    from anchors.importance import counterfactual_importance, forced_importance, headroom, resampling_importance
    from anchors.models import CapabilityError, Sampling, load_model
    from anchors.models.checks import check_model
    from anchors.persistence import resilience
    from anchors.report import write_report
    from anchors.resampling import plan_resampling, resample, resample_traces, write_trace, write_traces
    from anchors.rollouts import Rollouts
    from anchors.scores import Scores
    from anchors.scoring import score_traces
    from anchors.suppression import suppress
    from anchors.trace import Sentence, Trace
    from anchors.transfer import (
        Calipers,
        Transfer,
        TransferMatrix,
        interaction,
        shift_trend,
        transfer_anchors,
        transfer_matrix,
    )

_MODULES = {
    "comparison": ("agreement",),
    "compression": ("best_subset", "compress_curve", "compress_trace"),
    "attention": ("ablate_heads", "receiver_heads", "shared_receiver_heads"),
    "confidence": ("sentence_confidence",),
    "datasets": ("load_traces",),
    "effects": ("sentence_effects",),
    "extras": ("MissingExtra",),
    "alternatives": ("seek_alternatives",),
    "importance": ("counterfactual_importance", "forced_importance", "headroom", "resampling_importance"),
    "models": ("CapabilityError", "Sampling", "load_model"),
    "models.checks": ("check_model",),
    "report": ("write_report",),
    "resampling": ("plan_resampling", "resample", "resample_traces", "write_trace", "write_traces"),
    "persistence": ("resilience",),
    "rollouts": ("Rollouts",),
    "scores": ("Scores",),
    "scoring": ("score_traces",),
    "suppression": ("suppress",),
    "trace": ("Sentence", "Trace"),
    "transfer": (
        "Calipers",
        "Transfer",
        "TransferMatrix",
        "interaction",
        "shift_trend",
        "transfer_anchors",
        "transfer_matrix",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Calipers",
    "CapabilityError",
    "MissingExtra",
    "Rollouts",
    "Sampling",
    "Scores",
    "Sentence",
    "Trace",
    "Transfer",
    "TransferMatrix",
    "ablate_heads",
    "agreement",
    "best_subset",
    "check_model",
    "compress_curve",
    "compress_trace",
    "counterfactual_importance",
    "forced_importance",
    "headroom",
    "interaction",
    "load_model",
    "load_traces",
    "plan_resampling",
    "receiver_heads",
    "resample",
    "resample_traces",
    "resampling_importance",
    "resilience",
    "score_traces",
    "seek_alternatives",
    "sentence_confidence",
    "sentence_effects",
    "shared_receiver_heads",
    "shift_trend",
    "suppress",
    "transfer_anchors",
    "transfer_matrix",
    "write_report",
    "write_trace",
    "write_traces",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("anchors")
    if name not in _HOME:
        raise AttributeError(f"module 'anchors' has no attribute {name!r}")
    return getattr(import_module(f"anchors.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
