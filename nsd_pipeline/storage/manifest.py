"""What an artifact is, what made it and from what: the record that makes it complete."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class FileRecord(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(ge=0)
    sha256: str


class Manifest(BaseModel):
    """Record of one complete artifact, written when all of its files are in place.

    Attributes
    ----------
    key
        Name of the artifact in its store.
    asset, partition
        What was materialized; an unpartitioned asset has the partition None.
    fingerprint
        See :func:`fingerprint`.
    code_version
        Version of the code that made it.
    created
        When it was published, UTC.
    inputs
        Version of everything that it was made from, by name.
    config
        Settings that it was made with.
    files
        Every file by its path within the artifact.
    metadata
        Whatever the asset wants to remember.
    version
        Folder of the files below the key, in stores that keep versions apart; else empty.
    """

    model_config = ConfigDict(extra="forbid")

    key: str
    asset: str
    partition: str | None
    fingerprint: str
    code_version: str
    created: AwareDatetime
    inputs: dict[str, str]
    config: dict[str, Any]
    files: dict[str, FileRecord]
    metadata: dict[str, Any]
    version: str = ""

    @property
    def location(self) -> str:
        """Path of the folder with the files, below the store's root."""
        return f"{self.key}/{self.version}".rstrip("/")

    @property
    def n_bytes(self) -> int:
        """Size of all files in bytes."""
        return sum(record.bytes for record in self.files.values())


def fingerprint(
    asset: str, code_version: str, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> str:
    """SHA-256 of all that determines an artifact's content; equal ones need not be made twice.

    Parameters
    ----------
    asset, code_version
        What makes the artifact.
    config
        Its settings, as JSON can hold them.
    inputs
        Version of everything that it is made from, by name.
    """
    content = json.dumps([asset, code_version, config, inputs], sort_keys=True, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()
