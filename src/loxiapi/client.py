# SPDX-License-Identifier: Apache-2.0
"""A small synchronous client of the REST API.

One connection a request: the callers are a command line that makes one or two, and an operator that must
notice a server that went away.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

BASE_PATH = "/netlox/v1"
_OK = 200


class UnreachableError(Exception):
    """The server gave no answer: refused, timed out, no route, no such name, or a bad certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the API is and how to get there.

    ``timeout`` is in seconds, 0 waits for ever. ``ca_file`` replaces the system's trusted certificates,
    ``insecure`` skips the check of the certificate altogether. ``agent`` is what the client calls
    itself, for the history of the configuration.
    """

    host: str = "127.0.0.1"
    port: int = 11111
    protocol: str = "http"
    timeout: float = 10
    token: str = ""
    ca_file: str = ""
    insecure: bool = False
    agent: str = ""

    @property
    def url(self) -> str:
        """Base URL; an IPv6 address stands in brackets (RFC 3986 §3.2.2)."""
        return f"{self.protocol}://{self.authority}{BASE_PATH}"

    @property
    def authority(self) -> str:
        """Host and port as they stand in a URL and in the header Host."""
        host = self.host.strip("[]")
        return f"{f'[{host}]' if ':' in host else host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status, body and the server's explanation of a failure ("" when it gave none)."""

    status: int
    body: bytes
    cause: str = ""


class FailedError(Exception):
    """The server refused; ``answer`` says why."""

    def __init__(self, answer: Answer) -> None:
        """Keep the answer."""
        super().__init__(f"HTTP status {answer.status}")
        self.answer = answer


def segments(*parts: str) -> str:
    """Join path segments, each percent-encoded, so that a segment may contain a slash."""
    from urllib.parse import quote  # noqa: PLC0415 few requests name anything

    return "/" + "/".join(quote(part, safe=":") for part in parts)


def send(
    server: Server, method: str, path: str, *, query: dict[str, str] | None = None, body: bytes | None = None
) -> Answer:
    """Send one request to ``path`` below the base path and read the whole answer; raises UnreachableError."""
    from loxiapi.exchange import BadAnswerError, exchange, request_of  # noqa: PLC0415 help and errors send nothing

    address, headers, tls = _connection_of(server)
    try:
        request = request_of(method, BASE_PATH + path + _query(query), headers, body)
        answer = exchange(address, request, timeout=server.timeout or None, tls=tls)
    except (OSError, BadAnswerError, ValueError) as error:
        raise UnreachableError(f"{method} {server.url}{path}: {error or type(error).__name__}") from error
    return Answer(status=answer.status, body=answer.body, cause=answer.headers.get("x-loxilb-cause", ""))


def follow(server: Server, path: str, *, query: dict[str, str] | None = None) -> Iterator[bytes]:
    """Get ``path`` and return the lines of its answer as they come, without empty ones, until the server ends it.

    Raises UnreachableError, and FailedError where the answer is a failure. The server's timeout holds for the start
    alone: a quiet answer is not a lost one.
    """
    from loxiapi.exchange import BadAnswerError, Exchange, lines_of, request_of  # noqa: PLC0415 few follow anything

    address, headers, tls = _connection_of(server)
    answer = Exchange()
    try:
        request = request_of("GET", BASE_PATH + path + _query(query), headers, None)
        yield from lines_of(answer, address, request, timeout=server.timeout or None, tls=tls)
    except (OSError, BadAnswerError, ValueError) as error:
        raise UnreachableError(f"GET {server.url}{path}: {error or type(error).__name__}") from error
    if answer.status != _OK:
        cause = answer.headers.get("x-loxilb-cause", "")
        raise FailedError(Answer(status=answer.status, body=answer.body, cause=cause))


def _connection_of(server: Server) -> tuple[tuple[str, int], dict[str, str], "ssl.SSLContext | None"]:
    """Return address, headers and TLS context of a request."""
    headers = {"Host": server.authority, "Content-Type": "application/json", "Authorization": server.token}
    if server.agent:
        headers["User-Agent"] = server.agent
    tls = _tls(server) if server.protocol == "https" else None
    return (server.host.strip("[]"), server.port), headers, tls


def _query(parameters: dict[str, str] | None) -> str:
    if not parameters:
        return ""
    from urllib.parse import urlencode  # noqa: PLC0415 few requests have one

    return "?" + urlencode(parameters)


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
