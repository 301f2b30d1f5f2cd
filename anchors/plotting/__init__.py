"""Paper-style figures: every function draws one, on the Axes it is given or on a new one, and returns the Axes.

1. `importance`: one trace or scores over traces. `matrices`: everything with rows and columns.
2. `transfer`: what a transfer run found. `curves`: its compression curves. `style`: what they share.
"""

from anchors.plotting.curves import compression_areas, compression_curves
from anchors.plotting.importance import answer_distribution, category_means, confidence_trace, importance_profile
from anchors.plotting.matrices import agreement, kurtosis, matrix, transfer_heat_map
from anchors.plotting.style import SHORT
from anchors.plotting.transfer import controls_plot, retention_bars, shift_plot

__all__ = [
    "SHORT",
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
    "retention_bars",
    "shift_plot",
    "transfer_heat_map",
]
