# SPDX-License-Identifier: Apache-2.0
"""TCP: which segments are believed. What the model of the tracker found, packet by packet."""

from dataclasses import replace

import pytest

from loxilb.kernel.abi import Reason
from loxilb.model import FlowState, L4Protocol, Selection, Service
from tests.packet.answers import reset
from tests.packet.driver import CLIENT_ISN, SERVER_ISN, Driver, Path
from tests.packet.test_icmp_errors import UNREACHABLE, error
from tests.support.bpf import Hook
from tests.support.packets import ACK, FIN, RST, SYN, Tcp

pytestmark = pytest.mark.must_run
WINDOW = Tcp(sport=0, dport=0).window
SCALE = 7
FAR = 1 << 28
OFFERED = {"options": b"\x02\x04\x05\xb4\x01\x03\x03" + bytes((SCALE,))}


def state(driver: Driver, service: Service) -> FlowState:
    """Return the state that both directions of a service's flow share."""
    (found,) = {flow.state for flow in driver.flows(service)}
    return found


def answered(driver: Driver, hook: Hook, path: Path) -> None:
    """Bring a connection to where the client has to acknowledge."""
    driver.send(hook, path.request(flags=SYN), path.reply(flags=SYN | ACK))


def test_only_who_got_the_servers_syn_completes_a_handshake(driver: Driver, hook: Hook, version: int) -> None:
    """Else a flood of SYNs and blind acknowledgements would fill the large table (RFC 9293 section 3.10.7.4)."""
    service = driver.service(version)
    path = driver.path(service)
    answered(driver, hook, path)

    for blind in (
        {"acknowledgement": SERVER_ISN},
        {"acknowledgement": SERVER_ISN + (1 << 31)},
        {"sequence": CLIENT_ISN + 2 + WINDOW},
        {"sequence": CLIENT_ISN},
    ):
        driver.expect(hook, path.request(**blind), Reason.FORWARD_HALF_OPEN, path.requested(**blind))
        assert state(driver, service) is FlowState.SYN_RECEIVED
    driver.expect(hook, path.request(), Reason.FORWARD_HALF_OPEN, path.requested())
    assert state(driver, service) is FlowState.ESTABLISHED


def test_only_an_answer_to_the_syn_counts_as_one(driver: Driver, hook: Hook, version: int) -> None:
    """A SYN that acknowledges something else is of an old connection (RFC 9293 section 3.5, figure 9)."""
    service = driver.service(version)
    path = driver.path(service)
    driver.send(hook, path.request(flags=SYN), path.reply(flags=SYN | ACK, acknowledgement=CLIENT_ISN + 9))
    assert state(driver, service) is FlowState.SYN_SENT

    driver.send(hook, path.reply(flags=SYN | ACK), path.request())
    assert state(driver, service) is FlowState.ESTABLISHED


def test_crossing_syns_are_a_handshake(driver: Driver, hook: Hook, version: int) -> None:
    """The server may acknowledge without another SYN of its own."""
    service = driver.service(version)
    path = driver.path(service)

    driver.send(hook, path.request(flags=SYN), path.reply(flags=SYN))
    assert state(driver, service) is FlowState.SYN_RECEIVED
    driver.send(hook, path.request(flags=SYN | ACK), path.reply(), path.request())
    assert state(driver, service) is FlowState.ESTABLISHED
    driver.use(hook, path)


def test_a_blind_reset_of_a_client_that_waits_does_nothing(driver: Driver, hook: Hook, version: int) -> None:
    """The server, if it took the SYN, expects what follows it."""
    service = driver.service(version)
    path = driver.path(service)
    driver.send(hook, path.request(flags=SYN))

    driver.expect(hook, path.request(flags=RST, sequence=CLIENT_ISN + 2), Reason.DROP_RST)
    assert state(driver, service) is FlowState.SYN_SENT
    driver.send(hook, path.request(flags=RST))
    assert state(driver, service) is FlowState.RESET


