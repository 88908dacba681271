"""What is known of a model from its configuration alone, by building it on torch's meta device.

Tensors there have shapes and no numbers, so a model of any size takes well under a second and no
memory. Found this way: what a model takes, which list of blocks can be cut, and the shape of each
hidden state, for photos of the right size and of twice that.
"""

import contextlib
import copy
import inspect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nsd_pipeline.embeddings.model_files import ModelError

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]
MOST_MODULES: Final = 10_000
"""DINOv2-giant has some 800, and the largest models of images some thousand."""
_LARGEST_NUMBER: Final = 10**6
"""Of widths, sizes and numbers of blocks in a configuration."""


@dataclass(frozen=True)
class ModelShapes:
    """Shapes of the hidden states of a whole model, for two photos at a time.

    `hidden_size` is the width of the features as the configuration states it, ``None`` if it does
    not. `shapes` are for photos of the size that will be embedded; ``None`` if the model does not
    run without numbers, because its code decides by values. `grown` are for photos twice as high
    and wide; ``None`` if the model takes one size only and cannot be built for another.
    """

    hidden_size: int | None
    shapes: tuple[Shape, ...] | None
    grown: tuple[Shape, ...] | None


def model_shapes(config: Any, model: Any, input_size: tuple[int, int]) -> ModelShapes:
    """Find the shapes of a model's hidden states.

    The configuration is that of the whole model, and the model is `on_meta`; `input_size` is the
    height and width of what the network will see.
    """
    twice = (2 * input_size[0], 2 * input_size[1])
    grown = _hidden_shapes(model, twice)
    if grown is None and getattr(config, "image_size", None) is not None:
        # It takes one size, as SAM and Hiera do: build the one that takes the other.
        larger = copy.deepcopy(config)
        larger.image_size = twice[0] if isinstance(config.image_size, int) else list(twice)
        with contextlib.suppress(Exception):
            grown = _hidden_shapes(on_meta(larger), twice)
    stated = getattr(config, "hidden_size", None)
    hidden_size = stated if isinstance(stated, int) else None
    return ModelShapes(hidden_size, _hidden_shapes(model, input_size), grown)


def _hidden_shapes(model: Any, size: tuple[int, int]) -> tuple[Shape, ...] | None:
    import torch

    pixels = torch.empty((2, 3, *size), device="meta")
    try:
        with torch.inference_mode():
            return tuple(tuple(state.shape) for state in hidden_states(model, pixels))
    except Exception:
        # A model's code may raise anything for tensors without numbers, or for another size.
        return None


def other_inputs(model: Any) -> list[str]:
    """Names of the arguments besides pixels without which a model does not run."""
    return [
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name != "pixel_values"
    ]


def list_of_blocks(config: Any, whole: Any, n_blocks: int, hidden_state: int) -> str | None:
    """Name of the one module list that is as long as ``num_hidden_layers`` says, if it can be cut.

    A smaller model is built and compared: exactly one list may differ in length and no weight in
    shape.
    """
    import torch

    # To see which list it is, something must be cut, even where all blocks are wanted.
    n_fewer = hidden_state if hidden_state < n_blocks else n_blocks - 1
    try:
        cut = on_meta(with_blocks(config, n_fewer))
    except Exception:
        # A model's code may raise anything for fewer blocks. Then it runs whole.
        return None

    def lengths(model: torch.nn.Module) -> dict[str, int]:
        return {
            name: len(module)
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.ModuleList)
        }

    shapes = {name: weight.shape for name, weight in whole.state_dict().items()}
    if any(shapes.get(name) != weight.shape for name, weight in cut.state_dict().items()):
        return None
    before, after = lengths(whole), lengths(cut)
    changed = [name for name in after if after[name] != before[name]]
    if len(changed) != 1 or (before[changed[0]], after[changed[0]]) != (n_blocks, n_fewer):
        return None
    return changed[0]


def with_blocks(config: Any, n_blocks: int) -> Any:
    """Copy of a configuration with another number of blocks."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = n_blocks
    return config


def on_meta(config: Any) -> Any:
    """Build a model that has shapes and no memory, in eval mode.

    Raises whatever a model's code trips over; a ValueError if the configuration asks for more than
    any model has.
    """
    import torch
    from transformers import AutoModel

    check_numbers(config.to_dict())
    with torch.device("meta"), quiet(), _few_modules():
        return AutoModel.from_config(config, trust_remote_code=False).eval()


def check_numbers(value: Any) -> None:
    """Refuse numbers for which a model's code would make a list as long, before any module."""
    if isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            check_numbers(each)
    elif isinstance(value, int) and value > _LARGEST_NUMBER:
        raise ValueError("it states a number that is too large for any model")


@contextlib.contextmanager
def _few_modules() -> Iterator[None]:
    """Refuse a model of more modules than any has: one line of a configuration can ask for 2**31.

    They have no numbers here, but each takes some 10 kB and a tenth of a millisecond.
    """
    from torch.nn.modules.module import register_module_module_registration_hook

    numbers = itertools.count(1)

    def count(*_: object) -> None:
        if next(numbers) > MOST_MODULES:
            raise ValueError(f"it would have more than {MOST_MODULES:,} modules")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def size_arguments(model: Any, pixels: "torch.Tensor") -> dict[str, bool]:
    """Ask for interpolated positions where the image is not of the size the model was made for."""
    made_for = getattr(model.config, "image_size", None)
    if isinstance(made_for, int):
        made_for = (made_for, made_for)
    if made_for is not None and tuple(pixels.shape[-2:]) == tuple(made_for):
        return {}
    name = "interpolate_pos_encoding"
    return {name: True} if name in inspect.signature(model.forward).parameters else {}


def hidden_states(model: Any, pixels: "torch.Tensor") -> "tuple[torch.Tensor, ...]":
    """Run a whole model; `ModelError` if it does not give its hidden states."""
    arguments = size_arguments(model, pixels)
    output = model(pixel_values=pixels, output_hidden_states=True, **arguments)
    states = getattr(output, "hidden_states", None)
    if not states:
        raise ModelError(
            f"The model {type(model).__name__} does not give its hidden states.",
            next_step="name a vision transformer, for example facebook/dinov2-giant.",
        )
    return tuple(states)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from reporting every weight that is left out on purpose."""
    from transformers.utils import logging

    verbosity, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()
