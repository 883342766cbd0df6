# SPDX-License-Identifier: Apache-2.0
"""Servers and clients with real sockets.

``python -m tests.support.traffic NAME PORT`` serves HTTP and UDP on one port of both IP versions. Every
answer names the server and what it saw: the client's address, and the TTL or hop limit of a datagram. So a
test compares what both ends saw, not only that something came back.

HTTP: ``GET /`` answers that; ``GET /bulk/N`` sends N bytes; ``PUT /`` answers the SHA-256 of the body.
"""

import asyncio
import hashlib
import json
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.patience import SLOWER

CHUNK = hashlib.shake_256(b"loxilb").digest(1 << 16)
"""What bulk transfers repeat: bytes that do not compress and differ at every place."""

_IP_RECVTTL = 12  # ip(7); the socket module does not name it
_PKTINFO = socket.IPV6_PKTINFO
_TTL_KINDS = (socket.IP_TTL, socket.IPV6_HOPLIMIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server saw: its own name, the client's address and port, the TTL (0 where it is not told)."""

    server: str
    client: str
    port: int
    ttl: int = 0
    digest: str = ""


def chunks(size: int) -> Iterator[bytes]:
    """Yield ``size`` bytes of the bulk pattern."""
    whole, rest = divmod(size, len(CHUNK))
    for _ in range(whole):
        yield CHUNK
    yield CHUNK[:rest]


def digest_of(size: int) -> str:
    """Return the SHA-256 of ``size`` bytes of the bulk pattern."""
    total = hashlib.sha256()
    for chunk in chunks(size):
        total.update(chunk)
    return total.hexdigest()


class HttpServer:
    """A small HTTP/1.1 server: keeps connections open unless asked to close."""

    def __init__(self, name: str) -> None:
        """Answer as ``name``."""
        self._name = name

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            closing = False
            while not closing:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await self._answer(head, reader, writer)
                closing = "connection: close" in head
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, path, *_ = head.split()
        if path.startswith("/bulk/"):
            size = int(path.removeprefix("/bulk/"))
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            for chunk in chunks(size):
                writer.write(chunk)
                await writer.drain()
            return
        seen = {} if method == "get" else {"digest": await self._digest(head, reader)}
        client, port = writer.get_extra_info("peername")[:2]
        body = json.dumps({"server": self._name, "client": plain(client), "port": port} | seen).encode()
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    async def _digest(self, head: str, reader: asyncio.StreamReader) -> str:
        left = int(head.partition("content-length:")[2].split()[0])
        total = hashlib.sha256()
        while left:
            chunk = await reader.readexactly(min(left, 1 << 16))
            total.update(chunk)
            left -= len(chunk)
        return total.hexdigest()


def plain(address: str) -> str:
    """Return an IPv4 address seen by a socket of both versions in its usual form."""
    return address.removeprefix("::ffff:")


def answer_datagram(name: str, sock: socket.socket) -> None:
    """Answer one datagram: what was seen as one line of JSON, then the payload."""
    payload, control, _, client = sock.recvmsg(1 << 16, 256)
    asked = [(level, kind, value[:16] + bytes(4)) for level, kind, value in control if kind == _PKTINFO]
    ttl = next((struct.unpack("=i", value[:4])[0] for _, kind, value in control if kind in _TTL_KINDS), 0)
    seen = {"server": name, "client": plain(client[0]), "port": client[1], "ttl": ttl}
    # From the address that was asked, which need not be the one the kernel would choose.
    sock.sendmsg([json.dumps(seen).encode() + b"\n" + payload], asked, 0, client)


def datagram_socket(port: int) -> socket.socket:
    """Open a socket of both versions that is told the TTL of what it gets."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
    sock.bind(("::", port))
    return sock


async def serve(name: str, port: int) -> None:
    """Serve until the process ends; says so on standard output once it can."""
    listener = socket.create_server(
        ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024, reuse_port=False
    )
    server = await asyncio.start_server(HttpServer(name).serve, sock=listener)
    with datagram_socket(port) as sock:
        sock.setblocking(False)
        asyncio.get_running_loop().add_reader(sock, answer_datagram, name, sock)
        print(f"{name} serves", flush=True)  # noqa: T201 the ready line
        async with server:
            await server.serve_forever()


def family_of(host: str) -> socket.AddressFamily:
    """Return the address family of an address in text."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextmanager
def connection(
    host: str, port: int, *, source: str = "", source_port: int = 0, timeout: float = 3
) -> Iterator[socket.socket]:
    """Connect, and close by reset: the same ports may be used again at once."""
    with socket.socket(family_of(host), socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout * SLOWER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        sock.bind((source, source_port))
        sock.connect((host, port))
        yield sock


def _read_response(sock: socket.socket) -> tuple[int, str]:
    """Read one response; returns the length of its body and the body, or its digest when it is long."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    total, count, text = hashlib.sha256(body), len(body), body
    while count < length:
        chunk = _received(sock)
        total.update(chunk)
        count += len(chunk)
        text = text + chunk if length < 1 << 12 else b""
    return length, text.decode() if length < 1 << 12 else total.hexdigest()


def _received(sock: socket.socket) -> bytes:
    chunk = sock.recv(1 << 16)
    if not chunk:
        raise ConnectionError("closed before the response was whole")
    return chunk


def ask_on(sock: socket.socket, host: str = "test") -> Answer:
    """Send one request on an open connection."""
    sock.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return Answer(**json.loads(_read_response(sock)[1]))


def ask(host: str, port: int, *, source_port: int = 0, timeout: float = 3) -> Answer:
    """Send one request on a connection of its own."""
    with connection(host, port, source_port=source_port, timeout=timeout) as sock:
        return ask_on(sock)


def download(host: str, port: int, size: int) -> str:
    """Fetch ``size`` bytes; returns their SHA-256."""
    with connection(host, port, timeout=20) as sock:
        sock.sendall(f"GET /bulk/{size} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        length, digest = _read_response(sock)
    if length != size:
        raise ConnectionError(f"{length} bytes announced, {size} asked for")
    return digest


def upload(host: str, port: int, size: int) -> Answer:
    """Send ``size`` bytes; the answer has the SHA-256 of what came in."""
    with connection(host, port, timeout=20) as sock:
        sock.sendall(f"PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n".encode())
        for chunk in chunks(size):
            sock.sendall(chunk)
        return Answer(**json.loads(_read_response(sock)[1]))


def ask_datagram(
    host: str,
    port: int,
    payload: bytes = b"ping",
    *,
    source: str = "",
    source_port: int = 0,
    ttl: int = 0,
    timeout: float = 3,
) -> Answer:
    """Send one datagram and check that its payload comes back unchanged."""
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout * SLOWER)
        if ttl:
            level, option = (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) if ":" in host else (0, socket.IP_TTL)
            sock.setsockopt(level, option, ttl)
        sock.bind((source, source_port))
        sock.connect((host, port))
        sock.send(payload)
        seen, _, echoed = sock.recv(1 << 16).partition(b"\n")
    if echoed != payload:
        raise ConnectionError(f"{len(echoed)} bytes echoed, not the {len(payload)} sent")
    return Answer(**json.loads(seen))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
