"""Where things lie on NSD's bucket, and how many of them there are.

Keys are relative to the bucket (or to a mirror's folder). The counts are those of Allen et al.
(2022): 284 sessions in all, 40, 40, 32, 30, 40, 32, 40 and 30 for subjects 1 to 8.
"""

import re
from typing import Final, Literal, get_args

from nsd_pipeline.errors import NsdError

Hemisphere = Literal["lh", "rh"]
Space = Literal["fsaverage", "nativesurface", "func1pt8mm", "func1mm", "MNI"]

FunctionalSpace = Literal["func1mm", "func1pt8mm"]
FileFormat = Literal["mgh", "hdf5", "nii.gz"]

HEMISPHERES: Final[tuple[Hemisphere, ...]] = get_args(Hemisphere)
SPACES: Final[tuple[Space, ...]] = get_args(Space)
"""Spaces in which NSD has single-trial betas."""
DEFAULT_SPACE: Final[Space] = "fsaverage"
"""The one whose betas everything starts from unless somebody names another."""
FUNCTIONAL_SPACES: Final[tuple[FunctionalSpace, ...]] = get_args(FunctionalSpace)
"""A subject's own volumes."""
OPERATOR_SPACES: Final[tuple[Space, ...]] = (*FUNCTIONAL_SPACES, "nativesurface")
"""Spaces with transforms of their own for every subject; MNI goes by fsaverage's surfaces."""
PERCENT_SCALE: Final = 300
"""Betas in spaces other than fsaverage are int16: percent signal change times this."""

N_SESSIONS: Final[dict[str, int]] = {
    "subj01": 40,
    "subj02": 40,
    "subj03": 32,
    "subj04": 30,
    "subj05": 40,
    "subj06": 32,
    "subj07": 40,
    "subj08": 30,
}
SUBJECTS: Final = tuple(N_SESSIONS)

FSAVERAGE_VERTICES: Final = 163_842
"""Vertices of one hemisphere of fsaverage."""
FSAVERAGE5_VERTICES: Final = 10_242
"""Vertices of one hemisphere of fsaverage5: the first ones of fsaverage."""
N_VERTICES: Final = 2 * FSAVERAGE5_VERTICES
"""Vertices of fsaverage5, left hemisphere first: what models learn from."""

N_IMAGES: Final = 73_000
IMAGE_SHAPE: Final = (425, 425, 3)
"""Height, width and colour channels (RGB, uint8) of a stimulus."""

EXPDESIGN_KEY: Final = "nsddata/experiments/nsd/nsd_expdesign.mat"
STIM_INFO_KEY: Final = "nsddata/experiments/nsd/nsd_stim_info_merged.csv"
LABELS_FOLDER: Final = "nsddata/freesurfer/fsaverage/label"
GENERATED_KEY: Final = "demo.json"
"""In a dataset that was generated in NSD's layout: what it was generated from. NSD has no such."""
GENERATED: Final = "generated"
"""What its pictures are called, where artifacts say what they show."""
STIMULI_KEY: Final = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"

_SESSION_KEY = re.compile(r"(subj\d\d)_ses(\d\d)")


def subject_number(subject: str) -> int:
    """1-based number of a subject: 1 for ``subj01``."""
    return SUBJECTS.index(subject) + 1


def session_key(subject: str, session: int) -> str:
    """Flat name of a session: ``subj01_ses07``."""
    return f"{subject}_ses{session:02d}"


def parse_session_key(key: str) -> tuple[str, int]:
    """Subject and 1-based session of a flat session name; an NsdError if NSD has no such one."""
    match = _SESSION_KEY.fullmatch(key)
    if match:
        subject, session = match[1], int(match[2])
        if 1 <= session <= N_SESSIONS.get(subject, 0):
            return subject, session
    raise NsdError(
        f"NSD has no session {key!r}.",
        next_step="name one from subj01_ses01 to subj08_ses30; sessions per subject are "
        + ", ".join(f"{name} {count}" for name, count in N_SESSIONS.items())
        + ".",
    )


def responses_key(subject: str) -> str:
    """Key of a subject's behavioural responses."""
    return f"nsddata/ppdata/{subject}/behav/responses.tsv"


