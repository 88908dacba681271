"""The few things that a store of artifacts asks of a bucket, with errors that a person can read.

A server that lacks one of them is asked in another way where there is a safe one, see
:meth:`Bucket.probe`.
"""

import hashlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nsd_pipeline.errors import ArtifactError
from nsd_pipeline.storage.names import split_s3_url
from nsd_pipeline.storage.s3 import asking, byte_store, client_config, patience, reason
from nsd_pipeline.storage.s3_servers import lacks, list_objects, tell_once
from nsd_pipeline.storage.store import ABANDONED

if TYPE_CHECKING:
    from obstore.store import S3Store as ByteStore
    from s3transfer.futures import TransferFuture
    from s3transfer.manager import TransferManager
    from zarr.storage import ObjectStore

_Content = TypeVar("_Content")

_CONCURRENCY: Final = 16
"""Files, or parts of large files, on their way at once."""
_STRONG_ETAG: Final = re.compile(r'"[^"]+"')
_SINGLE_PUT: Final = 5 * 2**30
"""Largest object that comes in one request, to any server."""


@dataclass
class _Server:
    """What a server has been found to know. Each is believed until it shows otherwise."""

    probed: bool = False
    conditions: bool = True
    stable_etags: bool = True
    batches: bool = True
    multipart: bool = True


_servers: Final[dict[tuple[str, str], _Server]] = {}
"""By endpoint and bucket, for the life of the process: a run opens its store in every step."""


class MissingObjectError(Exception):
    """An object that was to be downloaded does not exist; the argument is its name."""


