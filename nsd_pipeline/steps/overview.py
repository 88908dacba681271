"""All of a store at once: how every artifact of every step stands.

Each is asked of its own step (`Step.look`), with what the store had in one moment (`Snapshot`). A
step that could only say so after long reading is judged by its manifests alone; what was not looked
at is told.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from nsd_pipeline.errors import DamagedArtifactError, NsdError
from nsd_pipeline.folders import EXPERIMENTS
from nsd_pipeline.nsd.layout import SUBJECTS
from nsd_pipeline.steps.images import Stimuli
from nsd_pipeline.steps.step import Change, Step, Tools
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.snapshot import Snapshot
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.verification import Finding, Kind, other_inputs

_NAMED: Final = 3
"""Settings or inputs that are named for one artifact: a model has up to some hundred."""


class State(StrEnum):
    """How an artifact stands."""

    CURRENT = "up to date"
    OTHER = "other settings"
    STALE = "stale"
    BLOCKED = "cannot be made again"
    DAMAGED = "damaged"
    MISSING = "missing"


@dataclass(frozen=True)
class Artifact:
    """One artifact, whether it is there or not: how it stands, and why."""

    partition: str
    key: str
    state: State
    why: str = ""


@dataclass(frozen=True)
class StageOverview:
    """The artifacts of one step; `n_bytes` is what they take."""

    name: str
    experiment: str
    artifacts: list[Artifact]
    n_bytes: int


@dataclass
class Overview:
    """A store's stages, in the order of the graph, and what was not looked at, in words."""

    store: str
    stages: list[StageOverview] = field(default_factory=list)
    not_looked_at: list[str] = field(default_factory=list)


def look_at_store(
    snapshot: Snapshot,
    steps: Sequence[type[Step]],
    open_source: Callable[[], Source] | None,
    *,
    subjects: Sequence[str] = (),
) -> Overview:
    """Say how every artifact of a store stands, of some subjects or, if none is named, of all.

    Steps are all that may have artifacts there: `every_step`. The dataset is opened by
    `open_source`, or left alone if that is None. An ArtifactError if the store does not answer.
    """
    overview = Overview(snapshot.url)
    look = _Look(snapshot, open_source)
    left = set(snapshot.found)
    for step in steps:
        keys = {partition: step.key(partition) for partition in step.partition_keys()}
        folder = step.folder()
        below = left.intersection([folder, *snapshot.keys(f"{folder}/")])
        left -= below
        wanted = [
            each
            for each in keys
            if not subjects or each.startswith(tuple(subjects)) or not each.startswith(SUBJECTS)
        ]
        artifacts = look.at(step, {each: keys[each] for each in wanted})
        artifacts += [
            Artifact(key.removeprefix(f"{folder}/"), key, State.DAMAGED, found.problem)
            for key in sorted(below - set(keys.values()))
            if isinstance(found := snapshot.found[key], DamagedArtifactError)
        ]
        if below or not step.optional:
            shown = below - {key for each, key in keys.items() if each not in wanted}
            n_bytes = sum(each.n_bytes for each in snapshot.recorded_of(shown))
            overview.stages.append(
                StageOverview(step.name, step.experiment_name, artifacts, n_bytes)
            )
    overview.stages += _of_no_step(snapshot, left, look)
    overview.not_looked_at = look.not_looked_at()
    return overview


def _of_no_step(snapshot: Snapshot, keys: set[str], look: "_Look") -> Iterator[StageOverview]:
    """Artifacts that none of the stages makes, by the folder that they lie in."""
    folders: dict[str, list[str]] = {}
    for key in sorted(keys):
        folders.setdefault(_folder_of(key, snapshot.recorded.get(key)), []).append(key)
    for folder, members in folders.items():
        artifacts = [look.by_manifest(key.removeprefix(f"{folder}/"), key) for key in members]
        n_bytes = sum(each.n_bytes for each in snapshot.recorded_of(members))
        first, _, rest = folder.partition("/")
        experiment = rest.split("/")[0] if first == EXPERIMENTS else ""
        yield StageOverview(folder, experiment, artifacts, n_bytes)


def _folder_of(key: str, manifest: Manifest | None) -> str:
    partition = (manifest.partition or "") if manifest else ""
    return key.removesuffix(f"/{partition.replace('_', '/')}") if partition else key


