"""Label files of a region: NSD's own by name, or anybody's by path."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from nsd_pipeline.download.small_files import local_file
from nsd_pipeline.errors import NsdError, SourceError
from nsd_pipeline.nsd.layout import HEMISPHERES, Hemisphere
from nsd_pipeline.storage.source import Source

FOLDER: Final = "nsddata/freesurfer/fsaverage/label"
_PLACE: Final = "{hemisphere}"


@dataclass(frozen=True)
class LabelFiles:
    """A region's files.

    Attributes
    ----------
    versions
        What identifies their content, by key or path.
    copy
        Gives the path of each hemisphere's file, after copying it into a folder if it is not on
        this machine.
    """

    versions: dict[str, str]
    copy: Callable[[Path], dict[Hemisphere, Path]]


def find_labels(open_source: Callable[[], Source], roi: str) -> LabelFiles:
    """Find the label files of a region.

    Parameters
    ----------
    open_source
        Opens the place where NSD's files are read; not called for a path.
    roi
        Name of one of NSD's regions on fsaverage, such as ``nsdgeneral`` or ``streams``, or a path
        with ``{hemisphere}`` where the files have ``lh`` and ``rh``.

    Raises
    ------
    SourceError
        If the source has no such region.
    NsdError
        If a path does not say where the hemisphere stands, or there is no such file.
    """
    if _PLACE in roi or "/" in roi:
        return _by_path(roi)
    source = open_source()
    found = {hemisphere: f"{FOLDER}/{hemisphere}.{roi}.mgz" for hemisphere in HEMISPHERES}
    offered = source.list(f"{FOLDER}/")
    if not set(found.values()) <= set(offered):
        names = {PurePosixPath(key).name.removesuffix(".mgz")[3:] for key in offered}
        raise SourceError(
            f"{source.url} has no region {roi!r} on fsaverage ({found['lh']}).",
            next_step=f"choose one of {', '.join(sorted(names)) or 'none: it has no labels'}, or"
            " name files by a path such as /my/labels/{hemisphere}.mine.mgz.",
        )
    objects = {hemisphere: source.describe(key) for hemisphere, key in found.items()}

    def copy(folder: Path) -> dict[Hemisphere, Path]:
        return {side: local_file(source, info, folder) for side, info in objects.items()}

    return LabelFiles({info.key: info.etag for info in objects.values()}, copy)


def _by_path(pattern: str) -> LabelFiles:
    paths = {
        hemisphere: Path(pattern.replace(_PLACE, hemisphere)).expanduser()
        for hemisphere in HEMISPHERES
    }
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing or _PLACE not in pattern:
        raise NsdError(
            f"The region {pattern!r} names no file for each hemisphere"
            + (f": there is no {missing[0]}." if missing else "."),
            next_step="name files by a path such as /my/labels/{hemisphere}.mine.mgz, where"
            " {hemisphere} becomes lh and rh.",
        )
    versions = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths.values()}
    return LabelFiles(versions, lambda _: paths)
