"""The data of a cohort: the artifacts that its model learns from, and what is read from them.

A preset is which data there are: one beta a trial, or a window of the time series that follows an
image. Split, target, model, loss, optimisation and metrics are the same code with the same defaults
for both. ``neuralbench`` with its defaults is the configuration that the reference publishes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.decoding.rows import Floats, Integers, Memory
from nsd_pipeline.decoding.trials import Trials, Windows, assemble_trials, by_session, place_windows
from nsd_pipeline.embeddings import describe_encoder, read_embeddings, same_encoder
from nsd_pipeline.embeddings.image_set import EMBEDDINGS_FILE
from nsd_pipeline.errors import ArtifactError, Remake
from nsd_pipeline.events import read_events
from nsd_pipeline.events.table import EVENTS_FILE
from nsd_pipeline.nsd.layout import N_SESSIONS, session_key
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Store
from nsd_pipeline.surface import SessionRows, series_layout

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """The artifacts that the model of a cohort is made from.

    `name` is a subject, or ``all``. `fmri` and `events` are the key in the store of each session's
    fMRI and of its table of events, by session key (``subj01_ses07``), in order; `embeddings` that
    of each stimulus set's embeddings, by the set's name; `inputs` the fingerprint of each of these
    artifacts, by its key. `space` is where the fMRI of all sessions came from, and `encoder` has
    the settings of the encoder that embedded all images, its name among them.
    """

    name: str
    fmri: Mapping[str, str]
    events: Mapping[str, str]
    embeddings: Mapping[str, str]
    inputs: Mapping[str, str]
    space: str
    encoder: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        name: str,
        *,
        fmri: Mapping[str, Manifest],
        events: Mapping[str, Manifest],
        embeddings: Mapping[str, Manifest],
    ) -> "Cohort":
        """Put a cohort together from the manifests of its artifacts, of which it has at least one.

        fMRI and events are by session, in order, and embeddings by stimulus set. An ArtifactError
        if the fMRI came from two spaces, or the embeddings are of two encoders.
        """
        made = (*fmri.values(), *events.values(), *embeddings.values())
        return cls(
            name=name,
            fmri={session: manifest.key for session, manifest in fmri.items()},
            events={session: manifest.key for session, manifest in events.items()},
            embeddings={each: manifest.key for each, manifest in embeddings.items()},
            inputs={manifest.key: manifest.fingerprint for manifest in made},
            space=_one_space(fmri),
            encoder=_one_encoder(embeddings),
        )

    @property
    def sessions(self) -> list[str]:
        """Keys of its sessions, in order."""
        return list(self.fmri)

    def require_space(self, wanted: str | None) -> None:
        """Make sure that the fMRI came from the space that is wanted, if any.

        An ArtifactError if it came from another one.
        """
        if wanted not in (None, self.space):
            raise ArtifactError(
                f"The fMRI of {self.name} came from the space {self.space}, but the model is to"
                f" learn from {wanted} (its setting `space`).",
                next_step=f"make the sessions in the space {wanted}, or leave `space` empty.",
            )

    def require_encoder(self, then: Mapping[str, Any], model: str) -> None:
        """Make sure that the images are embedded by the encoder that a model was trained for.

        `then` are the settings of that encoder, and `model` names the step that made the model. An
        ArtifactError if the images have been embedded by another one since.
        """
        if not same_encoder(self.encoder, then):
            raise ArtifactError(
                f"The model of {self.name} was trained on embeddings of {describe_encoder(then)},"
                f" but those in the store are now of {describe_encoder(self.encoder)}.",
                next_step=f"make {model} of {self.name} again, to train it on the new ones.",
                remake=Remake(model, self.name),
            )


def _one_space(fmri: Mapping[str, Manifest]) -> str:
    """Space that all sessions came from: a model would learn the difference between two."""
    spaces = {session: str(made.metadata.get("space", "")) for session, made in fmri.items()}
    first, *others = spaces
    for other in others:
        if spaces[other] != spaces[first]:
            raise ArtifactError(
                f"The fMRI of {first} came from {spaces[first]}, that of {other} from"
                f" {spaces[other]}.",
                next_step=f"make {fmri[first].asset}, and what it is made from, for both in the"
                " same space.",
            )
    return spaces[first]


def _one_encoder(embeddings: Mapping[str, Manifest]) -> Mapping[str, Any]:
    """Settings of the encoder of all stimulus sets, as it described itself."""
    first, *others = embeddings
    settings: Mapping[str, Any] = embeddings[first].metadata["encoder"]
    for other in others:
        another = embeddings[other].metadata["encoder"]
        if not same_encoder(settings, another):
            raise ArtifactError(
                f"The images of {first} were embedded by {describe_encoder(settings)}, those of"
                f" {other} by {describe_encoder(another)}.",
                next_step=f"make stimulus_embeddings of {first} and {other} with the same encoder:"
                " a model cannot learn from both.",
            )
    return settings


def sessions_with(store: Store, folder: str, subjects: Sequence[str]) -> list[str]:
    """Sessions of some subjects that have an artifact below a folder of the store, in order.

    A damaged one is among them, so that reading it is an error. What else lies in these folders,
    such as somebody's copy, is no session.
    """
    found = {key for subject in subjects for key in store.keys(f"{folder}/{subject}/")}
    return [
        session_key(subject, number)
        for subject, n_sessions in N_SESSIONS.items()
        if subject in subjects
        for number in range(1, n_sessions + 1)
        if f"{folder}/{session_key(subject, number).replace('_', '/')}" in found
    ]


def read_sessions(store: Store, keys: Sequence[str]) -> "pd.DataFrame":
    """Tables of events of several sessions, by their keys in the store, one after the other."""
    import pandas as pd

    tables = store.at_once(lambda key: read_events(store.folder(key) / EVENTS_FILE), keys)
    return pd.concat(tables, ignore_index=True)


def read_trials(
    store: Store, cohort: Cohort, config: TrainingConfig
) -> "tuple[pd.DataFrame, dict[str, int]]":
    """Image events of all of a cohort's sessions, in order, without those that lack fMRI.

    With them comes metadata of the model: samples of a window, and events left out.
    """
    events = read_sessions(store, list(cohort.events.values()))
    trials = events[events["type"] == "Image"].reset_index(drop=True)
    if not config.windowed:
        return trials, {}
    windows = _windows(store, cohort, trials, config)
    return windows.trials, {
        "time points": windows.n_times,
        "trials dropped (window beyond the run)": windows.n_dropped,
    }


def read_targets(store: Store, cohort: Cohort) -> tuple[Integers, Floats]:
    """Image ids (n,) and embeddings (n, D) of a cohort's stimulus sets.

    An ArtifactError if the sets' embeddings differ in width.
    """
    ids, embeddings = [], []
    for key in cohort.embeddings.values():
        set_ids, values, _ = read_embeddings(store.folder(key) / EMBEDDINGS_FILE)
        ids.append(set_ids.astype(np.int64))
        embeddings.append(values)
    widths = [values.shape[1] for values in embeddings]
    if len(set(widths)) > 1:
        named = zip(cohort.embeddings, widths, strict=True)
        sets = ", ".join(f"{name} has {width}" for name, width in named)
        raise ArtifactError(
            f"The embeddings of {cohort.name}'s images differ in width: {sets}.",
            next_step="make stimulus_embeddings of these sets again, with one encoder.",
        )
    return np.concatenate(ids), np.concatenate(embeddings)


def read_data(
    store: Store,
    cohort: Cohort,
    trials: "pd.DataFrame",
    config: TrainingConfig,
    vertices: Integers | None = None,
) -> Trials:
    """Read fMRI and targets of some of the trials that `read_trials` gave, each at most once.

    Only some fsaverage5 vertices (V,) are read, or all of them if that is None. A
    NotEnoughDataError if there is too little memory; an ArtifactError if an artifact is damaged, or
    an image has no embedding.
    """
    n_times, first = 1, "trial"
    if config.windowed:
        trials, n_times, _ = _windows(store, cohort, trials, config)
        first = "sample"
    sessions = list(by_session(trials))

    def open_rows(key: str) -> SessionRows:
        return SessionRows(store.zarr(key), vertices=vertices, zscore=config.zscore)

    opened = store.at_once(open_rows, [cohort.fmri[session_key(*each)] for each in sessions])
    return assemble_trials(
        trials,
        dict(zip(sessions, opened, strict=True)),
        *read_targets(store, cohort),
        n_times=n_times,
        first=first,
        memory=Memory(config.memory_gb, config.data_dtype, config.batch_size),
    )


def check_unchanged(store: Store, cohort: Cohort) -> None:
    """Make sure, once all of a cohort has been read, that it is still what its inputs say.

    An ArtifactError if another run has replaced one of its artifacts.
    """
    now = store.at_once(store.find, list(cohort.inputs))
    replaced = [
        key
        for (key, then), found in zip(cohort.inputs.items(), now, strict=True)
        if found is None or found.fingerprint != then
    ]
    if replaced:
        others = f" and {len(replaced) - 1} more" if len(replaced) > 1 else ""
        raise ArtifactError(
            f"{store.url}/{replaced[0]}{others} was replaced while {cohort.name}'s data was read.",
            next_step="run this step again; it will read the new version.",
        )


def _windows(
    store: Store, cohort: Cohort, trials: "pd.DataFrame", config: TrainingConfig
) -> Windows:
    sessions = list(by_session(trials))
    keys = [cohort.fmri[session_key(*each)] for each in sessions]
    layouts = store.at_once(lambda key: series_layout(store.zarr(key)), keys)
    return place_windows(
        trials,
        dict(zip(sessions, layouts, strict=True)),
        start=config.window_start,
        duration=config.window_duration,
    )
