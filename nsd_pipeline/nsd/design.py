"""The experiment design: which image every trial of every session showed.

``nsd_expdesign.mat`` says it in three arrays that are the same for all sessions, so a trial's image
is two look-ups away (Allen et al. 2022, and NSD's data manual)::

    t       = trials of earlier sessions + trial
    id10k   = masterordering[t]              # the same for all subjects, 1-based
    id73k   = subjectim[subject - 1, id10k - 1]      # 1-based

Everything in the file counts from 1. It stays so in `ExperimentDesign`, which holds the file's own
arrays; the tables made from it count images from 0, as the rows of the stimulus file do. With it
come the tables that :mod:`~nsd_pipeline.nsd.mapping` compares it with.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError, MappingError, SourceError, parsing
from nsd_pipeline.nsd.layout import (
    EXPDESIGN_KEY,
    N_IMAGES,
    N_SESSIONS,
    STIM_INFO_KEY,
    SUBJECTS,
    parse_session_key,
    responses_key,
    session_key,
    subject_number,
)
from nsd_pipeline.nsd.matlab import read_arrays
from nsd_pipeline.storage.source import ObjectInfo, Source, read_whole

if TYPE_CHECKING:
    import pandas as pd

N_SUBJECT_IMAGES: Final = 10_000
"""Images set aside for one subject, the shared ones included."""
N_SHARED_IMAGES: Final = 1_000
"""Images every subject sees; they are the first of each subject's images."""
STIMPATTERN_SHAPE: Final = (max(N_SESSIONS.values()), 12, 75)
"""Sessions, runs in a session, and 4-second slots in a run."""

_FIELDS: Final = ("masterordering", "subjectim", "sharedix", "stimpattern")
_LARGEST_FIELD: Final = 64 * 2**20
"""Bytes of an unpacked field; the largest that the design needs (subjectim) has 640 kB."""
_NEXT_STEP: Final = f"fetch it again from NSD's bucket ({EXPDESIGN_KEY})."


@dataclass(frozen=True, eq=False)
class ExperimentDesign:
    """The arrays of ``nsd_expdesign.mat``, validated. Ids count from 1.

    `masterordering` (n,) is, for each trial of all sessions, the image as one of a subject's
    10,000, and `subjectim` (8, 10000) the same images as ids among all 73,000, of which every
    subject sees those in `sharedix` (1000,). `stimpattern` (40, 12, 75), by session, run and slot,
    says whether a slot showed an image or was blank.
    """

    masterordering: NDArray[np.int64]
    subjectim: NDArray[np.int64]
    sharedix: NDArray[np.int64]
    stimpattern: NDArray[np.bool_]

    def n_trials(self, session: int) -> int:
        """Trials of a session (1-based); the real design has 750 in each."""
        return self.first_trial(session + 1) - self.first_trial(session)

    def first_trial(self, session: int) -> int:
        """0-based number, over all sessions, of a session's (1-based) first trial."""
        return int(self._first_trials[session - 1])

    def trials(self, subject: str, session: int) -> "pd.DataFrame":
        """One row for each trial of a session (1-based), in the order of its betas.

        The columns are ``subject``, ``session``, and

        - ``run``: 1-based task run; ``trial``: 0-based index within the session
        - ``slot``: 0-based 4-second slot within the run
        - ``image_id``: 0-based among all 73,000
        - ``image_id_10k``: 0-based among the subject's 10,000
        - ``repetition``: how often the subject saw the image before (0, 1 or 2)
        - ``shared``: whether it is one of the 1,000 images all subjects see

        An NsdError if the subject never had such a session.
        """
        import pandas as pd

        parse_session_key(session_key(subject, session))
        first, last = self.first_trial(session), self.first_trial(session + 1)
        run, slot = np.nonzero(self.stimpattern[session - 1])
        image_id_10k = self.masterordering[first:last] - 1
        return pd.DataFrame(
            {
                "subject": subject,
                "session": session,
                "run": run + 1,
                "trial": np.arange(last - first),
                "slot": slot,
                "image_id": self.subjectim[subject_number(subject) - 1, image_id_10k] - 1,
                "image_id_10k": image_id_10k,
                "repetition": self._repetitions[first:last],
                "shared": image_id_10k < N_SHARED_IMAGES,
            }
        )

    @cached_property
    def _first_trials(self) -> NDArray[np.int64]:
        """First trial of each session, and the number of trials after the last one."""
        counts = self.stimpattern.sum(axis=(1, 2))
        return np.concatenate([[0], np.cumsum(counts)])

    @cached_property
    def _repetitions(self) -> NDArray[np.int64]:
        """How often each trial's image came before; the same for all subjects."""
        import pandas as pd

        order = pd.Series(self.masterordering)
        return np.asarray(order.groupby(order).cumcount(), np.int64)


