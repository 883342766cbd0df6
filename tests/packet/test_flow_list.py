# SPDX-License-Identifier: Apache-2.0
"""Lists of flows that packets have opened: what numpy reads from the kernel's tables is what is there."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_network

import pytest

from loxilb.kernel.fake.columns import page_of
from loxilb.model import FlowState, L4Protocol, Mode
from loxilb.model.flow_list import FlowColumns, FlowKey, FlowQuery
from tests.packet.driver import SMALL, Driver
from tests.support.bpf import Hook
from tests.support.packets import SYN

pytestmark = pytest.mark.must_run
TINY_MAIN = replace(SMALL, flows4=16, flows6=16, half_open4=4096, half_open6=4096)
_COLUMNS = tuple(name for name in FlowColumns.__slots__ if name != "version")


def rows(columns: Sequence[Callable[[], FlowColumns]]) -> list[tuple[object, ...]]:
    """Return columns as rows of everything that is in them."""
    return [
        (one.version, *(getattr(one, name)[at].tolist() for name in _COLUMNS))
        for one in (copied() for copied in columns)
        for at in range(len(one))
    ]


def check(driver: Driver, query: FlowQuery) -> Sequence[tuple[object, ...]]:
    """Compare with what is read flow by flow; returns what was found."""
    expected, found = page_of(driver.data_plane.flows(), query), driver.data_plane.flow_page(query)
    assert found.after == expected.after
    listed = rows(found.columns)
    assert listed == rows(expected.columns)
    return listed


@pytest.mark.parametrize("own_driver", [TINY_MAIN], indirect=True, ids=["tiny"])
def test_flows_of_every_table_are_listed(own_driver: Driver, hook: Hook) -> None:
    """Half-open ones, established ones, and those that found no slot; of both versions, in one order."""
    driver = own_driver
    assert check(driver, FlowQuery()) == []
    services = [driver.service(version, L4Protocol.UDP, mode=Mode.FULLNAT) for version in (4, 6)]
    for service in services:
        for number in range(120):
            path = driver.path(service, endpoint=number % 3)
            driver.send(hook, path.request(), path.reply())
        half_open = driver.service(service.key.address.version)
        paths = [driver.path(half_open, endpoint=number % 3) for number in range(5)]
        for path in paths:
            driver.send(hook, path.request(flags=SYN))

    assert len(check(driver, FlowQuery())) == 4 * 125
    assert len(check(driver, FlowQuery(rules=frozenset({driver.rule_id(services[0])})))) == 240
    assert len(check(driver, FlowQuery(client=ip_network((paths[0].client, 128))))) == 2
    assert len(check(driver, FlowQuery(kinds=frozenset({(6, FlowState.SYN_SENT)})))) == 20
    endpoint = services[1].endpoints[0]
    assert check(driver, FlowQuery(endpoint=endpoint.address, endpoint_port=endpoint.port))
    check_pages(driver)


def check_pages(driver: Driver) -> None:
    """Check that pages of any size, also where one ends between versions, are the whole list."""
    whole = rows(driver.data_plane.flow_page(FlowQuery()).columns)
    for limit in (1 + len(whole) // 7, len(whole) // 2, len(whole) - 1, len(whole)):
        seen, after = 0, None
        while True:
            seen += len(check(driver, FlowQuery(limit=limit, after=after)))
            after = driver.data_plane.flow_page(FlowQuery(limit=limit, after=after)).after
            if after is None:
                break
        assert seen == len(whole)


def test_flows_are_in_the_order_of_their_keys(driver: Driver, hook: Hook, version: int) -> None:
    """That of addresses and ports as numbers."""
    service = driver.service(version)
    for number in range(6):
        driver.open(hook, driver.path(service, endpoint=number % 3))

    check(driver, FlowQuery())
    keys = [FlowKey.of(flow) for flow in driver.data_plane.flows() if flow.rule == driver.rule_id(service)]
    assert len(keys) == 12
    last = driver.data_plane.flow_page(FlowQuery(rules=frozenset({driver.rule_id(service)}), limit=11))
    assert last.after == sorted(keys)[10]
