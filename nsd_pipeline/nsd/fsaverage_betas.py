"""One session's betas on fsaverage: only the part that fsaverage5 is made of.

The first 10,242 vertices of every frame are 1/16 of a file, at a fixed stride; they are fetched by
range requests and kept as a smaller MGH file. A local mirror is read in place: of it, only the
path is recorded.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nsd_pipeline.nsd import layout, mgh
from nsd_pipeline.nsd.layout import HEMISPHERES, Hemisphere
from nsd_pipeline.storage.paths import listed_path, read_listing
from nsd_pipeline.storage.source import ObjectInfo, Source
from nsd_pipeline.storage.transfer import TransferReport, fetch

_MIRROR = "mirror.json"


@dataclass(frozen=True)
class BetasObject:
    """One hemisphere's file of betas on the source, its header read and checked.

    Parameters
    ----------
    info
        Key, size and ETag of the object.
    header
        Its MGH header.
    """

    info: ObjectInfo
    header: mgh.MghHeader

    @property
    def name(self) -> str:
        """File name, as on the bucket."""
        return Path(self.info.key).name


def inspect_betas(
    source: Source, subject: str, session: int, *, n_trials: int
) -> dict[Hemisphere, BetasObject]:
    """Read and check the header of both hemispheres of a session.

    Parameters
    ----------
    source
        Where NSD's files are read.
    subject, session
        Which session, as ``"subj01"`` and from 1.
    n_trials
        Trials that the experiment design has for the session: the number of frames.

    Raises
    ------
    SourceError
        If the source does not have the session.
    InvalidFileError
        If a file is truncated, is not float32 big-endian MGH on fsaverage, or has another number
        of frames than the design has trials.
    """
    found: dict[Hemisphere, BetasObject] = {}
    keys = layout.betas_keys(subject, session, "fsaverage")
    for hemisphere, key in zip(HEMISPHERES, keys, strict=True):
        info = source.describe(key)
        name = f"{source.url}/{key}"
        raw = source.read(key, 0, min(mgh.HEADER_BYTES, info.n_bytes), etag=info.etag)
        header = mgh.parse_header(raw, name=name)
        mgh.check_vertices(header, layout.FSAVERAGE_VERTICES, name=name)
        mgh.check_size(header, info.n_bytes, name=name)
        mgh.check_frames(header, n_trials, name=name)
        found[hemisphere] = BetasObject(info, header)
    return found


def download_betas(
    source: Source,
    objects: Mapping[Hemisphere, BetasObject],
    folder: Path,
    scratch: Path,
    *,
    whole_file: bool,
    max_concurrency: int,
) -> TransferReport:
    """Fetch both hemispheres into a folder, or record where a local mirror has them.

    Parameters
    ----------
    source
        Where NSD's files are read.
    objects
        What :func:`inspect_betas` found.
    folder
        Receives ``{lh,rh}.betas_sessionNN.mgh``, or ``mirror.json``.
    scratch
        Keeps what has arrived if this process dies, for the next attempt.
    whole_file
        Fetch all of fsaverage's vertices instead of fsaverage5's.
    max_concurrency
        Requests in flight at the same time.

    Raises
    ------
    InvalidFileError
        If a trial came as zeros.
    """
    in_place = {side: source.local_path(found.info.key) for side, found in objects.items()}
    if all(in_place.values()):
        paths = {side: str(path) for side, path in in_place.items()}
        (folder / _MIRROR).write_text(json.dumps(paths, indent=2))
        return TransferReport.total([])

    reports = []
    for found in objects.values():
        if whole_file:
            prefix, ranges = b"", [(0, found.info.n_bytes)]
        else:
            prefix = mgh.header_bytes(layout.FSAVERAGE5_VERTICES, found.header.n_frames)
            ranges = mgh.frame_ranges(found.header, layout.FSAVERAGE5_VERTICES)
        reports.append(
            fetch(
                source,
                found.info,
                ranges,
                scratch / found.name,
                prefix=prefix,
                max_concurrency=max_concurrency,
                progress=found.name,
            )
        )
    # Only now: `folder` is discarded if the right hemisphere fails, and the left one would be too.
    for found in objects.values():
        (scratch / found.name).rename(folder / found.name)
    # Of ranges there is no checksum. What fails here is gone from scratch, so it is fetched anew.
    for found in objects.values():
        n_vertices = found.header.n_vertices if whole_file else layout.FSAVERAGE5_VERTICES
        shape = (found.header.n_frames, n_vertices)
        values = np.memmap(folder / found.name, ">f4", "r", mgh.HEADER_BYTES, shape)
        mgh.check_no_empty_frame(values, name=f"{source.url}/{found.info.key}")
    return TransferReport.total(reports)


def locate_betas(folder: Path) -> dict[Hemisphere, Path]:
    """Files of a session's betas by what :func:`download_betas` wrote: fetched, or a mirror's.

    Raises
    ------
    DamagedArtifactError
        If the list of a mirror's files is damaged.
    """
    mirror = folder / _MIRROR
    if mirror.exists():
        paths = read_listing(mirror)
        return {side: listed_path(folder, paths.get(side), mirror) for side in HEMISPHERES}
    return {side: next(folder.glob(f"{side}.betas_session*.mgh")) for side in HEMISPHERES}
