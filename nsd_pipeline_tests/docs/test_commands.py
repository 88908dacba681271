"""What the pages tell to type: it runs, or the page says that it is not run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nsd_pipeline_tests.pipeline import SmallNsd

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = "not run"
# Pages whose own tests drive what they show.
ELSEWHERE = ("cli.md", "decoders.md", "statistics.md")


def blocks(language: str) -> list[tuple[Path, str]]:
    """Page and content of each fenced block that says nowhere that it is not run."""
    pattern = re.compile(rf"^( *)```{language}\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
    return [
        (page, match[2])
        for page in PAGES
        if page.name not in ELSEWHERE
        for match in pattern.finditer(page.read_text())
        if MARK not in match[2]
    ]


def test_commands_are_in_blocks_that_say_so() -> None:
    for page in PAGES:
        for line in page.read_text().splitlines():
            assert not re.match(r"    (\$ |dagster |nsd |make |python )", line), (page, line)


@pytest.mark.parametrize(
    ("page", "block"), [pytest.param(*each, id=each[0].stem) for each in blocks("console")]
)
def test_commands_run(page: Path, block: str, small_nsd: SmallNsd, tmp_path: Path) -> None:
    for name in ("nsd_pipeline", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").symlink_to(ROOT / "dagster.yaml")
    commands = "".join(
        line.removeprefix("$ ") + "\n"
        for line in block.splitlines()
        if line.startswith(("$ ", "    "))
    )
    assert commands, f"{page.name} has a block without a command"
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "DAGSTER_HOME": str(home),
        "NSD_SOURCE": str(small_nsd.folder),
        "NSD_ENCODER": str(small_nsd.encoder),
        "NSD_STORAGE": str(tmp_path / "artifacts"),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("page", "block"), [pytest.param(*each, id=each[0].stem) for each in blocks("python")]
)
def test_python_runs(page: Path, block: str, workplace: Path) -> None:
    exec(compile(block, str(page), "exec"), {})
