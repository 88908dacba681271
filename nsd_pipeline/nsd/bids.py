"""NSD as BIDS: a derivatives folder (deepprep or fMRIPrep) and the raw tree it was made from.

NSD's raw data name a session ``sub-01/ses-nsd01`` and its runs ``task-nsdcore_run-01`` to ``12``;
derivatives keep these names. fMRIPrep's sessions lie in the derivatives folder itself, deepprep's
in ``BOLD`` below it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nsd_pipeline.errors import InvalidFileError, SourceError
from nsd_pipeline.nsd.bids_names import (
    CONFOUNDS,
    EVENTS,
    SURFACES,
    TASK,
    VOLUMES,
    NamedFile,
    companion,
    mask_beside,
    named_files,
    recordings,
    stem,
)
from nsd_pipeline.nsd.layout import N_IMAGES, session_key, subject_number
from nsd_pipeline.nsd.series_runs import BoldRun, Onsets, agree_on_tr
from nsd_pipeline.nsd.text_tables import read_table, read_text


def find_runs(
    derivatives: Path, raw: Path, subject: str, session: int, runs: Sequence[int]
) -> list[BoldRun]:
    """Find a session's runs in every space that the derivatives have.

    `derivatives` is what deepprep or fMRIPrep wrote, `raw` the raw BIDS tree, which has the events,
    and `runs` are the task runs that the session must have. Returns them by run and then by space;
    :func:`~nsd_pipeline.nsd.bids_names.recordings` says how spaces of one name are told apart.

    A SourceError if a folder or the session is not there, or a run has no recording or no events;
    an InvalidFileError if a hemisphere is missing, two files claim to be the same, or sidecars
    disagree about the repetition time.
    """
    # Absolute: the list of runs is read from other folders.
    derivatives, raw = (folder.expanduser().absolute() for folder in (derivatives, raw))
    func = _derived_folder(derivatives, subject, session)
    raw_func = _session_folder([raw], subject, session)
    files, raw_files = named_files(func), named_files(raw_func)
    found_recordings = recordings(files)
    name = session_key(subject, session)
    if missing := sorted(set(runs) - {run for run, _ in found_recordings}):
        raise _no_recording(func, files, name, missing, len(runs))
    found = []
    for (run, space), of_run in sorted(found_recordings.items()):
        if run not in runs:
            continue
        events = companion(raw_files, EVENTS, of_run[0])
        if events is None:
            raise SourceError(
                f"{raw_func} has no events.tsv of run {run} of {name} (looked for"
                f" *_task-{TASK}_*run-{run:02d}_events.tsv).",
                next_step="add it from NSD's raw data (nsddata_rawdata), or correct the folder of"
                " the raw tree.",
            )
        surface = len(of_run) == 2
        mask = None if surface else mask_beside(of_run[0])
        confounds = companion(files, CONFOUNDS, of_run[0])
        found.append(
            BoldRun(
                run=run,
                space=space,
                kind="surface" if surface else "mni" if space.startswith("MNI") else "other",
                files=tuple(str(each.path) for each in of_run),
                onsets=str(events.path),
                onsets_kind="events",
                mask=str(mask) if mask else None,
                confounds=str(confounds.path) if confounds else None,
                tr=_sidecar_tr([each.path for each in of_run], events.path, raw),
            )
        )
    return found


def _no_recording(
    func: Path, files: Sequence[NamedFile], session: str, missing: Sequence[int], n_runs: int
) -> SourceError:
    first = missing[0]
    volumes = [each.path.name for each in files if each.run == first and "bold" in each.path.name]
    there = f" It has {', '.join(volumes[:3])} of that run." if volumes else ""
    left_out = ", ".join(f'"{session}_run{run:02d}"' for run in missing)
    names = [f"*_task-{TASK}_*run-{first:02d}{ending}" for ending in (*SURFACES, *VOLUMES)]
    return SourceError(
        f"{func} lacks a recording of run {', '.join(map(str, missing))} of {session} (of"
        f" {n_runs} runs). Looked for {', '.join(names)}.{there}",
        next_step=f"preprocess the missing runs of task {TASK}, then make bold again; or"
        f" leave them out of the session: `leave_out`: [{left_out}] in the configuration of bold.",
    )


def has_session(derivatives: Path, subject: str, session: int) -> bool:
    """Whether the derivatives have anything of a session."""
    try:
        _derived_folder(derivatives.expanduser(), subject, session)
    except SourceError:
        return False
    return True


def event_onsets(path: Path) -> Onsets:
    """When images were shown in a run, from its ``events.tsv``.

    Rows without ``73k_id`` (blank trials) are left out. An InvalidFileError or MappingError if it
    is no table with numbers in ``onset`` and ``73k_id``, or lists a trial twice.
    """
    next_step = "use the events.tsv of NSD's raw data (nsddata_rawdata)."
    table = read_table(path, ["onset", "73k_id"], next_step=next_step)
    seconds, ids = table.numbers("onset"), table.numbers("73k_id")
    seen: dict[tuple[float, float], int] = {}
    shown = np.flatnonzero(~np.isnan(ids))
    for row in shown.tolist():
        if not (0 <= ids[row] <= N_IMAGES and ids[row].is_integer()):
            raise table.rejected(row, "73k_id", f"whole numbers up to {N_IMAGES} or n/a")
        if np.isnan(seconds[row]):
            raise table.rejected(row, "onset", "a time for every image")
        trial = (float(seconds[row]), float(ids[row]))
        if (before := seen.setdefault(trial, row)) != row:
            raise InvalidFileError(
                f"{path}: lines {table.lines[before]} and {table.lines[row]} both have image"
                f" {trial[1]:.0f} at {trial[0]:g} s.",
                next_step="take one of them out, or " + next_step,
            )
    order = shown[np.argsort(seconds[shown], kind="stable")]
    return Onsets(seconds[order], ids[order].astype(np.int64))


def _derived_folder(derivatives: Path, subject: str, session: int) -> Path:
    return _session_folder([derivatives, derivatives / "BOLD"], subject, session)


def _session_folder(roots: Sequence[Path], subject: str, session: int) -> Path:
    """The folder of a session's functional files below the first of the roots that has it."""
    label = f"sub-{subject_number(subject):02d}"
    names = (f"ses-nsd{session:02d}", f"ses-{session:02d}")
    wanted = [root / label / name / "func" for root in roots for name in names]
    for folder in wanted:
        try:
            if folder.is_dir():
                return folder
        except OSError as error:
            raise SourceError(
                f"The folder {folder} cannot be entered: {error.strerror}.",
                next_step="ask its owner to let you read it.",
            ) from error
    looked = ", ".join(str(folder.relative_to(roots[0])) for folder in wanted)
    raise SourceError(
        f"{roots[0]} has nothing of {session_key(subject, session)}: looked for {looked}."
        if roots[0].is_dir()
        else f"There is no folder {roots[0]}.",
        next_step="check the folders of the derivatives and of the raw BIDS tree in the"
        " configuration of bold.",
    )


