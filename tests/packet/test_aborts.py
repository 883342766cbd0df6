# SPDX-License-Identifier: Apache-2.0
"""Connections that are given up: what the daemon learns of them, and what becomes of their packets."""

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from msgspec import structs

from loxilb.kernel.abi import Reason
from loxilb.kernel.bpf.convert import abort_from_record
from loxilb.kernel.bpf.events import RingReader
from loxilb.model import AbortedConnection, Endpoint, FlowState, L4Protocol, Mode, Peer, Selection, Service
from tests.packet.answers import reset
from tests.packet.driver import CLIENT_ISN, PORT, SERVER_ISN, SMALL, TARGET, Driver, Path
from tests.packet.test_ageing import STATES, packet
from tests.packet.test_least import active
from tests.support.bpf import SERVERS, Hook
from tests.support.lab import wait_for
from tests.support.packets import ACK, RST, SYN

pytestmark = pytest.mark.must_run
BRIEF_S, LINGER_S = 0.3, 1.0
TIMED = set(FlowState) - {FlowState.NONE, FlowState.TWO_WAY}
SETTINGS = replace(SMALL, timeouts=dict.fromkeys(TIMED, 60.0) | {FlowState.RESET: LINGER_S})
BRIEF = replace(SMALL, timeouts=dict.fromkeys(TIMED, BRIEF_S))
FEW = replace(SETTINGS, aborts=1)  # a page of the ring buffer
MANY, CROWD = 3_000, 200
CLIENT_EXPECTS, ENDPOINT_EXPECTS = SERVER_ISN + 101, CLIENT_ISN + 51
IDLE_ENDS = [FlowState.ESTABLISHED, FlowState.CLOSING]
LOST_ENDS = [FlowState.SYN_RECEIVED, *IDLE_ENDS]


def aborted(driver: Driver) -> list[AbortedConnection]:
    """Return what was reported since this was last asked."""
    reader = RingReader(driver.data_plane.descriptors["aborts"], abort_from_record)
    found: list[AbortedConnection] = []
    try:
        while some := reader.read():
            found += some
    finally:
        reader.close()
    return found


def ends_of(path: Path, expects: Sequence[int] = (CLIENT_EXPECTS, ENDPOINT_EXPECTS)) -> tuple[Peer, Peer]:
    """Return both ends of a connection, the client first."""
    at_client, at_endpoint = expects
    client = Peer(
        address=path.client,
        port=path.client_port,
        other=path.vip,
        other_port=path.vip_port,
        expects=at_client,
        sent=at_endpoint,
    )
    endpoint = Peer(
        address=path.endpoint,
        port=path.endpoint_port,
        other=path.source,
        other_port=path.source_port,
        expects=at_endpoint,
        sent=at_client,
    )
    return client, endpoint


def endpoints_of(version: int, mode: Mode) -> list[Endpoint]:
    """Return one endpoint; direct server return keeps the port of the service."""
    return [Endpoint(address=SERVERS[0].gateway(version), port=PORT if mode is Mode.DSR else TARGET)]


def said(driver: Driver, hook: Hook, path: Path) -> None:
    """Have both ends acknowledge something."""
    driver.send(hook, path.request(acknowledgement=CLIENT_EXPECTS), path.reply(acknowledgement=ENDPOINT_EXPECTS))


def given_up(driver: Driver, path: Path) -> None:
    """Wait until a connection is closed, and still remembered."""
    closed = [FlowState.RESET] * 2
    wait_for(lambda: [flow.state for flow in driver.flows_of(path)] == closed, what="the end of the connection")


def without_first(service: Service) -> Service:
    """Return a service that has lost its first endpoint."""
    return structs.replace(service, endpoints=service.endpoints[1:])


