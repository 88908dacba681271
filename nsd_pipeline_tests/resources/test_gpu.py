"""Assets that compute on a GPU hold one while they do, also where no launcher gave them one."""

import os
from pathlib import Path

import dagster as dg
import pytest

from nsd_pipeline.definitions import defs
from nsd_pipeline.errors import NsdError
from nsd_pipeline.launchers.base import GPU_POOL
from nsd_pipeline.launchers.devices import LEASE_ENV, Device, try_lock
from nsd_pipeline.resources import GpuResource


@pytest.fixture(autouse=True)
def one_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSD_GPU_LOCKS", str(tmp_path))
    monkeypatch.setenv("NSD_GPU_DEVICES", "0")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv(LEASE_ENV, raising=False)


def test_the_gpu_pool_is_of_the_assets_that_take_a_lease() -> None:
    pooled, leasing = set(), set()
    for asset in defs.resolve_asset_graph().assets_defs:
        if asset.keys and isinstance(asset.node_def, dg.OpDefinition):
            name = asset.key.to_user_string()
            pooled |= {name} if asset.node_def.pool == GPU_POOL else set()
            leasing |= {name} if "gpu" in asset.required_resource_keys else set()
    assert pooled == leasing
    assert {"stimulus_embeddings", "fmri_mlp", "retrieval_metrics", "ridge_model"} < pooled


def test_the_device_is_held_for_the_block_and_no_longer() -> None:
    with GpuResource(timeout=0).lease() as device:
        assert device in ("cpu", "cuda:0")  # it depends on torch whether it can use the device
        assert try_lock(Device("0")) is None
        with pytest.raises(NsdError, match="No GPU became free"), GpuResource(timeout=0).lease():
            pass
    descriptor = try_lock(Device("0"))
    assert descriptor is not None
    os.close(descriptor)


def test_a_device_from_the_launcher_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = try_lock(Device("0"))  # by the launcher, for this very run
    assert descriptor is not None
    monkeypatch.setenv(LEASE_ENV, "0")
    with GpuResource(timeout=0).lease() as device:
        assert device in ("cpu", "cuda:0")
    os.close(descriptor)


def test_without_a_gpu_torch_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSD_GPU_DEVICES", "")
    monkeypatch.setenv("PATH", "")
    with GpuResource(timeout=0).lease() as device:
        assert device is None
