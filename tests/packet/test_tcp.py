# SPDX-License-Identifier: Apache-2.0
"""TCP: the life of a connection, packet by packet."""

import pytest

from loxilb.kernel.abi import Reason
from loxilb.model import FlowState, Mode, Selection, Service
from tests.packet.answers import reset
from tests.packet.driver import CLIENT_ISN, SERVER_ISN, Driver
from tests.support.bpf import Hook
from tests.support.packets import ACK, FIN, PSH, RST, SYN, Packet, Tcp

pytestmark = pytest.mark.must_run
WINDOW = Tcp(sport=0, dport=0).window


def states(driver: Driver, service: Service) -> set[FlowState]:
    """Return the states of the directions of a service's flows."""
    return {flow.state for flow in driver.flows(service)}


def established(driver: Driver, hook: Hook, packet: Packet, becomes: Packet) -> None:
    """Check a packet of an established connection."""
    driver.expect(hook, packet, Reason.FORWARD_ESTABLISHED, becomes)


@pytest.mark.kernel
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


@pytest.mark.parametrize("size", [0, 1, 1200])
@pytest.mark.parametrize("flags", [0, ACK, SYN | ACK, FIN, FIN | ACK, SYN | FIN], ids=hex)
def test_only_a_syn_opens_a_connection(driver: Driver, hook: Hook, version: int, flags: int, size: int) -> None:
    """What belongs to no flow is answered by a reset, as a host does."""
    service = driver.service(version)
    packet = driver.path(service).request(flags=flags, payload=bytes(size))

    driver.expect_answer(hook, packet, Reason.ANSWER_RESET, reset(packet))
    assert driver.flows(service) == []


@pytest.mark.parametrize("flags", [RST, RST | ACK, SYN | RST], ids=hex)
def test_a_reset_of_no_connection_is_not_answered(driver: Driver, hook: Hook, version: int, flags: int) -> None:
    """Two hosts would go on forever (RFC 9293 section 3.10.7.1)."""
    service = driver.service(version)
    packet = driver.path(service).request(flags=flags)

    if hook is Hook.XDP:
        driver.expect(Hook.XDP, packet, Reason.PASS_TO_TC)
    driver.expect(Hook.TC, packet, Reason.DROP_NOT_SYN)
    assert driver.flows(service) == []


def test_a_syn_within_an_established_connection_is_the_servers_affair(driver: Driver, hook: Hook, version: int) -> None:
    """It answers with a challenge (RFC 9293 section 3.10.7.4); the flow stays what it is."""
    service = driver.service(version)
    path = driver.open(hook, driver.path(service))

    established(driver, hook, path.request(flags=SYN), path.requested(flags=SYN))
    assert states(driver, service) == {FlowState.ESTABLISHED}
    driver.use(hook, path)


def test_a_blind_reset_does_nothing(driver: Driver, hook: Hook, version: int) -> None:
    """Outside the receiver's window it is dropped, whichever end it goes to (RFC 5961 section 3)."""
    service = driver.service(version)
    path = driver.open(hook, driver.path(service))
    driver.use(hook, path)

    for expected, packet in ((CLIENT_ISN + 1, path.request), (SERVER_ISN + 1, path.reply)):
        for away in (-1, -WINDOW, WINDOW + 1, 1 << 31):
            blind = packet(flags=RST, sequence=expected + away)
            driver.expect(hook, blind, Reason.DROP_RST)
    assert states(driver, service) == {FlowState.ESTABLISHED}
    driver.use(hook, path)


@pytest.mark.parametrize("away", [1, WINDOW])
def test_a_reset_that_is_not_the_next_segment_is_the_receivers_affair(
    driver: Driver, hook: Hook, version: int, away: int
) -> None:
    """It challenges (RFC 5961 section 3.2); the flow stays what it is, and knows the window as before."""
    service = driver.service(version)
    path = driver.open(hook, driver.path(service))
    driver.use(hook, path)

    for expected, packet, becomes in (
        (CLIENT_ISN + 1, path.request, path.requested),
        (SERVER_ISN + 1, path.reply, path.replied),
    ):
        near = {"flags": RST, "sequence": expected + away}
        established(driver, hook, packet(**near), becomes(**near))
        assert states(driver, service) == {FlowState.ESTABLISHED}
    driver.expect(hook, path.reply(flags=RST, sequence=SERVER_ISN), Reason.DROP_RST)
    established(driver, hook, path.reply(flags=RST), path.replied(flags=RST))
    assert states(driver, service) == {FlowState.RESET}


