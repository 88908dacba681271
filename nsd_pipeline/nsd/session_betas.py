"""One session's betas to be downloaded, whichever space they are in."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.nsd.fsaverage_betas import BetasObject, download_betas
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES, Hemisphere
from nsd_pipeline.nsd.space_betas import SpaceObjects, download_space
from nsd_pipeline.storage.source import ObjectInfo, Source
from nsd_pipeline.storage.transfer import TransferReport


@dataclass(frozen=True)
class FsaverageDownload:
    """Betas on fsaverage: see :mod:`~nsd_pipeline.nsd.fsaverage_betas`.

    Attributes
    ----------
    source
        Where they are read.
    hemispheres
        The files.
    whole_file
        Whether all of fsaverage comes, or fsaverage5 only.
    """

    source: Source
    hemispheres: Mapping[Hemisphere, BetasObject]
    whole_file: bool

    @property
    def objects(self) -> tuple[ObjectInfo, ...]:
        """Objects on the source that it needs: both hemispheres' files."""
        return tuple(each.info for each in self.hemispheres.values())

    @property
    def in_place(self) -> bool:
        """Whether a local mirror has all of them, so that nothing is fetched."""
        return all(self.source.local_path(info.key) for info in self.objects)

    @property
    def n_trials(self) -> int:
        """Trials of the session: frames of a file."""
        return self.hemispheres["lh"].header.n_frames

    @property
    def config(self) -> Mapping[str, Any]:
        """What else determines the bytes that come."""
        return {"whole_file": self.whole_file}

    @property
    def fetched_bytes(self) -> int:
        """About how many bytes come from a bucket."""
        if self.whole_file:
            return sum(info.n_bytes for info in self.objects)
        return 2 * self.n_trials * FSAVERAGE5_VERTICES * 4

    def download(self, folder: Path, scratch: Path, *, max_concurrency: int) -> TransferReport:
        """Fetch them into a folder, or record where a local mirror has them."""
        return download_betas(
            self.source,
            self.hemispheres,
            folder,
            scratch,
            whole_file=self.whole_file,
            max_concurrency=max_concurrency,
        )


@dataclass(frozen=True)
class SpaceDownload:
    """Betas in another space: see :mod:`~nsd_pipeline.nsd.space_betas`.

    Its properties mean what those of `FsaverageDownload` do.

    Attributes
    ----------
    source
        Where they are read.
    found
        The files.
    voxels : array of shape (n,), int
        Voxels that are needed of HDF5 files on a bucket.
    """

    source: Source
    found: SpaceObjects
    voxels: NDArray[np.int64] | None

    @property
    def objects(self) -> tuple[ObjectInfo, ...]:
        """Betas and mask."""
        return self.found.objects

    @property
    def in_place(self) -> bool:
        """Whether nothing is fetched."""
        return all(self.source.local_path(info.key) for info in self.objects)

    @property
    def n_trials(self) -> int:
        """Trials of the session."""
        return self.found.n_trials

    @property
    def config(self) -> Mapping[str, Any]:
        """Format, shapes, and which voxels come."""
        return {
            "file_format": self.found.file_format,
            "shapes": [list(shape) for shape in self.found.shapes],
            "voxels": None if self.voxels is None else sha256(self.voxels.tobytes()).hexdigest(),
        }

    @property
    def fetched_bytes(self) -> int:
        """Whole files, or the voxels that are needed."""
        if self.voxels is None:
            return sum(info.n_bytes for info in self.objects)
        return 2 * self.n_trials * len(self.voxels)

    def download(self, folder: Path, scratch: Path, *, max_concurrency: int) -> TransferReport:
        """Fetch them into a folder, or record where a local mirror has them."""
        return download_space(
            self.source, self.found, self.voxels, folder, scratch, max_concurrency=max_concurrency
        )


SessionDownload = FsaverageDownload | SpaceDownload
"""A session's files on the source, inspected, and how they get here."""
