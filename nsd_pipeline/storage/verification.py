"""What is wrong in a store, and what nobody needs: found by looking at all of it at once."""

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from nsd_pipeline.errors import DamagedArtifactError
from nsd_pipeline.storage.damage import other_content
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.snapshot import Snapshot
from nsd_pipeline.storage.store import ABANDONED, Store

_VERSION: Final = re.compile(r"(?P<key>.+?)/\d{8}T\d{6}-[0-9a-f]{8}/.+")
"""A file of a version of an artifact on S3: see `s3_store`."""


class Kind(StrEnum):
    """What can be said of an artifact, or of files that lie about."""

    DAMAGED = "damaged"
    INPUTS = "inputs"
    VERSION = "version"
    SUPERSEDED = "superseded"
    ORPHAN = "orphan"
    UNWANTED = "unwanted"


@dataclass(frozen=True)
class Finding:
    """Something that was found in a store.

    `key` is the artifact that it is about, or the folder; `what` says what is wrong with it, or why
    nobody needs it. `files` (by their path below the root), or the artifact as a `whole`, may go,
    and `n_bytes` would be free then.
    """

    kind: Kind
    key: str
    what: str
    next_step: str
    files: tuple[str, ...] = ()
    whole: bool = False
    n_bytes: int = 0


def damaged(snapshot: Snapshot) -> list[Finding]:
    """Artifacts that are not whole, without reading their files' content."""
    return [
        Finding(Kind.DAMAGED, key, found.problem, found.next_step)
        for key, found in snapshot.found.items()
        if isinstance(found, DamagedArtifactError)
    ]


def check_content(
    snapshot: Snapshot, progress: Callable[[int], object] = lambda _: None
) -> Iterator[tuple[Manifest, str]]:
    """Read every file of every artifact; yield what is not as it was written, and how.

    `progress` is called with the number of bytes that were read, after each file.
    """
    files = [
        (manifest, name, record)
        for manifest in snapshot.manifests
        for name, record in manifest.files.items()
    ]
    with ThreadPoolExecutor() as threads:
        digests = threads.map(lambda each: snapshot.digest(f"{each[0].location}/{each[1]}"), files)
        told: set[str] = set()
        for (manifest, name, record), digest in zip(files, digests, strict=True):
            progress(record.bytes)
            if digest == record.sha256 or manifest.key in told:
                continue
            told.add(manifest.key)
            yield manifest, f"its file {name} is missing" if digest is None else other_content(name)


def other_inputs(snapshot: Snapshot) -> list[Finding]:
    """Artifacts that were made from another version of an artifact than the one that is there.

    Files of the dataset among the inputs are not looked at. An input is known by its key, or by
    the name of what it is an artifact of.
    """
    there: dict[str, set[str]] = {}
    for manifest in snapshot.recorded.values():
        for name in (manifest.asset, manifest.key):
            there.setdefault(name, set()).add(manifest.fingerprint)
    return [
        Finding(
            Kind.INPUTS,
            manifest.key,
            f"it was made from {', '.join(names)} as it was before: that is another one now",
            "run the step again that makes it, to bring it up to date.",
        )
        for manifest in snapshot.manifests
        if (names := [n for n, made in manifest.inputs.items() if made not in there.get(n, {made})])
    ]


def unnamed_files(snapshot: Snapshot, now: datetime | None = None) -> list[Finding]:
    """Files within the folders of artifacts that no manifest names, by the artifact.

    What lies elsewhere in the store's folder is not ours. On S3, files younger than a day may
    be those of a writer that has not published yet, or be read by somebody: they are left out.
    """
    now = now or datetime.now(UTC)
    owned = {  # by an artifact, whole or not
        f"{manifest.location}/{name}"
        for manifest in snapshot.recorded.values()
        for name in manifest.files
    }
    unnamed: dict[tuple[Kind, str], list[str]] = {}
    for name, file in snapshot.listing.items():
        if name.startswith("manifests/") or name in owned:
            continue
        version = _VERSION.fullmatch(name) if snapshot.versioned else None
        key = version["key"] if version else _artifact_above(name, snapshot.found)
        if key is None or (snapshot.versioned and file.written > now - ABANDONED):
            continue
        if key not in snapshot.recorded and f"manifests/{key}.json" in snapshot.listing:
            continue  # its manifest cannot be read, so nobody knows which files are its own
        kind = Kind.SUPERSEDED if version and key in snapshot.recorded else Kind.ORPHAN
        unnamed.setdefault((kind, key), []).append(name)
    return [
        Finding(
            kind,
            key,
            f"{len(names)} files of an earlier version"
            if kind is Kind.SUPERSEDED
            else f"{len(names)} files that no manifest names",
            "`nsd prune` deletes them.",
            files=tuple(names),
            n_bytes=sum(snapshot.listing[name].n_bytes for name in names),
        )
        for (kind, key), names in sorted(unnamed.items())
    ]


def artifacts_below(snapshot: Snapshot, folder: str) -> list[Finding]:
    """Every artifact below a folder of the store, to be taken away."""
    sizes = dict.fromkeys(snapshot.keys(f"{folder}/"), 0)
    for name, file in snapshot.listing.items():
        if (key := _artifact_above(name, sizes)) is not None:
            sizes[key] += file.n_bytes
    return [
        Finding(Kind.UNWANTED, key, f"below {folder}", "", whole=True, n_bytes=n_bytes)
        for key, n_bytes in sizes.items()
    ]


def take_away(store: Store, finding: Finding) -> None:
    """Delete what a finding says that nobody needs."""
    if finding.whole:
        store.delete(finding.key)
    else:
        store.remove_unnamed(finding.key, finding.files)


def _artifact_above(name: str, keys: Mapping[str, object]) -> str | None:
    """Key of the artifact in whose folder a file lies, if any."""
    parts = name.split("/")
    above = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
    return next((key for key in above if key in keys), None)
