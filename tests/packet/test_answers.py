# SPDX-License-Identifier: Apache-2.0
"""Senders are told why their packets go no further, as often as they may be."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest
from msgspec import structs

from loxilb.kernel.abi import Reason
from loxilb.kernel.bpf import convert
from loxilb.kernel.bpf.maps import index_key, update
from loxilb.model import Endpoint, L4Protocol, Mode, Selection
from tests.packet.answers import DONT_FRAGMENT, back, expired, too_big, unreachable
from tests.packet.driver import PORT, SMALL, TARGET, Driver, without_endpoints
from tests.packet.test_fragments import expect as expect_fragment
from tests.packet.test_fragments import pieces
from tests.support.bpf import CLIENT, SERVERS, Hook
from tests.support.packets import ACK, SYN, IcmpError, checksum

pytestmark = pytest.mark.must_run
SETTINGS = replace(SMALL, icmp_interval=60.0)
BURST, MTU = 6, 1300


def describe(driver: Driver, *, addressed: bool) -> None:
    """Tell the programs of the client's device, the way the daemon does, with its addresses or without."""
    own = [ip_interface(f"{CLIENT.address(version)}/{24 if version == 4 else 64}") for version in (4, 6)]
    port = driver.world.port(CLIENT, *(own if addressed else ()))
    at = port.index & (driver.data_plane.sizes["links"] - 1)
    update(driver.data_plane.descriptors["links"], index_key(at), convert.link_to_value(port), "describe a device")


@pytest.fixture
def addressed(driver: Driver) -> Iterator[Driver]:
    """Return a data plane that knows the addresses of the client's device."""
    describe(driver, addressed=True)
    yield driver
    describe(driver, addressed=False)


@pytest.mark.kernel
def test_a_datagram_to_a_service_without_endpoints_is_refused(driver: Driver, hook: Hook, version: int) -> None:
    """Port unreachable, as from a host without that socket, with as much of the datagram as may be quoted."""
    service = without_endpoints(driver, version, L4Protocol.UDP)

    for size in (0, 1, 519, 520, 521, 1183, 1184, 1185, 1400):
        packet = driver.path(service).request(payload=(bytes(range(1, 251)) * 6)[:size])
        driver.expect_answer(hook, packet, Reason.ANSWER_UNREACHABLE, unreachable(packet))


def test_padding_is_not_quoted(driver: Driver, hook: Hook, version: int) -> None:
    """Ethernet pads short frames."""
    packet = replace(driver.path(without_endpoints(driver, version, L4Protocol.UDP)).request(), trailer=b"\xa5" * 21)

    driver.expect_answer(hook, packet, Reason.ANSWER_UNREACHABLE, unreachable(packet))


@pytest.mark.parametrize("protocol", [L4Protocol.TCP, L4Protocol.UDP], ids=lambda one: one.value)
def test_time_exceeded_comes_from_the_device(addressed: Driver, hook: Hook, version: int, protocol: L4Protocol) -> None:
    """From the address that a router would use, so that a trace shows it."""
    more = {"flags": SYN} if protocol is L4Protocol.TCP else {}
    packet = replace(addressed.path(addressed.service(version, protocol)).request(**more), ttl=1)

    addressed.expect_answer(hook, packet, Reason.ANSWER_EXPIRED, expired(packet, CLIENT.address(version)))


@contextmanager
def narrow(version: int) -> Iterator[Endpoint]:
    """Return an endpoint behind a route of a smaller MTU; routers look at locked ones only."""
    address = ip_address("77.77.77.79" if version == 4 else "7ffe::79")
    route = f"{address}/{32 if version == 4 else 128} via {SERVERS[0].gateway(version)} mtu lock {MTU}"
    subprocess.run(["ip", f"-{version}", "route", "add", *route.split()], check=True, timeout=10)
    try:
        yield Endpoint(address=address, port=TARGET)
    finally:
        subprocess.run(["ip", f"-{version}", "route", "del", *route.split()], check=True, timeout=10)


@contextmanager
def narrow_device(driver: Driver, version: int) -> Iterator[Endpoint]:
    """Return an endpoint behind a device of a smaller MTU, which the programs are told as the daemon does."""
    device = SERVERS[0]

    def resize(mtu: int) -> None:
        subprocess.run(["ip", "link", "set", device.name, "mtu", str(mtu)], check=True, timeout=10)
        port = replace(driver.world.port(device), mtu=mtu)
        at = port.index & (driver.data_plane.sizes["links"] - 1)
        update(driver.data_plane.descriptors["links"], index_key(at), convert.link_to_value(port), "describe a device")

    resize(MTU)
    try:
        yield Endpoint(address=device.gateway(version), port=TARGET)
    finally:
        resize(1500)


