"""Keys: slash-separated names of objects and artifacts that stay below the root they belong to."""

import re
from typing import Final

from nsd_pipeline.nsd.errors import NsdError

_ARTIFACT_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*")


def check_object_key(key: str) -> str:
    """Return the key of an object of the dataset if it names something below its root.

    Raises
    ------
    NsdError
        If the key is empty, absolute, or steps out of its root.
    """
    parts = key.split("/")
    if "\\" in key or "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise NsdError(
            f"{key!r} is not a key of the dataset.",
            next_step="use a path relative to the dataset's root, such as "
            "'nsddata/experiments/nsd/nsd_expdesign.mat'.",
        )
    return key


def check_artifact_key(key: str) -> str:
    """Return the key of an artifact if it can be a folder's path on any disk and on S3.

    ``manifests`` is taken by the manifests, and ``.json`` at the end would clash with them.

    Raises
    ------
    NsdError
        If it cannot.
    """
    parts = key.split("/")
    if (
        parts[0] == "manifests"
        or key.endswith(".json")
        or not all(_ARTIFACT_PART.fullmatch(part) for part in parts)
    ):
        raise NsdError(
            f"{key!r} cannot be the key of an artifact.",
            next_step="use names of letters, digits, '_', '-', '=' and '.', joined by '/', such as "
            "'betas/subj01_ses01'.",
        )
    return key


def split_s3_url(url: str) -> tuple[str, str]:
    """Bucket and prefix of an ``s3://bucket[/prefix]`` URL; the prefix has no slash at its end.

    Raises
    ------
    NsdError
        If the URL names no bucket.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not bucket:
        raise NsdError(
            f"{url!r} names no bucket.", next_step="write it as s3://bucket or s3://bucket/prefix."
        )
    return bucket, prefix.strip("/")
