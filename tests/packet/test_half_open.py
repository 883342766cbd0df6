# SPDX-License-Identifier: Apache-2.0
"""Limits of half-open flows: counted exactly however such a flow ends, and a flood of SYNs meets them."""

import random
import struct
from ctypes import sizeof
from dataclasses import replace

import pytest
from msgspec import structs

from loxilb.kernel.abi import Reason, RuleState
from loxilb.kernel.bpf.maps import index_key, lookup
from loxilb.model import Endpoint, FlowState, L4Protocol, Mode, Selection, Service
from loxilb.model.image import RuleId
from tests.packet.driver import SMALL, TARGET, Driver
from tests.support.bpf import SERVERS, Hook
from tests.support.lab import wait_for
from tests.support.packets import ACK, RST, SYN

pytestmark = pytest.mark.must_run
LIMIT = 5
BRIEF = replace(SMALL, half_open4=64, half_open6=64, timeouts=dict.fromkeys(FlowState, 0.2))
TINY = replace(SMALL, half_open4=16, half_open6=16)
CROWDED = replace(SMALL, flows4=65_536, half_open4=1024)
LIVE, FLOOD = 10_000, 10_000


def half_open_of(driver: Driver, rule: RuleId) -> int:
    """Return the half-open flows of a rule, by the programs' own count."""
    value = lookup(driver.data_plane.descriptors["rule_states"], index_key(rule), sizeof(RuleState))
    return int(struct.unpack_from("=i", value or b"", RuleState.half_open.offset)[0])


def half_open(driver: Driver, service: Service) -> int:
    """Return the half-open flows of a service."""
    return half_open_of(driver, driver.rule_id(service))


def in_table(driver: Driver, service: Service) -> int:
    """Return how many flows of a service the half-open tables hold."""
    return sum(flow.state in (FlowState.SYN_SENT, FlowState.SYN_RECEIVED) for flow in driver.flows(service)) // 2


@pytest.mark.parametrize("mode", [Mode.DEFAULT, Mode.FULLNAT, Mode.DSR], ids=lambda mode: mode.name.lower())
def test_one_too_many_is_dropped(driver: Driver, hook: Hook, version: int, mode: Mode) -> None:
    """Until one of them is established or ends; the choice of endpoints does not notice those that were refused."""
    selection = Selection.HASH if mode is Mode.DSR else Selection.RR
    direct = [Endpoint(address=SERVERS[0].gateway(version), port=80)] if mode is Mode.DSR else []
    service = driver.service(version, endpoints=direct, mode=mode, selection=selection, half_open_limit=LIMIT)
    paths = [driver.path(service, endpoint=number % len(service.endpoints)) for number in range(LIMIT)]
    driver.send(hook, *(path.request(flags=SYN) for path in paths))

    late = driver.path(service, endpoint=LIMIT % len(service.endpoints))
    for _ in range(2):
        driver.expect(hook, late.request(flags=SYN), Reason.DROP_HALF_OPEN)
    driver.send(hook, paths[0].request(flags=SYN))  # one that is there already is no further one
    assert half_open(driver, service) == LIMIT

    if mode is Mode.DSR:
        driver.send(hook, paths[0].request(flags=ACK))
    else:
        driver.send(hook, paths[0].reply(flags=SYN | ACK), paths[0].request(flags=ACK))
    assert half_open(driver, service) == LIMIT - 1
    assert driver.servers(hook, [late.request(flags=SYN)]) == [LIMIT % len(service.endpoints)]
    driver.expect(hook, driver.path(service).request(flags=SYN), Reason.DROP_HALF_OPEN)


@pytest.mark.parametrize("protocol", [L4Protocol.UDP, L4Protocol.ICMP], ids=lambda one: one.value)
def test_flows_without_a_handshake_are_half_open_until_answered(
    driver: Driver, hook: Hook, version: int, protocol: L4Protocol
) -> None:
    """A flood of datagrams meets the limit like one of SYNs."""
    target = 0 if protocol is L4Protocol.ICMP else TARGET
    one = [Endpoint(address=SERVERS[0].gateway(version), port=target)]
    service = driver.service(version, protocol, endpoints=one, half_open_limit=2)
    paths = [driver.path(service) for _ in range(3)]
    driver.send(hook, paths[0].request(), paths[1].request())

    driver.expect(hook, paths[2].request(), Reason.DROP_HALF_OPEN)
    driver.send(hook, paths[0].reply(), paths[2].request())
    assert half_open(driver, service) == 2


def test_the_limit_changes_while_flows_are_open(driver: Driver, hook: Hook, version: int) -> None:
    """Flows from before it was set count; without one everything passes again."""
    service = driver.service(version)
    driver.send(hook, *(driver.path(service).request(flags=SYN) for _ in range(LIMIT)))

    driver.put(structs.replace(service, half_open_limit=LIMIT))
    driver.expect(hook, driver.path(service).request(flags=SYN), Reason.DROP_HALF_OPEN)
    driver.put(structs.replace(service, half_open_limit=LIMIT + 1))
    driver.send(hook, driver.path(service).request(flags=SYN))
    driver.expect(hook, driver.path(service).request(flags=SYN), Reason.DROP_HALF_OPEN)
    driver.put(service)
    driver.send(hook, driver.path(service).request(flags=SYN))
    assert half_open(driver, service) == in_table(driver, service) == LIMIT + 2


