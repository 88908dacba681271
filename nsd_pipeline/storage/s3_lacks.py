"""What a server that calls itself S3 may lack, and how it is asked all the same.

Used by the source and by the store. What a server lacks is told once in each process, with what
follows from it.
"""

import functools
import logging
from collections.abc import Iterator
from typing import Any, Final

_log = logging.getLogger(__name__)

_REFUSALS: Final = frozenset(
    {"InvalidArgument", "InvalidRequest", "MethodNotAllowed", "NotImplemented", "NotSupported"}
)
"""Codes of status 400 that mean "not like this"; others mean expired keys, a wrong region, ..."""


class ListingError(ValueError):
    """A server's listing cannot be relied on."""


def lacks(error: Any, *more_codes: str) -> bool:
    """Whether a ``ClientError`` says that the server does not know this kind of request.

    Parameters
    ----------
    error
        What botocore raised.
    *more_codes
        Further codes of status 400 that mean it for this kind of request.
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

    A server that knows version 1 only may refuse version 2 or ignore that it is asked for. Then
    its answer has no token to go on with, and botocore's own paginator would stop at 1,000 objects.

    Raises
    ------
    ListingError
        If the server has more to list and does not say how to go on.
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
