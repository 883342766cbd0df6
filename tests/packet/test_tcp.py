# SPDX-License-Identifier: Apache-2.0
"""TCP: the life of a connection, packet by packet."""

import pytest

from loxilb.kernel.abi import Reason
from loxilb.model import FlowState, Service
from tests.packet.driver import Driver
from tests.support.bpf import Hook
from tests.support.packets import ACK, FIN, PSH, RST, SYN, Packet

pytestmark = pytest.mark.must_run


def states(driver: Driver, service: Service) -> set[FlowState]:
    """Return the states of the directions of a service's flows."""
    return {flow.state for flow in driver.flows(service)}


def established(driver: Driver, hook: Hook, packet: Packet, becomes: Packet) -> None:
    """Check a packet of an established connection."""
    driver.expect(hook, packet, Reason.FORWARD_ESTABLISHED, becomes)


def test_a_connection_from_handshake_to_goodbye(driver: Driver, hook: Hook, version: int) -> None:
    """Every packet is rewritten exactly, either way, and both directions share the state."""
    service = driver.service(version)
    path = driver.path(service)

    driver.expect(hook, path.request(flags=SYN), Reason.FORWARD_NEW, path.requested(flags=SYN))
    assert states(driver, service) == {FlowState.SYN_SENT}
    driver.expect(hook, path.reply(flags=SYN | ACK), Reason.FORWARD_HALF_OPEN, path.replied(flags=SYN | ACK))
    assert states(driver, service) == {FlowState.SYN_RECEIVED}
    driver.expect(hook, path.request(flags=ACK), Reason.FORWARD_HALF_OPEN, path.requested(flags=ACK))
    assert states(driver, service) == {FlowState.ESTABLISHED}
    for size in (1, 2, 119):
        data = {"flags": PSH | ACK, "payload": bytes(range(256)) * 5 + bytes(size)}
        established(driver, hook, path.request(**data), path.requested(**data))
        established(driver, hook, path.reply(**data), path.replied(**data))
    established(driver, hook, path.request(flags=FIN | ACK), path.requested(flags=FIN | ACK))
    assert states(driver, service) == {FlowState.CLOSING}
    established(driver, hook, path.reply(flags=FIN | ACK), path.replied(flags=FIN | ACK))
    assert states(driver, service) == {FlowState.TIME_WAIT}
    established(driver, hook, path.request(flags=ACK), path.requested(flags=ACK))
    assert states(driver, service) == {FlowState.TIME_WAIT}
    assert len(driver.flows(service)) == 2


def test_the_server_may_say_goodbye_first(driver: Driver, hook: Hook, version: int) -> None:
    """The same states; a FIN sent twice does not close the other direction."""
    service = driver.service(version)
    path = driver.open(hook, driver.path(service))

    for _ in range(2):
        established(driver, hook, path.reply(flags=FIN | ACK), path.replied(flags=FIN | ACK))
        assert states(driver, service) == {FlowState.CLOSING}
    driver.use(hook, path)
    established(driver, hook, path.request(flags=FIN | ACK), path.requested(flags=FIN | ACK))
    assert states(driver, service) == {FlowState.TIME_WAIT}


@pytest.mark.parametrize("by_server", [False, True], ids=["client", "server"])
def test_a_reset_goes_through(driver: Driver, hook: Hook, version: int, by_server: bool) -> None:
    """Whoever sends it."""
    service = driver.service(version)
    path = driver.open(hook, driver.path(service))

    packet, becomes = (path.reply, path.replied) if by_server else (path.request, path.requested)
    established(driver, hook, packet(flags=RST | ACK), becomes(flags=RST | ACK))
    assert states(driver, service) == {FlowState.RESET}


def test_a_refused_connection_stays_half_open(driver: Driver, hook: Hook, version: int) -> None:
    """A reset in answer to the SYN."""
    service = driver.service(version)
    path = driver.path(service)

    driver.expect(hook, path.request(flags=SYN), Reason.FORWARD_NEW, path.requested(flags=SYN))
    driver.expect(hook, path.reply(flags=RST | ACK), Reason.FORWARD_HALF_OPEN, path.replied(flags=RST | ACK))
    assert states(driver, service) == {FlowState.RESET}


def test_a_repeated_syn_goes_the_same_way(driver: Driver, hook: Hook, version: int) -> None:
    """It opens nothing, and takes no turn of the round robin."""
    service = driver.service(version)
    path = driver.path(service)

    driver.expect(hook, path.request(flags=SYN), Reason.FORWARD_NEW, path.requested(flags=SYN))
    driver.expect(hook, path.request(flags=SYN), Reason.FORWARD_HALF_OPEN, path.requested(flags=SYN))
    following = driver.path(service, endpoint=1)
    driver.expect(hook, following.request(flags=SYN), Reason.FORWARD_NEW, following.requested(flags=SYN))
    assert len(driver.flows(service)) == 4


@pytest.mark.parametrize("ending", ["time wait", "reset", "refused"])
def test_a_syn_opens_a_closed_connection_anew(driver: Driver, hook: Hook, version: int, ending: str) -> None:
    """The same ports again: the old flow ends, the new one goes where the next turn is."""
    service = driver.service(version)
    path = driver.path(service)
    if ending == "refused":
        driver.send(hook, path.request(flags=SYN), path.reply(flags=RST | ACK))
    else:
        driver.open(hook, path)
    if ending == "time wait":
        driver.send(hook, path.request(flags=FIN | ACK), path.reply(flags=FIN | ACK), path.request(flags=ACK))
    if ending == "reset":
        driver.send(hook, path.request(flags=RST))

    again = driver.path(service, endpoint=1, client=path.client, port=path.client_port)
    driver.expect(hook, again.request(flags=SYN), Reason.FORWARD_NEW, again.requested(flags=SYN))
    assert states(driver, service) == {FlowState.SYN_SENT}
    assert len(driver.flows(service)) == 2
    driver.send(hook, again.reply(flags=SYN | ACK), again.request(flags=ACK))
    driver.use(hook, again)


@pytest.mark.parametrize("flags", [0, ACK, SYN | ACK, FIN | ACK, RST, SYN | RST, SYN | FIN], ids=hex)
def test_only_a_syn_opens_a_connection(driver: Driver, hook: Hook, version: int, flags: int) -> None:
    """What belongs to no flow is dropped: the service has no socket that could answer."""
    service = driver.service(version)

    driver.expect(hook, driver.path(service).request(flags=flags), Reason.DROP_NOT_SYN)
    assert driver.flows(service) == []


def test_a_syn_within_an_established_connection_is_the_servers_affair(driver: Driver, hook: Hook, version: int) -> None:
    """It answers with a challenge (RFC 9293 section 3.10.7.4); the flow stays what it is."""
    service = driver.service(version)
    path = driver.open(hook, driver.path(service))

    established(driver, hook, path.request(flags=SYN), path.requested(flags=SYN))
    assert states(driver, service) == {FlowState.ESTABLISHED}
    driver.use(hook, path)
