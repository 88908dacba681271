"""Which sessions are still to be done: missing from the store, or made from what has changed."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

from nsd_pipeline import partitions
from nsd_pipeline.assets import keys
from nsd_pipeline.nsd import layout
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.store import Store

SESSION_ASSETS = ("betas", "events", "fsaverage_events", "fsaverage5_betas")
"""What is made of one session, in order."""

_KEYS = {
    "betas": keys.betas,
    "events": keys.events,
    "fsaverage_events": keys.fsaverage_events,
    "fsaverage5_betas": keys.fsaverage5_betas,
}
_SPACE: layout.Space = "fsaverage"
_THREADS = 16


@dataclass(frozen=True)
class Backlog:
    """Sessions sorted by what is to be done about them, each list in order.

    Parameters
    ----------
    missing
        Sessions that the store lacks something of.
    stale
        Sessions whose artifacts were made from other files or by another version of the code.
    up_to_date
        Sessions of which nothing would be redone.
    unavailable
        Sessions whose betas the source does not have.
    """

    missing: list[str]
    stale: list[str]
    up_to_date: list[str]
    unavailable: list[str]

    @property
    def to_do(self) -> list[str]:
        """Sessions to prepare, in order."""
        return sorted(self.missing + self.stale)

    def __str__(self) -> str:
        counts = {
            "missing": self.missing,
            "stale": self.stale,
            "up to date": self.up_to_date,
            "not on the source": self.unavailable,
        }
        return ", ".join(f"{len(found)} {what}" for what, found in counts.items() if found)


def find_backlog(
    source: Source, store: Store, sessions: Sequence[str], code_versions: Mapping[str, str]
) -> Backlog:
    """Sort sessions by what is to be done about them.

    Nothing is downloaded: the store's manifests are compared with each other, with the code's
    versions and with the ETags of the source's files.

    Parameters
    ----------
    sessions
        Session keys.
    code_versions
        Version of the code of every asset, by its name.

    Raises
    ------
    SourceError
        If the source does not answer, or no longer has a file of the experiment's design.
    """
    design = store.manifest(keys.EXPERIMENT_DESIGN)
    design_is_current = design is not None and _is_current(source, design, {}, code_versions)

    subjects = {layout.parse_session_key(session)[0] for session in sessions}
    on_source = {
        key
        for subject in subjects
        # As a folder, so that one which is a link to a disk that is away is an error.
        for key in source.list(f"{layout.betas_folder(subject, _SPACE)}/")
    }

    def state_of(session: str) -> str:
        if not on_source.issuperset(layout.betas_keys(*layout.parse_session_key(session), _SPACE)):
            return "unavailable"
        made: dict[str, Manifest] = {}
        for asset, key in _KEYS.items():
            manifest = store.manifest(key(session))
            if manifest is None:
                return "missing"
            made[asset] = manifest
        if design is None or not design_is_current:
            return "stale"
        upstream = made | {keys.EXPERIMENT_DESIGN: design}
        current = all(
            _is_current(source, manifest, upstream, code_versions) for manifest in made.values()
        )
        return "up_to_date" if current else "stale"

    with ThreadPoolExecutor(_THREADS) as pool:
        states = list(pool.map(state_of, sessions))
    found = sorted(zip(sessions, states, strict=True))
    return Backlog(
        **{
            state: [session for session, each in found if each == state]
            for state in ("missing", "stale", "up_to_date", "unavailable")
        }
    )


def _is_current(
    source: Source,
    manifest: Manifest,
    upstream: Mapping[str, Manifest],
    code_versions: Mapping[str, str],
) -> bool:
    """Whether the code and everything that an artifact was made from are what they are now.

    An input is either another asset, by its name, or a file of the source, by its key.
    """
    if manifest.code_version != code_versions[manifest.asset]:
        return False
    for name, made_from in manifest.inputs.items():
        if name in upstream:
            now = upstream[name].fingerprint
        elif name in code_versions:
            continue  # an operator from a space that somebody chose by hand: left to them
        else:
            now = source.describe(name).etag
        if now != made_from:
            return False
    return True


def ranges(sessions: Sequence[str], at_most: int) -> Iterator[tuple[str, str]]:
    """First and last session of runs without gaps, of a limited length, of one subject each.

    Parameters
    ----------
    sessions
        Session keys in order.
    at_most
        Sessions in a range.
    """
    position = {session: index for index, session in enumerate(partitions.SESSIONS)}

    def stretch(numbered: tuple[int, str]) -> tuple[str, int]:
        # Along a stretch without gaps, position and count grow alike.
        count, session = numbered
        return layout.parse_session_key(session)[0], position[session] - count

    for _, together in groupby(enumerate(sessions), key=stretch):
        stretch_keys = [session for _, session in together]
        for start in range(0, len(stretch_keys), at_most):
            part = stretch_keys[start : start + at_most]
            yield part[0], part[-1]
