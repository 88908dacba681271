"""The cortex the demo lives on: fsaverage5, and a mesh as fine as fsaverage made from it.

fsaverage5 is nilearn's copy. FreeSurfer refines a mesh by adding a vertex in the middle of every
edge, after the vertices that are there. Two such steps lead from the 10,242 vertices of fsaverage5
to the 163,842 of fsaverage. The first 10,242 are therefore where they are on fsaverage; the others
are in plausible places, in an order of our own.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.nsd.layout import Hemisphere

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_REFINEMENTS: Final = 2
_SMOOTHING_STEPS: Final = 3


@dataclass(frozen=True, eq=False)
class Cortex:
    """One hemisphere of fsaverage5, and how to get from it to a mesh as fine as fsaverage.

    Parameters
    ----------
    white, pial
        (10242, 3) coordinates in mm, MNI305: the inner and outer surface of the grey matter.
    triangles
        (20480, 3) vertices of every triangle.
    """

    white: NDArray[np.float32]
    pial: NDArray[np.float32]
    triangles: NDArray[np.int32]

    @property
    def n_vertices(self) -> int:
        """Vertices of the coarse mesh."""
        return len(self.white)

    @property
    def middle(self) -> NDArray[np.float32]:
        """(10242, 3) coordinates half way through the grey matter."""
        return (self.white + self.pial) * np.float32(0.5)

    @cached_property
    def parents(self) -> list[NDArray[np.int64]]:
        """For each refinement, the two vertices (edges, 2) that every new vertex is between."""
        triangles, n_vertices = self.triangles.astype(np.int64), self.n_vertices
        levels = []
        for _ in range(_REFINEMENTS):
            sides = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]], axis=2).reshape(-1, 2)
            edges, index = np.unique(sides, axis=0, return_inverse=True)
            levels.append(edges)
            a, b, c = triangles.T
            ab, bc, ca = index.reshape(-1, 3).T + n_vertices
            triangles = np.concatenate(
                [np.stack(t, axis=1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
            )
            n_vertices += len(edges)
        return levels

    def refine(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values (10242, ...) on the fine mesh (163842, ...), interpolated along edges."""
        for edges in self.parents:
            middles = (values[edges[:, 0]] + values[edges[:, 1]]) * np.float32(0.5)
            values = np.concatenate([values, middles])
        return values

    @cached_property
    def smoother(self) -> "csr_array":
        """(10242, 10242) operator that makes white noise smooth and leaves its variance as it is.

        It averages with the direct neighbours three times: about 14 mm wide at half maximum.
        """
        from scipy.sparse import csr_array

        first, second, third = self.triangles.T
        rows = np.concatenate([first, second, third, np.arange(self.n_vertices)])
        columns = np.concatenate([second, third, first, np.arange(self.n_vertices)])
        shape = (self.n_vertices, self.n_vertices)
        adjacent = csr_array((np.ones(rows.size, np.float32), (rows, columns)), shape=shape)
        step = _rows_scaled(adjacent, 1 / adjacent.sum(axis=1))
        smoother = step
        for _ in range(_SMOOTHING_STEPS - 1):
            smoother = csr_array(smoother @ step)
        return _rows_scaled(smoother, 1 / np.sqrt(smoother.multiply(smoother).sum(axis=1)))


def _rows_scaled(matrix: "csr_array", factors: NDArray[np.floating]) -> "csr_array":
    scaled = matrix.copy()
    scaled.data *= np.repeat(factors, np.diff(matrix.indptr)).astype(np.float32)
    return scaled


@cache
def load_cortex(hemisphere: Hemisphere) -> Cortex:
    """Read a hemisphere of fsaverage5 from nilearn's own files (nothing is downloaded)."""
    import nibabel
    from nilearn.datasets import fetch_surf_fsaverage

    files = fetch_surf_fsaverage("fsaverage5")
    side = {"lh": "left", "rh": "right"}[hemisphere]
    white, triangles = nibabel.load(files[f"white_{side}"]).agg_data(("pointset", "triangle"))
    pial = nibabel.load(files[f"pial_{side}"]).agg_data("pointset")
    return Cortex(white=white, pial=pial, triangles=triangles)
