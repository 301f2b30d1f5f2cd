"""The frame of the experiments: rules that turn findings into verdicts, results that survive a file, and the command."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from typer.testing import CliRunner

import anchors.experiments as experiments
from anchors.experiments import CLAIMS, Claim, Evidence, Finding, Setting, Verdict, claim_module, run_experiment
from anchors.experiments.base import Result
from anchors.experiments.verdicts import both, equivalent, mean_finding, superior

CLAIM = Claim("C5", "title", "statement", "0000.00000", "gain", 0.1, "rule", "this", "not that")


def found(low: float, high: float, values: tuple[float, ...] = ()) -> Finding:
    return Finding("gain", (low + high) / 2, low, high, 10, "problems", "", None, values)


@pytest.mark.parametrize(
    ("low", "high", "matters", "word"),
    [
        (0.1, 0.3, 0.0, "holds"),
        (-0.1, 0.3, 0.0, "inconclusive"),
        (-0.3, -0.1, 0.0, "fails"),
        (0.01, 0.04, 0.05, "fails"),
        (-0.02, 0.04, 0.05, "fails"),
        (0.01, 0.2, 0.05, "holds"),
        (-0.02, 0.2, 0.05, "inconclusive"),
        (math.nan, math.nan, 0.0, "inconclusive"),
    ],
)
def test_superior_reads_the_interval(low: float, high: float, matters: float, word: str) -> None:
    assert superior(found(low, high), matters=matters).word == word


def test_superior_errs_at_its_level() -> None:
    rng = np.random.default_rng(0)
    null = [superior(mean_finding("gain", rng.normal(0, 1, 12), of="x", unit="")).word for _ in range(1000)]
    assert 0.012 < null.count("holds") / 1000 < 0.04  # one side of a 95 % interval
    real = [superior(mean_finding("gain", rng.normal(1, 1, 30), of="x", unit="")).word for _ in range(200)]
    assert real.count("holds") > 190


def test_inconclusive_names_what_it_would_have_found() -> None:
    values = np.random.default_rng(1).normal(0, 1, 20)
    verdict = superior(mean_finding("gain", values, of="x", unit=""), matters=2.0)
    assert verdict.word == "fails"  # so small an interval shows that nothing of that size is there
    verdict = superior(mean_finding("gain", values - values.mean() + 0.1, of="x", unit=""))
    assert verdict.word == "inconclusive"
    assert verdict.detectable == pytest.approx(values.std(ddof=1) * 0.66, rel=0.1)


@pytest.mark.slow
def test_equivalence_errs_at_most_at_its_level_on_the_margin() -> None:
    rng = np.random.default_rng(2)
    words = [equivalent(mean_finding("gain", rng.normal(0.5, 1, 25), of="x", unit=""), 0.5).word for _ in range(2000)]
    assert words.count("holds") / 2000 < 0.062
    close = [equivalent(mean_finding("gain", rng.normal(0, 1, 100), of="x", unit=""), 0.5).word for _ in range(200)]
    assert close.count("holds") > 190
    far = [equivalent(mean_finding("gain", rng.normal(1.5, 1, 25), of="x", unit=""), 0.5).word for _ in range(200)]
    assert far.count("fails") > 190


def test_equivalence_needs_the_values() -> None:
    with pytest.raises(ValueError, match="carries no values"):
        equivalent(found(-0.1, 0.1), 0.2)
    assert equivalent(Finding("gain", 0.0, math.nan, math.nan, 1, "seeds", ""), 0.2).word == "inconclusive"


def test_both_is_as_strong_as_its_weakest() -> None:
    holds, fails, open_ = Verdict("holds", "a"), Verdict("fails", "b"), Verdict("inconclusive", "c", 0.2)
    assert both(holds, holds).word == "holds"
    assert both(holds, open_) == Verdict("inconclusive", "c", 0.2)
    assert both(open_, fails, holds) == Verdict("fails", "b")


def test_nan_is_not_counted() -> None:
    one = mean_finding("gain", [0.1, math.nan, 0.3], of="problems", unit="")
    assert (one.n, one.effect, one.values) == (2, pytest.approx(0.2), (0.1, 0.3))
    none = mean_finding("gain", [math.nan], of="problems", unit="")
    assert none.n == 0
    assert math.isnan(none.effect)
    assert none.p is None


def test_every_claim_has_a_module_and_fixed_words() -> None:
    for name in CLAIMS:
        module = claim_module(name)
        assert module.CLAIM.id == name
        assert all(getattr(module.CLAIM, key) for key in ("statement", "source", "outcome", "rule", "shows"))
        assert all(callable(getattr(module, key)) for key in ("run", "judge", "draw"))
    assert claim_module("07") is claim_module("C7")
    with pytest.raises(ValueError, match="no claim is called 'C12'"):
        claim_module("C12")


def planted(setting: Setting) -> Evidence:
    rng = np.random.default_rng(setting.seed)
    values = rng.normal(setting.pick(tiny=0.0, quick=1.0, full=1.0), 1, 40)
    rows = [{"x": np.float64(math.nan), "n": np.int64(3)}]
    return Evidence((mean_finding("gain", values, of="traces", unit="points"),), {"rows": rows}, ("a note",))


@pytest.fixture
def planted_claim(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    def draw(result: Result, ax: object = None) -> object:
        return plt.figure().add_subplot()

    module = SimpleNamespace(CLAIM=CLAIM, run=planted, judge=lambda e: superior(e.primary), draw=draw)
    monkeypatch.setattr(experiments, "claim_module", lambda name: module)
    monkeypatch.setattr(experiments, "CLAIMS", {"C5": "planted"})
    return module


@pytest.mark.usefixtures("planted_claim")
def test_a_result_survives_its_file(tmp_path) -> None:
    result = run_experiment("C5", Setting(out=tmp_path))
    assert result.verdict.word == "holds"
    assert (tmp_path / "C5.svg").exists()
    loaded = Result.load(tmp_path / "C5.json")
    assert loaded.evidence.primary == result.evidence.primary
    assert loaded.evidence.tables == {"rows": [{"x": None, "n": 3}]}
    assert loaded.made == result.made
    assert str(loaded) == str(result)
    assert "does not show: not that" in str(result)


@pytest.mark.usefixtures("planted_claim")
def test_the_command_keeps_finished_claims(tmp_path) -> None:
    from anchors.cli import app

    runner, options = CliRunner(), ["experiment", "all", "--out", str(tmp_path), "--quiet"]
    assert "holds" in runner.invoke(app, options, catch_exceptions=False).output
    first = (tmp_path / "C5.json").read_text()
    changed = json.loads(first)
    changed["verdict"]["word"] = "fails"
    (tmp_path / "C5.json").write_text(json.dumps(changed))
    assert "fails" in runner.invoke(app, options, catch_exceptions=False).output  # read back, not run again
    assert "holds" in runner.invoke(app, [*options, "--again"], catch_exceptions=False).output
    assert "holds" in runner.invoke(app, [*options, "--seed", "1"], catch_exceptions=False).output
    assert "| C5 title | **holds** |" in (tmp_path / "summary.md").read_text()


def test_a_setting_refuses_what_it_cannot_do(tmp_path) -> None:
    with pytest.raises(ValueError, match="preset is 'slow'"):
        Setting(preset="slow")
    with pytest.raises(ValueError, match="say where with out="):
        Setting("full").folder("models")
    assert Setting("full", out=tmp_path).folder("models").is_dir()
