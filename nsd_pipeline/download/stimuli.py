"""The photographs a stimulus set needs: fetched once each, or read in place from a mirror.

Images come in parts: what a new session adds is a new part, and no earlier one is touched. An
index says which part holds which image.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nsd_pipeline.download.fetching import npy_header
from nsd_pipeline.errors import ArtifactError, DamagedArtifactError
from nsd_pipeline.nsd import layout, stimuli
from nsd_pipeline.storage.keys import is_component
from nsd_pipeline.storage.source import ObjectInfo, Source
from nsd_pipeline.storage.transfer import fetch

ImageIds = NDArray[np.int64]
Images = NDArray[np.uint8]

PART_FILE = "images.npy"
INDEX_FILE = "index.parquet"
_IN_PLACE = ""
"""Part of an image that is read from a mirror's own HDF5 file."""
_IMAGES_AT_ONCE = 64
"""Images in memory when they have to go through HDF5: 35 MB."""


def part_bytes(n_images: int) -> int:
    """Bytes that a part with this many images takes on disk."""
    return n_images * stimuli.IMAGE_BYTES + 128


def download_images(
    source: Source,
    info: ObjectInfo,
    image_ids: ImageIds,
    folder: Path,
    scratch: Path,
    *,
    max_concurrency: int,
) -> int:
    """Fetch images into ``images.npy``: (n, 425, 425, 3) uint8, in the order of the ids.

    Where the dataset is contiguous and uncompressed, each image is one range of bytes. Otherwise
    the images go through HDF5, a few at a time; the 40 GB are never in memory.

    Parameters
    ----------
    source
        Where NSD's files are read.
    info
        The stimulus file, as the source describes it.
    image_ids
        0-based rows of the stimulus file, ascending.
    folder, scratch
        Where the file goes, and where it is kept until it is whole.
    max_concurrency
        Requests in flight at the same time.

    Returns
    -------
    int
        Bytes received.

    Raises
    ------
    InvalidFileError
        If the stimulus file is too short, or not what NSD's is.
    """
    arrived = scratch / PART_FILE
    shape = (len(image_ids), *layout.IMAGE_SHAPE)
    with source.open(info.key) as remote, stimuli.StimulusFile(remote, name=info.key) as brick:
        brick.check_ids(image_ids)
        if brick.contiguous_offset is None:
            target = np.lib.format.open_memmap(arrived, mode="w+", dtype=np.uint8, shape=shape)
            for start in range(0, len(image_ids), _IMAGES_AT_ONCE):
                stop = start + _IMAGES_AT_ONCE
                target[start:stop] = brick.read(image_ids[start:stop])
            target.flush()
            arrived.rename(folder / PART_FILE)
            return int(target.nbytes)
        ranges = stimuli.image_ranges(brick.contiguous_offset, image_ids)
    report = fetch(
        source,
        info,
        ranges,
        arrived,
        prefix=npy_header(shape, np.uint8),
        max_concurrency=max_concurrency,
        progress=f"{len(image_ids)} images",
    )
    arrived.rename(folder / PART_FILE)
    return report.n_bytes


def part_index(image_ids: ImageIds, part: str) -> pd.DataFrame:
    """Index of a downloaded part: columns ``image_id``, ``part``, ``row``."""
    return pd.DataFrame({"image_id": image_ids, "part": part, "row": np.arange(len(image_ids))})


def mirror_index(image_ids: ImageIds, mirror: Path) -> pd.DataFrame:
    """Index of images that are read in place: the row is the image's id itself.

    Raises
    ------
    InvalidFileError
        If the mirror's stimulus file does not have them, or is not what NSD's is.
    """
    with stimuli.StimulusFile(mirror, name=str(mirror)) as brick:
        brick.check_ids(image_ids)
    return pd.DataFrame({"image_id": image_ids, "part": _IN_PLACE, "row": image_ids})


class ImageReader:
    """Reads images by their id, from whatever part holds them.

    Parameters
    ----------
    index
        Columns ``image_id``, ``part``, ``row``.
    part_folder
        Gives the local folder of a part.
    mirror
        The mirror's stimulus file, where images are read in place.

    Raises
    ------
    ArtifactError
        If the index names what cannot be a part, or a mirror that is not there.
    """

    def __init__(
        self, index: pd.DataFrame, part_folder: Callable[[str], Path], mirror: Path | None
    ) -> None:
        for part in index["part"].unique():
            if not (isinstance(part, str) and (part == _IN_PLACE or is_component(part))):
                raise DamagedArtifactError(
                    f"The index of the stimuli names {part!r} as a part, which is no name of one.",
                    next_step="materialize stimuli of this stimulus set again.",
                )
        self._index = index.set_index("image_id")
        self._parts = {
            part: np.load(part_folder(part) / PART_FILE, mmap_mode="r", allow_pickle=False)
            for part in index["part"].unique()
            if part != _IN_PLACE
        }
        in_place = (index["part"] == _IN_PLACE).any()
        if in_place and mirror is None:
            raise ArtifactError(
                "The stimuli are indexed in a local mirror, but the source now is a bucket.",
                next_step="point NSD_SOURCE at the mirror again, or materialize stimuli from the"
                " bucket.",
            )
        self._mirror = mirror or Path()

    @property
    def image_ids(self) -> ImageIds:
        """Ids of all images that can be read."""
        return self._index.index.to_numpy(np.int64)

    def __call__(self, image_ids: ImageIds) -> Images:
        """Images in the order asked for, (n, 425, 425, 3) uint8."""
        images = np.empty((len(image_ids), *layout.IMAGE_SHAPE), np.uint8)
        wanted = self._index.loc[image_ids]
        for part, positions in _positions(wanted["part"]):
            rows = wanted["row"].to_numpy()[positions]
            if part == _IN_PLACE:
                with stimuli.StimulusFile(self._mirror, name=str(self._mirror)) as brick:
                    images[positions] = brick.read(rows)
            else:
                images[positions] = self._parts[part][rows]
        return images


def _positions(parts: pd.Series) -> Iterator[tuple[str, NDArray[np.intp]]]:
    for part in parts.unique():
        yield part, np.flatnonzero(parts.to_numpy() == part)
