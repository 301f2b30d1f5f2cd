"""Every writer against every reader, both directions: a table of verdicts and a heat map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.transfer.results import Transfer

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class TransferMatrix:
    """Transfer runs of all pairs: `cells[writer][reader]`; the diagonal is each writer's self-effect."""

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    cells: Mapping[str, Mapping[str, Transfer]]

    @property
    def values(self) -> Float[np.ndarray, "writer reader"]:
        """The reader's d of the primary operation."""
        rows = [[self.cells[w][r].retention[0].reader.value for r in self.readers] for w in self.writers]
        return np.array(rows, dtype=float)

    @property
    def gaps(self) -> dict[tuple[str, str], float]:
        """d of a pair in one direction less d in the other, for every pair of models that both write and read."""
        both = [name for name in self.writers if name in self.readers]
        d = {(w, r): self.cells[w][r].retention[0].reader.value for w in both for r in both}
        return {(a, b): d[a, b] - d[b, a] for i, a in enumerate(both) for b in both[i + 1 :]}

    def __str__(self) -> str:
        shown = {(w, r): f"{c.retention[0].reader.value:+.3f} {c.verdict}" for w, r, c in self._all()}
        corner = "writer \\ reader"
        left = 2 + max(len(name) for name in (corner, *self.writers))
        width = 2 + max(len(text) for text in (*self.readers, *shown.values()))
        lines = [corner.ljust(left) + "".join(r.ljust(width) for r in self.readers)]
        lines += [w.ljust(left) + "".join(shown[w, r].ljust(width) for r in self.readers) for w in self.writers]
        return "\n".join(line.rstrip() for line in lines)

    def _all(self) -> Iterator[tuple[str, str, Transfer]]:
        return ((w, r, self.cells[w][r]) for w in self.writers for r in self.readers)

    def to_json(self) -> dict[str, Any]:
        return {w: {r: self.cells[w][r].to_json() for r in self.readers} for w in self.writers}

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the heat map (see `anchors.plotting.transfer_heat_map`)."""
        from anchors.plotting import transfer_heat_map

        return transfer_heat_map(self, ax=ax)


def transfer_matrix(
    runs: Mapping[str, Sequence[Scores | Rollouts]], models: Mapping[str, Any], **options: Any
) -> TransferMatrix:
    """Transfer of every writer's anchors to every reader; `options` are those of `transfer_anchors`.

    `runs` holds the scores or rollouts of each writer by name; `models` the readers by name, the writers among them where
    they are at hand, which gives every pair its retention ratio and the diagonal its self-effect.

    Raises:
        ValueError: no writer or no reader.
    """
    from anchors.transfer import transfer_anchors

    if not runs or not models:
        raise ValueError(
            f"{len(runs)} writers and {len(models)} readers were given; a matrix needs at least one of each"
        )
    cells = {
        w: {
            r: transfer_anchors(given, reader=model, writer=models.get(w), itself=w == r, **options)
            for r, model in models.items()
        }
        for w, given in runs.items()
    }
    return TransferMatrix(tuple(runs), tuple(models), cells)