@pytest.mark.parametrize("taken", [0, 4, 9])
def test_a_refusal_may_acknowledge_data_of_the_syn(driver: Driver, hook: Hook, version: int, taken: int) -> None:
    """As much as there was (RFC 7413, RFC 9293 section 3.10.7.1)."""
    service = driver.service(version)
    path = driver.path(service)
    driver.send(hook, path.request(flags=SYN, payload=bytes(9)))

    driver.expect(hook, path.reply(flags=RST | ACK, acknowledgement=CLIENT_ISN + 11), Reason.DROP_RST)
    driver.send(hook, path.reply(flags=RST | ACK, sequence=0, acknowledgement=CLIENT_ISN + 1 + taken))
    assert state(driver, service) is FlowState.RESET


def test_a_server_may_finish_before_the_handshake_does(driver: Driver, hook: Hook, version: int) -> None:
    """Its FIN counts from the client's acknowledgement on (RFC 9293 section 3.10.4)."""
    service = driver.service(version)
    path = driver.path(service)
    answered(driver, hook, path)

    driver.send(hook, path.reply(flags=FIN | ACK))
    assert state(driver, service) is FlowState.SYN_RECEIVED
    driver.send(hook, path.request())
    assert state(driver, service) is FlowState.CLOSING


def test_a_fin_counts_by_its_own_number(driver: Driver, hook: Hook, version: int) -> None:
    """It comes behind the data, which may have been sent before, or reach beyond the window."""
    for start, size, counts in ((-20, 50, True), (-50, 50, True), (-51, 50, False), (WINDOW - 10, 11, False)):
        service = driver.service(version)
        path = driver.open(hook, driver.path(service))
        driver.use(hook, path)
        driver.send(hook, path.request(flags=FIN | ACK, sequence=CLIENT_ISN + 1 + start, payload=bytes(size)))
        assert state(driver, service) is (FlowState.CLOSING if counts else FlowState.ESTABLISHED)


def test_a_window_is_scaled_only_where_both_offer_it(driver: Driver, hook: Hook, version: int) -> None:
    """RFC 7323 section 2.2."""
    for client, server in ((OFFERED, {}), ({}, OFFERED)):
        service = driver.service(version)
        path = driver.path(service)
        driver.send(hook, path.request(flags=SYN, **client), path.reply(flags=SYN | ACK, **server), path.request())
        driver.use(hook, path)

        driver.expect(hook, path.reply(flags=RST, sequence=SERVER_ISN + 2 + WINDOW), Reason.DROP_RST)
        driver.expect(hook, path.request(flags=RST, sequence=CLIENT_ISN + 2 + WINDOW), Reason.DROP_RST)


def test_the_window_of_a_syn_is_never_scaled(driver: Driver, hook: Hook, version: int) -> None:
    """RFC 7323 section 2.2."""
    service = driver.service(version)
    path = driver.path(service)
    driver.send(hook, path.request(flags=SYN, **OFFERED), path.reply(flags=SYN | ACK, **OFFERED))

    driver.expect(hook, path.request(flags=RST, sequence=CLIENT_ISN + 2 + WINDOW), Reason.DROP_RST)
    driver.send(hook, path.request(), path.reply())
    driver.send(hook, path.request(flags=RST, sequence=CLIENT_ISN + 1 + (WINDOW << SCALE)))


def test_a_segment_without_an_acknowledgement_says_nothing(driver: Driver, hook: Hook, version: int) -> None:
    """Its receiver drops it (RFC 9293 section 3.10.7.4); its acknowledgement field is no news."""
    service = driver.service(version)
    path = driver.open(hook, driver.path(service))
    driver.use(hook, path)

    driver.send(hook, path.request(flags=0, acknowledgement=FAR))
    driver.expect(hook, path.reply(flags=RST, sequence=FAR), Reason.DROP_RST)
    driver.send(hook, path.reply(flags=RST))
    assert state(driver, service) is FlowState.RESET


