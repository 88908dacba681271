"""How fast a GPU is at what NSD needs, against what it was meant to reach."""

import gc
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.embeddings import LAYERS, photos
from benchmarks.gpu_inputs import Line, Lines, Sizes, bar, random_rows, trials
from nsd_pipeline.decoding import (
    Checkpoint,
    Trials,
    loader,
    predict,
    retrieval_metrics,
    train,
    train_seeds,
)
from nsd_pipeline.decoding import epochs as epochs_module
from nsd_pipeline.decoding.config import DataDtype
from nsd_pipeline.embeddings import ImageEncoder, embed_images
from nsd_pipeline.embeddings.encoder import Dtype
from nsd_pipeline.embeddings.preprocessing import read_preprocessing

_IMAGES: Final = 73_000
_PEAKS: Final = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""bfloat16 without sparsity, in FLOP/s, as NVIDIA's data sheets have it."""
_PRECISIONS: Final[tuple[tuple[DataDtype, str], ...]] = (
    ("float32", "float32"),
    ("float16", "bfloat16"),
)


def encoder(sizes: Sizes, device: torch.device, folder: Path) -> Lines:
    """Photos through the encoder: the network alone, and all the way from memory."""
    images = photos(min(sizes.photos, 512))
    dtypes: tuple[Dtype, ...] = ("bfloat16", "float32")
    for dtype in dtypes:
        encoder = ImageEncoder(folder, LAYERS, dtype=dtype, device=device.type)
        fastest, size = 0.0, 0
        for batch in sizes.encoder_batches:
            prepared = encoder.prepare(images[:batch])
            rate = len(prepared) / _seconds(partial(encoder.encode_prepared, prepared), 3)
            yield Line(f"encoder, {dtype}, {batch} at a time", f"{rate:,.0f} images/s")
            if rate > fastest:
                fastest, size = rate, batch
        yield from _share_of_peak(fastest, encoder.settings, dtype, device)
        if dtype == "bfloat16":
            ids = np.arange(sizes.photos)
            start = time.perf_counter()
            embed_images(encoder, partial(_read, images), ids, batch_size=size, progress=False)
            rate = len(ids) / (time.perf_counter() - start)
            what = f"photos in memory to embeddings, {dtype}, {size} at a time"
            yield Line(what, f"{rate:,.0f} images/s")
            yield bar(sizes, f"all {_IMAGES:,} images at that rate", _IMAGES / rate, 180, " s")
            work = {
                "into page-locked memory, where the card resizes": encoder.prepare,
                "resizing by PIL, where it does not": read_preprocessing(
                    folder, image_size=518, processor="model"
                ).resize_photos,
            }
            for what, prepare in work.items():
                rate = 64 / _seconds(partial(prepare, images[:64]), 3)
                yield Line(what, f"{rate:,.0f} images/s on {os.cpu_count()} cores")


def _read(images: Any, ids: Any) -> Any:
    return images[ids % len(images)]


def _share_of_peak(
    rate: float, settings: dict[str, Any], dtype: str, device: torch.device
) -> Lines:
    if dtype != "bfloat16" or device.type != "cuda" or settings["hidden_state"] != 26:
        return
    # Of a block: 4 maps of the attention, 3 of SwiGLU, and the two products of the attention.
    tokens, width, hidden = 257, 1536, 4096
    maps = 2 * tokens * (4 * width * width + 3 * width * hidden)
    flops = rate * 26 * (maps + 4 * tokens * tokens * width)
    name = torch.cuda.get_device_name(device)
    peak = next((peak for card, peak in _PEAKS.items() if card in name), None)
    found = f"{flops / 1e12:,.0f} TFLOP/s"
    if peak is None:
        yield Line("of the encoder's arithmetic", found)
    else:
        share = flops / peak
        found += f", {share:.0%} of the card's peak"
        yield Line("of the encoder's arithmetic", found, ">= 40%", share >= 0.4)


