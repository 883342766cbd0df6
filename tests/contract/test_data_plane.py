# SPDX-License-Identifier: Apache-2.0
"""What every data plane does with operations: the one in memory, and the kernel's."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from loxilb.errors import KernelError
from loxilb.model import Counter, LossPolicy, Mode, Selection, Service
from loxilb.model.image import EndpointEntry, EndpointId, Image, PutEndpoint, RuleId
from loxilb.model.probe import Availability, EndpointKey
from loxilb.plan import Health, Ledger, Limits, plan
from loxilb.ports import DataPlane
from tests.support.services import key, service

ALLOWED = tuple(map(ip_network, ("0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.1/32")))
SERVICES = (
    service(),
    service(of=key("20.20.20.2", 100, port_max=120), mode=Mode.FULLNAT, inactive_timeout=30),
    service(("31.31.31.1,80,3", "32.32.32.1,80,0"), of=key("20.20.20.3"), selection=Selection.PRIORITY),
    service(("31.31.31.1,80,0",), of=key("20.20.20.4"), selection=Selection.PRIORITY),
    service(("4ffe::1,80", "5ffe::1,80"), of=key("2001::1"), selection=Selection.HASH, mode=Mode.FULLNAT),
    service(("31.31.31.1,2020",), of=key("20.20.20.5"), selection=Selection.HASH, mode=Mode.DSR),
    service(of=key("20.20.20.6"), selection=Selection.PERSIST, persist_timeout=60, allowed_sources=ALLOWED),
    service(of=key("20.20.20.8"), half_open_limit=100),
    service(of=key("20.20.20.8", block=7)),
    service(of=key("20.20.20.8", block=8)),
    service(of=key("20.20.20.9", block=8), secondary_addresses=(ip_address("20.20.20.10"),)),
    service(of=key("20.20.20.11"), secondary_addresses=tuple(map(ip_address, ("10.0.0.2", "20.20.20.12")))),
    service(of=key("20.20.20.7"), selection=Selection.LC, allowed_sources=ALLOWED[1:]),
    service(of=key("20.20.20.8"), loss=LossPolicy.DRAIN, drain_timeout=86_400, slow_start=86_400),
    service(("31.31.31.1,80,65535", "31.31.31.2,80,0"), of=key("20.20.20.9"), loss=LossPolicy.KEEP),
    service(("4ffe::1,80",), of=key("2001::2"), allowed_sources=(ip_network("::/0"), ip_network("3ffe::1/128"))),
)


class Driver:
    """Plans services, applies the plans, and says what must be observed then."""

    def __init__(self, data_plane: DataPlane) -> None:
        self.data_plane = data_plane
        self.ledger = Ledger(Limits())

    def apply(self, *services: Service, health: Health | None = None) -> None:
        planned = plan({one.key: one for one in services}, self.ledger, {}, health or {})
        self.data_plane.apply(self.data_plane.prepared(planned.ops))
        planned.commit(self.ledger)

    def drop(self, *services: Service) -> None:
        planned = plan(dict.fromkeys(one.key for one in services), self.ledger, {})
        self.data_plane.apply(planned.ops)
        planned.commit(self.ledger)

    def expected(self) -> Image:
        present = self.ledger.services.values()
        return Image(
            listeners={listener: one.rule for one in present for listener in one.listeners},
            rules={one.rule: one.entry for one in present},
            endpoints={slot: entry for one in present for slot, entry in one.endpoints.items()},
            rings={one.rule: one.ring for one in present},
            sources={one.rule: one.sources for one in present if one.sources},
        )


@pytest.fixture
def driver(data_plane: DataPlane) -> Driver:
    return Driver(data_plane)


def test_it_starts_empty(driver):
    assert driver.data_plane.observe() == Image()


def test_what_is_applied_is_observed(driver):
    driver.apply(*SERVICES)

    assert driver.data_plane.observe() == driver.expected()


def test_changes_are_observed(driver):
    driver.apply(*SERVICES)
    driver.apply(service(("31.31.31.1,8080", "34.34.34.1,8080"), mode=Mode.FULLNAT, selection=Selection.HASH))

    assert driver.data_plane.observe() == driver.expected()


@pytest.mark.parametrize("kept", [(), ALLOWED[:1], ALLOWED[1:3], ALLOWED], ids=len)
def test_allowed_sources_are_changed(driver, kept):
    """Prefixes within others come and go on their own."""
    driver.apply(*SERVICES)
    for allowed in (kept, ALLOWED, kept):
        driver.apply(service(allowed_sources=allowed))

        assert driver.data_plane.observe() == driver.expected()


@pytest.mark.parametrize(("before", "after"), [((), ALLOWED), (ALLOWED, ()), (ALLOWED[:2], ALLOWED[1:3])])
def test_a_refused_change_of_sources_is_undone(driver, before, after):
    driver.apply(*SERVICES, service(allowed_sources=before))
    image = driver.data_plane.observe()
    planned = plan({key(): service(allowed_sources=after)}, driver.ledger, {})
    beyond = EndpointEntry(rule=RuleId(1), address=ip_address("31.31.31.1"), port=80)

    with pytest.raises(KernelError):
        driver.data_plane.apply([*planned.ops, PutEndpoint(endpoint=EndpointId(1 << 31), entry=beyond)])
    assert driver.data_plane.observe() == image


def test_what_is_dropped_is_gone(driver):
    driver.apply(*SERVICES)
    driver.drop(*SERVICES[1:])

    assert driver.data_plane.observe() == driver.expected()
    driver.drop(SERVICES[0])
    assert driver.data_plane.observe() == Image()


def test_a_refused_operation_undoes_those_before_it(driver):
    driver.apply(*SERVICES)
    before = driver.data_plane.observe()
    planned = plan(
        {key(): service(("31.31.31.1,9",)), key("20.20.20.99"): None, SERVICES[1].key: None}, driver.ledger, {}
    )
    beyond = EndpointEntry(rule=RuleId(1), address=ip_address("31.31.31.1"), port=80)

    with pytest.raises(KernelError):
        driver.data_plane.apply([*planned.ops, PutEndpoint(endpoint=EndpointId(1 << 31), entry=beyond)])
    assert driver.data_plane.observe() == before


class Interrupting:
    """Stands where an entry is wanted: whoever reads it is told to end."""

    def __getattr__(self, name):
        raise KeyboardInterrupt


def test_an_interrupt_in_the_middle_leaves_nothing_half_done(driver):
    """What was there is put back, and can be changed afterwards."""
    driver.apply(*SERVICES)
    before = driver.data_plane.observe()
    planned = plan({key(): service(("31.31.31.1,9",)), key("20.20.20.99"): SERVICES[0]}, driver.ledger, {})
    interrupting: Any = Interrupting()

    with pytest.raises(KeyboardInterrupt):
        driver.data_plane.apply([*planned.ops, PutEndpoint(endpoint=EndpointId(500), entry=interrupting)])
    assert driver.data_plane.observe() == before
    driver.apply(service(("31.31.31.1,9",)))
    assert driver.data_plane.observe() == driver.expected()


def crowd(count, *, first=0):
    """Return services of both families, more than are written one by one."""
    pairs = ((("31.31.31.1,80", "31.31.31.2,80"), f"20.21.{at // 250}.{at % 250 + 1}") for at in range(first, count))
    six = (service((f"4ffe::{at % 9 + 1:x},80",), of=key(f"2001::{at + 1:x}")) for at in range(first, count))
    return (*(service(ends, of=key(vip)) for ends, vip in pairs), *six)


@pytest.mark.parametrize("selection", [Selection.RR, Selection.HASH], ids=lambda one: one.name)
def test_a_service_may_have_4096_endpoints(driver, selection):
    """Two of which change afterwards."""
    ends = [f"31.{at // 65536}.{at // 256 % 256}.{at % 256},80" for at in range(1, 4097)]
    driver.apply(service(ends, selection=selection))
    assert driver.data_plane.observe() == driver.expected()

    driver.apply(service([*ends[2:], "32.0.0.1,80", "32.0.0.2,80"], selection=selection))
    assert driver.data_plane.observe() == driver.expected()


def test_a_crowd_is_observed(driver):
    driver.apply(*SERVICES, *crowd(300))
    assert driver.data_plane.observe() == driver.expected()

    driver.drop(*crowd(100))
    assert driver.data_plane.observe() == driver.expected()


def test_a_crowd_that_is_refused_in_the_middle_is_undone(driver):
    """Listeners that move to another service go back to theirs; what was tried can be done after."""
    driver.apply(*SERVICES, *crowd(100))
    before = driver.data_plane.observe()
    moved = service(of=key("20.21.0.1", 2020, port_max=2120))
    wanted = {one.key: one for one in (*crowd(300, first=100), moved)}
    planned = plan({crowd(1)[0].key: None, **wanted}, driver.ledger, {})
    beyond = EndpointEntry(rule=RuleId(1), address=ip_address("31.31.31.1"), port=80)

    with pytest.raises(KernelError):
        driver.data_plane.apply([*planned.ops, PutEndpoint(endpoint=EndpointId(1 << 31), entry=beyond)])
    assert driver.data_plane.observe() == before

    driver.data_plane.apply(planned.ops)
    planned.commit(driver.ledger)
    assert driver.data_plane.observe() == driver.expected()


def test_a_refused_creation_leaves_nothing(driver):
    planned = plan({one.key: one for one in SERVICES}, driver.ledger, {})
    beyond = EndpointEntry(rule=RuleId(1), address=ip_address("31.31.31.1"), port=80)

    with pytest.raises(KernelError):
        driver.data_plane.apply([*planned.ops, PutEndpoint(endpoint=EndpointId(1 << 31), entry=beyond)])
    assert driver.data_plane.observe() == Image()


def test_an_endpoint_starts_without_traffic(driver):
    driver.apply(service(("31.31.31.1,8080", "32.32.32.1,8080")))
    (programmed,) = driver.ledger.services.values()

    counters = driver.data_plane.counters()

    assert [counters.get(slot, Counter()) for slot in programmed.ids] == [Counter(), Counter()]
    assert list(driver.data_plane.flows()) == []
    assert driver.data_plane.active_flows(programmed.ids[:1]) == {programmed.ids[0]: 0}


def test_an_endpoint_that_is_down_keeps_its_slot(driver):
    one = service(("31.31.31.1,8080", "32.32.32.1,8080"))
    driver.apply(one)
    before = driver.expected().endpoints
    down = {EndpointKey.of(one, one.endpoints[0]): Availability.DOWN}

    driver.apply(one, health=down)
    observed = driver.data_plane.observe()
    assert observed == driver.expected()
    assert observed.endpoints.keys() == driver.data_plane.counters().keys() == before.keys()
    assert [len(ring) for ring in observed.rings.values()] == [1]

    driver.apply(one)
    assert driver.data_plane.observe().endpoints == before


def test_a_removed_endpoint_is_observed_while_it_drains(reopen):
    """And found by whoever opens the data plane next."""
    driver = Driver(reopen())
    kept = service(loss=LossPolicy.KEEP)
    driver.apply(kept)
    driver.apply(kept.with_endpoints(kept.endpoints[1:]))

    assert driver.data_plane.observe() == driver.expected()
    found = reopen().observe()
    assert found == driver.expected()
    assert [int(entry.flags) for entry in found.endpoints.values()] == [7, 1, 1]


def test_a_slow_start_is_observed(driver):
    one = service(slow_start=60)
    driver.apply(one.with_endpoints(one.endpoints[:2]))
    driver.apply(one)

    assert driver.data_plane.observe() == driver.expected()
    assert [entry.share for entry in driver.data_plane.observe().endpoints.values()] == [10, 10, 1]


def test_a_service_of_many_endpoints_is_observed(driver):
    many = [f"10.{number >> 8}.{number & 255}.1,80" for number in range(4_096)]
    driver.apply(service(many))

    assert driver.data_plane.observe() == driver.expected()


def test_everything_is_there_when_it_is_opened_again(reopen):
    first = Driver(reopen())
    first.apply(*SERVICES)

    assert reopen().observe() == first.expected()


def test_a_change_of_many_steps_leaves_what_a_fresh_start_would(driver):
    for number in range(1, 30):
        endpoints = [f"10.0.{one}.1,80" for one in range(1, 1 + number % 5 + 1)]
        driver.apply(service(endpoints, of=key("20.20.20.1", 1 + number % 3), selection=Selection(number % 3)))
        if number % 4 == 0:
            driver.drop(service(of=key("20.20.20.1", 1 + number % 3)))

    assert driver.data_plane.observe() == driver.expected()
