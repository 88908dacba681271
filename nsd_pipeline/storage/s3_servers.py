"""How servers that call themselves S3 differ, and how each is asked.

Used by the source and by the store. What a server lacks is told once in each process, with what
follows from it.
"""

import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from nsd_pipeline.errors import SourceError

_log = logging.getLogger(__name__)

_STRONG: Final = re.compile(r'"[^"]*"')
_BY_TIME: Final = "modified:"
"""Start of a version's name that is made of size and time, for want of a usable ETag."""
_TOTAL: Final = re.compile(r"bytes \d+-\d+/(\d+)")
_REFUSALS: Final = frozenset(
    {"InvalidArgument", "InvalidRequest", "MethodNotAllowed", "NotImplemented", "NotSupported"}
)
"""Codes of status 400 that mean "not like this"; others mean expired keys, a wrong region, ..."""
_MIRROR_INSTEAD: Final = (
    "copy the files that you need to a folder and set NSD_SOURCE to it; or, if this is a gateway or"
    " a cache, set NSD_SOURCE_ENDPOINT (or AWS_ENDPOINT_URL_S3) to the server behind it."
)


def version_of(
    etag: str | None, n_bytes: int, modified: datetime | None, *, by_time: bool = False
) -> str | None:
    """Name a version by its ETag, or by size and time; None if a server tells neither.

    The ETag is left out (`by_time`) where it changes from answer to answer.
    """
    if etag and not by_time:
        return etag
    # What is missing arrives as 1970 from obstore.
    if modified is None or modified.timestamp() <= 0:
        return None
    return f"{_BY_TIME}{n_bytes}-{modified.timestamp():.0f}"


def is_version(version: str, etag: str | None, n_bytes: int, modified: datetime) -> bool:
    """Whether an answer is of a version."""
    by_time = version.startswith(_BY_TIME)
    return version_of(etag, n_bytes, modified, by_time=by_time) == version


def can_be_condition(version: str) -> bool:
    """Whether ``If-Match`` can name a version: a weak ETag matches nothing by the protocol."""
    return _STRONG.fullmatch(version) is not None


class ListingError(ValueError):
    """A server's listing cannot be relied on."""


def lacks(error: Any, *more_codes: str) -> bool:
    """Whether a ``ClientError`` says that the server does not know this kind of request.

    Further codes of status 400 may mean it for one kind of request.
    """
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = error.response.get("Error", {}).get("Code")
    return status in (405, 501) or (status == 400 and code in _REFUSALS.union(more_codes))


@functools.cache
def tell_once(message: str) -> None:
    """Log what a server lacks and what follows, the first time that it is met."""
    _log.warning("%s", message)


