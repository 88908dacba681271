"""How much of a vertex's response comes back when an image is shown again."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import dagster as dg
import numpy as np
from numpy.typing import NDArray

from nsd_pipeline import folders, partitions, report
from nsd_pipeline.decoding.cohort import sessions_with
from nsd_pipeline.errors import NotEnoughDataError, Remake
from nsd_pipeline.evaluation.ceiling import noise_ceiling as compute
from nsd_pipeline.nsd import mgh
from nsd_pipeline.nsd.layout import (
    FSAVERAGE5_VERTICES,
    HEMISPHERES,
    N_VERTICES,
    betas_folder,
    session_key,
)
from nsd_pipeline.nsd.small_files import local_file
from nsd_pipeline.steps.events import FsaverageEvents
from nsd_pipeline.steps.running import step_asset, write_figure
from nsd_pipeline.steps.step import Metadata, Plan, Step, Tools
from nsd_pipeline.steps.surface import SurfaceBetas
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.source import ObjectInfo
from nsd_pipeline.storage.store import Draft

CEILING_FILE: Final = "ceiling.parquet"


class Ceiling(Step):
    """How much of a vertex's response comes back when an image is shown again.

    From the betas at hand, z-scored by session: images that were shown three times. The ceiling
    bounds what can be predicted of a vertex from an image; it does not bound how well images are
    retrieved. Beside NSD's own numbers, where the source has them. Reliability is the correlation
    of repeats.
    """

    name = folders.CEILING
    code_version = "3"
    partitions = partitions.subjects
    asks_source = True
    optional = True

    def __init__(self, tools: Tools, config: None = None) -> None:
        super().__init__(tools, config)
        self._sessions: dict[str, dict[str, Manifest]] = {}

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        return step_asset(
            cls,
            ranged=False,
            group_name="surface",
            kinds={"parquet"},
            deps=[
                dg.AssetDep(step.name, partition_mapping=partitions.sessions_to_subjects)
                for step in (SurfaceBetas, FsaverageEvents)
            ],
            columns=[
                dg.TableColumn("hemisphere", "string", "lh or rh; a row a vertex, lh first"),
                dg.TableColumn(
                    "ncsnr", "float64", "signal / noise of a single trial, by NSD's rule"
                ),
                dg.TableColumn(
                    "percent_of_one", "float64", "of variance that is signal, in one trial"
                ),
                dg.TableColumn("percent_of_three", "float64", "and in the mean of three"),
                dg.TableColumn("reliability", "float64", "correlation of repeats, over images"),
            ],
        )

    def plan(self, partition: str) -> Plan:
        sessions = sessions_with(self.store, SurfaceBetas.folder(), [partition])
        if not sessions:
            raise NotEnoughDataError(
                f"No session of {partition} has betas on fsaverage5 in {self.store.url}.",
                next_step="make fsaverage5_betas of its sessions first.",
                remake=Remake(SurfaceBetas.name, session_key(partition, 1)),
            )
        betas, events = (
            self.store.at_once(partial(step.made, self.store), sessions)
            for step in (SurfaceBetas, FsaverageEvents)
        )
        self._sessions[partition] = dict(zip(sessions, betas, strict=True))
        own = {manifest.key: manifest.fingerprint for manifest in (*betas, *events)}
        return Plan(inputs=own | {file.key: file.etag for file in self._of_nsd(partition)})

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        import pandas as pd

        sessions = self._sessions[partition]
        events = {session: FsaverageEvents.read(self.store, session) for session in sessions}
        images = {
            session: table.loc[table["type"] == "Image"].sort_values("trial")["image_id"].to_numpy()
            for session, table in events.items()
        }
        groups = {session: self.store.zarr(made.key) for session, made in sessions.items()}

        def read(session: str, vertices: slice) -> NDArray[Any]:
            values: NDArray[Any] = groups[session]["betas"][:, vertices]
            return values

        found = compute(images, read, N_VERTICES)
        hemisphere = np.repeat(HEMISPHERES, FSAVERAGE5_VERTICES)
        table = pd.DataFrame(
            {
                "hemisphere": hemisphere,
                "ncsnr": found.ncsnr,
                "percent_of_one": found.percent(1),
                "percent_of_three": found.percent(3),
                "reliability": found.reliability,
            }
        )
        metadata: dict[str, Any] = {
            "sessions": len(sessions),
            "images shown three times": found.n_images,
            "median ncsnr": float(np.nanmedian(found.ncsnr)),
            "median reliability": float(np.nanmedian(found.reliability)),
        }
        if (published := self._read_published(partition)) is not None:
            table["published_ncsnr"] = published
            both = np.isfinite(found.ncsnr) & np.isfinite(table["published_ncsnr"])
            metadata["correlation with NSD's ncsnr"] = float(
                np.corrcoef(found.ncsnr[both], table.loc[both, "published_ncsnr"])[0, 1]
            )
        table.to_parquet(draft.folder / CEILING_FILE, index=False)
        for name, title, label, values in (
            # Longer titles are cut off.
            ("noise_ceiling", "Noise ceiling, signal to noise", "ncsnr", found.ncsnr),
            ("reliability", "Reliability", "correlation of repeats", found.reliability),
        ):
            write_figure(draft, name, report.surface_map(values, title, label, cmap="viridis"))
        return metadata

    def _of_nsd(self, subject: str) -> list[ObjectInfo]:
        """NSD's own noise ceiling of a subject, if the source has it: a file a hemisphere."""
        folder = betas_folder(subject, "fsaverage")
        keys = [f"{folder}/{side}.ncsnr.mgh" for side in HEMISPHERES]
        there = self.source.list(f"{folder}/")
        return [self.source.describe(key) for key in keys if key in there]

    def _read_published(self, subject: str) -> NDArray[np.float32] | None:
        files = self._of_nsd(subject)
        if len(files) < len(HEMISPHERES):
            return None
        with TemporaryDirectory() as folder:
            paths = [local_file(self.source, file, Path(folder)) for file in files]
            halves = [mgh.read_vertices(path, FSAVERAGE5_VERTICES)[0] for path in paths]
        return np.concatenate(halves)
