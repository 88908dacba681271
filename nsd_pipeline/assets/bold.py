"""Recordings instead of betas: a session's runs of BOLD, and when images came on in them.

What `betas`, `events` and `fsaverage5_betas` are to the betas task, `bold`, `bold_events` and
`fsaverage5_series` are to the windowed one. Everything before and after is shared.
"""

import os
import re
import shutil
from pathlib import Path

import dagster as dg
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
from nsd_pipeline.assets.events import COLUMN_SCHEMA, EVENTS_FILE
from nsd_pipeline.errors import NsdError
from nsd_pipeline.events import (
    build_bold_events,
    read_events,
    write_events,
)
from nsd_pipeline.nsd import bids, layout
from nsd_pipeline.nsd.design import read_experiment_design
from nsd_pipeline.nsd.layout import FunctionalSpace
from nsd_pipeline.nsd.nsd_series import (
    SeriesObject,
    design_onsets,
    download_series,
    inspect_series,
    series_key,
)
from nsd_pipeline.nsd.series_runs import BoldRun, Onsets, read_runs, write_runs
from nsd_pipeline.resources import SourceResource, StoreResource
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.places import parse_folder
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.store import Draft

DERIVATIVES, RAW = (os.environ.get(name, "") for name in ("NSD_BIDS_DERIVATIVES", "NSD_BIDS_RAW"))


class BoldConfig(dg.Config):
    """Where recordings come from."""

    derivatives: str = Field(
        default=DERIVATIVES,
        description="folder that deepprep or fMRIPrep wrote; empty for NSD's prepared time series,"
        " from the source. The default is NSD_BIDS_DERIVATIVES's",
    )
    raw: str = Field(
        default=RAW,
        description="raw BIDS tree (nsddata_rawdata), which has the events; only with derivatives."
        " The default is NSD_BIDS_RAW's",
    )
    space: FunctionalSpace = Field(
        default="func1pt8mm",
        description="which of NSD's prepared time series (TR 4/3 s, or 1 s); not with derivatives",
    )
    leave_out: list[str] = Field(
        default=[],
        description="runs to go on without, such as subj01_ses05_run07: those that were not"
        " recorded or preprocessed well. Their trials are left out too",
    )

    def left_out(self, session_key: str) -> list[int]:
        """Runs of a session that are left out.

        Raises
        ------
        NsdError
            If any of `leave_out` is no run of a session.
        """
        runs = []
        for name in self.leave_out:
            named = re.fullmatch(r"(subj\d\d_ses\d\d)_run(\d\d)", name)
            if not named or named[1] not in partitions.SESSIONS:
                raise NsdError(
                    f"leave_out of bold has {name!r}, which is no run of a session of NSD.",
                    next_step="write each run as in subj01_ses05_run07.",
                )
            if named[1] == session_key:
                runs.append(int(named[2]))
        return sorted(set(runs))

    def folders(self) -> tuple[Path, Path]:
        """Folders of the derivatives and of the raw tree, where there are derivatives.

        Raises
        ------
        NsdError
            If one of them is no folder's name.
        """
        return (
            parse_folder(self.derivatives, what="The derivatives folder (NSD_BIDS_DERIVATIVES)"),
            parse_folder(self.raw, what="The raw BIDS tree (NSD_BIDS_RAW)"),
        )


def has_bold(config: BoldConfig, bucket: Source, session_key: str) -> bool:
    """Whether there is anything of a session where recordings come from."""
    subject, session = layout.parse_session_key(session_key)
    if config.derivatives:
        return bids.has_session(config.folders()[0], subject, session)
    first = series_key(subject, session, 1, config.space)
    return first in bucket.list(first)


