"""A decoder of a user's own: any torch module, found by its import path.

Settings name it as ``package.module:Class``. It is made as ``Class(n_vertices=..., n_times=...,
n_outputs=..., **arguments)`` and maps fMRI (B, V, T) to estimates (B, n_outputs), for any B. It is
tried when it is made, because what is wrong with it would otherwise show after hours: a width that
no image has, weights that cannot be saved.

Importing a module runs it. So the path comes from the settings of whoever runs this code, never
from an artifact (see ``saved_models.load_model``).
"""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from nsd_pipeline.errors import NsdError

_CONTRACT = "docs/decoders.md says what such a class takes and gives."


class OwnDecoder(nn.Module):
    """Holds a module of a user's own class, as ``own``.

    `path` is ``package.module:Class``; the fMRI of a trial has shape (n_vertices, n_times), image
    embeddings have width `n_outputs`, and `arguments` are what else the class takes. An NsdError if
    the class cannot be imported or made, or if what it made is no decoder.
    """

    def __init__(
        self, path: str, n_vertices: int, n_times: int, n_outputs: int, arguments: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.path = path
        self.settings = {"n_vertices": n_vertices, "n_times": n_times, "n_outputs": n_outputs}
        try:
            self.own = _import_class(path)(**self.settings, **arguments)
        except NsdError:
            raise
        except Exception as error:
            raise self._refusal(
                f"cannot be made with {self.settings} and the arguments {dict(arguments)}"
                f" ({type(error).__name__}: {error})",
                f"let its __init__ take these, or change `arguments`. {_CONTRACT}",
            ) from error
        self._try()

    def forward(self, x: Tensor) -> Tensor:
        """Estimates (B, n_outputs) from fMRI (B, V, T)."""
        estimate = self.own(x)
        wanted = (len(x), self.settings["n_outputs"])
        if not isinstance(estimate, Tensor) or estimate.shape != wanted:
            found = estimate.shape if isinstance(estimate, Tensor) else type(estimate).__name__
            raise self._refusal(
                f"gives {_words(found)} for fMRI {_words(x.shape)}, where image embeddings are"
                f" {_words(wanted)}",
                f"let it give one row of {wanted[1]} values a trial. {_CONTRACT}",
            )
        return estimate

    def _try(self) -> None:
        """Estimate from noise, for several trials and for one: an epoch's last batch may be it."""
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise self._refusal("has nothing to train", f"give it parameters. {_CONTRACT}")
        shape = (self.settings["n_vertices"], self.settings["n_times"])
        self.eval()
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            for n_trials in (3, 1):
                noise = torch.randn((n_trials, *shape))
                try:
                    estimate = self(noise)
                except NsdError:
                    raise
                except Exception as error:
                    raise self._refusal(
                        f"fails on fMRI {_words(noise.shape)} ({type(error).__name__}: {error})",
                        f"mend its `forward`. {_CONTRACT}",
                    ) from error
                if not estimate.isfinite().all():
                    raise self._refusal(
                        "gives values that are not finite for noise of mean 0 and deviation 1",
                        f"mend how its weights start, or its `forward`. {_CONTRACT}",
                    )
        self.train()
        try:
            save(dict(self.state_dict()))
        except (RuntimeError, ValueError, AttributeError) as error:
            raise self._refusal(
                f"has weights that cannot be saved ({str(error).strip()})",
                f"let its state_dict have only tensors, each with its own memory. {_CONTRACT}",
            ) from error

    def _refusal(self, problem: str, next_step: str) -> NsdError:
        return NsdError(
            f"The decoder {self.path} (setting `model`) {problem}.", next_step=next_step
        )


def _words(shape: object) -> str:
    return str(tuple(shape)) if isinstance(shape, tuple) else f"a {shape}"


def _import_class(path: str) -> type[nn.Module]:
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the module does when it is run
        raise NsdError(
            f"The decoder {path} (setting `model`) cannot be imported"
            f" ({type(error).__name__}: {error}).",
            next_step="install its package where this runs, or put its folder on PYTHONPATH, and"
            " write the path as package.module:Class.",
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise NsdError(
            f"The decoder {path} (setting `model`) is no class of torch modules.",
            next_step=f"name a subclass of torch.nn.Module. {_CONTRACT}",
        )
    return found
