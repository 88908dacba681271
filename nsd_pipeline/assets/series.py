"""What the cortex did over time: one session's runs on the fsaverage5 surface."""

from functools import cache, partial
from importlib.metadata import version
from typing import cast

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
    require_all,
)
from nsd_pipeline.assets.bold import left_out_runs
from nsd_pipeline.assets.events import EVENTS_FILE
from nsd_pipeline.assets.operators import load_operator, require_operator
from nsd_pipeline.errors import InvalidFileError
from nsd_pipeline.events import filter_events, read_events, sole_recordings
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.layout import Space
from nsd_pipeline.nsd.nsd_series import TR
from nsd_pipeline.nsd.series_runs import BrainMask, TrSource, agree_on_tr, read_runs
from nsd_pipeline.resources import StoreResource
from nsd_pipeline.storage.store import Draft
from nsd_pipeline.surface import FsaverageOperator, SeriesLayout, write_series
from nsd_pipeline.surface.cleaned_runs import Treatment, load_run

DEFAULT_QUERY = "type != 'Fmri' or space in ['fsaverage', 'func1pt8mm', 'func1mm']"
"""The reference's filter, and NSD's prepared time series, of which `bold` takes one space."""


class SeriesConfig(dg.Config):
    """Which recordings are used, and what is done to them."""

    query: str = Field(
        default=DEFAULT_QUERY,
        description="pandas query over the event columns, which leaves one space a run",
    )
    confounds: list[str] = Field(
        default=[],
        description="columns of the confounds to regress out, patterns like trans_* included;"
        " the reference uses none",
    )
    high_pass: float | None = Field(
        default=None, gt=0, description="remove fluctuations slower than so many Hz"
    )
    fwhm: float | None = Field(
        default=None, gt=0, description="smooth volumes with a Gaussian of so many mm first"
    )
    tr_from: TrSource = Field(
        default="both",
        description="what says a recording's repetition time: its sidecar, its header (some"
        " releases of fMRIPrep write a wrong one), or both, which then have to agree",
    )
    brain_mask: BrainMask = Field(
        default="run",
        description="where the brain is in volumes in MNI space: run, by the mask beside each, or"
        " template, by nilearn's MNI152, where there is none (deepprep)",
    )

    def decisive(self) -> dict[str, object]:
        """All settings that the series depend on.

        The last two came later and count where they are chosen: what was made before stays.
        """
        chosen = self.model_dump()
        for name, default in (("tr_from", "both"), ("brain_mask", "run")):
            if chosen[name] == default:
                del chosen[name]
        return chosen


@ranged_asset(
    group_name="surface",
    kinds={"zarr"},
    code_version="1",
    partitions_def=partitions.sessions,
    deps=[
        "bold",
        "bold_events",
        dg.AssetDep("fsaverage5_operator", partition_mapping=partitions.subject_spaces_to_sessions),
    ],
)
@fails_plainly
def fsaverage5_series(
    context: dg.AssetExecutionContext, config: SeriesConfig, store: StoreResource
) -> None:
    """A session's time series on fsaverage5: Zarr group of (sample, vertex), run after run.

    Each run is detrended and z-scored on its own; repetition time and where runs begin are among
    the attributes. Windows are not stored: a model slices the series. NSD's prepared time series
    go by `fsaverage5_operator`.
    """
    artifacts = store.open()
    treatment = Treatment(
        config.confounds, config.high_pass, config.fwhm, config.tr_from, config.brain_mask
    )
    left_out: dict[str, list[int]] = {}

    @cache
    def operator(subject: str, space: Space) -> FsaverageOperator:
        return load_operator(artifacts, require_operator(artifacts, subject, space))

    def recipe(partition: str) -> Recipe:
        upstream = require_all(artifacts, partition, bold=keys.bold, bold_events=keys.bold_events)
        left_out[partition] = left_out_runs(upstream["bold"])
        subject, _ = layout.parse_session_key(partition)
        for space in set(TR).intersection(upstream["bold"].metadata["spaces"]):
            upstream["fsaverage5_operator"] = require_operator(artifacts, subject, space)
        return Recipe(
            keys.fsaverage5_series(partition),
            inputs={name: manifest.fingerprint for name, manifest in upstream.items()},
            config=config.decisive(),
        )

    def make(partition: str, _: Recipe, draft: Draft) -> Facts:
        subject, session = layout.parse_session_key(partition)
        events = filter_events(
            read_events(artifacts.folder(keys.bold_events(partition)) / EVENTS_FILE), config.query
        )
        spaces = sole_recordings(events, partition)
        folder = artifacts.folder(keys.bold(partition))
        recordings = {(each.run, each.space): each for each in read_runs(folder)}
        last_onset = events[events["type"] == "Image"].groupby("run")["start"].max()
        parts, stated = [], []
        for run, space in spaces.items():
            find_operator = partial(operator, subject, cast("Space", space))
            series, tr = load_run(recordings[run, space], folder, find_operator, treatment)
            if (onset := float(last_onset[run])) >= len(series) * tr:
                raise InvalidFileError(
                    f"{folder / recordings[run, space].files[0]} ends after {len(series) * tr:.1f}"
                    f" s, but an image of run {run} came on at {onset:.1f} s.",
                    next_step="check that the recording is complete, and that events and recording"
                    " are of the same run.",
                )
            parts.append(series)
            stated.append((f"run {run} of {partition}", tr))
            context.log.info(
                f"{partition}: run {run} of {len(spaces)} ({space}), {len(series)} samples"
            )
        repetition_time = agree_on_tr(stated) or 0.0
        layout_of_runs = SeriesLayout.of_runs(
            repetition_time, {run: len(part) for run, part in zip(spaces, parts, strict=True)}
        )
        data = np.concatenate(parts)
        parts.clear()
        space = ", ".join(dict.fromkeys(spaces.values()))
        attributes = {"subject": subject, "session": session, "source_space": space}
        departures: dict[str, object] = {}
        if left_out[partition]:
            departures["runs_left_out"] = left_out[partition]
        if config.tr_from != "both":
            departures["tr_from"] = config.tr_from
        if config.brain_mask == "template" and any(
            recordings[each].kind == "mni" for each in spaces.items()
        ):
            departures["brain_mask"] = f"MNI152 template of nilearn {version('nilearn')}"
        write_series(
            draft.folder, data, layout_of_runs, attributes | config.decisive() | departures
        )
        return {name.replace("_", " "): fact for name, fact in departures.items()} | {
            "space": space,
            "tr": repetition_time,
            "runs": len(spaces),
            "samples": len(data),
            "nan_share": float(np.isnan(data).all(axis=0).mean()),
        }

    materialize_artifacts(context, artifacts, recipe=recipe, make=make)
