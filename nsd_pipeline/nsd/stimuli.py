"""NSD's 73,000 photos, one HDF5 dataset of 40 GB that is never loaded as a whole.

Row ``image_id`` (0-based) of ``imgBrick`` is a photo of 425 x 425 pixels in RGB. If the dataset
lies in one piece and uncompressed, a photo is a known range of bytes and can be fetched without
HDF5; if not, h5py reads it. Which of the two holds is asked of the file, never assumed.
"""

import math
import os
from collections.abc import Iterable
from typing import Any, BinaryIO, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.nsd.hdf5 import own_member
from nsd_pipeline.nsd.layout import IMAGE_SHAPE, STIMULI_KEY

DATASET: Final = "imgBrick"
IMAGE_BYTES: Final = math.prod(IMAGE_SHAPE)

_CHUNK_CACHE_BYTES: Final = 64 * 2**20
"""Room for a chunk of many images, so that reading them in order decompresses it once."""
_LARGEST_CHUNK_BYTES: Final = 512 * 2**20
"""More than 900 images in a chunk: nobody who wants to read single images stores them so."""
_NEXT_STEP: Final = (
    f"fetch it again from NSD's bucket ({STIMULI_KEY}), or point the mirror to a whole copy."
)


class StimulusFile:
    """NSD's stimulus file, opened for reading single images. Use it as a context manager.

    Parameters
    ----------
    file
        Path, or a seekable binary file (which stays open when this is closed).
    name
        What to call the file in an error; a path's own name unless given.

    Attributes
    ----------
    n_images : int
        Images in the file; NSD's has 73,000.
    contiguous_offset : int or None
        Byte at which the first image starts if the images follow each other uncompressed, as
        `image_ranges` needs it; None if they do not.

    Raises
    ------
    InvalidFileError
        If it is no whole HDF5 file, or has no dataset ``imgBrick`` of shape (N, 425, 425, 3) and
        type uint8.
    """

    def __init__(self, file: str | os.PathLike[str] | BinaryIO, *, name: str | None = None) -> None:
        import h5py

        if name is None:
            name = os.fspath(file) if isinstance(file, str | os.PathLike) else STIMULI_KEY
        self._name = name
        try:
            self._file = h5py.File(file, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES)
        except OSError as error:
            raise self._unreadable(error) from error
        try:
            self._images = self._find_images()
        except BaseException:
            self.close()
            raise
        self.n_images = int(self._images.shape[0])
        # HDF5 has no offset to give for chunked (hence compressed) datasets.
        self.contiguous_offset: int | None = self._images.id.get_offset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the HDF5 file."""
        self._file.close()

    def check_ids(self, image_ids: ArrayLike) -> None:
        """Check that the file has these images (0-based).

        Raises
        ------
        InvalidFileError
            If it is too short for one of them.
        """
        ids = np.asarray(image_ids)
        outside = ids[(ids < 0) | (ids >= self.n_images)]
        if outside.size:
            raise InvalidFileError(
                f"{self._name} is too short: its dataset {DATASET} has {self.n_images} images, "
                f"numbered from 0, but image {outside[0]} is needed.",
                next_step=_NEXT_STEP,
            )

    def read(self, image_ids: ArrayLike) -> NDArray[np.uint8]:
        """Read images, in the order asked for.

        Parameters
        ----------
        image_ids
            0-based ids of shape (N,), in any order.

        Returns
        -------
        ndarray of shape (N, 425, 425, 3)
            uint8, RGB.

        Raises
        ------
        InvalidFileError
            If the file does not have such an image, or is damaged where it lies.
        """
        ids = np.asarray(image_ids, np.int64)
        self.check_ids(ids)
        images = np.empty((ids.size, *IMAGE_SHAPE), np.uint8)
        for position in np.argsort(ids, kind="stable"):  # forward through the file
            try:
                self._images.read_direct(images, np.s_[ids[position]], np.s_[position])
            except OSError as error:
                raise self._unreadable(error) from error
        return images

    def _find_images(self) -> Any:
        import h5py

        dataset = own_member(self._file, DATASET, name=self._name)
        if not isinstance(dataset, h5py.Dataset):
            found = ", ".join(self._file) or "nothing"
            raise InvalidFileError(
                f"{self._name} has no dataset {DATASET}; it has {found}.", next_step=_NEXT_STEP
            )
        if dataset.shape[1:] != IMAGE_SHAPE or dataset.ndim != 1 + len(IMAGE_SHAPE):
            raise InvalidFileError(
                f"{self._name}: {DATASET} has shape {dataset.shape}, not (images, "
                f"{', '.join(map(str, IMAGE_SHAPE))}).",
                next_step=_NEXT_STEP,
            )
        chunk_bytes = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        if chunk_bytes > _LARGEST_CHUNK_BYTES:
            # HDF5 unpacks a chunk as a whole, and a few megabytes can be packed zeros of many GB.
            raise InvalidFileError(
                f"{self._name}: {DATASET} is stored in chunks of {dataset.chunks}, and each takes"
                f" {chunk_bytes / 1e9:.1f} GB of memory to read one image.",
                next_step=_NEXT_STEP,
            )
        if dataset.dtype != np.uint8:
            raise InvalidFileError(
                f"{self._name}: {DATASET} holds {dataset.dtype}, not uint8.", next_step=_NEXT_STEP
            )
        return dataset

    def _unreadable(self, error: OSError) -> Exception:
        """Choose what to raise for an error from h5py.

        HDF5's own complaints are plain OSErrors. Subclasses come from below it, from the disk or
        from the network behind a file object: the file is not to blame.
        """
        if type(error) is not OSError:
            return error
        return InvalidFileError(
            f"{self._name} is not a whole, readable HDF5 file ({error}).", next_step=_NEXT_STEP
        )


def image_ranges(offset: int, image_ids: Iterable[int]) -> list[tuple[int, int]]:
    """Where images lie in a contiguous stimulus file.

    Parameters
    ----------
    offset
        Byte at which image 0 starts: `StimulusFile.contiguous_offset`.
    image_ids
        0-based ids, in any order.

    Returns
    -------
    list of (offset, length)
        One range of bytes for each image, in the order asked for.
    """
    return [(offset + int(image_id) * IMAGE_BYTES, IMAGE_BYTES) for image_id in image_ids]
