# SPDX-License-Identifier: Apache-2.0
"""What somebody else changed in the maps is found, whatever it is, and repaired with nothing started anew."""

from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from loxilb.kernel.fake import FakeDataPlane
from loxilb.model import Selection, Service
from loxilb.model.image import (
    EndpointEntry,
    EndpointFlags,
    EndpointId,
    Listener,
    PutEndpoint,
    PutRule,
    RuleId,
)
from loxilb.plan import Ledger, Limits, adopt, audit, listeners_of, plan, repair
from tests.support.services import key, service
from tests.unit.test_plan_properties import SOURCES, services, spelled_out

LIMITS = Limits(rules=8, endpoints=40, ring=200_000, service_endpoints=6, sources=30)


def programmed(*wanted: Service) -> tuple[FakeDataPlane, Ledger]:
    """Return a data plane with some services, and what is known of it."""
    fake, ledger = FakeDataPlane(LIMITS), Ledger(LIMITS)
    planned = plan({one.key: one for one in wanted}, ledger, SOURCES)
    fake.apply(planned.ops)
    planned.commit(ledger)
    return fake, ledger


def mend(fake: FakeDataPlane, ledger: Ledger) -> dict[str, int]:
    """Audit and repair; returns what differed."""
    findings = audit(fake.observe(), ledger.services)
    planned = repair(findings, ledger)
    fake.repair(planned.ops)
    planned.commit(ledger)
    assert not any(op.fresh for op in planned.ops if isinstance(op, PutEndpoint | PutRule))
    return dict(findings.counts)


def strange_rule(fake: FakeDataPlane, rule: RuleId) -> None:
    """Make a rule that nobody asked for, like another one without endpoints."""
    fake._rules[RuleId(8)] = structs.replace(fake._rules[rule], ring_base=0, ring_length=0)


def other_slot(fake: FakeDataPlane, rule: RuleId) -> None:
    """Write something else to a slot of a rule's slice; without a slice, change the rule's timeout."""
    entry = fake._rules[rule]
    if entry.ring_length:
        fake._ring[entry.ring_base] = EndpointId(39)
    else:
        fake._rules[rule] = structs.replace(entry, timeout=entry.timeout + 1)


STRAY = EndpointEntry(rule=RuleId(8), address=ip_address("9.9.9.9"), port=9)
NETWORK = ip_network("99.0.0.0/8")
THINGS: Mapping[str, Callable[[FakeDataPlane, Listener, RuleId, EndpointId], object]] = {
    "listener gone": lambda fake, listener, _rule, _slot: fake._listeners.pop(listener),
    "listener moved": lambda fake, listener, _rule, _slot: fake._listeners.update({listener: RuleId(7)}),
    "listener strange": lambda fake, one, rule, _slot: fake._listeners.update({one._replace(port=9999): rule}),
    "rule gone": lambda fake, _listener, rule, _slot: fake._rules.pop(rule),
    "rule changed": lambda fake, _, rule, _slot: fake._rules.update(
        {rule: structs.replace(fake._rules[rule], timeout=7777)}
    ),
    "rule strange": lambda fake, _listener, rule, _slot: strange_rule(fake, rule),
    "endpoint gone": lambda fake, _listener, _rule, slot: fake._endpoints.pop(slot),
    "endpoint changed": lambda fake, _, _rule, slot: fake._endpoints.update(
        {slot: structs.replace(fake._endpoints[slot], flags=EndpointFlags.TIMED)}
    ),
    "endpoint strange": lambda fake, _listener, _rule, _slot: fake._endpoints.update({EndpointId(40): STRAY}),
    "ring changed": lambda fake, _listener, rule, _slot: other_slot(fake, rule),
    "source gone": lambda fake, _listener, rule, _slot: fake._sources[rule].clear(),
    "source strange": lambda fake, _listener, rule, _slot: fake._sources[rule].add(NETWORK),
}
"""What somebody else may do to one element of each kind, which the first word says."""


