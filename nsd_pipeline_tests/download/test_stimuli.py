"""Images arrive as they are in the HDF5 file, however it is laid out."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from nsd_pipeline.download.stimuli import (
    ImageReader,
    download_images,
    mirror_index,
    part_index,
)
from nsd_pipeline.errors import ArtifactError, InvalidFileError
from nsd_pipeline.nsd.layout import STIMULI_KEY
from nsd_pipeline.storage import open_source
from nsd_pipeline_tests.storage.servers import MotoServer, moto_server

__all__ = ["moto_server"]

N_IMAGES = 7
LAYOUTS = {
    "contiguous": {},
    "chunked": {"chunks": (3, 425, 425, 3)},
    "compressed": {"chunks": (1, 425, 425, 3), "compression": "gzip"},
}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(N_IMAGES, 425, 425, 3), dtype=np.uint8)


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
        download_images(
            source,
            source.describe(STIMULI_KEY),
            ids,
            tmp_path / part,
            scratch,
            max_concurrency=4,
        )
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
        mirror_index(np.array([N_IMAGES]), mirror)
    with pytest.raises(ArtifactError, match="NSD_SOURCE"):
        ImageReader(index, lambda _: tmp_path, mirror=None)
