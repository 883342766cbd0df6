# SPDX-License-Identifier: Apache-2.0
"""Least connections: what an endpoint has is counted exactly, however its flows begin and end."""

import random
from dataclasses import replace

import pytest

from loxilb.kernel.abi import Reason
from loxilb.model import FlowState, L4Protocol, Selection, Service
from tests.packet.driver import SMALL, Driver, Path
from tests.support.bpf import Hook
from tests.support.lab import wait_for
from tests.support.packets import ACK, FIN, RST, SYN

pytestmark = pytest.mark.must_run
BRIEF = replace(SMALL, flows4=64, flows6=64, half_open4=64, half_open6=64, timeouts=dict.fromkeys(FlowState, 0.2))
TINY = replace(BRIEF, half_open4=16, half_open6=16, timeouts=SMALL.timeouts)
CHURNED = 10_000


def active(driver: Driver, service: Service) -> list[int]:
    """Return the live flows of each endpoint."""
    return [driver.live_flows(slot) for slot in driver.endpoint_ids(service)]


def least(driver: Driver, version: int, protocol: L4Protocol = L4Protocol.TCP) -> Service:
    """Return a service that selects by least connections."""
    return driver.service(version, protocol, selection=Selection.LC)


def end(driver: Driver, hook: Hook, path: Path, ending: str) -> None:
    """End an open connection, or do not."""
    if ending == "fin":
        driver.send(hook, path.request(flags=FIN | ACK), path.reply(flags=FIN | ACK), path.request(flags=ACK))
    elif ending == "server fin":
        driver.send(hook, path.reply(flags=FIN | ACK), path.reply(flags=FIN | ACK), path.request(flags=FIN | ACK))
    elif ending == "rst":
        driver.send(hook, path.request(flags=RST))
    elif ending == "both rst":
        driver.send(hook, path.reply(flags=RST), path.request(flags=RST))


@pytest.mark.kernel
def test_the_endpoint_with_the_fewest_is_taken(driver: Driver, hook: Hook, version: int) -> None:
    """The first of several; one that loses flows is filled up again."""
    service = least(driver, version)
    paths = []
    for number in range(9):
        paths.append(driver.open(hook, driver.path(service, endpoint=number % 3)))
        driver.use(hook, paths[-1])
    assert active(driver, service) == [3, 3, 3]

    for path in paths[1::3]:
        end(driver, hook, path, "rst")

    assert active(driver, service) == [3, 0, 3]
    syns = [driver.path(service).request(flags=SYN) for _ in range(4)]
    assert driver.servers(hook, syns) == [1, 1, 1, 0]
    assert active(driver, service) == [4, 3, 3]


@pytest.mark.parametrize("ending", ["fin", "server fin", "rst", "both rst"])
def test_a_closed_connection_counts_no_more(driver: Driver, hook: Hook, version: int, ending: str) -> None:
    """From its last FIN or its reset on, once; a SYN that opens it anew counts it again."""
    service = least(driver, version)
    path = driver.open(hook, driver.path(service))
    assert active(driver, service) == [1, 0, 0]

    end(driver, hook, path, ending)
    assert active(driver, service) == [0, 0, 0]
    driver.expect(hook, path.request(flags=SYN), Reason.FORWARD_NEW, path.requested(flags=SYN))
    assert active(driver, service) == [1, 0, 0]


def test_a_refused_connection_counts_no_more(driver: Driver, hook: Hook, version: int) -> None:
    """A repeated SYN does not count twice either."""
    service = least(driver, version)
    path = driver.path(service)

    driver.send(hook, path.request(flags=SYN), path.request(flags=SYN))
    assert active(driver, service) == [1, 0, 0]
    driver.send(hook, path.reply(flags=RST | ACK))
    assert active(driver, service) == [0, 0, 0]


@pytest.mark.parametrize("own_driver", [TINY], indirect=True, ids=["tiny"])
def test_flows_that_gave_way_count_no_more(own_driver: Driver, hook: Hook) -> None:
    """Half-open ones in a crowd: what is counted is what is there."""
    for version in (4, 6):
        service = least(own_driver, version)
        for _ in range(300):
            own_driver.run(hook, own_driver.path(service).request(flags=SYN))

        there = [flow.endpoint for flow in own_driver.flows(service) if not flow.reply]
        assert 0 < len(there) < 300
        assert active(own_driver, service) == [there.count(slot) for slot in own_driver.endpoint_ids(service)]


@pytest.mark.parametrize("own_driver", [BRIEF], indirect=True, ids=["brief"])
def test_after_many_flows_the_counts_are_true(own_driver: Driver, hook: Hook) -> None:
    """However they ended: closed, reset, refused, displaced or idle; half-open, established, TCP and UDP."""
    source = random.Random(7)
    services = [
        least(own_driver, version, protocol) for version in (4, 6) for protocol in (L4Protocol.TCP, L4Protocol.UDP)
    ]
    for _ in range(CHURNED):
        service = source.choice(services)
        path = own_driver.path(service)
        tcp = service.key.protocol is L4Protocol.TCP
        endpoint = own_driver.servers(hook, [path.request(flags=SYN) if tcp else path.request()])[0]
        path = own_driver.path(service, endpoint=endpoint, client=path.client, port=path.client_port)
        if source.random() < 0.3:
            continue
        own_driver.run(hook, path.reply(flags=SYN | ACK) if tcp else path.reply())
        if tcp:
            own_driver.run(hook, path.request(flags=ACK))
            for packet in (path.request(flags=FIN | ACK), path.reply(flags=FIN | ACK), path.reply(flags=RST)):
                if source.random() < 0.6:
                    own_driver.run(hook, packet)

    wait_for(lambda: not list(own_driver.data_plane.flows()), deadline=20, what="the end of all flows")
    for service in services:
        assert active(own_driver, service) == [0, 0, 0]
