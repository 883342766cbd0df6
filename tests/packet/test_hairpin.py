# SPDX-License-Identifier: Apache-2.0
"""Packets that turn round at the load balancer: a client that is an endpoint itself."""

from dataclasses import replace

import pytest

from loxilb.kernel.abi import Reason
from loxilb.model import Endpoint, L4Protocol, Mode, Service
from tests.packet.driver import TARGET, Driver, Path
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
