"""What no module may do: unpickle, run a shell or text, trust a repository's code, unpack an archive to where it says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FILES = sorted(
    path for folder in ("anchors", "benchmarks") for path in (Path(__file__).parents[2] / folder).rglob("*.py")
)
NEVER = {"eval", "exec", "__import__"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "tarfile", "yaml", "pty"}
ERRORS = {("pickle", "UnpicklingError")}


def offences(tree: ast.AST, *, library: bool) -> list[str]:
    """Forbidden calls, options and imports of a module."""
    found = []
    for node in ast.walk(tree):
        where = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            found += [f"{where}: import {a.name}" for a in node.names if a.name.split(".")[0] in MODULES]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            names = [a.name for a in node.names if (node.module, a.name) not in ERRORS]
            found += [f"{where}: from {node.module} import {name}" for name in names]
        if isinstance(node, ast.Call):
            found += [f"{where}: {what}" for what in _call(node, library)]
    return found


def _call(node: ast.Call, library: bool) -> list[str]:
    name = ast.unparse(node.func)
    said = {k.arg: ast.unparse(k.value) for k in node.keywords}
    found = []
    if name in NEVER or name in ("os.system", "os.popen") or name.startswith("os.spawn"):
        found.append(name)
    if said.get("shell") == "True" or (library and name.startswith("subprocess.")):
        found.append(f"{name} with a shell or from the library")
    if library and "True" in (said.get("trust_remote_code"), said.get("allow_pickle")):
        found.append(f"{name} trusts what it reads")
    if name == "torch.load" and said.get("weights_only") != "True":
        found.append("torch.load of any object")
    if library and name.endswith(("extractall", "unpack_archive")):
        found.append(name)
    return found


@pytest.mark.parametrize("code", [
    "import pickle", "from pickle import loads", "eval('1')", "import os\nos.system('x')",
    "subprocess.run('x', shell=True)", "torch.load(p)", "np.load(p, allow_pickle=True)", "f(trust_remote_code=True)",
])  # fmt: skip
def test_the_scan_sees_an_offence(code):
    assert offences(ast.parse(code), library=True)


def test_no_module_does_it():
    assert len(FILES) > 150
    root = Path(__file__).parents[2]
    for path in FILES:
        library = path.relative_to(root).parts[0] == "anchors"
        found = offences(ast.parse(path.read_text(encoding="utf-8")), library=library)
        assert not found, f"{path}: {found}"
