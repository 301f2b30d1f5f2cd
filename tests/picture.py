"""Make the picture and the transcript of the README from one run of the demonstration: `python -m tests.picture`.

1. `anchors demo --seed SEED` writes the report and says what it found.
2. Chromium takes the picture of that report, at its strongest anchor.
3. The transcript between the README's marks becomes what that run said.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from playwright.sync_api import ViewportSize, sync_playwright

from tests.reports import CHROMIUM

SEED = 5
ROOT = Path(__file__).parents[1]
SIZE = ViewportSize(width=1180, height=1500)
logger = logging.getLogger(__name__)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "from anchors.cli import main; main()", "demo", "-q", "--seed", str(SEED)]
        ran = subprocess.run([*command, "--out", "demo"], cwd=folder, capture_output=True, text=True, check=True)
        picture(Path(folder) / "demo" / "report.html", ROOT / "docs" / "report.png")
    transcript(ran.stdout)


def picture(report: Path, path: Path) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto(report.as_uri())
        page.wait_for_function("'ready' in document.documentElement.dataset")
        page.screenshot(path=path)
        browser.close()
    logger.info("%s", path)


def transcript(said: str) -> None:
    """The lines from "The model answered" to the report's path, folded at 100 characters."""
    lines = said[said.index("The model answered") : said.index("figures:")].rstrip().splitlines()
    folded = "\n".join(textwrap.fill(line, 100, subsequent_indent="    " if line[0] == " " else "") for line in lines)
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    pattern = re.compile(r"(`--seed )\d+(`\):\n\n```\n)The model answered.*?(\n```)", re.DOTALL)
    assert len(pattern.findall(text)) == 1, "the README has one transcript"
    readme.write_text(pattern.sub(lambda m: f"{m[1]}{SEED}{m[2]}{folded}{m[3]}", text), "utf-8")
    logger.info("%s", readme)


if __name__ == "__main__":
    main()
