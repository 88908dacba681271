"""What tells one version of an object from another, on servers with and without ETags."""

import re
from datetime import datetime
from typing import Final

_STRONG: Final = re.compile(r'"[^"]*"')
_BY_TIME: Final = "modified:"


def version_of(
    etag: str | None, n_bytes: int, modified: datetime | None, *, by_time: bool = False
) -> str | None:
    """Name a version by its ETag, or by size and time; None if a server tells neither.

    Parameters
    ----------
    etag, n_bytes, modified
        What the server answers.
    by_time
        Leave the ETag out, because it changes from answer to answer.
    """
    if etag and not by_time:
        return etag
    # What is missing arrives as 1970 from obstore.
    if modified is None or modified.timestamp() <= 0:
        return None
    return f"{_BY_TIME}{n_bytes}-{modified.timestamp():.0f}"


def is_version(version: str, etag: str | None, n_bytes: int, modified: datetime) -> bool:
    """Whether an answer is of a version."""
    by_time = is_by_time(version)
    return version_of(etag, n_bytes, modified, by_time=by_time) == version


def is_by_time(version: str) -> bool:
    """Whether a version is named by size and time."""
    return version.startswith(_BY_TIME)


def can_be_condition(version: str) -> bool:
    """Whether ``If-Match`` can name a version: a weak ETag matches nothing by the protocol."""
    return _STRONG.fullmatch(version) is not None
