# SPDX-License-Identifier: Apache-2.0
"""Fragments follow their first one; extension headers are walked over."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from loxilb.kernel.abi import Reason
from loxilb.model import L4Protocol, Mode
from tests.packet.driver import Driver, without_endpoints
from tests.support.bpf import Hook
from tests.support.packets import ACK, FRAGMENT, SYN, Packet, finished, ipv4, ipv6, protocol_of

pytestmark = pytest.mark.must_run
DATA = {"payload": bytes(range(256)) * 10}
EXTENSIONS = {
    "hop-by-hop": ((0, b"\x05\x02\x00\x00\x01\x00"),),
    "destination options": ((60, b"\x01\x0c" + bytes(12)),),
    "routing": ((43, b"\x00\x00" + bytes(4)),),
    "three": ((0, b"\x01\x04" + bytes(4)), (60, b"\x01\x04" + bytes(4)), (43, b"\x00\x00" + bytes(4))),
}


def piece(packet: Packet, data: bytes, offset: int, *, more: bool) -> bytes:
    """Return one fragment of a packet (RFC 791 section 3.1, RFC 8200 section 4.5)."""
    protocol = protocol_of(packet.transport, packet.source.version)
    ethernet = bytes(packet)[:14]
    if packet.source.version == 4:
        header = ipv4(replace(packet, fragment=more << 13 | offset // 8), protocol, len(data))
        return ethernet + header + data
    fragment = bytes((protocol, 0)) + (offset | more).to_bytes(2, "big") + packet.identification.to_bytes(4, "big")
    return ethernet + ipv6(packet, FRAGMENT, 8 + len(data)) + fragment + data


def pieces(packet: Packet, *cuts: int) -> Iterator[bytes]:
    """Return the fragments of a packet whose segment is cut at these offsets."""
    segment = finished(packet.source, packet.destination, packet.transport)
    for start, end in pairwise((0, *cuts, len(segment))):
        yield piece(packet, segment[start:end], start, more=end < len(segment))


def expect(driver: Driver, hook: Hook, packet: bytes, reason: Reason, becomes: bytes | None = None) -> None:
    """Check a fragment, which XDP leaves to TC."""
    if hook is Hook.XDP:
        driver.expect(Hook.XDP, packet, Reason.PASS_FRAGMENT)
    driver.expect(Hook.TC, packet, reason, becomes)


def expect_datagram(driver: Driver, hook: Hook, arrives: Packet, leaves: Packet, reason: Reason, *cuts: int) -> None:
    """Check all fragments of a datagram, in order."""
    reasons = (reason, *[Reason.FORWARD_FRAGMENT] * len(cuts))
    for there, becomes, why in zip(pieces(arrives, *cuts), pieces(leaves, *cuts), reasons, strict=True):
        expect(driver, hook, there, why, becomes)


@pytest.mark.parametrize("mode", [Mode.DEFAULT, Mode.ONEARM, Mode.FULLNAT], ids=lambda mode: mode.name.lower())
@pytest.mark.parametrize("protocol", [L4Protocol.UDP, L4Protocol.ICMP], ids=lambda one: one.value)
def test_a_fragmented_datagram_is_translated(
    driver: Driver, hook: Hook, version: int, mode: Mode, protocol: L4Protocol
) -> None:
    """Either way, of new flows and established ones; each fragment is counted as the flow's."""
    service = driver.service(version, protocol, mode=mode)
    path = driver.path(service)

    expect_datagram(driver, hook, path.request(**DATA), path.requested(**DATA), Reason.FORWARD_NEW, 1440, 2400)
    expect_datagram(driver, hook, path.reply(**DATA), path.replied(**DATA), Reason.FORWARD_HALF_OPEN, 8, 1440)
    there, leaves = (replace(one, identification=0x4321) for one in (path.request(**DATA), path.requested(**DATA)))
    expect_datagram(driver, hook, there, leaves, Reason.FORWARD_ESTABLISHED, 1000, 1008, 2400)
    assert [flow.counter.packets for flow in driver.flows(service)] == [7, 3]


