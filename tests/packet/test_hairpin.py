# SPDX-License-Identifier: Apache-2.0
"""Packets that turn round at the load balancer: clients that are endpoints, endpoints that are services."""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from loxilb.kernel.abi import Reason
from loxilb.model import Endpoint, IPAddress, L4Protocol, Mode, Service
from tests.packet.answers import reset
from tests.packet.driver import PORT, TARGET, Driver, Path, without_endpoints
from tests.support.bpf import SERVERS, Hook
from tests.support.packets import ACK, SYN, Packet

pytestmark = pytest.mark.must_run
ITSELF = SERVERS[0]
PROTOCOLS = [L4Protocol.TCP, L4Protocol.UDP, L4Protocol.ICMP]


def at_server(packet: Packet) -> Packet:
    """Return a packet of the client, which is the first server, as it arrives from there."""
    return replace(packet, dmac=ITSELF.mac, smac=ITSELF.neighbour)


def to_server(packet: Packet) -> Packet:
    """Return a packet to the client, which is the first server, as it leaves."""
    return replace(packet, dmac=ITSELF.neighbour, smac=ITSELF.mac)


def looped(driver: Driver, version: int, protocol: L4Protocol, mode: Mode = Mode.DEFAULT) -> tuple[Service, Path]:
    """Return a service whose only endpoint is its client, and the path between the two."""
    port = 0 if protocol is L4Protocol.ICMP else TARGET
    service = driver.service(
        version, protocol, mode=mode, endpoints=[Endpoint(address=ITSELF.gateway(version), port=port)]
    )
    path = driver.path(service, client=ITSELF.gateway(version))
    return service, replace(path, source=path.vip) if mode is Mode.DEFAULT else path


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.value)
@pytest.mark.parametrize("mode", [Mode.DEFAULT, Mode.ONEARM, Mode.FULLNAT], ids=lambda one: one.name.lower())
def test_a_server_reaches_itself_by_the_service(
    driver: Driver, hook: Hook, version: int, protocol: L4Protocol, mode: Mode
) -> None:
    """In default mode from the service's address: from its own it would answer itself, past the load balancer."""
    service, path = looped(driver, version, protocol, mode)
    tcp = protocol is L4Protocol.TCP
    first, answer = ({"flags": SYN}, {"flags": SYN | ACK}) if tcp else ({}, {})

    driver.expect(hook, at_server(path.request(**first)), Reason.FORWARD_NEW, path.requested(**first))
    driver.expect(hook, path.reply(**answer), Reason.FORWARD_HALF_OPEN, to_server(path.replied(**answer)))
    if tcp:
        driver.expect(hook, at_server(path.request(flags=ACK)), Reason.FORWARD_HALF_OPEN, path.requested(flags=ACK))
    for _ in range(2):
        driver.expect(hook, at_server(path.request()), Reason.FORWARD_ESTABLISHED, path.requested())
        driver.expect(hook, path.reply(), Reason.FORWARD_ESTABLISHED, to_server(path.replied()))
    assert [flow.counter.packets for flow in driver.flows(service)] == ([4, 3] if tcp else [3, 3])


def test_other_clients_keep_their_address(driver: Driver, hook: Hook, version: int) -> None:
    """Only the endpoint itself is hidden behind the service, and only where it is chosen."""
    service = driver.service(version)
    driver.use(hook, driver.open(hook, driver.path(service)))
    path = driver.path(service, endpoint=1, client=ITSELF.gateway(version))

    leaves = replace(path.requested(flags=SYN), source=ITSELF.gateway(version))
    driver.expect(hook, at_server(path.request(flags=SYN)), Reason.FORWARD_NEW, leaves)


def test_both_ends_of_one_server_may_use_the_same_port(driver: Driver, hook: Hook, version: int) -> None:
    """The client's port to one service is a source port of another: they stay apart."""
    _, one = looped(driver, version, L4Protocol.UDP)
    _, other = looped(driver, version, L4Protocol.UDP)
    other = replace(other, client_port=one.client_port, source_port=one.client_port)

    for path in (one, other):
        driver.expect(hook, at_server(path.request()), Reason.FORWARD_NEW, path.requested())
    for path in (one, other):
        driver.expect(hook, path.reply(), Reason.FORWARD_HALF_OPEN, to_server(path.replied()))


# Services behind services.


def behind(driver: Driver, version: int, protocol: L4Protocol, *inner: Service, **more: Any) -> Service:
    """Return a service whose endpoints are other services."""
    endpoints = [Endpoint(address=one.key.address, port=one.key.port) for one in inner]
    return driver.service(version, protocol, endpoints=endpoints, **more)


