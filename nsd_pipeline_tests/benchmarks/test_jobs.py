"""Whole jobs beside what people run instead: what they take, and that they find what is planted."""

import sys

import numpy as np
import pytest

from benchmarks import jobs
from benchmarks.harness import BenchmarkError
from benchmarks.jobs_script import top5


def test_a_command_is_counted_by_itself(tmp_path):
    fill = "import pathlib; x = bytearray(150 << 20); pathlib.Path('made').write_bytes(x[:8192])"
    used = jobs.run_command([sys.executable, "-c", fill], tmp_path, {})
    assert used.peak_bytes > 150 << 20
    assert used.seconds > 0
    assert 8192 <= jobs.disk_bytes(tmp_path) < 1 << 20


def test_a_command_that_fails_says_what_it_printed(tmp_path):
    with pytest.raises(BenchmarkError, match="no such betas"):
        jobs.run_command([sys.executable, "-c", "raise SystemExit('no such betas')"], tmp_path, {})


def test_the_script_counts_images_that_are_among_the_five_nearest():
    the_same_for_all = np.tile(np.arange(8.0)[::-1], (8, 1))
    assert top5(the_same_for_all, np.eye(8), np.arange(8)) == 5 / 8
