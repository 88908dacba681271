"""The spaces in which NSD has single-trial betas, and the files of each.

`layout` names where a session's betas lie; this module adds what the spaces other than fsaverage
need: which file formats there are, and which voxels have data in a session. Values are int16,
percent signal change times 300, in all of them.
"""

from typing import Final, Literal, get_args

from nsd_pipeline.nsd.layout import Space, betas_folder, betas_keys

FileFormat = Literal["mgh", "hdf5", "nii.gz"]
FunctionalSpace = Literal["func1mm", "func1pt8mm"]

FUNCTIONAL_SPACES: Final[tuple[FunctionalSpace, ...]] = get_args(FunctionalSpace)
"""A subject's own volumes."""
OPERATOR_SPACES: Final[tuple[Space, ...]] = (*FUNCTIONAL_SPACES, "nativesurface")
"""Spaces with transforms of their own for every subject; MNI goes by fsaverage's surfaces."""

PERCENT_SCALE: Final = 300
"""What percent signal change was multiplied with before it was rounded to int16."""


def betas_files(subject: str, session: int, space: Space) -> dict[FileFormat, tuple[str, ...]]:
    """Keys of one session's betas in a space, by file format, the one to prefer first.

    Surfaces have a file for each hemisphere, left first. The two formats of a functional volume
    hold the same numbers. Of HDF5, single voxels can be read, but its index and the voxels that
    fsaverage5 looks at are more bytes, in many more requests, than all of the compressed volumes.
    """
    keys = betas_keys(subject, session, space)
    match space:
        case "fsaverage":
            return {"mgh": keys}
        case "nativesurface":
            return {"hdf5": keys}
        case "MNI":
            return {"nii.gz": keys}
        case _:
            return {"nii.gz": keys, "hdf5": (keys[0].removesuffix("nii.gz") + "hdf5",)}


def valid_prefix(subject: str, space: Space) -> str:
    """How the keys of a subject's masks start: one a session, 1 where a voxel has data.

    Native surfaces have none: what is 0 in all of a session's trials has no data there.
    """
    folder = betas_folder(subject, space) if space == "MNI" else f"nsddata/ppdata/{subject}/{space}"
    return f"{folder}/valid_session"


def valid_key(subject: str, session: int, space: Space) -> str:
    """Key of the mask of voxels that have data in a session."""
    return f"{valid_prefix(subject, space)}{session:02d}.nii.gz"
