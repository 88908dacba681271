"""Two processes never hold one device, and a killed one leaves none behind."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nsd_pipeline.errors import NsdError
from nsd_pipeline.launchers.devices import GpuLease

HOLD = """
import sys
from nsd_pipeline.launchers.devices import GpuLease
with GpuLease() as lease:
    print(lease.device, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def two_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSD_GPU_LOCKS", str(tmp_path))
    monkeypatch.setenv("NSD_GPU_DEVICES", "0,1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("NSD_GPU_LEASE", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def hold() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_leases_exclude_each_other_and_end_with_the_block() -> None:
    with GpuLease() as first, GpuLease() as second:
        assert (first.device, first.index) == ("0", 0)
        assert (second.device, second.index) == ("1", 1)
        with pytest.raises(NsdError, match="No GPU became free"):
            GpuLease(timeout=0).__enter__()
    with GpuLease(timeout=0) as again:
        assert again.device == "0"


def test_a_killed_process_leaves_no_device_behind(caplog: pytest.LogCaptureFixture) -> None:
    children = [hold(), hold()]
    try:
        names = [child.stdout.readline().strip() for child in children if child.stdout]
        assert sorted(names) == ["0", "1"]
        with pytest.raises(NsdError, match=f"pid {children[0].pid}"):
            GpuLease(timeout=0).__enter__()
        with caplog.at_level(logging.WARNING):
            waiting = GpuLease(timeout=20, poll=0.05)
            children[0].kill()
            with waiting:
                assert waiting.device == names[0]
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_a_waiting_lease_says_whom_it_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    with GpuLease(), GpuLease(), caplog.at_level(logging.WARNING), pytest.raises(NsdError):
        GpuLease(timeout=0.1, poll=0.05).__enter__()
    (record,) = caplog.records
    assert f"pid {os.getpid()}" in record.getMessage()


def test_a_lease_respects_what_the_launcher_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with GpuLease() as lease:
        assert (lease.device, lease.index) == ("1", 0)
        monkeypatch.setenv("NSD_GPU_LEASE", "1")
        with GpuLease(timeout=0) as within:
            assert (within.device, within.index) == ("1", 0)


def test_without_a_gpu_the_lease_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with GpuLease(timeout=0) as lease:
        assert (lease.device, lease.index) == (None, None)


def test_a_lease_costs_neither_dagster_nor_torch() -> None:
    code = (
        "import sys; from nsd_pipeline.launchers import GpuLease; "
        "sys.exit({'dagster', 'torch'} & set(sys.modules) != set())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
