"""Artifacts in a folder: ``<key>/`` holds the files, ``manifests/<key>.json`` makes them count."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nsd_pipeline.storage.keys import check_artifact_key, is_artifact_key
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Store, damaged, missing, replaced, sha256
from nsd_pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    import zarr


class LocalStore(Store):
    """Artifacts in a folder of this machine, or one that several machines share.

    To replace an artifact: its manifest goes, its folder is exchanged by renaming, the new
    manifest comes. So a manifest never stands beside files of another version.

    Parameters
    ----------
    folder
        Root of the store. Made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._root = folder.expanduser().absolute()
        self.url = str(self._root)
        self._workspace = Workspace(self._root / ".partial")
        self._intact: set[tuple[str, str]] = set()

    def find(self, key: str) -> Manifest | None:
        """Manifest of an artifact if it is there; see :meth:`Store.find`."""
        check_artifact_key(key)
        found = self._load(key)
        if found and not self._wrong_size(found):
            return found
        if not self._root.exists():
            return None
        with self._workspace.lock(key):  # It may have been in the middle of being replaced.
            found = self._load(key)
            wrong = found and self._wrong_size(found)
        if found and wrong:
            raise damaged(self.url, found, *wrong)
        return found

    def keys(self, prefix: str = "") -> list[str]:
        """Sorted keys of complete artifacts; see :meth:`Store.keys`."""
        manifests = self._root / "manifests"
        keys = (
            path.relative_to(manifests).as_posix().removesuffix(".json")
            for path in (manifests / prefix.rpartition("/")[0]).rglob("*.json")
        )
        wanted = (key for key in keys if key.startswith(prefix) and is_artifact_key(key))
        return sorted(key for key in wanted if self.manifest(key))

    def folder(self, key: str) -> Path:
        """Local folder with the complete, checked artifact; see :meth:`Store.folder`."""
        self._intact_manifest(key)
        return self._root / key

    def zarr(self, key: str) -> "zarr.Group":
        """Open an artifact that is a Zarr group; see :meth:`Store.zarr`."""
        from zarr.storage import LocalStore as ZarrLocalStore

        from nsd_pipeline.storage.zarr_guard import open_group

        manifest = self._intact_manifest(key)

        def check() -> None:
            # The earlier manifest goes before its files do: while it is there, so were they.
            if (now := self._load(key)) is None or now.created != manifest.created:
                raise replaced(self.url, manifest)

        return open_group(
            ZarrLocalStore(self._root / key, read_only=True),
            manifest.files.keys(),
            lambda name: damaged(self.url, manifest, name, "went missing while it was read"),
            check,
        )

    def _publish(self, manifest: Manifest, folder: Path) -> None:
        text = manifest.model_dump_json(indent=2) + "\n"
        # All that can fail for want of room is written before the earlier artifact goes.
        draft = folder.with_name("manifest.json")
        draft.write_text(text)
        target, record = self._root / manifest.key, self._record(manifest.key)
        target.parent.mkdir(parents=True, exist_ok=True)
        record.parent.mkdir(parents=True, exist_ok=True)
        with self._workspace.lock(manifest.key):
            record.unlink(missing_ok=True)
            if target.exists():
                target.rename(folder.with_name("superseded"))
            folder.rename(target)
            draft.rename(record)

    def _record(self, key: str) -> Path:
        return self._root / "manifests" / f"{key}.json"

    def _load(self, key: str) -> Manifest | None:
        try:
            content = self._record(key).read_bytes()
        except FileNotFoundError:
            return None
        return Manifest.parse(content, url=self.url, key=key, versioned=False)

    def _wrong_size(self, manifest: Manifest) -> tuple[str, str] | None:
        """Name the first file that is missing or of another size, and say so."""
        for name, record in manifest.files.items():
            try:
                n_bytes = (self._root / manifest.key / name).stat().st_size
            except FileNotFoundError:
                return name, "is missing"
            if n_bytes != record.bytes:
                return name, f"has {n_bytes} bytes instead of {record.bytes}"
        return None

    def _wrong_content(self, manifest: Manifest) -> tuple[str, str] | None:
        """Name the first file that is not as it was written, and say how."""
        wrong = self._wrong_size(manifest)
        if wrong:
            return wrong
        paths = [self._root / manifest.key / name for name in manifest.files]
        with ThreadPoolExecutor() as threads:
            for (name, record), found in zip(
                manifest.files.items(), threads.map(sha256, paths), strict=True
            ):
                if found != record.sha256:
                    return name, "has another SHA-256 than when it was written"
        return None

    def _intact_manifest(self, key: str) -> Manifest:
        """Manifest of an artifact whose files have been read and compared, once per process."""
        manifest = self._load(check_artifact_key(key))
        if manifest and self._is_intact(manifest):
            return manifest
        # Replaced meanwhile, or damaged: look again while nobody can replace it.
        if self._root.exists():
            with self._workspace.lock(key):
                manifest = self._load(key)
                if manifest and not self._is_intact(manifest):
                    name, damage = self._wrong_content(manifest) or ("", "")
                    # Else it would still count as up to date, and not be made again. In a store
                    # that may only be read, that is for its owner to do.
                    with suppress(OSError):
                        self._record(key).unlink()
                    raise damaged(self.url, manifest, name, damage)
        if manifest is None:
            raise missing(self.url, key)
        return manifest

    def _is_intact(self, manifest: Manifest) -> bool:
        version = (manifest.key, manifest.created.isoformat())
        if version in self._intact:
            return self._wrong_size(manifest) is None
        try:
            intact = self._wrong_content(manifest) is None
        except FileNotFoundError:
            return False
        if intact:
            self._intact.add(version)
        return intact
