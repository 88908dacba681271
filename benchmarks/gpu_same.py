"""What a GPU computes is what the CPU computes, on every way that batches and photos take."""

import contextlib
import tempfile
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.embeddings import LAYERS, photos
from benchmarks.gpu_inputs import Line, Lines, Sizes, limit, random_rows, stored, trials
from nsd_pipeline.decoding import (
    Checkpoint,
    Trials,
    epochs,
    loader,
    model,
    predict,
    train_seeds,
    training,
)
from nsd_pipeline.decoding.config import DataDtype, TrainingConfig
from nsd_pipeline.decoding.loader import HostLoader, Loader, ResidentLoader
from nsd_pipeline.decoding.rows import NUMPY_DTYPES, as_tensor
from nsd_pipeline.embeddings import ImageEncoder, embed_images

_CPU = torch.device("cpu")
_SEEDS = (0, 1, 2)


def encoder(sizes: Sizes, device: torch.device, folder: Path) -> Lines:
    """Embeddings of the same photos: CPU and GPU, both dtypes, any batch, read ahead or not."""
    images = photos(4)
    make = partial(ImageEncoder, folder, LAYERS)
    exact = make(device="cpu").encode(images)
    for dtype, most in (("float32", 1e-4), ("bfloat16", 3e-2)):
        found = make(device=device.type, dtype=dtype)  # type: ignore[arg-type]
        embeddings = found.encode(images, batch_size=4)
        what = f"{sizes.model}, {dtype}: difference to float32 on the CPU, of the norm"
        yield limit(what, _difference(embeddings, exact), most)
        one_by_one = found.encode(images, batch_size=1)
        what = f"{sizes.model}, {dtype}: one photo at a time and four, of the norm"
        yield limit(what, _difference(one_by_one, embeddings), most)
        ahead = embed_images(
            found, lambda ids: images[ids], np.arange(4), batch_size=4, progress=False
        )
        what = f"{sizes.model}, {dtype}: read ahead, of the norm"
        yield limit(what, _difference(ahead, embeddings), most / 10)


def batches(sizes: Sizes, device: torch.device) -> Lines:
    """Batches from every loader, of all kinds of data, in several orders."""
    exact = random_rows((sizes.few_trials + 3, sizes.vertices), "float32", device)
    unequal: dict[str, int] = {}
    dtypes: tuple[DataDtype, ...] = ("float32", "bfloat16", "float16")
    for dtype, n_times in product(dtypes, (1, 4)):
        rows = stored(exact, dtype)
        held = np.empty(exact.shape, NUMPY_DTYPES[dtype])
        rows.copy(np.arange(len(held)), as_tensor(held))
        data = trials(held, (sizes.few_trials, 0, 0), width=sizes.width, n_times=n_times)
        ways: dict[str, Loader] = {
            "resident": ResidentLoader(data, device),
            "resident, read from the store": ResidentLoader(replace(data, rows=rows), device),
            "page-locked": HostLoader(data, device, sizes.batch),
            "streamed": HostLoader(replace(data, rows=rows), device, sizes.batch),
        }
        for (name, way), seed in product(ways.items(), _SEEDS):
            order = torch.randperm(data.n_trials, generator=torch.Generator().manual_seed(seed))
            parts = torch.split(order, sizes.batch)
            plain = HostLoader(data, _CPU, sizes.batch).batches(parts)
            for expected, given in zip(plain, way.batches(parts), strict=True):
                same = all(torch.equal(a, b.cpu()) for a, b in zip(expected, given, strict=True))
                unequal[name] = unequal.get(name, 0) + (not same)
    for name, number in unequal.items():
        what = "betas and windows, three dtypes, three orders: batches unlike the CPU's"
        yield limit(f"{name}, {what}", number, 0)


