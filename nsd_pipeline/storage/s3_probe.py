"""How a server that has the dataset can be asked, found out with the first object."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from nsd_pipeline.errors import SourceError
from nsd_pipeline.storage.s3_lacks import lacks, tell_once
from nsd_pipeline.storage.s3_versions import can_be_condition, is_by_time, version_of

_TOTAL: Final = re.compile(r"bytes \d+-\d+/(\d+)")
_MIRROR_INSTEAD: Final = (
    "copy the files that you need to a folder and set NSD_SOURCE to it; or, if this is a gateway or"
    " a cache, set NSD_SOURCE_ENDPOINT (or AWS_ENDPOINT_URL_S3) to the server behind it."
)


class Way(NamedTuple):
    """A way of asking for one version of an object.

    Attributes
    ----------
    conditions
        Whether ``If-Match`` is sent. The answer's version is compared in any case.
    by_time
        Whether versions are told by size and time, because ETags change from answer to answer.
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
    """Version of an object, by what its server says of it.

    Raises
    ------
    SourceError
        If the server says nothing that would tell another version.
    """
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

    Parameters
    ----------
    head
        What the server says of the object.
    name
        What to call it.
    read_sample
        Reads a few bytes of a version in one way.

    Raises
    ------
    SourceError
        If there is none.
    """
    failure: SourceError | None = None
    for way, version in _different_ways(head):
        try:
            read_sample(way, version)
        except SourceError as error:
            # What came first is about the request that S3 itself would answer.
            failure = failure or error
            continue
        _tell(way, version, name)
        return way
    raise failure or _no_version(name)


def _different_ways(head: Mapping[str, Any]) -> Iterator[tuple[Way, str]]:
    seen = set()
    for way in _WAYS:
        version = _version(head, way)
        condition = version is not None and way.conditions and can_be_condition(version)
        if version is not None and (condition, version) not in seen:
            seen.add((condition, version))
            yield way, version


def _tell(way: Way, version: str, name: str) -> None:
    if is_by_time(version):
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
