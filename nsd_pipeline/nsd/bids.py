"""NSD as BIDS: a derivatives folder (deepprep or fMRIPrep) and the raw tree it was made from.

NSD's raw data name a session ``sub-01/ses-nsd01`` and its runs ``task-nsdcore_run-01`` to ``12``;
derivatives keep these names. fMRIPrep's sessions lie in the derivatives folder itself, deepprep's
in ``BOLD`` below it.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from nsd_pipeline.errors import InvalidFileError, SourceError
from nsd_pipeline.nsd.bold import BoldRun, Onsets, agree_on_tr
from nsd_pipeline.nsd.layout import session_key, subject_number
from nsd_pipeline.nsd.tables import numbers, read_table

TASK: Final = "nsdcore"
_SURFACE, _VOLUMES = "_bold.func.gii", "_desc-preproc_bold.nii.gz"


class _File(NamedTuple):
    """A file and the entities of its name: ``{"sub": "01", "run": "01", ...}``."""

    path: Path
    entities: dict[str, str]


def find_runs(
    derivatives: Path, raw: Path, subject: str, session: int, runs: Sequence[int]
) -> list[BoldRun]:
    """Find a session's runs in every space that the derivatives have.

    Parameters
    ----------
    derivatives
        What deepprep or fMRIPrep wrote.
    raw
        The raw BIDS tree, which has the events.
    subject, session
        Which session, as ``"subj01"`` and from 1.
    runs
        The task runs that the session must have.

    Returns
    -------
    list
        One a run and space, by run and then by space. Volumes of several resolutions in one space
        are told apart as ``MNI152NLin6Asym_res-2``.

    Raises
    ------
    SourceError
        If a folder or the session is not there, or a run has no recording or no events.
    InvalidFileError
        If a hemisphere is missing, two files claim to be the same recording, or sidecars disagree
        about the repetition time.
    """
    func = _session_folder([derivatives, derivatives / "BOLD"], subject, session)
    raw_func = _session_folder([raw], subject, session)
    files = list(_files(func))
    recordings = _recordings(files)
    name = session_key(subject, session)
    if missing := sorted(set(runs) - {run for run, _ in recordings}):
        raise SourceError(
            f"{func} lacks a recording of run {', '.join(map(str, missing))} of {name} (of"
            f" {len(runs)} runs).",
            next_step=f"preprocess the missing runs of task {TASK}, then materialize bold again.",
        )
    confounds = {
        int(file.entities["run"]): file.path
        for file in files
        if file.path.name.endswith("_desc-confounds_timeseries.tsv")
    }
    events = {
        int(file.entities["run"]): file.path
        for file in _files(raw_func)
        if file.path.name.endswith("_events.tsv")
    }
    found = []
    for (run, space), paths in sorted(recordings.items()):
        if run not in runs:
            continue
        if run not in events:
            raise SourceError(
                f"{raw_func} has no events.tsv of run {run} of {name}.",
                next_step="add it from NSD's raw data (nsddata_rawdata), or correct the folder of"
                " the raw tree.",
            )
        surface = paths[0].name.endswith(_SURFACE)
        mask = paths[0].with_name(paths[0].name.replace(_VOLUMES, "_desc-brain_mask.nii.gz"))
        found.append(
            BoldRun(
                run=run,
                space=space,
                kind="surface" if surface else "mni" if space.startswith("MNI") else "other",
                files=tuple(str(path.absolute()) for path in paths),
                onsets=str(events[run].absolute()),
                onsets_kind="events",
                mask=str(mask.absolute()) if not surface and mask.exists() else None,
                confounds=str(confounds[run].absolute()) if run in confounds else None,
                tr=_sidecar_tr(paths, events[run], raw),
            )
        )
    return found


def has_session(derivatives: Path, subject: str, session: int) -> bool:
    """Whether the derivatives have anything of a session."""
    try:
        _session_folder([derivatives, derivatives / "BOLD"], subject, session)
    except SourceError:
        return False
    return True


def event_onsets(path: Path) -> Onsets:
    """When images were shown in a run, from its ``events.tsv``.

    Rows without ``73k_id`` (blank trials) are left out.

    Raises
    ------
    InvalidFileError, MappingError
        If it is no table with numbers in ``onset`` and ``73k_id``.
    """
    next_step = "use the events.tsv of NSD's raw data (nsddata_rawdata)."
    try:
        table = read_table(path, "\t", ["onset", "73k_id"], next_step=next_step)
    except FileNotFoundError as error:
        raise InvalidFileError(f"There is no {path}.", next_step=next_step) from error
    name = str(path)
    seconds, ids = (
        numbers(table, column, name=name, next_step=next_step) for column in ("onset", "73k_id")
    )
    shown = np.isfinite(ids)
    order = np.argsort(seconds[shown], kind="stable")
    return Onsets(seconds[shown][order], ids[shown][order].astype(np.int64))


def _session_folder(roots: Sequence[Path], subject: str, session: int) -> Path:
    label = f"sub-{subject_number(subject):02d}"
    names = (f"ses-nsd{session:02d}", f"ses-{session:02d}")
    for root in roots:
        for name in names:
            folder = root / label / name / "func"
            if folder.is_dir():
                return folder
    raise SourceError(
        f"{roots[0]} has no {label}/{names[0]}/func ({session_key(subject, session)}).",
        next_step="check the folders of the derivatives and of the raw BIDS tree in the"
        " configuration of bold.",
    )


def _files(folder: Path) -> Iterator[_File]:
    """Files of the task's runs, with the entities of their names."""
    for path in sorted(folder.iterdir()):
        pairs = (part.partition("-") for part in path.name.split("_"))
        entities = {key: value for key, dash, value in pairs if dash}
        if entities.get("task") == TASK and entities.get("run", "").isdigit():
            yield _File(path, entities)