def trainings(sizes: Sizes, device: torch.device) -> Lines:
    """Trainings that must end with the same weights."""
    splits = (sizes.few_trials - sizes.batch - 3, sizes.batch + 3, 0)
    rows = random_rows((sizes.few_trials, sizes.vertices), "float32", device)
    data = trials(rows, splits, width=sizes.width)
    train = partial(_train, data, device)
    config = partial(sizes.config, n_epochs=2)
    without_dropout = patch.multiple(model, INPUT_DROPOUT=0.0, BLOCK_DROPOUT=0.0)

    with without_dropout:
        for name in ("FmriMlp", "FmriLinear"):
            on_cpu = _train(data, _CPU, config(model=name))
            on_gpu = train(config(model=name))
            yield _same(f"{name} without dropout, weights on the CPU", on_gpu, on_cpu, 1e-4)
            columns = [c for c in on_cpu.history if str(c).startswith(("train/", "val/"))]
            found, expected = (each.history[columns].to_numpy() for each in (on_gpu, on_cpu))
            difference = float(np.abs(found / expected - 1).max())
            yield limit(f"{name}: losses and metrics of validation", difference, 1e-3)
            estimates = (predict(each.model, data.split("val")) for each in (on_gpu, on_cpu))
            yield limit(f"{name}: predictions", _difference(*estimates), 1e-4)

    for seed, precision in product(_SEEDS, ("float32", "bfloat16")):
        settings = config(precision=precision)
        graphed = train(settings, seed=seed)
        with patch.object(epochs, "graphs_pay", lambda *_: False):
            plain = train(settings, seed=seed)
        most = 1e-5 if precision == "float32" else 1e-3
        yield _same(f"CUDA graph and plain steps, seed {seed}, {precision}", graphed, plain, most)

    parts = data.split("train"), data.split("val")
    together = train_seeds(config(), *parts, seeds=_SEEDS, device=device)
    for seed, result in together.items():
        yield _same(f"seed {seed} beside others, and alone", result, train(config(), seed=seed), 0)

    whole = train(config(n_epochs=3))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "training.safetensors", "the check of a GPU")

        def stop(row: Any) -> None:
            if row["epoch"] == 1:
                raise KeyboardInterrupt

        with (
            patch.object(training, "CHECKPOINT_SECONDS", 0.0),
            contextlib.suppress(KeyboardInterrupt),
        ):
            train(config(n_epochs=3), checkpoint=checkpoint, on_epoch=stop)
        resumed = train(config(n_epochs=3), checkpoint=checkpoint)
        yield _same("interrupted after two epochs, and gone on", resumed, whole, 1e-6)
    with patch.object(loader, "_fits", lambda *_: False):
        page_locked = train(config(n_epochs=3))
        streamed = _train(replace(data, rows=stored(rows, "float32")), device, config(n_epochs=3))
    yield _same("page-locked batches and resident ones", page_locked, whole, 1e-5)
    yield _same("streamed batches and resident ones", streamed, whole, 1e-5)


def processes(sizes: Sizes, device: torch.device) -> Lines:
    """Two processes and one, where there are two cards (or none: then gloo)."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        yield Line("two processes by NCCL", "not run: there is one card")
        return
    rows = random_rows((sizes.few_trials, sizes.vertices), "float32", _CPU)
    alone = _train_two_epochs(rows, sizes, device)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(  # type: ignore[attr-defined,no-untyped-call]
            _member, (folder, rows, sizes, device.type), nprocs=2
        )
        both = [torch.load(Path(folder) / str(rank), weights_only=True) for rank in range(2)]
    own = torch.cat([value.cpu().flatten() for value in alone.model.state_dict().values()])
    most = max(_difference(each.numpy(), own.numpy()) for each in both)
    yield limit(f"two processes by {_backend(device.type)}", most, 1e-4)


def _backend(device: str) -> str:
    return "nccl" if device == "cuda" else "gloo"


def _member(rank: int, folder: str, rows: Any, sizes: Sizes, device: str) -> None:
    place = torch.device(device, rank) if device == "cuda" else _CPU
    torch.distributed.init_process_group(
        _backend(device), init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    result = _train_two_epochs(rows, sizes, place)
    weights = [value.cpu().flatten() for value in result.model.state_dict().values()]
    torch.save(torch.cat(weights), Path(folder) / str(rank))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _train_two_epochs(rows: Any, sizes: Sizes, device: torch.device) -> training.TrainingResult:
    splits = (sizes.few_trials - sizes.batch, sizes.batch, 0)
    data = trials(rows, splits, width=sizes.width)
    return _train(data, device, sizes.config(n_epochs=2))


def _train(
    data: Trials, device: torch.device, config: TrainingConfig, **options: Any
) -> training.TrainingResult:
    parts = data.split("train"), data.split("val")
    return training.train(config, *parts, device=device, **options)


def _same(what: str, one: Any, other: Any, most: float) -> Line:
    found, expected = (
        torch.cat([value.cpu().flatten() for value in each.model.state_dict().values()]).numpy()
        for each in (one, other)
    )
    return limit(f"{what}: weights, of the norm", _difference(found, expected), most)


def _difference(found: Any, expected: Any) -> float:
    exact = np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
