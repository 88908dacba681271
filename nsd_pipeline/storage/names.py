"""Names that somebody else wrote down (places, keys, paths): checked where they are read.

Keys of a bucket, names in a manifest, lists of files in an artifact: any of them may come from a
place that others write to.

What is not understood is refused: a folder named ``gs:`` would fill with data that nobody finds.
"""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from nsd_pipeline.errors import DamagedArtifactError, NsdError

_ARTIFACT_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*")
_NO_PATH: Final = re.compile(r"[\\\x00-\x1f\x7f]|(^|/)[A-Za-z]:")
"""What is a separator, a drive or an end of names to some system, or moves a terminal's cursor."""
_SCHEME: Final = re.compile(
    r"([a-z][a-z0-9+.-]*):(?=[/\\])|(s3[an]?|gs|gcs|az|abfss?|file|https?|s?ftp|ssh|hf):", re.I
)
"""Start of a URL, of a drive or of a remote place; a folder may well have a colon in its name."""


def is_component(name: str) -> bool:
    """Whether a name can be one part of an artifact's key, such as a version or a partition."""
    return _ARTIFACT_PART.fullmatch(name) is not None


def check_object_key(key: str) -> str:
    """Return the key of an object; `NsdError` if it is empty, absolute or leaves its root."""
    if not is_inner_path(key):
        raise NsdError(
            f"{key!r} is not a key of the dataset.",
            next_step="use a path relative to the dataset's root, such as "
            "'nsddata/experiments/nsd/nsd_expdesign.mat'.",
        )
    return key


def is_artifact_key(key: str) -> bool:
    """Whether a key can be a folder's path on any disk and on S3, and not one of the manifests.

    ``manifests`` is taken by the manifests, and ``.json`` at the end would clash with them.
    """
    parts = key.split("/")
    return parts[0] != "manifests" and not key.endswith(".json") and all(map(is_component, parts))


def check_artifact_key(key: str) -> str:
    """Return the key of an artifact; `NsdError` if it cannot be one (:func:`is_artifact_key`)."""
    if not is_artifact_key(key):
        raise NsdError(
            f"{key!r} cannot be the key of an artifact.",
            next_step="use names of letters, digits, '_', '-', '=' and '.', joined by '/', such as "
            "'betas/subj01_ses01'.",
        )
    return key


def split_s3_url(url: str) -> tuple[str, str]:
    """Bucket and prefix of an ``s3://bucket[/prefix]`` URL; the prefix has no slash at its end.

    An NsdError if the URL names no bucket, or a prefix that is no path: it names a folder of the
    cache.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    if not url.startswith("s3://") or not bucket or not is_inner_path(bucket):
        raise NsdError(
            f"{url!r} names no bucket.", next_step="write it as s3://bucket or s3://bucket/prefix."
        )
    if prefix and not is_inner_path(prefix):
        raise NsdError(
            f"The prefix {prefix!r} of {url!r} is not a path.",
            next_step="write it as s3://bucket/prefix, without '..', empty parts or backslashes.",
        )
    return bucket, prefix


def is_inner_path(path: str) -> bool:
    """Whether a path is relative and normalised and, on any system, leads below its folder."""
    return not _NO_PATH.search(path) and not {"", ".", ".."} & set(path.split("/"))


def read_listing(path: Path) -> dict[str, Any]:
    """Read an artifact's list of files; `DamagedArtifactError` if it is no JSON object."""
    try:
        listed = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"cannot be read ({error})") from error
    if not isinstance(listed, dict):
        raise _damaged(path, "is not a list of files")
    return listed


def listed_path(folder: Path, name: object, listing: Path) -> Path:
    """Path of a file that a list in an artifact's folder names.

    The name is a path within the folder, or the absolute path of a file that is read where it lies.
    What is neither is a `DamagedArtifactError`, which names the list.
    """
    # An absolute path can name any file anyway; that of a mirror may well have `..` in it.
    if isinstance(name, str) and (
        is_inner_path(name) or (name.startswith("/") and "\0" not in name)
    ):
        return folder / name
    raise _damaged(listing, f"names {name!r}, no file of the artifact and no absolute path")


def _damaged(listing: Path, problem: str) -> DamagedArtifactError:
    return DamagedArtifactError(
        f"{listing} {problem}.", next_step="make the artifact that it belongs to again."
    )


def parse_place(text: str | Path, *, what: str) -> Path | str:
    """Understand the name of a place: its folder, or the bucket, which starts with ``s3://``.

    The text is a folder, also with ``~`` or as ``file:///folder``, or ``s3://bucket/prefix``;
    `what` is the setting that has it, for the NsdError if it is none of these.
    """
    text = str(text).strip()
    found = _SCHEME.match(text)
    scheme = (found[1] or found[2]).lower() if found else ""
    rest = text[len(scheme) + 1 :]
    if scheme == "s3" and rest.startswith("//"):
        return f"s3:{rest}"
    if scheme == "file":
        with suppress(ValueError):  # a host in brackets, which is no place anyway
            url = urlsplit(text)
            path = unquote(url.path + (f"#{url.fragment}" if url.fragment else ""))
            local = url.netloc in ("", "localhost") and path.startswith("/")
            if local and "?" not in text and "\0" not in path:
                return Path(path)
    if scheme or not text or "\0" in text:
        raise _not_understood(text, what)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~somebody whom this machine does not know
        raise _not_understood(text, what) from error


def parse_folder(text: str | Path, *, what: str) -> Path:
    """Understand the name of a folder of this machine; `NsdError` if it is not one."""
    place = parse_place(text, what=what)
    if isinstance(place, Path):
        return place
    raise NsdError(
        f"{what} is {text!s}, but has to be a folder of this machine.",
        next_step="copy or mount it, and name that folder.",
    )


def parse_model(text: str, *, what: str) -> str:
    """Understand the name of a model: a folder, or else the Hugging Face Hub's ``owner/name``.

    It is an `NsdError` if it is a URL of something else than a folder.
    """
    if _SCHEME.match(text.strip()) or text.startswith("~"):
        return str(parse_folder(text, what=what))
    return text


def _not_understood(text: str, what: str) -> NsdError:
    return NsdError(
        f"{what} is {text!r}, which is neither a folder nor s3://bucket/prefix.",
        next_step="write /folder, ~/folder, file:///folder or, where a bucket can be, "
        "s3://bucket/prefix. A folder that really has such a name is written "
        f"./{text or 'folder'}; a model on the Hugging Face Hub is owner/name.",
    )


def user_folder(variable: str, default: str) -> Path:
    """Folder of what we keep for this user, as the XDG base directory specification wants it.

    An environment variable names the folder of all programs, or else it is `default`, below the
    user's home. It is an `NsdError` if there is none, as for a container's user without an entry in
    ``/etc/passwd``.
    """
    base = os.environ.get(variable)
    try:
        return (Path(base) if base else Path.home() / default) / "nsd_pipeline"
    except RuntimeError as error:
        raise NsdError(
            f"The user {os.getuid()} has no home folder, and {variable} is not set.",
            next_step=f"set {variable} to a folder that this user can write to.",
        ) from error
