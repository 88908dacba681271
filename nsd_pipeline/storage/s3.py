"""The dataset on S3: unsigned requests, each bound to one version of one object.

boto3 finds the server (endpoint variables, configuration files) and answers questions about
objects. The bytes of ranges come through obstore on the same endpoint, because boto3's work per
request, done in Python under the interpreter's lock, is the bottleneck for small ranges whatever
the number of threads. Measured with 1,500 ranges of 40,968 bytes on loopback, two cores: boto3
makes 852 requests/s at 1.19 ms of CPU each with 8 threads (837 with 32), obstore 8,941 at 0.11 ms
(9,710 with 32), and from asyncio 4,972 at 0.25 ms.

obstore's own retries are switched off: they would resume a body that was cut off without comparing
the ETag of the second answer, and a server that ignores ``If-Match`` could so splice two versions.

Two bytes of the first object that is described are also read, to see what the server lacks.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast
from urllib.parse import urlsplit

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from nsd_pipeline.errors import NsdError, SourceError
from nsd_pipeline.storage import terms
from nsd_pipeline.storage.checksums import stated_checksum
from nsd_pipeline.storage.names import check_object_key, split_s3_url
from nsd_pipeline.storage.s3_servers import (
    Way,
    can_be_condition,
    choose_way,
    head_object,
    is_version,
    list_objects,
    refuse_odd,
    version_by_head,
)
from nsd_pipeline.storage.source import (
    DEFAULT_CONCURRENCY,
    DEFAULT_REGION,
    ObjectInfo,
    RangeFile,
    source_changed,
    too_short,
)

if TYPE_CHECKING:
    from botocore.config import Config
    from obstore import GetOptions
    from obstore.store import ClientConfig, S3Store

    S3Client = Any  # a class that boto3 makes at run time

_ATTEMPTS: Final = 10
"""Of one request: with the waits between, ranges survive a network that is away for a minute."""
_STATUS: Final = re.compile(r"status code: (\d{3})")
"""Of an answer, in obstore's errors. Only their text carries it."""
_TRANSIENT_STATUSES: Final = frozenset({408, 429})
"""The only answers below 500 that mean "not now"; the others mean "not like this"."""
_SAMPLE: Final = (1, 2)
"""Offset and length of what is read to see how a server can be asked. Not its first byte: s3rver
takes `bytes=0-0` for the whole object."""
_LASTING_STATUSES: Final = frozenset({501, 505})
_ODD: Final = re.compile(r"last modified|content.range|non-partial|Requested \d", re.IGNORECASE)
"""What obstore says of an answer that is no part of an object, or none that it understands."""


def client_config(max_concurrency: int, **options: Any) -> "Config":
    """Return the settings that all our boto3 clients share.

    Retries are botocore's standard mode: exponential backoff with jitter for throttling, server
    errors and lost connections, none for answers such as 403, 404 and 412.
    """
    from botocore.config import Config

    return Config(
        max_pool_connections=max_concurrency,
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        **options,
    )


def patience(*errors: type[Exception], attempts: int, longest_wait: float) -> Retrying:
    """Repeat a call that raises one of these errors, after random waits that grow."""
    return Retrying(
        retry=retry_if_exception_type(errors),
        wait=wait_random_exponential(multiplier=0.2, max=longest_wait),
        stop=stop_after_attempt(attempts),
        reraise=True,
    )


