"""NSD's own coordinate transforms, as the operator that they amount to."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.nsd.errors import InvalidFileError
from nsd_pipeline.nsd.layout import HEMISPHERES, Hemisphere

if TYPE_CHECKING:
    from nsd_pipeline.surface.volume_operator import FsaverageOperator

SourceSpace = Literal["func1mm", "func1pt8mm"]

LAYERS: Final = ("layerB1", "layerB2", "layerB3")
"""The cortical depths that NSD's authors average."""

# Folders say func1mm where the names of transforms say func1pt0.
_NAME_IN_FILES: Final[dict[SourceSpace, str]] = {"func1mm": "func1pt0", "func1pt8mm": "func1pt8"}


def layer_keys(subject: str, space: SourceSpace, hemisphere: Hemisphere) -> tuple[str, ...]:
    """Keys of the files that say where a subject's vertices lie in a volume, one per depth."""
    source = _NAME_IN_FILES[space]
    return tuple(
        f"nsddata/ppdata/{subject}/transforms/{hemisphere}.{source}-to-{layer}.mgz"
        for layer in LAYERS
    )


def white_to_fsaverage_key(subject: str, hemisphere: Hemisphere) -> str:
    """Key of the file that names the subject's vertex nearest to each fsaverage vertex."""
    return f"nsddata/ppdata/{subject}/transforms/{hemisphere}.white-to-fsaverage.mgz"


def transform_keys(subject: str, space: SourceSpace) -> tuple[str, ...]:
    """Keys of all files that `read_operator` needs."""
    return tuple(
        key
        for hemisphere in HEMISPHERES
        for key in (
            *layer_keys(subject, space, hemisphere),
            white_to_fsaverage_key(subject, hemisphere),
        )
    )


def read_operator(
    paths: Mapping[str, Path],
    subject: str,
    space: SourceSpace,
    volume_shape: tuple[int, int, int],
) -> "FsaverageOperator":
    """Build a subject's operator from NSD's transform files.

    Parameters
    ----------
    paths
        Where the file of each of `transform_keys` lies on this machine.
    subject, space
        Whose volumes, and in which space.
    volume_shape
        Voxels along each axis of that space.

    Raises
    ------
    InvalidFileError
        If a file is not MGZ, has another shape than NSD's transforms, or does not fit the others.
    """
    from nsd_pipeline.surface.volume_operator import FsaverageOperator

    try:
        return FsaverageOperator.from_coordinates(
            {
                hemisphere: [
                    _read(paths[key], n_columns=3) for key in layer_keys(subject, space, hemisphere)
                ]
                for hemisphere in HEMISPHERES
            },
            {
                hemisphere: _read(paths[white_to_fsaverage_key(subject, hemisphere)], n_columns=1)
                for hemisphere in HEMISPHERES
            },
            volume_shape,
        )
    except ValueError as error:
        raise InvalidFileError(
            f"The {space} transforms of {subject} do not fit each other: {error}",
            next_step="download nsddata/ppdata/" + subject + "/transforms again.",
        ) from error


def _read(path: Path, *, n_columns: int) -> NDArray[np.floating[Any]]:
    """Values of an MGZ file as (vertices, columns); its remaining axes come in Fortran order."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.freesurfer import MGHImage

    try:
        data = np.asarray(MGHImage.from_filename(path).dataobj)
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise InvalidFileError(
            f"{path} is not a readable MGZ file: {error}.", next_step="download it again."
        ) from error
    if data.size != len(data) * n_columns:
        raise InvalidFileError(
            f"{path} has shape {data.shape}, not {n_columns} value(s) for each vertex.",
            next_step="download it again; if it stays so, NSD changed its transforms.",
        )
    return data.reshape(len(data), n_columns, order="F")
