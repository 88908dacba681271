"""The fsaverage meshes that the pipeline knows, and how one contains the other.

FreeSurfer builds them by subdividing an icosahedron, which appends vertices: a finer mesh starts
with all vertices of the coarser one. This holds for fsaverage5, 6 and 7 as FreeSurfer orders
them; fsaverage3 and 4 have an order of their own, so they are not offered.
"""

from types import MappingProxyType
from typing import Final, Literal

from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES, FSAVERAGE_VERTICES

Mesh = Literal["fsaverage5", "fsaverage6", "fsaverage7"]

MESH_VERTICES: Final = MappingProxyType(
    {
        "fsaverage5": FSAVERAGE5_VERTICES,
        "fsaverage6": 40_962,
        "fsaverage7": FSAVERAGE_VERTICES,
    }
)
"""Vertices of one hemisphere, by mesh. ``fsaverage7`` is what FreeSurfer calls ``fsaverage``."""


def mesh_vertices(mesh: str) -> int:
    """Vertices of one hemisphere of a mesh.

    Raises
    ------
    ValueError
        If the mesh is not one of ``fsaverage5``, ``fsaverage6`` and ``fsaverage7``.
    """
    if mesh not in MESH_VERTICES:
        raise ValueError(f"Unknown mesh {mesh!r}: choose one of {', '.join(MESH_VERTICES)}.")
    return MESH_VERTICES[mesh]
