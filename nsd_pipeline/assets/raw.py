"""What comes from NSD's bucket: the experiment design, the betas, the images that are needed."""

import hashlib
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Final

import dagster as dg
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from nsd_pipeline import partitions
from nsd_pipeline.assets import keys
from nsd_pipeline.assets.artifacts import (
    Facts,
    Recipe,
    fails_plainly,
    materialize_artifacts,
    ranged_asset,
    require,
)
from nsd_pipeline.assets.spaces import session_operator
from nsd_pipeline.automation import CARRY_ON
from nsd_pipeline.decoding.cohort import read_sessions, sessions_with
from nsd_pipeline.download import design as design_download
from nsd_pipeline.download import stimuli as stimuli_download
from nsd_pipeline.download.betas import inspect_betas
from nsd_pipeline.download.sessions import FsaverageDownload, SessionDownload, SpaceDownload
from nsd_pipeline.download.volumes import FormatChoice, inspect_space
from nsd_pipeline.errors import NotEnoughDataError
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.design import read_experiment_design
from nsd_pipeline.nsd.stim_info import read_stimulus_info
from nsd_pipeline.resources import SourceResource, StoreResource
from nsd_pipeline.storage.store import Draft, Store

PHOTOGRAPHS: Final = "photographs of NSD"
GENERATED: Final = "generated"
"""What a stimulus set's pictures are. NSD's terms forbid passing on its photographs."""


@dg.asset(group_name="raw", kinds={"s3"}, code_version="1")
@fails_plainly
def experiment_design(
    context: dg.AssetExecutionContext, source: SourceResource, store: StoreResource
) -> None:
    """Which trial showed which image: NSD's design, stimulus info and responses, validated.

    The files are kept as they are on the bucket: `nsd_expdesign.mat`, `nsd_stim_info_merged.csv`
    and every subject's `responses.tsv`.
    """
    bucket, artifacts = source.open(), store.open()
    objects = design_download.find_design(bucket)

    def make(_: str, __: Recipe, draft: Draft) -> Facts:
        design_download.copy_design(bucket, objects, draft.folder)
        design = read_experiment_design(draft.folder / "nsd_expdesign.mat")
        stimulus_info = read_stimulus_info(draft.folder / "nsd_stim_info_merged.csv")
        trials = [design.n_trials(session) for session in range(1, 41)]
        return {
            "images": len(stimulus_info),
            "shared images": len(design.sharedix),
            "subjects with responses": sum(name.startswith("subj") for name in objects),
            "trials per session": sorted({count for count in trials if count}),
        }

    materialize_artifacts(
        context,
        artifacts,
        recipe=lambda _: Recipe(
            keys.EXPERIMENT_DESIGN,
            inputs={info.key: info.etag for info in objects.values()},
            expected_bytes=sum(info.n_bytes for info in objects.values()),
        ),
        make=make,
    )


class BetasConfig(dg.Config):
    """What is fetched of a session's betas."""

    space: layout.Space = Field(
        default="fsaverage",
        description="where the betas lie: fsaverage, func1pt8mm, func1mm, nativesurface or MNI"
        " (betas_fithrf there); the events' query has to keep the same space",
    )
    file_format: FormatChoice = Field(
        default="auto",
        description="of func1pt8mm and func1mm: nii.gz (whole files), hdf5 (only the voxels that"
        " fsaverage5 needs, which can be more bytes), or auto: nii.gz where the source has it",
    )
    whole_file: bool = Field(
        default=False,
        description="of fsaverage: fetch all 163,842 vertices of a hemisphere (983 MB a session),"
        " not only fsaverage5's 10,242 (61 MB)",
    )


def images_seen(store: Store, stimulus_set: str) -> NDArray[np.int64]:
    """Images of a stimulus set that the sessions in the store showed: ascending, each once."""
    subjects = partitions.subjects_of_stimulus_set(stimulus_set)
    sessions = sessions_with(store, "fsaverage_events", subjects)
    if not sessions:
        return np.empty(0, np.int64)
    events = read_sessions(store, [keys.fsaverage_events(session) for session in sessions])
    images = events[events["type"] == "Image"]
    shared = images["shared"] == (stimulus_set == partitions.SHARED)
    return np.unique(images.loc[shared, "image_id"].to_numpy(np.int64))


