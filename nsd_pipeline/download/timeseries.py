"""One session's prepared time series: the volumes and the design file of each task run.

Files are compressed, so there is no fetching a part of one: a session is 2 to 3 GB in
``func1pt8mm``. A local mirror is read in place.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nsd_pipeline.download.fetching import total
from nsd_pipeline.errors import SourceError
from nsd_pipeline.nsd.bold import BoldRun
from nsd_pipeline.nsd.layout import session_key
from nsd_pipeline.nsd.spaces import FunctionalSpace
from nsd_pipeline.nsd.timeseries import (
    TR,
    design_key,
    read_design,
    session_prefixes,
    timeseries_key,
)
from nsd_pipeline.storage.source import ObjectInfo, Source
from nsd_pipeline.storage.transfer import TransferReport, fetch

_BLOCK = 16 * 2**20
"""Bytes per request: what a lost connection costs at most."""


@dataclass(frozen=True)
class TimeseriesObject:
    """One run's files on the source.

    Parameters
    ----------
    run
        1-based task run.
    volumes, design
        Key, size and ETag of the volumes and of the design file.
    """

    run: int
    volumes: ObjectInfo
    design: ObjectInfo


def inspect_timeseries(
    source: Source, subject: str, session: int, space: FunctionalSpace, runs: Sequence[int]
) -> list[TimeseriesObject]:
    """Find the files of a session's task runs: two listings, then one request a file, together.

    Raises
    ------
    SourceError
        If the source lacks a run.
    """
    keys = {
        run: [key(subject, session, run, space) for key in (timeseries_key, design_key)]
        for run in runs
    }
    prefixes = session_prefixes(subject, session, space)
    offered = {key for prefix in prefixes for key in source.list(prefix)}
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
        TimeseriesObject(run, volumes, design)
        for run, volumes, design in zip(keys, infos[::2], infos[1::2], strict=True)
    ]


def download_timeseries(
    source: Source,
    objects: Sequence[TimeseriesObject],
    space: FunctionalSpace,
    folder: Path,
    scratch: Path,
    *,
    max_concurrency: int,
) -> tuple[list[BoldRun], TransferReport]:
    """Fetch a session's runs into a folder, or find them on a local mirror.

    Parameters
    ----------
    source
        Where NSD's files are read.
    objects
        What :func:`inspect_timeseries` found.
    space
        Space of the volumes.
    folder
        Receives the files.
    scratch
        Keeps what has arrived if this process dies, for the next attempt.
    max_concurrency
        Requests in flight at the same time.

    Raises
    ------
    InvalidFileError
        If a design file is no such file.
    """
    runs: list[BoldRun] = []
    reports: list[TransferReport] = []
    for found in objects:
        paths = []
        for info in (found.volumes, found.design):
            path = source.local_path(info.key)
            if path is None:
                arrived = scratch / Path(info.key).name
                report = fetch(
                    source,
                    info,
                    [
                        (start, min(_BLOCK, info.n_bytes - start))
                        for start in range(0, info.n_bytes, _BLOCK)
                    ],
                    arrived,
                    max_concurrency=max_concurrency,
                    progress=arrived.name,
                )
                path = arrived.rename(folder / arrived.name)
                reports.append(report)
            paths.append(path)
        volumes, design = paths
        runs.append(
            BoldRun(
                run=found.run,
                space=space,
                kind="native",
                files=(_name(volumes, folder),),
                onsets=_name(design, folder),
                onsets_kind="design",
                tr=TR[space],
                n_samples=len(read_design(design)),
            )
        )
    return runs, total(reports)


def _name(path: Path, folder: Path) -> str:
    """Relative to the folder where the file lies in it."""
    return path.name if path.parent == folder else str(path)
