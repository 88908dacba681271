"""Rows of the image encoder, at the shape of DINOv2-giant with random weights."""

import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Inputs, Row, Side, Values, fact, faster, less_memory
from benchmarks.worker import Outcome, Repeat, Settings

BATCH: Final = 8
LAYERS: Final = 0.6667
_IMAGE: Final = (425, 425, 3)
PROCESSOR: Final = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
GIANT: Final = {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24}
SMALL: Final = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3}

_FLOAT32, _BFLOAT16 = "ours, float32", "ours, bfloat16"
_HUGGING_FACE: Final = "Hugging Face, all hidden states, float32"
_COSINE: Final = "least cosine to float32"
_AHEAD, _IN_TURN = "ours: read ahead", "read, prepare and encode in turn"


@contextmanager
def _encoder(folder: Path, quick: bool) -> Iterator[Inputs]:
    model = _model(folder / ("small" if quick else "giant"), SMALL if quick else GIANT)
    yield Inputs(
        {"model": str(model)},
        work=f"{BATCH} images, {'small' if quick else 'DINOv2-giant'}, {BATCH} at a time",
    )


def _model(folder: Path, shape: dict[str, int]) -> Path:
    """Write a random model of some shape, in a process that takes its memory with it."""
    if not (folder / "preprocessor_config.json").exists():
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_write_model, args=(folder, shape))
        process.start()
        process.join()
    return folder


def _write_model(folder: Path, shape: dict[str, int]) -> None:
    import torch
    from transformers import Dinov2Config, Dinov2Model
    from transformers.utils import logging

    torch.manual_seed(0)
    config = Dinov2Config(**shape, use_swiglu_ffn=True, image_size=518, patch_size=14)
    logging.disable_progress_bar()
    Dinov2Model(config).save_pretrained(folder, max_shard_size="50GB")
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))


def photos(n_images: int) -> NDArray[np.uint8]:
    """Photos that are not noise: noise of a few pixels, made large."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (n_images, 25, 25, 3), np.uint8)
    return np.repeat(np.repeat(small, 17, axis=1), 17, axis=2)


def encode(settings: Settings) -> Repeat:
    """`ImageEncoder.encode`."""
    from nsd_pipeline.embeddings import ImageEncoder

    encoder = ImageEncoder(settings["model"], layers=LAYERS, dtype=settings["dtype"], device="cpu")
    images = photos(BATCH)

    def repeat() -> Outcome:
        return Outcome({"embeddings": encoder.encode(images, batch_size=BATCH)})

    return repeat


def encode_with_hugging_face(settings: Settings) -> Repeat:
    """The whole model on the same network input, asked for all hidden states, one of them used."""
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    from nsd_pipeline.embeddings.preprocessing import read_preprocessing

    steps = read_preprocessing(Path(settings["model"]), image_size=518, processor="model")
    logging.disable_progress_bar()
    model = AutoModel.from_pretrained(settings["model"], dtype=torch.float32).eval()
    images = photos(BATCH)
    wanted = int(LAYERS * model.config.num_hidden_layers)

    def repeat() -> Outcome:
        with torch.inference_mode():
            pixels = steps.to_network(torch.from_numpy(steps.resize_photos(images)))
            states = model(
                pixel_values=pixels, output_hidden_states=True, interpolate_pos_encoding=True
            ).hidden_states
            return Outcome({"embeddings": states[wanted].mean(dim=1).numpy()})

    return repeat


# --- reading ahead -----------------------------------------------------------------------------


@contextmanager
def _stimuli(folder: Path, quick: bool) -> Iterator[Inputs]:
    import h5py

    n_images = 4 if quick else 16
    path = folder / "stimuli.hdf5"
    with h5py.File(path, "w") as file:
        file["imgBrick"] = photos(n_images)
    with _encoder(folder, quick) as inputs:
        settings = {"stimuli": str(path), "n_images": n_images, "batch": 2 if quick else BATCH}
        yield Inputs(
            {**inputs.settings, **settings, "dtype": "auto"}, work=f"{n_images} images from HDF5"
        )


class _Timed:
    """An encoder that knows how long it was encoding."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.busy = 0.0

    def prepare(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        prepared: NDArray[np.uint8] = self._encoder.prepare(images)
        return prepared

    def encode_prepared(self, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
        start = time.perf_counter()
        embeddings: NDArray[np.float32] = self._encoder.encode_prepared(photos)
        self.busy += time.perf_counter() - start
        return embeddings


def embed_ahead(settings: Settings) -> Repeat:
    """`embed_images`, which reads and prepares the next batches while the encoder runs."""
    from nsd_pipeline.embeddings import embed_images

    return _embed(settings, partial(embed_images, progress=False))


def embed_in_turn(settings: Settings) -> Repeat:
    """Read, prepare and encode one image after the other in one thread, encoding in batches."""

    def in_turn(encoder: _Timed, read: Any, ids: Any, *, batch_size: int) -> Any:
        parts = []
        for start in range(0, len(ids), batch_size):
            one_by_one = [encoder.prepare(read([i])) for i in ids[start : start + batch_size]]
            parts.append(encoder.encode_prepared(np.concatenate(one_by_one)))
        return np.concatenate(parts)

    return _embed(settings, in_turn)


def _embed(settings: Settings, embed: Any) -> Repeat:
    from nsd_pipeline.embeddings import ImageEncoder
    from nsd_pipeline.nsd.stimuli import StimulusFile

    encoder = ImageEncoder(settings["model"], layers=LAYERS, dtype=settings["dtype"], device="cpu")
    ids = np.arange(settings["n_images"])

    def repeat() -> Outcome:
        timed = _Timed(encoder)
        start = time.perf_counter()
        with StimulusFile(settings["stimuli"]) as stimuli:
            embeddings = embed(timed, stimuli.read, ids, batch_size=settings["batch"])
        share = timed.busy / (time.perf_counter() - start)
        return Outcome({"embeddings": embeddings}, {"share of the time encoding": share})

    return repeat


def _cosine(expected: Values, found: Values) -> dict[str, float]:
    x, y = expected["embeddings"], found["embeddings"]
    cosines = (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    return {_COSINE: float(cosines.min())}


ROWS: Final = (
    Row(
        "image-embeddings",
        "Image embeddings",
        _encoder,
        (
            Side(_FLOAT32, encode, {"dtype": "float32"}),
            Side(_BFLOAT16, encode, {"dtype": "bfloat16"}, _cosine),
            Side(_HUGGING_FACE, encode_with_hugging_face),
        ),
        (
            faster(_FLOAT32, _HUGGING_FACE, 1.5, "times faster, float32"),
            less_memory(_FLOAT32, _HUGGING_FACE, 0.65),
            faster(_BFLOAT16, _HUGGING_FACE, 5, "times faster, bfloat16"),
            fact(_COSINE, _BFLOAT16, 0.999),
        ),
        repetitions=2,
        warm_up=False,
        tolerance=1e-5,
    ),
    Row(
        "image-reading",
        "Reading and preparing images while the encoder runs",
        _stimuli,
        (Side(_AHEAD, embed_ahead), Side(_IN_TURN, embed_in_turn)),
        (fact("share of the time encoding", _AHEAD, 0.95),),
        repetitions=2,
        warm_up=False,
        tolerance=1e-5,
    ),
)
