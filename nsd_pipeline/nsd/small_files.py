"""Files that come in one request each: transforms of a subject, labels of a region."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from nsd_pipeline.errors import NsdError, SourceError
from nsd_pipeline.nsd.layout import (
    HEMISPHERES,
    LABELS_FOLDER,
    Hemisphere,
    Space,
    transform_keys,
    valid_prefix,
)
from nsd_pipeline.nsd.space_betas import volume_shape
from nsd_pipeline.storage.source import ObjectInfo, Source, read_whole

_PLACE: Final = "{hemisphere}"
_BY_PATH: Final = "name files by a path such as /my/labels/{hemisphere}.mine.mgz"


def local_file(source: Source, info: ObjectInfo, folder: Path) -> Path:
    """Path of an object on this machine: a mirror's own file, or a copy in a folder."""
    path = source.local_path(info.key)
    if path is None:
        path = folder / PurePosixPath(info.key).name
        path.write_bytes(read_whole(source, info))
    return path


@dataclass(frozen=True)
class Transforms:
    """The files, by key, that lead from a space to a subject's cortex and on to fsaverage.

    `volume_shape` is the number of voxels along each axis of the space; None for a native surface.
    """

    objects: Mapping[str, ObjectInfo]
    volume_shape: tuple[int, int, int] | None


def find_transforms(source: Source, subject: str, space: Space) -> Transforms:
    """Find the transforms of a subject, and the shape of the volumes that they are for.

    A SourceError if the source lacks one of the files, or every mask that would tell the shape; an
    InvalidFileError if the mask is not one.
    """
    objects = {key: source.describe(key) for key in transform_keys(subject, space)}
    if space == "nativesurface":
        return Transforms(objects, None)
    prefix = valid_prefix(subject, space)
    masks = [key for key in source.list(prefix) if key.endswith(".nii.gz")]
    if not masks:
        raise SourceError(
            f"{source.url} has no {prefix}*.nii.gz, which says how large {space} of {subject} is.",
            next_step="add the masks of that folder to the mirror, or set NSD_SOURCE to a source"
            " that has them.",
        )
    return Transforms(objects, volume_shape(source, source.describe(masks[0])))


def copy_transforms(source: Source, found: Transforms, folder: Path) -> dict[str, Path]:
    """Copy the files into a folder, unless a mirror has them on this machine: paths by key."""
    return {key: local_file(source, info, folder) for key, info in found.objects.items()}


STREAMS: Final = {
    1: "early",
    2: "midventral",
    3: "midlateral",
    4: "midparietal",
    5: "ventral",
    6: "lateral",
    7: "parietal",
}
"""Regions of NSD's label ``streams``, by their numbers."""


@dataclass(frozen=True)
class LabelFiles:
    """A region's files: `versions` identify their content, by key or path.

    `copy` gives the path of each hemisphere's file, after copying it into a folder if it is not on
    this machine.
    """

    versions: dict[str, str]
    copy: Callable[[Path], dict[Hemisphere, Path]]


def find_labels(open_source: Callable[[], Source], roi: str) -> LabelFiles:
    """Find the label files of a region.

    `roi` is the name of one of NSD's regions on fsaverage, such as ``nsdgeneral`` or ``streams``,
    or a path with ``{hemisphere}`` where the files have ``lh`` and ``rh``, for which the source is
    not opened. A SourceError if the source has no such region; an NsdError if a path does not say
    where the hemisphere stands, or there is no such file.
    """
    if _PLACE in roi or "/" in roi:
        return _by_path(roi)
    source = open_source()
    found = {side: f"{LABELS_FOLDER}/{side}.{roi}.mgz" for side in HEMISPHERES}
    offered = source.list(f"{LABELS_FOLDER}/")
    if not set(found.values()) <= set(offered):
        names = {PurePosixPath(key).name.removesuffix(".mgz")[3:] for key in offered}
        raise SourceError(
            f"{source.url} has no region {roi!r} on fsaverage ({found['lh']}).",
            next_step=(f"choose one of {', '.join(sorted(names))}, or " if names else "")
            + f"{_BY_PATH}.",
        )
    objects = {side: source.describe(key) for side, key in found.items()}

    def copy(folder: Path) -> dict[Hemisphere, Path]:
        return {side: local_file(source, info, folder) for side, info in objects.items()}

    return LabelFiles({info.key: info.etag for info in objects.values()}, copy)


def _by_path(pattern: str) -> LabelFiles:
    paths = {side: Path(pattern.replace(_PLACE, side)).expanduser() for side in HEMISPHERES}
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing or _PLACE not in pattern:
        raise NsdError(
            f"The region {pattern!r} names no file for each hemisphere"
            + (f": there is no {missing[0]}." if missing else "."),
            next_step=f"{_BY_PATH}, where {_PLACE} becomes lh and rh.",
        )
    versions = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths.values()}
    return LabelFiles(versions, lambda _: paths)
