"""NSD's 73,000 photos: those of a stimulus set are fetched once each, or read from a mirror.

They are one HDF5 dataset of 40 GB that is never loaded as a whole. Row ``image_id`` (0-based) of
``imgBrick`` is a photo of 425 x 425 pixels in RGB. If the dataset lies in one piece and
uncompressed, a photo is a known range of bytes and can be fetched without HDF5; if not, h5py reads
it. Which of the two holds is asked of the file, never assumed.

What is fetched comes in parts: what a new session adds is a new part, and no earlier one is
touched. An index says which part holds which image.
"""

import math
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsd_pipeline.errors import ArtifactError, DamagedArtifactError, InvalidFileError
from nsd_pipeline.nsd.hdf5 import npy_header, own_member, reading
from nsd_pipeline.nsd.layout import IMAGE_SHAPE, STIMULI_KEY
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.names import is_component
from nsd_pipeline.storage.source import ObjectInfo, Source
from nsd_pipeline.storage.store import Store
from nsd_pipeline.storage.transfer import fetch

if TYPE_CHECKING:
    import pandas as pd

DATASET: Final = "imgBrick"
IMAGE_BYTES: Final = math.prod(IMAGE_SHAPE)

ImageIds = NDArray[np.int64]
Images = NDArray[np.uint8]

PART_FILE: Final = "images.npy"
INDEX_FILE: Final = "index.parquet"
_IN_PLACE: Final = ""
"""Part of an image that is read from a mirror's own HDF5 file."""
_IMAGES_AT_ONCE: Final = 64
"""Images in memory when they have to go through HDF5: 35 MB."""
_CHUNK_CACHE_BYTES: Final = 64 * 2**20
"""Room for a chunk of many images, so that reading them in order decompresses it once."""
_LARGEST_CHUNK_BYTES: Final = 512 * 2**20
"""More than 900 images in a chunk: nobody who wants to read single images stores them so."""
_NEXT_STEP: Final = (
    f"fetch it again from NSD's bucket ({STIMULI_KEY}), or point the mirror to a whole copy."
)