def test_a_refused_connection_gives_its_place_back(driver: Driver, hook: Hook, version: int) -> None:
    """At the end of its time as one that was reset; a SYN that opens it anew counts once."""
    service = driver.service(version, half_open_limit=1)
    path = driver.path(service)
    driver.send(hook, path.request(flags=SYN), path.reply(flags=RST | ACK))
    again = driver.path(service, endpoint=1, client=path.client, port=path.client_port)
    driver.expect(hook, again.request(flags=SYN), Reason.FORWARD_NEW, again.requested(flags=SYN))
    assert half_open(driver, service) == 1


@pytest.mark.parametrize("own_driver", [TINY], indirect=True, ids=["tiny"])
def test_flows_that_gave_way_count_no_more(own_driver: Driver, hook: Hook) -> None:
    """What is counted is what is there."""
    for version in (4, 6):
        service = own_driver.service(version)
        for _ in range(300):
            own_driver.run(hook, own_driver.path(service).request(flags=SYN))

        there = [flow for flow in own_driver.flows(service) if not flow.reply]
        assert half_open(own_driver, service) == len(there)


@pytest.mark.parametrize("own_driver", [BRIEF], indirect=True, ids=["brief"])
def test_after_many_flows_the_count_is_true(own_driver: Driver, hook: Hook) -> None:
    """However they ended: established, refused, displaced, idle, or with their service."""
    source = random.Random(11)
    services = [
        own_driver.service(version, protocol, half_open_limit=40)
        for version in (4, 6)
        for protocol in (L4Protocol.TCP, L4Protocol.UDP)
    ]
    for number in range(3000):
        service = source.choice(services)
        tcp = service.key.protocol is L4Protocol.TCP
        path = own_driver.path(service, endpoint=number % 3)
        handshake = (path.request(flags=SYN), path.reply(flags=SYN | ACK), path.request(flags=ACK)) if tcp else ()
        packets = (*handshake, path.reply(flags=RST)) if tcp else (path.request(), path.reply())
        for packet in packets:
            if packet is packets[0] or source.random() < 0.6:
                own_driver.run(hook, packet)
    assert all(0 <= half_open(own_driver, service) <= 40 for service in services)

    wait_for(lambda: not list(own_driver.data_plane.flows()), deadline=20, what="the end of all flows")
    assert [half_open(own_driver, service) for service in services] == [0, 0, 0, 0]


def test_a_rule_that_takes_over_an_id_starts_right(driver: Driver, hook: Hook) -> None:
    """Flows of the deleted rule still count themselves off: neither below nothing nor for the new one."""
    service = driver.service(4, half_open_limit=LIMIT)
    rule = driver.rule_id(service)
    driver.send(hook, *(driver.path(service).request(flags=SYN) for _ in range(LIMIT)))
    driver.drop(service)

    wait_for(lambda: half_open_of(driver, rule) == 0, what="the end of the deleted service's flows")


def connect(driver: Driver, hook: Hook, service: Service) -> None:
    """Let a client connect to whatever endpoint it is given, and use the connection."""
    path = driver.path(service)
    (endpoint,) = driver.servers(hook, [path.request(flags=SYN)])
    path = driver.path(service, endpoint=endpoint, client=path.client, port=path.client_port)
    driver.send(hook, path.reply(flags=SYN | ACK), path.request(flags=ACK))
    driver.use(hook, path)


@pytest.mark.parametrize("own_driver", [CROWDED], indirect=True, ids=["crowded"])
def test_a_flood_takes_nothing_from_live_flows(own_driver: Driver, hook: Hook) -> None:
    """Ten thousand established connections, far more SYNs than the table holds, and new clients all the while."""
    service = own_driver.service(4)
    live = [own_driver.open(hook, own_driver.path(service, endpoint=number % 3)) for number in range(LIVE)]
    for number in range(FLOOD):
        own_driver.run(hook, own_driver.path(service).request(flags=SYN))
        if number % 500 == 499:
            connect(own_driver, hook, service)

    waiting = [flow for flow in own_driver.flows(service) if flow.state is FlowState.SYN_SENT and not flow.reply]
    assert half_open(own_driver, service) == len(waiting) > 0
    for path in live:
        assert own_driver.send(hook, path.request()) == bytes(path.requested())


@pytest.mark.parametrize("own_driver", [CROWDED], indirect=True, ids=["crowded"])
def test_a_flood_that_meets_its_limit_leaves_room_to_others(own_driver: Driver, hook: Hook) -> None:
    """Endpoints see no more than the limit at a time; other services and live connections do not notice."""
    flooded, other = own_driver.service(4, half_open_limit=100), own_driver.service(4)
    path = own_driver.open(hook, own_driver.path(flooded))
    before = own_driver.data_plane.reasons()
    for number in range(2000):
        own_driver.run(hook, own_driver.path(flooded).request(flags=SYN))
        if number % 200 == 199:
            connect(own_driver, hook, other)

    assert own_driver.data_plane.reasons()["drop_half_open"] - before["drop_half_open"] >= 1700
    assert half_open(own_driver, flooded) <= 100
    own_driver.use(hook, path)
