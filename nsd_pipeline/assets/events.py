"""Which image was shown when, and where the recordings of it lie."""

import functools

import dagster as dg
import pandas as pd
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
from nsd_pipeline.errors import MappingError
from nsd_pipeline.events import (
    DEFAULT_QUERY,
    EVENT_COLUMNS,
    build_events,
    filter_events,
    read_events,
    write_events,
)
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.design import read_experiment_design, responses_file
from nsd_pipeline.nsd.layout import betas_files
from nsd_pipeline.nsd.mapping import check_mapping, read_responses, read_stimulus_info
from nsd_pipeline.resources import SourceResource, StoreResource
from nsd_pipeline.storage.store import Draft

EVENTS_FILE = "events.parquet"

COLUMN_SCHEMA = {
    "dagster/column_schema": dg.TableSchema(
        [
            dg.TableColumn(column.name, column.dtype, description=column.description)
            for column in EVENT_COLUMNS
        ]
    )
}


@ranged_asset(
    group_name="events",
    kinds={"parquet"},
    code_version="1",
    partitions_def=partitions.sessions,
    deps=["experiment_design"],
    metadata=COLUMN_SCHEMA,
)
@fails_plainly
def events(context: dg.AssetExecutionContext, source: SourceResource, store: StoreResource) -> None:
    """One row per event of a session: where its recordings lie, and which image every trial showed.

    The three sources that say which trial showed which image are checked against each other.
    """
    bucket, artifacts = source.open(), store.open()
    design_manifest = require(artifacts, keys.EXPERIMENT_DESIGN, asset="experiment_design")
    tables = artifacts.folder(design_manifest.key)
    design = read_experiment_design(tables / "nsd_expdesign.mat")
    stimulus_info = read_stimulus_info(tables / "nsd_stim_info_merged.csv")
    responses: dict[str, pd.DataFrame] = {}
    files: dict[str, dict[str, list[str]]] = {}

    def responses_of(subject: str) -> pd.DataFrame:
        if subject not in responses:
            path = tables / responses_file(subject)
            if not path.exists():
                raise MappingError(
                    f"{bucket.url} had no {layout.responses_key(subject)} when experiment_design"
                    " was materialized.",
                    next_step="materialize experiment_design again once the source has it.",
                )
            responses[subject] = read_responses(path)
        return responses[subject]

    def recipe(partition: str) -> Recipe:
        subject, session = layout.parse_session_key(partition)
        files[partition] = {
            space: present
            for space in layout.SPACES
            if (present := bucket_files(subject, session, space))
        }
        return Recipe(
            keys.events(partition),
            inputs={"experiment_design": design_manifest.fingerprint},
            config={"files": files[partition]},
        )

    @functools.cache
    def folder(subject: str, space: layout.Space) -> set[str]:
        return set(bucket.list(f"{layout.betas_folder(subject, space)}/"))

    def bucket_files(subject: str, session: int, space: layout.Space) -> list[str]:
        """A session's files in a space, in one format; none unless all of them are there."""
        for wanted in betas_files(subject, session, space).values():
            if folder(subject, space).issuperset(wanted):
                return list(wanted)
        return []

    def make(partition: str, _: Recipe, draft: Draft) -> Facts:
        subject, session = layout.parse_session_key(partition)
        trials = design.trials(subject, session)
        answers = responses_of(subject)
        check_mapping(trials, design, stimulus_info, answers, subject=subject, session=session)
        table = build_events(trials, answers, files[partition])
        write_events(draft.folder / EVENTS_FILE, table)
        return {
            "dagster/partition_row_count": len(table),
            "trials": len(trials),
            "shared trials": int(trials["shared"].sum()),
            "distinct images": int(trials["image_id"].nunique()),
            "spaces": sorted(files[partition]),
        }

    materialize_artifacts(context, artifacts, recipe=recipe, make=make)


class EventFilter(dg.Config):
    """Which events are kept."""

    query: str = Field(default=DEFAULT_QUERY, description="pandas query over the event columns")


@ranged_asset(
    group_name="events",
    kinds={"parquet", "pandas"},
    code_version="1",
    partitions_def=partitions.sessions,
    deps=[events],
    metadata=COLUMN_SCHEMA,
)
@fails_plainly
def fsaverage_events(
    context: dg.AssetExecutionContext, config: EventFilter, store: StoreResource
) -> None:
    """A session's events after the space filter: every trial, and the recording that is used."""
    artifacts = store.open()

    def recipe(partition: str) -> Recipe:
        upstream = require(artifacts, keys.events(partition), asset="events", partition=partition)
        return Recipe(
            keys.fsaverage_events(partition),
            inputs={"events": upstream.fingerprint},
            config={"query": config.query},
        )

    def make(partition: str, _: Recipe, draft: Draft) -> Facts:
        table = read_events(artifacts.folder(keys.events(partition)) / EVENTS_FILE)
        kept = filter_events(table, config.query)
        write_events(draft.folder / EVENTS_FILE, kept)
        return {
            "dagster/partition_row_count": len(kept),
            "trials": int((kept["type"] == "Image").sum()),
            "recordings": int((kept["type"] == "Fmri").sum()),
            "dropped": len(table) - len(kept),
        }

    materialize_artifacts(context, artifacts, recipe=recipe, make=make)
