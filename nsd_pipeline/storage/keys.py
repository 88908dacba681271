"""Keys: slash-separated names of objects and artifacts that stay below the root they belong to."""

import re
from typing import Final

from nsd_pipeline.errors import NsdError
from nsd_pipeline.storage.paths import is_inner_path

_ARTIFACT_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*")


def is_component(name: str) -> bool:
    """Whether a name can be one part of an artifact's key, such as a version or a partition."""
    return _ARTIFACT_PART.fullmatch(name) is not None


def check_object_key(key: str) -> str:
    """Return the key of an object of the dataset if it names something below its root.

    Raises
    ------
    NsdError
        If the key is empty, absolute, or steps out of its root.
    """
    if not is_inner_path(key):
        raise NsdError(
            f"{key!r} is not a key of the dataset.",
            next_step="use a path relative to the dataset's root, such as "
            "'nsddata/experiments/nsd/nsd_expdesign.mat'.",
        )
    return key


def is_artifact_key(key: str) -> bool:
    """Whether a key can be a folder's path on any disk and on S3, and not one of the manifests."""
    parts = key.split("/")
    return parts[0] != "manifests" and not key.endswith(".json") and all(map(is_component, parts))


def check_artifact_key(key: str) -> str:
    """Return the key of an artifact if it can be a folder's path on any disk and on S3.

    ``manifests`` is taken by the manifests, and ``.json`` at the end would clash with them.

    Raises
    ------
    NsdError
        If it cannot.
    """
    if not is_artifact_key(key):
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
        If the URL names no bucket, or a prefix that is no path: it names a folder of the cache.
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
