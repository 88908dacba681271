"""Running parts of the graph on a small dataset, as a run would."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg

from nsd_pipeline.definitions import build_defs
from nsd_pipeline.experiments import Experiment
from nsd_pipeline.storage.opening import open_store

Once = Callable[[str, Callable[[Path], object]], Path]
"""Gives the folder of a name, filled once for all of pytest's processes; see the fixture."""
SESSION_ASSETS = ("betas", "events", "fsaverage_events", "fsaverage5_betas")


def link_tree(folder: Path, copy: Path) -> Path:
    """Copy a folder by hard links: files of the copy are replaced, never written to in place."""
    locks = shutil.ignore_patterns("*.lock")  # one that is held here would be held there
    shutil.copytree(folder, copy, copy_function=os.link, ignore=locks)
    return copy


class SmallNsd(NamedTuple):
    """A generated dataset and an encoder for its images."""

    folder: Path
    encoder: Path

    def copy(self, folder: Path) -> Path:
        """A copy whose files can be replaced, see :func:`link_tree`."""
        return link_tree(self.folder, folder)


@dataclass
class Pipeline:
    """The graph, bound to a source and a folder for artifacts."""

    source: str
    artifacts: Path
    encoder: Path
    instance: dg.DagsterInstance
    experiments: Mapping[str, Experiment] | None = None

    @property
    def store(self):
        return open_store(self.artifacts)

    def run(
        self,
        *assets: str,
        first: str = "",
        last: str = "",
        config: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Materialize assets for a range of partitions; metadata of each one's last one."""
        keys = [dg.AssetKey(asset) for asset in assets]
        defs = build_defs(self.source, str(self.artifacts), self.experiments)
        job = defs.get_repository_def().get_implicit_job_def_for_assets(keys)
        assert job is not None
        settings: dict[str, Any] = {name: dict(value) for name, value in (config or {}).items()}
        if "stimulus_embeddings" in assets:
            settings.setdefault("stimulus_embeddings", {}).setdefault("model", str(self.encoder))
        result = job.execute_in_process(
            instance=self.instance,
            asset_selection=keys,
            tags={
                "dagster/asset_partition_range_start": first,
                "dagster/asset_partition_range_end": last or first,
            }
            if first
            else {},
            run_config={
                "ops": {name: {"config": value} for name, value in settings.items()},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
        )
        self.result = result
        self.failed_checks = [
            f"{check.asset_key.to_user_string()}:{check.check_name}"
            for check in result.get_asset_check_evaluations()
            if not check.passed
        ]
        return {
            event.asset_key.to_user_string(): {
                name: value.value for name, value in event.materialization.metadata.items()
            }
            for event in result.get_asset_materialization_events()
        }

    def run_sessions(self, first: str, last: str = "") -> None:
        self.run("experiment_design")
        self.run(*SESSION_ASSETS, first=first, last=last)

    def run_images(self, *stimulus_sets: str, **config: Any) -> dict[str, dict[str, Any]]:
        for stimulus_set in stimulus_sets:
            found = self.run(
                "stimuli",
                "stimulus_embeddings",
                first=stimulus_set,
                config={"stimulus_embeddings": config} if config else None,
            )
        return found

    def leftovers(self) -> list[str]:
        """Files of unfinished work: drafts and scratch, which a failure must not leave behind."""
        partial = self.artifacts / ".partial"
        return [
            str(path.relative_to(partial))
            for folder in ("drafts", "scratch")
            for path in (partial / folder).rglob("*")
            if path.is_file()
        ]


@contextmanager
def pipeline_in(folder: Path, small_nsd: SmallNsd) -> Iterator[Pipeline]:
    """The graph on a small dataset, with its store in a folder."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Pipeline(str(small_nsd.folder), folder / "artifacts", small_nsd.encoder, instance)
