"""What a cohort's model learns from, read from the store: trials, fMRI, embeddings."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nsd_pipeline import partitions
from nsd_pipeline.assets import keys
from nsd_pipeline.assets.artifacts import require
from nsd_pipeline.assets.embeddings import EMBEDDINGS_FILE
from nsd_pipeline.assets.presets import PRESETS, Preset
from nsd_pipeline.assets.tables import read_sessions, sessions_with
from nsd_pipeline.embeddings import describe_encoder, read_embeddings, same_encoder
from nsd_pipeline.errors import ArtifactError, NotEnoughDataError
from nsd_pipeline.nsd.layout import session_key
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.store import Store


@dataclass(frozen=True)
class Cohort:
    """The artifacts that are at hand for a cohort.

    Parameters
    ----------
    name
        Partition of the cohort: a subject, or ``all``.
    preset
        Which data the model is trained on.
    sessions
        Sessions whose fMRI and events are complete, in order.
    stimulus_sets
        Stimulus sets that these sessions showed images of.
    inputs
        Fingerprint of each artifact, by its key.
    space
        Space that the fMRI of all sessions came from.
    encoder
        Settings of the encoder that embedded all images, its name among them.
    """

    name: str
    preset: Preset
    sessions: list[str]
    stimulus_sets: list[str]
    inputs: Mapping[str, str]
    space: str
    encoder: Mapping[str, Any]


def find_cohort(store: Store, name: str, preset: Preset) -> Cohort:
    """Find what there is of a cohort.

    Raises
    ------
    NotEnoughDataError
        If no session of it has been prepared.
    ArtifactError
        If embeddings of its images are missing, or were made by different encoders, or there is
        fMRI without its events.
    """
    subjects = partitions.subjects_of_cohort(name)
    sessions = sessions_with(store, preset.fmri_folder, subjects)
    if not sessions:
        raise NotEnoughDataError(
            f"No session of {' or '.join(subjects)} has {preset.what} on fsaverage5 in"
            f" {store.url}.",
            next_step="run `dagster asset materialize -m nsd_pipeline.definitions --select"
            f" {preset.fmri_asset} --partition {session_key(subjects[0], 1)}` and what it needs,"
            " or choose another preset.",
        )
    return _collect(store, name, preset, sessions)


def trained_cohort(store: Store, model: Manifest) -> Cohort:
    """Find again what a model was trained on.

    Raises
    ------
    ArtifactError
        If the images have been embedded by another encoder since.
    """
    preset = PRESETS[model.config["preset"]]
    cohort = _collect(store, str(model.partition), preset, model.metadata["sessions"])
    then = model.metadata["encoder"]
    if not same_encoder(cohort.encoder, then):
        raise ArtifactError(
            f"fmri_mlp of {cohort.name} was trained on embeddings of {describe_encoder(then)}, but"
            f" those in {store.url} are now of {describe_encoder(cohort.encoder)}.",
            next_step="run `dagster asset materialize -m nsd_pipeline.definitions --select fmri_mlp"
            f" --partition {cohort.name}` to train it on the new ones.",
        )
    return cohort


def _collect(store: Store, name: str, preset: Preset, sessions: list[str]) -> Cohort:
    stimulus_sets = [
        stimulus_set
        for stimulus_set in partitions.STIMULUS_SETS
        if stimulus_set == partitions.SHARED
        or any(session.startswith(stimulus_set) for session in sessions)
    ]
    wanted = [
        (asset, key(session), session)
        for session in sessions
        for asset, key in (
            (preset.fmri_asset, preset.fmri_key),
            (preset.events_asset, preset.events_key),
        )
    ] + [
        ("stimulus_embeddings", keys.stimulus_embeddings(stimulus_set), stimulus_set)
        for stimulus_set in stimulus_sets
    ]
    # On S3 each is two requests, and all subjects' sessions are 284 of two kinds.
    with ThreadPoolExecutor(max_workers=16) as threads:
        manifests = threads.map(
            lambda each: require(store, each[1], asset=each[0], partition=each[2]), wanted
        )
        found = {key: manifest for (_, key, _), manifest in zip(wanted, manifests, strict=True)}
    return Cohort(
        name,
        preset,
        sessions,
        stimulus_sets,
        inputs={key: manifest.fingerprint for key, manifest in found.items()},
        space=_one_space(
            {
                session: str(found[preset.fmri_key(session)].metadata.get("space", ""))
                for session in sessions
            },
            preset,
        ),
        encoder=_one_encoder(
            {each: found[keys.stimulus_embeddings(each)] for each in stimulus_sets}
        ),
    )


def _one_space(spaces: Mapping[str, str], preset: Preset) -> str:
    """Space that all sessions came from: a model would learn the difference between two."""
    first, *others = spaces
    for other in others:
        if spaces[other] != spaces[first]:
            raise ArtifactError(
                f"The {preset.what} of {first} came from {spaces[first]}, those of {other} from"
                f" {spaces[other]}.",
                next_step=f"materialize {preset.fmri_asset} and what it needs for both in the same"
                " space.",
            )
    return spaces[first]


def _one_encoder(embeddings: Mapping[str, Manifest]) -> Mapping[str, Any]:
    """Settings of the encoder of all stimulus sets, as it described itself.

    Raises
    ------
    ArtifactError
        If two sets were embedded by encoders that differ in model, layer or another setting.
    """
    first, *others = embeddings
    settings: Mapping[str, Any] = embeddings[first].metadata["encoder"]
    for other in others:
        another = embeddings[other].metadata["encoder"]
        if not same_encoder(settings, another):
            raise ArtifactError(
                f"The images of {first} were embedded by {describe_encoder(settings)}, those of"
                f" {other} by {describe_encoder(another)}.",
                next_step=f"materialize stimulus_embeddings of {first} and {other} with the same"
                " encoder: a model cannot learn from both.",
            )
    return settings


def check_unchanged(store: Store, cohort: Cohort) -> None:
    """Make sure, once all of a cohort has been read, that it is still what its inputs say.

    Raises
    ------
    ArtifactError
        If another run has replaced one of its artifacts.
    """
    now = _collect(store, cohort.name, cohort.preset, cohort.sessions).inputs
    replaced = [key for key in cohort.inputs if now[key] != cohort.inputs[key]]
    if replaced:
        others = f" and {len(replaced) - 1} more" if len(replaced) > 1 else ""
        raise ArtifactError(
            f"{store.url}/{replaced[0]}{others} was replaced while {cohort.name}'s data was read.",
            next_step="run this step again; it will read the new version.",
        )


def read_trials(store: Store, cohort: Cohort) -> pd.DataFrame:
    """Image events of all of a cohort's sessions, in order."""
    events = read_sessions(store, cohort.sessions, cohort.preset.events_key)
    return events[events["type"] == "Image"].reset_index(drop=True)


def read_targets(store: Store, cohort: Cohort) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Image ids (n,) and embeddings (n, D) of a cohort's stimulus sets.

    Raises
    ------
    ArtifactError
        If the sets' embeddings differ in width.
    """
    ids, embeddings = [], []
    for stimulus_set in cohort.stimulus_sets:
        key = keys.stimulus_embeddings(stimulus_set)
        set_ids, values, _ = read_embeddings(store.folder(key) / EMBEDDINGS_FILE)
        ids.append(set_ids.astype(np.int64))
        embeddings.append(values)
    widths = [values.shape[1] for values in embeddings]
    if len(set(widths)) > 1:
        sets = ", ".join(
            f"{name} has {n}" for name, n in zip(cohort.stimulus_sets, widths, strict=True)
        )
        raise ArtifactError(
            f"The embeddings of {cohort.name}'s images differ in width: {sets}.",
            next_step="materialize stimulus_embeddings of these sets again, with one encoder.",
        )
    return np.concatenate(ids), np.concatenate(embeddings)
