# SPDX-License-Identifier: Apache-2.0
"""The data plane in memory refuses what would send a packet astray, and chooses like the real one."""

import errno
from collections import Counter
from ipaddress import ip_address, ip_network

import pytest
from msgspec import structs
from msgspec.structs import replace

from loxilb.errors import KernelError
from loxilb.kernel.fake import FakeDataPlane
from loxilb.model import Counter as Traffic
from loxilb.model import Mode, Selection, Service
from loxilb.model.image import (
    DropEndpoint,
    DropListener,
    DropRule,
    DropSource,
    EndpointEntry,
    EndpointId,
    Image,
    Listener,
    Op,
    PutEndpoint,
    PutListener,
    PutRing,
    PutRule,
    PutSource,
    RuleEntry,
    RuleId,
)
from loxilb.plan import Ledger, Limits, listeners_of, plan
from tests.support.services import service

RULE, OTHER, GUARDED, SLOT = RuleId(1), RuleId(2), RuleId(3), EndpointId(1)
NETWORK = ip_network("10.0.0.0/8")
ENTRY = EndpointEntry(rule=RULE, address=ip_address("31.31.31.1"), port=80)
(LISTENER,) = listeners_of(service())


def rule(base: int = 0, length: int = 1) -> RuleEntry:
    return RuleEntry(mode=Mode.DEFAULT, selection=Selection.RR, timeout=9, ring_base=base, ring_length=length)


RESTRICTED = structs.replace(rule(length=0), restricted=True)
WORKING: list[Op] = [
    PutEndpoint(endpoint=SLOT, entry=ENTRY),
    PutRing(base=0, endpoints=(SLOT,)),
    PutRule(rule=RULE, entry=rule()),
    PutListener(listener=LISTENER, rule=RULE),
]

REFUSED = {
    "a slice rewritten while in use": (PutRing(base=0, endpoints=(SLOT,)), errno.EBUSY),
    "a slice that overlaps one in use": (PutRing(base=0, endpoints=(SLOT, SLOT)), errno.EBUSY),
    "a slice before the ring": (PutRing(base=-1, endpoints=(SLOT,)), errno.E2BIG),
    "a slice beyond the ring": (PutRing(base=9, endpoints=(SLOT, SLOT)), errno.E2BIG),
    "a slice naming no endpoint": (PutRing(base=4, endpoints=(EndpointId(2),)), errno.ENOENT),
    "a rule pointing to unwritten slots": (PutRule(rule=RULE, entry=rule(base=4)), errno.EINVAL),
    "a rule pointing to another's endpoints": (PutRule(rule=OTHER, entry=rule()), errno.EINVAL),
    "rule 0": (PutRule(rule=RuleId(0), entry=rule()), errno.E2BIG),
    "endpoint 0": (PutEndpoint(endpoint=EndpointId(0), entry=ENTRY), errno.E2BIG),
    "an endpoint beyond the table": (PutEndpoint(endpoint=EndpointId(11), entry=ENTRY), errno.E2BIG),
    "an endpoint dropped while in use": (DropEndpoint(endpoint=SLOT), errno.EBUSY),
    "an endpoint that is not there": (DropEndpoint(endpoint=EndpointId(2)), errno.ENOENT),
    "a rule dropped while listened to": (DropRule(rule=RULE), errno.EBUSY),
    "a rule that is not there": (DropRule(rule=OTHER), errno.ENOENT),
    "a listener to no rule": (PutListener(listener=LISTENER, rule=OTHER), errno.ENOENT),
    "a rule that nobody may use": (PutRule(rule=OTHER, entry=RESTRICTED), errno.EINVAL),
    "a source twice": (PutSource(rule=RULE, network=NETWORK), errno.EEXIST),
    "a source that is not there": (DropSource(rule=OTHER, network=NETWORK), errno.ENOENT),
    "the last source of a rule that asks for one": (DropSource(rule=GUARDED, network=NETWORK), errno.EBUSY),
    "more sources than there is room for": (PutSource(rule=OTHER, network=NETWORK), errno.ENOSPC),
    "a listener that is not there": (
        DropListener(listener=Listener(version=4, address=1, protocol="tcp", port=1)),
        errno.ENOENT,
    ),
}


@pytest.fixture
def fake() -> FakeDataPlane:
    return FakeDataPlane(Limits(rules=10, endpoints=10, ring=10, sources=2))


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses(name, fake):
    operation, number = REFUSED[name]
    fake.apply(WORKING)
    fake.apply([PutSource(rule=one, network=NETWORK) for one in (RULE, GUARDED)])
    fake.apply([PutRule(rule=GUARDED, entry=RESTRICTED)])
    before = fake.observe()

    with pytest.raises(KernelError) as caught:
        fake.apply([operation])
    assert caught.value.errno == number
    assert fake.observe() == before


@pytest.mark.parametrize("done", range(4))
def test_a_failure_in_the_middle_leaves_nothing(done, fake):
    fake.fail_in(done)

    with pytest.raises(KernelError):
        fake.apply(WORKING)
    assert fake.observe() == Image()
    fake.apply(WORKING)
    assert fake.observe().rings == {RULE: (SLOT,)}