def epochs(sizes: Sizes, device: torch.device) -> Lines:
    """An epoch with its validation: one subject, and all of them."""
    for who, splits in (("one subject", sizes.subject), ("all subjects", sizes.everyone)):
        for dtype, precision in _PRECISIONS:
            rows = random_rows((sum(splits[:2]), sizes.vertices), dtype, device)
            data = trials(rows, (*splits[:2], 0), width=sizes.width)
            config = sizes.config(n_epochs=4, precision=precision, data_dtype=dtype)
            start = time.perf_counter()
            seconds = _train(data, device, config).history["seconds"]
            around = time.perf_counter() - start - seconds.sum()
            what = f"{who}, {splits[0]:,} trials, data {dtype}, steps {precision}"
            epoch = statistics.median(seconds[1:])
            if who == "all subjects":
                yield bar(sizes, f"{what}: an epoch", epoch, 0.5, " s")
            else:
                yield Line(f"{what}: an epoch", f"{epoch:.3g} s")
            yield Line(f"{what}: onto the card, {rows.nbytes / 1e9:.1f} GB", f"{around:.3g} s")
            if precision == "float32" and who == "one subject":
                yield from _other_ways(data, device, config)
            del rows, data
            _forget(device)


def _other_ways(data: Trials, device: torch.device, config: Any) -> Lines:
    ways = {
        "page-locked batches": patch.object(loader, "_fits", lambda *_: False),
        "without CUDA graphs": patch.object(epochs_module, "graphs_pay", lambda *_: False),
    }
    for way, patched in ways.items():
        with patched:
            seconds = _train(data, device, config).history["seconds"]
        yield Line(f"the same, {way}: an epoch", f"{statistics.median(seconds[1:]):.3g} s")


def seeds(sizes: Sizes, device: torch.device) -> Lines:
    """Seeds of one subject, none of which stops early."""
    splits = (*sizes.subject[:2], 0)
    rows = random_rows((sum(splits), sizes.vertices), "float32", device)
    data = trials(rows, splits, width=sizes.width)
    parts = data.split("train"), data.split("val")
    for n_seeds in (1, 3, 8):
        start = time.perf_counter()
        train_seeds(sizes.config(), *parts, seeds=range(n_seeds), device=device)
        seconds = time.perf_counter() - start
        what = f"{n_seeds} seeds of one subject, {sizes.epochs} epochs each"
        if n_seeds < 8:
            yield Line(what, f"{seconds:.3g} s")
        else:
            yield bar(sizes, what, seconds, 30, " s")


def subject(sizes: Sizes, device: torch.device) -> Lines:
    """One subject from betas in memory to metrics, with a checkpoint after each epoch."""
    rows = random_rows((sum(sizes.subject), sizes.vertices), "float32", device)
    data = trials(rows, sizes.subject, width=sizes.width)
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "training", "the check of a GPU")
        model = _train(data, device, sizes.config(), checkpoint=checkpoint).model
    trained = time.perf_counter()
    test = data.split("test")
    estimates = predict(model, test)
    predicted = time.perf_counter()
    images = (test.table["image_id"].to_numpy() % sizes.test_images).tolist()
    retrieval_metrics(estimates, test.targets[images], images, list(test.table["subject"]))
    end = time.perf_counter()
    yield Line(
        f"one subject from betas in memory to metrics, {sizes.epochs} epochs",
        f"{end - start:.3g} s",
    )
    yield Line(
        "training, predicting, metrics",
        f"{trained - start:.3g} s, {predicted - trained:.3g} s, {end - predicted:.3g} s",
    )


def _train(data: Trials, device: torch.device, config: Any, **options: Any) -> Any:
    return train(config, data.split("train"), data.split("val"), device=device, **options)


def _seconds(work: Callable[[], object], n: int) -> float:
    """Median time of what ends with its result on the CPU; the first time is not counted."""
    times = []
    for _ in range(n + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _forget(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