def through(driver: Driver, outer: Service, inner: Service, source: IPAddress | None = None) -> Path:
    """Return the path of a client by the outer service to the first endpoint of the inner one."""
    path = driver.path(inner)
    return replace(path, vip=outer.key.address, vip_port=outer.key.port, source=source or path.client)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.value)
def test_an_endpoint_that_is_a_service_stands_for_its_endpoints(
    driver: Driver, hook: Hook, version: int, protocol: L4Protocol
) -> None:
    """As if the client had asked for that service; its endpoint is counted, no other one."""
    port = 0 if protocol is L4Protocol.ICMP else TARGET
    inner = driver.service(version, protocol, endpoints=[Endpoint(address=ITSELF.gateway(version), port=port)])
    outer = behind(driver, version, protocol, inner)
    path = through(driver, outer, inner)

    driver.use(hook, driver.open(hook, path))

    sent = sum(flow.counter.packets for flow in driver.flows(inner))
    assert [one.packets for one in driver.counters(inner)] == [sent] != [0]
    assert [one.packets for one in driver.counters(outer)] == [0]


def test_each_service_on_the_way_selects(driver: Driver, hook: Hook, version: int) -> None:
    """The outer one between inner ones, each inner one between its endpoints."""
    one = driver.service(version)
    other = driver.service(version, endpoints=[Endpoint(address=SERVERS[2].gateway(version), port=TARGET)])
    outer = behind(driver, version, L4Protocol.TCP, one, other)

    syns = [driver.path(outer).request(flags=SYN) for _ in range(8)]

    first, second = driver.servers(hook, syns)[::2], driver.servers(hook, syns)[1::2]
    assert sorted([first, second]) == sorted([[0, 1, 2, 0], [2, 2, 2, 2]])


@pytest.mark.parametrize(
    ("outer_mode", "inner_mode"),
    [(Mode.FULLNAT, Mode.DEFAULT), (Mode.DEFAULT, Mode.FULLNAT), (Mode.DEFAULT, Mode.ONEARM)],
    ids=lambda mode: mode.name.lower(),
)
def test_a_service_on_the_way_may_hide_the_client(
    driver: Driver, hook: Hook, version: int, outer_mode: Mode, inner_mode: Mode
) -> None:
    """The endpoint sees what the last service shows it, else the address that the client asked."""
    only = [Endpoint(address=ITSELF.gateway(version), port=TARGET)]
    inner = driver.service(version, mode=inner_mode, endpoints=only)
    outer = behind(driver, version, L4Protocol.TCP, inner, mode=outer_mode)
    shown = {Mode.DEFAULT: outer.key.address, Mode.FULLNAT: inner.key.address, Mode.ONEARM: ITSELF.address(version)}

    driver.use(hook, driver.open(hook, through(driver, outer, inner, shown[inner_mode])))


def test_services_stand_three_deep_and_no_deeper(driver: Driver, hook: Hook, version: int) -> None:
    """A longer way, and one that comes back to itself, ends in a drop of its own reason."""
    chain = [driver.service(version, endpoints=[Endpoint(address=ITSELF.gateway(version), port=TARGET)])]
    for _ in range(3):
        chain.append(behind(driver, version, L4Protocol.TCP, chain[-1]))

    driver.use(hook, driver.open(hook, through(driver, chain[2], chain[0])))
    driver.expect(hook, driver.path(chain[3]).request(flags=SYN), Reason.DROP_LOOP)

    driver.put(chain[0].with_endpoints((Endpoint(address=chain[1].key.address, port=PORT),)))
    for service in chain:
        driver.expect(hook, driver.path(service).request(flags=SYN), Reason.DROP_LOOP)


def test_the_inner_service_decides_who_may_come_in(driver: Driver, hook: Hook, version: int) -> None:
    """Its allowed sources and its limit hold, by whatever way a client comes."""
    client = driver.client(version)
    inner = driver.service(version, allowed_sources=(ip_network(client),), half_open_limit=1)
    outer = behind(driver, version, L4Protocol.TCP, inner)

    driver.expect(hook, driver.path(outer).request(flags=SYN), Reason.DROP_SOURCE)
    driver.send(hook, driver.path(outer, client=client).request(flags=SYN))
    driver.expect(hook, driver.path(outer, client=client).request(flags=SYN), Reason.DROP_HALF_OPEN)


def test_a_service_without_endpoints_refuses_for_those_before_it(driver: Driver, hook: Hook, version: int) -> None:
    """At once, and with an answer."""
    outer = behind(driver, version, L4Protocol.TCP, without_endpoints(driver, version))

    syn = driver.path(outer).request(flags=SYN)
    driver.expect_answer(hook, syn, Reason.ANSWER_RESET, reset(syn))
