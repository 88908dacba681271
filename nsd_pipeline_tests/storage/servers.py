"""S3 servers on loopback, and ways to make them misbehave.

- ``moto_server``: moto, for the protocol: conditions, errors, listings, writing. It reads the whole
  object for every range, so it is of no use for large ones.
- ``s3rver``: serves a folder's files by seeking (see `s3_server`). It ignores ``If-Match``.
  Installed once, into pytest's cache folder.
- :class:`Relay`: stands between client and server, counts, cuts and holds back.
- :class:`ScriptedServer`: answers as told.

A test module imports the fixtures it needs.
"""

import http.server
import itertools
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from nsd_pipeline_tests.storage import s3_server
from nsd_pipeline_tests.storage.s3_server import S3rver

S3RVER_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"}


Environ = dict[str, Any]
_numbers = itertools.count()


@dataclass(frozen=True)
class MotoServer:
    """A moto server, and a client that may do anything on it."""

    url: str
    client: Any

    def put_public(self, bucket: str, key: str, body: bytes) -> str:
        """Put an object that unsigned requests may read; return its ETag."""
        answer = self.client.put_object(Bucket=bucket, Key=key, Body=body, ACL="public-read")
        return str(answer["ETag"])


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    yield MotoServer(url, client)
    server.stop()


class PickyServer:
    """moto, of which some requests are refused or changed, and some answers."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        assert self._server._server is not None
        self._app, self._server._server.app = self._server._server.app, self._answer
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        self.refuses: Callable[[Environ], bool] = lambda _: False
        self.status = "501 Not Implemented"
        self.code = "NotImplemented"
        self.forgets: tuple[str, ...] = ()
        self.changes: Callable[[Environ], None] = lambda _: None
        self.headers: dict[str, Callable[[str], str | None]] = {}
        """Changes of an answer's headers, by their names in small letters."""

    def lack(self, settings: dict[str, Any], told: str) -> str:
        """Set attributes, so that something is missing; return what has to be told of it."""
        vars(self).update(settings)
        return told

    def carry_out(self, environ: Environ) -> Iterable[bytes]:
        """Do what is asked, whatever is answered."""
        return self._app(environ, lambda *_: None)

    def _answer(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        if self.refuses(environ):
            body = f"<Error><Code>{self.code}</Code><Message>No.</Message></Error>".encode()
            length = ("Content-Length", str(len(body)))
            start_response(self.status, [("Content-Type", "application/xml"), length])
            return [body]
        for name in self.forgets:
            environ.pop(name, None)
        self.changes(environ)

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            changed = [
                (name, self.headers.get(name.lower(), str)(value)) for name, value in headers
            ]
            return start_response(status, [each for each in changed if each[1] is not None], *rest)

        return self._app(environ, start)

    def stop(self) -> None:
        self._server.stop()


def another_etag(_: str) -> str:
    """An ETag that no answer had before."""
    return f'"{next(_numbers)}"'


def listing_2(environ: Environ) -> bool:
    """Whether a request asks for version 2 of a listing."""
    return "list-type=2" in environ["QUERY_STRING"]


@pytest.fixture(scope="session")
def s3rver_script(request: pytest.FixtureRequest) -> Path:
    cache = request.config.cache
    assert cache is not None
    try:
        return s3_server.install(cache.mkdir("s3rver"))
    except s3_server.ServerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def s3rver(s3rver_script: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3rver]:
    with s3_server.serve(s3rver_script, tmp_path_factory.mktemp("s3rver")) as server:
        yield server


class Relay:
    """A TCP relay to a server on loopback.

    Parameters
    ----------
    url
        The server.
    cut_after
        Response bytes after which a connection is closed, for the first `n_cuts` connections that
        send so many.
    hold_after
        Response bytes, of all connections together, after which nothing more gets through.
        :attr:`held` tells when that has happened.
    """

    def __init__(
        self, url: str, *, cut_after: int = 0, n_cuts: int = 0, hold_after: int | None = None
    ) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._server = (host, int(port))
        self._cut_after, self.cuts_left, self._hold_after = cut_after, n_cuts, hold_after
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.held = threading.Event()
        self.n_bytes = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            for source, target, answers in ((client, server, False), (server, client, True)):
                threading.Thread(
                    target=self._pump, args=(source, target, answers), daemon=True
                ).start()

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(16384):
                if answers:
                    passed += len(data)
                    if not self._may_pass(len(data), passed):
                        break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _may_pass(self, n_bytes: int, passed: int) -> bool:
        with self._lock:
            if self.cuts_left and passed > self._cut_after:
                self.cuts_left -= 1
                return False
            if self._hold_after is not None and self.n_bytes + n_bytes > self._hold_after:
                self.held.set()
            else:
                self.n_bytes += n_bytes
        if self.held.is_set():
            threading.Event().wait()  # forever: a server that says no more
        return True


@dataclass
class Answer:
    """What a scripted server answers to a GET or HEAD."""

    status: int = 206
    body: bytes = b""
    etag: str = '"v1"'
    total: int | None = None
    content_range: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class ScriptedServer:
    """A server that asks a function for every answer, given the number of the request.

    What the source asks to see what a server is able to do it answers by itself.
    """

    script: Callable[[int], Answer]
    url: str = ""
    requests: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def scripted_server() -> Iterator[Callable[[Callable[[int], Answer]], ScriptedServer]]:
    servers = []

    def start(script: Callable[[int], Answer]) -> ScriptedServer:
        scripted = ScriptedServer(script)
        lock = threading.Lock()
        described: Answer | None = None

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                answer = self._answer()
                self.send_response(answer.status)
                self.send_header("Content-Length", str(len(answer.body)))
                self.send_header("ETag", answer.etag)
                self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
                if answer.status == 206:
                    first = self.headers.get("Range", "bytes=0-")[6:].split("-")[0]
                    last = int(first) + len(answer.body) - 1
                    total = answer.total or last + 1
                    stated = answer.content_range or f"bytes {first}-{last}/{total}"
                    self.send_header("Content-Range", stated)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(answer.body)

            def _answer(self) -> Answer:
                nonlocal described
                # How the source sees what a server can do; scripts are about what comes after.
                if self.headers.get("Range") == "bytes=1-2" and described:
                    return Answer(206, b"??", described.etag, total=len(described.body))
                with lock:
                    number = len(scripted.requests)
                    scripted.requests.append(dict(self.headers.items()))
                answer = scripted.script(number)
                described = answer if self.command == "HEAD" else described
                return answer

            do_HEAD = do_GET  # noqa: N815

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        scripted.url = f"http://127.0.0.1:{server.server_port}"
        return scripted

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
