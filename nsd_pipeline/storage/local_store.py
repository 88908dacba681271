"""Artifacts in a folder: ``<key>/`` holds the files, ``manifests/<key>.json`` makes them count."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from nsd_pipeline.errors import DamagedArtifactError
from nsd_pipeline.storage.damage import sha256_of, wrong_content, wrong_size_in
from nsd_pipeline.storage.disk import Workspace, exchange, make_folder, sync, sync_all, sync_tree
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.names import check_artifact_key, is_artifact_key
from nsd_pipeline.storage.store import Store, StoredFile

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore


class LocalStore(Store):
    """Artifacts in a folder of this machine, or one that several machines share.

    The folder is made when something is written. An artifact is published by one rename, that of
    its manifest. By then its files lie, synced, in a place for what comes next; right after, that
    folder and the earlier one are exchanged. Whoever finds something in that place waits until the
    writer is done, or does the rest for one that died. So an artifact is the earlier one or the new
    one, and never absent, torn or mixed.
    """

    _versioned = False

    def __init__(self, folder: Path) -> None:
        self._root = folder.absolute()
        self.url = str(self._root)
        self._workspace = Workspace(self._root / ".partial")
        self._intact: set[tuple[str, str]] = set()

    def find(self, key: str) -> Manifest | None:
        """Manifest of an artifact if it is there; see :meth:`Store.find`."""
        check_artifact_key(key)
        next_one = self._workspace.next(key)
        found = self._load(key)
        if not next_one.exists():
            if found and not self._damage(found):
                return found
            if not found and not (self._root / key).exists():
                return None
        with self._workspace.lock(key):  # It may have been in the middle of being replaced.
            self._settle(key)
            found = self._load(key)
            damage = found and self._damage(found)
        if found and damage:
            raise self._damaged(found, damage)
        if not found and self._has_files_only(key):
            raise DamagedArtifactError(
                f"The artifact {self.url}/{key} is damaged: its manifest {self._record(key)} is"
                " missing.",
                next_step="make it again, or delete the folder if it is no longer wanted.",
            )
        return found

    def keys(self, prefix: str = "") -> list[str]:
        """Sorted keys of artifacts, damaged ones too; see :meth:`Store.keys`."""
        keys = self._keys_below(prefix.rpartition("/")[0])
        return sorted(key for key in keys if key.startswith(prefix) and is_artifact_key(key))

    def files(self, folder: str = "") -> dict[str, StoredFile]:
        """Every file below a folder; see :meth:`Store.files`."""
        return dict(_files_below(f"{self._root / folder}", f"{folder}/" if folder else ""))

    def digest(self, name: str) -> str | None:
        """SHA-256 of a file as it is now; see :meth:`Store.digest`."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return sha256_of(self._root / name)
        return None

    def remove(self, names: Sequence[str]) -> None:
        """Delete files, and the folders within artifacts, and of them, that are empty then."""
        for name in names:
            (self._root / name).unlink(missing_ok=True)
        for folder in sorted({Path(name).parent for name in names}, reverse=True):
            for each in (folder, *folder.parents[:-1]):
                # Not the folders that hold artifacts: another run may be about to put one there.
                if each.parts[0] == "manifests" or (self._root / "manifests" / each).is_dir():
                    break
                with suppress(OSError):  # it is not empty
                    (self._root / each).rmdir()

    def folder(self, key: str) -> Path:
        """Local folder with the complete, checked artifact; see :meth:`Store.folder`."""
        manifest = self.find(key)
        if manifest and not self._is_intact(manifest):
            # Replaced meanwhile, or damaged: look again while nobody can replace it.
            with self._workspace.lock(key):
                self._settle(key)
                manifest = self._load(key)
                damage = manifest and (
                    self._damage(manifest) or wrong_content(self._root / key, manifest)
                )
                if manifest and damage:
                    self._mark(manifest, damage)
                    raise self._damaged(manifest, damage)
        if manifest is None:
            raise self._missing(key)
        return self._root / key

    def _zarr_files(self, manifest: Manifest) -> "ZarrStore":
        from zarr.storage import LocalStore as ZarrLocalStore

        return ZarrLocalStore(self._root / manifest.key, read_only=True)

    def _keep(self, folder: Path) -> None:
        sync_tree(folder)

    def _publish(self, manifest: Manifest, folder: Path) -> None:
        key = manifest.key
        # All that can fail for want of room is written before anything is replaced.
        draft = folder.with_name("manifest.json")
        draft.write_text(manifest.to_json())
        target, record, next_one = self._root / key, self._record(key), self._workspace.next(key)
        # The manifest's folder first: a folder below one that has none would look like an artifact.
        for path in (record, target, next_one):
            make_folder(path.parent)
        with self._workspace.lock(key):
            self._settle(key)  # what a writer that died has left
            folder.rename(next_one)
            sync_all([draft, next_one.parent])
            draft.replace(record)  # This publishes the artifact.
            sync(record.parent)
            self._put_in_place(key)
            if next_one.exists():
                next_one.rename(folder.with_name("superseded"))

    def _put_in_place(self, key: str) -> None:
        next_one, target = self._workspace.next(key), self._root / key
        if target.exists():
            exchange(next_one, target, aside=self._workspace.aside(key))
        else:
            next_one.rename(target)
        # Not synced: where a power cut undoes it, whoever looks next does it again.

    def _settle(self, key: str) -> None:
        """Finish what a writer that died has left, if any. To be called with the lock held."""
        next_one, aside = self._workspace.next(key), self._workspace.aside(key)
        manifest = None
        with suppress(DamagedArtifactError):
            manifest = self._load(key)
        with suppress(PermissionError):  # then it is for somebody else to do
            # If it is another one, its writer died before it was published or after it was put in
            # its place.
            if manifest and next_one.is_dir() and not wrong_content(next_one, manifest):
                self._put_in_place(key)
            for rest in (next_one, aside):
                shutil.rmtree(rest, ignore_errors=True)

    def _record(self, key: str) -> Path:
        return self._root / "manifests" / f"{key}.json"

    def _manifest_bytes(self, key: str) -> bytes | None:
        try:
            return self._record(key).read_bytes()
        except FileNotFoundError:
            return None

    def _keys_below(self, folder: str) -> Iterator[str]:
        """Keys below a folder of the store: those with a manifest, and those that have lost it."""
        # Folders come first: what is published meanwhile has its manifest before its place.
        folders = _names(self._root / folder, folders=True)
        records = {
            name.removesuffix(".json")
            for name in _names(self._root / "manifests" / folder, folders=False)
            if name.endswith(".json")
        }
        shelves = _names(self._root / "manifests" / folder, folders=True)
        # In the root, and below an artifact, there may be folders that are no artifacts.
        known = bool(folder) and (self._root / "manifests" / folder).is_dir()
        lost = folders - shelves if known else set()
        start = f"{folder}/" if folder else ""
        yield from (start + name for name in records | lost)
        for name in shelves:
            yield from self._keys_below(start + name)

    def _is_taken(self, key: str) -> bool:
        # Or what is put below it would hide that it has lost its manifest.
        return super()._is_taken(key) or ("/" in key and self._has_files_only(key))

    def _has_files_only(self, key: str) -> bool:
        folder, shelf = self._root / key, self._root / "manifests" / key
        return folder.is_dir() and not shelf.is_dir() and any(folder.iterdir())

    def _damage(self, manifest: Manifest) -> str | None:
        """What is known or seen at a glance to be wrong with an artifact's files."""
        return manifest.damage or wrong_size_in(self._root / manifest.key, manifest)

    def _mark(self, manifest: Manifest, damage: str) -> None:
        marked = manifest.model_copy(update={"damage": damage})
        with suppress(OSError), self._workspace.draft() as area:
            draft = area / "manifest.json"
            draft.write_text(marked.to_json())
            draft.replace(self._record(manifest.key))

    def _is_intact(self, manifest: Manifest) -> bool:
        """Whether the files are as they were written, compared in full once per process."""
        version = (manifest.key, manifest.created.isoformat())
        if version in self._intact:
            return self._damage(manifest) is None
        try:
            intact = wrong_content(self._root / manifest.key, manifest) is None
        except FileNotFoundError:
            return False
        if intact:
            self._intact.add(version)
        return intact


def _files_below(folder: str, start: str) -> Iterator[tuple[str, StoredFile]]:
    """Files below a folder of the store; those that start with a dot are none of an artifact's."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(entry.path, f"{start}{entry.name}/")
            else:
                status = entry.stat(follow_symlinks=False)
                written = datetime.fromtimestamp(status.st_mtime, UTC)
                yield start + entry.name, StoredFile(status.st_size, written)


def _names(folder: Path, *, folders: bool) -> set[str]:
    """Names of the folders, or of the files, in a folder; none if it is not there."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_dir() == folders}
    except FileNotFoundError:
        return set()
