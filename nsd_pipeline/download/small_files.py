"""Files that are small enough to come in one request."""

from pathlib import Path, PurePosixPath

from nsd_pipeline.storage.source import ObjectInfo, Source, read_whole


def local_file(source: Source, info: ObjectInfo, folder: Path) -> Path:
    """Path of an object on this machine: a mirror's own file, or a copy in a folder."""
    path = source.local_path(info.key)
    if path is None:
        path = folder / PurePosixPath(info.key).name
        path.write_bytes(read_whole(source, info))
    return path
