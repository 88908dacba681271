"""Opening what people name: where the dataset is read from, and where artifacts go.

Which kind it is decides which libraries are loaded: a folder needs none of those that S3 does.
"""

from pathlib import Path
from typing import Final

from nsd_pipeline.storage.names import parse_place
from nsd_pipeline.storage.source import DEFAULT_CONCURRENCY, DEFAULT_REGION, DEFAULT_URL, Source
from nsd_pipeline.storage.store import Store

DEFAULT_STORE: Final = "./artifacts"


def open_source(
    url: str | Path = DEFAULT_URL,
    *,
    region: str = DEFAULT_REGION,
    endpoint_url: str | None = None,
    max_concurrency: int = DEFAULT_CONCURRENCY,
    signed: bool = False,
) -> Source:
    """Open the dataset where it lies. No request is made yet.

    `url` is ``s3://bucket``, ``s3://bucket/prefix``, or the folder of a local mirror; see
    :func:`~nsd_pipeline.storage.names.parse_place`. The server `endpoint_url` is asked instead of
    AWS; with None, boto3's own ``AWS_ENDPOINT_URL_S3`` and ``AWS_ENDPOINT_URL`` count. Requests to
    a bucket may be `signed` with boto3's credentials, and at most `max_concurrency` are in flight
    at once. NSD's own bucket needs no credentials.

    An NsdError if it is no such place; a SourceError if a mirror's folder does not exist.
    """
    place = parse_place(url, what="The source (NSD_SOURCE)")
    if isinstance(place, str):
        from nsd_pipeline.storage.s3 import S3Source

        return S3Source(
            place,
            region=region,
            endpoint_url=endpoint_url,
            max_concurrency=max_concurrency,
            signed=signed,
        )
    from nsd_pipeline.storage.source import LocalMirror

    return LocalMirror(place, max_concurrency=max_concurrency)


def open_store(url: str | Path = DEFAULT_STORE) -> Store:
    """Open a store of artifacts; an NsdError if it is no place that can be one.

    It is a folder, which is made when needed, or ``s3://bucket/prefix``; see
    :func:`~nsd_pipeline.storage.names.parse_place`. For S3, boto3's own environment variables and
    files give credentials, region and endpoint.
    """
    place = parse_place(url, what="The place of artifacts (NSD_STORAGE)")
    if isinstance(place, str):
        from nsd_pipeline.storage.s3_store import S3Store

        return S3Store(place)
    from nsd_pipeline.storage.local_store import LocalStore

    return LocalStore(place)