@pytest.mark.parametrize("own_driver", [BRIEF], indirect=True, ids=["brief"])
def test_both_ends_of_an_idle_connection_are_known(own_driver: Driver, hook: Hook) -> None:
    """As each sees the other, and what it expects; with direct server return the client's alone."""
    services = {
        (mode, version): own_driver.service(
            version,
            mode=mode,
            endpoints=endpoints_of(version, mode),
            selection=Selection.HASH if mode is Mode.DSR else Selection.RR,
        )
        for mode in (Mode.DEFAULT, Mode.ONEARM, Mode.FULLNAT, Mode.DSR)
        for version in (4, 6)
    }
    expected: list[tuple[Peer, ...]] = []
    began = time.monotonic()
    for (mode, _), service in services.items():
        path = own_driver.path(service)
        if mode is Mode.DSR:
            own_driver.send(hook, path.request(flags=SYN), path.request(flags=ACK, acknowledgement=CLIENT_EXPECTS))
            expected.append((replace(ends_of(path)[0], sent=0),))
        else:
            path = own_driver.open(hook, path)
            said(own_driver, hook, path)
            expected.append(ends_of(path))
    wait_for(lambda: not list(own_driver.data_plane.flows()), what="the end of the flows")

    found = aborted(own_driver)
    assert sorted((one.ends for one in found), key=str) == sorted(expected, key=str)
    assert {(one.state, one.active) for one in found} == {(FlowState.ESTABLISHED, False)}
    assert all(began <= one.at <= time.monotonic() for one in found)


@pytest.mark.parametrize("own_driver", [BRIEF], indirect=True, ids=["brief"])
def test_only_who_believes_in_a_connection_is_told_that_it_was_idle(own_driver: Driver, hook: Hook) -> None:
    """Nobody of one that was never established, or has closed; nobody of datagrams."""
    for version in (4, 6):
        for names in STATES.values():
            path = own_driver.path(own_driver.service(version))
            own_driver.send(hook, *(packet(path, name) for name in names))
        own_driver.open(hook, own_driver.path(own_driver.service(version, L4Protocol.UDP, inactive_timeout=1)))
    wait_for(lambda: not list(own_driver.data_plane.flows()), what="the end of the flows")

    assert sorted(one.state for one in aborted(own_driver)) == sorted(IDLE_ENDS * 2)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name.lower())
def test_a_lost_endpoint_ends_its_connections(
    module_driver: Driver, hook: Hook, version: int, state: FlowState
) -> None:
    """Who has not heard of it yet is told; a client that still tries is left to try another."""
    service = module_driver.service(version)
    path = module_driver.path(service)
    module_driver.send(hook, *(packet(path, name) for name in STATES[state]))
    aborted(module_driver)

    module_driver.put(without_first(service))
    wait_for(lambda: not module_driver.flows(service), what="the end of the flow")

    found = aborted(module_driver)
    assert [one.state for one in found] == [state] * (state in LOST_ENDS)
    assert all(one.ends == ends_of(path, (SERVER_ISN + 1, CLIENT_ISN + 1)) for one in found)
    assert all(one.active for one in found)


def test_packets_under_way_are_answered_by_a_reset(module_driver: Driver, hook: Hook, version: int) -> None:
    """Of the connection that lost its endpoint, either way, whether the service is still there or not."""
    for delete in (False, True):
        service = module_driver.service(version)
        path, stays = (module_driver.open(hook, module_driver.path(service, endpoint=number)) for number in (0, 1))
        if delete:
            module_driver.drop(service)
        else:
            module_driver.put(without_first(service))
        given_up(module_driver, path)

        for late in (path.request(payload=b"late"), path.reply(payload=b"late")):
            module_driver.expect_answer(hook, late, Reason.ANSWER_RESET, reset(late))
        rst = path.request(flags=RST)
        if hook is Hook.XDP:
            module_driver.expect(Hook.XDP, rst, Reason.PASS_TO_TC)
        module_driver.expect(Hook.TC, rst, Reason.DROP_NOT_SYN)
        if delete:
            given_up(module_driver, stays)
            module_driver.expect_answer(hook, stays.request(), Reason.ANSWER_RESET, reset(stays.request()))
        else:
            module_driver.use(hook, stays)


