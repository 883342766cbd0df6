# SPDX-License-Identifier: Apache-2.0
"""Endpoints that leave keep their flows where the rule says so; those that come take as much as their share."""

import pytest

from loxilb.model import Counter, L4Protocol, LossPolicy, Selection
from loxilb.model.image import DropEndpoint, PutEndpoint
from tests.packet.driver import Driver
from tests.support.bpf import Hook
from tests.support.lab import wait_for
from tests.support.packets import ACK, RST, SYN

pytestmark = pytest.mark.must_run


@pytest.mark.parametrize("protocol", [L4Protocol.TCP, L4Protocol.UDP], ids=lambda one: one.value)
def test_a_removed_endpoint_keeps_its_flows(driver: Driver, hook: Hook, version: int, protocol: L4Protocol) -> None:
    """Established or not, to the byte; new flows go to the others, and counters go on."""
    service = driver.service(version, protocol, loss=LossPolicy.KEEP)
    whole = driver.open(hook, driver.path(service))
    slots = driver.endpoint_ids(service)
    more = {"flags": SYN} if protocol is L4Protocol.TCP else {}
    driver.servers(hook, [driver.path(service).request(**more) for _ in range(2)])
    half = driver.path(service)
    driver.send(hook, half.request(**more))

    driver.put(service.with_endpoints(service.endpoints[1:]))

    driver.use(hook, whole)
    if protocol is L4Protocol.TCP:
        driver.send(hook, half.reply(flags=SYN | ACK), half.request(flags=ACK))
    else:
        driver.send(hook, half.reply())
    driver.use(hook, half)
    packets = [driver.path(service).request(**more) for _ in range(4)]
    assert set(driver.servers(hook, packets)) == {1, 2}
    assert driver.data_plane.active_flows(slots[:1]) == {slots[0]: 2}
    before = driver.data_plane.counters()[slots[0]].packets

    driver.put(service)
    driver.use(hook, whole)
    assert driver.endpoint_ids(service) == slots
    assert driver.counters(service)[0].packets == before + 2


def test_the_end_of_the_time_ends_the_flows(driver: Driver, hook: Hook, version: int) -> None:
    """Until then they go on; a reset connection counts no more."""
    service = driver.service(version, loss=LossPolicy.DRAIN, drain_timeout=60)
    one, other = (driver.open(hook, driver.path(service, endpoint=number)) for number in (0, 1))
    (slot, *_) = driver.endpoint_ids(service)
    left = service.with_endpoints(service.endpoints[1:])
    driver.put(left)
    try:
        driver.now += 59
        driver.put(left)
        driver.use(hook, one)
        assert driver.data_plane.active_flows([slot]) == {slot: 1}
        driver.send(hook, one.request(flags=RST))
        assert driver.data_plane.active_flows([slot]) == {slot: 0}
        driver.now += 1
        driver.put(left)
        assert slot not in driver.data_plane.counters()
        driver.use(hook, other)
    finally:
        driver.now = 0.0


def test_a_client_of_an_endpoint_that_leaves_gets_another(driver: Driver, hook: Hook, version: int) -> None:
    """Its old flow stays where it is. The client is remembered at its new endpoint, also when the old one is back."""
    service = driver.service(version, selection=Selection.PERSIST, loss=LossPolicy.KEEP)
    client = driver.client(version)
    old = driver.open(hook, driver.path(service, client=client))

    def server() -> int:
        return driver.servers(hook, [driver.path(service, client=client).request(flags=SYN)])[0]

    assert server() == 0
    driver.put(service.with_endpoints(service.endpoints[1:]))
    moved = [server() for _ in range(3)]
    assert moved[0] in (1, 2)
    driver.put(service)
    assert [*moved, server()] == [moved[0]] * 4
    driver.use(hook, old)


def test_least_connections_heeds_the_share(driver: Driver, hook: Hook, version: int) -> None:
    """A new endpoint with a tenth of the share has enough with a tenth of the flows, not with none."""
    service = driver.service(version, selection=Selection.LC, slow_start=100)
    driver.put(service.with_endpoints(service.endpoints[:2]))

    def servers(count: int) -> list[int]:
        return driver.servers(hook, [driver.path(service).request(flags=SYN) for _ in range(count)])

    assert servers(40) == [0, 1] * 20
    driver.put(service)
    assert servers(4) == [2, 2, 0, 1]
    try:
        driver.now = 50.0
        driver.put(service)
        assert servers(9) == [*[2] * 8, 0]
        driver.now = 100.0
        driver.put(service)
        assert servers(10) == [2] * 10
    finally:
        driver.now = 0.0


def test_an_endpoint_new_in_its_slot_begins_at_zero(driver: Driver, hook: Hook, version: int) -> None:
    """What was told of the one before is nothing to it."""
    service = driver.service(version)
    path = driver.open(hook, driver.path(service))
    (slot, *_) = driver.endpoint_ids(service)
    entry = driver.data_plane.observe().endpoints[slot]
    assert driver.counters(service)[0].packets > 0
    driver.drop(service)
    wait_for(lambda: not driver.flows_of(path), what="the end of its flows")

    driver.data_plane.apply([PutEndpoint(endpoint=slot, entry=entry)])

    assert driver.data_plane.counters()[slot] == Counter(0, 0)
    driver.data_plane.apply([DropEndpoint(endpoint=slot)])
