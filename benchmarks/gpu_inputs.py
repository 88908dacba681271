"""Inputs of the check of a GPU: sizes, trials of random numbers, and a random DINOv2-giant."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.embeddings import GIANT, LAYERS, PROCESSOR, SMALL
from nsd_pipeline.decoding.config import DataDtype, TrainingConfig
from nsd_pipeline.decoding.rows import NUMPY_DTYPES, HeldRows, StoredRows, as_tensor
from nsd_pipeline.decoding.trials import Trials


class Line(NamedTuple):
    """What was looked at, what was found, and what was asked for; ``ok`` None: nothing was."""

    what: str
    found: str
    wanted: str = ""
    ok: bool | None = None


Lines = Iterator[Line]


def bar(sizes: "Sizes", what: str, found: float, most: float, unit: str = "") -> Line:
    """Build the line of a time that may be this long at most, if inputs are of full size."""
    line = limit(what, found, most, unit)
    return line if sizes == Sizes() else line._replace(wanted="", ok=None)


def limit(what: str, found: float, most: float, unit: str = "") -> Line:
    """Build the line of a number that may be this large at most."""
    return Line(what, f"{found:.3g}{unit}", f"<= {most:g}{unit}", bool(found <= most))


@dataclass(frozen=True)
class Sizes:
    """How large the inputs are; the defaults are NSD's own.

    ``few_trials`` are those of comparisons, which the CPU computes as well.
    """

    vertices: int = 20_484
    width: int = 1536
    batch: int = 64
    few_trials: int = 1_000
    subject: tuple[int, int, int] = (18_000, 4_500, 3_000)
    everyone: tuple[int, int, int] = (152_000, 38_000, 0)
    test_images: int = 1_000
    epochs: int = 40
    model: str = "DINOv2-giant"
    photos: int = 3_000
    encoder_batches: tuple[int, ...] = (16, 64, 128)

    def config(self, **settings: Any) -> TrainingConfig:
        """Settings of a training that runs through all its epochs."""
        chosen = {"batch_size": self.batch, "n_epochs": self.epochs, **settings}
        return TrainingConfig(patience=chosen["n_epochs"], **chosen)


SMALL_SIZES: Final = Sizes(
    vertices=50, width=8, batch=16, few_trials=100, subject=(200, 60, 40), everyone=(400, 90, 0),
    test_images=20, epochs=2, model="a small DINOv2", photos=8, encoder_batches=(2, 4),
)  # fmt: skip


def random_rows(shape: tuple[int, int], dtype: DataDtype, device: torch.device) -> NDArray[Any]:
    """Rows (R, V) in host memory; a GPU draws them, which takes the CPU a minute for a cohort."""
    rows = np.empty(shape, NUMPY_DTYPES[dtype])
    draws = torch.Generator(device).manual_seed(0)
    for part in torch.split(as_tensor(rows), 4096):
        part.copy_(torch.randn(part.shape, generator=draws, device=device))
    return rows


def trials(
    values: NDArray[Any], splits: tuple[int, int, int], *, width: int, n_times: int = 1
) -> Trials:
    """Trials of rows (R, V) for training, validation and test, each image three times."""
    n_trials = sum(splits)
    image = np.arange(n_trials) // 3
    names = np.repeat(["train", "val", "test"], splits)
    table = pd.DataFrame({"subject": "subj01", "session": 1, "image_id": image, "split": names})
    targets = np.random.default_rng(1).standard_normal((image[-1] + 1, width), np.float32)
    return Trials(
        rows=HeldRows(values),
        first_row=np.arange(n_trials),
        n_times=n_times,
        targets=targets,
        target_index=image,
        table=table,
    )


class _Session:
    """Serves rows (R, V) as the reader of a stored session does."""

    chunk_rows = 75

    def __init__(self, values: NDArray[np.float32]) -> None:
        self._values = values
        self.n_rows, self.n_vertices = values.shape

    def read(self, rows: NDArray[np.int64], *, out: NDArray[np.float32]) -> object:
        return np.take(self._values, rows, axis=0, out=out)


def stored(values: NDArray[np.float32], dtype: DataDtype) -> StoredRows:
    """Rows (R, V) that are read when they are wanted, and shuffled in full."""
    return StoredRows([_Session(values)], _Session.chunk_rows, window=len(values), dtype=dtype)


@contextmanager
def random_encoder(sizes: Sizes, device: torch.device) -> Iterator[Path]:
    """Write a model of DINOv2-giant's shape with random weights, those of the blocks that run."""
    from transformers import Dinov2Config, Dinov2Model
    from transformers.utils import logging

    shape = GIANT if sizes.model == "DINOv2-giant" else SMALL
    cut = shape | {"num_hidden_layers": int(LAYERS * shape["num_hidden_layers"])}
    config = Dinov2Config(**cut, use_swiglu_ffn=True, image_size=518, patch_size=14)
    torch.manual_seed(0)
    logging.disable_progress_bar()
    with torch.device(device):
        model = Dinov2Model(config)
    with TemporaryDirectory() as folder:
        model.cpu().save_pretrained(folder, max_shard_size="50GB")
        del model
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | shape))
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
        yield Path(folder)
