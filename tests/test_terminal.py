"""Every command speaks JSON and can be quiet; names complete; long work shows what it does; the table fits 80 columns."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from typing import Any

import click
import numpy as np
import pytest
import typer
from rich.console import Console

from anchors import cli, scoring
from anchors.commands.options import complete_methods, complete_model
from anchors.models import lab_models, load_model
from anchors.resampling import resample
from anchors.rollouts import Rollouts
from anchors.scores import Scores
from anchors.scoring import score_traces, scores_folder
from anchors.spending import watched
from anchors.table import top_sentences

COMMANDS = typer.main.get_command(cli.app)


def leaves(group: Any, *path: str) -> list[tuple[str, click.Command]]:
    """(name, command) of every command, those of groups too."""
    found = []
    for name, command in group.commands.items():
        inside = hasattr(command, "commands")
        found += leaves(command, *path, name) if inside else [(" ".join((*path, name)), command)]
    return found


@pytest.mark.parametrize(("name", "command"), leaves(COMMANDS), ids=[name for name, _ in leaves(COMMANDS)])
def test_every_command_has_json_and_quiet(name, command):
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "--quiet"} <= options


def strict(text: str) -> Any:
    """JSON as the standard has it: no NaN, no Infinity."""

    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_lab_and_check_answer_in_json(run, checkpoints):
    code, out, _ = run("lab", "list", "--json")
    assert code == 0 and set(strict(out)["models"]) == {f"lab/{name}" for name in lab_models()}
    names = run("lab", "list", "-q")[1].splitlines()
    assert "lab/reasoner" in names and "world maze" in names
    assert "FACTS" in strict(run("lab", "show", "recall", "--json")[1])["program"].upper()
    code, out, _ = run("check", checkpoints["gpt2"], "--json")
    found = strict(out)
    assert code == 0 and found["passed"] and all(set(c) == {"name", "passed", "found"} for c in found["checks"])
    assert run("check", checkpoints["gpt2"], "--quiet") == (0, "", "")


def test_write_score_and_report_answer_in_json(run, tmp_path):
    traces, folder = tmp_path / "t.jsonl", tmp_path / "run"
    words = ("write", "Find 3 + 4 * 2 modulo 10.", "--model", "lab/reasoner", "-o", traces, "--json", "-q")
    code, out, _ = run(*words)
    assert code == 0 and set(strict(out)) == {"trace", "sentences", "answer", "target"}
    words = (
        "score",
        traces,
        "--model",
        "lab/reasoner",
        "--out",
        folder,
        "--methods",
        "attention,confidence",
        "--json",
        "-q",
    )
    code, out, err = run(*words)
    methods = [scores["method"] for scores in strict(out)["scores"]]
    assert code == 0 and methods == ["attention", "confidence"] and "run directory" in err
    code, out, _ = run("report", folder, "-o", tmp_path / "r.html", "--json")
    assert code == 0 and strict(out)["bytes"] == (tmp_path / "r.html").stat().st_size


def test_models_methods_worlds_and_claims_complete(tmp_path, monkeypatch):
    assert complete_model("lab/reasoner") == ["lab/reasoner", "lab/reasoner-b", "lab/reasoner-char"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert complete_model("mi") == ["mine"]
    assert complete_methods("resample,at") == ["resample,attention"] and "forced" in complete_methods("")
    asked = {"_ANCHORS_COMPLETE": "complete_bash", "COMP_WORDS": "anchors experiment C1", "COMP_CWORD": "2"}
    script = "import sys; sys.argv = ['anchors']; from anchors.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", script], env={**os.environ, **asked}, capture_output=True, check=False)
    assert ran.stdout.decode().split() == ["C1", "C10", "C11"]


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_scoring_shows_the_method_the_rate_the_time_left_and_the_tokens(monkeypatch, checkpoints, problem_trace):
    tiny, shown = load_model(checkpoints["llama"]), Tty()
    monkeypatch.setattr(sys, "stderr", shown)
    list(score_traces([problem_trace], tiny, methods="attention,suppress,confidence"))
    said = shown.getvalue()
    for part in ("attention", "suppression", "confidence", "suppress: ", "3/3", "score/s", "tokens read"):
        assert part in said, part
    read = 3 * len(tiny.encode(problem_trace.text).ids)
    assert f"{read:,} tokens read" in said
    quiet = Tty()
    monkeypatch.setattr(sys, "stderr", quiet)
    list(scoring.score_traces([problem_trace], tiny, methods="suppress", progress=False))
    assert quiet.getvalue() == ""


def test_models_report_what_they_generate_and_read(monkeypatch, problem_trace):
    from tqdm.auto import tqdm

    reasoner, shown = load_model("lab/reasoner"), Tty()
    monkeypatch.setattr(sys, "stderr", shown)
    with tqdm(total=1) as bar, watched(bar) as spent:
        rollouts = resample(problem_trace, reasoner, n=1, seed=0, progress=False)
        drawn = rollouts.cost().tokens
        assert spent.generated == drawn > 0
        reasoner.score([problem_trace.text], [len(problem_trace.prompt)])
    assert spent.read >= len(reasoner.encode(problem_trace.text).ids)
    assert f"{drawn:,} tokens generated, {spent.read:,} tokens read" in shown.getvalue()
    before = (spent.generated, spent.read)
    reasoner.score([problem_trace.text], [len(problem_trace.prompt)])
    assert (spent.generated, spent.read) == before, "a closed bar counts no more"


def test_transfer_shows_the_rate_the_time_left_and_the_tokens_and_writes_its_page(run, monkeypatch, tmp_path):
    traces, folder = tmp_path / "t.jsonl", tmp_path / "run"
    run("write", "Find 3 + 4 * 2 modulo 10.", "--model", "lab/reasoner", "-o", traces, "-q")
    run("score", traces, "--model", "lab/reasoner", "--out", folder, "--methods", "forced", "-q")
    trace, shown = Rollouts.open(folder)[0].trace, Tty()
    values = np.arange(len(trace)) == 2
    scores = Scores.of(trace, "forced", values.astype(float), p=1 - 0.99999 * values)
    scores.save(scores_folder(folder, trace) / "forced.npz")
    words = ("transfer", folder, "--reader", "lab/reasoner-b", "--method", "forced", "--relaxed")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", shown)
        code, _, _ = run(*words, "--report", tmp_path / "m.html")
    said = shown.getvalue()
    assert code == 0 and "reading by lab/reasoner-b" in said and "1/1" in said
    assert "Gate, fixed before the run" in (tmp_path / "m.html").read_text("utf-8")
    assert re.search(r"[\d.]+(s/)? traces(/s)?, .*[1-9][\d,]* tokens read", said)


def test_the_table_fits_80_columns_and_cuts_no_heading(problem_trace):
    values = np.linspace(-1, 1, len(problem_trace))
    long = Scores.of(problem_trace, "suppression", values, low=values - 0.1, high=values + 0.1)
    console = Console(width=80, file=io.StringIO(), record=True, no_color=True)
    console.print(top_sentences(problem_trace, [long]))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in "".join(lines[:8])
    words = " ".join(" ".join(lines).split())
    assert "nats of answer log-probability" in words
