"""Stand-ins on loopback for the servers that no test machine has, which record what they are asked.

They answer as little as Dagster's launchers need, and check what they are sent by the published
schemas.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Recorder:
    """A server of JSON: remembers requests, answers from a table.

    Parameters
    ----------
    answers
        Status and body by method and path; what is not there is answered with 404. A body that is
        None stands for the one that was sent.
    """

    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    address: str = ""

    def sent(self, method: str, path: str) -> Any:
        """The only body that was sent so."""
        (body,) = [sent for how, to, sent in self.requests if (how, to) == (method, path)]
        return body

    def paths(self, method: str) -> list[str]:
        """Paths that were asked for in a way."""
        return [path for how, path, _ in self.requests if how == method]


@contextmanager
def serving(recorder: Recorder) -> Iterator[Recorder]:
    """Serve on loopback while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            body = json.loads(sent) if sent else None
            recorder.requests.append((self.command, path, body))
            status, answer = recorder.answers.get((self.command, path), (404, {"message": path}))
            content = b"" if status == 204 else json.dumps(answer or body or {}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    recorder.address = f"127.0.0.1:{server.server_port}"
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()
