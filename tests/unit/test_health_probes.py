# SPDX-License-Identifier: Apache-2.0
"""Probes over real sockets on loopback."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import uvloop

from loxilb.model import IPAddress
from loxilb.model.probe import HealthCheck, ProbeKind
from loxilb.services.health import Outcome, Probes
from tests.support.certificates import Authority
from tests.support.virtual import VirtualLoop, play

LOOPBACKS = pytest.mark.parametrize("address", [ip_address("127.0.0.1"), ip_address("::1")], ids=str)
V4 = ip_address("127.0.0.1")
NOWHERE = Path("/nonexistent")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def live(scene: Coroutine[Any, Any, Any]) -> Any:
    """Run ``scene`` in the event loop that the daemon has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(scene)


@asynccontextmanager
async def serving(handler: Serve, address: IPAddress = V4, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve on a free port of ``address``; yields it."""
    server = await asyncio.start_server(handler, str(address), 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def replying(text: str, asked: list[bytes] | None = None, want: int = 1) -> Serve:
    """Answer ``text`` once ``want`` bytes have come (0: at once), then close."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = b""
        with suppress(ConnectionError):
            got = await reader.read(1 << 16) if want else b""
        if asked is not None:
            asked.append(got)
        writer.write(text.encode())
        writer.close()

    return handler


async def probe(address: IPAddress, kind: ProbeKind, port: int = 0, *, folder: Path = NOWHERE, **more: str) -> Outcome:
    """Probe once with sockets of its own."""
    probes = Probes(folder)
    try:
        return await probes.probe(address, HealthCheck(kind=kind, port=port, **more))  # type: ignore[arg-type]
    finally:
        probes.close()


def free_port(address: IPAddress, kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port that nothing listens on."""
    with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, kind) as sock:
        sock.bind((str(address), 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.must_run
@pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets need CAP_NET_RAW")
@LOOPBACKS
def test_ping_measures_the_round_trip(address):
    async def scene() -> None:
        probes = Probes(NOWHERE)
        outcomes = await asyncio.gather(*(probes.probe(address, HealthCheck(kind=ProbeKind.PING)) for _ in range(50)))
        probes.close()
        assert all(outcome.fault == "" and 0 < (outcome.delay or 0) < 1 for outcome in outcomes)

    live(scene())


@LOOPBACKS
def test_tcp_connects(address):
    async def scene() -> None:
        async with serving(replying(""), address) as port:
            assert (await probe(address, ProbeKind.TCP, port)).fault == ""
        refused = await probe(address, ProbeKind.TCP, free_port(address))
        assert "refused" in refused.fault.lower()

    live(scene())


@pytest.mark.parametrize(
    ("sent", "expected", "fault"),
    [("hi", "pong", ""), ("hi", "po", ""), ("hi", "pang", "another answer than expected"), ("", "pong", "")],
)
def test_tcp_compares_the_answer(sent, expected, fault):
    asked: list[bytes] = []

    async def scene() -> None:
        async with serving(replying("pong", asked, want=len(sent))) as port:
            outcome = await probe(V4, ProbeKind.TCP, port, request=sent, response=expected)
        assert outcome.fault == fault

    live(scene())
    assert asked == [sent.encode()]


def test_a_short_answer_is_no_answer():
    async def scene() -> None:
        async with serving(replying("po", want=0)) as port:
            assert (await probe(V4, ProbeKind.TCP, port, response="pong")).fault == "another answer than expected"

    live(scene())


@pytest.mark.skipif(os.geteuid() != 0, reason="low ports need CAP_NET_BIND_SERVICE")
def test_probes_come_from_ports_that_the_data_plane_does_not_use():
    seen: list[int] = []

    async def note(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername")[1])
        writer.close()

    async def scene() -> None:
        probes = Probes(NOWHERE)
        async with serving(note) as port:
            check = HealthCheck(kind=ProbeKind.TCP, port=port)
            for _ in range(30):
                assert (await probes.probe(V4, check)).fault == ""
        probes.close()

    live(scene())
    assert len(set(seen)) > 20
    assert max(seen) < 1024


class Echo(asyncio.DatagramProtocol):
    """Answers ``pong``; an empty datagram and ``quiet`` get nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if data not in (b"", b"quiet"):
            self.transport.sendto(b"pong", addr)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("sent", "expected", "fault", "seconds"),
    [
        ("ping", "pong", "", 0),
        ("ping", "", "", 0),
        ("ping", "pang", "another answer than expected", 0),
        ("", "", "", 0.5),
        ("quiet", "pong", "no answer", 0.5),
    ],
)
@LOOPBACKS
def test_udp_silence_is_a_fault_only_where_an_answer_is_expected(address, sent, expected, fault, seconds):
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=(str(address), 0))
        port = transport.get_extra_info("sockname")[1]
        outcome = await probe(address, ProbeKind.UDP, port, request=sent, response=expected)
        transport.close()
        assert outcome.fault == fault
        assert loop.time() == pytest.approx(seconds)

    play(scene())


