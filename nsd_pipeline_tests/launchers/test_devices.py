"""Which devices are seen, and how an inherited mask composes with a list."""

import pytest

from nsd_pipeline.errors import NsdError
from nsd_pipeline.launchers import devices
from nsd_pipeline.launchers.devices import Device, parse_nvidia_smi, visible_devices

LISTING = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-aaaa1111-0000-0000-0000-000000000000)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-bbbb2222-0000-0000-0000-000000000000)
  MIG 3g.40gb     Device  0: (UUID: MIG-cccc3333-0000-0000-0000-000000000000)
  MIG 3g.40gb     Device  1: (UUID: MIG-dddd4444-0000-0000-0000-000000000000)
GPU 2: NVIDIA A100-SXM4-80GB (UUID: GPU-eeee5555-0000-0000-0000-000000000000)
"""
FOUND = parse_nvidia_smi(LISTING)


def test_a_sliced_gpu_is_its_slices() -> None:
    slices = [f"MIG-{part}-0000-0000-0000-000000000000" for part in ("cccc3333", "dddd4444")]
    assert [device.name for device in FOUND] == ["0", *slices, "2"]


@pytest.mark.parametrize(
    ("listed", "mask", "visible"),
    [
        (None, None, ["0", FOUND[1].name, FOUND[2].name, "2"]),
        (None, "2,0", ["2", "0"]),
        (None, "GPU-eeee", ["2"]),
        (None, "0,-1,2", ["0"]),  # CUDA stops at the first entry it does not know
        (None, "", []),
        (None, "2,2", ["2"]),
        (["0", "2"], None, ["0", "2"]),
        (["0", "2"], "2", ["2"]),
        (["0", "2"], "GPU-eeee5555", ["2"]),
        (["GPU-aaaa1111"], "0", ["0"]),
        (["0"], "", []),
        (["0", "7"], None, ["0", "7"]),  # not found here: simulated
    ],
)
def test_visible(
    listed: list[str] | None, mask: str | None, visible: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "find_devices", lambda: FOUND)
    environment = {} if mask is None else {"CUDA_VISIBLE_DEVICES": mask}
    assert [device.name for device in visible_devices(listed, environment)] == visible
    if listed:
        environment["NSD_GPU_DEVICES"] = ",".join(listed)
        assert [device.name for device in visible_devices(None, environment)] == visible


def test_a_mask_that_hides_every_listed_device_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "find_devices", lambda: FOUND)
    with pytest.raises(NsdError, match="None of the listed GPUs"):
        visible_devices(["0"], {"CUDA_VISIBLE_DEVICES": "2"})


def test_one_device_has_one_lock_whatever_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_devices", lambda: FOUND)
    names = {
        visible_devices(listed, {})[0].lock_name for listed in (["2"], ["GPU-eeee5555"], ["GPU-e"])
    }
    assert len(names) == 1
    assert Device("2").lock_name not in names
