"""From a subject's own space to fsaverage5, as NSD's authors do it, as one product.

The authors' ``analysis_transformfsaverage`` interpolates a volume cubically at three depths of
the cortex, averages the depths, and gives every fsaverage vertex the value of the nearest vertex
of the subject's own surface. For one subject and source space that is a fixed linear map of
voxels, so it is built once, kept as a sparse matrix, and applied to any number of volumes. Data
on the subject's own surface take the last step only; the vertices of both hemispheres, left
first, then count as the voxels of a volume with one axis.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import ArtifactError
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES, HEMISPHERES, N_VERTICES, Hemisphere
from nsd_pipeline.surface.interpolation import Method, is_inside, list_voxels, neighbours

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Volumes that are mapped at once: 100 MB of touched voxels at 1 mm.
_BLOCK_VOLUMES: Final = 64


@dataclass(frozen=True, eq=False)
class FsaverageOperator:
    """A subject's voxels to fsaverage5: a linear map with a rule for what is invalid.

    `weights` (20484, n), sparse float32, lead from the n voxels that matter to vertices, left
    hemisphere first. Weights of zero are kept: a vertex is invalid if any voxel it looks at is,
    whatever its weight. `touched_voxels` (n,) are the voxels that matter, as increasing indices in
    C order into a volume: ``volume.reshape(-1, T)[touched_voxels]``. `shapes` are those of what
    each file of the source space holds: (X, Y, Z) of a volume; for a native surface (V,) of the
    left and of the right hemisphere.
    """

    weights: "csr_array"
    touched_voxels: NDArray[np.int64]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def from_coordinates(
        cls,
        layers: Mapping[Hemisphere, Sequence[NDArray[np.floating[Any]]]],
        white_to_fsaverage: Mapping[Hemisphere, NDArray[Any]],
        volume_shape: tuple[int, int, int],
        method: Method = "cubic",
    ) -> Self:
        """Build the operator of one subject and functional space.

        Layers are, per hemisphere, the 1-based voxel coordinates of the subject's own vertices at
        each cortical depth (NSD has three): arrays of shape (V, 3); NaN or 9999 for no value.
        `white_to_fsaverage` is, per hemisphere, the 1-based vertex of the subject's surface that is
        nearest to each fsaverage vertex: shape (163842,), of which fsaverage5 is the first 10,242.
        `volume_shape` are the voxels along each axis of the source space; NSD's authors interpolate
        by ``cubic``. A ValueError if the depths do not fit each other, or an index is not one of a
        vertex.
        """
        from scipy.sparse import coo_array

        rows, voxels, weights = [], [], []
        for number, hemisphere in enumerate(HEMISPHERES):
            nearest = _fsaverage5_index(
                white_to_fsaverage[hemisphere], _common_length(layers[hemisphere])
            )
            depths = [layer[nearest] for layer in layers[hemisphere]]
            # The mean over depths lets NaN through, so one depth outside is enough.
            sampled = np.flatnonzero(
                np.logical_and.reduce([is_inside(points, volume_shape) for points in depths])
            )
            for points in depths:
                depth_voxels, depth_weights = neighbours(points[sampled], volume_shape, method)
                vertices = number * FSAVERAGE5_VERTICES + sampled
                rows.append(np.repeat(vertices.astype(np.int32), depth_voxels.shape[1]))
                voxels.append(depth_voxels.ravel())
                weights.append(depth_weights.ravel() / len(depths))
        touched, columns = list_voxels(np.concatenate(voxels), int(np.prod(volume_shape)))
        matrix = coo_array(
            (np.concatenate(weights), (np.concatenate(rows), columns)),
            shape=(N_VERTICES, len(touched)),
        ).tocsr()
        return cls(matrix.astype(np.float32), touched, (volume_shape,))

    @classmethod
    def from_native_surface(
        cls,
        white_to_fsaverage: Mapping[Hemisphere, NDArray[Any]],
        n_vertices: Mapping[Hemisphere, int],
    ) -> Self:
        """Build the operator from one subject's own surface.

        Takes what is nearest to fsaverage's vertices, as `from_coordinates` does, and the number of
        the surface's vertices, per hemisphere. A ValueError if an index is not one of a vertex.
        """
        from scipy.sparse import csr_array

        index = np.concatenate(
            [
                _fsaverage5_index(white_to_fsaverage[hemisphere], n_vertices[hemisphere]) + offset
                for hemisphere, offset in zip(HEMISPHERES, (0, n_vertices["lh"]), strict=True)
            ]
        )
        touched, columns = list_voxels(index, sum(n_vertices.values()))
        weights = csr_array(
            (np.ones(len(index), np.float32), columns, np.arange(len(index) + 1)),
            shape=(len(index), len(touched)),
        )
        return cls(weights, touched, tuple((n_vertices[each],) for each in HEMISPHERES))

    def masked(self, valid: NDArray[np.bool_]) -> Self:
        """The operator of a session in which only some voxels hold data.

        ``valid`` says which: of all voxels in C order, (n_voxels,), or only of ``touched_voxels``,
        (n,). A vertex becomes NaN if any voxel that it looks at is not valid. A ValueError if the
        shape fits neither.
        """
        from scipy.sparse import csr_array

        # Weights may be zero, and yet their voxels count as looked at.
        pattern = csr_array(
            (np.ones_like(self.weights.data), self.weights.indices, self.weights.indptr),
            shape=self.weights.shape,
        )
        lost = pattern @ (~self._touched(valid)).astype(np.float32) > 0
        count = np.diff(self.weights.indptr)
        kept = np.repeat(~lost, count)
        count[lost] = 0
        weights = csr_array(
            (
                self.weights.data[kept],
                self.weights.indices[kept],
                np.concatenate([[0], np.cumsum(count)]),
            ),
            shape=self.weights.shape,
        )
        return replace(self, weights=weights)

    def apply(self, volumes: NDArray[Any]) -> NDArray[np.float32]:
        """Map volumes to fsaverage5: (T, 20484) float32, in their unit.

        They are (n_voxels, T) in C order, or (n, T) of ``touched_voxels`` alone, of any number
        type; the map is linear, so integers that stand for percent x 300 may be divided afterwards.
        NaN at a vertex if any voxel that it looks at is NaN or `masked`, or if its coordinates lie
        outside the volume. A ValueError if a shape fits neither all voxels nor the touched ones.
        """
        if volumes.ndim != 2:
            raise ValueError(f"Volumes have shape (voxels, volumes), not {volumes.shape}.")
        touched = self._touched(volumes)
        surface = np.empty((volumes.shape[1], self.weights.shape[0]), np.float32)
        for first in range(0, len(surface), _BLOCK_VOLUMES):
            some = slice(first, first + _BLOCK_VOLUMES)
            surface[some] = (self.weights @ touched[:, some].astype(np.float32)).T
        surface[:, self._outside] = np.nan
        return surface

    def apply_to_blocks(
        self, blocks: Iterable[NDArray[Any]], n_volumes: int
    ) -> NDArray[np.float32]:
        """Map volumes (n, k) that come a few at a time, n_volumes in all: as `apply`."""
        surface = np.empty((n_volumes, self.weights.shape[0]), np.float32)
        first = 0
        for block in blocks:
            surface[first : first + block.shape[1]] = self.apply(block)
            first += block.shape[1]
        return surface

    def apply_to_parts(
        self, parts: Iterable[tuple[NDArray[np.int64], NDArray[Any]]], n_volumes: int
    ) -> NDArray[np.float32]:
        """Map volumes that come a few voxels at a time, each in all ``n_volumes``: as `apply`.

        Parts are places (k,) in ``touched_voxels`` and the values (k, T) of these voxels: together,
        each touched voxel once, in any order. A ValueError if they are not all of them.
        """
        by_voxel = self.weights.tocsc()
        total = np.zeros((self.weights.shape[0], n_volumes), np.float32)
        n_voxels = 0
        for places, values in parts:
            total += by_voxel[:, places].tocsr() @ values.astype(np.float32)
            n_voxels += len(places)
        if n_voxels != len(self.touched_voxels):
            raise ValueError(
                f"{n_voxels:,} voxels came where {len(self.touched_voxels):,} are looked at."
            )
        total[self._outside] = np.nan
        return np.ascontiguousarray(total.T)

    @property
    def _outside(self) -> NDArray[np.bool_]:
        """Vertices that look at no voxel: they have no value."""
        outside: NDArray[np.bool_] = np.diff(self.weights.indptr) == 0
        return outside

    def save(self, path: Path) -> None:
        """Write the operator as an ``.npz`` file (numbers only, no pickle)."""
        with path.open("wb") as file:
            np.savez(
                file,
                data=self.weights.data,
                indices=self.weights.indices,
                indptr=self.weights.indptr,
                touched_voxels=self.touched_voxels,
                shapes=np.array(self.shapes),
            )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an operator that `save` wrote.

        An ArtifactError if the file is not one, or is damaged.
        """
        from scipy.sparse import csr_array

        try:
            with np.load(path, allow_pickle=False) as file:
                touched = file["touched_voxels"]
                shapes = tuple(map(tuple, file["shapes"].tolist()))
                matrix = csr_array(
                    (file["data"], file["indices"], file["indptr"]),
                    shape=(N_VERTICES, len(touched)),
                )
                matrix.check_format(full_check=True)
        except (BadZipFile, EOFError, KeyError, OSError, ValueError) as error:
            raise ArtifactError(
                f"{path} is not a readable volume-to-fsaverage5 operator: {error}.",
                next_step="delete it and build it again from the subject's transforms.",
            ) from error
        return cls(matrix, touched, shapes)

    def _touched(self, data: NDArray[Any]) -> NDArray[Any]:
        """Cut data of all voxels down to the touched ones; leave data of the touched ones."""
        n_voxels = sum(int(np.prod(shape)) for shape in self.shapes)
        if len(data) == n_voxels:
            return data[self.touched_voxels]
        if len(data) == len(self.touched_voxels):
            return data
        raise ValueError(
            f"{len(data):,} voxels are neither all {n_voxels:,} of the space nor the "
            f"{len(self.touched_voxels):,} that matter."
        )


FindOperator = Callable[[], FsaverageOperator]
"""Gives the operator of a subject and space, when it is needed."""


def _common_length(layers: Sequence[NDArray[np.floating[Any]]]) -> int:
    """Vertices of the subject's own surface, on which all depths agree."""
    shapes = {layer.shape for layer in layers}
    if len(shapes) != 1 or next(iter(shapes))[1:] != (3,):
        raise ValueError(f"Depths need one shape (vertices, 3) in common, not {sorted(shapes)}.")
    return len(layers[0])


def _fsaverage5_index(white_to_fsaverage: NDArray[Any], n_vertices: int) -> NDArray[np.int64]:
    """0-based vertices of the subject's own surface, one for each fsaverage5 vertex."""
    index = np.asarray(white_to_fsaverage).ravel()[:FSAVERAGE5_VERTICES]
    if len(index) < FSAVERAGE5_VERTICES:
        raise ValueError(f"{len(index):,} indices do not cover fsaverage5's vertices.")
    if not ((index >= 1) & (index <= n_vertices) & (index == np.floor(index))).all():
        raise ValueError(f"An index is not a whole number from 1 to {n_vertices:,}.")
    return index.astype(np.int64) - 1