@ranged_asset(
    group_name="raw",
    kinds={"s3"},
    code_version="2",
    partitions_def=partitions.sessions,
    deps=[
        experiment_design,
        dg.AssetDep("fsaverage5_operator", partition_mapping=partitions.subject_spaces_to_sessions),
    ],
)
@fails_plainly
def betas(
    context: dg.AssetExecutionContext,
    config: BetasConfig,
    source: SourceResource,
    store: StoreResource,
) -> None:
    """Single-trial betas of a session, as NSD has them: on fsaverage, or in a space by config.

    Only the bytes that fsaverage5 needs: the first 10,242 vertices of every frame (percent signal
    change), or the voxels that `fsaverage5_operator` looks at (percent x 300), by concurrent range
    requests bound to one version of the object. A local mirror is read in place.
    """
    bucket, artifacts = source.open(), store.open()
    design_manifest = require(artifacts, keys.EXPERIMENT_DESIGN, asset="experiment_design")
    design = read_experiment_design(artifacts.folder(design_manifest.key) / "nsd_expdesign.mat")
    found: dict[str, SessionDownload] = {}

    def inspect(partition: str) -> SessionDownload:
        subject, session = layout.parse_session_key(partition)
        n_trials = design.n_trials(session)
        if config.space == "fsaverage":
            hemispheres = inspect_betas(bucket, subject, session, n_trials=n_trials)
            return FsaverageDownload(bucket, hemispheres, config.whole_file)
        objects = inspect_space(
            bucket,
            subject,
            session,
            config.space,
            file_format=config.file_format,
            n_trials=n_trials,
        )
        download = SpaceDownload(bucket, objects, None)
        if objects.file_format == "hdf5" and not download.in_place:
            operator = session_operator(artifacts, subject, objects)
            download = replace(download, voxels=operator.touched_voxels)
        return download

    def recipe(partition: str) -> Recipe:
        download = found[partition] = inspect(partition)
        return Recipe(
            keys.betas(partition),
            inputs={info.key: info.etag for info in download.objects},
            config={"space": config.space, "in_place": download.in_place, **download.config},
            expected_bytes=0 if download.in_place else download.fetched_bytes,
        )

    def make(partition: str, plan: Recipe, draft: Draft) -> Facts:
        download = found[partition]
        report = download.download(
            draft.folder, artifacts.scratch(plan.key), max_concurrency=source.max_concurrency
        )
        rate = report.n_bytes / report.seconds / 1e6 if report.seconds else 0.0
        context.log.info(
            f"{partition}: {report.n_bytes / 1e6:.1f} MB in {report.n_requests} requests,"
            f" {report.seconds:.1f} s, {rate:.0f} MB/s"
        )
        return {
            "space": config.space,
            "trials": download.n_trials,
            "bytes on the source": sum(info.n_bytes for info in download.objects),
            "bytes fetched": report.n_bytes,
            "bytes resumed": report.resumed_bytes,
            "requests": report.n_requests,
            "seconds": report.seconds,
            "MB/s": rate,
            "etags": {PurePosixPath(info.key).name: info.etag for info in download.objects},
        }

    materialize_artifacts(context, artifacts, recipe=recipe, make=make)


