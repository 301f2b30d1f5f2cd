"""Coverage-guided fuzzing with atheris: python benchmarks/fuzz.py TARGET --seconds 60 [--seed 1]

Targets: split, answers, readers, runs, report. Each raises when it finds anything but the errors a reader may give. The corpus is
kept in a temporary directory; the last line says how many inputs were tried.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import atheris

MEMORY = Path("/dev/shm")  # a run waits for its disk several times
SCRATCH = Path(tempfile.mkdtemp(prefix="anchors-fuzz-", dir=MEMORY if MEMORY.is_dir() else None))
WATCHED = [f"anchors.{name}" for name in ("splitting", "answers", "datasets", "exchange", "store", "trace", "report")]
with atheris.instrument_imports(include=WATCHED):
    from anchors import answers, datasets, exchange, splitting
    from anchors.report import page
    from anchors.trace import Trace


def words(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def split(data: bytes) -> None:
    """Spans tile any text, and aligning them finds them again."""
    text = words(data)
    for math_aware in (False, True):
        spans = splitting.split_sentences(text, math_aware=math_aware)
        assert "".join(text[a:b] for a, b in spans) == (text if text.strip() else "")
        if spans:
            assert len(splitting.align_sentences(text, [text[a:b] for a, b in spans])) == len(spans)


def answered(data: bytes) -> None:
    """An answer is found or not, equality is symmetric, and classes cover."""
    a, _, b = words(data).partition("|")
    found = answers.extract_answer(a)
    assert found is None or found.strip() == found != ""
    assert answers.same_answer(a, b) == answers.same_answer(b, a)
    assert len(answers.answer_classes([a, b])) == 2


def readers(data: bytes) -> None:
    """Any file is read or refused with a ValueError."""
    kind = ("json", "jsonl", "txt", "json.gz")[data[0] % 4 if data else 0]
    path = SCRATCH / f"x.{kind}"
    path.write_bytes(data[1:])
    try:
        for trace in datasets.load_traces(path):
            assert Trace.from_json(json.loads(json.dumps(trace.to_json()))).text == trace.text
    except ValueError:
        pass


def runs(data: bytes) -> None:
    """An exported run with some values replaced is read whole, or refused with a ValueError and nothing left."""
    given, records = atheris.FuzzedDataProvider(data), [json.loads(line) for line in RUN]
    for _ in range(given.ConsumeIntInRange(0, 3)):
        record = records[given.ConsumeIntInRange(0, len(records) - 1)]
        if isinstance(record, dict):
            name = given.PickValueInList([*record, "schema", "digest", "stop"])
            record[name] = given.PickValueInList([*ODD, given.ConsumeUnicode(8), given.ConsumeInt(8)])
        if given.ConsumeProbability() < 0.1:
            records.insert(0, given.PickValueInList([*records, *ODD]))
    path, out = SCRATCH / "x.jsonl", SCRATCH / "run"
    path.write_text("\n".join(map(json.dumps, records)) + given.ConsumeUnicode(3), encoding="utf-8", errors="replace")
    try:
        exchange.import_run(path, out=out)
        shutil.rmtree(out)
    except ValueError:
        assert not out.exists()


page.template = functools.cache(page.template)  # compiling it takes nine tenths of a report


def report(data: bytes) -> None:
    """No text breaks out of the page."""
    from tests.faults.test_output import assert_inert
    from tests.faults.test_output import report as written

    assert_inert(written(words(data).strip() or "a"))


TARGETS = {"split": split, "answers": answered, "readers": readers, "runs": runs, "report": report}
ODD = [None, True, -1, 0, 1.5, 2**70, float("inf"), float("nan"), "", "t", "\ud800", [], ["t"], {}, {"seed": 0}]
RUN = [
    '{"anchors":"run","format":1,"settings":{"seed":0},"traces":1,"rollouts":2}',
    '{"prompt":"Q","reasoning":"A b.","sentences":[{"index":0,"text":"A b.","start":0,"end":4}],"id":"t"}',
    '{"trace":"t","kind":"free","position":0,"sample":0,"tokens":3,"finish":"stop","text":"so 7","bytes":null}',
    '{"trace":"t","kind":"free","position":1,"sample":0,"tokens":3,"finish":"length","text":null,"bytes":"x+/f"}',
]
SEEDS = {
    "split": [b"Let x be 0.5. Then what? So 2x.\n\n1. Note $5! + 1$ e.g. \\(a. b\\) done."],
    "answers": [b"So \\boxed{\\frac{1}{2}}|0.5", b"#### 1,000|1000", b"the answer is **3.14**.|-(1/2)", b"5 apples|50\\%"],
    "readers": [b'\x00{"messages":[{"role":"assistant","content":"<think>a b c d e. f</think>7"}]}',
                b'\x01{"prompt":"q","text":"hello there you. ok","sentences":["hello there you.","ok"]}\n',
                b'\x00{"prompt":"","reasoning":"abc","sentences":[{"index":0,"text":"abc","start":0,"end":3}]}'],
    "runs": [b"", b"0123456789" * 4],
    "report": [b"</script><script>alert(1)</script>", b"{{ 7 }}<!-- \x1b[2J"],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    corpus = SCRATCH / "corpus"
    corpus.mkdir()
    for i, seed in enumerate(SEEDS[given.target]):
        (corpus / str(i)).write_bytes(seed)
    flags = [
        f"-max_total_time={given.seconds}",
        f"-seed={given.seed}",
        "-timeout=20",
        "-max_len=400",
        "-len_control=0",
        "-print_final_stats=1",
    ]
    crash = f"-artifact_prefix={SCRATCH}/"
    atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
    atheris.Setup([sys.argv[0], str(corpus), *flags, crash], TARGETS[given.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
