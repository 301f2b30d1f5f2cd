"""Paper-style figures: every function draws one, on the Axes it is given or on a new one, and returns the Axes.

1. `importance`: one trace or scores over traces. `confidence`: token by token. `matrices`: rows and columns.
2. `transfer`: what a transfer run found. `curves`: its compression curves. `accuracy`: methods against exact truth.
3. `style`: what they share. `palette`: their colours, which are the report's.
"""

from anchors.plotting.accuracy import Accuracy, accuracy_curves, read_accuracy
from anchors.plotting.confidence import confidence_trace
from anchors.plotting.curves import compression_areas, compression_curves
from anchors.plotting.importance import answer_distribution, category_means, importance_profile
from anchors.plotting.matrices import agreement, kurtosis, matrix, transfer_heat_map
from anchors.plotting.palette import SHORT
from anchors.plotting.transfer import controls_plot, retention_bars, shift_plot

__all__ = [
    "SHORT",
    "Accuracy",
    "accuracy_curves",
    "agreement",
    "answer_distribution",
    "category_means",
    "compression_areas",
    "compression_curves",
    "confidence_trace",
    "controls_plot",
    "importance_profile",
    "kurtosis",
    "matrix",
    "read_accuracy",
    "retention_bars",
    "shift_plot",
    "transfer_heat_map",
]