def tamper(fake: FakeDataPlane, what: str, chosen: int) -> None:
    """Do one of these to elements that are there."""
    listeners, rules, slots = sorted(fake._listeners), sorted(fake._rules), sorted(fake._endpoints)
    if listeners and rules and slots:
        listener, rule = listeners[chosen % len(listeners)], rules[chosen % len(rules)]
        THINGS[what](fake, listener, rule, slots[chosen % len(slots)])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(services(), min_size=1, max_size=3, unique_by=lambda one: (one.key.address, one.key.port // 2)),
    st.lists(st.tuples(st.sampled_from(sorted(THINGS)), st.integers(0, 1000)), max_size=4),
)
def test_whatever_was_changed_is_as_it_was(wanted: list[Service], changes: list[tuple[str, int]]) -> None:
    """Found, counted by kind, repaired; a second look finds nothing, and the ledger is that of a new start."""
    claimed = [listener for one in wanted for listener in listeners_of(one)]
    if len(claimed) != len(set(claimed)):
        return
    fake, ledger = programmed(*wanted)
    before = fake.observe()
    for what, chosen in changes:
        tamper(fake, what, chosen)
    differs = fake.observe() != before

    found = mend(fake, ledger)

    after = fake.observe()
    assert bool(found) is differs
    assert (after.listeners, after.endpoints, after.sources) == (before.listeners, before.endpoints, before.sources)
    assert after.rings == before.rings
    assert {at: structs.replace(one, ring_base=0) for at, one in after.rules.items()} == {
        at: structs.replace(one, ring_base=0) for at, one in before.rules.items()
    }
    assert not audit(after, ledger.services)
    again, strays, _ = adopt(after, LIMITS, wanted)
    assert (spelled_out(again), again.free, strays) == (spelled_out(ledger), ledger.free, [])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(services(), min_size=1, max_size=3, unique_by=lambda one: (one.key.address, one.key.port // 2)),
    st.lists(st.tuples(st.sampled_from(sorted(THINGS)), st.integers(0, 1000)), max_size=4),
)
def test_a_start_needs_a_plan_of_nothing_but_what_is_unsettled(
    wanted: list[Service], changes: list[tuple[str, int]]
) -> None:
    """Whatever was changed: what is taken over as it is would not change in a plan of everything."""
    claimed = [listener for one in wanted for listener in listeners_of(one)]
    if len(claimed) != len(set(claimed)):
        return
    fake, _ = programmed(*wanted)
    for what, chosen in changes:
        tamper(fake, what, chosen)

    ledger, strays, unsettled = adopt(fake.observe(), LIMITS, wanted)
    fake.apply(strays)
    settled = {one.key: one for one in wanted if one not in unsettled}
    assert plan(settled, ledger, {}).after == {}
    planned = plan({one.key: one for one in unsettled}, ledger, {})
    fake.apply(planned.ops)
    planned.commit(ledger)

    assert not audit(fake.observe(), ledger.services)
    assert plan({one.key: one for one in wanted}, ledger, {}).ops == ()
    again, strays, _ = adopt(fake.observe(), LIMITS, wanted)
    assert (again.owners, again.free, strays) == (ledger.owners, ledger.free, [])


def test_nothing_is_written_where_nothing_differs():
    fake, ledger = programmed(service())
    assert not audit(fake.observe(), ledger.services)
    assert repair(audit(fake.observe(), ledger.services), ledger).ops == ()


@pytest.mark.parametrize("what", sorted(THINGS))
def test_each_kind_is_counted(what):
    fake, ledger = programmed(service(allowed_sources=(ip_network("10.0.0.0/8"),)))
    tamper(fake, what, 1)
    assert mend(fake, ledger) == {what.split()[0]: 1}


def test_round_robin_goes_on():
    fake, ledger = programmed(service(selection=Selection.RR))
    (listener,) = listeners_of(service())
    first = fake.choose(listener)
    fake._ring[ledger.services[key()].entry.ring_base] = EndpointId(39)
    fake._listeners.clear()
    mend(fake, ledger)
    assert [fake.choose(listener) for _ in range(3)] == [2, 3, first]
