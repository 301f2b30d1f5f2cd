"""The README's example runs as it stands, with fewer rollouts."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 13
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(code.replace("n=100", "n=12"), scope)
    assert (tmp_path / "first.html").stat().st_size > 20_000
    assert scope["moved"].reader == "lab/reasoner-b"
    assert len(scope["black"]) == len(scope["trace"])
    capsys.readouterr()