@LOOPBACKS
def test_udp_to_a_closed_port_is_a_fault(address):
    outcome = live(probe(address, ProbeKind.UDP, free_port(address, socket.SOCK_DGRAM)))

    assert "refused" in outcome.fault.lower()


@LOOPBACKS
def test_http_asks_for_the_path_and_compares_the_body(address):
    asked: list[bytes] = []
    text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def scene() -> None:
        async with serving(replying(text, asked), address) as port:
            good = await probe(address, ProbeKind.HTTP, port, request="up", response="ok")
            bad = await probe(address, ProbeKind.HTTP, port, request="up", response="fine")
        assert (good.fault, bad.fault) == ("", "another body than expected")

    live(scene())
    assert asked[0].startswith(b"GET /up HTTP/1.1\r\n")


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never answer; end when the client goes."""
    with suppress(ConnectionError):
        while await reader.read(1 << 10):
            pass
    writer.close()


@pytest.mark.parametrize(("kind", "seconds"), [(ProbeKind.TCP, 1.0), (ProbeKind.HTTP, 2.0)])
def test_time_runs_out_exactly(kind, seconds):
    async def scene() -> None:
        async with serving(silent) as port:
            outcome = await probe(V4, kind, port, response="x")
        assert outcome == Outcome(fault=f"no answer in {seconds} s")
        assert asyncio.get_running_loop().time() == pytest.approx(seconds)

    play(scene())


def test_a_program_that_was_too_busy_does_not_blame_the_endpoint():
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        async with serving(silent) as port:
            loop.call_later(0.5, loop.stall, 10.0)
            outcome = await probe(V4, ProbeKind.TCP, port, response="x")
        assert outcome.late

    play(scene())


def tls_server(folder: Path, authority: Authority, names: str, *, ask_client: bool = False) -> ssl.SSLContext:
    certificate, private = authority.issue(folder, "endpoint", names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    if ask_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.certificate)
    return context


OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return an authority of our own."""
    return Authority(tmp_path_factory.mktemp("authority"))


async def https(folder: Path, context: ssl.SSLContext, address: IPAddress = V4) -> str:
    async with serving(replying(OK), address, tls=context) as port:
        return (await probe(address, ProbeKind.HTTPS, port, folder=folder, response="ok")).fault


@LOOPBACKS
def test_https_trusts_the_given_authority_and_no_other(authority, tmp_path, address):
    context = tls_server(tmp_path, authority, f"IP:{address}")
    trusting, other = tmp_path / "trusting", tmp_path / "other"
    for folder in (trusting, other):
        folder.mkdir()
    (trusting / "rootCA.crt").write_bytes(authority.certificate.read_bytes())
    (other / "rootCA.crt").write_bytes(Authority(tmp_path).certificate.read_bytes())

    assert live(https(trusting, context, address)) == ""
    assert "certificate verify failed" in live(https(other, context, address)).lower()


def test_https_checks_the_address_in_the_certificate(authority, tmp_path):
    (tmp_path / "rootCA.crt").write_bytes(authority.certificate.read_bytes())

    assert "mismatch" in live(https(tmp_path, tls_server(tmp_path, authority, "IP:127.0.0.2"))).lower()


def test_https_takes_the_authority_of_one_endpoint_when_it_changes(authority, tmp_path):
    """Files are read again when they change: no restart."""
    context = tls_server(tmp_path, authority, "IP:127.0.0.1")
    own = tmp_path / "127.0.0.1"
    own.mkdir()
    (own / "rootCA.crt").write_bytes(Authority(tmp_path).certificate.read_bytes())

    async def scene() -> list[str]:
        probes = Probes(tmp_path)
        async with serving(replying(OK), tls=context) as port:
            check = HealthCheck(kind=ProbeKind.HTTPS, port=port)
            before = await probes.probe(V4, check)
            (own / "rootCA.crt").write_bytes(authority.certificate.read_bytes())
            after = await probes.probe(V4, check)
        probes.close()
        return [before.fault, after.fault]

    before, after = live(scene())
    assert "certificate verify failed" in before.lower()
    assert after == ""


def test_https_shows_the_client_certificate(authority, tmp_path):
    """An endpoint that wants one refuses the probe without."""
    context = tls_server(tmp_path, authority, "IP:127.0.0.1", ask_client=True)
    bare, dressed = tmp_path / "bare", tmp_path / "dressed"
    for folder in (bare, dressed):
        folder.mkdir()
        (folder / "rootCA.crt").write_bytes(authority.certificate.read_bytes())
    authority.issue(dressed, "server", "DNS:loxilb")

    assert live(https(bare, context)) != ""
    assert live(https(dressed, context)) == ""


def test_a_broken_certificate_file_is_told(tmp_path, authority):
    (tmp_path / "rootCA.crt").write_text("no certificate")

    assert live(https(tmp_path, tls_server(tmp_path, authority, "IP:127.0.0.1"))) != ""
