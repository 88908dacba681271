"""The images that were shown, and what a vision model makes of them."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
import numpy as np
from numpy.typing import NDArray

from nsd_pipeline import folders, partitions
from nsd_pipeline.automation import CARRY_ON
from nsd_pipeline.decoding.cohort import read_sessions, sessions_with
from nsd_pipeline.embeddings import (
    ImageEncoder,
    embed_images,
    encoder_identity,
    read_embeddings,
    write_embeddings,
)
from nsd_pipeline.embeddings.encoder import DEFAULT_MODEL
from nsd_pipeline.embeddings.encoder_settings import ENCODER, EncoderSettings
from nsd_pipeline.embeddings.image_set import EMBEDDINGS_FILE
from nsd_pipeline.errors import NotEnoughDataError
from nsd_pipeline.launchers.base import GPU_POOL
from nsd_pipeline.nsd import layout
from nsd_pipeline.nsd.stimuli import (
    INDEX_FILE,
    ImageReader,
    download_images,
    mirror_index,
    open_images,
    part_bytes,
    part_index,
)
from nsd_pipeline.steps.events import FsaverageEvents
from nsd_pipeline.steps.running import step_asset
from nsd_pipeline.steps.step import Metadata, Plan, Step, Tools
from nsd_pipeline.storage.manifest import Manifest
from nsd_pipeline.storage.snapshot import Snapshot
from nsd_pipeline.storage.source import Source
from nsd_pipeline.storage.store import Draft, Store

if TYPE_CHECKING:
    import pandas as pd

PHOTOGRAPHS: Final = "photographs of NSD"
"""What a stimulus set's pictures are, unless generated. NSD's terms forbid passing them on."""


class Stimuli(Step):
    """The photographs that the sessions at hand showed, as they are in NSD's HDF5 file.

    A new session fetches only its new images. NSD's terms forbid passing them on.
    """

    name = folders.STIMULI
    partitions = partitions.stimulus_sets
    asks_source = True
    unseen = "the stimulus file, unless there are newer events"

    def __init__(self, tools: Tools, config: None = None) -> None:
        super().__init__(tools, config)
        self._file = self.source.describe(layout.STIMULI_KEY)
        self._mirror = self.source.local_path(layout.STIMULI_KEY)
        self._needed: dict[str, NDArray[np.int64]] = {}

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        events = dg.AssetDep(
            FsaverageEvents.name, partition_mapping=partitions.sessions_to_stimulus_sets
        )
        return step_asset(
            cls, group_name="raw", kinds={"s3"}, deps=[events], automation_condition=CARRY_ON
        )

    @classmethod
    def told_by_manifest(cls, snapshot: Snapshot, made: Manifest) -> bool:
        """Whether no session's events came after the images: there are no new ones then."""
        subjects = partitions.subjects_of_stimulus_set(str(made.partition))
        return all(
            isinstance(found := snapshot.found[key], Manifest) and found.created < made.created
            for subject in subjects
            for key in snapshot.keys(f"{FsaverageEvents.folder()}/{subject}/")
        )

    @classmethod
    def key(cls, partition: str = "") -> str:
        """Key of a stimulus set's index of images; its images lie in parts beside it."""
        return f"{cls.folder()}/{partition}/index"

    @classmethod
    def part_key(cls, stimulus_set: str, part: str) -> str:
        """Key of some images of a stimulus set that were downloaded together."""
        return f"{cls.folder()}/{stimulus_set}/{part}"

    def plan(self, partition: str) -> Plan:
        image_ids = self._needed[partition] = images_seen(self.store, partition)
        if not len(image_ids):
            raise NotEnoughDataError(
                f"No session in {self.store.url} showed an image of the stimulus set {partition}.",
                next_step="make fsaverage_events of sessions of"
                f" {' or '.join(partitions.subjects_of_stimulus_set(partition))} first.",
            )
        in_place = self._mirror is not None
        return Plan(
            inputs={self._file.key: self._file.etag},
            found={
                "image_ids": hashlib.sha256(image_ids.tobytes()).hexdigest(),
                "in_place": in_place,
            },
            expected_bytes=0 if in_place else part_bytes(len(image_ids)),
        )

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        image_ids = self._needed[partition]
        if self._mirror is not None:
            index, n_bytes = mirror_index(image_ids, self._mirror), 0
        else:
            index, n_bytes = self._fetch_new_images(partition)
        index.to_parquet(draft.folder / INDEX_FILE, index=False)
        generated = layout.GENERATED_KEY in self.source.list(layout.GENERATED_KEY)
        return {
            "images": len(image_ids),
            "bytes fetched": n_bytes,
            "pictures": layout.GENERATED if generated else PHOTOGRAPHS,
        }

    def _fetch_new_images(self, partition: str) -> "tuple[pd.DataFrame, int]":
        """Index of all images needed, after fetching those that no part of this version holds."""
        import pandas as pd

        image_ids, file = self._needed[partition], self._file
        known = self._known_images(partition)
        new = image_ids[~pd.Index(image_ids).isin(known["image_id"])]
        if not len(new):
            return known, 0
        part = hashlib.sha256(file.etag.encode() + new.tobytes()).hexdigest()[:16]
        key = self.part_key(partition, part)
        n_bytes = 0
        if self.store.manifest(key) is None:
            scratch = self.store.scratch(key)
            with self.store.write(
                key,
                asset=self.name,
                partition=partition,
                fingerprint=part,
                code_version="1",
                inputs={file.key: file.etag},
                config={},
                expected_bytes=part_bytes(len(new)),
            ) as draft:
                n_bytes = download_images(self.source, file, new, draft.folder, scratch)
        index = pd.concat([known, part_index(new, part)])
        return index[index["image_id"].isin(image_ids)].sort_values("image_id"), n_bytes

    def _known_images(self, partition: str) -> "pd.DataFrame":
        """Index of the images that have been fetched from this version of the stimulus file."""
        import pandas as pd

        manifest = self.store.manifest(self.key(partition))
        current = {self._file.key: self._file.etag}
        if manifest is None or manifest.inputs != current or manifest.config["in_place"]:
            return part_index(np.empty(0, np.int64), "")
        return pd.read_parquet(self.store.folder(manifest.key) / INDEX_FILE)

    @classmethod
    def open_images(
        cls, store: Store, open_source: Callable[[], Source], stimulus_set: str
    ) -> ImageReader:
        """Reader of a stimulus set's images, wherever they lie."""
        return open_images(
            store,
            cls.made(store, stimulus_set),
            lambda: open_source().local_path(layout.STIMULI_KEY),
        )

    @classmethod
    def pictures(cls, store: Store, stimulus_set: str) -> str:
        """Whether a stimulus set's pictures are `PHOTOGRAPHS` or `layout.GENERATED`.

        What an earlier version fetched does not say; such pictures are taken for NSD's, to be safe.
        """
        return str(cls.made(store, stimulus_set).metadata.get("pictures", PHOTOGRAPHS))


