# SPDX-License-Identifier: Apache-2.0
"""The flow tables under pressure, and what they count."""

from ctypes import sizeof
from dataclasses import replace
from itertools import islice

import pytest

from loxilb.kernel.abi import Reason, Runtime
from loxilb.kernel.bpf.maps import index_key, lookup
from loxilb.model import Counter, Endpoint, FlowState, L4Protocol, Mode
from tests.packet.driver import SMALL, TARGET, Driver, Path
from tests.support.bpf import SERVERS, Hook
from tests.support.packets import ACK, FIN, SYN, Packet

pytestmark = pytest.mark.must_run
OVERFLOW = 4096  # flows, one direction each, that a hash map holds when their windows are full
TINY_HALF = replace(SMALL, half_open4=16, half_open6=16)
TINY_MAIN = replace(SMALL, flows4=16, flows6=16, half_open4=4096, half_open6=4096)


def octets(*packets: Packet) -> Counter:
    """Return what packets count: bytes from the IP header on."""
    return Counter(packets=len(packets), bytes=sum(len(bytes(packet)) - 14 for packet in packets))


def counted(driver: Driver, *paths: Path) -> list[list[Counter]]:
    """Return the counters of flows: there, and back."""
    found = {}
    for flow in driver.data_plane.flows():
        client = (flow.new_destination, flow.new_destination_port) if flow.reply else (flow.source, flow.source_port)
        found[client, flow.reply] = flow.counter
    return [[found[(path.client, path.client_port), reply] for reply in (False, True)] for path in paths]


def only_endpoint(version: int) -> list[Endpoint]:
    """Return one endpoint."""
    return [Endpoint(address=SERVERS[0].gateway(version), port=TARGET)]


def test_counters_are_exact_through_the_life_of_a_flow(driver: Driver, hook: Hook, version: int) -> None:
    """Half-open, moved, established, closing: no packet is lost, none is counted twice."""
    service = driver.service(version, endpoints=only_endpoint(version))
    path = driver.path(service)
    there = [path.request(flags=SYN), path.request(flags=SYN), path.request(flags=ACK)]
    back = [path.reply(flags=SYN | ACK)]

    driver.send(hook, there[0], there[1])
    assert counted(driver, path)[0] == [octets(*there[:2]), Counter()]
    driver.send(hook, back[0])
    assert counted(driver, path)[0] == [octets(*there[:2]), octets(*back)]
    driver.send(hook, there[2])
    assert counted(driver, path)[0] == [octets(*there), octets(*back)]
    there += [path.request(payload=bytes(size)) for size in (1, 100, 1400)] + [path.request(flags=FIN | ACK)]
    back += [path.reply(payload=bytes(size)) for size in (1399, 7)] + [path.reply(flags=FIN | ACK)]
    driver.send(hook, *there[3:], *back[1:])
    assert counted(driver, path)[0] == [octets(*there), octets(*back)]
    assert driver.counters(service) == [octets(*there) + octets(*back)]


def test_counters_of_an_endpoint_are_the_sum_of_its_flows(driver: Driver, hook: Hook, version: int) -> None:
    """Half-open ones, established ones, and those that have ended."""
    service = driver.service(version)
    sent: dict[int, list[Packet]] = {0: [], 1: [], 2: []}
    for number in range(9):
        path = driver.path(service, endpoint=number % 3)
        packets = [path.request(flags=SYN), path.reply(flags=SYN | ACK), path.request(payload=bytes(number))]
        if number % 2:
            packets = packets[:1]
        driver.send(hook, *packets)
        sent[number % 3] += packets
    reopened = driver.path(service)
    ended = [reopened.request(flags=SYN), reopened.reply(flags=0x14), reopened.request(flags=SYN)]
    driver.send(hook, *ended)
    sent[0] += ended[:2]
    sent[1] += ended[2:]

    assert driver.counters(service) == [octets(*packets) for packets in sent.values()]


@pytest.mark.parametrize("own_driver", [TINY_HALF], indirect=True, ids=["tiny"])
def test_half_open_flows_displace_only_each_other(own_driver: Driver, hook: Hook) -> None:
    """A flood of SYNs: every established connection goes on, exactly, and so does every new one."""
    for version in (4, 6):
        service = own_driver.service(version)
        paths = [own_driver.open(hook, own_driver.path(service, endpoint=number % 3)) for number in range(30)]
        for path in paths:
            own_driver.use(hook, path)

        crowd = own_driver.path(service)
        for number in range(3000):
            own_driver.run(hook, crowd.request(flags=SYN).with_ports(1024 + number, crowd.vip_port))

        for path in paths:
            own_driver.use(hook, path)
        for there, back in counted(own_driver, *paths):
            assert (there.packets, back.packets) == (4, 3)
        half_open = [flow for flow in own_driver.flows(service) if flow.state is FlowState.SYN_SENT]
        assert 0 < len(half_open) <= own_driver.data_plane.sizes[f"half{version}"]
        own_driver.use(hook, own_driver.open(hook, own_driver.path(service)))


