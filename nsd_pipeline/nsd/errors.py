"""What can go wrong with the data, as errors a person can act upon.

Every error names the thing (a file, an object, an artifact), says what is wrong with it in one
sentence, and ends with the next step. Nothing here is about retrying: an error of these classes
stays until somebody acts.
"""


class NsdError(Exception):
    """A problem that stays until somebody acts on it.

    Parameters
    ----------
    problem
        One sentence that names the file, object or artifact and says what is wrong with it.
    next_step
        What to do about it, as an imperative sentence.
    """

    def __init__(self, problem: str, *, next_step: str) -> None:
        super().__init__(problem, next_step)
        self.problem = problem
        self.next_step = next_step

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
