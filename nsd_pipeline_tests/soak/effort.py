"""How long the trials go on: a moment in the test suite, minutes by ``make soak``.

``NSD_SOAK_MINUTES`` says how many (by default 10), ``NSD_SOAK_SEED`` where random numbers start.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest

SEED: Final = int(os.environ.get("NSD_SOAK_SEED", "33"))
MINUTES: Final = float(os.environ.get("NSD_SOAK_MINUTES", "10"))


@dataclass(frozen=True)
class Effort:
    """What a trial may cost.

    Attributes
    ----------
    cases
        Random cases that are enough.
    seconds
        Time after which those that were tried are enough.
    """

    cases: int
    seconds: float

    def numbers(self) -> Iterator[int]:
        """Count the cases until it is enough."""
        start = time.monotonic()
        for number in range(self.cases):
            yield number
            if time.monotonic() - start > self.seconds:
                return


def efforts(short: int, soak: int, *, share: float) -> Callable[..., object]:
    """Parametrize a test by its `effort`: so many cases in the suite, and so many in the soak.

    Parameters
    ----------
    short, soak
        Numbers of cases.
    share
        Part of the soak's time that the test may take.
    """
    return pytest.mark.parametrize(
        "effort",
        [
            pytest.param(Effort(short, 600), id="short"),
            pytest.param(Effort(soak, MINUTES * 60 * share), id="soak", marks=pytest.mark.soak),
        ],
    )
