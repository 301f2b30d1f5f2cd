"""What an experiment is made of: a claim fixed beforehand, the numbers found, and the verdict they force.

1. A `Claim` states outcome, margin and rule; it is written down before anything runs.
2. `run(setting)` measures and returns `Evidence`: findings with n and interval, tables, and what went wrong on the way.
3. `judge(evidence)` is a pure function of the findings; it sees no models and makes no choices.
4. A `Result` joins them with provenance, and is stored as JSON from which the figure is drawn.
"""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from anchors.models.lens import LensModel

Word = Literal["holds", "fails", "inconclusive"]
PRESETS = ("tiny", "quick", "full")

T = TypeVar("T")


@dataclass(frozen=True)
class Claim:
    """A claim and how it will be judged, fixed before the run.

    `outcome` is the primary outcome in words, `margin` the smallest effect that matters, in its unit (None where the rule
    needs none), `rule` the verdict rule. `shows` and `does_not_show` say what a verdict means.
    """

    id: str
    title: str
    statement: str
    source: str
    outcome: str
    margin: float | None
    rule: str
    shows: str
    does_not_show: str


class Verdict(NamedTuple):
    """holds, fails or inconclusive; why; and, where inconclusive, the effect that would have been found (80 % power)."""

    word: Word
    reason: str
    detectable: float | None = None


@dataclass(frozen=True)
class Finding:
    """One measured effect: interval of 95 % over `n` independent units (`of`: traces, problems, seeds).

    `values` are the units' own values where the effect is their mean, so that a rule can test them again.
    """

    name: str
    effect: float
    low: float
    high: float
    n: int
    of: str
    unit: str
    p: float | None = None
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        interval = f"{self.effect:+.3g} [{self.low:+.3g}, {self.high:+.3g}] {self.unit}"
        return f"{self.name}: {interval}, n = {self.n} {self.of}"


@dataclass(frozen=True)
class Evidence:
    """What a run found. The first finding is the pre-declared primary effect.

    `tables` hold rows for the figure and the reader, `notes` what must be said beside the verdict (competence of the
    models, exclusions), `details` provenance (models, sampling, seeds, counts).
    """

    findings: tuple[Finding, ...]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def primary(self) -> Finding:
        return self.findings[0]

    def finding(self, name: str) -> Finding:
        """The finding of that name.

        Raises:
            ValueError: there is none.
        """
        for found in self.findings:
            if found.name == name:
                return found
        raise ValueError(f"no finding is called {name!r}; there are {', '.join(f.name for f in self.findings)}")


@dataclass(frozen=True)
class Setting:
    """How an experiment is run: size, seed, whose models, and the folder where models and rollouts are kept."""

    preset: str = "quick"
    seed: int = 0
    model_name: str | None = None
    reader_name: str | None = None
    out: Path | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset is {self.preset!r}; use {', '.join(PRESETS)}")

    def pick(self, *, tiny: T, quick: T, full: T) -> T:
        """The value of this preset."""
        return {"tiny": tiny, "quick": quick, "full": full}[self.preset]

    def model(self, default: str) -> LensModel:
        """The user's model, else the shipped one of that name."""
        from anchors.models import load_model

        return load_model(self.model_name or default)

    def reader(self, default: str) -> LensModel:
        """The user's reader, else the shipped one of that name."""
        from anchors.models import load_model

        return load_model(self.reader_name or default)

    def folder(self, name: str) -> Path:
        """A folder of this run's own, made on first use.

        Raises:
            ValueError: the run has no folder to keep things in.
        """
        if self.out is None:
            raise ValueError(f"the {self.preset} preset keeps models and rollouts; say where with out= (--out)")
        path = self.out / name
        path.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True)
class Result:
    """A claim, what was found, and the verdict; `made` says when, how long, by which versions and settings."""

    claim: Claim
    verdict: Verdict
    evidence: Evidence
    made: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values; NaN and infinities become null."""
        record = {
            "claim": asdict(self.claim),
            "verdict": self.verdict._asdict(),
            "findings": [asdict(found) for found in self.evidence.findings],
            "tables": self.evidence.tables,
            "notes": list(self.evidence.notes),
            "details": self.evidence.details,
            "made": self.made,
        }
        return _plain(record)

    def save(self, path: str | Path) -> Path:
        """Write the JSON file."""
        path = Path(path)
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read what `save` wrote; a null number was NaN."""
        record = json.loads(Path(path).read_text("utf-8"))
        findings = tuple(_finding(found) for found in record["findings"])
        evidence = Evidence(findings, record["tables"], tuple(record["notes"]), record["details"])
        return cls(Claim(**record["claim"]), Verdict(**record["verdict"]), evidence, record["made"])

    def __str__(self) -> str:
        lines = [f"{self.claim.id} {self.claim.title}: {self.verdict.word}. {self.verdict.reason}"]
        lines += [f"  {found}" for found in self.evidence.findings]
        lines += [f"  note: {note}" for note in self.evidence.notes]
        lines += [f"  shows: {self.claim.shows}", f"  does not show: {self.claim.does_not_show}"]
        return "\n".join(lines)


def provenance(setting: Setting, seconds: float, *, day: str) -> dict[str, Any]:
    """When, how long, on what and under which settings a result was made."""
    return {
        "date": day,
        "seconds": round(seconds, 1),
        "preset": setting.preset,
        "seed": setting.seed,
        "model": setting.model_name,
        "reader": setting.reader_name,
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in ("anchors", "torch", "transformers", "numpy")},
    }


def _finding(record: dict[str, Any]) -> Finding:
    numbers = {k: math.nan if record[k] is None else record[k] for k in ("effect", "low", "high")}
    values = tuple(math.nan if v is None else v for v in record["values"])
    return Finding(**{**record, **numbers, "values": values})


def _plain(value: Any) -> Any:
    """JSON values only: numpy scalars and arrays become Python's, numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
