import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsd_pipeline_tests.soak.effort import SEED
from nsd_pipeline_tests.storage.conftest import _own_home
from nsd_pipeline_tests.storage.servers import moto_server

__all__ = ["_own_home", "moto_server"]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder without a disk behind it, where there is one: nothing here needs to last."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Write down what was tried; ``make soak`` prints it."""
    lines: list[str] = request.config.stash.setdefault(_FIGURES, [])

    def note(what: str, cases: int, seconds: float, **more: object) -> None:
        extra = "".join(f", {name} {value}" for name, value in more.items())
        lines.append(f"{what:<40}{cases:>8} in {seconds:6.0f} s{extra}")

    return note


_FIGURES = pytest.StashKey[list[str]]()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = config.stash.get(_FIGURES, [])
    if lines and "not soak" not in config.getoption("markexpr"):
        terminalreporter.section(f"soak, NSD_SOAK_SEED={SEED}")
        for line in lines:
            terminalreporter.line(line)
