"""A store as it was at one moment: one listing, and every manifest read once, many at a time.

For whoever looks at all of a store: asking it artifact by artifact would be two requests each on
S3, and again for every step that reads the artifact.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nsd_pipeline.errors import DamagedArtifactError
from nsd_pipeline.storage.damage import wrong_size
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.names import check_artifact_key
from nsd_pipeline.storage.store import Store, StoredFile

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

_Answer = TypeVar("_Answer")


class Snapshot(Store):
    """What a store held when this was made. Its artifacts' files are read from the store itself.

    `found` has every artifact by its key, in order: its manifest, or the error that says what is
    wrong; `recorded` every manifest that could be read, of damaged artifacts too; `listing` every
    file by its path below the root. `versioned` says whether every version of an artifact has a
    folder of its own.

    Only what the listing does not show to be whole is asked of the store again, because a writer
    may be in the middle of replacing that.
    """

    def __init__(self, store: Store) -> None:
        self._inner, self.url = store, store.url
        self._workspace, self.versioned = store._workspace, store._versioned
        self.recorded: dict[str, Manifest] = {}
        # Keys first: what is published meanwhile has its files before its manifest.
        keys = store.keys()
        self.listing = store.files()
        read = dict(zip(keys, store.at_once(self._read, keys), strict=True))
        self.found: dict[str, Manifest | DamagedArtifactError] = {
            key: each for key, each in read.items() if each is not None
        }
        self._keys = list(self.found)

    def _read(self, key: str) -> Manifest | DamagedArtifactError | None:
        try:
            manifest = self._inner._load(key)
            if manifest:
                self.recorded[key] = manifest
            if manifest is None or manifest.damage or self._wrong_size(manifest):
                manifest = self._inner.find(key)
        except DamagedArtifactError as error:
            return error
        return manifest

    def _wrong_size(self, manifest: Manifest) -> str | None:
        def size(name: str) -> int | None:
            found = self.listing.get(f"{manifest.location}/{name}")
            return found and found.n_bytes

        return wrong_size(manifest, size)

    @property
    def manifests(self) -> list[Manifest]:
        """Manifests of the artifacts that are whole, as far as their files' sizes tell."""
        return [each for each in self.found.values() if isinstance(each, Manifest)]

    def recorded_of(self, keys: Iterable[str]) -> list[Manifest]:
        """Manifests of artifacts, as far as they can be read."""
        return [self.recorded[key] for key in keys if key in self.recorded]

    def find(self, key: str) -> Manifest | None:
        """Manifest of an artifact if it was there; see :meth:`Store.find`."""
        found = self.found.get(key)
        if found is None:
            check_artifact_key(key)
        if isinstance(found, DamagedArtifactError):
            # Anew for each who asks: whoever catches it may add to it.
            raise DamagedArtifactError(
                found.problem, next_step=found.next_step, remake=found.remake
            )
        return found

    def at_once(self, ask: Callable[[str], _Answer], names: Sequence[str]) -> list[_Answer]:
        """Ask for each name, one after the other: there is nothing to wait for."""
        return [ask(name) for name in names]

    def keys(self, prefix: str = "") -> list[str]:
        """Sorted keys of artifacts, damaged ones too; see :meth:`Store.keys`."""
        first = bisect_left(self._keys, prefix)
        last = bisect_left(self._keys, f"{prefix}\x7f")  # after every character of a key
        return self._keys[first:last]

    def folder(self, key: str) -> Path:
        """Local folder with the artifact as it is now; see :meth:`Store.folder`."""
        return self._inner.folder(key)

    def files(self, folder: str = "") -> dict[str, StoredFile]:
        """Files as they are now; see :meth:`Store.files`."""
        return self._inner.files(folder)

    def digest(self, name: str) -> str | None:
        """SHA-256 of a file as it is now; see :meth:`Store.digest`."""
        return self._inner.digest(name)

    def remove(self, names: Sequence[str]) -> None:
        """Delete files of the store; see :meth:`Store.remove`."""
        self._inner.remove(names)

    def _zarr_files(self, manifest: Manifest) -> "ZarrStore":
        return self._inner._zarr_files(manifest)

    def _manifest_bytes(self, key: str) -> bytes | None:
        return self._inner._manifest_bytes(key)

    def _mark(self, manifest: Manifest, damage: str) -> None:
        self._inner._mark(manifest, damage)

    def _publish(self, manifest: Manifest, folder: Path) -> None:
        self._inner._publish(manifest, folder)
