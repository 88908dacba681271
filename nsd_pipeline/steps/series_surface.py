"""What the cortex did over time: one session's runs on the fsaverage5 surface."""

from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from typing import Any, cast

import dagster as dg
import numpy as np
from pydantic import Field

from nsd_pipeline import partitions
from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.events import filter_events, sole_recordings
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.layout import Space
from nsd_pipeline.nsd.nsd_series import TR
from nsd_pipeline.nsd.series_runs import agree_on_tr, read_runs
from nsd_pipeline.steps.operators import Operator
from nsd_pipeline.steps.running import step_asset
from nsd_pipeline.steps.series_files import SeriesEvents, SeriesFiles, left_out_runs
from nsd_pipeline.steps.step import Metadata, Plan, Step, Tools
from nsd_pipeline.storage.store import Draft
from nsd_pipeline.surface import FsaverageOperator, SeriesLayout, write_series
from nsd_pipeline.surface.cleaned_runs import Treatment, load_run

DEFAULT_QUERY = "type != 'Fmri' or space in ['fsaverage', 'func1pt8mm', 'func1mm']"
"""The reference's filter, and NSD's prepared time series, of which `bold` takes one space."""


class SeriesConfig(Treatment, dg.Config):
    """Which time series are used, and what is done to them."""

    query: str = Field(
        default=DEFAULT_QUERY,
        description="pandas query over the event columns, which leaves one space a run",
    )

    def decisive(self) -> dict[str, object]:
        """All settings that the series depend on.

        The last two came later and count where they are chosen: what was made before stays.
        """
        late = (("tr_from", "both"), ("brain_mask", "run"))
        return {name: each for name, each in self.model_dump().items() if (name, each) not in late}


class Series(Step):
    """A session's time series on fsaverage5: Zarr group of (sample, vertex), run after run.

    Each run is detrended and z-scored on its own; repetition time and where runs begin are among
    the attributes. Windows are not stored: a model slices the series. NSD's prepared time series
    go by `fsaverage5_operator`.
    """

    name = "fsaverage5_series"
    partitions = partitions.sessions
    suffix = ".zarr"
    config: SeriesConfig = SeriesConfig()
    set_in_runs = SeriesConfig
    optional = True

    def __init__(self, tools: Tools, config: SeriesConfig | None = None) -> None:
        super().__init__(tools, config)
        # Sessions of one subject share it.
        self._operator = cache(partial(Operator.load, self.store))

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        operators = dg.AssetDep(
            Operator.name, partition_mapping=partitions.subject_spaces_to_sessions
        )
        needed = [SeriesFiles.name, SeriesEvents.name, operators]
        return step_asset(cls, group_name="surface", kinds={"zarr"}, deps=needed)

    def plan(self, partition: str) -> Plan:
        files = SeriesFiles.made(self.store, partition)
        upstream = [files, SeriesEvents.made(self.store, partition)]
        subject, _ = layout.parse_session_key(partition)
        for space in set(TR).intersection(files.metadata["spaces"]):
            between = partitions.subject_space(subject, space)
            upstream.append(Operator.made(self.store, between))
        return Plan(
            inputs={manifest.asset: manifest.fingerprint for manifest in upstream},
            settings=self.config.decisive(),
        )

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        subject, session = layout.parse_session_key(partition)
        files = SeriesFiles.made(self.store, partition)
        events = filter_events(SeriesEvents.read(self.store, partition), self.config.query)
        spaces = sole_recordings(events, partition)
        folder = self.store.folder(files.key)
        recordings = {(each.run, each.space): each for each in read_runs(folder)}
        last_onset = events[events["type"] == "Image"].groupby("run")["start"].max()
        parts, stated = [], []
        for run, space in spaces.items():
            find_operator: Callable[[], FsaverageOperator] = partial(
                self._operator, subject, cast("Space", space)
            )
            series, tr = load_run(recordings[run, space], folder, find_operator, self.config)
            if (onset := float(last_onset[run])) >= len(series) * tr:
                raise InvalidFileError(
                    f"{folder / recordings[run, space].files[0]} ends after {len(series) * tr:.1f}"
                    f" s, but an image of run {run} came on at {onset:.1f} s.",
                    next_step="check that the recording is complete, and that events and recording"
                    " are of the same run.",
                )
            parts.append(series)
            stated.append((f"run {run} of {partition}", tr))
            self.tools.log(
                f"{partition}: run {run} of {len(spaces)} ({space}), {len(series)} samples"
            )
        tr = agree_on_tr(stated) or 0.0
        runs = {run: len(part) for run, part in zip(spaces, parts, strict=True)}
        data = np.concatenate(parts)
        parts.clear()  # a session is held twice otherwise
        attributes: dict[str, Any] = {
            "subject": subject,
            "session": session,
            "source_space": ", ".join(dict.fromkeys(spaces.values())),
        }
        departures: dict[str, Any] = {}
        if without := left_out_runs(files):
            departures["runs_left_out"] = without
        if self.config.tr_from != "both":
            departures["tr_from"] = self.config.tr_from
        if self.config.brain_mask == "template" and any(
            recordings[each].kind == "mni" for each in spaces.items()
        ):
            departures["brain_mask"] = f"MNI152 template of nilearn {version('nilearn')}"
        write_series(
            draft.folder,
            data,
            SeriesLayout.of_runs(tr, runs),
            attributes | self.config.decisive() | departures,
        )
        return {name.replace("_", " "): value for name, value in departures.items()} | {
            "space": attributes["source_space"],
            "tr": tr,
            "runs": len(spaces),
            "samples": len(data),
            "nan_share": float(np.isnan(data).all(axis=0).mean()),
        }
