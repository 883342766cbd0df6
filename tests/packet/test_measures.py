# SPDX-License-Identifier: Apache-2.0
"""What is counted for those who watch: flows of each endpoint, fill of the tables, lost reports."""

from dataclasses import replace

import pytest

from loxilb.kernel.bpf.convert import flow_event_from_record
from loxilb.kernel.bpf.events import RingReader
from loxilb.model import FlowEvent, Selection
from loxilb.model.image import EndpointId
from loxilb.ports import Fill
from tests.packet.driver import SMALL, Driver
from tests.support.bpf import Hook
from tests.support.lab import wait_for
from tests.support.packets import RST, SYN

pytestmark = pytest.mark.must_run
LARGE = replace(SMALL, flows4=8192, half_open4=8192)
OPENED = 3_000  # more than the ring buffer holds


def reported(driver: Driver) -> list[FlowEvent]:
    """Return the reports in the ring buffer."""
    reader = RingReader(driver.data_plane.descriptors["events"], flow_event_from_record)
    found: list[FlowEvent] = []
    try:
        while some := reader.read():
            found += some
    finally:
        reader.close()
    return found


def flows(driver: Driver, slots: tuple[EndpointId, ...]) -> list[tuple[int, int]]:
    """Return flows of now and flows ever, by endpoint."""
    counts = driver.data_plane.flow_counts()
    return [(counts[slot].active, counts[slot].opened) for slot in slots]


@pytest.mark.kernel
def test_flows_are_counted_once_at_their_endpoint(driver: Driver, hook: Hook, version: int) -> None:
    """When they open, not with every packet; what has ended stays counted."""
    service = driver.service(version)
    slots = driver.endpoint_ids(service)
    paths = [driver.open(hook, driver.path(service, endpoint=at % 3)) for at in range(4)]
    for path in paths:
        driver.use(hook, path)

    assert flows(driver, slots) == [(2, 2), (1, 1), (1, 1)]

    driver.send(hook, paths[0].request(flags=RST))

    assert flows(driver, slots) == [(1, 2), (1, 1), (1, 1)]


def test_a_syn_that_is_sent_again_is_no_second_flow(driver: Driver, hook: Hook, version: int) -> None:
    """The half-open flow is there already."""
    service = driver.service(version)
    path = driver.path(service)

    driver.send(hook, path.request(flags=SYN), path.request(flags=SYN))

    assert flows(driver, driver.endpoint_ids(service))[0] == (1, 1)


@pytest.mark.parametrize("own_driver", [replace(SMALL, endpoints=4)], ids=["own"], indirect=True)
def test_a_new_endpoint_starts_from_zero(own_driver: Driver, hook: Hook) -> None:
    """Its slot had another owner before: there are just three."""
    service = own_driver.service(4)
    own_driver.open(hook, own_driver.path(service))
    own_driver.drop(service)

    assert flows(own_driver, own_driver.endpoint_ids(own_driver.service(4))) == [(0, 0)] * 3


@pytest.mark.parametrize("own_driver", [SMALL], ids=["own"], indirect=True)
def test_fill_is_what_is_configured_and_alive(own_driver: Driver, hook: Hook) -> None:
    """Rules, endpoints, listeners, clients that are remembered, directions of flows."""
    driver = own_driver
    driver.service(4)
    service = driver.service(6, selection=Selection.PERSIST)
    driver.use(hook, driver.open(hook, driver.path(service)))

    fills = driver.data_plane.fills()

    used = {name: fill.used for name, fill in fills.items() if name in ("rules", "endpoints", "affinities")}
    assert used == {"rules": 2, "endpoints": 6, "affinities": 1}
    assert fills["rules"].capacity == SMALL.rules
    assert (fills["listeners4"].used, fills["listeners6"].used, fills["sources"].used) == (1, 1, 0)
    wait_for(lambda: driver.data_plane.fills()["flow6"] == Fill(2, driver.data_plane.sizes["flow6"]))


@pytest.mark.parametrize("own_driver", [LARGE], ids=["own"], indirect=True)
def test_reports_that_find_no_room_are_counted(own_driver: Driver, hook: Hook) -> None:
    """Nobody reads, so the ring buffer fills up; every report more is one lost."""
    driver = own_driver
    service = driver.service(4)
    driver.data_plane.report_flows(True)
    assert driver.data_plane.lost_reports() == 0
    for at in range(OPENED):
        driver.open(hook, driver.path(service, endpoint=at % 3))

    found = len(reported(driver))
    assert 0 < found < OPENED
    assert driver.data_plane.lost_reports() == OPENED - found