def betas_folder(subject: str, space: Space) -> str:
    """Key of the folder with a subject's single-trial betas in a space.

    MNI betas were only published without GLMdenoise and ridge regression.
    """
    kind = "betas_fithrf" if space == "MNI" else "betas_fithrf_GLMdenoise_RR"
    return f"nsddata_betas/ppdata/{subject}/{space}/{kind}"


def betas_keys(subject: str, session: int, space: Space) -> tuple[str, ...]:
    """Keys of one session's betas in a space: one for each hemisphere, left first, or one volume.

    Of functional volumes, which NSD has in two formats, this is the NIfTI file.
    """
    return next(iter(betas_files(subject, session, space).values()))


def betas_files(subject: str, session: int, space: Space) -> dict[FileFormat, tuple[str, ...]]:
    """Keys of one session's betas in a space, by file format, the one to prefer first.

    The two formats of a functional volume hold the same numbers. Of HDF5, single voxels can be
    read, but its index and the voxels that fsaverage5 looks at are more bytes, in many more
    requests, than all of the compressed volumes.
    """
    folder, name = betas_folder(subject, space), f"betas_session{session:02d}"
    match space:
        case "fsaverage":
            return {"mgh": tuple(f"{folder}/{side}.{name}.mgh" for side in HEMISPHERES)}
        case "nativesurface":
            return {"hdf5": tuple(f"{folder}/{side}.{name}.hdf5" for side in HEMISPHERES)}
        case "MNI":
            return {"nii.gz": (f"{folder}/{name}.nii.gz",)}
        case _:
            return {"nii.gz": (f"{folder}/{name}.nii.gz",), "hdf5": (f"{folder}/{name}.hdf5",)}


def valid_prefix(subject: str, space: Space) -> str:
    """How the keys of a subject's masks start: one a session, 1 where a voxel has data.

    Native surfaces have none: what is 0 in all of a session's trials has no data there.
    """
    folder = betas_folder(subject, space) if space == "MNI" else f"nsddata/ppdata/{subject}/{space}"
    return f"{folder}/valid_session"


def valid_key(subject: str, session: int, space: Space) -> str:
    """Key of the mask of voxels that have data in a session."""
    return f"{valid_prefix(subject, space)}{session:02d}.nii.gz"


def layer_keys(subject: str, space: Space, hemisphere: Hemisphere) -> tuple[str, ...]:
    """Keys of the files that say where a subject's vertices lie in a functional volume.

    One for each of the three depths of the cortex that NSD's authors average; an NsdError if it is
    no functional space.
    """
    # Folders say func1mm where the names of transforms say func1pt0.
    name = {"func1mm": "func1pt0", "func1pt8mm": "func1pt8"}.get(space)
    if name is None:
        raise NsdError(
            f"NSD has no transforms from {space!r} to a subject's cortex.",
            next_step=f"choose one of {', '.join(FUNCTIONAL_SPACES)} and nativesurface.",
        )
    return tuple(
        _transform_key(subject, hemisphere, f"{name}-to-layerB{depth}") for depth in (1, 2, 3)
    )


def white_to_fsaverage_key(subject: str, hemisphere: Hemisphere) -> str:
    """Key of the file that names the subject's vertex nearest to each fsaverage vertex."""
    return _transform_key(subject, hemisphere, "white-to-fsaverage")


def fsaverage_to_white_key(subject: str, hemisphere: Hemisphere) -> str:
    """Key of the file with the fsaverage vertex nearest to each vertex of the subject."""
    return _transform_key(subject, hemisphere, "fsaverage-to-white")


def _transform_key(subject: str, hemisphere: Hemisphere, name: str) -> str:
    return f"nsddata/ppdata/{subject}/transforms/{hemisphere}.{name}.mgz"


def transform_keys(subject: str, space: Space) -> tuple[str, ...]:
    """Keys of the files that lead from a space to fsaverage; an NsdError if NSD has none such."""
    keys: list[str] = []
    for hemisphere in HEMISPHERES:
        if space == "nativesurface":
            keys.append(fsaverage_to_white_key(subject, hemisphere))
        else:
            keys += layer_keys(subject, space, hemisphere)
        keys.append(white_to_fsaverage_key(subject, hemisphere))
    return tuple(keys)