class Bucket:
    """A prefix of a bucket, ``s3://bucket[/prefix]``, to which all names are relative.

    Credentials, region and endpoint are boto3's own business. Failures that are no answers raise
    :class:`ArtifactError`.
    """

    def __init__(self, url: str) -> None:
        self.name, self.prefix = split_s3_url(url)
        self.url = f"s3://{self.name}/{self.prefix}".rstrip("/")

    @cached_property
    def _client(self) -> Any:
        import boto3

        return boto3.Session().client("s3", config=client_config(_CONCURRENCY))

    @cached_property
    def _bytes(self) -> "ByteStore":
        return self._byte_store("", retry_config={"max_retries": 0})

    @cached_property
    def _server(self) -> _Server:
        with self._asking(""):
            return _servers.setdefault((self._client.meta.endpoint_url, self.name), _Server())

    def probe(self) -> None:
        """Find out, once in a process and before anything is written, what the server lacks.

        What it lacks is told in the log, with what follows from it. An ArtifactError if the bucket
        cannot be written to, or gives back other bytes than it was given.
        """
        if self._server.probed:
            return
        name = f"probes/{uuid.uuid4().hex}"
        written = b"written by nsd_pipeline to see what this server can do"
        self.put_if(name, written, etag=None)
        try:
            found = self.get(name)
            if found is None or found[0] != written:
                wrong = "it is not there"
                if found is not None:
                    wrong = f"{len(found[0])} other bytes came back"
                raise ArtifactError(
                    f"{self.url}/{name} was written and read again, but {wrong}. No artifact is"
                    " safe on this server.",
                    next_step="a server of before 2025 may keep the checksums that boto3 sends as"
                    " a part of the object: set AWS_REQUEST_CHECKSUM_CALCULATION=when_required and"
                    " AWS_RESPONSE_CHECKSUM_VALIDATION=when_required. A cache in front of the"
                    " server may also be the reason; else set NSD_STORAGE to another place.",
                )
            if self._server.conditions:
                self._probe_conditions(name, written, found[1])
        finally:
            try:
                self.delete([name])
                # Those of processes that were killed right here.
                old = datetime.now(UTC) - ABANDONED
                self.delete([each for each, _, written in self.list("probes/") if written < old])
            except ArtifactError as error:
                tell_once(
                    f"{self.url}: nothing can be deleted here, so superseded artifacts stay."
                    f" {error.problem}"
                )
        self._server.probed = True

    def _probe_conditions(self, name: str, content: bytes, etag: str) -> None:
        if self.put_if(name, content, etag=None) or self.put_if(name, content, etag=f'"{0:032}"'):
            self._do_without_conditions("ignores them")
        elif not self.put_if(name, content, etag=etag):
            self._server.stable_etags = False
            self._do_without_conditions("refuses If-Match with the ETag that it has just told")

    def _do_without_conditions(self, why: str) -> None:
        self._server.conditions = False
        tell_once(
            f"{self.url}: this server knows no conditional writes (it {why}). Artifacts are whole"
            " all the same. But of two runs that make the same one at the same moment the last"
            " wins, and what the other wrote is left behind for a day: let one scheduler make an"
            " artifact, or set NSD_STORAGE to a server with conditional writes."
        )

    def _path(self, name: str) -> str:
        return f"{self.prefix}/{name}".lstrip("/")

    def get(self, name: str) -> tuple[bytes, str] | None:
        """Content and version of a small object, or None if there is none.

        The version is its ETag; where that is missing, weak or not stable, a checksum.
        """

        def read(answer: Mapping[str, Any]) -> tuple[bytes, str]:
            content, etag = answer["Body"].read(), answer.get("ETag", "")
            if self._server.stable_etags and _STRONG_ETAG.fullmatch(etag):
                return content, etag
            return content, hashlib.sha256(content).hexdigest()

        return self._read(name, read)

    def digest(self, name: str) -> str | None:
        """SHA-256 of an object of any size, or None if there is none."""

        def read(answer: Mapping[str, Any]) -> str:
            digest = hashlib.sha256()
            for part in answer["Body"].iter_chunks(2**20):
                digest.update(part)
            return digest.hexdigest()

        return self._read(name, read)

    def _read(self, name: str, read: Callable[[Mapping[str, Any]], _Content]) -> _Content | None:
        """What `read` makes of the answer that has an object, or None if there is none."""
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        def ask() -> _Content | None:
            try:
                answer = self._client.get_object(Bucket=self.name, Key=self._path(name))
            except self._client.exceptions.NoSuchKey:
                return None
            return read(answer)

        # botocore itself repeats requests, but not the reading of a body that was cut off.
        retrying = patience(HTTPClientError, IncompleteReadError, attempts=5, longest_wait=10)
        with self._asking(name):
            return retrying(ask)

    def read(self, name: str) -> bytes | None:
        """Content of a small object, or None if there is none.

        Asked of obstore first, with a tenth of boto3's work: a store has thousands of manifests.
        What its ETag does not show to be whole (an MD5 on AWS, unless a key of KMS encrypts it),
        and every failure, is boto3's to ask again, which compares checksums and is patient.
        """
        import obstore
        from obstore.exceptions import BaseError

        try:
            answer = obstore.get(self._bytes, self._path(name))
            content = bytes(answer.bytes())
        except (ArtifactError, BaseError, OSError) as error:
            if "NoSuchKey" in str(error):
                return None
        else:
            md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
            if answer.meta["e_tag"] == f'"{md5}"':
                return content
        found = self.get(name)
        return found and found[0]

    def put_if(self, name: str, content: bytes, *, etag: str | None) -> bool:
        """Put a small object if it still is a version (None: if it still does not exist).

        Where the server knows no conditions, or its ETags are none, that is looked up just before.
        """
        if self._server.conditions and (etag is None or _STRONG_ETAG.fullmatch(etag)):
            done = self._put_on_condition(name, content, etag)
            if done is not None:
                return done
        current = self.get(name)
        if (current and current[1]) != etag:
            return False
        with self._asking(name):
            self._client.put_object(Bucket=self.name, Key=self._path(name), Body=content)
        return True

    def _put_on_condition(self, name: str, content: bytes, etag: str | None) -> bool | None:
        """Whether it was put; None if the server does not know how."""
        from botocore.exceptions import ClientError

        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        with self._asking(name):
            try:
                self._client.put_object(
                    Bucket=self.name, Key=self._path(name), Body=content, **condition
                )
            except ClientError as error:
                # 412: it is another one now. 409: somebody is putting it. 404: it was deleted.
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status in (404, 409, 412):
                    return False
                if not lacks(error):
                    raise
                self._do_without_conditions(f"answers {status}")
                return None
        return True

    def list(self, prefix: str) -> Iterator[tuple[str, int, datetime]]:
        """Name, size in bytes and time of the objects whose name starts with a prefix."""
        root = self._path("")
        with self._asking(prefix):
            for entry in list_objects(self._client, self.name, self._path(prefix)):
                if "Size" not in entry:
                    raise ValueError("its listing states no sizes")
                # What has no age is never taken for old.
                written = entry.get("LastModified") or datetime.now(UTC)
                yield entry["Key"].removeprefix(root), entry["Size"], written

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; those that do not exist are no error."""
        for start in range(0, len(names), 1000):  # as many as one request may name
            batch = names[start : start + 1000]
            with self._asking(batch[0]):
                if not (self._server.batches and self._delete_at_once(batch)):
                    for name in batch:
                        self._client.delete_object(Bucket=self.name, Key=self._path(name))

    def _delete_at_once(self, names: Sequence[str]) -> bool:
        """Whether the server knows how to delete many objects at once."""
        from botocore.exceptions import ClientError

        objects = [{"Key": self._path(name)} for name in names]
        try:
            answer = self._client.delete_objects(
                Bucket=self.name, Delete={"Objects": objects, "Quiet": True}
            )
        except ClientError as error:
            # The last two: an old server wants a checksum that boto3 no longer sends.
            if not lacks(error, "MalformedXML", "MissingContentMD5", "InvalidDigest"):
                raise
            self._server.batches = False
            tell_once(
                f"{self.url}: this server cannot delete many objects at once; they are deleted one"
                " by one, which takes longer."
            )
            return False
        for left in answer.get("Errors", []):
            if left.get("Code") != "NoSuchKey":
                raise ValueError(f"{left.get('Key')} cannot be deleted: {left.get('Message')}")
        return True

    def upload(self, files: Mapping[str, Path]) -> None:
        """Write objects from files."""
        from botocore.exceptions import ClientError

        try:
            self._upload(files)
        except ArtifactError as error:
            cause = error.__cause__
            in_parts = isinstance(cause, ClientError) and "Multipart" in cause.operation_name
            if not (self._server.multipart and in_parts and lacks(cause)):
                raise
            self._server.multipart = False
            tell_once(
                f"{self.url}: this server takes no object in parts; each comes in one request,"
                " which starts over when it is cut off. Artifacts' files may have 5 GB."
            )
            self._upload(files)

    def _upload(self, files: Mapping[str, Path]) -> None:
        self._transfer(
            files, lambda manager, path, name: manager.upload(path, self.name, self._path(name))
        )

    def download(self, files: Mapping[str, Path]) -> None:
        """Write files from objects; `MissingObjectError` names one that does not exist."""
        for path in files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        self._transfer(
            files, lambda manager, path, name: manager.download(self.name, self._path(name), path)
        )

    def zarr(self, prefix: str) -> "ObjectStore[Any]":
        """Zarr's view of a prefix, read-only."""
        from zarr.storage import ObjectStore

        return ObjectStore(self._byte_store(prefix, prefix=self._path(prefix)), read_only=True)

    def _byte_store(self, name: str, **options: Any) -> "ByteStore":
        from obstore.auth.boto3 import Boto3CredentialProvider

        with self._asking(name):
            who = Boto3CredentialProvider()
            return byte_store(self._client, self.name, credential_provider=who, **options)

    def _transfer(
        self,
        files: Mapping[str, Path],
        start: Callable[["TransferManager", str, str], "TransferFuture"],
    ) -> None:
        from boto3.s3.transfer import TransferConfig, create_transfer_manager
        from botocore.exceptions import ClientError

        config = TransferConfig(max_concurrency=_CONCURRENCY, preferred_transfer_client="classic")
        if not self._server.multipart:
            config.multipart_threshold = _SINGLE_PUT
        with create_transfer_manager(self._client, config) as manager:
            # An exception in here cancels what is under way.
            futures = {name: start(manager, str(path), name) for name, path in files.items()}
            for name, future in futures.items():
                with self._asking(name):
                    try:
                        future.result()
                    except ClientError as error:
                        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                            raise MissingObjectError(name) from error
                        raise

    def _asking(self, name: str) -> AbstractContextManager[None]:
        return asking(
            lambda error: ArtifactError(
                f"The artifact store did not serve {self.url}/{name}: {reason(error)}.",
                next_step="check that NSD_STORAGE names the bucket, and boto3's settings for it "
                "(AWS_PROFILE or AWS_ACCESS_KEY_ID, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3).",
            )
        )
