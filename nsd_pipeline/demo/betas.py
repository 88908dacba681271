"""The demo's betas as files in NSD's formats, surfaces and volumes, a few trials at a time."""

import gzip
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.demo.brain import WHITE_NOISE, Brain
from nsd_pipeline.demo.cortex import load_cortex
from nsd_pipeline.nsd import mgh
from nsd_pipeline.nsd.layout import FSAVERAGE_VERTICES, HEMISPHERES

FUNC1PT8MM_SHAPES: Final = {
    "subj01": (81, 104, 83),
    "subj02": (82, 106, 84),
    "subj03": (81, 106, 82),
    "subj04": (85, 99, 80),
    "subj05": (79, 97, 78),
    "subj06": (85, 113, 83),
    "subj07": (78, 95, 81),
    "subj08": (80, 103, 78),
}
"""Dimensions of each subject's functional volumes."""
VOXEL_SIZE: Final = 1.8
PERCENT_SCALE: Final = 300
"""Volumes hold percent signal change times 300 as int16."""

_MGH_FOOTER: Final = np.zeros(4, ">f4").tobytes()
"""Repetition time, flip angle, echo and inversion time, as FreeSurfer's MATLAB code appends."""
_FRAMES_AT_ONCE: Final = 16
_RIBBON: Final = 2.5
"""Voxels within this distance of the middle of the grey matter have data, in mm."""


def write_surface_betas(
    path: Path, brain: Brain, responses: NDArray[np.float32], session: int
) -> None:
    """Write a session of one hemisphere on fsaverage: big-endian float32, NaN where invalid.

    Parameters
    ----------
    path
        MGH file to write.
    brain
        The hemisphere.
    responses
        (T, 10242) what :meth:`Brain.responses` gives for the session.
    session
        1-based session.
    """
    rng = brain.rng(session, 2)
    cortex = brain.cortex
    invalid = cortex.refine(brain.invalid(session).astype(np.float32)) > 0
    with path.open("wb") as file:
        file.write(mgh.header_bytes(FSAVERAGE_VERTICES, len(responses)))
        for start in range(0, len(responses), _FRAMES_AT_ONCE):
            coarse = np.ascontiguousarray(responses[start : start + _FRAMES_AT_ONCE].T)
            frames = np.ascontiguousarray(cortex.refine(coarse).T)
            frames += np.float32(WHITE_NOISE) * rng.standard_normal(frames.shape, np.float32)
            frames[:, invalid] = np.nan
            frames.astype(">f4").tofile(file)
        file.write(_MGH_FOOTER)


def voxel_affine(subject: str) -> NDArray[np.float64]:
    """(4, 4) from 0-based voxels of ``func1pt8mm`` to mm, MNI305.

    The volume is centred on the cerebrum, axes running to the right, front and top.
    """
    affine = np.diag([VOXEL_SIZE] * 3 + [1.0])
    centre = np.array([0, -18, 16])
    affine[:3, 3] = centre - VOXEL_SIZE * (np.array(FUNC1PT8MM_SHAPES[subject]) - 1) / 2
    return affine


def write_volume_betas(
    path: Path,
    subject: str,
    responses: NDArray[np.float32],
    rng: np.random.Generator,
) -> None:
    """Write a session in ``func1pt8mm``: gzipped NIfTI of int16, 0 outside the grey matter.

    Parameters
    ----------
    path
        NIfTI file to write.
    subject
        Whose volumes they are; each has its own dimensions.
    responses
        (T, 20484) betas on fsaverage5 in percent, left hemisphere first. Every voxel takes those
        of the nearest vertex.
    rng
        Where the noise of every voxel comes from.
    """
    import nibabel
    from scipy.spatial import KDTree

    shape, affine = FUNC1PT8MM_SHAPES[subject], voxel_affine(subject)
    voxels = np.indices(shape, dtype=np.float32).reshape(3, -1, order="F").T
    middle = np.concatenate([load_cortex(hemisphere).middle for hemisphere in HEMISPHERES])
    found: Any = KDTree(middle).query(
        voxels * VOXEL_SIZE + affine[:3, 3], distance_upper_bound=_RIBBON
    )
    inside = np.isfinite(found[0])
    vertex = found[1][inside]
    header = nibabel.Nifti1Header()
    header.set_data_dtype("<i2")
    header.set_data_shape((*shape, len(responses)))
    header.set_zooms((*[VOXEL_SIZE] * 3, 1.0))
    header.set_xyzt_units("mm", "sec")
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as volumes,
    ):
        header.write_to(volumes)
        volumes.write(bytes(4))  # no header extensions
        frame = np.zeros(len(voxels), "<i2")
        for row in responses:
            noise = np.float32(WHITE_NOISE) * rng.standard_normal(inside.sum(), np.float32)
            frame[inside] = np.round(PERCENT_SCALE * (row[vertex] + noise))
            volumes.write(frame.tobytes())