@ranged_asset(
    group_name="raw",
    kinds={"s3"},
    code_version="1",
    partitions_def=partitions.stimulus_sets,
    deps=[dg.AssetDep("fsaverage_events", partition_mapping=partitions.sessions_to_stimulus_sets)],
    automation_condition=CARRY_ON,
)
@fails_plainly
def stimuli(
    context: dg.AssetExecutionContext, source: SourceResource, store: StoreResource
) -> None:
    """The photographs that the sessions at hand showed, as they are in NSD's HDF5 file.

    A new session fetches only its new images. NSD's terms forbid passing them on.
    """
    bucket, artifacts = source.open(), store.open()
    info = bucket.describe(layout.STIMULI_KEY)
    mirror = bucket.local_path(layout.STIMULI_KEY)
    needed = {partition: images_seen(artifacts, partition) for partition in context.partition_keys}

    def recipe(partition: str) -> Recipe:
        image_ids = needed[partition]
        if not len(image_ids):
            raise NotEnoughDataError(
                f"No session in {artifacts.url} showed an image of the stimulus set {partition}.",
                next_step="materialize fsaverage_events for sessions of"
                f" {' or '.join(partitions.subjects_of_stimulus_set(partition))} first.",
            )
        return Recipe(
            keys.stimuli(partition),
            inputs={info.key: info.etag},
            config={
                "image_ids": hashlib.sha256(image_ids.tobytes()).hexdigest(),
                "in_place": mirror is not None,
            },
            expected_bytes=0 if mirror else stimuli_download.part_bytes(len(image_ids)),
        )

    def make(partition: str, _: Recipe, draft: Draft) -> Facts:
        image_ids = needed[partition]
        n_bytes = 0
        if mirror is not None:
            index = stimuli_download.mirror_index(image_ids, mirror)
        else:
            index, n_bytes = _fetch_new_images(partition)
        index.to_parquet(draft.folder / stimuli_download.INDEX_FILE, index=False)
        generated = layout.GENERATED_KEY in bucket.list(layout.GENERATED_KEY)
        return {
            "images": len(image_ids),
            "bytes fetched": n_bytes,
            "pictures": GENERATED if generated else PHOTOGRAPHS,
        }

    def _fetch_new_images(partition: str) -> tuple[pd.DataFrame, int]:
        """Index of all images needed, after fetching those that no part of this version holds."""
        image_ids = needed[partition]
        known = _known_images(artifacts, partition, info.etag)
        new = image_ids[~pd.Index(image_ids).isin(known["image_id"])]
        if not len(new):
            return known, 0
        part = hashlib.sha256(info.etag.encode() + new.tobytes()).hexdigest()[:16]
        key = keys.stimulus_part(partition, part)
        n_bytes = 0
        if artifacts.manifest(key) is None:
            scratch = artifacts.scratch(key)
            with artifacts.write(
                key,
                asset="stimuli",
                partition=partition,
                fingerprint=part,
                code_version="1",
                inputs={info.key: info.etag},
                config={},
                expected_bytes=stimuli_download.part_bytes(len(new)),
            ) as draft:
                n_bytes = stimuli_download.download_images(
                    bucket,
                    info,
                    new,
                    draft.folder,
                    scratch,
                    max_concurrency=source.max_concurrency,
                )
        index = pd.concat([known, stimuli_download.part_index(new, part)])
        return index[index["image_id"].isin(image_ids)].sort_values("image_id"), n_bytes

    materialize_artifacts(context, artifacts, recipe=recipe, make=make)


def pictures_of(store: Store, stimulus_set: str) -> str:
    """Whether a stimulus set's pictures are `PHOTOGRAPHS` or `GENERATED`.

    What an earlier version fetched does not say; such pictures are taken for NSD's, to be safe.
    """
    manifest = require(store, keys.stimuli(stimulus_set), asset="stimuli", partition=stimulus_set)
    return str(manifest.metadata.get("pictures", PHOTOGRAPHS))


def _known_images(store: Store, stimulus_set: str, etag: str) -> pd.DataFrame:
    """Index of the images that have been fetched from this version of the stimulus file."""
    manifest = store.manifest(keys.stimuli(stimulus_set))
    if (
        manifest is None
        or manifest.inputs != {layout.STIMULI_KEY: etag}
        or manifest.config["in_place"]
    ):
        return stimuli_download.part_index(np.empty(0, np.int64), "")
    return pd.read_parquet(store.folder(manifest.key) / stimuli_download.INDEX_FILE)
