"""A real Slurm on this host: munged, slurmctld and slurmd on ports and folders of their own.

Needs Debian's `slurm-wlm` and `munge`, and root, without which slurmd does not start jobs; to keep
accounts also `slurmdbd` and `mariadb-server-core`.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nsd_pipeline_tests.launchers.conftest import until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
ACCOUNTING_PROGRAMS = ("sacct", "slurmdbd", "mariadbd", "mariadb-install-db")

# Any character device will do: for those Slurm sets CUDA_VISIBLE_DEVICES, here to 0 and 1.
GRES = """\
AutoDetect=off
NodeName={host} Name=gpu File=/dev/null
NodeName={host} Name=gpu File=/dev/zero
"""

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES PriorityTier=1 OverSubscribe=FORCE:8
PartitionName=urgent Nodes={host} PriorityTier=9 PreemptMode=OFF OverSubscribe=FORCE:8
{accounting}
"""

# Jobs are forgotten by all but the accounts as soon as Slurm allows it.
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
MinJobAge=2
"""

DATABASE = """\
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={ports[0]}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[1]}
StorageUser=slurm
StoragePass=slurm
"""


def why_not(*more: str) -> str | None:
    """Why no Slurm can be started here, or none with more programs."""
    missing = [program for program in (*PROGRAMS, *more) if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not installed; .ci/run says which packages they are in"
    return None if os.geteuid() == 0 else "slurmd needs root to start jobs"


def free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def running(folder: Path, *command: str) -> Iterator[None]:
    """One of Slurm's daemons in the foreground, to the end of the block."""
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    with (folder / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def cluster(folder: Path, *, accounting: bool = False) -> Iterator[Path]:
    """Run a cluster of one node with two GPUs; yields its slurm.conf."""
    host = socket.gethostname().partition(".")[0]
    configuration = folder / "slurm.conf"
    (folder / "gres.conf").write_text(GRES.format(host=host))
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    munge = {
        "key-file": key,
        "socket": folder / "munge.socket",
        "log-file": folder / "munge.log",
        "pid-file": folder / "munge.pid",
        "seed-file": folder / "munge.seed",
    }
    options = [f"--{name}={value}" for name, value in munge.items()]
    environment = {**os.environ, "SLURM_CONF": str(configuration)}

    # --force: munged minds being root, and pytest's folders.
    with running(folder, "munged", "--foreground", "--force", *options), ExitStack() as stack:
        until(lambda: (folder / "munge.socket").exists(), "munged listens")
        lines = stack.enter_context(accounts(folder, host)) if accounting else ""
        configuration.write_text(
            CONFIGURATION.format(
                host=host,
                ports=free_ports(2),
                folder=folder,
                cpus=os.cpu_count(),
                accounting=lines,
            )
        )
        with (
            running(folder, "slurmctld", "-D", "-f", str(configuration)),
            running(folder, "slurmd", "-D", "-f", str(configuration), "-N", host),
        ):
            try:
                until(lambda: is_up(environment), "the node is up")
                yield configuration
            finally:
                subprocess.run(["scancel", "--user=root"], env=environment, check=False)
                until(lambda: not jobs(environment), "no job is left", timeout=30)


@contextmanager
def accounts(folder: Path, host: str) -> Iterator[str]:
    """Run slurmdbd and its database; yields what to add to slurm.conf."""
    data, start = folder / "database", folder / "start.sql"
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root"],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    start.write_text("GRANT ALL ON *.* TO slurm@'127.0.0.1' IDENTIFIED BY 'slurm';\n")
    ports = free_ports(2)
    options = {
        "user": "root",
        "datadir": data,
        "init-file": start,
        "socket": folder / "database.socket",
        "bind-address": "127.0.0.1",
        "port": ports[1],
    }
    settings = folder / "slurmdbd.conf"
    settings.write_text(DATABASE.format(host=host, ports=ports, folder=folder))
    settings.chmod(0o600)  # as slurmdbd asks for
    given = [f"--{name}={value}" for name, value in options.items()]
    with running(folder, "mariadbd", "--no-defaults", *given):
        until(lambda: listens(ports[1]), "the database listens")
        with running(folder, "slurmdbd", "-D"):
            until(lambda: listens(ports[0]), "slurmdbd listens")
            yield ACCOUNTING.format(port=ports[0], folder=folder)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_up(environment: dict[str, str]) -> bool:
    """Whether the node takes jobs."""
    command = ["sinfo", "--noheader", "--partition=main", "--format=%T"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stdout.strip() in ("idle", "mixed", "allocated")


def jobs(environment: dict[str, str]) -> str:
    done = subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True, text=True)
    return done.stdout.strip()
