"""Which device an asset computes on."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pydantic import Field

from nsd_pipeline.launchers import GpuLease


class GpuResource(dg.ConfigurableResource["GpuResource"]):
    """A GPU for the time that an asset needs one.

    A run that the launcher gave a device to uses that one. `dagster asset materialize`, which no
    launcher sees, waits for a free device, so that two shells do not share one.
    """

    timeout: float | None = Field(
        default=None, description="seconds to wait for a free GPU before failing; no limit if unset"
    )

    @contextmanager
    def lease(self) -> Iterator[str | None]:
        """Hold a GPU for the length of a ``with`` block.

        Yields
        ------
        str or None
            Name of the device for torch; None where there is no GPU to choose, and torch's own
            choice stands.

        Raises
        ------
        NsdError
            If no GPU became free in time.
        """
        with GpuLease(timeout=self.timeout) as lease:
            yield _torch_device(lease.index)


def _torch_device(index: int | None) -> str | None:
    if index is None:
        return None
    import torch

    # A driver can show GPUs that this build of torch has no use for.
    return f"cuda:{index}" if torch.cuda.is_available() else "cpu"