@pytest.mark.kernel
def test_a_datagram_of_32_kilobytes(driver: Driver, hook: Hook, version: int) -> None:
    """In the mode that rewrites all of it."""
    path = driver.path(driver.service(version, L4Protocol.UDP, mode=Mode.FULLNAT))
    data, cuts = {"payload": bytes(range(250)) * 128}, range(1440, 32_008, 1440)

    expect_datagram(driver, hook, path.request(**data), path.requested(**data), Reason.FORWARD_NEW, *cuts)


def test_a_fragment_before_its_first_one_is_dropped(driver: Driver, hook: Hook, version: int) -> None:
    """It says nothing of the flow that it belongs to; once the first one has come, it goes the same way."""
    path = driver.path(driver.service(version, L4Protocol.UDP))
    there, leaves = (list(pieces(one, 1440)) for one in (path.request(**DATA), path.requested(**DATA)))

    expect(driver, hook, there[1], Reason.DROP_FRAGMENT)
    expect(driver, hook, there[0], Reason.FORWARD_NEW, leaves[0])
    expect(driver, hook, there[1], Reason.FORWARD_FRAGMENT, leaves[1])
    other = list(pieces(replace(path.request(**DATA), identification=77), 1440))
    expect(driver, hook, other[1], Reason.DROP_FRAGMENT)
    back = list(pieces(path.reply(**DATA), 1440))
    expect(driver, hook, back[1], Reason.DROP_FRAGMENT)


@pytest.mark.parametrize("offset", [8, 800, 1432])
def test_a_fragment_that_overwrites_the_first_one_is_dropped(
    driver: Driver, hook: Hook, version: int, offset: int
) -> None:
    """Ports could be changed behind our back (RFC 3128, RFC 5722)."""
    path = driver.path(driver.service(version, L4Protocol.UDP))
    there, leaves = path.request(**DATA), path.requested(**DATA)
    first, sent = next(pieces(there, 1440)), next(pieces(leaves, 1440))

    expect(driver, hook, first, Reason.FORWARD_NEW, sent)
    expect(driver, hook, piece(there, bytes(800), offset, more=True), Reason.DROP_FRAGMENT)
    ready, translated = (piece(one, bytes(800), 1440, more=False) for one in (there, leaves))
    expect(driver, hook, ready, Reason.FORWARD_FRAGMENT, translated)


@pytest.mark.parametrize("size", [8, 16])
def test_a_first_fragment_without_its_whole_header_is_dropped(
    driver: Driver, hook: Hook, version: int, size: int
) -> None:
    """A SYN in pieces would pass every check of its flags (RFC 1858)."""
    service = driver.service(version)
    first, second = pieces(driver.path(service).request(flags=SYN), size)

    expect(driver, hook, first, Reason.DROP_FRAGMENT)
    expect(driver, hook, second, Reason.DROP_FRAGMENT)
    assert driver.flows(service) == []


@pytest.mark.parametrize("protocol", [L4Protocol.TCP, L4Protocol.UDP], ids=lambda one: one.value)
def test_padding_is_no_header_of_a_first_fragment(
    driver: Driver, hook: Hook, version: int, protocol: L4Protocol
) -> None:
    """Ethernet pads a tiny fragment; what the endpoint takes for the header comes in the second one."""
    service = driver.service(version, protocol)
    path = driver.path(service)
    packet = path.request(flags=SYN) if protocol is L4Protocol.TCP else path.request(payload=b"payload")
    segment = finished(packet.source, packet.destination, packet.transport)
    size = 16 if protocol is L4Protocol.TCP else 0
    padded = piece(packet, segment[:size], 0, more=True) + bytes(20)

    expect(driver, hook, padded, Reason.DROP_FRAGMENT)
    assert driver.flows(service) == []


def test_a_fragment_that_lost_its_end_is_dropped(driver: Driver, hook: Hook, version: int) -> None:
    """The first or a later one: it tells of more than there is. The shortest that may be goes through."""
    path = driver.path(driver.service(version, L4Protocol.UDP))
    there, leaves = path.request(payload=bytes(1433)), path.requested(payload=bytes(1433))
    (first, last), (sent, becomes) = pieces(there, 1440), pieces(leaves, 1440)

    expect(driver, hook, first[:-1], Reason.DROP_FRAGMENT)
    expect(driver, hook, first, Reason.FORWARD_NEW, sent)
    expect(driver, hook, last, Reason.FORWARD_FRAGMENT, becomes)
    expect(driver, hook, piece(there, bytes(800), 1440, more=False)[:-1], Reason.DROP_FRAGMENT)


