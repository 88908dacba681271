"""The demo's betas on fsaverage as NSD's files, and the grid of its functional volumes."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.demo.brain import WHITE_NOISE, Brain
from nsd_pipeline.nsd import mgh
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES, FSAVERAGE_VERTICES

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

_MGH_FOOTER: Final = np.zeros(4, ">f4").tobytes()
"""Repetition time, flip angle, echo and inversion time, as FreeSurfer's MATLAB code appends."""
_FRAMES_AT_ONCE: Final = 16


def write_surface_betas(path: Path, brain: Brain, betas: NDArray[np.float32], session: int) -> None:
    """Write a session of one hemisphere on fsaverage: big-endian float32, NaN where invalid.

    Parameters
    ----------
    path
        MGH file to write.
    brain
        The hemisphere.
    betas
        (T, 10242) what :meth:`Brain.betas` gives for the session.
    session
        1-based session.
    """
    rng = brain.rng(session, 2)
    cortex = brain.cortex
    invalid = cortex.refine(brain.invalid(session).astype(np.float32)) > 0
    with path.open("wb") as file:
        file.write(mgh.header_bytes(FSAVERAGE_VERTICES, len(betas)))
        for start in range(0, len(betas), _FRAMES_AT_ONCE):
            coarse = np.ascontiguousarray(betas[start : start + _FRAMES_AT_ONCE].T)
            frames = np.ascontiguousarray(cortex.refine(coarse).T)
            between = frames[:, FSAVERAGE5_VERTICES:]
            between += np.float32(WHITE_NOISE) * rng.standard_normal(between.shape, np.float32)
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
