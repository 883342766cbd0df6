# SPDX-License-Identifier: Apache-2.0
"""The client: URLs, TLS, failures."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from loxiapi.client import Answer, Server, UnreachableError, segments, send
from tests.support.replay import Replay, replay


@dataclass(frozen=True, slots=True)
class _Secure:
    server: Replay
    certificate: Path


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Secure]:
    """An https server with a certificate of its own for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=loxt"
    where = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *where], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with replay({"/version": "{}"}, tls=context) as server:
        yield _Secure(server, certificate)


def _to(secure: _Secure, **more: object) -> Server:
    return Server(port=secure.server.port, protocol="https", **more)  # type: ignore[arg-type]


def test_certificate_that_nobody_vouches_for_is_refused(secure: _Secure) -> None:
    """The system's trust is the default."""
    with pytest.raises(UnreachableError, match="certificate verify failed"):
        send(_to(secure), "GET", "/version")


def test_given_certificate_is_trusted(secure: _Secure) -> None:
    """``ca_file`` replaces the system's trust."""
    assert send(_to(secure, ca_file=str(secure.certificate)), "GET", "/version").status == 200


def test_check_can_be_switched_off(secure: _Secure) -> None:
    """``insecure`` takes any certificate."""
    assert send(_to(secure, insecure=True), "GET", "/version").status == 200


def test_missing_certificate_file_is_named(secure: _Secure) -> None:
    """The error says which file."""
    with pytest.raises(UnreachableError, match="cannot read certificates from /nonexistent"):
        send(_to(secure, ca_file="/nonexistent"), "GET", "/version")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:11111/netlox/v1"),
        ("2001::1", "http://[2001::1]:11111/netlox/v1"),
        ("[2001::1]", "http://[2001::1]:11111/netlox/v1"),
        ("lb.example", "http://lb.example:11111/netlox/v1"),
    ],
)
def test_url_has_brackets_where_needed(host: str, url: str) -> None:
    """IPv6 literals only."""
    assert Server(host=host).url == url


def test_segments_keep_their_slashes() -> None:
    """A slash inside a segment is no separator."""
    assert segments("name", "a/b c?%", "2001::1") == "/name/a%2Fb%20c%3F%25/2001::1"


def test_wait_ends_with_the_timeout() -> None:
    """A server that takes the connection and says nothing is given up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="timed out"):
            send(Server(port=silent.getsockname()[1], timeout=0.05), "GET", "/version")

    assert time.monotonic() - began < 4


def test_query_and_body_arrive() -> None:
    """Method, path, query, body and headers as given."""
    with replay({"/x?a=1&b=t+u": "{}"}) as server:
        answer = send(Server(port=server.port, token="t"), "POST", "/x", query={"a": "1", "b": "t u"}, body=b"{}")
        asked = server.asked[0]

    assert (answer.status, answer.body, answer.cause) == (200, b"{}", "")
    assert (asked.method, asked.body, asked.headers["authorization"]) == ("POST", b"{}", "t")


def _answered(*pieces: bytes) -> Answer:
    """Return what the client makes of an answer that comes in pieces, after which the connection ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.recv(4096)
                for piece in pieces:
                    connection.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return send(Server(port=listener.getsockname()[1], timeout=5), "GET", "/version")
        finally:
            thread.join()


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"],
        [b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 4\r\n\r\nbo", b"dy"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n", b"2\r\ndy\r\n0\r\n\r\n"],
        [b"HTTP/1.0 200 OK\r\n\r\nbo", b"dy"],
    ],
    ids=["whole", "in pieces", "chunked", "until the end"],
)
def test_every_way_to_end_a_body_is_understood(pieces: list[bytes]) -> None:
    """RFC 9112 §6.3."""
    assert _answered(*pieces) == Answer(status=200, body=b"body")


@pytest.mark.parametrize(
    "piece",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encod"],
    ids=["nothing", "cut short", "another protocol", "cut in the head"],
)
def test_half_an_answer_is_none(piece: bytes) -> None:
    """Rather an error than a part of a list."""
    with pytest.raises(UnreachableError, match=r"GET http://127\.0\.0\.1:\d+/netlox/v1/version: "):
        _answered(piece)


def test_a_token_with_a_line_break_is_not_sent() -> None:
    """It could add headers."""
    with pytest.raises(UnreachableError, match="header Authorization holds a line break"):
        send(Server(token="a\r\nX: y"), "GET", "/version")
