"""The few things that a store of artifacts asks of a bucket, with errors that a person can read."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from nsd_pipeline.errors import ArtifactError
from nsd_pipeline.storage.keys import split_s3_url
from nsd_pipeline.storage.s3 import byte_store, client_config, reason

if TYPE_CHECKING:
    from s3transfer.futures import TransferFuture
    from s3transfer.manager import TransferManager
    from zarr.storage import ObjectStore

_CONCURRENCY: Final = 16
"""Files, or parts of large files, on their way at once."""


class MissingObjectError(Exception):
    """An object that was to be downloaded does not exist; the argument is its name."""


class Bucket:
    """A prefix of a bucket, to which all names are relative.

    Credentials, region and endpoint are boto3's own business. Failures that are no answers raise
    :class:`ArtifactError`.

    Parameters
    ----------
    url
        ``s3://bucket`` or ``s3://bucket/prefix``.
    """

    def __init__(self, url: str) -> None:
        self.name, self.prefix = split_s3_url(url)
        self.url = f"s3://{self.name}/{self.prefix}".rstrip("/")

    @cached_property
    def _client(self) -> Any:
        import boto3

        return boto3.Session().client("s3", config=client_config(_CONCURRENCY))

    def _path(self, name: str) -> str:
        return f"{self.prefix}/{name}".lstrip("/")

    def get(self, name: str) -> tuple[bytes, str] | None:
        """Content and ETag of a small object, or None if there is none."""
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        # botocore itself repeats requests, but not the reading of a body that was cut off.
        retrying = Retrying(
            retry=retry_if_exception_type((HTTPClientError, IncompleteReadError)),
            wait=wait_random_exponential(multiplier=0.2, max=10),
            stop=stop_after_attempt(5),
            reraise=True,
        )
        with self._asking(name):
            return retrying(self._get_once, name)

    def _get_once(self, name: str) -> tuple[bytes, str] | None:
        try:
            answer = self._client.get_object(Bucket=self.name, Key=self._path(name))
        except self._client.exceptions.NoSuchKey:
            return None
        return answer["Body"].read(), answer["ETag"]

    def put_if(self, name: str, content: bytes, *, etag: str | None) -> bool:
        """Put a small object if it still has an ETag (None: if it still does not exist)."""
        from botocore.exceptions import ClientError

        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        with self._asking(name):
            try:
                self._client.put_object(
                    Bucket=self.name, Key=self._path(name), Body=content, **condition
                )
            except ClientError as error:
                # 412: it is another one now. 409: somebody is putting it. 404: it was deleted.
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 409, 412):
                    return False
                raise
        return True

    def list(self, prefix: str) -> Iterator[tuple[str, int, datetime]]:
        """Name, size in bytes and time of the objects whose name starts with a prefix."""
        root = self._path("")
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=self._path(prefix)
        )
        with self._asking(prefix):
            for page in pages:
                for entry in page.get("Contents", []):
                    name = entry["Key"].removeprefix(root)
                    yield name, entry["Size"], entry["LastModified"]

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; those that do not exist are no error."""
        for start in range(0, len(names), 1000):  # as many as one request may name
            batch = [{"Key": self._path(name)} for name in names[start : start + 1000]]
            with self._asking(names[start]):
                self._client.delete_objects(
                    Bucket=self.name, Delete={"Objects": batch, "Quiet": True}
                )

    def upload(self, files: Mapping[str, Path]) -> None:
        """Write objects from files."""
        with self._transfers() as manager:
            futures = {
                name: manager.upload(str(path), self.name, self._path(name))
                for name, path in files.items()
            }
            self._wait(futures)

    def download(self, files: Mapping[str, Path]) -> None:
        """Write files from objects.

        Raises
        ------
        MissingObjectError
            If an object does not exist.
        """
        for path in files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._transfers() as manager:
            futures = {
                name: manager.download(self.name, self._path(name), str(path))
                for name, path in files.items()
            }
            self._wait(futures)

    def zarr(self, prefix: str) -> "ObjectStore[Any]":
        """Zarr's view of a prefix, read-only."""
        from obstore.auth.boto3 import Boto3CredentialProvider
        from zarr.storage import ObjectStore

        with self._asking(prefix):
            store = byte_store(
                self._client,
                self.name,
                prefix=self._path(prefix),
                credential_provider=Boto3CredentialProvider(),
            )
        return ObjectStore(store, read_only=True)

    @contextmanager
    def _transfers(self) -> Iterator["TransferManager"]:
        from boto3.s3.transfer import TransferConfig, create_transfer_manager

        config = TransferConfig(max_concurrency=_CONCURRENCY, preferred_transfer_client="classic")
        manager = create_transfer_manager(self._client, config)
        with manager:  # an exception within cancels what is under way
            yield manager

    def _wait(self, futures: Mapping[str, "TransferFuture"]) -> None:
        from botocore.exceptions import ClientError

        for name, future in futures.items():
            with self._asking(name):
                try:
                    future.result()
                except ClientError as error:
                    if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                        raise MissingObjectError(name) from error
                    raise

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError, ValueError) as error:
            raise ArtifactError(
                f"The artifact store did not serve {self.url}/{name}: {reason(error)}.",
                next_step="check that NSD_STORAGE names the bucket, and boto3's settings for it "
                "(AWS_PROFILE or AWS_ACCESS_KEY_ID, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3).",
            ) from error
