"""Names of files in a BIDS derivatives folder: which of them are recordings, and of what.

fMRIPrep has named its files in three ways over the years; deepprep follows the newest.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, NamedTuple

from nsd_pipeline.errors import InvalidFileError, SourceError

TASK: Final = "nsdcore"

SURFACES: Final = (
    "*_space-*_bold.func.gii",
    "*_space-*_hemi-[LR].func.gii",  # fMRIPrep 1.2 to 1.5
    "*_bold_space-*.[LR].func.gii",  # fMRIPrep 1.0 and 1.1, as are the other names with *_bold_
)
VOLUMES: Final = (
    "*_space-*_desc-preproc_bold.nii.gz",
    "*_space-*_desc-preproc_bold.nii",
    "*_bold_space-*_preproc.nii.gz",
    "*_bold_space-*_preproc.nii",
)
CONFOUNDS: Final = (
    "*_desc-confounds_timeseries.tsv",
    "*_desc-confounds_regressors.tsv",  # fMRIPrep 1.2 to 20.1
    "*_bold_confounds.tsv",
)
EVENTS: Final = ("*_events.tsv",)
"""Names of each kind of file. Where a folder has several of them, an earlier one counts."""

_ENDINGS: Final = (".L.func.gii", ".R.func.gii", ".func.gii", ".nii.gz", ".nii", ".tsv")
_MASKS: Final = (("_desc-preproc_bold", "_desc-brain_mask"), ("_preproc", "_brainmask"))
_TELL_APART: Final = ("den", "desc", "rec")
"""Entities that make two recordings of one run and space, where they differ, different ones."""
_OF_THE_SCAN: Final = ("acq", "rec", "dir", "echo", "part")
"""Entities, beside the run, that a recording shares with its events and confounds."""


class NamedFile(NamedTuple):
    """A file of one of the task's (1-based) runs.

    `entities` are those of its name, such as ``{"sub": "01", "task": "nsdcore", ...}``.
    """

    path: Path
    run: int
    entities: dict[str, str]


def named_files(folder: Path) -> list[NamedFile]:
    """Files of the task's runs in a folder; a SourceError if it may not be read.

    Hidden ones are left out: macOS puts a ``._`` file beside each on some disks.
    """
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise SourceError(
            f"The folder {folder} cannot be read: {error.strerror}.",
            next_step="ask its owner to let you read it.",
        ) from error
    found = []
    for path in paths:
        entities = _entities(path)
        run = entities.get("run", "")
        of_a_run = entities.get("task") == TASK and run.isdecimal()
        if of_a_run and not (path.name.startswith(".") or path.is_dir()):
            found.append(NamedFile(path, int(run), entities))
    return found


def stem(path: Path) -> str:
    """Name of a file without its ending."""
    ending = next((each for each in _ENDINGS if path.name.endswith(each)), path.suffix)
    return path.name.removesuffix(ending)


def _entities(path: Path) -> dict[str, str]:
    pairs = (part.partition("-") for part in stem(path).split("_"))
    entities = {key: value for key, dash, value in pairs if dash}
    side = path.name.removesuffix(".func.gii")[-2:]  # of the oldest names
    return entities | ({"hemi": side[1]} if side in (".L", ".R") else {})


def recordings(files: Sequence[NamedFile]) -> dict[tuple[int, str], list[NamedFile]]:
    """Recordings among files, by run and space: left and right hemisphere, or volumes.

    A space is called as in the name, with the resolution (``MNI152NLin6Asym_res-2``), and with
    further entities only where two recordings differ in nothing else (``fsaverage_den-10k``). An
    InvalidFileError if two files claim to be the same recording, or a hemisphere is missing.
    """
    found: dict[tuple[int, str], list[NamedFile]] = {}
    for names, sides in ((SURFACES, ["L", "R"]), (VOLUMES, [""])):
        named = [file for file in _preferred(files, names) if _side(file) in sides]
        of_kind: dict[tuple[int, str], dict[str, NamedFile]] = {}
        for file, space in zip(named, _spaces(named), strict=True):
            taken = of_kind.setdefault((file.run, space), {})
            if (before := taken.setdefault(_side(file), file)) is not file:
                raise _twice(before, file, space)
        for present in of_kind.values():
            for missing in set(sides).difference(present):
                raise InvalidFileError(
                    f"{next(iter(present.values())).path} has no hemi-{missing} beside it.",
                    next_step="make the missing hemisphere again.",
                )
        found |= {key: [present[side] for side in sides] for key, present in of_kind.items()}
    return found


def companion(
    files: Sequence[NamedFile], names: Sequence[str], recording: NamedFile
) -> NamedFile | None:
    """The file of some kind that belongs to a recording, None if there is none.

    An InvalidFileError if several may be meant.
    """
    of_run = [file for file in _preferred(files, names) if file.run == recording.run]
    scan = _scan(recording)
    chosen = [file for file in of_run if _scan(file) == scan] or of_run
    if len(chosen) > 1:
        raise _twice(chosen[0], chosen[1], names[0].lstrip("*_"))
    return chosen[0] if chosen else None


def mask_beside(volumes: NamedFile) -> Path | None:
    """Brain mask with the name that belongs to a recording of volumes."""
    name = stem(volumes.path)
    for ending, of_mask in _MASKS:
        if name.endswith(ending):
            for suffix in (".nii.gz", ".nii"):
                path = volumes.path.with_name(f"{name.removesuffix(ending)}{of_mask}{suffix}")
                # A link to content that is elsewhere is a mask too; its reader says what it lacks.
                if path.exists() or path.is_symlink():
                    return path
    return None


def _preferred(files: Sequence[NamedFile], names: Sequence[str]) -> Iterator[NamedFile]:
    """Files with one of some names; of those that differ in nothing else, the earliest name's."""
    taken: set[frozenset[tuple[str, str]]] = set()
    for name in names:
        of_name = [
            (file, frozenset(file.entities.items() - {("desc", "preproc"), ("desc", "confounds")}))
            for file in files
            if fnmatchcase(file.path.name, name)
        ]
        yield from [file for file, entities in of_name if entities not in taken]
        taken.update(entities for _, entities in of_name)


def _spaces(files: Sequence[NamedFile]) -> Iterator[str]:
    """What the space of each file is called."""
    plain = [
        file.entities["space"]
        + (f"_res-{file.entities['res']}" if file.entities.get("res") else "")
        for file in files
    ]
    alike: dict[tuple[int, str, str], list[NamedFile]] = {}
    for file, space in zip(files, plain, strict=True):
        alike.setdefault((file.run, space, _side(file)), []).append(file)
    telling = {
        (space, entity)
        for (_, space, _), group in alike.items()
        for entity in _TELL_APART
        if len({file.entities.get(entity) for file in group}) > 1
    }
    for file, space in zip(files, plain, strict=True):
        further = [
            each for each in _TELL_APART if (space, each) in telling and each in file.entities
        ]
        yield space + "".join(f"_{each}-{file.entities[each]}" for each in further)


def _side(file: NamedFile) -> str:
    return file.entities.get("hemi", "")


def _scan(file: NamedFile) -> dict[str, str]:
    return {entity: file.entities[entity] for entity in _OF_THE_SCAN if entity in file.entities}


def _twice(one: NamedFile, other: NamedFile, what: str) -> InvalidFileError:
    return InvalidFileError(
        f"{one.path} and {other.path.name} are both of run {one.run} in {what}.",
        next_step="keep one of them in that folder.",
    )