class StimulusFile:
    """NSD's stimulus file, opened for reading single images. Use it as a context manager.

    `file` is a path, or a seekable binary file, which stays open when this is closed. It has
    `n_images`; NSD's has 73,000. `contiguous_offset` is the byte at which the first one starts if
    they follow each other uncompressed, as `image_ranges` needs it; None if they do not.

    An InvalidFileError if it is no whole HDF5 file, or has no dataset ``imgBrick`` of shape (N,
    425, 425, 3) and type uint8.
    """

    def __init__(self, file: str | os.PathLike[str] | BinaryIO) -> None:
        import h5py

        self._name = os.fspath(file) if isinstance(file, str | os.PathLike) else STIMULI_KEY
        with reading(self._name), ExitStack() as opened:
            self._file = opened.enter_context(h5py.File(file, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES))
            self._images = self._find_images()
            self.n_images = int(self._images.shape[0])
            # HDF5 has no offset to give for chunked (hence compressed) datasets.
            self.contiguous_offset: int | None = self._images.id.get_offset()
            opened.pop_all()  # it is open until it is closed, unless something was raised

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the HDF5 file."""
        self._file.close()

    def check_ids(self, image_ids: ArrayLike) -> None:
        """Check that the file has these images (0-based ids); an InvalidFileError if not."""
        ids = np.asarray(image_ids)
        outside = ids[(ids < 0) | (ids >= self.n_images)]
        if outside.size:
            raise self._invalid(
                f" is too short: its dataset {DATASET} has {self.n_images} images, numbered from 0,"
                f" but image {outside[0]} is needed"
            )

    def read(self, image_ids: ArrayLike) -> NDArray[np.uint8]:
        """Read images by their 0-based ids, in the order asked for: (N, 425, 425, 3) uint8, RGB.

        An InvalidFileError if the file does not have such an image, or is damaged where it lies.
        """
        ids = np.asarray(image_ids, np.int64)
        self.check_ids(ids)
        images = np.empty((ids.size, *IMAGE_SHAPE), np.uint8)
        for position in np.argsort(ids, kind="stable"):  # forward through the file
            with reading(self._name):
                self._images.read_direct(images, np.s_[ids[position]], np.s_[position])
        return images

    def _find_images(self) -> Any:
        import h5py

        dataset = own_member(self._file, DATASET, name=self._name)
        if not isinstance(dataset, h5py.Dataset):
            found = ", ".join(self._file) or "nothing"
            raise self._invalid(f" has no dataset {DATASET}; it has {found}")
        if dataset.shape[1:] != IMAGE_SHAPE or dataset.ndim != 1 + len(IMAGE_SHAPE):
            expected = f"(images, {', '.join(map(str, IMAGE_SHAPE))})"
            raise self._invalid(f": {DATASET} has shape {dataset.shape}, not {expected}")
        chunk_bytes = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        if chunk_bytes > _LARGEST_CHUNK_BYTES:
            # HDF5 unpacks a chunk as a whole, and a few megabytes can be packed zeros of many GB.
            raise self._invalid(
                f": {DATASET} is stored in chunks of {dataset.chunks}, and each takes"
                f" {chunk_bytes / 1e9:.1f} GB of memory to read one image"
            )
        if dataset.fletcher32:
            # HDF5's library ends the process over a chunk that is shorter than its checksum.
            sizes: list[int] = []
            dataset.id.chunk_iter(lambda chunk: sizes.append(chunk.size))
            if min(sizes, default=4) < 4:
                raise self._invalid(f": {DATASET} has a chunk that is shorter than its checksum")
        if dataset.dtype != np.uint8:
            raise self._invalid(f": {DATASET} holds {dataset.dtype}, not uint8")
        return dataset

    def _invalid(self, problem: str) -> InvalidFileError:
        return InvalidFileError(f"{self._name}{problem}.", next_step=_NEXT_STEP)


def image_ranges(offset: int, image_ids: Iterable[int]) -> list[tuple[int, int]]:
    """Where images lie in a file with `StimulusFile.contiguous_offset`: offsets and lengths.

    One range of bytes for each image, in the order asked for.
    """
    return [(offset + int(image_id) * IMAGE_BYTES, IMAGE_BYTES) for image_id in image_ids]


def part_bytes(n_images: int) -> int:
    """Bytes that a part with this many images takes on disk."""
    return n_images * IMAGE_BYTES + 128


def download_images(
    source: Source, info: ObjectInfo, image_ids: ImageIds, folder: Path, scratch: Path
) -> int:
    """Fetch images into ``images.npy``: (n, 425, 425, 3) uint8, in the order of the ids.

    The ids are 0-based rows of the stimulus file, ascending. Where the dataset is contiguous and
    uncompressed, each image is one range of bytes. Otherwise the images go through HDF5, a few at a
    time; the 40 GB are never in memory. The file stays in `scratch` until it is whole. Returns the
    number of bytes that came. An InvalidFileError if the stimulus file is too short, or not what
    NSD's is.
    """
    arrived = scratch / PART_FILE
    shape = (len(image_ids), *IMAGE_SHAPE)
    with source.open(info.key) as remote, StimulusFile(remote) as brick:
        brick.check_ids(image_ids)
        if brick.contiguous_offset is None:
            target = np.lib.format.open_memmap(arrived, mode="w+", dtype=np.uint8, shape=shape)
            for start in range(0, len(image_ids), _IMAGES_AT_ONCE):
                stop = start + _IMAGES_AT_ONCE
                target[start:stop] = brick.read(image_ids[start:stop])
            target.flush()
            arrived.rename(folder / PART_FILE)
            return int(target.nbytes)
        ranges = image_ranges(brick.contiguous_offset, image_ids)
    report = fetch(
        source,
        info,
        ranges,
        arrived,
        prefix=npy_header(shape, np.uint8),
        progress=f"{len(image_ids)} images",
    )
    arrived.rename(folder / PART_FILE)
    return report.n_bytes


def part_index(image_ids: ImageIds, part: str) -> "pd.DataFrame":
    """Index of a downloaded part: columns ``image_id``, ``part``, ``row``."""
    import pandas as pd

    return pd.DataFrame({"image_id": image_ids, "part": part, "row": np.arange(len(image_ids))})


def mirror_index(image_ids: ImageIds, mirror: Path) -> "pd.DataFrame":
    """Index of images that are read in place: the row is the image's id itself.

    An InvalidFileError if the mirror's stimulus file does not have them, or is not what NSD's is.
    """
    import pandas as pd

    with StimulusFile(mirror) as brick:
        brick.check_ids(image_ids)
    return pd.DataFrame({"image_id": image_ids, "part": _IN_PLACE, "row": image_ids})


class ImageReader:
    """Reads images by their id, from whatever part holds them.

    The index has the columns ``image_id``, ``part``, ``row``; `part_folder` gives the local folder
    of a part, and `mirror` is the mirror's stimulus file, where images are read in place. An
    ArtifactError if the index names what cannot be a part, or a mirror that is not there.
    """

    def __init__(
        self, index: "pd.DataFrame", part_folder: Callable[[str], Path], mirror: Path | None
    ) -> None:
        self._index = index.set_index("image_id")
        self._mirror = mirror or Path()
        self._parts: dict[str, Images] = {}
        for part in index["part"].unique():
            if part == _IN_PLACE:
                if mirror is None:
                    raise ArtifactError(
                        "The stimuli are indexed in a local mirror, but the source now is a"
                        " bucket.",
                        next_step="point NSD_SOURCE at the mirror again, or make stimuli from the"
                        " bucket.",
                    )
            elif isinstance(part, str) and is_component(part):
                file = part_folder(part) / PART_FILE
                self._parts[part] = np.load(file, mmap_mode="r", allow_pickle=False)
            else:
                raise DamagedArtifactError(
                    f"The index of the stimuli names {part!r} as a part, which is no name of one.",
                    next_step="make stimuli of this stimulus set again.",
                )

    @property
    def image_ids(self) -> ImageIds:
        """Ids of all images that can be read."""
        return self._index.index.to_numpy(np.int64)

    def __call__(self, image_ids: ImageIds) -> Images:
        """Images in the order asked for, (n, 425, 425, 3) uint8."""
        images = np.empty((len(image_ids), *IMAGE_SHAPE), np.uint8)
        wanted = self._index.loc[image_ids]
        for part in wanted["part"].unique():
            positions = np.flatnonzero(wanted["part"] == part)
            rows = wanted["row"].to_numpy()[positions]
            if part == _IN_PLACE:
                with StimulusFile(self._mirror) as brick:
                    images[positions] = brick.read(rows)
            else:
                images[positions] = self._parts[part][rows]
        return images


def open_images(
    store: Store, index: Manifest, find_mirror: Callable[[], Path | None]
) -> ImageReader:
    """Reader of a stimulus set's images, wherever they lie, by the manifest of its index.

    Parts lie beside the index. `find_mirror` gives the mirror's stimulus file, if the source is a
    mirror. It is called only if images are read there.
    """
    import pandas as pd

    folder, _, _ = index.key.rpartition("/")
    return ImageReader(
        pd.read_parquet(store.folder(index.key) / INDEX_FILE),
        lambda part: store.folder(f"{folder}/{part}"),
        find_mirror() if index.config["in_place"] else None,
    )
