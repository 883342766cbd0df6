# SPDX-License-Identifier: Apache-2.0
"""What ICMP errors quote: headers of any length, fragments, and flows whose addresses stay (RFC 5508 section 4)."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from loxilb.kernel.abi import Reason
from loxilb.model import Endpoint, L4Protocol, Mode, Selection
from tests.packet.driver import PORT, Driver, Path
from tests.packet.test_fragments import EXTENSIONS, extended, pieces
from tests.packet.test_icmp_errors import UNREACHABLE, error, expect, to_client, to_endpoint
from tests.support.bpf import CLIENT, SERVERS, Hook
from tests.support.packets import IcmpError, Packet

pytestmark = pytest.mark.must_run
MTU = 1280
TOO_BIG = {4: (3, 4, MTU), 6: (2, 0, MTU)}
OPTIONS = {"one word": b"\x01" * 4, "ten words": b"\x01" * 39 + b"\x00"}
MODES = [Mode.DEFAULT, Mode.ONEARM, Mode.FULLNAT]
by_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name.lower())


def quoting(packet: Packet, quote: bytes) -> Packet:
    """Return an error that quotes something else."""
    assert isinstance(packet.transport, IcmpError)
    return replace(packet, transport=replace(packet.transport, quote=quote[14:]))


def both_ways(driver: Driver, hook: Hook, path: Path, drawn: Callable[[Packet], bytes]) -> None:
    """Check the errors about both ends' packets, which are on the wire as ``drawn``."""
    kind = TOO_BIG[path.vip.version]
    for device, left, arrived, translate in (
        (path.server, path.requested(), path.request(), to_client),
        (CLIENT, path.replied(), path.reply(), to_endpoint),
    ):
        there = error(device, left, kind)
        becomes = translate(path, there, arrived)
        before = replace(arrived, ttl=arrived.ttl - 1)
        expect(driver, hook, quoting(there, drawn(left)), quoting(becomes, drawn(before)))


@by_mode
@pytest.mark.parametrize("protocol", [L4Protocol.UDP, L4Protocol.ICMP], ids=lambda one: one.value)
def test_the_first_fragment_of_a_datagram(
    driver: Driver, hook: Hook, version: int, mode: Mode, protocol: L4Protocol
) -> None:
    """It has the ports. Over IPv6 that is how the sender of large datagrams learns the size of the way."""
    path = driver.open(hook, driver.path(driver.service(version, protocol, mode=mode)))
    data = {"payload": bytes(range(250)) * 8}

    def drawn(packet: Packet) -> bytes:
        whole = path.request(**data).transport if packet.source == path.client else path.reply(**data).transport
        if packet.source == path.source and packet.destination == path.endpoint:
            whole = path.requested(**data).transport
        elif packet.source == path.vip:
            whole = path.replied(**data).transport
        return next(pieces(replace(packet, transport=whole), 1232))[: 14 + 500]

    both_ways(driver, hook, path, drawn)


@pytest.mark.parametrize("headers", EXTENSIONS.values(), ids=EXTENSIONS)
@by_mode
def test_a_packet_with_extension_headers(
    driver: Driver, hook: Hook, mode: Mode, headers: tuple[tuple[int, bytes], ...]
) -> None:
    """As they are in front of the error itself, too."""
    path = driver.open(hook, driver.path(driver.service(6, L4Protocol.UDP, mode=mode)))

    both_ways(driver, hook, path, lambda packet: extended(packet, headers))
    there = error(path.server, path.requested(), TOO_BIG[6])
    becomes = to_client(path, there, path.request())
    if hook is Hook.XDP:
        driver.expect(Hook.XDP, extended(there, headers), Reason.PASS_ICMP_ERROR)
    driver.expect(Hook.TC, extended(there, headers), Reason.FORWARD_ICMP_ERROR, extended(becomes, headers))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@by_mode
def test_a_packet_with_ip_options(driver: Driver, hook: Hook, mode: Mode, options: bytes) -> None:
    """As the error itself may have them."""
    path = driver.open(hook, driver.path(driver.service(4, L4Protocol.UDP, mode=mode)))

    both_ways(driver, hook, path, lambda packet: bytes(replace(packet, options=options)))
    there = error(path.server, path.requested(), TOO_BIG[4])
    becomes = to_client(path, there, path.request())
    expect(driver, hook, replace(there, options=options), replace(becomes, options=options))


def test_a_later_fragment_is_left_alone(driver: Driver, hook: Hook, version: int) -> None:
    """It tells no ports."""
    path = driver.open(hook, driver.path(driver.service(version, L4Protocol.UDP)))
    _, later = pieces(path.requested(payload=bytes(2000)), 1232)
    there = quoting(error(path.server, path.requested(), TOO_BIG[version]), later)

    driver.expect(hook, there, Reason.PASS_ICMP_ERROR)


def test_a_wrong_checksum_stays_wrong(driver: Driver, hook: Hook, version: int) -> None:
    """The receiver drops the error, as it would have had to (RFC 5508 section 4.2, REQ-3)."""
    path = driver.open(hook, driver.path(driver.service(version, mode=Mode.FULLNAT)))
    there = error(path.server, path.requested(), UNREACHABLE[version])
    raw = bytearray(bytes(there))
    raw[-1] ^= 0x55
    becomes = bytearray(bytes(to_client(path, there, path.request())))
    becomes[-1] ^= 0x55

    if hook is Hook.XDP:
        driver.expect(Hook.XDP, bytes(raw), Reason.PASS_ICMP_ERROR)
    driver.expect(Hook.TC, bytes(raw), Reason.FORWARD_ICMP_ERROR, bytes(becomes), wrong=("transport",))


def test_direct_server_return_gets_errors_at_the_server_that_caused_them(
    driver: Driver, hook: Hook, version: int
) -> None:
    """They come to the service's address, which is this host's as well; the server learns the size of the way."""
    endpoints = [Endpoint(address=server.gateway(version), port=PORT) for server in SERVERS]
    service = driver.service(version, L4Protocol.UDP, endpoints=endpoints, mode=Mode.DSR, selection=Selection.HASH)
    for _ in range(6):
        path = driver.path(service)
        server = SERVERS[driver.servers(hook, [path.request()])[0]]
        about = replace(path.replied(payload=bytes(1300)), source=path.vip, ttl=60)
        there = error(CLIENT, about, TOO_BIG[version])
        becomes = replace(there, dmac=server.neighbour, smac=server.mac, ttl=there.ttl - 1)

        expect(driver, hook, there, becomes)