def list_objects(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Entries of a listing, by whichever version of the request the server knows.

    A server that knows version 1 only may refuse version 2 or ignore that it is asked for. Then its
    answer has no token to go on with, and botocore's own paginator would stop at 1,000 objects. A
    ListingError if the server has more to list and does not say how to go on.
    """
    from botocore.exceptions import ClientError

    asked = {"Bucket": bucket, "Prefix": prefix}
    request, first_version, last = dict(asked), False, ""
    while True:
        try:
            page = (client.list_objects if first_version else client.list_objects_v2)(**request)
        except ClientError as error:
            if first_version or last or not lacks(error):
                raise
            first_version = True
            continue
        entries = page.get("Contents", [])
        if first_version and entries and entries[0]["Key"] <= last:
            raise ListingError(f"the server's listing starts again after {last}")
        yield from entries
        if not page.get("IsTruncated"):
            break
        last = entries[-1]["Key"] if entries else last
        token = page.get("NextContinuationToken")
        if token and not first_version:
            if token == request.get("ContinuationToken"):
                raise ListingError(f"the server's listing does not go on after {last}")
            request["ContinuationToken"] = token
            continue
        first_version = True
        if not entries:
            raise ListingError(f"the server's listing does not go on after {last}")
        request = asked | {"Marker": page.get("NextMarker") or last}
    if first_version:
        tell_once(
            f"The server of s3://{bucket} does not know version 2 of listings; version 1 is used,"
            " and nothing else follows."
        )


class Way(NamedTuple):
    """A way of asking for one version of an object.

    With `conditions`, ``If-Match`` is sent; the answer's version is compared in any case. Versions
    are told `by_time` (and size) where ETags change from answer to answer.
    """

    conditions: bool = True
    by_time: bool = False


_WAYS: Final = (Way(), Way(conditions=False), Way(conditions=False, by_time=True))


def head_object(client: Any, bucket: str, name: str) -> Mapping[str, Any]:
    """What a server says of an object: by HEAD, or by its first bytes where HEAD is not known."""
    from botocore.exceptions import ClientError

    try:
        answer: dict[str, Any] = client.head_object(Bucket=bucket, Key=name, ChecksumMode="ENABLED")
    except ClientError as error:
        if not lacks(error, "400"):  # an answer to HEAD has no body to say more in
            raise
        answer = client.get_object(Bucket=bucket, Key=name, Range="bytes=0-1")
        answer["Body"].close()
        total = _TOTAL.fullmatch(answer.get("ContentRange", ""))
        if total:
            answer["ContentLength"] = int(total[1])
        tell_once(
            f"The server of s3://{bucket} does not know HEAD; sizes come with the first bytes of"
            " each object, and nothing else follows."
        )
    return answer


def version_by_head(head: Mapping[str, Any], way: Way, name: str) -> str:
    """Version of an object; `SourceError` if what its server says would tell no other version."""
    version = _version(head, way)
    if version is None:
        raise _no_version(name)
    return version


def _no_version(name: str) -> SourceError:
    return SourceError(
        f"{name} cannot be read safely: its server tells neither an ETag nor a time"
        " (Last-Modified), so parts of two versions could be mixed.",
        next_step=_MIRROR_INSTEAD,
    )


def _version(head: Mapping[str, Any], way: Way) -> str | None:
    return version_of(
        head.get("ETag"), head["ContentLength"], head.get("LastModified"), by_time=way.by_time
    )


def choose_way(head: Mapping[str, Any], name: str, read_sample: Callable[[Way, str], None]) -> Way:
    """Find the first way in which an object can be read, and tell what the server lacks.

    `head` is what the server says of the object, and `name` what to call it. `read_sample` reads a
    few bytes of a version in one way, or raises `SourceError`; if no way works, what the first one
    raised goes on.
    """
    failure: SourceError | None = None
    tried = set()
    for way in _WAYS:
        version = _version(head, way)
        if version is None:
            continue
        asked = (way.conditions and can_be_condition(version), version)
        if asked in tried:
            continue
        tried.add(asked)
        try:
            read_sample(way, version)
        except SourceError as error:
            # What came first is about the request that S3 itself would answer.
            failure = failure or error
            continue
        _tell(way, version, name)
        return way
    raise failure or _no_version(name)


def _tell(way: Way, version: str, name: str) -> None:
    if version.startswith(_BY_TIME):
        why = "change from answer to answer" if way.by_time else "are missing"
        tell_once(
            f"{name}: this server's ETags {why}. Versions are told by size and time (Last-Modified)"
            " instead; one that replaces another of the same size within a second is not noticed."
        )
    elif not way.conditions:
        tell_once(
            f"{name}: this server refuses If-Match. The ETag of each answer is compared instead,"
            " and nothing else follows."
        )


def refuse_odd(name: str, reason: str) -> SourceError:
    """Error for a server that twice did not send the part that it was asked for."""
    return SourceError(
        f"{name} cannot be read in parts: {reason}. The server, or a proxy before it, does not"
        " answer ranges as S3 does.",
        next_step=_MIRROR_INSTEAD,
    )