def test_a_client_may_come_back_at_once(module_driver: Driver, hook: Hook, version: int) -> None:
    """From the same port, to another endpoint, while the old connection is remembered; but to no deleted service."""
    service = module_driver.service(version)
    path = module_driver.open(hook, module_driver.path(service))
    module_driver.put(structs.replace(service, endpoints=service.endpoints[1:2]))
    given_up(module_driver, path)

    again = module_driver.path(service, endpoint=1, client=path.client, port=path.client_port)
    module_driver.expect(hook, again.request(flags=SYN), Reason.FORWARD_NEW, again.requested(flags=SYN))
    module_driver.send(hook, again.reply(flags=SYN | ACK), again.request(flags=ACK))
    module_driver.drop(service)
    given_up(module_driver, again)
    syn = again.request(flags=SYN)
    module_driver.expect(Hook.TC, syn, Reason.ANSWER_RESET, reset(syn))


def test_what_a_lost_endpoint_had_is_counted_exactly(module_driver: Driver, version: int) -> None:
    """Its live flows and its traffic, once; those of the other do not change."""
    service = module_driver.service(version, selection=Selection.LC)
    for number in range(60):
        path = module_driver.path(service, endpoint=number % 3)
        if number % 4:
            module_driver.open(Hook.XDP, path)
        else:
            module_driver.send(Hook.TC, path.request(flags=SYN))
    before, lost = module_driver.counters(service), module_driver.endpoint_ids(service)[0]
    assert active(module_driver, service) == [20, 20, 20]

    module_driver.put(without_first(service))
    wait_for(lambda: len(module_driver.flows(service)) == 80, what="the end of its flows")

    assert active(module_driver, service) == [20, 20]
    assert module_driver.live_flows(lost) == 0
    assert module_driver.counters(service) == before[1:]
    assert module_driver.ended_traffic(lost) == before[0]


def test_many_connections_that_end_at_once_are_all_reported(module_driver: Driver) -> None:
    """Each of them, once, soon."""
    service = module_driver.service(4)
    only = structs.replace(service, endpoints=service.endpoints[:1])
    module_driver.put(only)
    clients = {module_driver.open(Hook.TC, module_driver.path(only)).client for _ in range(MANY)}
    aborted(module_driver)

    module_driver.drop(only)
    found: list[AbortedConnection] = []
    end = time.monotonic() + 5
    while len(found) < MANY and time.monotonic() < end:
        found += aborted(module_driver)

    assert len(found) == MANY
    assert {one.ends[0].address for one in found} == clients
    assert module_driver.data_plane.aborts_lost() == 0


@pytest.mark.parametrize("own_driver", [FEW], indirect=True, ids=["few"])
def test_reports_for_which_there_is_no_room_are_counted(own_driver: Driver) -> None:
    """When nobody reads them for seconds; the connections end all the same."""
    service = own_driver.service(4)
    for number in range(CROWD):
        own_driver.open(Hook.TC, own_driver.path(service, endpoint=number % 3))
    own_driver.drop(service)
    wait_for(lambda: not list(own_driver.data_plane.flows()), deadline=15, what="the end of the flows")

    found = aborted(own_driver)
    assert 0 < len(found) < CROWD
    assert own_driver.data_plane.aborts_lost() == CROWD - len(found)


@pytest.mark.parametrize("own_driver", [FEW], indirect=True, ids=["few"])
def test_connections_of_a_lost_endpoint_wait_for_room(own_driver: Driver) -> None:
    """Far more than the ring buffer holds: while somebody reads, each is reported, once."""
    service = own_driver.service(4)
    for number in range(CROWD):
        own_driver.open(Hook.TC, own_driver.path(service, endpoint=number % 3))
    own_driver.drop(service)
    found: list[AbortedConnection] = []
    end = time.monotonic() + 5
    while len(found) < CROWD and time.monotonic() < end:
        found += aborted(own_driver)

    assert len({one.ends for one in found}) == len(found) == CROWD
    assert own_driver.data_plane.aborts_lost() == 0
