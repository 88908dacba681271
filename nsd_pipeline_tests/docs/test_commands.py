"""What the pages tell to type: it runs, or the page says that it is not run."""

import re
from pathlib import Path

import pytest

from nsd_pipeline_tests.docs.conftest import ROOT, Shell

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = "not run"
# Pages whose own tests drive what they show.
ELSEWHERE = ("decoders.md", "statistics.md")


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
def test_commands_run(page: Path, block: str, shell: Shell) -> None:
    commands = re.findall(r"^\$ ((?:.*\\\n)*.*)", block, re.MULTILINE)
    assert commands, f"{page.name} has a block without a command"
    done = shell("\n".join(commands))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("page", "block"), [pytest.param(*each, id=each[0].stem) for each in blocks("python")]
)
def test_python_runs(page: Path, block: str, workplace: Path) -> None:
    exec(compile(block, str(page), "exec"), {})
