"""`Scores`: one number per sentence with its interval, count and null, and the registry of methods that make them.

Sign: positive means the sentence supports the outcome. NaN means not measured, 0 was measured.
"""

from __future__ import annotations

import html
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from anchors.stats import benjamini_hochberg
from anchors.trace import Trace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Method:
    """A registered scoring method: what it needs, its unit, and the function that computes it."""

    name: str
    needs: Literal["rollouts", "model"]
    unit: str
    function: Callable[..., Scores]


METHODS: dict[str, Method] = {}
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RecursionError, NotImplementedError)


def method(name: str, *, needs: Literal["rollouts", "model"], unit: str) -> Callable[..., Any]:
    """Register a function that returns `Scores`; it then exists for the CLI, the report and transfer."""

    def register(function: Callable[..., Scores]) -> Callable[..., Scores]:
        METHODS[name] = Method(name, needs, unit, function)
        return function

    return register


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of the sentences of one trace under one method.

    Shapes: `values`, `low`, `high`, `n`, `p` and `floor` are [sentence]; `matrix` is [target, source].
    `p` tests that the sentence has no effect and `floor` is what `values` would average then; both NaN where the
    method has no null. `extras` holds further arrays, reachable as attributes (`scores.kurtosis`).
    `details` says how the numbers were made: model, seed, outcome, sampling, versions.
    """

    method: str
    unit: str
    values: Float[np.ndarray, " sentence"]
    low: Float[np.ndarray, " sentence"]
    high: Float[np.ndarray, " sentence"]
    n: Int[np.ndarray, " sentence"]
    p: Float[np.ndarray, " sentence"]
    floor: Float[np.ndarray, " sentence"]
    trace: Trace
    matrix: Float[np.ndarray, "target source"] | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        trace: Trace,
        method: str,
        values: np.ndarray,
        *,
        low: np.ndarray | None = None,
        high: np.ndarray | None = None,
        n: np.ndarray | int = 1,
        p: np.ndarray | None = None,
        floor: np.ndarray | None = None,
        **rest: Any,
    ) -> Scores:
        """Scores of `trace`; without `low` and `high` the number is exact and its interval is the number itself."""
        values = np.asarray(values, dtype=float)
        details = {**rest.pop("details", {}), "anchors": version("anchors")}
        unknown = np.full(len(values), np.nan)
        return cls(
            method=method,
            unit=rest.pop("unit", METHODS[method].unit if method in METHODS else ""),
            values=values,
            low=values if low is None else np.asarray(low, dtype=float),
            high=values if high is None else np.asarray(high, dtype=float),
            n=np.broadcast_to(np.asarray(n, dtype=int), values.shape).copy(),
            p=unknown if p is None else np.asarray(p, dtype=float),
            floor=unknown if floor is None else np.asarray(floor, dtype=float),
            trace=trace,
            details=details,
            **rest,
        )

    def __post_init__(self) -> None:
        for name in ("values", "low", "high", "n", "p", "floor"):
            if np.shape(column := getattr(self, name)) != (len(self.trace),):
                raise ValueError(f"{name} has {np.size(column)} entries for {len(self.trace)} sentences")
        if self.matrix is not None and self.matrix.shape != (len(self.trace), len(self.trace)):
            raise ValueError(f"matrix has shape {self.matrix.shape} for {len(self.trace)} sentences, targets first")

    def __getattr__(self, name: str) -> np.ndarray:
        extras = self.__dict__.get("extras", {})
        if name in extras:
            return extras[name]
        raise AttributeError(f"these {self.__dict__.get('method')} scores have no {name!r}; extras: {sorted(extras)}")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def trace_id(self) -> str:
        return self.trace.id

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(s.text for s in self.trace.sentences)

    @property
    def categories(self) -> tuple[str | None, ...]:
        return self.trace.categories

    @property
    def measured(self) -> Bool[np.ndarray, " sentence"]:
        """Which sentences were measured."""
        return ~np.isnan(self.values)

    def top(self, k: int = 5) -> list[int]:
        """Indices of the k highest measured scores, best first."""
        order = np.argsort(-np.where(self.measured, self.values, -np.inf), kind="stable")
        return [int(i) for i in order[: min(k, int(self.measured.sum()))]]

    def anchors(self, *, fdr: float = 0.05) -> list[int]:
        """Sentences whose effect differs from none, by Benjamini-Hochberg at `fdr` over the measured p-values.

        Raises:
            ValueError: the method has no null, so no false-discovery rule can be applied; use `top(k)`.
        """
        tested = ~np.isnan(self.p)
        if not tested.any():
            raise ValueError(f"{self.method} has no p-values, so anchors(fdr) cannot be decided; use top(k)")
        rejected = np.zeros(len(self), dtype=bool)
        rejected[tested] = benjamini_hochberg(self.p[tested], fdr=fdr)
        return [int(i) for i in np.flatnonzero(rejected)]

    def __repr__(self) -> str:
        best = ", ".join(f"#{i} {self.values[i]:+.3f}" for i in self.top(3))
        return f"Scores({self.method}, {int(self.measured.sum())}/{len(self)} sentences, {self.unit}; top {best})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{i}</td><td>{html.escape(self.sentences[i])}</td><td>{self.values[i]:+.3f}</td>"
            f"<td>[{self.low[i]:+.3f}, {self.high[i]:+.3f}]</td><td>{self.n[i]}</td></tr>"
            for i in self.top(10)
        )
        head = "<tr><th>#</th><th>sentence</th><th>score</th><th>95 % interval</th><th>n</th></tr>"
        return f"<table><caption>{html.escape(self.method)} ({html.escape(self.unit)})</caption>{head}{rows}</table>"

    def to_dataframe(self) -> pd.DataFrame:
        """One row per sentence; needs the extra `tables`."""
        from anchors.extras import require

        pandas = require("pandas", extra="tables")
        columns = {name: getattr(self, name) for name in ("values", "low", "high", "n", "p", "floor")}
        frame = {"sentence": range(len(self)), "text": self.sentences, "category": self.categories, **columns}
        per_sentence = {k: v for k, v in self.extras.items() if v.shape == self.values.shape}
        return pandas.DataFrame(frame | per_sentence).rename(columns={"values": "value"})

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the importance profile (see `anchors.plotting.importance_profile`)."""
        from anchors.plotting import importance_profile

        return importance_profile(self, ax=ax)

    def save(self, path: str | Path) -> Path:
        """Write one .npz file (no pickle)."""
        path = Path(path)
        arrays = {name: getattr(self, name) for name in ("values", "low", "high", "n", "p", "floor")}
        if self.matrix is not None:
            arrays["matrix"] = self.matrix
        arrays |= {f"extra_{name}": array for name, array in self.extras.items()}
        header = {
            "method": self.method,
            "unit": self.unit,
            "trace": self.trace.to_json(),
            "details": dict(self.details),
        }
        with path.open("wb") as file:
            np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged, was edited, or holds pickled objects.
        """
        try:
            return cls._read(path)
        except (*_DAMAGED, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path} holds no readable scores ({error}); delete it and score again") from error

    @classmethod
    def _read(cls, path: str | Path) -> Scores:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as stored:  # np.load also takes a bare array
            header = json.loads(str(stored["header"]))
            extras = {name[6:]: stored[name] for name in stored.files if name.startswith("extra_")}
            arrays = {n: stored[n] for n in stored.files if n != "header" and not n.startswith("extra_")}
        header["trace"] = Trace.from_json(header["trace"])
        odd = [name for name, array in (arrays | extras).items() if array.dtype.kind not in "fiub"]
        if odd:
            raise ValueError(f"{odd[0]} does not hold numbers")
        return cls(**header, **arrays, extras=extras)
