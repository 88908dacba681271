"""How runs get their hardware: a GPU per run on a host, jobs on a Slurm cluster, leases in a shell.

Nothing here computes. `devices` and `slurm_jobs` are plain Python; `base`, `gpu` and `slurm` are
Dagster run launchers, named in dagster.yaml; `slurm_worker` is what a Slurm job runs;
`run_processes` knows the processes of runs, also of those that no launcher started.
"""

import lazy_loader

# A lease must not cost the import of the launchers.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "devices": ["GpuLease"],
        "gpu": ["GpuRunLauncher"],
        "slurm": ["SlurmRunLauncher"],
    },
)
