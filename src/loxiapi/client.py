# SPDX-License-Identifier: Apache-2.0
"""A small synchronous client of the REST API.

One connection a request: the callers are a command line that makes one or two, and an operator that must
notice a server that went away.
"""

import http.client
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    import ssl

BASE_PATH = "/netlox/v1"


class UnreachableError(Exception):
    """The server gave no answer: refused, timed out, no route, no such name, or a bad certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the API is and how to get there.

    ``timeout`` is in seconds, 0 waits for ever. ``ca_file`` replaces the system's trusted certificates,
    ``insecure`` skips the check of the certificate altogether.
    """

    host: str = "127.0.0.1"
    port: int = 11111
    protocol: str = "http"
    timeout: float = 10
    token: str = ""
    ca_file: str = ""
    insecure: bool = False

    @property
    def url(self) -> str:
        """Base URL; an IPv6 address stands in brackets (RFC 3986 §3.2.2)."""
        host = self.host.strip("[]")
        return f"{self.protocol}://{f'[{host}]' if ':' in host else host}:{self.port}{BASE_PATH}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status, body and the server's explanation of a failure ("" when it gave none)."""

    status: int
    body: bytes
    cause: str = ""


def segments(*parts: str) -> str:
    """Join path segments, each percent-encoded, so that a segment may contain a slash."""
    return "/" + "/".join(quote(part, safe=":") for part in parts)


def send(
    server: Server, method: str, path: str, *, query: dict[str, str] | None = None, body: bytes | None = None
) -> Answer:
    """Send one request to ``path`` below the base path and read the whole answer; raises UnreachableError."""
    target = BASE_PATH + path + (f"?{urlencode(query)}" if query else "")
    headers = {"Content-Type": "application/json", "Authorization": server.token}
    connection = _connection(server)
    try:
        connection.request(method, target, body=body, headers=headers)
        response = connection.getresponse()
        return Answer(status=response.status, body=response.read(), cause=response.headers.get("X-Loxilb-Cause", ""))
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"{method} {server.url}{path}: {error or type(error).__name__}") from error
    finally:
        connection.close()


def _connection(server: Server) -> http.client.HTTPConnection:
    host = server.host.strip("[]")
    timeout = server.timeout or None
    if server.protocol != "https":
        return http.client.HTTPConnection(host, server.port, timeout=timeout)
    return http.client.HTTPSConnection(host, server.port, timeout=timeout, context=_tls(server))


def _tls(server: Server) -> "ssl.SSLContext":
    import ssl  # noqa: PLC0415 plain HTTP must not pay for loading certificates

    try:
        context = ssl.create_default_context(cafile=server.ca_file or None)
    except OSError as error:
        raise UnreachableError(f"cannot read certificates from {server.ca_file}: {error}") from error
    if server.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
