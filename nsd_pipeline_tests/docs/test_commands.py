"""What the pages tell to type: it runs, or the page says that it is not run."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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


@pytest.fixture
def shell(workplace: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run lines in bash in a clone's folder, where the demo has been made."""
    for name in ("nsd_pipeline", "docs", "pyproject.toml", "dagster.yaml"):
        (workplace / name).symlink_to(ROOT / name)
    (workplace / ".dagster").mkdir()
    (workplace / ".dagster/dagster.yaml").symlink_to(ROOT / "dagster.yaml")
    (workplace / "demo_data").mkdir()
    (workplace / "demo_data/nsd").symlink_to(workplace / "nsd")
    (workplace / "demo_data/tiny_dinov2").symlink_to(workplace / "encoder")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(workplace / "home"),
        "DAGSTER_HOME": str(workplace / ".dagster"),
        "NSD_SOURCE": str(workplace / "nsd"),
        "NSD_STORAGE": str(workplace / "artifacts"),
    }

    def run(lines: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-euo", "pipefail", "-c", lines]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.parametrize(
    ("page", "block"), [pytest.param(*each, id=each[0].stem) for each in blocks("console")]
)
def test_commands_run(
    page: Path, block: str, shell: Callable[[str], subprocess.CompletedProcess[str]]
) -> None:
    commands = re.findall(r"^\$ ((?:.*\\\n)*.*)", block, re.MULTILINE)
    assert commands, f"{page.name} has a block without a command"
    done = shell("\n".join(commands))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_newcomers_first_quarter_of_an_hour(
    shell: Callable[[str], subprocess.CompletedProcess[str]], workplace: Path
) -> None:
    _, _, after_the_demo = (ROOT / "docs/newcomer.sh").read_text().partition("bin/activate\n")
    # The small dataset's embeddings were made under another name of the encoder: they are stale.
    done = shell(after_the_demo.replace("\nnsd status\n", "\nnsd status || true\n"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^one_session \d of 6 test trials", done.stdout, re.MULTILINE)
    assert "one_session,subj01" in done.stdout, "the report compares it"
    assert {path.name for path in workplace.glob("*.png")} == {
        "retrieved_subj01_ses01_1.png",
        "among_mine.png",
    }


@pytest.mark.parametrize(
    ("page", "block"), [pytest.param(*each, id=each[0].stem) for each in blocks("python")]
)
def test_python_runs(page: Path, block: str, workplace: Path) -> None:
    exec(compile(block, str(page), "exec"), {})