def images_seen(store: Store, stimulus_set: str) -> NDArray[np.int64]:
    """Images of a stimulus set that the sessions in the store showed: ascending, each once."""
    subjects = partitions.subjects_of_stimulus_set(stimulus_set)
    sessions = sessions_with(store, FsaverageEvents.folder(), subjects)
    if not sessions:
        return np.empty(0, np.int64)
    events = read_sessions(store, [FsaverageEvents.key(session) for session in sessions])
    images = events[events["type"] == "Image"]
    shared = images["shared"] == (stimulus_set == partitions.SHARED)
    return np.unique(images.loc[shared, "image_id"].to_numpy(np.int64))


class EncoderConfig(EncoderSettings, dg.Config):
    """Which vision model embeds the images, and how."""


class Embeddings(Step):
    """Embedding of every image at hand: one hidden state of DINOv2-giant, or of what is set.

    Only images that the same settings have not embedded yet go through the model.
    """

    name = folders.EMBEDDINGS
    # It once had NSD_ENCODER's value, which made a folder that was moved another encoder. Those of
    # the default model stay current.
    code_version = f"1 {DEFAULT_MODEL}"
    partitions = partitions.stimulus_sets
    config: EncoderSettings = EncoderConfig()
    set_in_runs = EncoderConfig
    unseen = "the weights and settings of image encoders"

    def __init__(self, tools: Tools, config: EncoderSettings | None = None) -> None:
        super().__init__(tools, config)
        self._identity = encoder_identity(**self.config.settings())
        self._encoder: ImageEncoder | None = None

    @classmethod
    def asset(cls) -> dg.AssetsDefinition:
        return step_asset(
            cls,
            group_name="embeddings",
            kinds={"huggingface", "parquet"},
            deps=[Stimuli.name],
            pool=GPU_POOL,
            automation_condition=CARRY_ON,
            # With the model, so that the UI shows what a change of it makes stale.
            code_version=f"1 {ENCODER}" if cls.set_in_runs is not None else cls.code_version,
            columns=[
                dg.TableColumn("image_id", "int32", "NSD's 0-based 73k row"),
                dg.TableColumn("embedding", "fixed_size_list<float32>", "one value a dimension"),
            ],
        )

    @classmethod
    def told_by_manifest(cls, snapshot: Snapshot, made: Manifest) -> bool:  # noqa: ARG003
        return True

    def plan(self, partition: str) -> Plan:
        images = Stimuli.made(self.store, partition)
        return Plan(inputs={Stimuli.name: images.fingerprint}, settings={"encoder": self._identity})

    def make(self, partition: str, plan: Plan, draft: Draft) -> Metadata:
        images = Stimuli.open_images(self.store, self.tools.open_source, partition)
        wanted = images.image_ids
        ids, values, settings = self._embedded_before(partition, plan)
        new = np.setdiff1d(wanted, ids)
        if len(new):
            encoder = self._on_gpu()
            batch_size = self.config.batch_size or encoder.batch_size
            fresh = embed_images(encoder, images, new, batch_size=batch_size)
            settings = encoder.settings
            ids = np.concatenate([ids, new])
            values = np.concatenate([values.reshape(-1, fresh.shape[1]), fresh])
        keep = np.isin(ids, wanted)
        write_embeddings(draft.folder / EMBEDDINGS_FILE, ids[keep], values[keep], settings)
        norms = np.linalg.norm(values[keep], axis=1)
        return {
            "images": len(wanted),
            "images embedded now": len(new),
            "dimensions": int(values.shape[1]),
            "mean norm": float(norms.mean()),
            "smallest norm": float(norms.min()),
            "largest norm": float(norms.max()),
            "duplicates": int(len(wanted) - len(np.unique(values[keep], axis=0))),
            "encoder": settings,
        }

    def _on_gpu(self) -> ImageEncoder:
        """The encoder, loaded once there is something to embed."""
        if self._encoder is None:
            device = self.held.enter_context(self.tools.gpu.lease())
            self._encoder = ImageEncoder(**self.config.settings(), device=device)
        return self._encoder

    def _embedded_before(
        self, partition: str, plan: Plan
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], dict[str, Any]]:
        """Ids, embeddings and settings of the images that the same encoder has embedded already."""
        manifest = self.store.manifest(self.key(partition))
        if manifest is None or manifest.config != plan.config:
            return np.empty(0, np.int32), np.empty((0, 0), np.float32), {}
        return read_embeddings(self.store.folder(manifest.key) / EMBEDDINGS_FILE)


def embeddings_step(encoder: EncoderSettings | None) -> type[Embeddings]:
    """Step of an experiment's targets; two experiments with one encoder share theirs."""
    if encoder is None or encoder.settings() == EncoderSettings().settings():
        return Embeddings
    settings = json.dumps(encoder.settings(), sort_keys=True)
    model = re.sub(r"\W+", "_", Path(encoder.model).name, flags=re.ASCII)
    name = f"{Embeddings.name}_{model}_{hashlib.sha256(settings.encode()).hexdigest()[:6]}"
    attributes = {
        "name": name,
        "code_version": "1",
        "config": encoder,
        "set_in_runs": None,
        "optional": True,
        "__doc__": f"Embedding of every image at hand: one hidden state of {encoder.model}.",
    }
    return type("OtherEmbeddings", (Embeddings,), attributes)
