from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

Golden = Callable[[str], dict[str, NDArray]]


@pytest.fixture(scope="session")
def golden() -> Golden:
    """Inputs of the reference's released code and what it made of them, by file name."""
    folder = Path(__file__).parent.parent / "golden"

    def load(name: str) -> dict[str, NDArray]:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    return load
