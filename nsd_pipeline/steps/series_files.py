"""A session's time series where they were recorded, and when images came on in them.

What `betas` and `events` are to the betas task, `bold` and `bold_events` are to the windowed one.
"""

import os
import re
import shutil
from pathlib import Path

import dagster as dg
from pydantic import Field

from nsd_pipeline import partitions
from nsd_pipeline.errors import NsdError
from nsd_pipeline.events import build_bold_events, write_events
from nsd_pipeline.events.table import EVENTS_FILE
from nsd_pipeline.nsd import bids, layout
from nsd_pipeline.nsd.layout import FunctionalSpace
from nsd_pipeline.nsd.nsd_series import (
    SeriesObject,
    design_onsets,
    download_series,
    inspect_series,
    series_key,
)
from nsd_pipeline.nsd.series_runs import BoldRun, Onsets, read_runs, write_runs
from nsd_pipeline.steps.events import COLUMNS, Events, EventTables
from nsd_pipeline.steps.raw import Design
from nsd_pipeline.steps.running import step_asset
from nsd_pipeline.steps.step import Metadata, Plan, Step, Tools
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.names import parse_folder
from nsd_pipeline.storage.snapshot import Snapshot
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.store import Draft

DERIVATIVES, RAW = (os.environ.get(name, "") for name in ("NSD_BIDS_DERIVATIVES", "NSD_BIDS_RAW"))


class BoldConfig(dg.Config):
    """Where time series come from."""

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
        """Runs of a session that are left out; an NsdError if any named is no session's run."""
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
        """Folders of derivatives and raw tree; an NsdError if one of them is no folder's name."""
        return (
            parse_folder(self.derivatives, what="The derivatives folder (NSD_BIDS_DERIVATIVES)"),
            parse_folder(self.raw, what="The raw BIDS tree (NSD_BIDS_RAW)"),
        )

    def has_session(self, source: Source, session_key: str) -> bool:
        """Whether there is anything of a session where time series come from."""
        subject, session = layout.parse_session_key(session_key)
        if self.derivatives:
            return bids.has_session(self.folders()[0], subject, session)
        first = series_key(subject, session, 1, self.space)
        return first in source.list(first)


class SeriesFiles(Step):
    """A session's runs of BOLD: NSD's prepared time series, or a BIDS derivatives folder.

    `runs.json` lists each run in each space. Files on a bucket are downloaded; a mirror and
    derivatives are read in place.
    """

    name = "bold"
    partitions = partitions.sessions
    config: BoldConfig = BoldConfig()
    set_in_runs = BoldConfig
    optional = True
    unseen = "the files of time series"

    def __init__(self, tools: Tools, config: BoldConfig | None = None) -> None:
        super().__init__(tools, config)
        self._design = Design.read(self.store)
        self._derived: dict[str, list[BoldRun]] = {}
        self._prepared: dict[str, list[SeriesObject]] = {}

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        return step_asset(cls, group_name="raw", kinds={"s3"}, deps=[Design.name])

    @classmethod
    def told_by_manifest(cls, snapshot: Snapshot, made: Manifest) -> bool:  # noqa: ARG003
        return True

    def plan(self, partition: str) -> Plan:
        subject, session = layout.parse_session_key(partition)
        designed = self._design.trials(subject, session)["run"].unique().tolist()
        without = self.config.left_out(partition)
        runs = [run for run in designed if run not in without]
        if not runs or not set(without) <= set(designed):
            raise NsdError(
                f"leave_out of bold names run {', '.join(map(str, without))} of {partition}, which"
                f" has runs {designed[0]} to {designed[-1]}.",
                next_step="leave out runs that there are, and not all of them.",
            )
        # Only where somebody chose it, so that artifacts from before it could be chosen stay.
        chosen = {"left_out": without} if without else {}
        if self.config.derivatives:
            if not self.config.raw:
                raise NsdError(
                    f"bold is given the derivatives {self.config.derivatives}, but no raw BIDS"
                    " tree.",
                    next_step="set `raw`, or NSD_BIDS_RAW, to the tree that has the events.tsv.",
                )
            found = bids.find_runs(*self.config.folders(), subject, session, runs)
            self._derived[partition] = found
            return Plan(
                inputs=_versions(found),
                settings={"source": "bids"} | chosen,
                found={"runs": [each.model_dump() for each in found]},
            )
        space = self.config.space
        objects = inspect_series(self.source, subject, session, space, runs)
        self._prepared[partition] = objects
        files = [info for each in objects for info in (each.volumes, each.design)]
        in_place = all(self.source.local_path(info.key) is not None for info in files)
        return Plan(
            inputs={info.key: info.etag for info in files},
            settings={"source": "nsd", "space": space} | chosen,
            found={"in_place": in_place},
            expected_bytes=0 if in_place else sum(info.n_bytes for info in files),
        )

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        metadata: dict[str, object] = {}
        if without := plan.settings.get("left_out"):
            metadata["runs left out"] = without
        if partition in self._derived:
            runs = self._derived[partition]
        else:
            scratch = self.store.scratch(self.key(partition))
            runs, report = download_series(
                self.source, self._prepared[partition], self.config.space, draft.folder, scratch
            )
            shutil.rmtree(scratch, ignore_errors=True)
            metadata |= {"bytes fetched": report.n_bytes, "seconds of download": report.seconds}
        write_runs(draft.folder, runs)
        return {
            "runs": len({each.run for each in runs}),
            "spaces": sorted({each.space for each in runs}),
            "source": plan.settings["source"],
        } | metadata


