"""What the cortex did: one session's betas on the fsaverage5 surface."""

from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import numpy as np
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
    require_all,
)
from nsd_pipeline.assets.events import EVENTS_FILE
from nsd_pipeline.assets.operators import require_operator
from nsd_pipeline.assets.spaces import check_space, read_fsaverage5
from nsd_pipeline.events import read_events, sole_recording
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.layout import OPERATOR_SPACES
from nsd_pipeline.nsd.small_files import find_labels
from nsd_pipeline.resources import SourceResource, StoreResource
from nsd_pipeline.storage.store import Draft
from nsd_pipeline.surface import read_roi, summarise, write_session


class SurfaceConfig(dg.Config):
    """Which betas are expected, and which region of interest is kept beside them."""

    space: str | None = Field(  # Dagster knows no optional choices
        default=None,
        description="space that the betas have to come from; null: the one that `betas` fetched",
    )
    roi: str | None = Field(
        default=None,
        description="a region that a model can be restricted to: one of NSD's on fsaverage, such as"
        " nsdgeneral or streams, or a path on this machine with {hemisphere} for lh and rh"
        " (.mgz, .mgh, .label)",
    )
    roi_above: float = Field(default=0.0, description="a vertex's label has to be above this")
    roi_up_to: float | None = Field(
        default=None, description="and not above this: 4 and 5 select stream 5, the ventral one"
    )


@ranged_asset(
    group_name="surface",
    kinds={"zarr"},
    code_version="1",
    partitions_def=partitions.sessions,
    deps=[
        "betas",
        "fsaverage_events",
        dg.AssetDep("fsaverage5_operator", partition_mapping=partitions.subject_spaces_to_sessions),
    ],
)
@fails_plainly
def fsaverage5_betas(
    context: dg.AssetExecutionContext,
    config: SurfaceConfig,
    source: SourceResource,
    store: StoreResource,
) -> None:
    """A session's betas on fsaverage5: Zarr group of (trial, vertex), left hemisphere first.

    Percent signal change as published, NaN kept, beside each vertex's mean and standard deviation
    over the session: z-scores are computed when a model reads them. Betas from another space than
    fsaverage go by `fsaverage5_operator`, or for MNI by fsaverage's own surfaces; the space is the
    one that `betas` fetched and that the filtered events keep.
    """
    artifacts = store.open()
    labels = find_labels(source.open, config.roi) if config.roi else None
    region = config.model_dump(exclude={"space"}) if labels else {}
    roi = None
    if labels:
        with TemporaryDirectory() as folder:
            paths = labels.copy(Path(folder))
            roi = read_roi(paths, above=config.roi_above, up_to=config.roi_up_to)

    def recipe(partition: str) -> Recipe:
        upstream = require_all(
            artifacts, partition, betas=keys.betas, fsaverage_events=keys.fsaverage_events
        )
        betas = upstream["betas"]
        subject, _ = layout.parse_session_key(partition)
        if (space := betas.config["space"]) in OPERATOR_SPACES:
            upstream["fsaverage5_operator"] = require_operator(artifacts, subject, space)
        n_trials = int(betas.metadata["trials"])
        return Recipe(
            keys.fsaverage5_betas(partition),
            inputs={name: manifest.fingerprint for name, manifest in upstream.items()}
            | (labels.versions if labels else {}),
            config=region,
            expected_bytes=n_trials * 2 * layout.FSAVERAGE5_VERTICES * 4,
        )

    def make(partition: str, _: Recipe, draft: Draft) -> Facts:
        subject, session = layout.parse_session_key(partition)
        events = read_events(artifacts.folder(keys.fsaverage_events(partition)) / EVENTS_FILE)
        space = sole_recording(events, partition)
        downloaded = require(artifacts, keys.betas(partition), asset="betas", partition=partition)
        check_space(partition, downloaded.config["space"], space, config.space)
        data = read_fsaverage5(artifacts, downloaded)
        statistics = summarise(data)
        write_session(
            draft.folder,
            data,
            statistics,
            {
                "subject": subject,
                "session": session,
                "source_space": space,
                "source_etags": downloaded.metadata["etags"],
                **region,
            },
            roi=roi,
        )
        zscore_scale = statistics.std[statistics.valid]
        return statistics.counts() | {
            "mean of all vertices (percent signal change)": float(
                statistics.mean[statistics.valid].mean()
            ),
            "space": space,
            **({} if roi is None else {"vertices in the region": int(roi.sum())}),
            "median standard deviation (percent signal change)": float(np.median(zscore_scale)),
        }

    materialize_artifacts(context, artifacts, recipe=recipe, make=make)
