"""The demo's stimulus file: NSD's dataset in its full size, on disk only where images are."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nsd_pipeline.errors import StorageFullError
from nsd_pipeline.nsd.layout import IMAGE_SHAPE, N_IMAGES
from nsd_pipeline.nsd.stimuli import DATASET

if TYPE_CHECKING:
    import h5py

_PROBE_BYTES: Final = 1 << 24
_BLOCK_BYTES: Final = 512


@contextmanager
def create_stimuli(path: Path) -> Iterator["h5py.Dataset"]:
    """Open a new ``nsd_stimuli.hdf5`` for writing: 39.6 GB, of which only what is set takes space.

    The dataset is contiguous and not compressed, so that a row's place in the file can be
    computed, and its space is left as a hole until a row is written.

    Raises
    ------
    StorageFullError
        If the file system has no holes in files.
    """
    import h5py

    _require_sparse_files(path.parent)
    with h5py.File(path, "w", libver="earliest") as file:
        creation: Any = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_layout(h5py.h5d.CONTIGUOUS)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
        creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((N_IMAGES, *IMAGE_SHAPE))
        h5py.h5d.create(file.id, DATASET.encode(), h5py.h5t.STD_U8LE, space, creation)
        yield file[DATASET]


def _require_sparse_files(folder: Path) -> None:
    """Fail now rather than with a full disk later."""
    probe = folder / "probe.tmp"
    try:
        with probe.open("wb") as file:
            file.truncate(_PROBE_BYTES)
        used = probe.stat().st_blocks * _BLOCK_BYTES
    finally:
        probe.unlink(missing_ok=True)
    if used >= _PROBE_BYTES:
        raise StorageFullError(
            f"{folder} is on a file system without sparse files, so the stimulus file would take "
            "39.6 GB there.",
            next_step="choose a folder on another file system (ext4, xfs and APFS have them).",
        )