def read_experiment_design(path: str | os.PathLike[str], name: str = "") -> ExperimentDesign:
    """Read and validate ``nsd_expdesign.mat``; errors call it by `name`, or by its path.

    An InvalidFileError if it is no readable MATLAB file of version 5. A MappingError if an array is
    missing or has the wrong shape, if an id is out of range, if the shared images are not the first
    1,000 of every subject, or if two subjects have another image in common.
    """
    name = name or os.fspath(path)
    with parsing(
        lambda problem: InvalidFileError(
            f"{name} is not a readable MATLAB file of version 5: {problem}.", next_step=_NEXT_STEP
        )
    ):
        arrays = read_arrays(Path(path), _FIELDS, largest=_LARGEST_FIELD)
    missing = [field for field in _FIELDS if field not in arrays]
    if missing:
        raise _wrong(name, f" lacks the field {', '.join(missing)}")
    integers = partial(_integers, arrays, name)
    pattern = integers("stimpattern", STIMPATTERN_SHAPE, 0, 1).astype(bool)
    n_trials = int(pattern.sum())
    design = ExperimentDesign(
        masterordering=integers("masterordering", (1, n_trials), 1, N_SUBJECT_IMAGES).ravel(),
        subjectim=integers("subjectim", (len(N_SESSIONS), N_SUBJECT_IMAGES), 1, N_IMAGES),
        sharedix=integers("sharedix", (1, N_SHARED_IMAGES), 1, N_IMAGES).ravel(),
        stimpattern=pattern,
    )
    _check_images(design, name)
    return design


def _integers(
    arrays: dict[str, NDArray[Any]],
    name: str,
    field: str,
    shape: tuple[int, ...],
    low: int,
    high: int,
) -> NDArray[np.int64]:
    """Check and convert a field of whole numbers, which MATLAB may store as any type."""
    values = arrays[field]
    if values.shape != shape:
        why = " (one entry for each trial of stimpattern)" if field == "masterordering" else ""
        raise _wrong(name, f": {field} has shape {values.shape}, not {shape}{why}")
    valid = (values >= low) & (values <= high) & (values == np.round(values))
    if not valid.all():
        index = tuple(int(i) for i in np.argwhere(~valid)[0])
        raise _wrong(
            name,
            f": {field} must hold whole numbers from {low} to {high}, but"
            f" {np.count_nonzero(~valid)} of {values.size} entries do not; the first is"
            f" {values[index]} at {tuple(i + 1 for i in index)} (counted from 1)",
        )
    return values.astype(np.int64)


def _check_images(design: ExperimentDesign, name: str) -> None:
    """Check that subjects have the shared images, and only those, in common."""
    shared = np.sort(design.sharedix)
    firsts = np.sort(design.subjectim[:, :N_SHARED_IMAGES], axis=1)
    wrong = np.flatnonzero((firsts != shared).any(axis=1)) + 1
    if wrong.size:
        raise _wrong(
            name,
            f": sharedix is not the first {N_SHARED_IMAGES} columns of subjectim for subject"
            f" {', '.join(map(str, wrong))}",
        )
    images = np.concatenate([shared, design.subjectim[:, N_SHARED_IMAGES:].ravel()])
    counts = np.bincount(images)
    if counts.max() > 1:
        repeated = np.flatnonzero(counts > 1)
        raise _wrong(
            name,
            f": {repeated.size} images appear more than once among sharedix and the subjects' own"
            f" images in subjectim; the first is {repeated[0]}",
        )


def _wrong(name: str, problem: str) -> MappingError:
    return MappingError(f"{name}{problem}.", next_step=_NEXT_STEP)


def find_design(source: Source) -> dict[str, ObjectInfo]:
    """Experiment design, stimulus info, and the responses of every subject the source has.

    By the file name they get: ``nsd_expdesign.mat``, ``nsd_stim_info_merged.csv`` and
    ``subjXX_responses.tsv``. A SourceError if the design or the stimulus info is missing.
    """
    found = {Path(key).name: source.describe(key) for key in (EXPDESIGN_KEY, STIM_INFO_KEY)}
    for subject in SUBJECTS:
        key = responses_key(subject)
        if key in source.list(key):
            found[responses_file(subject)] = source.describe(key)
    if len(found) == 2:
        raise SourceError(
            f"{source.url} has no subject's {Path(responses_key('subj01')).name}.",
            next_step="check that the source has NSD's layout: "
            f"{responses_key('subj01')} should be there.",
        )
    return found


def copy_design(source: Source, objects: Mapping[str, ObjectInfo], folder: Path) -> None:
    """Copy the files that :func:`find_design` found into a folder."""
    for name, info in objects.items():
        (folder / name).write_bytes(read_whole(source, info))


def responses_file(subject: str) -> str:
    """Name that a subject's responses get, as the bucket's is the same for all subjects."""
    return f"{subject}_responses.tsv"
