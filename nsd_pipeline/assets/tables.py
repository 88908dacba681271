"""Event tables of many sessions, read back from the store."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nsd_pipeline import partitions
from nsd_pipeline.assets import keys
from nsd_pipeline.events import read_events
from nsd_pipeline.storage.store import Store


def sessions_with(store: Store, asset: str, subjects: tuple[str, ...]) -> list[str]:
    """Sessions of some subjects that have an artifact of an asset, in order.

    A damaged one is among them, so that whoever reads it is told. What else lies in these folders,
    such as somebody's copy, is no session.
    """
    found = {key for subject in subjects for key in store.keys(f"{asset}/{subject}/")}
    return [each for each in partitions.SESSIONS if keys.session_artifact(asset, each) in found]


def read_sessions(
    store: Store, sessions: list[str], key: Callable[[str], str] = keys.fsaverage_events
) -> pd.DataFrame:
    """Events of several sessions, one after the other: the filtered ones, or those of a key."""

    def read(session: str) -> pd.DataFrame:
        return read_events(store.folder(key(session)) / "events.parquet")

    # On S3 each is fetched where this machine has not got it.
    with ThreadPoolExecutor(max_workers=16) as threads:
        return pd.concat(threads.map(read, sessions), ignore_index=True)


def images_seen(store: Store, stimulus_set: str) -> NDArray[np.int64]:
    """Images of a stimulus set that the sessions in the store showed: ascending, each once."""
    sessions = sessions_with(
        store, "fsaverage_events", partitions.subjects_of_stimulus_set(stimulus_set)
    )
    if not sessions:
        return np.empty(0, np.int64)
    events = read_sessions(store, sessions)
    images = events[events["type"] == "Image"]
    shared = images["shared"] == (stimulus_set == partitions.SHARED)
    return np.unique(images.loc[shared, "image_id"].to_numpy(np.int64))
