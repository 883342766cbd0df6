# SPDX-License-Identifier: Apache-2.0
"""An HTTP server that gives prepared answers and keeps what it was asked."""

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6

_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; header names are lower-case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Replay:
    """Prepared answers by path without the base path, and the requests so far."""

    port: int
    answers: Mapping[str, str]
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def replay(
    answers: Mapping[str, str], *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[Replay]:
    """Serve ``answers``; any other path is answered with an error of the original."""
    state: Replay

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): text for name, text in self.headers.items()}
            state.asked.append(Asked(self.command, self.path, headers, body))
            text = answers.get(self.path.removeprefix("/netlox/v1"))
            content = (text or '{"code":404,"message":"path was not found"}').encode()
            self.send_response(200 if text else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 names of the standard library

    class Server(ThreadingHTTPServer):
        address_family = AF_INET6 if ":" in host else AF_INET
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that does not trust the certificate hangs up

    with Server((host, 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        state = Replay(port=server.server_address[1], answers=answers)
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_S,), name="loxt-replay")
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