@pytest.mark.parametrize("own_driver", [TINY_HALF], indirect=True, ids=["tiny"])
def test_a_flow_never_displaces_its_own_other_direction(own_driver: Driver, hook: Hook) -> None:
    """When every flow in the window is of the same moment, any of them may give way but this one."""
    for version in (4, 6):
        service = own_driver.service(version, endpoints=only_endpoint(version))
        crowd = own_driver.path(service)
        flood = (crowd.request(flags=SYN).with_ports(1024 + number, crowd.vip_port) for number in range(4000))
        for path in [own_driver.path(service) for _ in range(200)]:
            opening, answer = path.request(flags=SYN), path.reply(flags=SYN | ACK)
            for packet in islice(flood, 20):
                own_driver.run(hook, packet)
            own_driver.run(hook, opening)
            own_driver.expect(hook, answer, Reason.FORWARD_HALF_OPEN, path.replied(flags=SYN | ACK))


@pytest.mark.parametrize("own_driver", [TINY_HALF], indirect=True, ids=["tiny"])
@pytest.mark.parametrize("protocol", [L4Protocol.TCP, L4Protocol.UDP], ids=lambda one: one.value)
def test_a_flow_that_lost_its_way_back_is_opened_anew(own_driver: Driver, hook: Hook, protocol: L4Protocol) -> None:
    """In a crowd one direction of a half-open flow may give way without the other; the client tries again."""
    for version in (4, 6):
        service = own_driver.service(version, protocol, endpoints=only_endpoint(version))
        opening, answer = ({"flags": SYN}, {"flags": SYN | ACK}) if protocol is L4Protocol.TCP else ({}, {})
        paths = {path.client: path for path in (own_driver.path(service) for _ in range(200))}
        for path in paths.values():
            own_driver.run(hook, path.request(**opening))
        flows = own_driver.flows(service)
        halves = {flow.source for flow in flows if not flow.reply}
        halves -= {flow.new_destination for flow in flows if flow.reply}

        assert halves
        path = paths[halves.pop()]
        own_driver.send(hook, path.request(**opening))
        own_driver.expect(hook, path.reply(**answer), Reason.FORWARD_HALF_OPEN, path.replied(**answer))


def overflowing(driver: Driver, version: int) -> int:
    """Return how many flows are in the overflow map, by the programs' own count."""
    value = lookup(driver.data_plane.descriptors["runtime"], index_key(0), sizeof(Runtime))
    runtime = Runtime.from_buffer_copy(value or b"")
    return int(runtime.overflow4 if version == 4 else runtime.overflow6)


@pytest.mark.parametrize("own_driver", [TINY_MAIN], indirect=True, ids=["tiny"])
def test_what_finds_no_slot_is_exact_all_the_same(own_driver: Driver, hook: Hook) -> None:
    """Far more flows than slots; then none can be established any more, and the others do not notice."""
    for version in (4, 6):
        service = own_driver.service(version, L4Protocol.UDP, mode=Mode.FULLNAT)
        slots = own_driver.data_plane.sizes[f"flow{version}"]
        room = (slots + OVERFLOW) // 2
        paths = [own_driver.path(service, endpoint=number % 3) for number in range(room)]
        for path in paths:
            own_driver.send(hook, path.request(), path.reply())
        assert overflowing(own_driver, version) == 2 * room - slots
        some = paths[::41]
        for path in some:
            own_driver.use(hook, path)
        for path, counters in zip(some, counted(own_driver, *some), strict=True):
            assert counters[0] == octets(path.request(), path.request(payload=b"there"))
            assert counters[1] == octets(path.reply(), path.reply(payload=b"back"))

        late = own_driver.path(service, endpoint=room % 3)
        own_driver.expect(hook, late.request(), Reason.FORWARD_NEW, late.requested())
        own_driver.expect(hook, late.reply(), Reason.DROP_TABLE_FULL)
        own_driver.expect(hook, late.request(), Reason.FORWARD_HALF_OPEN, late.requested())
        own_driver.use(hook, paths[0])
        traffic = sum(own_driver.counters(service), Counter())
        assert traffic.packets == 2 * room + 2 * len(some) + 2 + 2
        check_that_no_handshake_ends(own_driver, hook, version)


def check_that_no_handshake_ends(driver: Driver, hook: Hook, version: int) -> None:
    """Check that a connection the table has no room for stays half-open, at both ends of the table and of the wire."""
    service = driver.service(version)
    path = driver.path(service)
    driver.send(hook, path.request(flags=SYN), path.reply(flags=SYN | ACK))
    for flags in (ACK, FIN | ACK, ACK):
        driver.expect(hook, path.request(flags=flags), Reason.DROP_TABLE_FULL)
        assert [flow.state for flow in driver.flows(service)] == [FlowState.SYN_RECEIVED] * 2
    driver.expect(hook, path.reply(flags=SYN | ACK), Reason.FORWARD_HALF_OPEN, path.replied(flags=SYN | ACK))
