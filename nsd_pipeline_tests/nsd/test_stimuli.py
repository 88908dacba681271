"""Images arrive and are read as they are in the HDF5 file, however it is laid out."""

import io
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsd_pipeline.errors import ArtifactError, InvalidFileError
from nsd_pipeline.nsd.layout import STIMULI_KEY
from nsd_pipeline.nsd.stimuli import (
    IMAGE_BYTES,
    ImageReader,
    StimulusFile,
    download_images,
    image_ranges,
    mirror_index,
    part_index,
)
from nsd_pipeline.storage import open_source
from nsd_pipeline_tests.storage.servers import MotoServer, moto_server

__all__ = ["moto_server"]

N = 7
LAYOUTS = {
    "contiguous": {},
    "chunked": {"chunks": (3, 425, 425, 3)},
    "compressed": {"chunks": (1, 425, 425, 3), "compression": "gzip"},
}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (N, 425, 425, 3), np.uint8)


@pytest.fixture
def path(tmp_path, images):
    with h5py.File(tmp_path / "s.hdf5", "w", userblock_size=512) as file:
        file["imgBrick"] = images
    return tmp_path / "s.hdf5"


def test_a_contiguous_file_says_where_its_images_are(path, images):
    with StimulusFile(path) as stimuli:
        assert stimuli.n_images == N
        ranges = image_ranges(stimuli.contiguous_offset, [4, 0, 2])
    raw = path.read_bytes()
    cut = b"".join(raw[offset : offset + length] for offset, length in ranges)
    assert cut == images[[4, 0, 2]].tobytes()


@given(offset=st.integers(0, 2**20), ids=st.lists(st.integers(0, 72_999)))
def test_ranges_are_one_image_each_in_the_order_asked_for(offset, ids):
    ranges = image_ranges(offset, np.array(ids, int))
    assert ranges == [(offset + i * 541_875, 541_875) for i in ids]
    assert all(type(number) is int for pair in ranges for number in pair)


@pytest.mark.parametrize(
    "layout",
    [
        {"chunks": (1, 425, 425, 3)},
        {"chunks": (2, 64, 425, 3), "compression": "gzip", "compression_opts": 1},
    ],
    ids=["chunked", "compressed"],
)
def test_other_layouts_have_no_offset_but_are_read(tmp_path, images, layout):
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        file.create_dataset("imgBrick", images.shape, np.uint8, **layout)[:] = images
    with StimulusFile(tmp_path / "s.hdf5") as stimuli:
        assert stimuli.contiguous_offset is None
        np.testing.assert_array_equal(stimuli.read([3, 1]), images[[3, 1]])


@pytest.mark.parametrize("ids", [[2, 0, 2, 4], [], [1]])
def test_images_come_in_the_order_asked_for(path, images, ids):
    with path.open("rb") as file, StimulusFile(file) as stimuli:
        np.testing.assert_array_equal(stimuli.read(ids), images[np.array(ids, int)])


@pytest.mark.parametrize("image_id", [N, 72_999, -1])
def test_a_file_too_short_for_an_image_is_reported(path, image_id):
    with StimulusFile(path) as stimuli:
        with pytest.raises(InvalidFileError, match=f"too short: .* {N} images.* image {image_id} "):
            stimuli.read([0, image_id])
        stimuli.check_ids(range(N))


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "problem"),
    [
        ("images", (2, 425, 425, 3), np.uint8, "no dataset imgBrick; it has images"),
        ("imgBrick/x", (2, 425, 425, 3), np.uint8, "no dataset imgBrick; it has imgBrick"),
        ("imgBrick", (2, 425, 425, 3), np.int8, "holds int8, not uint8"),
        ("imgBrick", (2, 3, 425, 425), np.uint8, r"has shape \(2, 3, 425, 425\), not \(images"),
        ("imgBrick", (425, 425, 3), np.uint8, r"has shape \(425, 425, 3\)"),
        ("imgBrick", (), np.uint8, r"has shape \(\)"),
    ],
)
def test_a_file_of_another_kind_is_reported(tmp_path, name, shape, dtype, problem):
    path = tmp_path / "s.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset(name, shape, dtype)
    with pytest.raises(InvalidFileError, match=problem) as caught:
        StimulusFile(path)
    h5py.File(path, "w").close()  # fails while the file is open
    assert str(path) in caught.value.problem


@pytest.mark.parametrize("keep", [0, 100, 100_000, -1])
def test_a_truncated_file_is_reported(path, keep):
    file = io.BytesIO(path.read_bytes()[:keep])
    with pytest.raises(InvalidFileError, match=f"{STIMULI_KEY} is not a whole, readable HDF5"):
        StimulusFile(file)


