"""The check of a GPU, on the CPU backend: whoever has a GPU is not to find out that it fails."""

from click.testing import CliRunner

from benchmarks import gpu_check, gpu_same
from benchmarks.gpu_inputs import Line


def test_every_section_of_the_check_runs(tmp_path, monkeypatch):
    """What fails is told, and what follows is measured; two processes have a test of their own."""

    def fail(*_):
        yield Line("begun", "")
        raise RuntimeError("no such card")

    monkeypatch.setattr(gpu_same, "processes", fail)
    page = tmp_path / "gpu.md"
    done = CliRunner().invoke(gpu_check.main, ["--small", "--device", "cpu", "--page", str(page)])
    assert done.exit_code == 1
    assert "Error: not as it should be: several cards\n" in done.output
    lines = page.read_text().splitlines()
    assert "| several cards | failed: RuntimeError('no such card') | no failure | no |" in lines
    assert sum(line.endswith("| yes |") for line in lines) == 28
    assert lines[-1].startswith("| training, predicting, metrics | ")


def test_what_no_time_is_left_for_is_said(tmp_path):
    page = tmp_path / "gpu.md"
    done = CliRunner().invoke(
        gpu_check.main, ["--small", "--device", "cpu", "--minutes", "-1", "--page", str(page)]
    )
    assert done.exit_code == 0
    assert page.read_text().count("not run: no time was left") == 8
