"""From NSD's files of coordinate transforms to the operator that they amount to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError, parsing
from nsd_pipeline.nsd.layout import (
    FSAVERAGE_VERTICES,
    HEMISPHERES,
    Space,
    fsaverage_to_white_key,
    layer_keys,
    white_to_fsaverage_key,
)
from nsd_pipeline.nsd.mgh import read_any
from nsd_pipeline.surface.interpolation import Method
from nsd_pipeline.surface.volume_operator import FsaverageOperator


def read_operator(
    paths: Mapping[str, Path],
    subject: str,
    space: Space,
    volume_shape: tuple[int, int, int] | None = None,
    method: Method = "cubic",
) -> FsaverageOperator:
    """Build a subject's operator from NSD's transform files.

    Paths are where the file of each of `nsd.layout.transform_keys` lies on this machine; the space
    is ``func1mm``, ``func1pt8mm`` or ``nativesurface``. A functional volume, of `volume_shape`
    voxels along each axis, is interpolated by a method. An InvalidFileError if a file is not MGZ,
    has another shape than NSD's transforms, or does not fit the others; an NsdError if NSD's
    transforms do not lead from that space to fsaverage.
    """
    nearest = {}
    for hemisphere in HEMISPHERES:
        path = paths[white_to_fsaverage_key(subject, hemisphere)]
        nearest[hemisphere] = index = _read(path, n_columns=1)
        if len(index) != FSAVERAGE_VERTICES:
            raise InvalidFileError(
                f"{path} has {len(index):,} values, but fsaverage has {FSAVERAGE_VERTICES:,}"
                " vertices in a hemisphere.",
                next_step="download it again.",
            )
    try:
        if space == "nativesurface":
            keys = {each: fsaverage_to_white_key(subject, each) for each in HEMISPHERES}
            n_vertices = {each: len(_read(paths[keys[each]], n_columns=1)) for each in HEMISPHERES}
            return FsaverageOperator.from_native_surface(nearest, n_vertices)
        if volume_shape is None:
            raise ValueError("the shape of the volumes is not known.")
        layers = {
            each: [_read(paths[key], n_columns=3) for key in layer_keys(subject, space, each)]
            for each in HEMISPHERES
        }
        return FsaverageOperator.from_coordinates(layers, nearest, volume_shape, method)
    except ValueError as error:
        raise InvalidFileError(
            f"The {space} transforms of {subject} do not fit each other: {error}",
            next_step=f"download nsddata/ppdata/{subject}/transforms again.",
        ) from error


def _read(path: Path, *, n_columns: int) -> NDArray[np.floating[Any]]:
    """Values of an MGZ file as (vertices, columns); its remaining axes come in Fortran order."""
    with parsing(
        lambda problem: InvalidFileError(
            f"{path} is not a readable MGZ file: {problem}.", next_step="download it again."
        )
    ):
        data = read_any(path)
    if data.size != len(data) * n_columns:
        raise InvalidFileError(
            f"{path} has shape {data.shape}, not {n_columns} value(s) for each vertex.",
            next_step="download it again; if it stays so, NSD changed its transforms.",
        )
    return data.reshape(len(data), n_columns, order="F")
