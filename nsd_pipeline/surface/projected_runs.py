"""A run's recording on fsaverage5, from whatever space it was prepared in.

Three kinds of recordings lead there: time series on an fsaverage mesh (decimation), volumes in MNI
space (nilearn's projection) and a subject's own functional volumes (NSD's transforms).
"""

import mmap
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError, parsing
from nsd_pipeline.nsd.nifti import VolumeSeries, open_volumes
from nsd_pipeline.nsd.series_runs import TR_RANGE
from nsd_pipeline.surface.meshes import MESH_VERTICES, downsample
from nsd_pipeline.surface.projected_betas import check_shapes
from nsd_pipeline.surface.projection import project_volume
from nsd_pipeline.surface.volume_operator import FsaverageOperator

# Volumes that are in memory at once: 140 MB of a 2 mm grid.
_BLOCK_VOLUMES: Final = 32
# A Gaussian's full width at half maximum in standard deviations.
_FWHM: Final = float(np.sqrt(8 * np.log(2)))


class SurfaceRun(NamedTuple):
    """A run on fsaverage5.

    `data` (20484, T), float32, are the left hemisphere, then the right, in the recording's own
    unit; NaN where there are no data. `tr` is the repetition time in seconds that the file's header
    states, None if it does not.
    """

    data: NDArray[np.float32]
    tr: float | None


def read_gifti_run(lh: Path, rh: Path, *, space: str = "fsaverage") -> SurfaceRun:
    """Read a run on an fsaverage mesh: ``hemi-L`` and ``hemi-R`` of ``*_bold.func.gii``.

    `space` is what their names say. ``fsaverage`` stands for any of its meshes; derivatives give
    the density beside it, or not at all. An InvalidFileError if a file is damaged, is not on
    fsaverage5, 6 or 7, or on another one than the name says, or if the hemispheres differ in their
    number of samples or vertices.
    """
    left, right = (_read_gifti(path) for path in (lh, rh))
    for name, index in (("samples", 1), ("vertices", 0)):
        n_left, n_right = left.data.shape[index], right.data.shape[index]
        if n_left != n_right:
            raise InvalidFileError(
                f"{lh} has {n_left} {name}, but {rh} has {n_right}.",
                next_step="make both hemispheres again from the same run.",
            )
    if len(left.data) not in MESH_VERTICES.values():
        raise InvalidFileError(
            f"{lh} has {len(left.data):,} vertices, which is no fsaverage mesh: "
            + ", ".join(f"{name} has {n:,}" for name, n in MESH_VERTICES.items())
            + ".",
            next_step="use a recording on fsaverage, fsaverage6 or fsaverage5.",
        )
    named = MESH_VERTICES.get(space, len(left.data))
    if len(left.data) != named:
        raise InvalidFileError(
            f"{lh} has {len(left.data):,} vertices, but {space}, which its name says, has"
            f" {named:,}.",
            next_step="find out what it is, and name it so or make it again.",
        )
    data = downsample(np.concatenate([left.data, right.data]))
    return SurfaceRun(data, left.tr if left.tr is not None else right.tr)


def project_mni_run(path: Path, mask: Path | None, *, fwhm: float | None = None) -> SurfaceRun:
    """Project a run of volumes in MNI space as the reference does.

    `path` is a ``*_space-MNI..._desc-preproc_bold.nii.gz``. Voxels outside of its brain mask are
    left out, as if they were missing; without one, the brain is the template's, see
    :func:`template_brain`. Volumes are first smoothed by a Gaussian of width `fwhm` in mm, if that
    is given. An InvalidFileError if a file is damaged, or the mask is on another grid.
    """
    series = open_volumes(path)
    if mask is None:
        outside = ~template_brain(series.shape, series.affine.astype(np.float64).tobytes())
    else:
        brain = open_volumes(mask)
        if brain.shape != series.shape or not np.allclose(brain.affine, series.affine, atol=1e-3):
            raise InvalidFileError(
                f"The mask {mask} is on another grid than {path}.",
                next_step="use the mask that was made with the run.",
            )
        outside = next(brain.volumes()) <= 0
    data = np.empty((2 * MESH_VERTICES["fsaverage5"], series.n_volumes), np.float32)
    volumes, first = _smoothed(series, fwhm), 0
    while block := list(islice(volumes, _BLOCK_VOLUMES)):
        stacked = np.stack(block, axis=-1)
        stacked[outside] = np.nan
        data[:, first : first + len(block)] = project_volume(stacked, series.affine)
        first += len(block)
    return SurfaceRun(data, series.tr)