@ranged_asset(
    group_name="raw",
    kinds={"s3"},
    code_version="1",
    partitions_def=partitions.sessions,
    deps=["experiment_design"],
)
@fails_plainly
def bold(
    context: dg.AssetExecutionContext,
    config: BoldConfig,
    source: SourceResource,
    store: StoreResource,
) -> None:
    """A session's runs of BOLD: NSD's prepared time series, or a BIDS derivatives folder.

    `runs.json` lists each run in each space. Files on a bucket are downloaded; a mirror and
    derivatives are read in place.
    """
    bucket, artifacts = source.open(), store.open()
    manifest = require(artifacts, keys.EXPERIMENT_DESIGN, asset="experiment_design")
    design = read_experiment_design(artifacts.folder(manifest.key) / "nsd_expdesign.mat")
    derived: dict[str, list[BoldRun]] = {}
    prepared: dict[str, list[SeriesObject]] = {}
    left_out: dict[str, list[int]] = {}
    space: FunctionalSpace = config.space

    def recipe(partition: str) -> Recipe:
        subject, session = layout.parse_session_key(partition)
        designed = design.trials(subject, session)["run"].unique().tolist()
        left_out[partition] = without = config.left_out(partition)
        runs = [run for run in designed if run not in without]
        if not runs or not set(without) <= set(designed):
            raise NsdError(
                f"leave_out of bold names run {', '.join(map(str, without))} of {partition}, which"
                f" has runs {designed[0]} to {designed[-1]}.",
                next_step="leave out runs that there are, and not all of them.",
            )
        # Only where somebody chose it, so that artifacts from before it could be chosen stay.
        chosen = {"left_out": without} if without else {}
        if config.derivatives:
            if not config.raw:
                raise NsdError(
                    f"bold is given the derivatives {config.derivatives}, but no raw BIDS tree.",
                    next_step="set `raw`, or NSD_BIDS_RAW, to the tree that has the events.tsv.",
                )
            found = bids.find_runs(*config.folders(), subject, session, runs)
            derived[partition] = found
            return Recipe(
                keys.bold(partition),
                inputs=_versions(found),
                config={"source": "bids", "runs": [each.model_dump() for each in found]} | chosen,
            )
        objects = inspect_series(bucket, subject, session, space, runs)
        prepared[partition] = objects
        files = [info for each in objects for info in (each.volumes, each.design)]
        in_place = all(bucket.local_path(info.key) is not None for info in files)
        return Recipe(
            keys.bold(partition),
            inputs={info.key: info.etag for info in files},
            config={"source": "nsd", "space": space, "in_place": in_place} | chosen,
            expected_bytes=0 if in_place else sum(info.n_bytes for info in files),
        )

    def make(partition: str, plan: Recipe, draft: Draft) -> Facts:
        facts: dict[str, object] = {}
        if left_out[partition]:
            facts["runs left out"] = left_out[partition]
        if partition in derived:
            runs = derived[partition]
        else:
            scratch = artifacts.scratch(plan.key)
            runs, report = download_series(
                bucket,
                prepared[partition],
                space,
                draft.folder,
                scratch,
                max_concurrency=source.max_concurrency,
            )
            shutil.rmtree(scratch, ignore_errors=True)
            facts |= {"bytes fetched": report.n_bytes, "seconds": report.seconds}
        write_runs(draft.folder, runs)
        return {
            "runs": len({each.run for each in runs}),
            "spaces": sorted({each.space for each in runs}),
            "source": plan.config["source"],
        } | facts

    materialize_artifacts(context, artifacts, recipe=recipe, make=make)


def _versions(runs: list[BoldRun]) -> dict[str, str]:
    """Size and modification time of every file that runs in a local folder consist of.

    Of clones people fetch what they use: what is a name without content is no error until then.
    """
    named = (
        [*each.files, each.onsets, *(name for name in (each.mask, each.confounds) if name)]
        for each in runs
    )
    paths = sorted({name for names in named for name in names})
    return {name: _version(Path(name)) for name in paths}


def _version(path: Path) -> str:
    try:
        status = path.stat()
    except FileNotFoundError:
        return "not here"
    return f"{status.st_size}-{status.st_mtime_ns}"


def left_out_runs(manifest: Manifest) -> list[int]:
    """Runs that were left out of a session's recordings, by the manifest of `bold`."""
    return list(manifest.config.get("left_out", []))


@ranged_asset(
    group_name="events",
    kinds={"parquet"},
    code_version="1",
    partitions_def=partitions.sessions,
    deps=[bold, "events"],
    metadata=COLUMN_SCHEMA,
)
@fails_plainly
def bold_events(context: dg.AssetExecutionContext, store: StoreResource) -> None:
    """The session's trials with their onsets in the runs, and a row for each run and space.

    The images that the recordings' own events name are checked against the experiment design.
    """
    artifacts = store.open()
    left_out: dict[str, list[int]] = {}

    def recipe(partition: str) -> Recipe:
        upstream = require_all(artifacts, partition, bold=keys.bold, events=keys.events)
        left_out[partition] = left_out_runs(upstream["bold"])
        return Recipe(
            keys.bold_events(partition),
            inputs={name: manifest.fingerprint for name, manifest in upstream.items()},
        )

    def make(partition: str, _: Recipe, draft: Draft) -> Facts:
        folder = artifacts.folder(keys.bold(partition))

        def onsets(recording: BoldRun) -> Onsets:
            path = folder / recording.onsets
            if recording.onsets_kind == "design":
                return design_onsets(path, recording.tr or 0.0)
            return bids.event_onsets(path)

        trials = read_events(artifacts.folder(keys.events(partition)) / EVENTS_FILE)
        runs = read_runs(folder)
        table = build_bold_events(trials, runs, onsets, left_out[partition])
        write_events(draft.folder / EVENTS_FILE, table)
        images = table[table["type"] == "Image"]
        facts: dict[str, object] = {}
        if left_out[partition]:
            n_trials = int((trials["type"] == "Image").sum())
            facts = {
                "runs left out": left_out[partition],
                "trials left out": n_trials - len(images),
            }
        return facts | {
            "dagster/partition_row_count": len(table),
            "trials": len(images),
            "recordings": len(table) - len(images),
            "spaces": sorted({each.space for each in runs}),
        }

    materialize_artifacts(context, artifacts, recipe=recipe, make=make)
