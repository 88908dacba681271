"""What the cortex did: one session's betas on the fsaverage5 surface."""

import dagster as dg
import numpy as np

from nsd_pipeline import partitions
from nsd_pipeline.assets import keys
from nsd_pipeline.assets.artifacts import (
    ONE_RUN,
    Facts,
    Recipe,
    fails_plainly,
    materialize_artifacts,
    require,
)
from nsd_pipeline.assets.events import EVENTS_FILE
from nsd_pipeline.download.betas import locate_betas
from nsd_pipeline.events import read_events, sole_recording
from nsd_pipeline.nsd import layout, mgh
from nsd_pipeline.resources import StoreResource
from nsd_pipeline.storage.store import Draft
from nsd_pipeline.surface import summarise, write_session


@dg.asset(
    group_name="surface",
    kinds={"zarr"},
    code_version="1",
    partitions_def=partitions.sessions,
    backfill_policy=ONE_RUN,
    deps=["betas", "fsaverage_events"],
)
@fails_plainly
def fsaverage5_betas(context: dg.AssetExecutionContext, store: StoreResource) -> None:
    """A session's betas on fsaverage5: Zarr group of (trial, vertex), left hemisphere first.

    Percent signal change as published, NaN kept, beside each vertex's mean and standard deviation
    over the session: z-scores are computed when a model reads them.
    """
    artifacts = store.open()

    def recipe(partition: str) -> Recipe:
        upstream = {
            name: require(artifacts, key(partition), asset=name, partition=partition)
            for name, key in (("betas", keys.betas), ("fsaverage_events", keys.fsaverage_events))
        }
        n_trials = int(upstream["betas"].metadata["trials"])
        return Recipe(
            keys.fsaverage5_betas(partition),
            inputs={name: manifest.fingerprint for name, manifest in upstream.items()},
            expected_bytes=n_trials * 2 * layout.FSAVERAGE5_VERTICES * 4,
        )

    def make(partition: str, _: Recipe, draft: Draft) -> Facts:
        subject, session = layout.parse_session_key(partition)
        events = read_events(artifacts.folder(keys.fsaverage_events(partition)) / EVENTS_FILE)
        space = sole_recording(events, partition)
        downloaded = require(artifacts, keys.betas(partition), asset="betas", partition=partition)
        n_trials = int(downloaded.metadata["trials"])
        data = np.empty((n_trials, 2 * layout.FSAVERAGE5_VERTICES), np.float32)
        halves = np.split(data, 2, axis=1)
        for half, path in zip(
            halves, locate_betas(artifacts.folder(downloaded.key)).values(), strict=True
        ):
            mgh.read_vertices(path, layout.FSAVERAGE5_VERTICES, n_frames=n_trials, out=half)
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
            },
        )
        zscore_scale = statistics.std[statistics.valid]
        return statistics.counts() | {
            "mean of all vertices (percent signal change)": float(
                statistics.mean[statistics.valid].mean()
            ),
            "median standard deviation (percent signal change)": float(np.median(zscore_scale)),
        }

    materialize_artifacts(context, artifacts, recipe=recipe, make=make)
