"""An S3 server for the load: serves a folder, drops connections, counts who asks for what.

The servers of the tests do one of these each: s3rver neither drops nor counts (and ignores
``If-Match``), moto reads the whole object for every range.
"""

import hashlib
import random
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from nsd_pipeline.launchers.run_processes import RUN_ID_ENV

OTHERS: Final = ""
"""Who asks, where it is no run: the ticks of schedules, in the daemon's code server."""

_SMALL: Final = 2**18


@dataclass(frozen=True)
class Request:
    """One request, as the server saw it.

    Attributes
    ----------
    who
        Run that asked, or `OTHERS`.
    method
        ``GET``, ``HEAD``, or ``LIST``.
    key
        The object, or the prefix of a listing.
    first, sent
        Offset of the first byte, and how many were sent.
    dropped
        Whether the connection was dropped before all were.
    """

    who: str
    method: str
    key: str
    first: int = 0
    sent: int = 0
    dropped: bool = False


@dataclass
class FaultyS3:
    """A bucket on loopback.

    Attributes
    ----------
    folder
        Its objects, by their keys.
    drop
        Share of requests whose connection is dropped: in the midst of a body, before a listing.
    seed
        Of the choice which.
    requests
        All of them, in order.
    """

    folder: Path
    drop: float = 0.0
    seed: int = 0
    url: str = ""
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311, faults are no secrets
        self._lock = threading.Lock()
        self._pids: dict[str, int] = {}

    def cut(self) -> float | None:
        """Share of an answer after which its connection is dropped; None: it is not."""
        with self._lock:
            return self._random.random() if self._random.random() < self.drop else None

    def who(self, port: int) -> str:
        """Run whose process has this end of a connection.

        A run has its id in the environment; see `nsd_pipeline.launchers.run_processes`.
        """
        inode = _socket_inode(port)
        with self._lock:
            if inode not in self._pids:
                self._pids |= _sockets()
            pid = self._pids.get(inode)
        with suppress(OSError):
            for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                name, _, value = entry.decode(errors="replace").partition("=")
                if name == RUN_ID_ENV:
                    return value
        return OTHERS


def _socket_inode(port: int) -> str:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].split(":")[1], 16) == port:
            return fields[9]
    return ""


def _sockets() -> dict[str, int]:
    """Process of every open socket that this user may see, by inode."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    kind, _, inode = str(descriptor.readlink()).partition(":")
                    if kind == "socket":
                        found[inode.strip("[]")] = int(process.name)
    return found


@contextmanager
def serve(folder: Path, *, drop: float = 0.0, seed: int = 0) -> Iterator[FaultyS3]:
    """Serve a folder as a bucket, whatever the bucket's name, on a free port."""
    bucket = FaultyS3(folder, drop, seed)

    class Handler(_Handler):
        s3 = bucket

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    bucket.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    s3: FaultyS3
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._who = self.s3.who(self.client_address[1])

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        if not key:
            prefix = parse_qs(parts.query).get("prefix", [""])[0]
            self._send(200, self._listing(prefix), {}, "LIST", prefix)
            return
        path = self.s3.folder / key
        if ".." in path.parts or not path.is_file():
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>", {}, self.command, key)
            return
        etag, size = _etag(path), path.stat().st_size
        headers = {"ETag": etag, "Last-Modified": formatdate(path.stat().st_mtime, usegmt=True)}
        if self.headers.get("If-Match", etag) != etag:
            self._send(412, b"", headers, self.command, key)
            return
        first, last, status = 0, size - 1, 200
        if "Range" in self.headers:
            start, end = self.headers["Range"].removeprefix("bytes=").split("-")
            first, last, status = int(start), min(int(end or size), size - 1), 206
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        body = b""
        if self.command == "GET":
            with path.open("rb") as file:
                file.seek(first)
                body = file.read(last - first + 1)
        self._send(status, body, headers, self.command, key, first, last - first + 1)

    do_HEAD = do_GET  # noqa: N815

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str],
        method: str,
        key: str,
        first: int = 0,
        length: int | None = None,
    ) -> None:
        cut = self.s3.cut()
        sent = len(body) if cut is None else int(cut * len(body))
        # Noted first: who has the answer may look at once.
        self.s3.requests.append(Request(self._who, method, key, first, sent, cut is not None))
        if cut is None or method == "GET":
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body[:sent])
        if cut is not None:
            self.close_connection = True
            with suppress(OSError):
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

    def _listing(self, prefix: str) -> bytes:
        folder = self.s3.folder / prefix.rpartition("/")[0]
        keys = sorted(
            key
            for path in folder.rglob("*")
            if path.is_file() and (key := str(path.relative_to(self.s3.folder))).startswith(prefix)
        )
        contents = "".join(map(self._entry, keys))
        return (
            "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult"
            " xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><IsTruncated>false</IsTruncated>"
            f"<KeyCount>{len(keys)}</KeyCount>{contents}</ListBucketResult>"
        ).encode()

    def _entry(self, key: str) -> str:
        path = self.s3.folder / key
        when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(path.stat().st_mtime))
        return (
            f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified>"
            f"<ETag>{escape(_etag(path))}</ETag><Size>{path.stat().st_size}</Size></Contents>"
        )


def _etag(path: Path) -> str:
    """The MD5 of a small object; no checksum of one that came in parts, as NSD's large ones."""
    state = path.stat()
    if state.st_size < _SMALL:
        return f'"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}"'
    text = f"{path} {state.st_size} {state.st_mtime_ns}"
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}-2"'


def repeated_bytes(requests: Sequence[Request]) -> int:
    """Bytes that were sent once more, although they had been sent before."""
    ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for each in requests:
        if each.method == "GET" and each.sent:
            ranges[each.key].append((each.first, each.first + each.sent))
    repeated = 0
    for spans in ranges.values():
        end = 0
        for first, last in sorted(spans):
            repeated += max(0, min(last, end) - first)
            end = max(end, last)
    return repeated
