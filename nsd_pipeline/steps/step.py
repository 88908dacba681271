"""What a step is: it makes the artifacts of one name, and says whether one of them is current.

Everything that asks "is this there, and would it be made again?" asks :meth:`Step.look`: assets
before they make something, schedules and the job ``subject`` before they start a run.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar, Final

import dagster as dg

from nsd_pipeline.errors import ArtifactError, DamagedArtifactError, Remake
from nsd_pipeline.folders import artifact_key
from nsd_pipeline.resources import GpuResource
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.snapshot import Snapshot
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.store import Draft, Store, fingerprint

Metadata = Mapping[str, Any]
"""What is worth knowing of an artifact: JSON values, kept in its manifest and shown in the UI."""

SECONDS: Final = "seconds to make"
"""Metadata of an artifact: how long its step took, for whoever plans more of them."""


@dataclass(frozen=True)
class Plan:
    """What one artifact would be made from now.

    `inputs` are the fingerprint (of artifacts, by their name or key) or ETag (of files, by their
    key) of everything it is made from; `settings` what somebody chose that changes its content, and
    `found` what else decides that: not chosen, but found on the source. The disk is checked for
    `expected_bytes` before anything is written.
    """

    inputs: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)
    expected_bytes: int = 0

    @property
    def config(self) -> dict[str, Any]:
        """Settings and what was found, as a manifest keeps them."""
        return {**self.found, **self.settings}


class Change(Enum):
    """Why an artifact is not current; the first that applies."""

    MISSING = "missing"
    SETTINGS = "made with other settings"
    CODE = "made by another version of the code"
    INPUTS = "made from something that has changed since"


@dataclass(frozen=True)
class Standing:
    """How the artifact of one partition stands.

    `plan` is what it would be made from now, and `manifest` what it was made from, if it is there
    and whole. `change` is why it is not current, None if it is, and `what` names what changed:
    settings or inputs, or versions of the code.
    """

    plan: Plan
    manifest: Manifest | None
    change: Change | None
    what: str = ""


@dataclass(frozen=True)
class Tools:
    """What steps work with: the store, what opens the source, a GPU, and where progress is told."""

    store: Store
    open_source: Callable[[], Source]
    gpu: GpuResource = field(default_factory=GpuResource)
    log: Callable[[str], object] = lambda _: None

    @cached_property
    def source(self) -> Source:
        """The source, opened by the first step that needs it: a bucket has terms to accept."""
        return self.open_source()


class Step(ABC):
    """What makes the artifacts of one name, one for each partition."""

    name: ClassVar[str]
    """Name of the artifacts, which is also the asset's."""
    code_version: ClassVar[str] = "1"
    """Raised when the same inputs and settings would give another content."""
    partitions: ClassVar[dg.StaticPartitionsDefinition | None] = None
    """How the artifacts are cut; None if there is only one."""
    location: ClassVar[str] = ""
    """Folder of the store that the artifacts lie in, where it is not named as they are."""
    suffix: ClassVar[str] = ""
    """Ends the name of that folder."""
    config: Any = None
    """Settings: those of a run, or else the default ones, which the class has."""
    set_in_runs: ClassVar[type[dg.Config] | None] = None
    """Type of the settings, if each run may have its own."""
    experiment_name: ClassVar[str] = ""
    """Experiment that it belongs to; empty if it belongs to all."""
    optional: ClassVar[bool] = False
    """Whether the default way to a model goes without it."""
    asks_source: ClassVar[bool] = False
    """Whether looking at an artifact needs the source."""
    unseen: ClassVar[str] = ""
    """What is not looked at, because it would take long."""

    def __init__(self, tools: Tools, config: Any = None) -> None:
        self.tools, self.store, self.held = tools, tools.store, ExitStack()
        if config is not None:
            self.config = config

    @property
    def source(self) -> Source:
        """The dataset."""
        return self.tools.source

    @classmethod
    @abstractmethod
    def asset(cls) -> dg.AssetsDefinition:
        """The step in Dagster's graph: see `running.step_asset`."""

    @classmethod
    def partition_keys(cls) -> list[str]:
        """Partitions that it can have artifacts of; one without a name if they are not cut."""
        return list(cls.partitions.get_partition_keys()) if cls.partitions else [""]

    @classmethod
    def told_by_manifest(cls, snapshot: Snapshot, made: Manifest) -> bool:  # noqa: ARG003
        """Whether an artifact's manifest has to be enough to judge it: looking would take long."""
        return False

    def close(self) -> None:
        """Give back what it held, such as a GPU."""
        self.held.close()

    @classmethod
    def folder(cls) -> str:
        """Folder of the store that has the artifacts."""
        return f"{cls.location or cls.name}{cls.suffix}"

    @classmethod
    def key(cls, partition: str = "") -> str:
        """Where a partition's artifact lies in the store: ``events/subj01/ses07``."""
        return artifact_key(cls.folder(), partition)

    @abstractmethod
    def plan(self, partition: str) -> Plan:
        """Find out what an artifact would be made from now. Writes nothing, and fetches little.

        An NsdError if it cannot be made: something that it is made from is missing or damaged.
        """

    @abstractmethod
    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        """Write an artifact into a draft's folder, after :meth:`plan` of the same partition."""

    def look(self, partition: str) -> Standing:
        """Say whether a partition's artifact is current, and if not, why.

        It is current if this step would make it again just so. An NsdError if it could not be made
        now: see :meth:`plan`.
        """
        plan = self.plan(partition)
        manifest = self.store.manifest(self.key(partition))
        if manifest is None:
            return Standing(plan, None, Change.MISSING)
        if manifest.fingerprint == self.fingerprint(plan):
            return Standing(plan, manifest, None)
        chosen = {
            name: value
            for name, value in manifest.config.items()
            if name in plan.settings or name not in plan.found
        }
        if settings := _differing(chosen, plan.settings):
            return Standing(plan, manifest, Change.SETTINGS, settings)
        if manifest.code_version != self.code_version:
            versions = f"{manifest.code_version} -> {self.code_version}"
            return Standing(plan, manifest, Change.CODE, versions)
        then, now = {**manifest.config, **manifest.inputs}, {**plan.config, **plan.inputs}
        return Standing(plan, manifest, Change.INPUTS, _differing(then, now))

    def fingerprint(self, plan: Plan) -> str:
        """Short for all that determines an artifact's content."""
        return fingerprint(self.name, self.code_version, plan.config, dict(plan.inputs))

    def bring_up_to_date(self, partition: str) -> tuple[Manifest, Standing]:
        """Make a partition's artifact unless it is current; its manifest, and how it stood."""
        standing = self.look(partition)
        if standing.change is None and standing.manifest is not None:
            self.store.discard_outlived(self.key(partition))
            return standing.manifest, standing
        with self.store.alone(self.key(partition)) as waited:
            if waited:  # another process has made it meanwhile, or has failed
                standing = self.look(partition)
            if standing.change is None and standing.manifest is not None:
                return standing.manifest, standing
            self._make(partition, standing.plan)
        return self.made(self.store, partition), standing

    def _make(self, partition: str, plan: Plan) -> None:
        with self.store.write(
            self.key(partition),
            asset=self.name,
            partition=partition or None,
            fingerprint=self.fingerprint(plan),
            code_version=self.code_version,
            inputs=dict(plan.inputs),
            config=plan.config,
            expected_bytes=plan.expected_bytes,
        ) as draft:
            started = time.perf_counter()
            draft.metadata.update(self.make(partition, plan, draft))
            draft.metadata[SECONDS] = round(time.perf_counter() - started, 3)

    @classmethod
    def made(cls, store: Store, partition: str = "") -> Manifest:
        """Manifest of an artifact that another one is made from.

        An ArtifactError if it has not been made, or is damaged.
        """
        try:
            manifest = store.find(cls.key(partition))
        except DamagedArtifactError as error:
            # A store that cannot read the manifest knows the key alone.
            error.remake = error.remake or Remake(cls.name, partition or None)
            raise
        if manifest is None:
            of = f" of {partition}" if partition else ""
            raise ArtifactError(
                f"{cls.name}{of} has not been made ({store.url}/{cls.key(partition)}).",
                next_step="make it first.",
                remake=Remake(cls.name, partition or None),
            )
        return manifest


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Names under which two mappings have different values."""
    names = sorted({*then, *now})
    return ", ".join(name for name in names if then.get(name) != now.get(name))
