"""The manifests of a store that is full: as the steps would write them, with files that are not."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from nsd_pipeline import partitions
from nsd_pipeline.experiments import read_experiments
from nsd_pipeline.nsd.layout import N_SESSIONS, SUBJECTS, session_key
from nsd_pipeline.steps.events import Events, FsaverageEvents
from nsd_pipeline.steps.images import Embeddings, Stimuli
from nsd_pipeline.steps.measurement import metrics_steps
from nsd_pipeline.steps.raw import Betas, Design
from nsd_pipeline.steps.step import Step, Tools
from nsd_pipeline.steps.surface import SurfaceBetas
from nsd_pipeline.storage.local_store import LocalStore
from nsd_pipeline.storage.manifest import FileRecord, Manifest
from nsd_pipeline.storage.store import fingerprint

_CONTENT = b"generated"
_RECORD = FileRecord(
    bytes=len(_CONTENT),
    sha256="c5aab5ac4a6d7d7c8fbd1e9e9f5a0ad2bbd0f0aa0d2a9fc6d8c1f1c1f0e7d6aa",
)


class KnownStore(LocalStore):
    """A store of which every manifest is known already, or steps would read each many times."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.known: dict[str, Manifest] = {}

    def find(self, key: str) -> Manifest | None:
        return self.known.get(key)

    def keys(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self.known if key.startswith(prefix))


def write_full_store(
    root: Path, n_experiments: int, n_sessions: Mapping[str, int] = N_SESSIONS, chunks: int = 12
) -> int:
    """Write a store of these sessions and of a number of experiments; how many artifacts it has.

    The experiments are ``try_0``, ``try_1``, ... of the file ``experiments.yaml`` beside it.
    """
    file = root.with_name("experiments.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"try_{n}: {{hidden: {n + 8}}}\n" for n in range(n_experiments)))
    store, writer = KnownStore(root), _Writer(root, chunks)
    sessions = [
        session_key(subject, number)
        for subject, count in n_sessions.items()
        for number in range(1, count + 1)
    ]
    cohorts = [*n_sessions, *([partitions.ALL] if len(n_sessions) == len(SUBJECTS) else [])]

    def write(step: type[Step], partition: str, **what: Any) -> None:
        store.known[step.key(partition)] = writer.write(
            step.key(partition), step, partition, **what
        )

    def by_plan(step: Step, partition: str, **metadata: Any) -> None:
        plan = step.plan(partition)
        made = step.fingerprint(plan)
        write(
            type(step),
            partition,
            made=made,
            inputs=dict(plan.inputs),
            config=plan.config,
            **metadata,
        )

    write(Design, "", made="d" * 64)
    tools = Tools(store, _no_source)
    surface = SurfaceBetas(tools)
    for session in sessions:
        config = {"space": "fsaverage", "whole_file": False, "in_place": False}
        write(Betas, session, made=_digest(session), config=config, trials=750)
        inputs = {Design.name: "d" * 64}
        write(Events, session, made=_digest(f"events of {session}"), inputs=inputs)
        by_plan(FsaverageEvents(tools), session)
        by_plan(surface, session, space="fsaverage")
    for stimulus_set in (partitions.SHARED, *n_sessions):
        made = _digest(stimulus_set)
        write(Stimuli, stimulus_set, made=made, config={"in_place": True})
        inputs = {Stimuli.name: made}
        encoder = {"model": "generated", "weights": "0"}
        write(Embeddings, stimulus_set, made=_digest(f"e {made}"), inputs=inputs, encoder=encoder)
    for metrics in metrics_steps(read_experiments(file)).values():
        models = metrics.model(tools)
        for cohort in cohorts:
            by_plan(models, cohort)
            by_plan(metrics(tools), cohort)
    return writer.count


def _no_source() -> Any:
    raise AssertionError("no source is needed")


def _digest(text: str) -> str:
    return fingerprint(text, "1", {}, {})


class _Writer:
    def __init__(self, root: Path, chunks: int) -> None:
        self._root, self._chunks, self.count = root, chunks, 0
        self._now = datetime.now(UTC) - timedelta(days=1)

    def write(
        self,
        key: str,
        step: type[Step],
        partition: str,
        *,
        made: str,
        inputs: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        **metadata: Any,
    ) -> Manifest:
        names = [f"betas/c/{n}" for n in range(self._chunks)] if step is SurfaceBetas else ["file"]
        return self.put(
            Manifest(
                key=key,
                asset=step.name,
                partition=partition or None,
                fingerprint=made,
                code_version=step.code_version,
                created=self._now,
                inputs=dict(inputs or {}),
                config=dict(config or {}),
                files=dict.fromkeys(names, _RECORD),
                metadata=metadata,
            )
        )

    def put(self, manifest: Manifest) -> Manifest:
        self._now += timedelta(seconds=1)
        self.count += 1
        manifest = manifest.model_copy(update={"created": self._now})
        record = self._root / "manifests" / f"{manifest.key}.json"
        for path, content in (
            (record, manifest.to_json().encode()),
            *((self._root / manifest.key / name, _CONTENT) for name in manifest.files),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return manifest


def copy_to_bucket(root: Path, client: Any, bucket: str, version: str = "v1") -> None:
    """Put a local store's artifacts into a bucket, as a store on S3 has them."""
    for path in sorted((root / "manifests").rglob("*.json")):
        manifest = Manifest.model_validate_json(path.read_bytes())
        manifest = manifest.model_copy(update={"version": version})
        body = manifest.to_json().encode()
        client.put_object(Bucket=bucket, Key=f"store/manifests/{manifest.key}.json", Body=body)
        for name in manifest.files:
            key = f"store/{manifest.location}/{name}"
            client.put_object(
                Bucket=bucket, Key=key, Body=(root / manifest.key / name).read_bytes()
            )
