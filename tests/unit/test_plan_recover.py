# SPDX-License-Identifier: Apache-2.0
"""A daemon that starts takes over what its predecessor programmed."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from msgspec import structs

from loxilb.kernel.fake import FakeDataPlane
from loxilb.model import L4Protocol, Mode, Selection, Service
from loxilb.model.image import (
    EndpointEntry,
    EndpointId,
    Image,
    PutEndpoint,
    PutListener,
    PutRing,
    PutRule,
    PutSource,
    RuleEntry,
    RuleId,
)
from loxilb.model.service import MAX_WEIGHT
from loxilb.plan import Ledger, Limits, adopt, listeners_of, plan, recover
from tests.support.services import key, service

SERVICES = {
    "rr": service(inactive_timeout=240),
    "duplicates": service(("31.31.31.1,8080", "31.31.31.1,8080"), inactive_timeout=240),
    "hash": service(selection=Selection.HASH, inactive_timeout=100),
    "priority": service(
        ("31.31.31.1,8080,3", "32.32.32.1,8080,0", "33.33.33.1,8080,1"),
        selection=Selection.PRIORITY,
        inactive_timeout=240,
    ),
    "persist": service(selection=Selection.PERSIST, inactive_timeout=240),
    "mark": service(of=key(block=7), inactive_timeout=240),
    "secondary": service(
        of=key(port=100, port_max=102),
        secondary_addresses=(ip_address("10.0.0.1"), ip_address("30.30.30.30")),
        inactive_timeout=240,
    ),
    "half-open limit": service(half_open_limit=100, inactive_timeout=240),
    "short persist": service(selection=Selection.PERSIST, persist_timeout=60, inactive_timeout=240),
    "lc": service(selection=Selection.LC, inactive_timeout=240),
    "dsr": service(("31.31.31.1,2020",), mode=Mode.DSR, selection=Selection.HASH, inactive_timeout=240),
    "sources": service(allowed_sources=(ip_network("10.0.0.0/8"), ip_network("10.10.10.1/32")), inactive_timeout=240),
    "fullnat": service(mode=Mode.FULLNAT, inactive_timeout=240),
    "range": service(of=key(port=100, port_max=110), inactive_timeout=240),
    "ipv6": service(("6ffe::1,80", "4ffe::1,80", "5ffe::1,80"), of=key("2001::1"), inactive_timeout=240),
    "icmp": service(("31.31.31.1,0",), of=key(port=0, protocol=L4Protocol.ICMP), inactive_timeout=20),
}


def programmed(*services: Service) -> FakeDataPlane:
    fake, ledger = FakeDataPlane(), Ledger(Limits())
    planned = plan({one.key: one for one in services}, ledger, {})
    fake.apply(planned.ops)
    return fake


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_comes_back_from_the_image(name):
    image = programmed(SERVICES[name]).observe()

    assert recover(image) == [SERVICES[name]]


def test_a_ledger_read_back_has_nothing_left_to_plan():
    services = [
        structs.replace(one, key=structs.replace(one.key, port=number, port_max=number))
        for number, (name, one) in enumerate(SERVICES.items(), start=1)
        if name not in ("icmp", "dsr")
    ]
    fake = programmed(*services)

    ledger, strays, _ = adopt(fake.observe(), Limits(), services)

    assert strays == []
    assert plan({one.key: one for one in services}, ledger, {}).ops == ()


def test_of_very_many_the_one_that_differs_is_left_to_plan():
    """More than are compared at a time, asked for in another order than they were made in; the last has changed."""
    services = [service(of=key(port=port)) for port in range(1, 1201)]
    image = programmed(*services).observe()
    changed = structs.replace(services[-1], inactive_timeout=7)

    ledger, strays, unsettled = adopt(image, Limits(), [changed, *services[-2::-1]])

    assert (len(ledger.services), strays, unsettled) == (1200, [], [changed])


def test_a_rule_is_one_services():
    """Where somebody led the listener of one service to the rule of another: each gets its own."""
    one, two = service(), service(of=key("20.20.20.2"))
    fake = programmed(one, two)
    (first,), (second,) = listeners_of(one), listeners_of(two)
    fake.apply([PutListener(listener=second, rule=fake.observe().listeners[first])])

    ledger, strays, unsettled = adopt(fake.observe(), Limits(), [one, two])
    fake.apply([*strays, *plan({two.key: two}, ledger, {}).ops])

    assert unsettled == [two]
    assert len(set(fake.observe().listeners.values())) == len(fake.observe().rules) == 2


def test_weights_read_during_slow_starts_are_weights():
    """Places in a short slice, divided by unlike shares, have a large denominator: the weights stay in bounds."""
    wanted = service(
        ("31.31.31.1,8080,997", "32.32.32.1,8080,991", "33.33.33.1,8080,983", "34.34.34.1,8080,1"),
        selection=Selection.PRIORITY,
        inactive_timeout=240,
    )
    image = programmed(wanted).observe()
    shares = dict(zip(image.endpoints, (7, 9, 8, 10), strict=True))
    slow = {slot: structs.replace(entry, share=shares[slot]) for slot, entry in image.endpoints.items()}

    (found,) = recover(replace(image, endpoints=slow))

    weights = [one.weight for one in found.endpoints]
    assert max(weights) == MAX_WEIGHT
    assert weights[3] > 0
    assert weights[0] / weights[1] == pytest.approx(997 / 7 / (991 / 9), rel=0.001)


def test_what_belongs_to_no_service_is_dropped():
    fake = programmed(service(), service(of=key("20.20.20.2")))

    ledger, strays, _ = adopt(fake.observe(), Limits(), [service()])
    fake.apply(strays)

    assert set(fake.observe().rules) == {1}
    assert fake.observe() == programmed(service()).observe()
    assert ledger.free == adopt(fake.observe(), Limits(), [service()])[0].free


def test_half_a_service_is_left_out_and_dropped():
    fake = FakeDataPlane()
    slot, rule = EndpointId(1), RuleId(1)
    whole = service(("31.31.31.1,8080",))
    address = whole.endpoints[0].address
    entry = RuleEntry(mode=Mode.DEFAULT, selection=Selection.RR, timeout=9, ring_base=0, ring_length=1)
    fake.apply(
        [
            PutEndpoint(endpoint=slot, entry=EndpointEntry(rule=rule, address=address, port=80)),
            PutRing(base=0, endpoints=(slot,)),
            PutRule(rule=rule, entry=entry),
        ]
    )

    services = recover(fake.observe())
    fake.apply(adopt(fake.observe(), Limits(), services)[1])

    assert services == []
    assert fake.observe() == Image()


def test_a_restricted_rule_without_sources_is_no_service_and_is_dropped():
    """A service without sources would be open to all: what was lost must not open it."""
    image = replace(programmed(SERVICES["sources"]).observe(), sources={})

    assert recover(image) == []


def test_sources_of_no_rule_are_dropped():
    fake, network = programmed(service()), ip_network("10.0.0.0/8")
    fake.apply([PutSource(rule=RuleId(7), network=network), PutSource(rule=RuleId(1), network=network)])

    services = recover(fake.observe())
    ledger, strays, _ = adopt(fake.observe(), Limits(), services)
    fake.apply([*strays, *plan({one.key: one for one in services}, ledger, {}).ops])

    assert fake.observe() == programmed(service()).observe()


def test_a_rule_without_endpoints_is_no_service():
    fake = FakeDataPlane()
    entry = RuleEntry(mode=Mode.DEFAULT, selection=Selection.RR, timeout=9, ring_base=0, ring_length=0)
    (listener,) = listeners_of(service())
    fake.apply([PutRule(rule=RuleId(1), entry=entry), PutListener(listener=listener, rule=RuleId(1))])

    assert recover(fake.observe()) == []


def test_the_order_of_ipv6_round_robin_comes_back():
    fake, ledger = FakeDataPlane(), Ledger(Limits())
    for order in (("6ffe::1,80", "4ffe::1,80"), ("4ffe::1,80", "6ffe::1,80")):
        wanted = service(order, of=key("2001::1"), inactive_timeout=240)
        planned = plan({wanted.key: wanted}, ledger, {})
        fake.apply(planned.ops)
        planned.commit(ledger)

    assert fake.observe().rings == {1: (2, 1)}
    assert recover(fake.observe()) == [wanted]
