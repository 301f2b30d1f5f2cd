"""The documentation names what exists: every public module has its place, every page and identifier is there."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

import anchors

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
REFERENCE = [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.M)]


def test_every_public_module_is_in_the_reference():
    missing = [name for name in anchors._MODULES if f"anchors.{name}" not in REFERENCE]
    assert not missing


@pytest.mark.parametrize("name", REFERENCE)
def test_the_reference_names_what_exists(name):
    assert import_module(name).__doc__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert not [page.name for page in PAGES if str(page.relative_to(ROOT / "docs")) not in navigation]
