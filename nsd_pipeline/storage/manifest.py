"""What an artifact is, what made it and from what: the record that makes it complete.

A manifest may come from a bucket that others write to, and what it says becomes paths and commands
in messages: so every such field is checked where it is read, here.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)

from nsd_pipeline.errors import DamagedArtifactError, Remake
from nsd_pipeline.storage.names import is_component, is_inner_path


def _is(test: Callable[[str], bool], what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not test(text):
            raise ValueError(f"{text!r} is not {what}")
        return text

    return AfterValidator(check)


_InnerPath = Annotated[str, _is(is_inner_path, "a path within the artifact")]
_Component = Annotated[str, _is(is_component, "a plain name")]


class FileRecord(BaseModel):
    """One file of an artifact: its size, and what its content is compared with.

    `sha256` is compared when a file is used as a whole, and `crc32` at every reading of a part of a
    large artifact. Earlier versions of the code did not write the second.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    crc32: int | None = Field(default=None, ge=0, lt=2**32)


def _files_are_no_folders(files: dict[str, FileRecord]) -> dict[str, FileRecord]:
    # By their text: as paths, this took most of the time that a manifest takes.
    folders = {each for name in files for each in accumulate(name.split("/")[:-1], "{}/{}".format)}
    if both := folders & files.keys():
        raise ValueError(f"{min(both)!r} is a file and a folder")
    return files


class Manifest(BaseModel):
    """Record of one complete artifact, written when all of its files are in place.

    `key` is its name in the store, `asset` and `partition` what it is an artifact of.
    """

    model_config = ConfigDict(extra="forbid")

    key: str
    asset: _Component
    partition: _Component | None
    """None where there is only one."""
    fingerprint: str
    code_version: str
    created: AwareDatetime
    """When it was published, UTC."""
    inputs: dict[str, str]
    """Version of everything that it was made from, by name."""
    config: dict[str, Any]
    """Settings that it was made with."""
    files: Annotated[dict[_InnerPath, FileRecord], AfterValidator(_files_are_no_folders)]
    """Every file by its path within the artifact."""
    metadata: dict[str, Any]
    """Whatever the asset wants to remember."""
    version: _Component | Annotated[str, Field(max_length=0)] = ""
    """Folder of the files below the key, in stores that keep versions apart; else empty."""
    damage: Annotated[str, _is(lambda text: not text or text.isprintable(), "plain text")] = ""
    """What was found wrong with the files when somebody read them; else empty."""

    @classmethod
    def parse(cls, content: bytes, *, url: str, key: str, versioned: bool) -> "Manifest":
        """Read the JSON that was found for an artifact of the store at `url`, whoever wrote it.

        A `versioned` store keeps versions apart, so that the manifest must name one. A
        DamagedArtifactError if it is not a manifest, or that of another artifact, or if a path or
        name in it is none that we would write. It tells the field.
        """
        try:
            found = cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            reason = first["msg"].removeprefix("Value error, ")
            raise _refused(url, key, f"field {field!r}: {reason}" if field else reason) from error
        if found.key != key:
            raise _refused(url, key, f"field 'key': it is that of {found.key!r}")
        if versioned and not found.version:
            remake = Remake(found.asset, found.partition)
            raise _refused(url, key, "field 'version': it names no folder", remake)
        return found

    def to_json(self) -> str:
        """Text of the manifest, as :meth:`parse` reads it."""
        # Without what is nearly always empty: older readers know no such field.
        return self.model_dump_json(indent=2, exclude=None if self.damage else {"damage"}) + "\n"

    @property
    def location(self) -> str:
        """Path of the folder with the files, below the store's root."""
        return f"{self.key}/{self.version}".rstrip("/")

    @property
    def n_bytes(self) -> int:
        """Size of all files in bytes."""
        return sum(record.bytes for record in self.files.values())


def _refused(url: str, key: str, reason: str, remake: Remake | None = None) -> DamagedArtifactError:
    asset = key.partition("/")[0].removesuffix(".zarr")
    return DamagedArtifactError(
        f"The artifact {url}/{key} is damaged: its manifest {url}/manifests/{key}.json is not one"
        f" that could be used ({reason}).",
        next_step=f"make {asset} of this partition again; if you did not write to this store"
        " yourself, ask who did.",
        remake=remake,
    )


def fingerprint(
    asset: str, code_version: str, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> str:
    """SHA-256 of all that determines an artifact's content; equal ones need not be made twice.

    As in a :class:`Manifest`; the settings (`config`) are of JSON's types.
    """
    content = json.dumps([asset, code_version, config, inputs], sort_keys=True, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()
