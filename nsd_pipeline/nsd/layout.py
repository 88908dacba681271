"""Where things lie on NSD's bucket, and how many of them there are.

Keys are relative to the bucket (or to a mirror's folder). The counts are those of Allen et al.
(2022): 284 sessions in all, 40, 40, 32, 30, 40, 32, 40 and 30 for subjects 1 to 8.
"""

import re
from typing import Final, Literal, get_args

from nsd_pipeline.errors import NsdError

Hemisphere = Literal["lh", "rh"]
Space = Literal["fsaverage", "nativesurface", "func1pt8mm", "func1mm", "MNI"]

HEMISPHERES: Final[tuple[Hemisphere, ...]] = get_args(Hemisphere)
SPACES: Final[tuple[Space, ...]] = get_args(Space)

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

N_IMAGES: Final = 73_000
IMAGE_SHAPE: Final = (425, 425, 3)
"""Height, width and colour channels (RGB, uint8) of a stimulus."""

EXPDESIGN_KEY: Final = "nsddata/experiments/nsd/nsd_expdesign.mat"
STIM_INFO_KEY: Final = "nsddata/experiments/nsd/nsd_stim_info_merged.csv"
GENERATED_KEY: Final = "demo.json"
"""In a dataset that was generated in NSD's layout: what it was generated from. NSD has no such."""
STIMULI_KEY: Final = "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"

_SESSION_KEY = re.compile(r"(subj\d\d)_ses(\d\d)")


def subject_number(subject: str) -> int:
    """1-based number of a subject: 1 for ``subj01``."""
    return SUBJECTS.index(subject) + 1


def session_key(subject: str, session: int) -> str:
    """Flat name of a session: ``subj01_ses07``."""
    return f"{subject}_ses{session:02d}"


def parse_session_key(key: str) -> tuple[str, int]:
    """Subject and 1-based session number of a flat session name.

    Raises
    ------
    NsdError
        If NSD has no such session.
    """
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
    """Keys of one session's betas in a space, as the bucket names them.

    Surfaces have one file per hemisphere, left first. Volumes have one NIfTI file (the HDF5 twin
    that ``func1pt8mm`` and ``func1mm`` have beside it holds the same numbers).
    """
    folder = betas_folder(subject, space)
    name = f"betas_session{session:02d}"
    match space:
        case "fsaverage":
            return tuple(f"{folder}/{hemi}.{name}.mgh" for hemi in HEMISPHERES)
        case "nativesurface":
            return tuple(f"{folder}/{hemi}.{name}.hdf5" for hemi in HEMISPHERES)
        case _:
            return (f"{folder}/{name}.nii.gz",)