def _sidecar_tr(recording: Sequence[Path], events: Path, raw: Path) -> float | None:
    """Repetition time by the sidecars of a recording and of its raw data."""
    derived = [path.with_name(f"{stem(path)}.json") for path in recording]
    session = events.parent.parent
    run = events.name.removesuffix("_events.tsv")
    # What BIDS calls inheritance: the innermost sidecar that says so counts.
    inherited = (
        events.with_name(f"{run}_bold.json"),
        session / f"{session.parent.name}_{session.name}_task-{TASK}_bold.json",
        session.parent / f"{session.parent.name}_task-{TASK}_bold.json",
        raw / f"task-{TASK}_bold.json",
    )
    of_derived, of_raw = (
        [(str(path), tr) for path in paths if (tr := _repetition_time(path)) is not None]
        for paths in (derived, inherited)
    )
    return agree_on_tr([*of_derived, *of_raw[:1]])


def _repetition_time(path: Path) -> float | None:
    """Repetition time that a sidecar states, None if it is not there or does not."""
    if not (path.exists() or path.is_symlink()):
        return None
    text = read_text(path, next_step="make it again.")
    try:
        value = json.loads(text).get("RepetitionTime")
        return None if value is None else float(value)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        problem = f"{path} is not a readable sidecar: {error}."
        raise InvalidFileError(problem, next_step="make it again.") from error
