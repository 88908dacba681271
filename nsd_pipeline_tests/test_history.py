"""Four shells at once on a new DAGSTER_HOME."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

import nsd_pipeline
from nsd_pipeline.cli import main
from nsd_pipeline.history import open_history

# All have imported Dagster before the first begins: what follows is what they would do at once.
PREPARE = """
import os, sys, nsd_pipeline.history
from nsd_pipeline.cli import main
for home in sys.argv[1:]:
    os.environ["DAGSTER_HOME"] = home
    print("ready", flush=True)
    sys.stdin.readline()
    main(["prepare"], standalone_mode=False)
"""


def test_four_processes_at_once_prepare_one_history_each_time(tmp_path: Path) -> None:
    homes = [tmp_path / str(number) for number in range(4)]
    shells = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, *map(str, homes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    try:
        for _ in homes:
            for shell in shells:
                assert shell.stdout is not None
                while (line := shell.stdout.readline()) != "ready\n":
                    assert line, shell.communicate()[1]
            for shell in shells:
                assert shell.stdin is not None
                shell.stdin.write("\n")
                shell.stdin.flush()
        for shell in shells:
            _, errors = shell.communicate(timeout=60)
            assert shell.returncode == 0, errors
    finally:
        for shell in shells:
            shell.kill()
            shell.wait()
    for home in homes:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            assert instance.get_runs_count() == 0


def test_four_materializations_at_once_after_it(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("import dagster as dg\n@dg.asset\ndef one() -> None: ...\n")
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path / "home")}
    prepare = [sys.executable, "-c", "from nsd_pipeline.cli import main; main()", "prepare"]
    subprocess.run(prepare, env=environment, check=True)
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "--select", "one"]
    shells = [
        subprocess.Popen([*command, "-f", str(code)], env=environment, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for shell in shells:
        _, errors = shell.communicate(timeout=120)
        assert shell.returncode == 0, errors.decode()
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.SUCCESS}
        assert instance.get_runs_count() == 4


def test_nothing_of_ours_opens_the_history_past_the_lock() -> None:
    package = Path(nsd_pipeline.__file__).parent
    files = [path for path in package.rglob("*.py") if "DagsterInstance.get()" in path.read_text()]
    assert files == [package / "history.py"]


@pytest.mark.parametrize(
    ("home", "said"), [("", "is not set"), ("relative", "absolute path"), ("{file}", "Not a dir")]
)
def test_a_home_that_cannot_be_one_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str, said: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DAGSTER_HOME", home.format(file=tmp_path / "file" / "home"))
    result = CliRunner().invoke(main, ["prepare"])
    assert result.exit_code == 1
    assert said in result.output
    assert "Next step:" in result.output


def test_a_spoilt_history_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    open_history().dispose()
    (tmp_path / "history" / "runs.db").write_bytes(b"no database" * 100)
    for path in (tmp_path / "history").glob("runs.db-*"):
        path.unlink()
    result = CliRunner().invoke(main, ["prepare"])
    assert result.exit_code == 1
    assert str(tmp_path / "history") in result.output
    assert "move" in result.output


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a file system, and not in every container")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("begun", [False, True], ids=["new", "in use"])
def test_a_full_disk_is_said_to_be_full_and_spoils_nothing(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(small_disk))
    if begun:
        open_history().dispose()
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(free if begun else free - 2**16))  # some tables, not all of them
    full = CliRunner().invoke(main, ["prepare"])
    assert full.exit_code == 1
    assert f"The disk of DAGSTER_HOME ({small_disk}) is full" in full.output
    assert "Next step:" in full.output
    filler.unlink()
    assert CliRunner().invoke(main, ["prepare"]).exit_code == 0