def project_native_run(
    path: Path, operator: FsaverageOperator, *, fwhm: float | None = None
) -> SurfaceRun:
    """Map a run of a subject's own functional volumes by NSD's transforms.

    ``path`` is a ``timeseries_sessionNN_runMM.nii.gz``, ``operator`` that of the subject and space,
    ``fwhm`` as for `project_mni_run`. An InvalidFileError if the file is damaged, or its volumes
    are of another shape than the operator's.
    """
    series = open_volumes(path)
    check_shapes([str(path)], [series.shape], operator)
    if fwhm is None:
        blocks = series.voxels(operator.touched_voxels)
    else:
        blocks = (
            volume.reshape(-1, 1)[operator.touched_voxels] for volume in _smoothed(series, fwhm)
        )
    data = operator.apply_to_blocks(blocks, series.n_volumes)
    return SurfaceRun(np.ascontiguousarray(data.T), series.tr)


@lru_cache(maxsize=2)
def template_brain(shape: tuple[int, int, int], affine: bytes) -> NDArray[np.bool_]:
    """Brain of the MNI152 template that nilearn brings along, on the grid of a recording.

    An array of that shape, not to be written to: whether the template's nearest voxel is brain.
    ``affine`` is the bytes of a (4, 4) float64 matrix from 0-based voxel indices to mm: a cache
    needs something that has a hash.
    """
    from nilearn.datasets import load_mni152_brain_mask
    from nilearn.image import resample_img

    brain = resample_img(
        load_mni152_brain_mask(resolution=1),
        target_affine=np.frombuffer(affine).reshape(4, 4),
        target_shape=shape,
        interpolation="nearest",
        copy_header=True,
        force_resample=True,
    )
    return np.asarray(brain.dataobj) > 0


def _smoothed(series: VolumeSeries, fwhm: float | None) -> Iterator[NDArray[np.float32]]:
    """Volumes of a file, smoothed as nilearn's ``smooth_img`` does it: NaN counts as 0."""
    from scipy.ndimage import gaussian_filter

    if fwhm is None:
        yield from series.volumes()
        return
    sigma = [fwhm / (_FWHM * zoom) for zoom in series.zooms]
    for volume in series.volumes():
        yield gaussian_filter(np.nan_to_num(volume), sigma)


_TOO_MANY_AXES: Final = re.compile(rb"Dimensionality\s*=\s*[\"'][^\"']{3}")
"""In a GIFTI file. nibabel counts them one by one, for ever where a digit has been repeated."""


def _read_gifti(path: Path) -> SurfaceRun:
    """Time series (V, T) of one hemisphere, and the repetition time that its header states."""
    from nibabel.gifti import GiftiImage

    if not path.exists():
        raise InvalidFileError(f"There is no {path}.", next_step="make it again.")
    with parsing(
        lambda problem: InvalidFileError(
            f"{path} is not a readable GIFTI time series: {problem}.",
            next_step="make it again; it is probably truncated.",
        )
    ):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            if _TOO_MANY_AXES.search(text):
                raise ValueError("it has an array of a hundred axes or more")
        arrays = GiftiImage.from_filename(path).darrays
        data = np.stack([array.data.ravel() for array in arrays], axis=-1, dtype=np.float32)
    try:
        step = float(arrays[0].meta.get("TimeStep", 0))
    except ValueError:
        step = 0.0
    if not step > 0:
        return SurfaceRun(data, None)
    # The format leaves the unit open: FreeSurfer writes milliseconds, other tools seconds. The
    # number tells: no scanner takes a volume in 60 ms, and none takes longer than a minute.
    return SurfaceRun(data, step if step <= TR_RANGE[1] else step / 1000)
