# SPDX-License-Identifier: Apache-2.0
"""Where a packet goes, and what happens to it beside the translation."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from ipaddress import ip_address

import pytest

from loxilb.kernel.abi import Reason
from loxilb.model import Counter, Endpoint, IPAddress, L4Protocol
from tests.packet.answers import expired, no_way
from tests.packet.driver import TARGET, Driver
from tests.support.bpf import SERVERS, Hook
from tests.support.packets import SYN

pytestmark = pytest.mark.must_run
OPTIONS = {"one word": b"\x01" * 4, "ten words": b"\x01" * 39 + b"\x00"}


def ip(line: str) -> None:
    """Run an ip(8) command; the test is inside the namespace."""
    subprocess.run(["ip", *line.split()], check=True, timeout=10)


@contextmanager
def changed(do: str, undo: str) -> Iterator[None]:
    """Change the routing for a while."""
    ip(do)
    try:
        yield
    finally:
        ip(undo)


@pytest.mark.kernel
@pytest.mark.parametrize("ttl", [2, 64, 255])
def test_the_hops_left_are_one_less(driver: Driver, hook: Hook, version: int, ttl: int) -> None:
    """TTL (RFC 791), hop limit (RFC 8200), on the way there and back."""
    path = driver.path(driver.service(version, L4Protocol.UDP))

    for arrives, leaves, reason in (
        (path.request(), path.requested(), Reason.FORWARD_NEW),
        (path.reply(), path.replied(), Reason.FORWARD_HALF_OPEN),
        (path.request(), path.requested(), Reason.FORWARD_ESTABLISHED),
    ):
        driver.expect(hook, replace(arrives, ttl=ttl), reason, replace(leaves, ttl=ttl - 1))


@pytest.mark.parametrize("ttl", [0, 1])
def test_a_packet_without_hops_left_ends_here(driver: Driver, hook: Hook, version: int, ttl: int) -> None:
    """Its sender is told, whether it opens a flow or belongs to one; it is not counted as the flow's."""
    service = driver.service(version, L4Protocol.UDP)
    path = driver.path(service)

    last = replace(path.request(), ttl=ttl)

    driver.expect_answer(hook, last, Reason.ANSWER_EXPIRED, expired(last, path.vip))
    assert [flow.counter.packets for flow in driver.flows(service)] == [0, 0]
    driver.open(hook, path)
    driver.expect_answer(hook, last, Reason.ANSWER_EXPIRED, expired(last, path.vip))
    assert [flow.counter.packets for flow in driver.flows(service)] == [1, 1]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_ip_options_stay_in_place(driver: Driver, hook: Hook, options: bytes) -> None:
    """The transport header is where the header length says."""
    path = driver.path(driver.service(4))

    arrives, leaves = (replace(one(flags=SYN), options=options) for one in (path.request, path.requested))
    driver.expect(hook, arrives, Reason.FORWARD_NEW, leaves)


def test_what_follows_the_packet_in_its_frame_stays_and_is_not_counted(
    driver: Driver, hook: Hook, version: int
) -> None:
    """Ethernet pads short frames."""
    service = driver.service(version, L4Protocol.UDP)
    path = driver.path(service)

    arrives, leaves = (replace(one(), trailer=b"\xa5" * 21) for one in (path.request, path.requested))
    driver.expect(hook, arrives, Reason.FORWARD_NEW, leaves)
    assert driver.flows(service)[0].counter == Counter(packets=1, bytes=28 if version == 4 else 48)


@pytest.mark.kernel
def test_a_neighbour_that_is_not_known_yet(driver: Driver, hook: Hook, version: int) -> None:
    """XDP leaves the packet to TC, which translates it and has the kernel send it: one flow, one packet."""
    endpoint = Endpoint(address=SERVERS[0].gateway(version) + 9, port=TARGET)
    service = driver.service(version, endpoints=[endpoint])
    path = driver.path(service)
    packet, sent = path.request(flags=SYN), path.requested(flags=SYN)
    unaddressed = replace(sent, dmac=packet.dmac, smac=packet.smac)

    if hook is Hook.XDP:
        driver.expect(Hook.XDP, packet, Reason.PASS_TO_TC)
    driver.expect(Hook.TC, packet, Reason.FORWARD_RESOLVE, unaddressed)
    assert [flow.counter.packets for flow in driver.flows(service)] == [1, 0]
    device, mac = SERVERS[0].name, SERVERS[0].neighbour.hex(":")
    with changed(
        f"neigh replace {endpoint.address} lladdr {mac} dev {device} nud permanent",
        f"neigh del {endpoint.address} dev {device}",
    ):
        driver.expect(hook, packet, Reason.FORWARD_HALF_OPEN, sent)
    assert [flow.counter.packets for flow in driver.flows(service)] == [2, 0]


