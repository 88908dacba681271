"""Regions of interest: which fsaverage5 vertices a label file selects."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError, NotEnoughDataError
from nsd_pipeline.nsd.layout import FSAVERAGE5_VERTICES, HEMISPHERES, Hemisphere
from nsd_pipeline.surface.meshes import MESH_VERTICES

_LABEL: Final = ".label"


def read_roi(
    paths: Mapping[Hemisphere, Path], *, above: float = 0.0, up_to: float | None = None
) -> NDArray[np.bool_]:
    """Vertices whose value in a label file is within bounds.

    Parameters
    ----------
    paths
        A file for each hemisphere: ``.mgz`` or ``.mgh`` with a value for each vertex of fsaverage,
        fsaverage6 or fsaverage5, or a FreeSurfer ``.label``, whose vertices have the value 1.
    above, up_to
        A vertex is in the region if above < value <= up_to; without an upper bound if that is
        None. NSD's ``nsdgeneral`` is 1 inside; ``streams`` counts streams from 1, and 0 is none.

    Returns
    -------
    array of shape (20484,), bool
        Left hemisphere first. The region may lie in one hemisphere only.

    Raises
    ------
    InvalidFileError
        If a file is unreadable or not on fsaverage.
    NotEnoughDataError
        If no vertex is within the bounds.
    """
    halves = []
    for hemisphere in HEMISPHERES:
        values = _values(paths[hemisphere])[:FSAVERAGE5_VERTICES]
        halves.append((values > above) & (values <= (np.inf if up_to is None else up_to)))
    roi: NDArray[np.bool_] = np.concatenate(halves)
    if not roi.any():
        bounds = f"above {above}" + ("" if up_to is None else f" and up to {up_to}")
        raise NotEnoughDataError(
            f"No fsaverage5 vertex has a value {bounds} in"
            f" {' or '.join(str(path) for path in paths.values())}.",
            next_step="change roi_above or roi_up_to, or choose another region.",
        )
    return roi


def _values(path: Path) -> NDArray[Any]:
    """A value for each vertex of an fsaverage mesh."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.freesurfer import MGHImage, read_label

    try:
        if path.suffix == _LABEL:
            values = np.zeros(MESH_VERTICES["fsaverage7"])
            values[read_label(path)] = 1
        else:
            values = np.asarray(MGHImage.from_filename(path).dataobj).ravel()
    except (ImageFileError, OSError, EOFError, ValueError, IndexError) as error:
        raise InvalidFileError(
            f"{path} is not a readable label file: {error}.",
            next_step="name an .mgz, .mgh or .label file on fsaverage.",
        ) from error
    if len(values) not in MESH_VERTICES.values():
        raise InvalidFileError(
            f"{path} has {len(values):,} values, which is no fsaverage mesh.",
            next_step="name a file on fsaverage, not on a subject's own surface or in a volume.",
        )
    return values
