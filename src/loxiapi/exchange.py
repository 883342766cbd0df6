# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 request and its answer on a connection of its own (RFC 9112).

``http.client`` does more, and its imports (mail headers, TLS) take longer than a whole exchange: a command line call
pays for them each time. The answer is parsed by the parser that also serves the API.
"""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from httptools import HttpParserError, HttpResponseParser

if TYPE_CHECKING:
    import ssl

_CHUNK = 1 << 16
_OK = 200
_NOT_IN_HEAD = frozenset("\r\n\0")


class BadAnswerError(Exception):
    """What came back is not a whole HTTP answer."""


class Exchange:
    """A request on its way and what came back: ``status``, ``headers`` (names in lower case) and ``body``."""

    def __init__(self) -> None:
        """Start with nothing come back; the parser calls the methods named ``on_``."""
        self.headers: dict[str, str] = {}
        self.status = 0
        self._chunks: list[bytes] = []
        self._head_complete = self._complete = False

    @property
    def body(self) -> bytes:
        """The body without its transfer coding."""
        return b"".join(self._chunks)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Note that the body follows."""
        self._head_complete = True

    def on_body(self, chunk: bytes) -> None:
        """Take a part of the body."""
        self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        """Note that all of the answer has come."""
        self._complete = True

    def receive(self, connection: socket.socket) -> None:
        """Read the whole answer; raises BadAnswerError, and OSError of the connection."""
        for _ in self.parts(connection):
            pass

    def parts(self, connection: socket.socket) -> Iterator[None]:
        """Read the answer, part by part once its head is whole; raises as :meth:`receive`."""
        parser = HttpResponseParser(self)
        try:
            while not self._complete:
                data = connection.recv(_CHUNK)
                if not data:
                    break
                parser.feed_data(data)
                self.status = parser.get_status_code()
                if self._head_complete:
                    yield
        except HttpParserError as error:
            raise BadAnswerError(f"this is no HTTP answer: {error}") from error
        if not self._complete and (self._delimited or not self._head_complete):
            raise BadAnswerError("the connection was closed before the answer was whole")

    def take(self) -> bytes:
        """Return what has come of the body since the last time."""
        taken = self.body
        self._chunks.clear()
        return taken

    @property
    def _delimited(self) -> bool:
        """Whether the body says where it ends; otherwise the end of the connection does (RFC 9112 §6.3)."""
        return "content-length" in self.headers or "transfer-encoding" in self.headers


def exchange(
    address: tuple[str, int],
    request: bytes,
    *,
    timeout: float | None,
    tls: "ssl.SSLContext | None" = None,
) -> Exchange:
    """Connect, send ``request`` and read the answer; raises BadAnswerError and OSError.

    ``timeout`` is in seconds and holds for each step; None waits for ever.
    """
    answer = Exchange()
    with _connected(address, timeout, tls) as connection:
        connection.sendall(request)
        answer.receive(connection)
    return answer


def lines_of(
    answer: Exchange,
    address: tuple[str, int],
    request: bytes,
    *,
    timeout: float | None,
    tls: "ssl.SSLContext | None" = None,
) -> Iterator[bytes]:
    """Return the lines of an answer's body as they come, without empty ones; raises as :func:`exchange`.

    ``timeout`` holds until the answer begins. Of a failure there are no lines: its body stays in ``answer``.
    """
    rest = b""
    with _connected(address, timeout, tls) as connection:
        connection.sendall(request)
        for _ in answer.parts(connection):
            if answer.status == _OK:
                connection.settimeout(None)
                *whole, rest = (rest + answer.take()).split(b"\n")
                yield from filter(None, whole)


@contextmanager
def _connected(
    address: tuple[str, int], timeout: float | None, tls: "ssl.SSLContext | None"
) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=timeout) as plain:
        connection = tls.wrap_socket(plain, server_hostname=address[0]) if tls else plain
        with connection:
            yield connection


def request_of(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Return the bytes of a request; raises ValueError where a header holds a line break."""
    length = {"Content-Length": str(len(body))} if body is not None else {}
    fields = {**headers, **length, "Connection": "close"}
    for name, value in fields.items():
        if _NOT_IN_HEAD & set(value):
            raise ValueError(f"header {name} holds a line break")
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{head}\r\n".encode("latin-1") + (body or b"")
