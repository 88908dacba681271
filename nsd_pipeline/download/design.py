"""The small files that say what was shown when, and how the subject answered."""

from collections.abc import Mapping
from pathlib import Path

from nsd_pipeline.errors import SourceError
from nsd_pipeline.nsd import layout
from nsd_pipeline.storage.source import ObjectInfo, Source, read_whole


def find_design(source: Source) -> dict[str, ObjectInfo]:
    """Experiment design, stimulus info, and the responses of every subject the source has.

    Returns
    -------
    dict
        The objects by the file name they get: ``nsd_expdesign.mat``, ``nsd_stim_info_merged.csv``
        and ``subjXX_responses.tsv``.

    Raises
    ------
    SourceError
        If the design or the stimulus info is missing.
    """
    found = {
        Path(key).name: source.describe(key) for key in (layout.EXPDESIGN_KEY, layout.STIM_INFO_KEY)
    }
    for subject in layout.SUBJECTS:
        key = layout.responses_key(subject)
        if key in source.list(key):
            found[responses_file(subject)] = source.describe(key)
    if len(found) == 2:
        raise SourceError(
            f"{source.url} has no subject's {Path(layout.responses_key('subj01')).name}.",
            next_step="check that the source has NSD's layout: "
            f"{layout.responses_key('subj01')} should be there.",
        )
    return found


def copy_design(source: Source, objects: Mapping[str, ObjectInfo], folder: Path) -> None:
    """Copy the files that :func:`find_design` found into a folder."""
    for name, info in objects.items():
        (folder / name).write_bytes(read_whole(source, info))


def responses_file(subject: str) -> str:
    """Name that a subject's responses get, as the bucket's is the same for all subjects."""
    return f"{subject}_responses.tsv"