@contextmanager
def asking(problem: Callable[[Exception], NsdError]) -> Iterator[None]:
    """Raise what `problem` makes of an error of boto3, or of an answer that it cannot read."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    read = (Boto3Error, BotoCoreError, ClientError, ResponseParserError)
    try:
        yield
    # A ValueError is a time or a listing that is none; the recursion, a server that sends its
    # client in a circle, which botocore follows to the end.
    except (*read, ValueError, RecursionError) as error:
        raise problem(error) from error


def byte_store(client: "S3Client", bucket: str, **options: Any) -> "S3Store":
    """Make an obstore store that asks the same server, in the same style, as a boto3 client.

    Further arguments of ``obstore.store.S3Store``, such as who asks, are handed on.
    """
    import botocore.session
    from obstore.store import S3Store

    endpoint = urlsplit(client.meta.endpoint_url)
    style = (client.meta.config.s3 or {}).get("addressing_style")
    # As botocore decides: AWS is asked by a bucket's own host name, any other server by path.
    is_aws = (endpoint.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
    by_host = style == "virtual" or (is_aws and style != "path" and "." not in bucket)
    host = f"{bucket}.{endpoint.netloc}" if by_host else endpoint.netloc
    http: ClientConfig = {
        "allow_http": endpoint.scheme == "http",
        "connect_timeout": "10s",
        "read_timeout": "60s",
        # The default of 30 s for a whole answer fails a large block on a slow line, which is not
        # an error; an answer that stalls is noticed by the read timeout.
        "timeout": "10m",
    }
    certificates = botocore.session.get_session().get_config_variable("ca_bundle")
    if certificates:
        http["root_certificate"] = Path(certificates).read_bytes()
    return S3Store(
        bucket,
        # By this name, because as plain `endpoint` obstore lets AWS_ENDPOINT_URL_S3 undo it.
        aws_endpoint_url_s3=f"{endpoint.scheme}://{host}{endpoint.path.rstrip('/')}",
        region=client.meta.region_name,
        virtual_hosted_style_request=by_host,
        client_options=http,
        **options,
    )


def reason(error: Exception) -> str:
    """First line of an error; of an address only the server, as it may hold a password or a key."""
    return re.sub(r'"?(\w+://[^\s"]+)"?', _server, str(error).partition("\n")[0]).strip(" .:-")


def _server(address: re.Match[str]) -> str:
    parts = urlsplit(address[1])
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _is_passing(status: int | None) -> bool:
    return (
        status is None
        or status in _TRANSIENT_STATUSES
        or (status >= 500 and status not in _LASTING_STATUSES)
    )


def _unanswered(name: str, error: Exception) -> SourceError:
    response = getattr(error, "response", {})
    return _refused(name, response.get("ResponseMetadata", {}).get("HTTPStatusCode"), error)


def _refused(name: str, status: int | None, error: Exception) -> SourceError:
    match status:
        case 404:
            return SourceError(
                f"There is no object {name}.",
                next_step="check the key and the bucket; NSD_SOURCE sets the bucket.",
            )
        case 401 | 403:
            return SourceError(
                f"The server refuses to show {name} ({status}).",
                next_step="check the key, since a public bucket refuses keys that do not exist, "
                "and whether the bucket allows unsigned reads; for a private copy, "
                "NSD_SOURCE_SIGNED=1 signs them with boto3's credentials.",
            )
        case 400:  # also how some servers refuse what is not signed
            next_step = (
                "check AWS_ENDPOINT_URL_S3 and the bucket; if it is a private copy, "
                "NSD_SOURCE_SIGNED=1 signs requests with boto3's credentials."
            )
        case _:
            next_step = (
                "check the network and the server's address (NSD_SOURCE_ENDPOINT, or else"
                " AWS_ENDPOINT_URL_S3), then run this step again."
            )
    return SourceError(f"{name} could not be read: {reason(error)}.", next_step=next_step)


class _CutOffError(Exception):
    """A request that failed on its way, or at a busy server. Worth another attempt."""


class _OddAnswerError(_CutOffError):
    """An answer that is not what was asked for. If another attempt gets one too, it stays so."""


class S3Source:
    """A bucket with the dataset's files. Implements :class:`~nsd_pipeline.storage.source.Source`.

    Parameters are those of :func:`~nsd_pipeline.storage.opening.open_source`. An NsdError if the
    URL names no bucket.
    """

    requires_terms = True

    def __init__(
        self,
        url: str,
        *,
        region: str = DEFAULT_REGION,
        endpoint_url: str | None = None,
        max_concurrency: int = DEFAULT_CONCURRENCY,
        signed: bool = False,
    ) -> None:
        self.bucket, self.prefix = split_s3_url(url)
        self.url = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self.max_concurrency = max_concurrency
        self._region = region
        self._endpoint_url = endpoint_url
        self._signed = signed
        self._way, self._is_probed, self._probing = Way(), False, threading.Lock()
        self._retrying = patience(_CutOffError, attempts=_ATTEMPTS, longest_wait=30)

    @cached_property
    def _client(self) -> "S3Client":
        """The client, made with the first request and after the terms: nothing is read without."""
        terms.require_acceptance(self.url)
        import boto3
        import botocore

        options = {} if self._signed else {"signature_version": botocore.UNSIGNED}
        return boto3.Session().client(
            "s3",
            region_name=self._region,
            endpoint_url=self._endpoint_url,
            config=client_config(self.max_concurrency, **options),
        )

    @cached_property
    def _bytes(self) -> "S3Store":
        from obstore.auth.boto3 import Boto3CredentialProvider

        who: dict[str, Any] = {"skip_signature": True}
        if self._signed:
            who = {"credential_provider": Boto3CredentialProvider()}
        return byte_store(self._client, self.bucket, retry_config={"max_retries": 0}, **who)

    def _object(self, key: str) -> str:
        return f"{self.prefix}/{check_object_key(key)}".lstrip("/")

    def describe(self, key: str) -> ObjectInfo:
        """Size and version of an object; see :meth:`Source.describe`."""
        name = self._object(key)
        with asking(partial(_unanswered, f"{self.url}/{key}")):
            head = head_object(self._client, self.bucket, name)
        if head["ContentLength"] >= sum(_SAMPLE):
            self._probe(name, head)
        version = version_by_head(head, self._way, f"{self.url}/{key}")
        return ObjectInfo(key, head["ContentLength"], version, stated_checksum(head))

    def _probe(self, name: str, head: Mapping[str, Any]) -> None:
        """Find out, with the first object, how this server can be asked for a version."""
        full_name = f"s3://{self.bucket}/{name}"

        def read_sample(way: Way, version: str) -> None:
            for last in (False, True):
                try:
                    self._read_once(self._bytes, name, *_SAMPLE, version, way)
                except _OddAnswerError as error:
                    if last:
                        raise refuse_odd(full_name, str(error)) from error
                else:
                    return

        with self._probing:
            if not self._is_probed:
                # Who is busy now may be asked another time: reads have their own patience.
                with suppress(_CutOffError):
                    self._way = choose_way(head, full_name, read_sample)
                    self._is_probed = True

    def list(self, prefix: str) -> list[str]:
        """Sorted keys that start with a prefix; see :meth:`Source.list`."""
        root = f"{self.prefix}/" if self.prefix else ""
        with asking(partial(_unanswered, f"{self.url}/{prefix}")):
            entries = list_objects(self._client, self.bucket, root + prefix)
            return sorted(entry["Key"].removeprefix(root) for entry in entries)

    def read(self, key: str, offset: int, length: int, *, etag: str) -> bytes:
        """Exactly `length` bytes of one version of an object; see :meth:`Source.read`."""
        if length == 0:
            return b""
        store, name = self._bytes, self._object(key)
        try:
            return self._retrying(self._read_once, store, name, offset, length, etag, self._way)
        except _CutOffError as error:
            raise SourceError(
                f"{self.url}/{key} could not be read in {_ATTEMPTS} attempts: {error}.",
                next_step="check the network and run this step again; what arrived is kept.",
            ) from error

    def _read_once(
        self, store: "S3Store", name: str, offset: int, length: int, etag: str, way: Way
    ) -> bytes:
        import obstore
        from obstore.exceptions import BaseError, GenericError, PreconditionError

        full_name = f"s3://{self.bucket}/{name}"
        options: GetOptions = {"range": (offset, offset + length)}
        if way.conditions and can_be_condition(etag):
            options["if_match"] = etag
        try:
            answer = obstore.get(store, name, options=options)
            meta = answer.meta
            # Some servers ignore If-Match, so what they send is compared as well.
            if not is_version(etag, meta["e_tag"], meta["size"], meta["last_modified"]):
                raise source_changed(full_name)
            if meta["size"] < offset + length:
                raise too_short(full_name, meta["size"], offset, length)
            data = bytes(answer.bytes())
            # obstore compares the range that the answer states with ours, not with its body.
            if len(data) != length:
                raise _CutOffError(f"{len(data)} bytes came instead of {length}")
            return data
        except PreconditionError as error:
            raise source_changed(full_name) from error
        except (BaseError, FileNotFoundError) as error:
            found = _STATUS.search(str(error))
            status = int(found[1]) if found else None
            if isinstance(error, GenericError) and status is None and _ODD.search(str(error)):
                raise _OddAnswerError(reason(error)) from error
            if isinstance(error, GenericError) and _is_passing(status):
                raise _CutOffError(reason(error)) from error
            raise _refused(full_name, status, error) from error

    def open(self, key: str) -> BinaryIO:
        """Open one version of an object as a seekable file; see :meth:`Source.open`."""
        return cast("BinaryIO", BufferedReader(RangeFile(self, self.describe(key))))

    def local_path(self, key: str) -> None:
        """No object of a bucket is a file on this machine; see :meth:`Source.local_path`."""
        del key
