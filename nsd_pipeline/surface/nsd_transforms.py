"""NSD's own coordinate transforms, as the operator that they amount to."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError, NsdError, parsing
from nsd_pipeline.nsd.layout import (
    FSAVERAGE_VERTICES,
    FUNCTIONAL_SPACES,
    HEMISPHERES,
    FunctionalSpace,
    Hemisphere,
    Space,
)
from nsd_pipeline.nsd.mgh import read_any
from nsd_pipeline.surface.interpolation import Method

if TYPE_CHECKING:
    from nsd_pipeline.surface.volume_operator import FsaverageOperator


LAYERS: Final = ("layerB1", "layerB2", "layerB3")
"""The cortical depths that NSD's authors average."""

# Folders say func1mm where the names of transforms say func1pt0.
_NAME_IN_FILES: Final[dict[FunctionalSpace, str]] = {
    "func1mm": "func1pt0",
    "func1pt8mm": "func1pt8",
}


def layer_keys(subject: str, space: FunctionalSpace, hemisphere: Hemisphere) -> tuple[str, ...]:
    """Keys of the files that say where a subject's vertices lie in a volume, one per depth."""
    source = _NAME_IN_FILES[space]
    return tuple(
        f"nsddata/ppdata/{subject}/transforms/{hemisphere}.{source}-to-{layer}.mgz"
        for layer in LAYERS
    )


def white_to_fsaverage_key(subject: str, hemisphere: Hemisphere) -> str:
    """Key of the file that names the subject's vertex nearest to each fsaverage vertex."""
    return f"nsddata/ppdata/{subject}/transforms/{hemisphere}.white-to-fsaverage.mgz"


def fsaverage_to_white_key(subject: str, hemisphere: Hemisphere) -> str:
    """Key of the file with the fsaverage vertex nearest to each vertex of the subject."""
    return f"nsddata/ppdata/{subject}/transforms/{hemisphere}.fsaverage-to-white.mgz"


def transform_keys(subject: str, space: Space) -> tuple[str, ...]:
    """Keys of all files that `read_operator` needs.

    Raises
    ------
    NsdError
        If NSD's transforms do not lead from that space to fsaverage.
    """
    keys = {
        hemisphere: (
            fsaverage_to_white_key(subject, hemisphere),
            white_to_fsaverage_key(subject, hemisphere),
        )
        if space == "nativesurface"
        else (
            *layer_keys(subject, _functional(space), hemisphere),
            white_to_fsaverage_key(subject, hemisphere),
        )
        for hemisphere in HEMISPHERES
    }
    return tuple(key for hemisphere in HEMISPHERES for key in keys[hemisphere])


def read_operator(
    paths: Mapping[str, Path],
    subject: str,
    space: Space,
    volume_shape: tuple[int, int, int] | None = None,
    method: Method = "cubic",
) -> "FsaverageOperator":
    """Build a subject's operator from NSD's transform files.

    Parameters
    ----------
    paths
        Where the file of each of `transform_keys` lies on this machine.
    subject, space
        Whose data, and in which space: ``func1mm``, ``func1pt8mm`` or ``nativesurface``.
    volume_shape
        Voxels along each axis of a functional space.
    method
        How a functional volume is interpolated.

    Raises
    ------
    InvalidFileError
        If a file is not MGZ, has another shape than NSD's transforms, or does not fit the others.
    NsdError
        If NSD's transforms do not lead from that space to fsaverage.
    """
    from nsd_pipeline.surface.volume_operator import FsaverageOperator

    nearest = {
        hemisphere: _read(paths[white_to_fsaverage_key(subject, hemisphere)], n_columns=1)
        for hemisphere in HEMISPHERES
    }
    for hemisphere, index in nearest.items():
        if len(index) != FSAVERAGE_VERTICES:
            raise InvalidFileError(
                f"{paths[white_to_fsaverage_key(subject, hemisphere)]} has {len(index):,} values,"
                f" but fsaverage has {FSAVERAGE_VERTICES:,} vertices in a hemisphere.",
                next_step="download it again.",
            )
    try:
        if space == "nativesurface":
            return FsaverageOperator.from_native_surface(
                nearest,
                {
                    hemisphere: len(
                        _read(paths[fsaverage_to_white_key(subject, hemisphere)], n_columns=1)
                    )
                    for hemisphere in HEMISPHERES
                },
            )
        if volume_shape is None:
            raise ValueError("the shape of the volumes is not known.")
        return FsaverageOperator.from_coordinates(
            {
                hemisphere: [
                    _read(paths[key], n_columns=3)
                    for key in layer_keys(subject, _functional(space), hemisphere)
                ]
                for hemisphere in HEMISPHERES
            },
            nearest,
            volume_shape,
            method,
        )
    except ValueError as error:
        raise InvalidFileError(
            f"The {space} transforms of {subject} do not fit each other: {error}",
            next_step="download nsddata/ppdata/" + subject + "/transforms again.",
        ) from error


def _functional(space: str) -> FunctionalSpace:
    for known in FUNCTIONAL_SPACES:
        if space == known:
            return known
    raise NsdError(
        f"NSD has no transforms from {space!r} to a subject's cortex.",
        next_step=f"choose one of {', '.join(FUNCTIONAL_SPACES)} and nativesurface.",
    )


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