def test_a_failing_connection_is_not_blamed_on_the_file(path):
    class Remote(io.BytesIO):
        connected = True

        def readinto(self, buffer):
            if not self.connected:
                raise ConnectionResetError("connection lost")
            return super().readinto(buffer)

    remote = Remote(path.read_bytes())
    with StimulusFile(remote) as stimuli:
        remote.connected = False
        with pytest.raises(ConnectionResetError):
            stimuli.read([0])
    with pytest.raises(ConnectionResetError):
        StimulusFile(remote)


def test_a_damaged_image_is_reported(tmp_path, images):
    path = tmp_path / "s.hdf5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(
            "imgBrick", data=images, chunks=(1, 425, 425, 3), fletcher32=True
        )
        offset = dataset.id.get_chunk_info(3).byte_offset
    raw = bytearray(path.read_bytes())
    raw[offset + IMAGE_BYTES // 2] ^= 1
    path.write_bytes(raw)
    with StimulusFile(path) as stimuli:
        np.testing.assert_array_equal(stimuli.read([2]), images[[2]])
        with pytest.raises(InvalidFileError, match=r"s\.hdf5 is not a whole, readable HDF5 file"):
            stimuli.read([3])


@pytest.mark.parametrize("where", ["a link", "external storage", "virtual"])
def test_data_of_another_file_is_refused(tmp_path, images, where, monkeypatch):
    """Whoever writes the file would choose which file of this machine is read."""
    monkeypatch.chdir(tmp_path)  # external files are named relative to it
    with h5py.File("other.hdf5", "w") as file:
        file["imgBrick"] = images
    with h5py.File("s.hdf5", "w") as file:
        match where:
            case "a link":
                file["imgBrick"] = h5py.ExternalLink("other.hdf5", "imgBrick")
            case "external storage":
                outside = [("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
                file.create_dataset("imgBrick", images.shape, np.uint8, external=outside)
            case _:
                layout = h5py.VirtualLayout(images.shape, np.uint8)
                layout[:] = h5py.VirtualSource("other.hdf5", "imgBrick", images.shape)
                file.create_virtual_dataset("imgBrick", layout)
    with pytest.raises(InvalidFileError, match=f"s.hdf5: imgBrick .*{where}"):
        StimulusFile("s.hdf5")


def test_a_chunk_larger_than_any_use_of_it_is_refused(tmp_path):
    """A file of some kilobytes: HDF5 would unpack a chunk of a gigabyte for one image."""
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        chunks = (2000, 425, 425, 3)
        file.create_dataset("imgBrick", chunks, np.uint8, chunks=chunks, compression="gzip")
    with pytest.raises(InvalidFileError, match=r"each takes 1\.1 GB of memory"):
        StimulusFile(tmp_path / "s.hdf5")


def write(path: Path, images: np.ndarray, layout: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("imgBrick", data=images, **LAYOUTS[layout])
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_from_a_bucket(
    layout: str,
    images: np.ndarray,
    moto_server: MotoServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NSD_ACCEPT_TERMS", "1")
    bucket = f"stimuli-{layout}"
    moto_server.client.create_bucket(Bucket=bucket, ACL="public-read")
    file = write(tmp_path / "stimuli.hdf5", images, layout)
    moto_server.put_public(bucket, STIMULI_KEY, file.read_bytes())
    source = open_source(f"s3://{bucket}", endpoint_url=moto_server.url)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    parts = {"a": np.array([1, 4, 5]), "b": np.array([0, 6])}
    for part, ids in parts.items():
        (tmp_path / part).mkdir()
        download_images(source, source.describe(STIMULI_KEY), ids, tmp_path / part, scratch)
    index = pd.concat([part_index(ids, part) for part, ids in parts.items()])
    read = ImageReader(index, lambda part: tmp_path / part, mirror=None)
    assert set(read.image_ids) == {0, 1, 4, 5, 6}
    wanted = np.array([6, 1, 5, 0, 1])
    np.testing.assert_array_equal(read(wanted), images[wanted])


def test_from_a_mirror_in_place(images: np.ndarray, tmp_path: Path) -> None:
    mirror = write(tmp_path / "stimuli.hdf5", images, "contiguous")
    index = mirror_index(np.array([2, 3]), mirror)
    read = ImageReader(index, lambda _: tmp_path, mirror)
    np.testing.assert_array_equal(read(np.array([3, 2])), images[[3, 2]])
    with pytest.raises(InvalidFileError, match="too short"):
        mirror_index(np.array([N]), mirror)
    with pytest.raises(ArtifactError, match="NSD_SOURCE"):
        ImageReader(index, lambda _: tmp_path, mirror=None)
