"""Artifacts on S3: files below ``<key>/<version>/``, and a manifest that names the version.

Nothing on S3 can be renamed, and nothing but a single object can be exchanged at once: here that is
the manifest, ``manifests/<key>.json``. A version's files are written first, once, and never change.
Then the manifest is put, on condition that it is still the one that was seen before (where a server
knows no conditions, it is looked up just before: ``s3_bucket``). Then the superseded version is
deleted. So a manifest always names a version that is whole, whoever else writes, and a reader whose
version is superseded finds files gone, never mixed.
"""

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from nsd_pipeline.errors import ArtifactError, DamagedArtifactError
from nsd_pipeline.storage.damage import wrong_content, wrong_size
from nsd_pipeline.storage.disk import Workspace, room_for
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.names import check_artifact_key, is_artifact_key, user_folder
from nsd_pipeline.storage.s3_bucket import Bucket, MissingObjectError
from nsd_pipeline.storage.store import ABANDONED, Store, StoredFile

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

_log = logging.getLogger(__name__)


class S3Store(Store):
    """Artifacts below a prefix of a bucket, with a local cache of those that were read as files.

    boto3's own environment variables and files give credentials, region and endpoint. The cache is
    a local folder for downloaded versions and unfinished work, by default that of the XDG base
    directory specification. An NsdError if the URL names no bucket.
    """

    _versioned = True

    def __init__(self, url: str, *, cache: Path | None = None) -> None:
        self._bucket = Bucket(url)
        self.url = self._bucket.url
        self._cache = (cache or user_folder("XDG_CACHE_HOME", ".cache")) / self.url.removeprefix(
            "s3://"
        )
        self._workspace = Workspace(self._cache / ".partial")
        self._intact: set[Path] = set()

    def find(self, key: str) -> Manifest | None:
        """Manifest of an artifact if it is there; see :meth:`Store.find`."""
        failure = None
        for found in self._manifests(key):
            damage = found.damage or self._wrong_size(found)
            if damage is None:
                return found
            failure = self._damaged(found, damage)
        if failure:
            raise failure
        return None

    def keys(self, prefix: str = "") -> list[str]:
        """Sorted keys of artifacts, damaged ones too; see :meth:`Store.keys`.

        The manifest alone counts, so that many artifacts are a single request.
        """
        root = "manifests/"
        names = (name for name, _, _ in self._bucket.list(root + prefix) if name.endswith(".json"))
        keys = (name.removeprefix(root).removesuffix(".json") for name in names)
        return sorted(filter(is_artifact_key, keys))

    def files(self, folder: str = "") -> dict[str, StoredFile]:
        """Every object below a folder; see :meth:`Store.files`."""
        listed = self._bucket.list(f"{folder}/" if folder else "")
        return {name: StoredFile(n_bytes, written) for name, n_bytes, written in listed}

    def digest(self, name: str) -> str | None:
        """SHA-256 of an object as it is now; see :meth:`Store.digest`."""
        return self._bucket.digest(name)

    def remove(self, names: Sequence[str]) -> None:
        """Delete objects; see :meth:`Store.remove`."""
        self._bucket.delete(names)

    def folder(self, key: str) -> Path:
        """Local folder with the complete, checked artifact; see :meth:`Store.folder`.

        It is downloaded when this machine has not got this version yet.
        """
        failure = None
        for found in self._manifests(key):
            folder = self._cache / key / found.version
            with self._workspace.lock(key):
                damage = None if self._is_intact(folder, found) else self._download(found, folder)
            if damage is None:
                os.utime(folder)
                self._forget_others(folder)
                return folder
            self._mark(found, damage)
            failure = self._damaged(found, damage)
        raise failure or self._missing(key)

    def _zarr_files(self, manifest: Manifest) -> "ZarrStore":
        return self._bucket.zarr(f"{manifest.location}/")

    def _manifest_bytes(self, key: str) -> bytes | None:
        return self._bucket.read(_record(check_artifact_key(key)))

    def _manifests(self, key: str) -> Iterator[Manifest]:
        """Yield the manifest as it is, and again whenever another version has taken its place."""
        seen = None
        while (found := self._load(key)) and found.version != seen:
            seen = found.version
            yield found

    def _mark(self, manifest: Manifest, damage: str) -> None:
        marked = manifest.model_copy(update={"damage": damage}).to_json().encode()
        record = _record(manifest.key)
        with suppress(ArtifactError):  # whoever may only read leaves it to those who may write
            current = self._bucket.get(record)
            if current and self._parse(manifest.key, current[0]).version == manifest.version:
                self._bucket.put_if(record, marked, etag=current[1])

    def _wrong_size(self, manifest: Manifest) -> str | None:
        """Name the first file that is missing or of another size, and say so."""
        root = f"{manifest.location}/"
        sizes = {name.removeprefix(root): n_bytes for name, n_bytes, _ in self._bucket.list(root)}
        return wrong_size(manifest, sizes.get)

    def _prepare_writing(self) -> None:
        self._bucket.probe()

    def _publish(self, manifest: Manifest, folder: Path) -> None:
        key = manifest.key
        version = f"{manifest.created:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        manifest = manifest.model_copy(update={"version": version})
        root = f"{manifest.location}/"
        try:
            self._bucket.upload({root + name: folder / name for name in manifest.files})
            superseded = self._exchange(manifest)
        except BaseException:
            self._withdraw(manifest)
            raise
        cached = self._cache / key / version
        cached.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(cached)
        self._intact.add(cached)
        abandoned = datetime.now(UTC) - ABANDONED
        try:  # to delete the superseded version, and those that writers left when they died
            self._delete_versions(
                key,
                lambda other, written: (
                    other != version and (other == superseded or written < abandoned)
                ),
            )
        except ArtifactError as error:
            _log.warning("%s/%s: superseded files were left behind. %s", self.url, key, error)

    def _exchange(self, manifest: Manifest) -> str | None:
        """Put a manifest in place of whatever is there; return the version that it superseded."""
        content = manifest.to_json().encode()
        record = _record(manifest.key)
        superseded = None
        while True:
            current = self._bucket.get(record)
            if current and current[0] == content:  # the answer was lost, and the next one was "no"
                return superseded
            superseded = None
            if current:
                with suppress(DamagedArtifactError):  # whose version cannot be known
                    superseded = self._parse(manifest.key, current[0]).version
            if self._bucket.put_if(record, content, etag=current[1] if current else None):
                return superseded

    def _withdraw(self, manifest: Manifest) -> None:
        """Delete the files of a version that was not published, as far as that can be known."""
        with suppress(ArtifactError):  # the error that led here is the one to tell
            current = self._load(manifest.key)
            if current is None or current.version != manifest.version:
                self._delete_versions(manifest.key, lambda version, _: version == manifest.version)

    def _delete_versions(self, key: str, chosen: Callable[[str, datetime], bool]) -> None:
        root = f"{key}/"
        self._bucket.delete(
            [
                name
                for name, _, written in self._bucket.list(root)
                if chosen(name.removeprefix(root).partition("/")[0], written)
            ]
        )

    def _is_intact(self, folder: Path, manifest: Manifest) -> bool:
        """Whether the cache has a version, compared in full once per process."""
        if not folder.is_dir():
            return False
        if folder not in self._intact and wrong_content(folder, manifest) is None:
            self._intact.add(folder)
        return folder in self._intact

    def _download(self, manifest: Manifest, folder: Path) -> str | None:
        """Fetch a version into the cache; name the first file that is not as written, if any."""
        wrong, root = None, f"{manifest.location}/"
        for _ in range(2):  # or what only arrived damaged would be marked as being so
            shutil.rmtree(folder, ignore_errors=True)
            with self._workspace.draft() as area, room_for(self._workspace.place, manifest.n_bytes):
                files = area / "files"
                files.mkdir()
                try:
                    self._bucket.download({root + name: files / name for name in manifest.files})
                except MissingObjectError as error:
                    wrong = f"its file {str(error).removeprefix(root)} is missing"
                    continue
                wrong = wrong_content(files, manifest)
                if wrong is None:
                    folder.parent.mkdir(parents=True, exist_ok=True)
                    files.rename(folder)
                    self._intact.add(folder)
                    break
        return wrong

    def _forget_others(self, folder: Path) -> None:
        """Drop cached versions that a newer one superseded, unless somebody may still read them."""
        abandoned = (datetime.now(UTC) - ABANDONED).timestamp()
        for other in folder.parent.iterdir():
            if other != folder and other.stat().st_mtime < abandoned:
                shutil.rmtree(other, ignore_errors=True)


def _record(key: str) -> str:
    return f"manifests/{key}.json"
