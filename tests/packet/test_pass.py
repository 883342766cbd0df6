# SPDX-License-Identifier: Apache-2.0
"""What is not ours goes on exactly as it came, on both hooks."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from loxilb.kernel.abi import Reason
from tests.packet.driver import Driver
from tests.support.bpf import CLIENT, Hook
from tests.support.packets import (
    ACK,
    ARP,
    FRAGMENT,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    SCTP,
    SYN,
    VLAN,
    Packet,
    ethernet,
    ipv4,
    ipv6,
)

pytestmark = pytest.mark.must_run


@dataclass(frozen=True)
class Case:
    """One packet made from the SYN that would open a connection, and the reason to pass it."""

    name: str
    make: Callable[[Packet], bytes]
    reason: Reason
    versions: tuple[int, ...] = (4, 6)


def frame(kind: int, payload: bytes, dmac: bytes = CLIENT.mac) -> bytes:
    """Return a frame to the load balancer."""
    return ethernet(dmac, CLIENT.neighbour, kind, payload)


def carrying(protocol: int, payload: bytes) -> Callable[[Packet], bytes]:
    """Return a maker of packets of another protocol."""

    def make(packet: Packet) -> bytes:
        header = (ipv4 if packet.source.version == 4 else ipv6)(packet, protocol, len(payload))
        return bytes(packet)[:14] + header + payload

    return make


def poked(offset: int, value: int) -> Callable[[Packet], bytes]:
    """Return a maker of packets with one byte changed."""

    def make(packet: Packet) -> bytes:
        raw = bytearray(bytes(packet))
        raw[offset] = value
        return bytes(raw)

    return make


def cut(to: int) -> Callable[[Packet], bytes]:
    """Return a maker of truncated packets."""
    return lambda packet: bytes(packet)[:to]


def elsewhere(make: Callable[[Packet], bytes]) -> Callable[[Packet], bytes]:
    """Return a maker of the same packets to an address that nobody serves."""
    return lambda packet: make(replace(packet, destination=packet.destination + 7777))


CASES = [
    Case("arp", lambda _: frame(ARP, bytes(range(28))), Reason.PASS_NOT_IP),
    Case("vlan", lambda packet: frame(VLAN, b"\x00\x64" + bytes(packet)[12:]), Reason.PASS_NOT_IP),
    Case("lldp", lambda _: frame(0x88CC, bytes(50)), Reason.PASS_NOT_IP),
    Case("length field", lambda _: frame(46, bytes(46)), Reason.PASS_NOT_IP),
    Case(
        "multicast frame", lambda packet: frame(IPV4, bytes(packet)[14:], b"\x01\0\x5e\0\0\1"), Reason.PASS_OTHER_HOST
    ),
    Case("broadcast frame", lambda packet: frame(IPV4, bytes(packet)[14:], b"\xff" * 6), Reason.PASS_OTHER_HOST),
    Case("sctp", carrying(SCTP, bytes(40)), Reason.PASS_PROTOCOL),
    Case("gre", carrying(47, bytes(40)), Reason.PASS_PROTOCOL),
    Case("hop-by-hop", carrying(0, bytes(40)), Reason.PASS_PROTOCOL),
    Case("unreachable", carrying(ICMP, bytes((3, 1)) + bytes(40)), Reason.PASS_ICMP_ERROR, (4,)),
    Case("packet too big", carrying(ICMPV6, bytes((2, 0)) + bytes(40)), Reason.PASS_ICMP_ERROR, (6,)),
    Case("neighbour solicitation", carrying(ICMPV6, bytes((135, 0)) + bytes(40)), Reason.PASS_PROTOCOL, (6,)),
    Case("icmp over ipv6", carrying(ICMP, bytes((8, 0)) + bytes(40)), Reason.PASS_PROTOCOL, (6,)),
    Case("icmpv6 over ipv4", carrying(ICMPV6, bytes((128, 0)) + bytes(40)), Reason.PASS_PROTOCOL, (4,)),
    Case("first fragment", elsewhere(lambda one: bytes(replace(one, fragment=0x2000))), Reason.PASS_FRAGMENT, (4,)),
    Case("later fragment", elsewhere(lambda one: bytes(replace(one, fragment=0x00B9))), Reason.PASS_FRAGMENT, (4,)),
    Case("last fragment", elsewhere(lambda one: bytes(replace(one, fragment=0x1FFF))), Reason.PASS_FRAGMENT, (4,)),
    Case("fragment header", elsewhere(carrying(FRAGMENT, bytes(40))), Reason.PASS_FRAGMENT, (6,)),
    Case("other version", poked(14, 0x55), Reason.PASS_MALFORMED),
    Case(
        "version of the other family",
        lambda packet: frame(IPV6, bytes(packet)[14:] + bytes(40)),
        Reason.PASS_MALFORMED,
        (4,),
    ),
    Case("short header length", poked(14, 0x44), Reason.PASS_MALFORMED, (4,)),
    Case("header longer than the packet", poked(14, 0x4F), Reason.PASS_MALFORMED, (4,)),
    Case("half a tcp header", cut(-4), Reason.PASS_MALFORMED),
    Case("no transport header", cut(-20), Reason.PASS_MALFORMED),
    Case("echo cut short", carrying(ICMP, bytes((8, 0, 0, 0))), Reason.PASS_MALFORMED, (4,)),
    Case("other port", lambda packet: bytes(packet.with_ports(40_000, 81)), Reason.PASS_NOT_SERVICE),
    Case(
        "other address",
        lambda packet: bytes(replace(packet, destination=packet.destination + 7777)),
        Reason.PASS_NOT_SERVICE,
    ),
    Case("other protocol", carrying(17, b"\x9c\x40\x00\x50\x00\x08\x00\x00"), Reason.PASS_NOT_SERVICE),
    Case("echo to the service", carrying(ICMP, bytes((8, 0)) + bytes(40)), Reason.PASS_NOT_SERVICE, (4,)),
    Case("echo to the service", carrying(ICMPV6, bytes((128, 0)) + bytes(40)), Reason.PASS_NOT_SERVICE, (6,)),
    Case(
        "ttl 1",
        lambda packet: bytes(replace(packet, destination=packet.destination + 7777, ttl=1)),
        Reason.PASS_NOT_SERVICE,
    ),
]
EACH = [pytest.param(case, version, id=f"{case.name}-v{version}") for case in CASES for version in case.versions]


@pytest.mark.parametrize(("case", "family"), EACH)
def test_what_is_not_ours_is_passed_unmodified(driver: Driver, hook: Hook, case: Case, family: int) -> None:
    """With the reason that fits."""
    service = driver.service(family)
    packet = driver.path(service).request(flags=SYN)
    made = case.make(packet)
    driver.expect(hook, made, case.reason, device=CLIENT)
    assert driver.flows(service) == []


def test_a_frame_for_another_host_is_left_alone(driver: Driver, version: int) -> None:
    """On TC, which is told so. Devices hand XDP only what is theirs, but for multicast."""
    path = driver.path(driver.service(version))
    raw = b"\x02\0\0\0\x77\x77" + bytes(path.request(flags=SYN))[6:]

    driver.expect(Hook.TC, raw, Reason.PASS_OTHER_HOST, device=CLIENT)


def test_replies_of_an_endpoint_without_a_flow_are_left_alone(driver: Driver, hook: Hook, version: int) -> None:
    """It may have connections of its own."""
    service = driver.service(version)
    path = driver.path(service)

    driver.expect(hook, path.reply(flags=SYN | ACK), Reason.PASS_NOT_SERVICE)


def test_traffic_between_client_and_endpoint_is_left_alone(driver: Driver, hook: Hook, version: int) -> None:
    """Plain routing, also while there is a flow of the service between the same two."""
    path = driver.open(hook, driver.path(driver.service(version)))
    direct = replace(path.request(), destination=path.endpoint).with_ports(path.client_port, path.endpoint_port)

    driver.expect(hook, direct, Reason.PASS_NOT_SERVICE)
    driver.use(hook, path)


@pytest.mark.parametrize("length", range(14, 54))
def test_a_frame_of_any_length_is_passed(driver: Driver, version: int, length: int) -> None:
    """XDP sees whatever arrives."""
    path = driver.path(driver.service(version))
    driver.expect(Hook.XDP, bytes(path.request(flags=SYN))[:length], Reason.PASS_MALFORMED)
