"""Where a training stands, so that a killed one goes on from its last epoch.

One safetensors file: tensors as they are, everything else as JSON in its header. It is replaced
atomically after every epoch and knows which training it belongs to.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.decoding.data import Batches
from nsd_pipeline.decoding.persistence import replacing

Tensors = dict[str, Tensor]
Notes = dict[str, Any]

_LOGGER = logging.getLogger(__name__)
_SAMPLE = 64


def identify(
    config: TrainingConfig, device: torch.device, train: Batches, validation: Batches
) -> str:
    """Digest of all that decides how a training goes; of the data, its sizes and a sample."""
    settings = {
        "config": config.model_dump(),
        "device": device.type,
        "torch": torch.__version__,
        "sizes": [
            [data.n_trials, data.n_vertices, data.n_times, data.n_outputs]
            for data in (train, validation)
        ],
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for data in (train, validation):
        gather = data.gather(torch.device("cpu"), _SAMPLE)
        n_sampled = min(_SAMPLE, data.n_trials)
        for values in gather(torch.linspace(0, data.n_trials - 1, n_sampled).long()):
            digest.update(values.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_checkpoint(path: Path, identity: str, tensors: Tensors, notes: Notes) -> None:
    """Replace the checkpoint.

    Parameters
    ----------
    path
        The file.
    identity
        Which training this is: see :func:`identify`.
    tensors
        Tensors on any device, by name.
    notes
        Everything else, as JSON has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"identity": identity, "notes": json.dumps(notes)}
    with replacing(path) as partial:
        save_file({name: value.cpu() for name, value in tensors.items()}, partial, metadata=header)


def read_checkpoint(path: Path, identity: str) -> tuple[Tensors, Notes] | None:
    """Read the checkpoint of this very training, or say why there is nothing to go on from.

    A checkpoint of another training (other settings, other data) or a damaged one is of no use to
    anybody, so the training starts afresh and replaces it.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("identity") != identity:
                _LOGGER.warning("%s is of another training; starting from the beginning.", path)
                return None
            # Clones own their memory, aligned as any other tensor's.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        _LOGGER.warning("%s is damaged (%s); starting from the beginning.", path, error)
        return None
    return tensors, json.loads(header["notes"])
