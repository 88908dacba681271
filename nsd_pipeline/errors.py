"""What can go wrong with the data, as errors a person can act upon.

Every error names the thing (a file, an object, an artifact), says what is wrong with it in one
sentence, and ends with the next step. Nothing here is about retrying: an error of these classes
stays until somebody acts. `explain` puts errors that are not ours into the same form, `parsing`
those of a library that reads a damaged file.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Remake:
    """An artifact that is to be made. Whoever knows how steps are run says by which command."""

    step: str
    """Name of the step that makes it."""
    partition: str | None
    """Which of its artifacts; None if it has only one."""


class NsdError(Exception):
    """A problem that stays until somebody acts on it.

    `problem` is one sentence that names the file, object or artifact and says what is wrong with
    it; `next_step` what to do about it, as an imperative sentence; `remake` what has to be made for
    that, if it is one artifact of ours.
    """

    def __init__(self, problem: str, *, next_step: str, remake: Remake | None = None) -> None:
        super().__init__(problem, next_step)
        self.problem = problem
        self.next_step = next_step
        self.remake = remake

    def __str__(self) -> str:
        return f"{self.problem}\nNext step: {self.next_step}"


class TermsNotAcceptedError(NsdError):
    """NSD's terms of use have not been accepted on this machine."""


class SourceError(NsdError):
    """The dataset's bucket or mirror does not serve what was asked for."""


class SourceChangedError(SourceError):
    """An object on the bucket was replaced while it was being read."""


class InvalidFileError(NsdError):
    """A file of the dataset is not what its format or NSD's layout says it is."""


class MappingError(NsdError):
    """The sources that say which trial showed which image are incomplete or disagree."""


class ArtifactError(NsdError):
    """An artifact of ours is missing, incomplete or damaged."""


class DamagedArtifactError(ArtifactError):
    """An artifact of ours was there and is not as it was written. Making it again mends it."""


class NotEnoughDataError(NsdError):
    """There is too little data for the step that was asked for."""


class StorageFullError(NsdError):
    """The disk has no room for what is about to be written."""


class UnexpectedError(NsdError):
    """Something that none of our messages is about: of the machine, a library, or a defect."""


@contextmanager
def parsing(refuse: Callable[[str], NsdError]) -> Iterator[None]:
    """Refuse a file, whatever the library that reads it within the block trips over.

    Parsers have errors of their own, and let through others (KeyError, TypeError, AssertionError)
    where a file says something that they did not expect. What the system says (no such file, no
    permission, a connection that is lost) is not the file's fault and passes. `refuse` makes the
    error from what the library said.
    """
    try:
        yield
    except (NsdError, MemoryError):
        raise
    except Exception as error:
        # Parsers (gzip, HDF5) raise OSErrors as well, but without a number.
        if getattr(error, "errno", None) is not None or isinstance(error, ConnectionError):
            raise
        raise refuse(str(error) or type(error).__name__) from error


def explain(error: Exception) -> NsdError:
    """Put any error into words: what it means, and what to do next. One of ours stays as it is."""
    if isinstance(error, NsdError):
        return error
    if isinstance(error, MemoryError):
        return UnexpectedError(
            "There is too little memory for this step.",
            next_step="run it where there is more, or with fewer things beside it;"
            " docs/performance.md says what each step takes.",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return _of_the_system(error)
    return UnexpectedError(
        f"{type(error).__name__}: {error}",
        next_step="look at the stack trace in the run's log. If the files that it names are sound,"
        " this is a defect of nsd_pipeline: please report it with that trace.",
    )


def _of_the_system(error: OSError) -> NsdError:
    where = error.filename2 or error.filename or "A file"
    problem = f"{where}: {error.strerror or type(error).__name__}."
    if error.errno in _FULL:
        return StorageFullError(
            problem, next_step="make room on that disk, then run this step again."
        )
    if error.errno in _FORBIDDEN:
        return UnexpectedError(
            problem,
            next_step="let the user of this process read and write there. Where a group shares a"
            " folder, everybody sets `umask 002` and the folder has the setgid bit"
            " (`chmod -R g+ws FOLDER`).",
        )
    return UnexpectedError(
        problem,
        next_step="check that path, and that NSD_STORAGE and NSD_SOURCE name folders; the stack"
        " trace is in the run's log.",
    )
