"""What the cortex did: one session's betas on the fsaverage5 surface."""

from typing import ClassVar

import dagster as dg
import numpy as np
from pydantic import Field

from nsd_pipeline import folders, partitions
from nsd_pipeline.errors import NsdError
from nsd_pipeline.events import sole_recording
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.layout import OPERATOR_SPACES
from nsd_pipeline.steps.events import EventTables, FsaverageEvents
from nsd_pipeline.steps.operators import Operator
from nsd_pipeline.steps.raw import Betas
from nsd_pipeline.steps.running import step_asset
from nsd_pipeline.steps.step import Metadata, Plan, Step
from nsd_pipeline.storage.store import Draft
from nsd_pipeline.surface import read_betas, summarise, write_session


class SurfaceConfig(dg.Config):
    """Which betas are expected."""

    space: str | None = Field(  # Dagster knows no optional choices
        default=None,
        description="space that the betas have to come from; null: the one that `betas` fetched",
    )


class SurfaceBetas(Step):
    """A session's betas on fsaverage5: Zarr group of (trial, vertex), left hemisphere first.

    Percent signal change as published, NaN kept, beside each vertex's mean and standard
    deviation over the session: z-scores are computed when a model reads them. Betas from
    another space than fsaverage go by `fsaverage5_operator`, or for MNI by fsaverage's own
    surfaces; the space is the one that `betas` fetched and that the filtered events keep.
    """

    name = "fsaverage5_betas"
    partitions = partitions.sessions
    location = folders.BETAS
    config: SurfaceConfig = SurfaceConfig()
    set_in_runs = SurfaceConfig
    betas: ClassVar[type[Betas]] = Betas
    filtered: ClassVar[type[EventTables] | None] = FsaverageEvents
    """The events that have to keep the same space; None if nobody filters them by it."""

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        events = [cls.filtered.name] if cls.filtered else []
        needed = [cls.betas.name, *events, *Operator.needed_for(cls.config.space)]
        return step_asset(cls, group_name="surface", kinds={"zarr"}, deps=needed)

    def plan(self, partition: str) -> Plan:
        betas = self.betas.made(self.store, partition)
        upstream = [betas]
        if self.filtered:
            upstream.append(self.filtered.made(self.store, partition))
        subject, _ = layout.parse_session_key(partition)
        if (space := betas.config["space"]) in OPERATOR_SPACES:
            between = partitions.subject_space(subject, space)
            upstream.append(Operator.made(self.store, between))
        return Plan(
            inputs={manifest.asset: manifest.fingerprint for manifest in upstream},
            expected_bytes=int(betas.metadata["trials"]) * layout.N_VERTICES * 4,
        )

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        subject, session = layout.parse_session_key(partition)
        downloaded = self.betas.made(self.store, partition)
        space: layout.Space = downloaded.config["space"]
        if self.filtered:
            kept = sole_recording(self.filtered.read(self.store, partition), partition)
            check_space(partition, space, kept, self.config.space)
        data = read_betas(
            self.store.folder(downloaded.key),
            space,
            int(downloaded.metadata["trials"]),
            lambda: Operator.load(self.store, subject, space),
            downloaded.config.get("shapes", ()),
        )
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
        valid = statistics.valid
        return statistics.counts() | {
            "mean of all vertices (percent signal change)": float(statistics.mean[valid].mean()),
            "space": space,
            "median standard deviation (percent signal change)": float(
                np.median(statistics.std[valid])
            ),
        }


def check_space(session: str, fetched: str, kept: str, wanted: str | None) -> None:
    """Check that a session's betas were fetched in the space that its filtered events keep.

    And in the one that `fsaverage5_betas` are wanted from, if that was said. Otherwise an NsdError.
    """
    if wanted not in (None, fetched):
        raise NsdError(
            f"The betas of {session} were fetched in the space {fetched}, but fsaverage5_betas are"
            f" to come from {wanted}.",
            next_step=f"make betas with space {wanted}, or leave the space of fsaverage5_betas"
            " empty.",
        )
    if kept != fetched:
        raise NsdError(
            f"The betas of {session} were fetched in the space {fetched}, but its filtered events"
            f" keep the recording in {kept}.",
            next_step=f"make betas with space {kept}, or fsaverage_events with the query"
            f" \"type != 'Fmri' or space == '{fetched}'\".",
        )