@pytest.mark.kernel
def test_an_endpoint_on_this_host_gets_its_packets_from_the_stack(driver: Driver, hook: Hook, version: int) -> None:
    """TC translates and passes, for the stack to count the hop if it forwards; XDP leaves that to it."""
    here = SERVERS[0].address(version)
    path = driver.path(driver.service(version, endpoints=[Endpoint(address=here, port=TARGET)]))
    packet = path.request(flags=SYN)
    delivered = replace(path.requested(flags=SYN), dmac=packet.dmac, smac=packet.smac, ttl=packet.ttl)

    driver.data_plane.know_addresses(frozenset({here}))
    try:
        if hook is Hook.XDP:
            driver.expect(Hook.XDP, packet, Reason.PASS_TO_TC)
        driver.expect(Hook.TC, packet, Reason.FORWARD_LOCAL, delivered)
    finally:
        driver.data_plane.know_addresses(frozenset())


def away(version: int) -> IPAddress:
    """Return an address that no route leads to."""
    return ip_address("77.77.77.77" if version == 4 else "7ffe::77")


@pytest.mark.parametrize("protocol", [L4Protocol.TCP, L4Protocol.UDP])
@pytest.mark.parametrize("kind", ["none", "unreachable", "prohibit"])
def test_who_sends_where_no_route_leads_is_told(
    driver: Driver, hook: Hook, version: int, kind: str, protocol: L4Protocol
) -> None:
    """At once, also a TCP client: it is the way that is missing, not the port. The packet is not the flow's either."""
    service = driver.service(version, protocol, endpoints=[Endpoint(address=away(version), port=TARGET)])
    path = driver.path(service)
    packet = path.request(flags=SYN) if protocol is L4Protocol.TCP else path.request()
    route = f"{kind} {away(version)}"

    refused = changed(f"-{version} route add {route}", f"-{version} route del {route}")
    with nullcontext() if kind == "none" else refused:
        driver.expect_answer(hook, packet, Reason.ANSWER_UNREACHABLE, no_way(packet, path.vip, kind))
    assert sum(flow.counter.packets for flow in driver.flows(service)) == 0


def test_a_black_hole_is_silent(driver: Driver, hook: Hook, version: int) -> None:
    """As it is for the kernel."""
    service = driver.service(version, endpoints=[Endpoint(address=away(version), port=TARGET)])
    route = f"blackhole {away(version)}"

    with changed(f"-{version} route add {route}", f"-{version} route del {route}"):
        driver.expect(hook, driver.path(service).request(flags=SYN), Reason.DROP_BLACK_HOLE)


def test_a_changed_neighbour_is_found_by_the_next_generation(driver: Driver, hook: Hook, version: int) -> None:
    """Cached until then; both directions ask again."""
    path = driver.open(hook, driver.path(driver.service(version), endpoint=0))
    server, moved = SERVERS[0], bytes.fromhex("0200000055aa")
    gateway = server.gateway(version)

    def neighbour(mac: bytes) -> str:
        return f"neigh replace {gateway} lladdr {mac.hex(':')} dev {server.name} nud permanent"

    driver.use(hook, path)
    with changed(neighbour(moved), neighbour(server.neighbour)):
        driver.use(hook, path)
        driver.data_plane.resolve_again()
        driver.expect(hook, path.request(), Reason.FORWARD_ESTABLISHED, replace(path.requested(), dmac=moved))
        driver.expect(hook, path.reply(), Reason.FORWARD_ESTABLISHED, path.replied())
    driver.data_plane.resolve_again()
    driver.use(hook, path)


@pytest.mark.kernel
def test_a_changed_route_is_found_by_the_next_generation(driver: Driver, hook: Hook, version: int) -> None:
    """The endpoint moves behind another server."""
    address = ip_address("77.77.77.78" if version == 4 else "7ffe::78")
    service = driver.service(version, L4Protocol.UDP, endpoints=[Endpoint(address=address, port=TARGET)])
    path = driver.path(service)
    family, bits = f"-{version} ", 32 if version == 4 else 128

    def route(verb: str, server: int) -> str:
        return f"{family}route {verb} {address}/{bits} via {SERVERS[server].gateway(version)}"

    with changed(route("add", 0), f"{family}route del {address}/{bits}"):
        driver.send(hook, path.request(), path.reply())
        driver.use(hook, path)
        ip(route("replace", 2))
        driver.data_plane.resolve_again()
        driver.use(hook, replace(path, server=SERVERS[2]))
