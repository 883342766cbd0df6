# SPDX-License-Identifier: Apache-2.0
"""Which endpoint a new flow goes to."""

from collections import Counter

import pytest
from msgspec import structs

from loxilb.kernel.abi import Reason
from loxilb.model import Endpoint, Selection, Service
from tests.packet.answers import reset
from tests.packet.driver import TARGET, Driver
from tests.support.bpf import SERVERS, Hook
from tests.support.packets import RST, SYN, Packet

pytestmark = pytest.mark.must_run


def endpoints(version: int, *weights: int) -> list[Endpoint]:
    """Return one endpoint a weight."""
    return [
        Endpoint(address=server.gateway(version), port=TARGET, weight=weight)
        for server, weight in zip(SERVERS, weights, strict=True)
    ]


def syns(driver: Driver, service: Service, count: int) -> list[Packet]:
    """Return the first packets of new connections."""
    return [driver.path(service).request(flags=SYN) for _ in range(count)]


@pytest.mark.kernel
def test_round_robin_takes_the_endpoints_in_turn(driver: Driver, hook: Hook, version: int) -> None:
    """Strictly, the first one first, whatever their weights."""
    service = driver.service(version, endpoints=endpoints(version, 7, 1, 0))

    assert driver.servers(hook, syns(driver, service, 12)) == [0, 1, 2] * 4


def test_round_robin_goes_on_where_it_was(driver: Driver, hook: Hook, version: int) -> None:
    """A changed rule does not start again, and neither does another hook."""
    service = driver.service(version, endpoints=endpoints(version, 1, 1, 1))
    other = Hook.TC if hook is Hook.XDP else Hook.XDP

    assert driver.servers(hook, syns(driver, service, 1)) == [0]
    driver.put(structs.replace(service, endpoints=tuple(endpoints(version, 5, 1, 1)), inactive_timeout=77))
    assert driver.servers(other, syns(driver, service, 1)) == [1]
    driver.put(structs.replace(service, endpoints=tuple(endpoints(version, 1, 9, 1)), inactive_timeout=78))
    assert driver.servers(hook, syns(driver, service, 2)) == [2, 0]


@pytest.mark.parametrize("weights", [(1, 2, 7), (50, 30, 20), (97, 2, 1), (1, 0, 3), (10, 10, 10)], ids=str)
def test_priority_is_exact_over_a_hundred_flows(
    driver: Driver, hook: Hook, version: int, weights: tuple[int, ...]
) -> None:
    """Each endpoint gets its share, to the flow."""
    service = driver.service(version, endpoints=endpoints(version, *weights), selection=Selection.PRIORITY)

    counts = Counter(driver.servers(hook, syns(driver, service, 100)))

    for server, weight in enumerate(weights):
        assert abs(counts[server] - 100 * weight / sum(weights)) < 1
    assert sum(counts.values()) == 100


def test_priority_goes_on_when_weights_change(driver: Driver, hook: Hook, version: int) -> None:
    """The next hundred are shared by the new weights."""
    service = driver.service(version, endpoints=endpoints(version, 1, 1, 1), selection=Selection.PRIORITY)
    driver.servers(hook, syns(driver, service, 50))

    driver.put(service.with_endpoints(tuple(endpoints(version, 8, 1, 1))))

    assert Counter(driver.servers(hook, syns(driver, service, 100))) == {0: 80, 1: 10, 2: 10}


def test_hash_takes_a_client_to_the_same_endpoint_again(driver: Driver, hook: Hook, version: int) -> None:
    """Chosen anew for each connection, on either hook; clients are spread over all endpoints."""
    service = driver.service(version, selection=Selection.HASH)
    paths = [driver.path(service) for _ in range(60)]
    first = driver.servers(hook, [path.request(flags=SYN) for path in paths])

    for again in Hook:
        for path in paths:
            driver.send(again, path.request(flags=RST))
        assert driver.servers(again, [path.request(flags=SYN) for path in paths]) == first

    assert min(Counter(first)[server] for server in range(3)) >= 8


def test_hash_moves_few_flows_when_an_endpoint_leaves(driver: Driver, version: int) -> None:
    """Only those that it had, and hardly any other."""
    service = driver.service(version, selection=Selection.HASH)
    paths = [driver.path(service) for _ in range(100)]
    before = driver.servers(Hook.XDP, [path.request(flags=SYN) for path in paths])
    for path in paths:
        driver.send(Hook.XDP, path.request(flags=RST))

    driver.put(service.with_endpoints(service.endpoints[:2]))
    after = driver.servers(Hook.XDP, [path.request(flags=SYN) for path in paths])

    moved = sum(1 for was, now in zip(before, after, strict=True) if was not in (2, now))
    assert 2 not in after
    assert moved <= 5


@pytest.mark.parametrize("selection", [Selection.PRIORITY], ids=["priority"])
def test_without_an_endpoint_the_client_is_refused(
    driver: Driver, hook: Hook, version: int, selection: Selection
) -> None:
    """All weights are zero."""
    service = driver.service(version, endpoints=endpoints(version, 0, 0, 0), selection=selection)

    packet = driver.path(service).request(flags=SYN)
    driver.expect_answer(hook, packet, Reason.ANSWER_RESET, reset(packet))
    assert driver.flows(service) == []