@pytest.mark.kernel
@pytest.mark.newer
def test_a_packet_too_big_for_the_next_hop_is_answered_with_its_mtu(
    addressed: Driver, hook: Hook, version: int
) -> None:
    """Where a route says it; the kernel tells programs of it since Linux 5.12."""
    with narrow(version) as endpoint:
        expect_too_big(addressed, hook, version, endpoint)


@pytest.mark.kernel
def test_a_packet_too_big_for_the_device_is_answered_with_its_mtu(addressed: Driver, hook: Hook, version: int) -> None:
    """The same where the device is the narrow one."""
    with narrow_device(addressed, version) as endpoint:
        expect_too_big(addressed, hook, version, endpoint)


def expect_too_big(addressed: Driver, hook: Hook, version: int, endpoint: Endpoint) -> None:
    """Check it opening a flow and within one; what just fits goes through."""
    path = addressed.path(addressed.service(version, L4Protocol.UDP, endpoints=[endpoint]))
    fits = {"payload": bytes(MTU - (28 if version == 4 else 48))}
    more = {"payload": bytes(len(fits["payload"]) + 1)}
    large = replace(path.request(**more), fragment=DONT_FRAGMENT)
    answer = too_big(large, CLIENT.address(version), MTU)

    addressed.expect_answer(hook, large, Reason.ANSWER_TOO_BIG, answer)
    addressed.send(hook, path.request(), path.reply())
    addressed.expect_answer(hook, large, Reason.ANSWER_TOO_BIG, answer)
    leaves = path.requested(**fits)
    addressed.expect(hook, path.request(**fits), Reason.FORWARD_ESTABLISHED, leaves)


def test_a_packet_that_may_be_fragmented_is_left_to_the_kernel(driver: Driver, hook: Hook) -> None:
    """Translated, with its hops as they were: the kernel forwards it."""
    with narrow(4) as endpoint:
        path = driver.open(hook, driver.path(driver.service(4, L4Protocol.UDP, endpoints=[endpoint])))
        there, leaves = path.request(payload=bytes(1400)), path.requested(payload=bytes(1400))

        delivered = replace(leaves, dmac=there.dmac, smac=there.smac, ttl=there.ttl)
        driver.expect_answer(hook, there, Reason.FORWARD_LOCAL, delivered)


def test_from_an_address_of_ours_the_kernel_takes_it_by_the_loopback(driver: Driver, hook: Hook) -> None:
    """Anywhere else it would be a martian (RFC 1812 section 5.3.7); whole or in fragments."""
    with narrow(4) as endpoint:
        service = driver.service(4, L4Protocol.UDP, mode=Mode.FULLNAT, endpoints=[endpoint])
        path = driver.open(hook, driver.path(service))
        there, leaves = path.request(payload=bytes(1400)), path.requested(payload=bytes(1400))

        delivered = replace(leaves, dmac=bytes(6), smac=bytes(6), ttl=there.ttl)
        driver.expect_answer(hook, there, Reason.FORWARD_LOOPBACK, delivered)
        for arrives, becomes in zip(pieces(there, 1352), pieces(delivered, 1352), strict=True):
            small = len(arrives) < MTU
            sent = leaves.dmac + leaves.smac + becomes[12:]
            sent = sent[:22] + bytes((leaves.ttl,)) + sent[23:24] + bytes(2) + sent[26:]
            sent = sent[:24] + checksum(sent[14:34]).to_bytes(2, "big") + sent[26:]
            reason = Reason.FORWARD_FRAGMENT if small else Reason.FORWARD_LOOPBACK
            expect_fragment(driver, hook, arrives, reason, sent if small else becomes)


def test_a_client_with_another_port_is_no_address_of_ours(driver: Driver, hook: Hook) -> None:
    """Its port was taken: the source is rewritten, the address is as it was."""
    with narrow(4) as endpoint:
        one, other = (driver.service(4, L4Protocol.UDP, endpoints=[endpoint]) for _ in range(2))
        first = driver.open(hook, driver.path(one))
        path = driver.open(hook, driver.path(other, client=first.client, port=first.client_port))
        there, leaves = path.request(payload=bytes(1400)), path.requested(payload=bytes(1400))

        assert path.source_port != first.source_port
        delivered = replace(leaves, dmac=there.dmac, smac=there.smac, ttl=there.ttl)
        driver.expect_answer(hook, there, Reason.FORWARD_LOCAL, delivered)


