"""The demo subjects' own spaces, and the transforms that lead from them to fsaverage.

All subjects share one cortex (:mod:`.brain`), so a functional volume differs only by its grid.
A subject's own surface has the vertices of fsaverage5 and some between them, in an order of its
own: what leads to fsaverage has to be followed, as in NSD.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.demo.brain import Cortex, load_cortex
from nsd_pipeline.nsd.layout import FSAVERAGE_VERTICES, HEMISPHERES, Hemisphere, subject_number

_FUNC1PT8MM_SHAPES: Final = {
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
_VOXEL_SIZE: Final = 1.8
_CEREBRUM: Final = np.array([0, -18, 16])
"""Where a functional volume has its centre, in mm."""
_MNI_SHAPE: Final = (182, 218, 182)
_MNI_ORIGIN: Final = (-91, -126, -72)
"""The first voxel's centre in mm, as NSD writes MNI volumes."""
_DEPTHS: Final = (0.25, 0.5, 0.75)
"""Where layers B1, B2 and B3 lie between white and pial surface."""
_NATIVE_VERTICES: Final[dict[Hemisphere, int]] = {"lh": 10_882, "rh": 10_752}
"""Vertices of a demo subject's own surface: those of fsaverage5 and some between them."""
_NO_VALUE: Final = 9999
"""In NSD's transforms: outside the volume."""


@dataclass(frozen=True)
class Grid:
    """The voxels of a space: `shape` along each axis, and the edge of a voxel in mm.

    The affine (4, 4) is from 0-based voxels to mm, MNI305; axes run to the right, front and top.
    """

    shape: tuple[int, int, int]
    size: float
    affine: NDArray[np.float64]


def grid(subject: str, space: str) -> Grid:
    """Grid of a subject's volumes in ``func1pt8mm``, ``func1mm`` or ``MNI``."""
    affine = np.eye(4)
    if space == "MNI":
        affine[:3, 3] = _MNI_ORIGIN
        return Grid(_MNI_SHAPE, 1.0, affine)
    shape = _FUNC1PT8MM_SHAPES[subject]
    affine[:3, 3] = _CEREBRUM - _VOXEL_SIZE * (np.array(shape) - 1) / 2
    if space == "func1pt8mm":
        affine[:3, :3] *= _VOXEL_SIZE
        return Grid(shape, _VOXEL_SIZE, affine)
    # The same field of view in finer voxels.
    n_x, n_y, n_z = (int(n * _VOXEL_SIZE) for n in shape)
    return Grid((n_x, n_y, n_z), 1.0, affine)


@dataclass(frozen=True, eq=False)
class NativeSurface:
    """One hemisphere of a subject's own surface, a mesh of a cortex.

    `fine` is the vertex (V,) of the fine mesh that each of its vertices is.
    """

    cortex: Cortex
    fine: NDArray[np.int64]

    def values(self, coarse: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values (10242, ...) on fsaverage5 at its own vertices (V, ...)."""
        return self.cortex.refine(coarse)[self.fine]

    @property
    def white_to_fsaverage(self) -> NDArray[np.int64]:
        """1-based own vertex for each vertex of fsaverage (163842,)."""
        # A vertex that is not here stands for one of those that it lies between.
        here = np.arange(self.cortex.n_vertices)
        for edges in self.cortex.parents:
            here = np.concatenate([here, here[edges[:, 0]]])
        own = np.empty(FSAVERAGE_VERTICES, np.int64)
        own[self.fine] = np.arange(len(self.fine))
        present = np.isin(np.arange(FSAVERAGE_VERTICES), self.fine)
        return np.where(present, own, own[here]) + 1


def native_surface(
    subject: str, hemisphere: Hemisphere, seed: int, n_vertices: int | None = None
) -> NativeSurface:
    """A hemisphere of a subject's own surface; vertices as :func:`write_transforms` says."""
    side = HEMISPHERES.index(hemisphere)
    rng = np.random.default_rng([seed, 4, subject_number(subject), side])
    fine = rng.permutation(n_vertices or _NATIVE_VERTICES[hemisphere])
    return NativeSurface(load_cortex(hemisphere), fine)


def write_transforms(
    folder: Path,
    subject: str,
    spaces: tuple[str, ...],
    seed: int,
    n_vertices: int | None = None,
) -> None:
    """Write NSD's transform files of a subject to its folder ``transforms``.

    The functional ones among the spaces have some of their own. `n_vertices` of each hemisphere of
    the subject's own surface are 10,242 to 163,842, if not the few that keep the demo small. Real
    subjects have well over 100,000.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for hemisphere in HEMISPHERES:
        surface = native_surface(subject, hemisphere, seed, n_vertices)
        cortex = surface.cortex
        _write(folder / f"{hemisphere}.white-to-fsaverage.mgz", surface.white_to_fsaverage)
        _write(folder / f"{hemisphere}.fsaverage-to-white.mgz", surface.fine + 1)
        for space, name in (("func1mm", "func1pt0"), ("func1pt8mm", "func1pt8")):
            if space not in spaces:
                continue
            voxels = grid(subject, space)
            for layer, depth in enumerate(_DEPTHS, 1):
                points = surface.values(cortex.white + depth * (cortex.pial - cortex.white))
                places = (points - voxels.affine[:3, 3]) / voxels.size + 1
                outside = ((places < 1) | (places > voxels.shape)).any(axis=1)
                places[outside] = _NO_VALUE
                _write(folder / f"{hemisphere}.{name}-to-layerB{layer}.mgz", places)


def _write(path: Path, values: NDArray[np.generic]) -> None:
    """Write one or three values for each vertex, in MATLAB's order of axes."""
    from nibabel.freesurfer import MGHImage

    columns = 1 if values.ndim == 1 else values.shape[1]
    data = values.astype(np.float32).reshape(len(values), 1, 1, columns)
    MGHImage(data if columns > 1 else data[..., 0], np.eye(4)).to_filename(path)
