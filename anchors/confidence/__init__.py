"""How certain a model was while writing a trace: per token, group of tokens, sentence and trace.

1. Token confidence is minus the mean log-probability of the k likeliest next tokens (`token_confidence`).
2. Groups of n tokens slide over the trace one token at a time; the lowest groups mark where it was least sure, the tail
   how sure it ended (`trace_confidence` of stored numbers, `text_confidences` of texts under a model).
3. `sentence_confidence` scores sentences; `within_auroc` asks whether a confidence tells right traces from wrong ones.

Direction: higher always means more certain, a more peaked distribution. Source: DeepConf (2508.15260), section 3.

The public implementation (facebookresearch/deepconf at 675529d) differs from the paper, and `Definition(compat="deepconf")`
and `EarlyStop(compat="deepconf")` reproduce it. Each difference has a switch of its own:

- `sampled`: the mean runs over the log-probabilities returned, k + 1 of them where the sampled token is not among the k.
- `short`: a trace shorter than the window has its plain mean for its one group, where it has no full group by definition.
- `decimals`: token confidences and group means are rounded to 3 decimals.
- `sampling`: the online processor sees logits after post-processing, where the offline mode reads those returned; raw
  logits are the default here, and `Definition(sampling=...)` takes the others.
- `EarlyStop.consensus`: the public online mode never stops on consensus.
- `EarlyStop.top`: its wrapper's default keeps the top 90 %, a threshold at the 10th percentile; its example sets 10.
"""

from __future__ import annotations

from anchors.confidence.definition import KINDS, Definition, Kind
from anchors.confidence.groups import TraceConfidence, group_confidence, trace_confidence
from anchors.confidence.sentences import read_traces, sentence_confidence
from anchors.confidence.separation import Separation, auroc_gain, pooled_auroc, within_auroc
from anchors.confidence.tokens import TokenConfidence, text_confidences, token_confidence

__all__ = [
    "KINDS",
    "Definition",
    "Kind",
    "Separation",
    "TokenConfidence",
    "TraceConfidence",
    "auroc_gain",
    "group_confidence",
    "pooled_auroc",
    "read_traces",
    "sentence_confidence",
    "text_confidences",
    "token_confidence",
    "trace_confidence",
    "within_auroc",
]