def test_every_fragment_that_is_too_big_is_answered_over_ipv6(addressed: Driver, hook: Hook) -> None:
    """Not the first one alone, which may have been smaller (RFC 4443 section 3.2)."""
    with narrow(6) as endpoint:
        path = addressed.path(addressed.service(6, L4Protocol.UDP, endpoints=[endpoint]))
        first, second = pieces(path.request(payload=bytes(range(200)) * 12), 800)
        sent = next(pieces(path.requested(payload=bytes(range(200)) * 12), 800))
        expect_fragment(addressed, hook, first, Reason.FORWARD_NEW, sent)

        quote = IcmpError(kind=2, code=0, info=MTU, quote=second[14 : 14 + 1232])
        answer = back(path.request(), CLIENT.address(6), quote)
        expect_fragment(addressed, hook, second, Reason.ANSWER_TOO_BIG, bytes(answer))


def test_a_fragment_without_hops_left_is_answered_over_ipv6_alone(addressed: Driver, hook: Hook, version: int) -> None:
    """Of IPv4 the sender is told about the first one only (RFC 1812 section 4.3.2.7)."""
    path = addressed.path(addressed.service(version, L4Protocol.UDP))
    packet = path.request(payload=bytes(range(200)) * 12)
    first, second = (next(pieces(packet, 1440)), list(pieces(replace(packet, ttl=1), 1440))[1])
    sent = next(pieces(path.requested(payload=bytes(range(200)) * 12), 1440))
    expect_fragment(addressed, hook, first, Reason.FORWARD_NEW, sent)

    if version == 4:
        expect_fragment(addressed, hook, second, Reason.DROP_TTL)
    else:
        answer = back(packet, CLIENT.address(6), IcmpError(kind=3, code=0, quote=second[14 : 14 + 1232]))
        expect_fragment(addressed, hook, second, Reason.ANSWER_EXPIRED, bytes(answer))


def test_direct_server_return_tells_of_a_smaller_link(addressed: Driver, hook: Hook, version: int) -> None:
    """Neither MACs nor hops are the sender's affair, but the size is: the packet would be lost."""
    with narrow(version) as endpoint:
        direct = structs.replace(endpoint, port=PORT)
        service = addressed.service(
            version, L4Protocol.UDP, endpoints=[direct], mode=Mode.DSR, selection=Selection.HASH
        )
        packet = addressed.path(service).request(payload=bytes(MTU))
        packet = replace(packet, fragment=DONT_FRAGMENT)
        answer = too_big(packet, CLIENT.address(version), MTU)

        addressed.expect_answer(hook, packet, Reason.ANSWER_TOO_BIG, answer)
        addressed.send(hook, addressed.path(service).request())
        addressed.expect_answer(hook, packet, Reason.ANSWER_TOO_BIG, answer)


def test_errors_to_one_address_are_limited(module_driver: Driver, hook: Hook, version: int) -> None:
    """So many at once, whatever other clients and the other family are sent; resets are not limited."""
    refusing = without_endpoints(module_driver, version, L4Protocol.UDP)
    other = without_endpoints(module_driver, 10 - version, L4Protocol.UDP)
    path = module_driver.path(refusing)
    packet = path.request()

    for _ in range(BURST):
        module_driver.expect_answer(hook, packet, Reason.ANSWER_UNREACHABLE, unreachable(packet))
        another = module_driver.path(other).request()
        module_driver.expect_answer(hook, another, Reason.ANSWER_UNREACHABLE, unreachable(another))
    module_driver.expect(Hook.TC, packet, Reason.DROP_RATE)
    another = module_driver.path(other).request()
    module_driver.expect(Hook.TC, another, Reason.ANSWER_UNREACHABLE, unreachable(another))
    module_driver.expect(Hook.TC, packet, Reason.DROP_RATE)
    closed = module_driver.path(without_endpoints(module_driver, version), client=path.client)
    for _ in range(BURST + 1):
        assert module_driver.run(Hook.TC, closed.request(flags=ACK)).code == 7