def _versions(runs: list[BoldRun]) -> dict[str, str]:
    """Size and modification time of every file that runs in a local folder consist of."""
    named = (
        [*each.files, each.onsets, *(name for name in (each.mask, each.confounds) if name)]
        for each in runs
    )
    versions = {}
    for name in sorted({name for names in named for name in names}):
        try:
            status = Path(name).stat()
        except FileNotFoundError:
            # A clone's file whose content was not fetched: no error until somebody uses it.
            versions[name] = "not here"
        else:
            versions[name] = f"{status.st_size}-{status.st_mtime_ns}"
    return versions


def left_out_runs(manifest: Manifest) -> list[int]:
    """Runs that were left out of a session, by the manifest of `bold`."""
    return list(manifest.config.get("left_out", []))


class SeriesEvents(EventTables):
    """The session's trials with their onsets in the runs, and a row for each run and space.

    The images that the runs' own events name are checked against the experiment design.
    """

    name = "bold_events"
    optional = True

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        needed = [SeriesFiles.name, Events.name]
        return step_asset(cls, group_name="events", kinds={"parquet"}, deps=needed, columns=COLUMNS)

    def plan(self, partition: str) -> Plan:
        upstream = (SeriesFiles.made(self.store, partition), Events.made(self.store, partition))
        return Plan(inputs={manifest.asset: manifest.fingerprint for manifest in upstream})

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        files = SeriesFiles.made(self.store, partition)
        folder = self.store.folder(files.key)

        def onsets(run: BoldRun) -> Onsets:
            path = folder / run.onsets
            if run.onsets_kind == "design":
                return design_onsets(path, run.tr or 0.0)
            return bids.event_onsets(path)

        trials = Events.read(self.store, partition)
        runs, without = read_runs(folder), left_out_runs(files)
        table = build_bold_events(trials, runs, onsets, without)
        write_events(draft.folder / EVENTS_FILE, table)
        n_images = int((table["type"] == "Image").sum())
        metadata: dict[str, object] = {}
        if without:
            n_trials = int((trials["type"] == "Image").sum())
            metadata = {"runs left out": without, "trials left out": n_trials - n_images}
        return metadata | {
            "dagster/partition_row_count": len(table),
            "trials": n_images,
            "recordings": len(table) - n_images,
            "spaces": sorted({each.space for each in runs}),
        }
