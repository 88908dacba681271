"""A real PostgreSQL server on loopback, with a password, gone after the tests."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsd_pipeline_tests.launchers.slurm_cluster import free_ports

PASSWORD = "a password with spaces & $igns"


def programs() -> Path | None:
    """Folder with initdb and pg_ctl: Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    pg_ctl = str(found[-1]) if found else shutil.which("pg_ctl")
    return Path(pg_ctl).parent if pg_ctl else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[dict[str, str]]:
    """The variables of deploy/postgres/dagster.yaml, for a server with an empty database."""
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # The server refuses to run as root; Debian's package made a user for it.
    user = "postgres" if os.geteuid() == 0 else None
    home = Path(tempfile.mkdtemp(prefix="nsd_postgres_"))
    password = home / "password"
    password.write_text(PASSWORD)
    if user:
        for path in (home, password):
            os.chown(path, pwd.getpwnam(user).pw_uid, -1)
    (port,) = free_ports(1)

    def run(program: str, *arguments: str) -> None:
        command = [str(folder / program), "--pgdata", str(home / "data"), *arguments]
        done = subprocess.run(
            command, user=user, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == 0, done.stdout

    try:
        run(
            "initdb",
            *("--username", "dagster", "--pwfile", str(password), "--auth", "scram-sha-256"),
            *("--encoding", "UTF8", "--no-sync"),
        )
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c fsync=off -k {home}"
        run("pg_ctl", "start", "--wait", "--log", str(home / "log"), "--options", options)
        try:
            yield {
                "DAGSTER_POSTGRES_HOST": "127.0.0.1",
                "DAGSTER_POSTGRES_PORT": str(port),
                "DAGSTER_POSTGRES_USER": "dagster",
                "DAGSTER_POSTGRES_PASSWORD": PASSWORD,
                "DAGSTER_POSTGRES_DB": "postgres",
            }
        finally:
            run("pg_ctl", "stop", "--wait", "--mode", "immediate")
    finally:
        shutil.rmtree(home)
