"""NSD's prepared time series: ``nsddata_timeseries``, volumes and a design file for each run.

The authors resampled every run in time (to 4/3 s in ``func1pt8mm``, to 1 s in ``func1mm``) and
space, and wrote beside it which image came on with which volume. Their design has a row fewer than
the run has volumes: the last volume belongs to no trial and is left out.

Files are compressed, so there is no fetching a part of one: a session is 2 to 3 GB in
``func1pt8mm``. A local mirror is read in place.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsd_pipeline.errors import InvalidFileError, SourceError
from nsd_pipeline.nsd.layout import N_IMAGES, FunctionalSpace, session_key
from nsd_pipeline.nsd.series_runs import BoldRun, Onsets
from nsd_pipeline.nsd.text_tables import parse_number, read_text
from nsd_pipeline.storage.source import ObjectInfo, Source
from nsd_pipeline.storage.transfer import TransferReport, fetch

TR: Final[dict[FunctionalSpace, float]] = {"func1pt8mm": 4 / 3, "func1mm": 1.0}
"""Seconds from one volume to the next. Trials start every 4 s, so the design files must have an
onset on every third or fourth volume, which is checked; headers are not relied upon."""


def file_run(subject: str, session: int, run: int) -> int:
    """Number that a task run (1 to 12) has in file names.

    Sessions 21 to 38 of subjects 1 and 5, and 21 to 30 of the others, have 14 runs, of which the
    first and the last are rest.
    """
    last = 38 if subject in ("subj01", "subj05") else 30
    return run + 1 if 21 <= session <= last else run


def series_key(subject: str, session: int, run: int, space: FunctionalSpace) -> str:
    """Key of the volumes of a task run."""
    volumes, _ = session_prefixes(subject, session, space)
    return f"{volumes}{file_run(subject, session, run):02d}.nii.gz"


def design_key(subject: str, session: int, run: int, space: FunctionalSpace) -> str:
    """Key of the file that says with which volume of a task run an image came on."""
    _, design = session_prefixes(subject, session, space)
    return f"{design}{file_run(subject, session, run):02d}.tsv"


def session_prefixes(subject: str, session: int, space: FunctionalSpace) -> tuple[str, str]:
    """How the keys of a session's volumes, and those of its design files, begin."""
    folder = f"nsddata_timeseries/ppdata/{subject}/{space}"
    return (
        f"{folder}/timeseries/timeseries_session{session:02d}_run",
        f"{folder}/design/design_session{session:02d}_run",
    )


def read_design(path: Path) -> NDArray[np.int64]:
    """Image number (counted from 1) that came on with each volume, 0 for none.

    An InvalidFileError if a line is no such number.
    """
    next_step = "download it again."
    # A blank line before the last would be a volume that is not counted, so it is no number.
    lines = read_text(path, next_step=next_step).rstrip().split("\n")
    design = np.zeros(len(lines), np.int64)
    for row, line in enumerate(lines):
        number = parse_number(line.strip())
        if number is None or not (number.is_integer() and 0 <= number <= N_IMAGES):
            raise InvalidFileError(
                f"{path}, line {row + 1} must be a whole number from 0 to {N_IMAGES}, but is"
                f" '{line[:40]}'.",
                next_step=next_step,
            )
        design[row] = int(number)
    return design


def design_onsets(path: Path, tr: float) -> Onsets:
    """When images were shown in a run, from its design file; `tr` is in seconds."""
    design = read_design(path)
    volumes = np.flatnonzero(design)
    return Onsets(volumes.astype(np.float64) * tr, design[volumes])


@dataclass(frozen=True)
class SeriesObject:
    """One (1-based) task run's volumes and design file on the source."""

    run: int
    volumes: ObjectInfo
    design: ObjectInfo


def inspect_series(
    source: Source, subject: str, session: int, space: FunctionalSpace, runs: Sequence[int]
) -> list[SeriesObject]:
    """Find the files of a session's task runs: two listings, then one request a file, together.

    A SourceError if the source lacks a run.
    """
    keys = {
        run: [key(subject, session, run, space) for key in (series_key, design_key)] for run in runs
    }
    offered = {
        key for prefix in session_prefixes(subject, session, space) for key in source.list(prefix)
    }
    missing = [run for run, wanted in keys.items() if not offered.issuperset(wanted)]
    if missing:
        first = next(key for key in keys[missing[0]] if key not in offered)
        raise SourceError(
            f"{source.url} lacks the {space} time series of run {', '.join(map(str, missing))} of"
            f" {session_key(subject, session)} (of {len(runs)} runs); the first file missing is"
            f" {first}.",
            next_step="add the missing files to the mirror, set NSD_SOURCE to a source that has"
            " them, or leave the runs out of the session by `leave_out` of bold.",
        )
    # A session has 24 files, which are asked for even where nothing is to be done.
    with ThreadPoolExecutor(source.max_concurrency) as threads:
        found = threads.map(source.describe, [key for wanted in keys.values() for key in wanted])
        infos = list(found)
    return [
        SeriesObject(run, volumes, design)
        for run, volumes, design in zip(keys, infos[::2], infos[1::2], strict=True)
    ]


def download_series(
    source: Source,
    objects: Sequence[SeriesObject],
    space: FunctionalSpace,
    folder: Path,
    scratch: Path,
) -> tuple[list[BoldRun], TransferReport]:
    """Fetch a session's runs into a folder, or find them on a local mirror.

    `objects` are what :func:`inspect_series` found in a space. `scratch` keeps what has arrived if
    this process dies, for the next attempt. An InvalidFileError if a design file is no such file.
    """

    def name(path: Path) -> str:
        """Relative to the folder where the file lies in it."""
        return path.name if path.parent == folder else str(path)

    runs: list[BoldRun] = []
    reports: list[TransferReport] = []
    for found in objects:
        paths = []
        for info in (found.volumes, found.design):
            path = source.local_path(info.key)
            if path is None:
                arrived = scratch / Path(info.key).name
                whole = [(0, info.n_bytes)]
                reports.append(fetch(source, info, whole, arrived, progress=arrived.name))
                path = arrived.rename(folder / arrived.name)
            paths.append(path)
        volumes, design = paths
        runs.append(
            BoldRun(
                run=found.run,
                space=space,
                kind="native",
                files=(name(volumes),),
                onsets=name(design),
                onsets_kind="design",
                tr=TR[space],
                n_samples=len(read_design(design)),
            )
        )
    return runs, TransferReport.total(reports)
