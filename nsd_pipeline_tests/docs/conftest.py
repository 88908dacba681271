"""A shell in which the commands of the pages are run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Shell = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(workplace: Path) -> Shell:
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
