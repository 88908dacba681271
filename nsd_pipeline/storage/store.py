"""Where artifacts live: whole or not at all, each with a manifest that says what made it."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeVar

from nsd_pipeline.errors import ArtifactError, DamagedArtifactError, Remake
from nsd_pipeline.storage.disk import Workspace, room_for
from nsd_pipeline.storage.manifest import FileRecord, Manifest, fingerprint
from nsd_pipeline.storage.names import check_artifact_key, is_inner_path

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store as ZarrStore

__all__ = ["Draft", "Store", "StoredFile", "fingerprint"]

ABANDONED: Final = timedelta(days=1)
"""Age at which what no manifest names, on S3, belongs to no living writer or reader."""

_AT_ONCE: Final = 16

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Draft:
    """An artifact in the making.

    Its files are to be written to `folder`, which is gone when the writing ends; `metadata` is to
    be filled in with what the manifest shall remember, JSON values.
    """

    folder: Path
    metadata: dict[str, Any] = field(default_factory=dict)


class StoredFile(NamedTuple):
    """A file below a store's root: its size in bytes, and when it was written (UTC)."""

    n_bytes: int
    written: datetime


class Store(ABC):
    """Artifacts by their key.

    A key is a path such as ``events/subj01/ses07``. No key may be a folder of another one.
    """

    url: str
    """The root, as a person would write it."""
    _workspace: Workspace
    _versioned: ClassVar[bool]
    """Whether every version has a folder of its own, whose files go and never change."""

    def manifest(self, key: str) -> Manifest | None:
        """Manifest of an artifact that need not be made, else None: it is not there, or damaged.

        For whoever would make it. Whoever wants to read it asks :meth:`find`, or a damaged
        artifact would be left out without a word.
        """
        try:
            return self.find(key)
        except DamagedArtifactError as error:
            _log.warning("%s It does not count, and can be made again.", error.problem)
            return None

    @abstractmethod
    def find(self, key: str) -> Manifest | None:
        """Manifest of an artifact if it is there, else None.

        A DamagedArtifactError if it is there and damaged: its manifest cannot be used or is gone, a
        file is missing or of another size, or somebody who read it found another damage.
        """

    @abstractmethod
    def keys(self, prefix: str = "") -> list[str]:
        """Sorted keys of the artifacts that are there and start with a prefix, damaged ones too.

        One that is damaged is to be noticed by whoever reads it, not to be left out. To take an
        artifact away, :meth:`delete` it.
        """

    @abstractmethod
    def files(self, folder: str = "") -> dict[str, StoredFile]:
        """Every file below a folder of the store by its path from the root, by default all.

        Those of artifacts, their manifests, and what nothing names; not a local workspace's.
        """

    @abstractmethod
    def digest(self, name: str) -> str | None:
        """SHA-256 of a file below the root as it is now, or None if it is not there."""

    @abstractmethod
    def remove(self, names: Sequence[str]) -> None:
        """Delete files below the root; those that are not there are no error."""

    def delete(self, key: str) -> None:
        """Take an artifact away: first its manifest, so that it is never there in part."""
        with self._workspace.lock(check_artifact_key(key)):
            self.remove([f"manifests/{key}.json"])
            self.remove(list(self.files(key)))

    def remove_unnamed(self, key: str, names: Sequence[str]) -> None:
        """Delete files in an artifact's folder, but for those that its manifest names by now."""
        with self._workspace.lock(check_artifact_key(key)):
            now = self._load(key)
            own = {f"{now.location}/{name}" for name in now.files} if now else set()
            self.remove([name for name in names if name not in own])

    def mark_damaged(self, manifest: Manifest, damage: str) -> bool:
        """Write down what is wrong with an artifact: it is made again by whoever would make it.

        Whether it is marked now. It is not if it was replaced meanwhile, or may only be read.
        """
        with self._workspace.lock(manifest.key), suppress(DamagedArtifactError):
            now = self._load(manifest.key)
            if now is None or (now.created, now.version) != (manifest.created, manifest.version):
                return False
            self._mark(manifest, damage)
            now = self._load(manifest.key)
            return now is not None and bool(now.damage)
        return False

    @abstractmethod
    def folder(self, key: str) -> Path:
        """Local folder with the complete artifact, each file checked against its SHA-256.

        To be read at once: another run may replace the artifact. An ArtifactError if it is missing
        or damaged. A damaged one is marked, and made again by the next run that would make it.
        """

    def zarr(self, key: str) -> "zarr.Group":
        """Open an artifact that is a Zarr group, read-only.

        An ArtifactError if the artifact is missing or damaged, now or while it is being read: a
        missing chunk is an error, not a chunk of fill values. So is a chunk of another version, if
        another run replaces the artifact meanwhile.
        """
        from nsd_pipeline.storage.zarr_guard import open_group

        manifest = self.find(key)
        if manifest is None:
            raise self._missing(key)

        known: bytes | None = None

        def check() -> None:
            # The earlier manifest goes before its files do: while it is there, so were they.
            nonlocal known
            content = self._manifest_bytes(key)
            if content is not None and content == known:
                return  # Or every small file would wait for a manifest to be parsed.
            now = None if content is None else self._parse(key, content)
            if now is None or (now.created, now.version) != (manifest.created, manifest.version):
                raise ArtifactError(
                    f"The artifact {self.url}/{key} was replaced by another run while this one"
                    " read it.",
                    next_step="run this step again; it then reads the new one.",
                )
            known = content

        def damaged(what: str) -> DamagedArtifactError:
            with self._workspace.lock(key):
                check()
                self._mark(manifest, what)
            return self._damaged(manifest, what)

        files = self._zarr_files(manifest)
        return open_group(files, manifest.files, damaged, None if self._versioned else check)

    @abstractmethod
    def _zarr_files(self, manifest: Manifest) -> "ZarrStore":
        """Files of an artifact as Zarr reads them, read-only."""

    @abstractmethod
    def _manifest_bytes(self, key: str) -> bytes | None:
        """What the manifest is now, unread, or None if there is none."""

    def _load(self, key: str) -> Manifest | None:
        """Manifest as it is now, whatever became of the files, or None if there is none.

        A DamagedArtifactError if there is one that cannot be used.
        """
        content = self._manifest_bytes(key)
        return None if content is None else self._parse(key, content)

    def _parse(self, key: str, content: bytes) -> Manifest:
        return Manifest.parse(content, url=self.url, key=key, versioned=self._versioned)

    @abstractmethod
    def _mark(self, manifest: Manifest, damage: str) -> None:
        """Write down what is wrong with an artifact, or it would still count as up to date.

        In a store that may only be read, that is for its owner to do.
        """

    def _keep(self, folder: Path) -> None:  # noqa: B027 - a bucket needs nothing
        """Let all files of a draft outlast a power cut, where they are published by renaming."""

    @abstractmethod
    def _publish(self, manifest: Manifest, folder: Path) -> None:
        """Let an artifact appear, in place of an earlier one; the files may be moved away."""

    def at_once(self, ask: Callable[[str], _Answer], names: Sequence[str]) -> list[_Answer]:
        """Ask something for each name, many at a time: on S3 each is some requests. In order."""
        # Several to a task: in a folder, handing over a task takes as long as the answer.
        size = 1 + len(names) // (8 * _AT_ONCE)
        parts = [names[start : start + size] for start in range(0, len(names), size)]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            answers = threads.map(lambda part: [ask(name) for name in part], parts)
            return [each for answer in answers for each in answer]

    def alone(self, key: str) -> AbstractContextManager[bool]:
        """Let one process of this machine at a time make an artifact; says whether it waited.

        Two would share :meth:`scratch`, and take files away from each other.
        """
        return self._workspace.alone(check_artifact_key(key))

    def discard_outlived(self, key: str) -> None:
        """Forget partial work that outlived the artifact's appearance; see :class:`Workspace`."""
        self._workspace.discard_outlived(check_artifact_key(key))

    def scratch(self, key: str) -> Path:
        """Local folder for partial work on an artifact. Publishing the artifact discards it."""
        return self._workspace.scratch(check_artifact_key(key))

    @contextmanager
    def write(
        self,
        key: str,
        *,
        asset: str,
        partition: str | None,
        fingerprint: str,
        code_version: str,
        inputs: Mapping[str, str],
        config: Mapping[str, Any],
        expected_bytes: int = 0,
    ) -> Iterator[Draft]:
        """Write an artifact; it appears, whole, when the ``with`` block ends without an error.

        After an error nothing is left, and an earlier artifact of that key is as it was. Of two
        processes that write the same key at once, the later one's artifact stays. `asset` to
        `config` are the manifest's; `expected_bytes` is what the disk is checked for.

        A StorageFullError if the disk has no room; an ArtifactError if the key lies within another
        artifact or holds some, or if the draft holds links.
        """
        self._prepare_writing()
        self._check_nesting(check_artifact_key(key))
        with self._workspace.draft() as area, room_for(self._workspace.place, expected_bytes):
            draft = Draft(area / "files")
            draft.folder.mkdir()
            yield draft
            with ThreadPoolExecutor(1) as beside:
                # The disk writes while processors compute the checksums.
                kept = beside.submit(self._keep, draft.folder)
                files = _records(key, draft.folder)
                kept.result()
            manifest = Manifest(
                key=key,
                asset=asset,
                partition=partition,
                fingerprint=fingerprint,
                code_version=code_version,
                created=datetime.now(UTC),
                inputs=dict(inputs),
                config=dict(config),
                files=files,
                metadata=draft.metadata,
            )
            self._publish(manifest, draft.folder)
        self._workspace.discard_scratch(key)

    def _prepare_writing(self) -> None:  # noqa: B027 - a folder needs nothing
        """Find out what would fail only when an artifact has been made."""

    def _check_nesting(self, key: str) -> None:
        parts = key.split("/")
        above = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
        clashes = [other for other in above if self._is_taken(other)] or self.keys(f"{key}/")
        if clashes:
            raise ArtifactError(
                f"{self.url}/{key} cannot be an artifact, because {self.url}/{clashes[0]} is one.",
                next_step="give one of them another key; an artifact's folder is its own.",
            )

    def _is_taken(self, key: str) -> bool:
        try:
            return self._load(key) is not None
        except DamagedArtifactError:
            return True

    def _missing(self, key: str) -> ArtifactError:
        return ArtifactError(
            f"There is no complete artifact {self.url}/{key}.", next_step="make it first."
        )

    def _damaged(self, manifest: Manifest, damage: str) -> DamagedArtifactError:
        return DamagedArtifactError(
            f"The artifact {self.url}/{manifest.key} is damaged: {damage}.",
            next_step="make it again.",
            remake=Remake(manifest.asset, manifest.partition),
        )


def _records(key: str, folder: Path) -> dict[str, FileRecord]:
    paths = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ArtifactError(
                f"The draft of {key} holds a link, {name}.",
                next_step="write a file: an artifact must not depend on what lies outside of it.",
            )
        if not is_inner_path(name):
            raise ArtifactError(
                f"The draft of {key} holds {name!r}, which is no path on every system.",
                next_step="give it another name.",
            )
        if path.is_file():
            paths[name] = path
    with ThreadPoolExecutor() as threads:
        return dict(zip(paths, threads.map(_file_record, paths.values()), strict=True))


def _file_record(path: Path) -> FileRecord:
    from isal.isal_zlib import crc32

    sha, crc, n_bytes, buffer = hashlib.sha256(), 0, 0, bytearray(2**18)
    with path.open("rb", buffering=0) as file:
        while n_read := file.readinto(buffer):
            part = memoryview(buffer)[:n_read]
            sha.update(part)
            crc, n_bytes = crc32(part, crc), n_bytes + n_read
    return FileRecord(bytes=n_bytes, sha256=sha.hexdigest(), crc32=crc)