def test_a_slice_that_was_taken_back_is_unwritten(fake):
    fake.apply(WORKING)
    fake.fail_in(1)
    with pytest.raises(KernelError):
        fake.apply([PutRing(base=4, endpoints=(SLOT,)), PutRule(rule=RULE, entry=rule(base=4))])

    with pytest.raises(KernelError) as caught:
        fake.apply([PutRule(rule=RULE, entry=rule(base=4))])
    assert caught.value.errno == errno.EINVAL


def loaded(one: Service) -> FakeDataPlane:
    fake = FakeDataPlane()
    fake.apply(plan({one.key: one}, Ledger(Limits()), {}).ops)
    return fake


def test_round_robin_goes_through_the_endpoints_in_order():
    fake = loaded(service())

    assert [fake.choose(LISTENER) for _ in range(7)] == [1, 2, 3, 1, 2, 3, 1]


def test_the_position_survives_a_change_but_not_a_new_rule():
    fake, ledger = FakeDataPlane(), Ledger(Limits())
    for wanted in (service(), service(inactive_timeout=9)):
        planned = plan({wanted.key: wanted}, ledger, {})
        fake.apply(planned.ops)
        planned.commit(ledger)
        chosen = fake.choose(LISTENER)

    assert chosen == 2
    fake.apply([PutRule(rule=RULE, entry=fake.observe().rules[RULE], fresh=True)])
    assert fake.choose(LISTENER) == 1


def test_weights_80_and_20_share_a_hundred_flows_exactly():
    fake = loaded(service(("31.31.31.1,80,80", "32.32.32.1,80,20"), selection=Selection.PRIORITY))

    assert Counter(fake.choose(LISTENER) for _ in range(100)) == {1: 80, 2: 20}


def test_hash_depends_on_the_flow_only():
    fake = loaded(service(selection=Selection.HASH))

    assert len({fake.choose(LISTENER, hashed=77) for _ in range(5)}) == 1
    assert {fake.choose(LISTENER, hashed=number) for number in range(50)} == {1, 2, 3}


def test_persist_keeps_a_client_while_it_comes_back_in_time():
    fake = loaded(service(selection=Selection.PERSIST, persist_timeout=60))
    clients = [ip_address(f"10.10.10.{number}") for number in (1, 2, 3)]

    first = [fake.choose(LISTENER, client=client, now=0) for client in clients]
    again = [fake.choose(LISTENER, client=client, now=60) for client in reversed(clients)]

    assert first == [1, 2, 3]
    assert again == [3, 2, 1]
    assert fake.choose(LISTENER, client=clients[1], now=120) == 2
    assert fake.choose(LISTENER, client=clients[2], now=121) == 1  # late by a second: the next in turn


def test_persist_chooses_again_when_the_endpoint_is_gone():
    fake, ledger, client = FakeDataPlane(), Ledger(Limits()), ip_address("10.10.10.1")
    for number, one in enumerate((service(), service(("32.32.32.1,8080", "33.33.33.1,8080")))):
        wanted = replace(one, selection=Selection.PERSIST)
        planned = plan({wanted.key: wanted}, ledger, {})
        fake.apply(planned.ops)
        planned.commit(ledger)
        chosen = fake.choose(LISTENER, client=client, now=number)

    assert chosen in (2, 3)
    assert fake.choose(LISTENER, client=client, now=2) == chosen


def test_lc_takes_the_first_of_those_with_the_fewest_flows():
    fake, client = loaded(service(selection=Selection.LC)), ip_address("10.10.10.1")

    assert [fake.choose(LISTENER) for _ in range(3)] == [1, 1, 1]
    assert [fake.connect(LISTENER, client, port) for port in (1, 2, 3, 4)] == [1, 2, 3, 1]
    fake.disconnect(client, 3)
    assert fake.choose(LISTENER) == 3
    assert len(list(fake.flows())) == 6


def test_only_allowed_sources_are_served():
    fake = loaded(service(allowed_sources=(ip_network("10.10.10.0/24"), ip_network("11.0.0.1/32"))))
    clients = [ip_address(text) for text in ("10.10.10.9", "10.10.11.1", "11.0.0.1", "11.0.0.2")]

    assert [fake.choose(LISTENER, client=client) for client in clients] == [1, None, 2, None]
    assert fake.reasons()["drop_source"] == 2


def test_nothing_is_chosen_without_a_service_or_an_endpoint():
    fake = loaded(service(("31.31.31.1,80,0",), selection=Selection.PRIORITY))

    assert fake.choose(LISTENER) is None
    assert fake.choose(Listener(version=4, address=9, protocol="tcp", port=1)) is None
    assert fake.reasons() == {"drop_no_endpoint": 1, "pass_not_service": 1}


def test_a_connection_is_counted_and_listed_in_both_directions():
    fake = loaded(service(mode=Mode.FULLNAT))

    slot = fake.connect(LISTENER, ip_address("10.10.10.1"), 4000)

    request, reply = fake.flows()
    assert slot == request.endpoint == 1
    assert fake.counters()[SLOT] == Traffic(packets=1, bytes=40)
    assert (str(request.new_source), str(request.new_destination)) == ("20.20.20.1", "31.31.31.1")
    assert (str(reply.source), str(reply.destination)) == ("31.31.31.1", "20.20.20.1")
    assert (str(reply.new_source), str(reply.new_destination)) == ("20.20.20.1", "10.10.10.1")
    assert (reply.new_source_port, reply.new_destination_port, reply.reply) == (2020, 4000, True)