@pytest.mark.parametrize("flags", [ACK, SYN | ACK], ids=["ack", "syn,ack"])
def test_an_acknowledgement_of_what_was_never_sent_says_nothing(
    driver: Driver, hook: Hook, version: int, flags: int
) -> None:
    """A reset that fits an acknowledgement made up before is as blind as one alone (RFC 9293 section 3.10.7.4)."""
    service = driver.service(version)
    path = driver.open(hook, driver.path(service))
    driver.use(hook, path)

    driver.send(hook, path.request(flags=flags, acknowledgement=FAR))
    driver.expect(hook, path.reply(flags=RST, sequence=FAR), Reason.DROP_RST)
    driver.send(hook, path.request(acknowledgement=SERVER_ISN + WINDOW))
    driver.send(hook, path.reply(flags=RST, sequence=SERVER_ISN + WINDOW))
    assert state(driver, service) is FlowState.RESET


def test_a_reset_that_is_not_the_next_segment_says_nothing(driver: Driver, hook: Hook, version: int) -> None:
    """The receiver does not look at what it acknowledges (RFC 9293 section 3.10.7.4)."""
    service = driver.service(version)
    path = driver.open(hook, driver.path(service))
    driver.use(hook, path)

    driver.send(hook, path.request(flags=RST | ACK, sequence=CLIENT_ISN + 5, acknowledgement=FAR, window=9))
    driver.expect(hook, path.reply(flags=RST, sequence=FAR), Reason.DROP_RST)


def picked_up(driver: Driver, hook: Hook, version: int) -> tuple[Service, Path]:
    """Return a connection that the load balancer sees from the middle on."""
    service = driver.service(version, selection=Selection.HASH)
    path = driver.path(service)
    server = driver.servers(hook, [path.request()])[0]
    path = driver.path(service, endpoint=server, client=path.client, port=path.client_port)
    driver.send(hook, path.reply(), path.request())
    return service, path


def test_the_scale_of_a_window_that_nobody_knows_is_large(driver: Driver, hook: Hook, version: int) -> None:
    """A reset ahead of a fast connection must get through after a change of the load balancer."""
    service, path = picked_up(driver, hook, version)

    driver.send(hook, path.reply(flags=RST, sequence=SERVER_ISN + (WINDOW << 14)))
    driver.expect(hook, path.reply(flags=RST, sequence=SERVER_ISN + 2 + (WINDOW << 14)), Reason.DROP_RST)
    driver.send(hook, path.reply(flags=FIN | ACK, sequence=SERVER_ISN + (WINDOW << 7)))
    assert state(driver, service) is FlowState.CLOSING


def test_a_segment_without_an_acknowledgement_is_not_picked_up(driver: Driver, hook: Hook, version: int) -> None:
    """No host sends one in mid-stream."""
    service = driver.service(version, selection=Selection.HASH)
    packet = driver.path(service).request(flags=0)

    driver.expect_answer(hook, packet, Reason.ANSWER_RESET, reset(packet))
    assert driver.flows(service) == []


def test_the_segment_that_opens_a_flow_does_not_establish_it(driver: Driver, version: int) -> None:
    """Also where TC gets it from XDP, which has opened the flow: it waits for a second one."""
    service = driver.service(version, selection=Selection.HASH)
    path = driver.path(service)
    large = replace(path.request(payload=bytes(1600)), fragment=0)

    driver.expect(Hook.XDP, large, Reason.PASS_TO_TC)
    driver.run(Hook.TC, large)
    server = driver.endpoint_ids(service).index(driver.flows(service)[0].endpoint)
    path = driver.path(service, endpoint=server, client=path.client, port=path.client_port)
    driver.expect(Hook.TC, path.request(), Reason.FORWARD_HALF_OPEN, path.requested())


def test_an_answer_counts_after_an_error_about_it(driver: Driver, hook: Hook, version: int) -> None:
    """The error looked its way up; the first datagram back makes it a flow both ways all the same."""
    service = driver.service(version, L4Protocol.UDP)
    path = driver.path(service)
    driver.send(hook, *(path.request() for _ in range(10)))
    assert state(driver, service) is FlowState.ONE_WAY

    driver.send(Hook.TC, error(path.server, path.requested(), UNREACHABLE[version]))
    driver.send(hook, path.reply())
    assert state(driver, service) is FlowState.TWO_WAY