def _recordings(files: Sequence[_File]) -> dict[tuple[int, str], list[Path]]:
    """Paths of each run and space: left and right hemisphere, or volumes."""
    sides: dict[tuple[int, str], dict[str, Path]] = {}
    for path, entities in files:
        surface = path.name.endswith(_SURFACE)
        if "space" not in entities or not (surface or path.name.endswith(_VOLUMES)):
            continue
        space = entities["space"]
        if "res" in entities:
            space += f"_res-{entities['res']}"
        side = entities.get("hemi", "") if surface else ""
        taken = sides.setdefault((int(entities["run"]), space), {})
        if side in taken:
            raise InvalidFileError(
                f"{taken[side]} and {path.name} are both of run {entities['run']} in {space}.",
                next_step="keep one of them in the derivatives folder.",
            )
        taken[side] = path
    for present in sides.values():
        if len(present) == 1 and (side := next(iter(present))) in ("L", "R"):
            other = {"L": "R", "R": "L"}[side]
            raise InvalidFileError(
                f"{present[side]} has no hemi-{other} beside it.",
                next_step="make the missing hemisphere again.",
            )
    return {key: [paths[side] for side in sorted(paths)] for key, paths in sides.items()}


def _sidecar_tr(recording: Sequence[Path], events: Path, raw: Path) -> float | None:
    """Repetition time by the sidecars of a recording and of its raw data."""
    derived = [
        path.with_name(path.name.removesuffix(".func.gii").removesuffix(".nii.gz") + ".json")
        for path in recording
    ]
    session = events.parent.parent
    run = events.name.removesuffix("_events.tsv")
    # What BIDS calls inheritance: the innermost sidecar that says so counts.
    inherited = (
        events.with_name(f"{run}_bold.json"),
        session / f"{session.parent.name}_{session.name}_task-{TASK}_bold.json",
        session.parent / f"{session.parent.name}_task-{TASK}_bold.json",
        raw / f"task-{TASK}_bold.json",
    )
    stated = [(str(path), _repetition_time(path)) for path in (*derived, *inherited)]
    of_raw = [(name, tr) for name, tr in stated[len(derived) :] if tr is not None]
    return agree_on_tr([*stated[: len(derived)], *of_raw[:1]])


def _repetition_time(path: Path) -> float | None:
    """Repetition time that a sidecar states, None if it is not there or does not."""
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text()).get("RepetitionTime")
        return None if value is None else float(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidFileError(
            f"{path} is not a readable sidecar: {error}.", next_step="make it again."
        ) from error