@pytest.mark.parametrize("away", [-1, WINDOW + 1])
def test_a_blind_fin_goes_through_and_closes_nothing(driver: Driver, hook: Hook, version: int, away: int) -> None:
    """It may be a late copy, which the receiver acknowledges again."""
    service = driver.service(version)
    path = driver.open(hook, driver.path(service))
    driver.use(hook, path)
    late = {"flags": FIN | ACK, "sequence": CLIENT_ISN + 1 + away}

    established(driver, hook, path.request(**late), path.requested(**late))
    assert states(driver, service) == {FlowState.ESTABLISHED}


@pytest.mark.parametrize("scale", [0, 7, 14])
def test_a_window_is_scaled(driver: Driver, hook: Hook, version: int, scale: int) -> None:
    """By what its owner's SYN said (RFC 7323 section 2.2); a SYN in the midst of the connection changes nothing."""
    service = driver.service(version)
    path = driver.path(service)
    options = {"options": b"\x02\x04\x05\xb4\x01\x03\x03" + bytes((scale,))}
    driver.send(hook, path.request(flags=SYN, **options), path.reply(flags=SYN | ACK, **options))
    driver.send(hook, path.request(flags=ACK))
    driver.use(hook, path)
    larger = {"options": b"\x01\x03\x03\x0e"}
    established(driver, hook, path.request(flags=SYN, **larger), path.requested(flags=SYN, **larger))
    driver.use(hook, path)

    edge = SERVER_ISN + 1 + (WINDOW << scale)
    beyond = path.reply(flags=RST, sequence=edge + 1)
    driver.expect(hook, beyond, Reason.DROP_RST)
    last = {"flags": RST, "sequence": edge}
    established(driver, hook, path.reply(**last), path.replied(**last))
    assert states(driver, service) == {FlowState.ESTABLISHED}


def test_only_an_option_of_the_header_scales_a_window(driver: Driver, hook: Hook, version: int) -> None:
    """Not what looks like one in the data of a SYN, nor one that reaches beyond the header."""
    for options, payload in ((b"", b"\x03\x03\x0e\x00"), (b"\x01\x01\x01\x03", b"\x03\x0e\x00\x00")):
        service = driver.service(version)
        path = driver.path(service)
        driver.send(hook, path.request(flags=SYN, options=options, payload=payload), path.reply(flags=SYN | ACK))
        driver.send(hook, path.request(flags=ACK))
        driver.use(hook, path)

        beyond = path.reply(flags=RST, sequence=SERVER_ISN + 1 + WINDOW + 1)
        driver.expect(hook, beyond, Reason.DROP_RST)


def test_a_handshake_may_end_with_a_fin(driver: Driver, hook: Hook, version: int) -> None:
    """A client that has nothing to say: half closed at once, and the server may say goodbye as well."""
    service = driver.service(version)
    path = driver.path(service)
    driver.send(hook, path.request(flags=SYN), path.reply(flags=SYN | ACK))

    fin = {"flags": FIN | ACK}
    driver.expect(hook, path.request(**fin), Reason.FORWARD_HALF_OPEN, path.requested(**fin))
    assert states(driver, service) == {FlowState.CLOSING}
    established(driver, hook, path.reply(**fin), path.replied(**fin))
    assert states(driver, service) == {FlowState.TIME_WAIT}


def test_a_refusal_must_acknowledge_the_syn(driver: Driver, hook: Hook, version: int) -> None:
    """Also of a SYN that was sent twice (RFC 9293 section 3.10.7.3)."""
    service = driver.service(version)
    path = driver.path(service)

    driver.expect(hook, path.request(flags=SYN), Reason.FORWARD_NEW, path.requested(flags=SYN))
    driver.expect(hook, path.request(flags=SYN), Reason.FORWARD_HALF_OPEN, path.requested(flags=SYN))
    driver.expect(hook, path.reply(flags=RST | ACK, acknowledgement=CLIENT_ISN), Reason.DROP_RST)
    assert states(driver, service) == {FlowState.SYN_SENT}
    refusal = {"flags": RST | ACK, "sequence": 0, "acknowledgement": CLIENT_ISN + 1}
    driver.expect(hook, path.reply(**refusal), Reason.FORWARD_HALF_OPEN, path.replied(**refusal))
    assert states(driver, service) == {FlowState.RESET}


def test_a_new_attempt_between_the_same_ports_is_refused_as_such(driver: Driver, hook: Hook, version: int) -> None:
    """Its sequence number is another; a late refusal of the first attempt means nothing to it."""
    service = driver.service(version)
    path = driver.path(service)
    again = {"flags": SYN, "sequence": CLIENT_ISN + 5000}

    driver.expect(hook, path.request(flags=SYN), Reason.FORWARD_NEW, path.requested(flags=SYN))
    driver.expect(hook, path.request(**again), Reason.FORWARD_HALF_OPEN, path.requested(**again))
    driver.expect(hook, path.reply(flags=RST | ACK, acknowledgement=CLIENT_ISN + 1), Reason.DROP_RST)
    refusal = {"flags": RST | ACK, "sequence": 0, "acknowledgement": CLIENT_ISN + 5001}
    driver.expect(hook, path.reply(**refusal), Reason.FORWARD_HALF_OPEN, path.replied(**refusal))
    assert states(driver, service) == {FlowState.RESET}


