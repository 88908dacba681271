"""What fMRI is kept in: float32, or half of it.

bfloat16 has float32's range and 8 bits of precision, float16 has 11 bits up to 65,504; z-scored
betas need no range. numpy has no bfloat16, so its bits lie in uint16 arrays there.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

DataDtype = Literal["float32", "bfloat16", "float16"]

NUMPY_DTYPES: Final[dict[DataDtype, type[np.generic]]] = {
    "float32": np.float32,
    "bfloat16": np.uint16,
    "float16": np.float16,
}
"""The numpy type whose bytes hold each of them."""


def as_tensor(values: NDArray[Any]) -> "torch.Tensor":
    """Tensor over the same memory: float32, float16 or, for uint16, bfloat16."""
    import torch

    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if values.dtype == np.uint16 else tensor


def fill_rounded(out: NDArray[Any], fill: Callable[[NDArray[np.float32]], object]) -> None:
    """Let something fill an array with float32, rounded to the nearest value that it can hold."""
    if out.dtype == np.float32:
        fill(out)
        return
    import torch

    exact = np.empty(out.shape, np.float32)
    fill(exact)
    as_tensor(out).copy_(torch.from_numpy(exact))
