"""Which image was shown when, and where the fMRI of it lies."""

from functools import cache, cached_property
from threading import Lock
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from nsd_pipeline import folders, partitions
from nsd_pipeline.errors import MappingError, Remake
from nsd_pipeline.events import (
    DEFAULT_QUERY,
    EVENT_COLUMNS,
    build_events,
    filter_events,
    read_events,
    write_events,
)
from nsd_pipeline.events.table import EVENTS_FILE
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.design import ExperimentDesign, read_experiment_design, responses_file
from nsd_pipeline.nsd.layout import betas_files
from nsd_pipeline.nsd.mapping import check_mapping, read_responses, read_stimulus_info
from nsd_pipeline.steps.raw import DESIGN_FILE, STIMULUS_INFO_FILE, Design
from nsd_pipeline.steps.running import step_asset
from nsd_pipeline.steps.step import Metadata, Plan, Step, Tools
from nsd_pipeline.storage.store import Draft, Store

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = [dg.TableColumn(each.name, each.dtype, each.description) for each in EVENT_COLUMNS]


class EventTables(Step):
    """A step whose artifacts are tables of events, one a session."""

    partitions = partitions.sessions

    @classmethod
    def read(cls, store: Store, session: str) -> "pd.DataFrame":
        """Read a session's table."""
        return read_events(store.folder(cls.key(session)) / EVENTS_FILE)


class Events(EventTables):
    """One row per event of a session: where its betas lie, and which image every trial showed.

    The three sources that say which trial showed which image are checked against each other.
    """

    name = folders.EVENTS
    asks_source = True

    def __init__(self, tools: Tools, config: None = None) -> None:
        super().__init__(tools, config)
        self._design_made = Design.made(self.store)
        self._tables = self.store.folder(self._design_made.key)
        # Sessions of one subject share both.
        self._responses_of = cache(self._read_responses)
        self._listed = cache(lambda folder: set(self.source.list(f"{folder}/")))
        self._listing: dict[str, Lock] = {}

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        return step_asset(
            cls, group_name="events", kinds={"parquet"}, deps=[Design.name], columns=COLUMNS
        )

    # Read when they are needed: a schedule's tick asks how sessions stand, and needs neither.
    @cached_property
    def _design(self) -> ExperimentDesign:
        return read_experiment_design(self._tables / DESIGN_FILE)

    @cached_property
    def _stimulus_info(self) -> "pd.DataFrame":
        return read_stimulus_info(self._tables / STIMULUS_INFO_FILE)

    def plan(self, partition: str) -> Plan:
        return Plan(
            inputs={Design.name: self._design_made.fingerprint},
            found={"files": self._files(partition)},
        )

    def _on_source(self, subject: str, space: layout.Space) -> set[str]:
        folder = layout.betas_folder(subject, space)
        # Of the threads that look at a subject's sessions, one lists its files, and all have them.
        with self._listing.setdefault(folder, Lock()):
            return self._listed(folder)

    def _files(self, partition: str) -> dict[str, list[str]]:
        """Files of a session's betas, for each space that has all of them in one format."""
        subject, session = layout.parse_session_key(partition)
        found: dict[str, list[str]] = {}
        for space in layout.SPACES:
            for files in betas_files(subject, session, space).values():
                if space not in found and self._on_source(subject, space).issuperset(files):
                    found[space] = list(files)
        return found

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        subject, session = layout.parse_session_key(partition)
        files: dict[str, list[str]] = plan.config["files"]
        trials = self._design.trials(subject, session)
        answers = self._responses_of(subject)
        check_mapping(
            trials, self._design, self._stimulus_info, answers, subject=subject, session=session
        )
        table = build_events(trials, answers, files)
        write_events(draft.folder / EVENTS_FILE, table)
        return {
            "dagster/partition_row_count": len(table),
            "trials": len(trials),
            "shared trials": int(trials["shared"].sum()),
            "distinct images": int(trials["image_id"].nunique()),
            "spaces": sorted(files),
        }

    def _read_responses(self, subject: str) -> "pd.DataFrame":
        path = self._tables / responses_file(subject)
        if not path.exists():
            raise MappingError(
                f"{self.source.url} had no {layout.responses_key(subject)} when"
                " experiment_design was made.",
                next_step="make experiment_design again once the source has it.",
                remake=Remake(Design.name, None),
            )
        return read_responses(path)


class EventFilter(dg.Config):
    """Which events are kept."""

    query: str = Field(default=DEFAULT_QUERY, description="pandas query over the event columns")


class FsaverageEvents(EventTables):
    """A session's events after the space filter: every trial, and the file that is used."""

    name = folders.FSAVERAGE_EVENTS
    config: EventFilter = EventFilter()
    set_in_runs = EventFilter

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        kinds = {"parquet", "pandas"}
        return step_asset(
            cls, group_name="events", kinds=kinds, deps=[Events.name], columns=COLUMNS
        )

    def plan(self, partition: str) -> Plan:
        upstream = Events.made(self.store, partition)
        return Plan(
            inputs={Events.name: upstream.fingerprint}, settings={"query": self.config.query}
        )

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        table = Events.read(self.store, partition)
        kept = filter_events(table, self.config.query)
        write_events(draft.folder / EVENTS_FILE, kept)
        return {
            "dagster/partition_row_count": len(kept),
            "trials": int((kept["type"] == "Image").sum()),
            "recordings": int((kept["type"] == "Fmri").sum()),
            "dropped": len(table) - len(kept),
        }
