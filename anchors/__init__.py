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
    from anchors.confidence import Definition, sentence_confidence, trace_confidence
    from anchors.datasets import load_traces
    from anchors.distributed import Cluster
    from anchors.effects import sentence_effects
    from anchors.exchange import export_run, import_run
    from anchors.extras import MissingExtra
    from anchors.importance import counterfactual_importance, forced_importance, headroom, resampling_importance
    from anchors.integrity import examine_run
    from anchors.merging import merge_runs
    from anchors.models import CapabilityError, Sampling, load_model
    from anchors.models.checks import check_model
    from anchors.online import EarlyStop, replay_online, vote_online
    from anchors.persistence import resilience
    from anchors.prompts import base_prompt, chat_prompt, place_in_chat
    from anchors.report import write_report, write_transfer_report
    from anchors.resampling import plan_resampling, resample, resample_traces, write_trace, write_traces
    from anchors.rollouts import Rollouts
    from anchors.salvage import repair_run
    from anchors.scores import Scores
    from anchors.scoring import score_traces
    from anchors.stopping import Anchors
    from anchors.strategy import strategy_features
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
    from anchors.validity import length_complexity, validity_table
    from anchors.voting import majority_at, pass_at, vote

_MODULES = {
    "comparison": ("agreement",),
    "compression": ("best_subset", "compress_curve", "compress_trace"),
    "attention": ("ablate_heads", "receiver_heads", "shared_receiver_heads"),
    "confidence": ("Definition", "sentence_confidence", "trace_confidence"),
    "datasets": ("load_traces",),
    "distributed": ("Cluster",),
    "effects": ("sentence_effects",),
    "exchange": ("export_run", "import_run"),
    "extras": ("MissingExtra",),
    "alternatives": ("seek_alternatives",),
    "importance": ("counterfactual_importance", "forced_importance", "headroom", "resampling_importance"),
    "integrity": ("examine_run",),
    "merging": ("merge_runs",),
    "models": ("CapabilityError", "Sampling", "load_model"),
    "models.checks": ("check_model",),
    "report": ("write_report", "write_transfer_report"),
    "resampling": ("plan_resampling", "resample", "resample_traces", "write_trace", "write_traces"),
    "online": ("EarlyStop", "replay_online", "vote_online"),
    "persistence": ("resilience",),
    "prompts": ("base_prompt", "chat_prompt", "place_in_chat"),
    "rollouts": ("Rollouts",),
    "salvage": ("repair_run",),
    "scores": ("Scores",),
    "scoring": ("score_traces",),
    "stopping": ("Anchors",),
    "strategy": ("strategy_features",),
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
    "validity": ("length_complexity", "validity_table"),
    "voting": ("majority_at", "pass_at", "vote"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Anchors",
    "Calipers",
    "CapabilityError",
    "Cluster",
    "Definition",
    "EarlyStop",
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
    "base_prompt",
    "best_subset",
    "chat_prompt",
    "check_model",
    "compress_curve",
    "compress_trace",
    "counterfactual_importance",
    "examine_run",
    "export_run",
    "forced_importance",
    "headroom",
    "import_run",
    "interaction",
    "length_complexity",
    "load_model",
    "load_traces",
    "majority_at",
    "merge_runs",
    "pass_at",
    "place_in_chat",
    "plan_resampling",
    "receiver_heads",
    "repair_run",
    "replay_online",
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
    "strategy_features",
    "suppress",
    "trace_confidence",
    "transfer_anchors",
    "transfer_matrix",
    "validity_table",
    "vote",
    "vote_online",
    "write_report",
    "write_transfer_report",
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
