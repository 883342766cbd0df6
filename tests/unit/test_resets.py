# SPDX-License-Identifier: Apache-2.0
"""Resets for the ends of aborted connections: records, segments, and which of them are sent."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from loxilb.errors import KernelError
from loxilb.kernel import abi
from loxilb.kernel.bpf.convert import abort_from_record
from loxilb.kernel.fake import FakeDataPlane
from loxilb.logs import LogFormat, LogLevel, configure
from loxilb.model import AbortedConnection, FlowState, IPAddress, Peer
from loxilb.proto.checksum import checksum
from loxilb.proto.reset import Packet, packets_for
from loxilb.services.resets import Resets
from tests.support.packets import ACK, RST, Tcp
from tests.support.packets import Packet as Frame

NOW = 1_000.0
MACS = bytes(12)


def end(address: str, port: int, other: str, other_port: int, expects: int, sent: int) -> Peer:
    """Return one end of a connection."""
    return Peer(
        address=ip_address(address),
        port=port,
        other=ip_address(other),
        other_port=other_port,
        expects=expects,
        sent=sent,
    )


ENDS4 = (
    end("10.10.10.1", 40001, "20.20.20.1", 2020, 7001, 9001),
    end("31.31.31.1", 8080, "31.31.31.254", 1024, 9001, 7001),
)
ENDS6 = (
    end("3ffe::1", 40001, "2001::1", 2020, 0, 0xFFFF_FFFF),
    end("4ffe::1", 8080, "3ffe::1", 40001, 0xFFFF_FFFF, 0),
)
ABORTED = AbortedConnection(ends=ENDS4, active=False, rule=7, state=FlowState.ESTABLISHED, at=NOW)


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """Undo the configuration of the logs."""
    yield
    structlog.reset_defaults()


def frame(peer: Peer, flags: int, sequence: int, acknowledgement: int) -> bytes:
    """Return a segment that comes to ``peer`` as another codec makes it, from the IP header on."""
    made = Frame(
        dmac=MACS[:6],
        smac=MACS[6:],
        source=peer.other,
        destination=peer.address,
        transport=Tcp(
            sport=peer.other_port,
            dport=peer.port,
            flags=flags,
            sequence=sequence,
            acknowledgement=acknowledgement,
            window=0,
        ),
        identification=0,
        fragment=0x4000,
    )
    octets = bytearray(bytes(made)[14:])
    if peer.address.version == 4:
        octets[10:12] = bytes(2)  # the kernel fills it in
    return bytes(octets)


@pytest.mark.parametrize("ends", [ENDS4, ENDS6], ids=["ipv4", "ipv6"])
def test_each_end_gets_the_reset_it_expects(ends: tuple[Peer, Peer]) -> None:
    """From its other end, with exactly the number it expects next."""
    found = packets_for(replace(ABORTED, ends=ends))

    assert [packet.destination for packet in found] == [peer.address for peer in ends]
    assert [packet.octets for packet in found] == [frame(peer, RST, peer.expects, 0) for peer in ends]


@pytest.mark.parametrize("ends", [ENDS4, ENDS6, ENDS4[:1], ENDS6[1:], ()])
def test_ends_of_a_connection_in_use_are_asked_as_well(ends: tuple[Peer, ...]) -> None:
    """By a segment from before their window, which wraps, behind the reset."""
    found = packets_for(replace(ABORTED, ends=ends, active=True))

    probes = [frame(peer, ACK, (peer.expects - 1) % 2**32, peer.sent) for peer in ends]
    assert [packet.octets for packet in found] == [frame(peer, RST, peer.expects, 0) for peer in ends] + probes


NUMBERS = st.integers(0, 2**32 - 1)
PORTS = st.integers(0, 2**16 - 1)


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), PORTS, PORTS, NUMBERS, NUMBERS)
def test_the_checksum_is_right(
    address: IPAddress, other: IPAddress, port: int, other_port: int, expects: int, sent: int
) -> None:
    """Whatever the numbers are: the sum over pseudo-header and segment is all ones."""
    peer = Peer(address=address, port=port, other=other, other_port=other_port, expects=expects, sent=sent)
    for packet in packets_for(replace(ABORTED, ends=(peer,), active=True)):
        segment = packet.octets[20:]
        assert checksum(other.packed + address.packed + b"\0\x06\0\x14" + segment) == 0


@pytest.mark.parametrize("ends", [ENDS4, ENDS6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("tell", range(8))
def test_a_record_says_who_can_be_told(ends: tuple[Peer, Peer], tell: int) -> None:
    """Addresses and ports of both ends, and what each expects; time in seconds."""
    client, endpoint = ends
    raw = abi.Abort(
        client_expects=client.expects,
        endpoint_expects=endpoint.expects,
        at=1_500_000_000,
        rule=7,
        family=client.address.version,
        state=FlowState.CLOSING,
        tell=tell,
    )
    for name, address, port in (
        ("client", client.address, client.port),
        ("vip", client.other, client.other_port),
        ("source", endpoint.other, endpoint.other_port),
        ("endpoint", endpoint.address, endpoint.port),
    ):
        getattr(raw, name)[: len(address.packed)] = address.packed
        getattr(raw, f"{name}_port")[:] = port.to_bytes(2, "big")

    assert abort_from_record(bytes(raw)) == AbortedConnection(
        ends=tuple(peer for bit, peer in ((1, client), (2, endpoint)) if tell & bit),
        active=bool(tell & 4),
        rule=7,
        state=FlowState.CLOSING,
        at=1.5,
    )


class Wire:
    """Takes packets; ``broken`` is how many of each batch it cannot send."""

    def __init__(self, broken: int = 0) -> None:
        self.sent: list[Packet] = []
        self._broken = broken

    def send(self, packets: Iterable[Packet]) -> int:
        self.sent += packets
        return self._broken


def follow(fake: FakeDataPlane, wire: Wire, *batches: Sequence[AbortedConnection]) -> None:
    """Run the service until it has taken every batch and waits for another."""

    async def scene() -> None:
        task = asyncio.create_task(Resets(fake, wire, lambda: NOW).run())
        async with asyncio.timeout(5):
            for batch in batches:
                fake.aborted.put_nowait(batch)
            await fake.aborted.join()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scene())


def test_what_is_reported_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    """Batch by batch; a line says how much it was."""
    configure(LogLevel("debug"), LogFormat.TEXT)
    wire = Wire(broken=1)
    other = replace(ABORTED, ends=ENDS6, active=True)

    follow(FakeDataPlane(), wire, [ABORTED, other], [ABORTED])

    assert wire.sent == [*packets_for(ABORTED), *packets_for(other), *packets_for(ABORTED)]
    first, second = capsys.readouterr().err.splitlines()
    assert {"connections=2", "packets=5", "failed=1", "stale=0"} <= set(first.split())
    assert {"connections=1", "packets=1", "failed=1", "stale=0"} <= set(second.split())


def test_nobody_is_told_what_happened_long_ago(capsys: pytest.CaptureFixture[str]) -> None:
    """While no daemon ran: the ports may be another connection's by now."""
    configure(LogLevel("debug"), LogFormat.TEXT)
    wire = Wire()

    follow(FakeDataPlane(), wire, [replace(ABORTED, at=NOW - 10.5), replace(ABORTED, ends=ENDS6, at=NOW - 9.5)])

    assert wire.sent == list(packets_for(replace(ABORTED, ends=ENDS6)))
    assert {"connections=1", "stale=1"} <= set(capsys.readouterr().err.split())


def test_reports_that_were_lost_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """Those since the start, once."""
    configure(LogLevel("warning"), LogFormat.TEXT)

    class Losing(FakeDataPlane):
        lost = iter((5, 5, 12, 12))

        def aborts_lost(self) -> int:
            return next(self.lost)

    follow(Losing(), Wire(), [ABORTED], [ABORTED], [ABORTED])

    (line,) = capsys.readouterr().err.splitlines()
    assert 'event="connections not reset"' in line
    assert "lost=7" in line


def test_a_kernel_that_refuses_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Whether it does not report or does not send."""
    configure(LogLevel("info"), LogFormat.TEXT)

    class Refusing(Wire):
        def send(self, packets: Iterable[Packet]) -> int:
            raise KernelError(f"open a raw socket for {packets}", 1, remedy="needs CAP_NET_RAW")

    fake = FakeDataPlane()
    fake.aborted.put_nowait([ABORTED])
    asyncio.run(Resets(fake, Refusing(), lambda: NOW).run())

    (line,) = capsys.readouterr().err.splitlines()
    assert 'event="connections not reset"' in line
    assert "CAP_NET_RAW" in line
