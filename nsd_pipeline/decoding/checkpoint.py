"""Where a training stands, so that a killed one goes on from its last epoch.

One safetensors file: tensors as they are, everything else as JSON in its header. It is replaced
atomically after every epoch and knows which training it belongs to.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nsd_pipeline.decoding.config import TrainingConfig
from nsd_pipeline.storage.replacing import replacing

Tensors = dict[str, Tensor]
Notes = dict[str, Any]

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A file that belongs to exactly one training.

    Parameters
    ----------
    path
        The file.
    recipe
        What the training's data are made from, for instance the fingerprint of the artifact that
        the model will be. Settings, kind of device and version of torch are added to it.
    """

    path: Path
    recipe: str

    def write(
        self, config: TrainingConfig, device: torch.device, tensors: Tensors, notes: Notes
    ) -> None:
        """Replace the checkpoint.

        Parameters
        ----------
        config, device
            The training's.
        tensors
            Tensors on any device, by name.
        notes
            Everything else, as JSON has it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        header = {"identity": self._identity(config, device), "notes": json.dumps(notes)}
        with replacing(self.path) as partial:
            save_file(
                {name: value.cpu() for name, value in tensors.items()}, partial, metadata=header
            )

    def read(self, config: TrainingConfig, device: torch.device) -> tuple[Tensors, Notes] | None:
        """Read the checkpoint of this very training, or say why there is nothing to go on from.

        A checkpoint of another training (other settings, other data) or a damaged one is of no use
        to anybody, so the training starts afresh and replaces it.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("identity") != self._identity(config, device):
                    _LOGGER.warning(
                        "%s is of another training; starting from the beginning.", self.path
                    )
                    return None
                # Clones own their memory, aligned as any other tensor's.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            _LOGGER.warning("%s is damaged (%s); starting from the beginning.", self.path, error)
            return None
        return tensors, json.loads(header["notes"])

    def _identity(self, config: TrainingConfig, device: torch.device) -> str:
        """Digest of all that decides how the training goes."""
        decisive = [self.recipe, config.model_dump(), device.type, torch.__version__]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
