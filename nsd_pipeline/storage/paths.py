"""Paths that somebody else wrote down: checked where they are read, before anything is opened.

Keys of a bucket, names in a manifest, lists of files in an artifact: any of them may come from a
place that others write to.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from nsd_pipeline.errors import DamagedArtifactError

_NO_PATH: Final = re.compile(r"[\\\x00-\x1f\x7f]|(^|/)[A-Za-z]:")
"""What is a separator, a drive or an end of names to some system, or moves a terminal's cursor."""


def is_inner_path(path: str) -> bool:
    """Whether a path names something below the folder that it is relative to, on any system.

    Relative, normalised, with ``/`` between its parts.
    """
    return not _NO_PATH.search(path) and not {"", ".", ".."} & set(path.split("/"))


def read_listing(path: Path) -> dict[str, Any]:
    """Read an artifact's list of files, a JSON object.

    Raises
    ------
    DamagedArtifactError
        If it is none.
    """
    try:
        listed = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"cannot be read ({error})") from error
    if not isinstance(listed, dict):
        raise _damaged(path, "is not a list of files")
    return listed


def listed_path(folder: Path, name: object, listing: Path) -> Path:
    """Path of a file that a list in an artifact names.

    Parameters
    ----------
    folder
        The artifact's folder.
    name
        A path within it, or the absolute path of a file that is read where it lies.
    listing
        The list, for the message.

    Raises
    ------
    DamagedArtifactError
        If it is neither.
    """
    # An absolute path can name any file anyway; that of a mirror may well have `..` in it.
    if isinstance(name, str) and (
        is_inner_path(name) or (name.startswith("/") and "\0" not in name)
    ):
        return folder / name
    raise _damaged(listing, f"names {name!r}, no file of the artifact and no absolute path")


def _damaged(listing: Path, problem: str) -> DamagedArtifactError:
    return DamagedArtifactError(
        f"{listing} {problem}.", next_step="materialize the asset that wrote it again."
    )