class _Look:
    """Looks at one stage after the other, and notes what it did not look at."""

    def __init__(self, snapshot: Snapshot, open_source: Callable[[], Source] | None) -> None:
        self._snapshot, self._tools = snapshot, Tools(snapshot, self._give_source)
        self._inputs = {finding.key: finding.what for finding in other_inputs(snapshot)}
        self._source: Source | None = None
        self._no_source = "it was not asked"
        self._unseen: dict[str, list[str]] = {}
        if open_source:
            try:
                self._source = open_source()
            except NsdError as error:
                self._no_source = error.problem

    def at(self, step_type: type[Step], keys: dict[str, str]) -> list[Artifact]:
        """Artifacts of a step, by partition."""
        made = {
            partition: found
            for partition, key in keys.items()
            if (found := self._snapshot.found.get(key))
        }
        told = {
            partition
            for partition, found in made.items()
            if isinstance(found, Manifest) and step_type.told_by_manifest(self._snapshot, found)
        }
        step = self._open(step_type) if made.keys() - told else None

        def artifact(partition: str) -> Artifact:
            key = keys[partition]
            if partition not in made:
                return Artifact(partition, key, State.MISSING)
            if isinstance(found := made[partition], DamagedArtifactError):
                return Artifact(partition, key, State.DAMAGED, found.problem)
            if step is None or partition in told:
                return self.by_manifest(partition, key, step_type)
            try:
                standing = step.look(partition)
            except NsdError as error:
                return Artifact(partition, key, State.BLOCKED, error.problem)
            if standing.change is None:
                return Artifact(partition, key, State.CURRENT)
            state = State.OTHER if standing.change is Change.SETTINGS else State.STALE
            names = standing.what.split(", ")
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            what = f" ({', '.join(names[:_NAMED])}{more})" if standing.what else ""
            return Artifact(partition, key, state, f"{standing.change.value}{what}")

        if made and step_type.unseen:
            self._unseen.setdefault(step_type.unseen, []).append(step_type.name)
        if not step_type.asks_source:  # nothing to wait for
            return [artifact(partition) for partition in keys]
        with ThreadPoolExecutor(max_workers=16) as threads:
            return list(threads.map(artifact, keys))

    def _open(self, step: type[Step]) -> Step | None:
        if step.asks_source and self._source is None:
            return None
        try:
            return step(self._tools)
        except NsdError as error:
            self._unseen.setdefault(error.problem, []).append(step.name)
            return None

    def _give_source(self) -> Source:
        if self._source is None:
            raise NsdError(f"The dataset is not at hand: {self._no_source}.", next_step="")
        return self._source

    def by_manifest(self, partition: str, key: str, step: type[Step] | None = None) -> Artifact:
        """Judge an artifact by what its manifest says, beside the other manifests."""
        found = self._snapshot.found[key]
        if isinstance(found, DamagedArtifactError):
            return Artifact(partition, key, State.DAMAGED, found.problem)
        if step and found.code_version != step.code_version:
            versions = f" ({found.code_version} -> {step.code_version})"
            return Artifact(partition, key, State.STALE, f"{Change.CODE.value}{versions}")
        if why := self._inputs.get(key):
            return Artifact(partition, key, State.STALE, why)
        return Artifact(partition, key, State.CURRENT)

    def not_looked_at(self) -> list[str]:
        """What was not looked at, in words."""
        notes = [f"{what} ({', '.join(dict.fromkeys(of))})" for what, of in self._unseen.items()]
        if self._source is None:
            notes.insert(0, f"the dataset's own files: {self._no_source.rstrip('.')}")
        return [*notes, "the content of files (`nsd verify --deep` does)"]


def other_versions(snapshot: Snapshot, steps: Sequence[type[Step]]) -> list[Finding]:
    """Artifacts that were made by another version of the code than this one."""
    versions = {step.name: step.code_version for step in steps}
    indices = {step.key(part) for step in steps for part in step.partition_keys()}
    return [
        Finding(
            Kind.VERSION,
            manifest.key,
            f"{Change.CODE.value} ({manifest.code_version} -> {current})",
            "the next run makes it again.",
        )
        for manifest in snapshot.manifests
        if manifest.key in indices
        and (current := versions[manifest.asset]) != manifest.code_version
    ]


def superseded_images(snapshot: Snapshot) -> list[Finding]:
    """Images that no index names: of an earlier version of the stimulus file, or before a mirror.

    Where there is no index, the next one may still use them.
    """
    found = []
    for key in snapshot.keys(f"{Stimuli.folder()}/"):
        part = snapshot.recorded.get(key)
        index = snapshot.recorded.get(Stimuli.key(part.partition or "") if part else "")
        if part is None or index is None or part.key == index.key:
            continue
        if index.config.get("in_place") or index.inputs != part.inputs:
            found.append(
                Finding(
                    Kind.SUPERSEDED,
                    key,
                    "images of an earlier version of the stimulus file",
                    "`nsd prune` deletes them.",
                    whole=True,
                    n_bytes=part.n_bytes,
                )
            )
    return found
