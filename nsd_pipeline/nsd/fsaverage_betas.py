"""One session's betas on fsaverage: only the part that fsaverage5 is made of.

The first 10,242 vertices of every frame are 1/16 of a file, at a fixed stride; they are fetched by
range requests and kept as a smaller MGH file. A local mirror is read in place: of it, only the
path is recorded.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from nsd_pipeline.nsd import mgh
from nsd_pipeline.nsd.layout import (
    FSAVERAGE5_VERTICES,
    FSAVERAGE_VERTICES,
    HEMISPHERES,
    Hemisphere,
    betas_keys,
)
from nsd_pipeline.storage.names import listed_path, read_listing
from nsd_pipeline.storage.source import ObjectInfo, Source
from nsd_pipeline.storage.transfer import TransferReport, fetch

_MIRROR: Final = "mirror.json"


@dataclass(frozen=True)
class BetasObject:
    """One hemisphere's file of betas on the source, its header read and checked."""

    info: ObjectInfo
    header: mgh.MghHeader

    @property
    def name(self) -> str:
        """File name, as on the bucket."""
        return Path(self.info.key).name


def inspect_betas(
    source: Source, subject: str, session: int, *, n_trials: int
) -> dict[Hemisphere, BetasObject]:
    """Read and check the header of both hemispheres of a session, as ``"subj01"`` and from 1.

    `n_trials` is the number of trials that the experiment design has for the session. A SourceError
    if the source does not have the session; an InvalidFileError if a file is truncated, is not
    float32 big-endian MGH on fsaverage, or has another number of frames.
    """
    found: dict[Hemisphere, BetasObject] = {}
    keys = betas_keys(subject, session, "fsaverage")
    for hemisphere, key in zip(HEMISPHERES, keys, strict=True):
        info = source.describe(key)
        name = f"{source.url}/{key}"
        raw = source.read(key, 0, min(mgh.HEADER_BYTES, info.n_bytes), etag=info.etag)
        header = mgh.parse_header(raw, name=name)
        mgh.check_vertices(header, FSAVERAGE_VERTICES, name=name)
        mgh.check_size(header, info.n_bytes, name=name)
        mgh.check_frames(header, n_trials, name=name)
        found[hemisphere] = BetasObject(info, header)
    return found


@dataclass(frozen=True)
class FsaverageDownload:
    """A session's betas on fsaverage, as `inspect_betas` found them, and how they get here.

    All of fsaverage comes as a `whole_file`, or fsaverage5 only.
    """

    source: Source
    hemispheres: Mapping[Hemisphere, BetasObject]
    whole_file: bool

    @property
    def objects(self) -> tuple[ObjectInfo, ...]:
        """Objects on the source that it needs."""
        return tuple(each.info for each in self.hemispheres.values())

    @property
    def in_place(self) -> bool:
        """Whether a local mirror has all of them, so that nothing is fetched."""
        return all(self.source.local_path(info.key) for info in self.objects)

    @property
    def n_trials(self) -> int:
        """Trials of the session: frames of a file."""
        return self.hemispheres["lh"].header.n_frames

    @property
    def config(self) -> Mapping[str, Any]:
        """What else determines the bytes that come."""
        return {"whole_file": self.whole_file}

    @property
    def fetched_bytes(self) -> int:
        """About how many bytes come from a bucket."""
        if self.whole_file:
            return sum(info.n_bytes for info in self.objects)
        return 2 * self.n_trials * FSAVERAGE5_VERTICES * 4

    def download(self, folder: Path, scratch: Path) -> TransferReport:
        """Fetch both hemispheres into a folder, or record where a local mirror has them.

        The folder receives ``{lh,rh}.betas_sessionNN.mgh``, or ``mirror.json``; `scratch` keeps
        what has arrived if this process dies, for the next attempt. An InvalidFileError if a trial
        came as zeros.
        """
        if self.in_place:
            paths = {
                side: str(self.source.local_path(found.info.key))
                for side, found in self.hemispheres.items()
            }
            (folder / _MIRROR).write_text(json.dumps(paths, indent=2))
            return TransferReport.total([])

        reports = []
        for found in self.hemispheres.values():
            if self.whole_file:
                prefix, ranges = b"", [(0, found.info.n_bytes)]
            else:
                prefix = mgh.header_bytes(FSAVERAGE5_VERTICES, self.n_trials)
                ranges = mgh.frame_ranges(found.header, FSAVERAGE5_VERTICES)
            report = fetch(
                self.source,
                found.info,
                ranges,
                scratch / found.name,
                prefix=prefix,
                progress=found.name,
            )
            reports.append(report)
        # Only now: `folder` is discarded if the right hemisphere fails, the left one would be too.
        for found in self.hemispheres.values():
            (scratch / found.name).rename(folder / found.name)
        # Of ranges there is no checksum. What fails here is gone from scratch and is fetched anew.
        for found in self.hemispheres.values():
            n_vertices = found.header.n_vertices if self.whole_file else FSAVERAGE5_VERTICES
            shape = (self.n_trials, n_vertices)
            values = np.memmap(folder / found.name, ">f4", "r", mgh.HEADER_BYTES, shape)
            mgh.check_no_empty_frame(values, name=f"{self.source.url}/{found.info.key}")
        return TransferReport.total(reports)


def locate_betas(folder: Path) -> dict[Hemisphere, Path]:
    """Find what `FsaverageDownload.download` fetched into a folder, or recorded there.

    A DamagedArtifactError if the list of a mirror's files is damaged.
    """
    mirror = folder / _MIRROR
    if mirror.exists():
        paths = read_listing(mirror)
        return {side: listed_path(folder, paths.get(side), mirror) for side in HEMISPHERES}
    return {side: next(folder.glob(f"{side}.betas_session*.mgh")) for side in HEMISPHERES}