def test_a_fragment_that_is_alone_is_a_packet(driver: Driver, hook: Hook) -> None:
    """A fragment header without need (RFC 6946)."""
    path = driver.path(driver.service(6, L4Protocol.UDP))

    expect_datagram(driver, hook, path.request(), path.requested(), Reason.FORWARD_NEW)
    expect_datagram(driver, hook, path.reply(), path.replied(), Reason.FORWARD_HALF_OPEN)


def test_fragments_of_a_segment_belong_to_its_connection(driver: Driver, hook: Hook, version: int) -> None:
    """TCP may be fragmented by a router on its way."""
    path = driver.open(hook, driver.path(driver.service(version)))
    data = {**DATA, "flags": ACK}

    expect_datagram(driver, hook, path.request(**data), path.requested(**data), Reason.FORWARD_ESTABLISHED, 800, 1600)


def test_a_first_fragment_that_comes_again_protects_no_less(driver: Driver, hook: Hook, version: int) -> None:
    """A short copy of it must not let another fragment overwrite what the first one brought (RFC 5722)."""
    path = driver.path(driver.service(version, L4Protocol.UDP))
    there, leaves = path.request(**DATA), path.requested(**DATA)
    long, _ = pieces(there, 1440)
    short, inside, behind = pieces(there, 16, 1440)

    expect(driver, hook, long, Reason.FORWARD_NEW, next(pieces(leaves, 1440)))
    expect(driver, hook, short, Reason.FORWARD_HALF_OPEN, next(pieces(leaves, 16)))
    expect(driver, hook, inside, Reason.DROP_FRAGMENT)
    expect(driver, hook, behind, Reason.FORWARD_FRAGMENT, list(pieces(leaves, 16, 1440))[2])


def test_when_the_first_one_is_refused_so_are_the_others(driver: Driver, hook: Hook, version: int) -> None:
    """The sender is told once."""
    path = driver.path(without_endpoints(driver, version, L4Protocol.UDP))
    first, second = pieces(path.request(**DATA), 1440)

    if hook is Hook.XDP:
        driver.expect(Hook.XDP, first, Reason.PASS_FRAGMENT)
    before = driver.data_plane.reasons()
    driver.run(Hook.TC, first)
    assert driver.data_plane.reasons()["answer_unreachable"] == before["answer_unreachable"] + 1
    expect(driver, hook, second, Reason.DROP_FRAGMENT)


def test_fragments_to_another_port_of_the_service_address_are_left_alone(
    driver: Driver, hook: Hook, version: int
) -> None:
    """All of them, for the host's own stack."""
    path = driver.path(driver.service(version, L4Protocol.UDP))
    other = path.request(**DATA).with_ports(path.client_port, path.vip_port + 1)

    for one in pieces(other, 1440, 2400):
        expect(driver, hook, one, Reason.PASS_FRAGMENT)


def extended(packet: Packet, headers: tuple[tuple[int, bytes], ...]) -> bytes:
    """Return a packet with extension headers between IPv6 header and segment."""
    protocol = protocol_of(packet.transport, 6)
    following = [kind for kind, _ in headers[1:]] + [protocol]
    chain = b"".join(
        bytes((after, (len(body) + 2) // 8 - 1)) + body for (_, body), after in zip(headers, following, strict=True)
    )
    segment = finished(packet.source, packet.destination, packet.transport)
    return bytes(packet)[:14] + ipv6(packet, headers[0][0], len(chain) + len(segment)) + chain + segment


@pytest.mark.parametrize("headers", EXTENSIONS.values(), ids=EXTENSIONS)
def test_extension_headers_stay_in_place(driver: Driver, hook: Hook, headers: tuple[tuple[int, bytes], ...]) -> None:
    """The transport header behind them is translated (RFC 8200 section 4)."""
    path = driver.path(driver.service(6, L4Protocol.UDP, mode=Mode.FULLNAT))

    for arrives, leaves, reason in (
        (path.request(), path.requested(), Reason.FORWARD_NEW),
        (path.reply(), path.replied(), Reason.FORWARD_HALF_OPEN),
        (path.request(), path.requested(), Reason.FORWARD_ESTABLISHED),
    ):
        driver.expect(hook, extended(arrives, headers), reason, extended(leaves, headers))
