"""How runs get their hardware: a GPU per run on a host, jobs on a Slurm cluster, leases in a shell.

Nothing here computes. `devices`, `lease`, `process` and `slurm_jobs` are plain Python; `base`,
`gpu` and `slurm` are Dagster run launchers, named in dagster.yaml; `slurm_worker` is what a Slurm
job runs; `shell` knows the runs that no launcher started.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsd_pipeline.launchers.gpu import GpuRunLauncher
    from nsd_pipeline.launchers.lease import GpuLease
    from nsd_pipeline.launchers.slurm import SlurmRunLauncher

__all__ = ["GpuLease", "GpuRunLauncher", "SlurmRunLauncher"]

_MODULES = {"GpuLease": "lease", "GpuRunLauncher": "gpu", "SlurmRunLauncher": "slurm"}


def __getattr__(name: str) -> Any:  # a lease must not cost the import of the launchers
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
