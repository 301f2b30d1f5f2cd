"""The command line as a stranger uses it: results, machine-readable output, resuming, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anchors.commands.transfer import _writer
from anchors.datasets import load_traces
from anchors.extras import MissingExtra
from anchors.models import load_model
from anchors.resampling import write_traces
from anchors.rollouts import Rollouts, Store
from anchors.scores import Scores
from anchors.scoring import score_traces
from anchors.trace import Trace


@pytest.fixture
def traces(problem_trace, tmp_path):
    other = Trace.from_text(problem_trace.prompt, problem_trace.before(8)[len(problem_trace.prompt) :], answer="3")
    path = tmp_path / "traces.jsonl"
    path.write_text("\n".join(json.dumps(t.to_json()) for t in (problem_trace, other)))
    return path


SHORT = ("--temperature", "1", "--top-p", "1", "--max-new-tokens", "12", "-n", "4", "-q")


def test_score_writes_a_run_that_report_reads(run, checkpoints, traces, tmp_path):
    model, folder = checkpoints["llama"], tmp_path / "run"
    code, out, _ = run("score", traces, "--model", model, "--out", folder, *SHORT)
    assert code == 0
    assert "counterfactual" in out and "suppression" in out and "run directory" in out
    assert [r.cost().rollouts for r in Rollouts.open(folder)] == [4 * 16, 4 * 9]
    stored = sorted(path.name for path in (folder / "scores").rglob("*.npz"))
    assert stored.count("counterfactual.npz") == 2
    assert all(isinstance(Scores.load(path), Scores) for path in (folder / "scores").rglob("*.npz"))
    code, out, _ = run("report", folder, "-o", tmp_path / "r.html")
    assert code == 0 and len(out.split()) == 2
    assert all(Path(path).read_text().startswith("<!doctype html>") for path in out.split())


@pytest.fixture(scope="module")
def lab_run(tmp_path_factory):
    """A run of lab/reasoner with rollouts and scores of two traces, each with matched anchors."""
    folder = tmp_path_factory.mktemp("lab") / "run"
    model = load_model("lab/reasoner")
    questions = ["Find 2 + 3 * 4 - 8 * 2 modulo 10.\n<think>\n", "Find 9 - 4 * 7 + 2 * 6 modulo 10.\n<think>\n"]
    written = write_traces(questions, model, seed=5)
    list(score_traces(written, model, n=40, methods="resample,suppress", out=folder, progress=False))
    return folder


CHEAP = ("--reader", "lab/reasoner-b", "--relaxed", "-k", "2", "-n", "6", "-q")


@pytest.mark.slow
def test_transfer_reads_a_run_and_the_same_command_continues(run, lab_run, tmp_path):
    words = ("transfer", lab_run, *CHEAP)
    code, out, _ = run(*words, "--out", tmp_path / "found.json")
    assert code == 0 and out.startswith("lab/reasoner -> lab/reasoner-b: ") and "in the writer: d = " in out
    records = {path: path.stat().st_mtime_ns for path in (lab_run / "transfer").glob("*.json")}
    assert len(records) == 2
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["operation"] for row in found["retention"]] == ["delete", "block"]
    assert found["details"]["calipers"]["category"] is False and found["outcome"] == "forced"
    code, again, _ = run(*words, "--json")
    assert code == 0 and json.loads(again) == found
    assert records == {path: path.stat().st_mtime_ns for path in (lab_run / "transfer").glob("*.json")}


@pytest.mark.slow
def test_transfer_takes_stored_scores_operations_and_an_answer(run, lab_run):
    words = ("--method", "suppression", "--operations", "block", "--controls", "2", "--answer", "own", "--json")
    code, out, _ = run("transfer", lab_run, *CHEAP, *words)
    found = json.loads(out)
    assert code == 0 and found["method"] == "suppression" and [r["operation"] for r in found["retention"]] == ["block"]
    code, out, _ = run("transfer", lab_run, *CHEAP, "--answer", "11", "--json")
    assert code == 0 and json.loads(out)["traces"] + len(json.loads(out)["excluded"]) == 2


@pytest.mark.slow
def test_transfer_refuses_wrong_use_with_one_line(run, lab_run, checkpoints):
    for words, message in (
        (("--reader", "lab/reasoner"), "writer and reader are the same model"),
        (("--reader", "lab/reasoner-b", "--outcome", "guess"), "outcome is 'guess'"),
        (("--reader", "lab/reasoner-b", "--preset", "closest"), "preset is 'closest'"),
        (("--reader", "lab/reasoner-b", "--operations", "erase"), "operation 'erase' is unknown"),
        (("--reader", "lab/reasoner-b", "--method", "confidence"), "no confidence scores in"),
    ):
        code, _, err = run("transfer", lab_run, *words, "-q")
        assert code == 2 and message in err and "Traceback" not in err


def test_transfer_does_not_take_other_weights_for_the_writer(lab_run):
    rollouts = Rollouts.open(lab_run)[0]
    assert _writer(rollouts, None).name == "lab/reasoner"
    other = Rollouts(Store(None, {"model": "lab/reasoner", "weights": "0000"}), rollouts.trace)
    assert _writer(other, None) is None
    assert _writer(Rollouts(Store(None, {"model": "lab/nobody"}), rollouts.trace), None) is None
    assert _writer(other, "lab/reasoner-b").name == "lab/reasoner-b"


def test_compress_keeps_a_budget_by_the_stored_anchors(run, lab_run):
    code, out, _ = run("compress", lab_run, "--budget", "0.4", "--reader", "lab/reasoner-b", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(rows) == 2
    for row, rollouts in zip(rows, Rollouts.open(lab_run), strict=True):
        assert row["tokens"] <= 0.4 * row["full_tokens"] and row["share"] == row["tokens"] / row["full_tokens"]
        texts = [rollouts.trace.sentences[i].text for i in row["kept"]]
        assert row["reasoning"].split() == " ".join(texts).split() and row["counted"] == "tokens of lab/reasoner-b"
    code, out, _ = run("compress", lab_run, "--method", "random", "--marker", "--budget", "0.5")
    assert code == 0 and "[SKIP]" in out and "characters (no reader was given)" in out


def test_compress_all_is_a_table_of_what_can_be_computed(run, lab_run):
    code, out, _ = run("compress", lab_run, "--all", "--leak", "strip")
    assert code == 0 and out.count("at most 30% of") == 2 and "words" in out
    assert "left out: compressor 'tts' needs reader" in out
    code, out, _ = run("compress", lab_run, "--all", "--json")
    found = json.loads(out.splitlines()[0])
    assert {"anchors", "first", "equations"} <= {row["method"] for row in found["compressed"]}
    assert "tts" in found["left out"]


def test_compress_refuses_wrong_use_with_one_line(run, lab_run, tmp_path):
    for words, message in (
        ((lab_run, "--method", "magic"), "compressor 'magic' is unknown"),
        ((lab_run, "--budget", "2"), "budget is 2.0"),
        ((lab_run, "--all", "--leak", "perhaps"), "leak is 'perhaps'"),
        ((lab_run, "--scores", "forced"), "no forced scores of trace"),
        ((lab_run, "--method", "tts"), "needs reader"),
        ((tmp_path,), "is not a run directory"),
    ):
        code, _, err = run("compress", *words)
        assert code == 2 and message in err and "Traceback" not in err


def test_json_output_is_machine_readable_and_resuming_agrees(run, checkpoints, traces, tmp_path):
    words = ("score", traces, "--model", checkpoints["llama"], "--out", tmp_path / "run", "--json", *SHORT)
    code, first, err = run(*words)
    assert code == 0 and "run directory" in err
    records = [json.loads(line) for line in first.splitlines()]
    assert len(records) == 2
    assert {s["method"] for s in records[0]["scores"]} >= {"resampling", "attention", "confidence"}
    assert run(*words)[1] == first


def test_dry_run_prints_the_bill_and_leaves_nothing(run, checkpoints, traces, tmp_path):
    words = ("score", traces, "--model", checkpoints["llama"], "--out", tmp_path / "run", "--dry-run", "--price", "3")
    code, out, _ = run(*words, *SHORT)
    assert code == 0 and out.startswith("100 rollouts (0 more stored), about") and "at the given price" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "command, method", [("suppress", "suppression"), ("attend", "attention"), ("confidence", "confidence")]
)
def test_single_method_commands(run, checkpoints, traces, tmp_path, command, method):
    code, out, _ = run(command, traces, "--model", checkpoints["gpt2"], "--out", tmp_path / "run", "--json", "-q")
    assert code == 0
    assert {s["method"] for line in out.splitlines() for s in json.loads(line)["scores"]} == {method}


def test_wrong_use_exits_2_with_one_line(run, checkpoints, traces, tmp_path):
    model = checkpoints["llama"]
    for words, message in (
        (("score", tmp_path / "absent.jsonl", "--model", model, "--out", tmp_path / "run"), "absent.jsonl"),
        (("score", traces, "--model", "lab/nobody", "--out", tmp_path / "run"), "no lab model is called 'nobody'"),
        (
            ("score", traces, "--model", model, "--out", tmp_path / "run", "--methods", "magic"),
            "no method is called 'magic'",
        ),
        (("report", tmp_path, "-o", tmp_path / "r.html"), "is not a run directory"),
    ):
        code, _, err = run(*words)
        assert code == 2 and message in err and "Traceback" not in err
    assert run("score", traces)[0] == 2


def test_check_prints_every_check_and_fails_with_them(run, checkpoints, monkeypatch):
    code, out, _ = run("check", checkpoints["qwen3"])
    assert code == 0 and out.count("ok  ") == 9
    import torch

    def everything(call, past, view):
        return torch.nn.functional.scaled_dot_product_attention(call.query, call.key, call.value, enable_gqa=True)

    monkeypatch.setattr("anchors.models.attention_pass.attend_view", everything)
    code, out, _ = run("check", checkpoints["qwen3"])
    assert code == 1 and "FAIL causality" in out


def test_lab_sample_writes_traces_that_score_reads(run, tmp_path):
    code, out, _ = run("lab", "sample", "--seed", "5", "--count", "3")
    assert code == 0
    traces = [Trace.from_json(json.loads(line)) for line in out.splitlines()]
    assert len({t.id for t in traces}) == 3
    assert all(t.answer is not None and t.categories[0] == "problem_setup" for t in traces)


def test_lab_truth_prints_exact_importance_and_roles(run, tmp_path):
    for world, form in (("expression", "verbose"), ("alchemy", "draft"), ("recall", "verbose"), ("maze", "verbose")):
        (tmp_path / "traces.jsonl").write_text(run("lab", "sample", "--world", world, "--format", form)[1])
        code, out, _ = run("lab", "truth", tmp_path / "traces.jsonl", "--json")
        rows = json.loads(out)["sentences"]
        assert code == 0 and {row["role"] for row in rows} <= {"anchor", "needed", "restatement", "filler", "decoy"}
        assert rows[-1]["p_after"] > 0 and all(abs(r["p_after"] - r["p_before"] - r["resampling"]) < 1e-9 for r in rows)
    code, out, _ = run("lab", "truth", tmp_path / "traces.jsonl")
    assert code == 0 and "exact importance" in out
    (tmp_path / "other.jsonl").write_text(
        json.dumps(Trace.from_text("2 + 2?", "It is four now.", answer="4").to_json())
    )
    changed = run("lab", "sample", "--knob", "slip=0", "--knob", "check=0.9", "--seed", "4")[1]
    (tmp_path / "changed.jsonl").write_text(changed)
    rows = json.loads(run("lab", "truth", tmp_path / "changed.jsonl", "--json")[1])["sentences"]
    steps = [row for row in rows if " = " in row["text"] and row["role"] == "needed"]
    assert steps and all(abs(row["counterfactual"] or 0) < 1e-9 for row in steps[-1:])
    code, _, err = run("lab", "truth", tmp_path / "other.jsonl")
    assert code == 2 and "does not name its world; give --world" in err
    code, _, err = run("lab", "truth", tmp_path / "other.jsonl", "--world", "maze")
    assert code == 2 and "is not a question of" in err


def test_lab_list_and_show_name_models_and_worlds(run):
    code, out, _ = run("lab", "list")
    assert code == 0 and "lab/reasoner\t" in out and "world alchemy\t" in out
    assert run("lab", "show", "reasoner")[1].startswith("# lab/reasoner")
    assert json.loads(run("lab", "show", "lab/reasoner", "--json")[1])["recipe"]["world"] == "expression"
    assert "| setup |" in run("lab", "show", "recall")[1]
    assert run("lab", "show", "nobody")[0] == 2


def test_lab_knobs_and_recipes_are_read_and_refused(run, tmp_path):
    code, out, _ = run("lab", "sample", "--knob", "length=[3,3]", "--knob", "slip=0")
    assert code == 0 and len(json.loads(out)["prompt"].split()) == 9
    for words, message in (
        (("sample", "--knob", "length"), "is not NAME=VALUE with a JSON value"),
        (("sample", "--knob", "speed=1"), "has no knob 'speed'"),
        (("sample", "--knob", "length=3"), "knob length of `expression` is 3"),
        (("sample", "--knob", 'slip="x"'), "it is of the kind of its default 0.04"),
        (("sample", "--knob", "slip=2"), "it is a probability, between 0 and 1"),
        (("sample", "--knob", 'format="draft"'), "use --format draft"),
        (
            ("sample", "--world", "alchemy", "--knob", 'tasks=[["rotate","jump"]]'),
            "it holds sequences of rotate, shift, reverse",
        ),
        (("train", tmp_path / "x", "--recipe", "nobody"), "no recipe is called 'nobody'; there are reasoner"),
        (("train", tmp_path / "x", "--regime", "upside_down"), "regime 'upside_down' is unknown"),
    ):
        code, _, err = run("lab", *words)
        assert code == 2 and message in err and "Traceback" not in err


def test_a_smaller_batch_changes_no_number(run, traces, checkpoints, tmp_path):
    words = ("score", traces, "--model", checkpoints["llama"], "--json", "--methods", "resample", *SHORT)
    one, other = (
        [json.loads(line)["scores"] for line in run(*words, "--out", tmp_path / name, *more)[1].splitlines()]
        for name, more in (("whole", ()), ("small", ("--batch-size", 2)))
    )
    assert one == other
    assert run(*words, "--out", tmp_path / "none", "--batch-size", 0)[0] == 2


def test_score_with_reuse_keeps_the_values_honest_about_it(run, traces, checkpoints, tmp_path):
    words = ("--model", checkpoints["llama"], "--out", tmp_path / "run", "--json", "--methods", "resample", *SHORT)
    plain, reused = (
        json.loads(run("score", traces, *words, *more)[1].splitlines()[0])["scores"] for more in ((), ("--reuse",))
    )
    assert [s["method"] for s in plain] == [s["method"] for s in reused]
    assert [s["details"].get("reuse") for s in reused] == [True, True, None]
    assert [s["details"].get("reuse") for s in plain] == [False, False, None]


def test_a_method_that_cannot_score_a_trace_leaves_the_others(run, checkpoints, tmp_path):
    one = Trace.from_text("Find 1 + 1.\n<think>\n", "We need 1.\n</think>\nThe answer is 2.")
    one.save(tmp_path / "one.json")
    words = ("--model", checkpoints["llama"], "--out", tmp_path / "run", "--json")
    code, out, _ = run("score", tmp_path / "one.json", *words, *SHORT)
    assert code == 0
    methods = {s["method"] for s in json.loads(out)["scores"]}
    assert "attention" not in methods and {"resampling", "suppression", "confidence"} <= methods


def test_write_takes_a_prompt_or_a_file_of_many(run, tmp_path):
    lines = [{"prompt": "Find 2 + 3 * 4 modulo 10.", "target": "4"}, {"prompt": "Find 8 - 1 * 5 * 6 modulo 10."}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, out, _ = run("write", tmp_path / "prompts.jsonl", "-m", "lab/reasoner", "-o", tmp_path / "many.jsonl")
    assert code == 0 and out.count("sentences") == 2 and "target 4" in out
    run("write", lines[1]["prompt"], "-m", "lab/reasoner", "-o", tmp_path / "one.jsonl")
    many, one = (load_traces(tmp_path / name) for name in ("many.jsonl", "one.jsonl"))
    assert many[1].text == one[0].text and many[0].target == "4"
    (tmp_path / "bad.jsonl").write_text('{"question": "?"}')
    code, _, err = run("write", tmp_path / "bad.jsonl", "-m", "lab/reasoner", "-o", tmp_path / "x.jsonl")
    assert code == 2 and "every line needs a prompt" in err


def test_ctrl_c_ends_with_one_line_and_exit_1(run, checkpoints, traces, tmp_path, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("anchors.scoring.resample_traces", interrupt)
    code, _, err = run("score", traces, "--model", checkpoints["llama"], "--out", tmp_path / "run", *SHORT)
    assert code == 1 and "interrupted; finished rollouts are stored" in err and "Traceback" not in err


def test_a_missing_extra_is_named_in_one_line(run, traces, checkpoints, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"pandas is not installed; run: pip install 'anchors\[tables\]'"):
        Scores.of(load_traces(traces)[0], "x", np.zeros(15)).to_dataframe()