def test_both_may_open_at_once(driver: Driver, hook: Hook, version: int) -> None:
    """Two SYNs cross, each is acknowledged by a SYN (RFC 9293 section 3.5, figure 8)."""
    service = driver.service(version)
    path = driver.path(service)

    driver.expect(hook, path.request(flags=SYN), Reason.FORWARD_NEW, path.requested(flags=SYN))
    driver.expect(hook, path.reply(flags=SYN), Reason.FORWARD_HALF_OPEN, path.replied(flags=SYN))
    both = {"flags": SYN | ACK}
    driver.expect(hook, path.request(**both), Reason.FORWARD_HALF_OPEN, path.requested(**both))
    driver.expect(hook, path.reply(**both), Reason.FORWARD_HALF_OPEN, path.replied(**both))
    driver.expect(hook, path.request(), Reason.FORWARD_HALF_OPEN, path.requested())
    assert states(driver, service) == {FlowState.ESTABLISHED}
    driver.use(hook, path)


def test_data_of_a_syn_are_no_options(driver: Driver, hook: Hook, version: int) -> None:
    """They begin where the header says (RFC 7413 allows them)."""
    service = driver.service(version)
    path = driver.path(service)
    data = {"payload": b"\x03\x03\x0e" * 7}
    driver.send(hook, path.request(flags=SYN, **data), path.reply(flags=SYN | ACK, **data), path.request(flags=ACK))
    driver.use(hook, path)

    driver.expect(hook, path.reply(flags=RST, sequence=SERVER_ISN + 2 + WINDOW), Reason.DROP_RST)
    driver.expect(hook, path.request(flags=RST, sequence=CLIENT_ISN + 2 + WINDOW), Reason.DROP_RST)


def test_both_may_say_goodbye_at_once(driver: Driver, hook: Hook, version: int) -> None:
    """Neither FIN acknowledges the other (RFC 9293 section 3.6, case 3)."""
    service = driver.service(version)
    path = driver.open(hook, driver.path(service))

    established(driver, hook, path.request(flags=FIN | ACK), path.requested(flags=FIN | ACK))
    established(driver, hook, path.reply(flags=FIN | ACK), path.replied(flags=FIN | ACK))
    assert states(driver, service) == {FlowState.TIME_WAIT}
    last = {"flags": ACK, "sequence": CLIENT_ISN + 2, "acknowledgement": SERVER_ISN + 2}
    established(driver, hook, path.request(**last), path.requested(**last))
    last = {"flags": ACK, "sequence": SERVER_ISN + 2, "acknowledgement": CLIENT_ISN + 2}
    established(driver, hook, path.reply(**last), path.replied(**last))


@pytest.mark.parametrize("selection", [Selection.HASH, Selection.PERSIST], ids=lambda one: one.name.lower())
def test_a_connection_is_picked_up_in_mid_stream(
    driver: Driver, hook: Hook, version: int, selection: Selection
) -> None:
    """Where the endpoint is determined, another load balancer may take over; resets and FINs open nothing."""
    service = driver.service(version, selection=selection)
    path = driver.path(service)
    for flags in (RST, FIN | ACK, RST | ACK):
        driver.run(hook, path.request(flags=flags))
        assert driver.flows(service) == []

    server = driver.servers(hook, [path.request(flags=ACK)])[0]

    path = driver.path(service, endpoint=server, client=path.client, port=path.client_port)
    assert states(driver, service) == {FlowState.ESTABLISHED}
    driver.expect(hook, path.reply(flags=ACK), Reason.FORWARD_HALF_OPEN, path.replied(flags=ACK))
    driver.send(hook, path.request(flags=ACK))
    driver.use(hook, path)


@pytest.mark.parametrize("mode", [Mode.ONEARM, Mode.FULLNAT], ids=lambda one: one.name.lower())
def test_where_the_port_is_not_determined_nothing_is_picked_up(
    driver: Driver, hook: Hook, version: int, mode: Mode
) -> None:
    """The endpoint would not know the source that it is given now."""
    packet = driver.path(driver.service(version, selection=Selection.HASH, mode=mode)).request(flags=ACK)

    driver.expect_answer(hook, packet, Reason.ANSWER_RESET, reset(packet))
