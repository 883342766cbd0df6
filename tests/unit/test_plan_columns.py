# SPDX-License-Identifier: Apache-2.0
"""Columns of many services say what their entries say, and what differs from them is found among many."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from loxilb.errors import InvalidRequest
from loxilb.model import Service
from loxilb.model.image import EndpointId, Image
from loxilb.model.probe import Availability, EndpointKey
from loxilb.model.tables import EndpointTable, RuleTable
from loxilb.plan import Ledger, Limits, plan
from loxilb.plan.columns import image_of, misfits
from loxilb.plan.pools import SlicePool
from loxilb.plan.programmed import Programmed
from tests.support.services import key, service
from tests.unit.test_plan_properties import SOURCES, services

several = st.lists(services(), min_size=1, max_size=3, unique_by=lambda one: (one.key.address, one.key.port // 2))


def programmed(wanted: list[Service], down: set[int]) -> list[Programmed]:
    """Return how services are programmed, with endpoints that are not up."""
    wanted = [structs.replace(one, half_open_limit=place) for place, one in enumerate(wanted, 1)]
    used = [EndpointKey.of(one, endpoint) for one in wanted for endpoint in one.endpoints]
    health = {one: Availability.OUT for place, one in enumerate(used) if place in down}
    ledger = Ledger(Limits())
    planned = plan({one.key: one for one in wanted}, ledger, SOURCES, health)
    planned.commit(ledger)
    return list(ledger.services.values())


@settings(max_examples=60, deadline=None)
@given(several, st.sets(st.integers(0, 5)), st.booleans())
def test_columns_say_what_entries_say(wanted: list[Service], down: set[int], mixed: bool) -> None:
    try:
        ones = programmed(wanted, down)
    except InvalidRequest:  # two claim one port
        return
    ones = [one.spelled_out if mixed and place % 2 else one for place, one in enumerate(ones)]

    assert image_of(ones) == Image(
        listeners={listener: one.rule for one in ones for listener in one.listeners},
        rules={one.rule: one.entry for one in ones},
        endpoints={slot: entry for one in ones for slot, entry in one.endpoints.items()},
        rings={one.rule: one.ring for one in ones if one.ring},
        sources={one.rule: one.sources for one in ones if one.sources},
    )
    found = image_of([one.spelled_out for one in ones])
    assert (found.rules, found.endpoints) == (image_of(ones).rules, image_of(ones).endpoints)


def test_the_one_that_differs_is_found_among_many() -> None:
    """More than are compared at a time, with one rule, one endpoint and one listener changed."""
    ones = programmed([service(of=key(port=port)) for port in range(1, 1001)], set())
    image = image_of(ones)
    assert misfits(image, ones) == []

    rules, endpoints, listeners = dict(image.rules), dict(image.endpoints), dict(image.listeners)
    rules[ones[3].rule] = structs.replace(ones[3].entry, timeout=1)
    endpoints[ones[500].ids[2]] = structs.replace(endpoints[ones[500].ids[2]], port=1)
    del listeners[ones[999].listeners[0]]
    changed = Image(listeners=listeners, rules=rules, endpoints=endpoints, rings=image.rings)

    assert misfits(changed, ones) == [ones[3], ones[500], ones[999]]


def test_a_table_is_the_mapping_it_stands_for() -> None:
    (one,) = programmed([service()], set())
    rules, endpoints = {one.rule: one.entry}, dict(one.endpoints)

    assert RuleTable.of(rules) == rules
    assert EndpointTable.of(endpoints) == endpoints
    assert EndpointTable.of({}) == {}
    assert EndpointTable.of(endpoints).keys() - endpoints.keys() == set()


@given(st.permutations(range(6)), st.integers(0, 5), st.booleans())
def test_a_table_holds_another_in_any_order(order: list[int], wrong: int, fewer: bool) -> None:
    ones = programmed([service(of=key(port=port)) for port in range(1, 7)], set())
    entries = {slot: entry for one in ones for slot, entry in one.endpoints.items()}
    table = EndpointTable.of(entries)
    shuffled = {ones[place].ids[0]: entries[ones[place].ids[0]] for place in order} | ({} if fewer else entries)
    assert table.holds(EndpointTable.of(shuffled))

    shuffled[ones[wrong].ids[0]] = structs.replace(shuffled[ones[wrong].ids[0]], port=1)
    assert not table.holds(EndpointTable.of(shuffled))
    assert not table.holds(EndpointTable.of({**entries, EndpointId(1000): entries[ones[0].ids[0]]}))


@given(st.lists(st.integers(0, 12), max_size=12), st.lists(st.integers(0, 12), max_size=12))
def test_slices_taken_at_once_are_those_taken_one_by_one(before: list[int], lengths: list[int]) -> None:
    one, other = SlicePool(60), SlicePool(60)
    for pool in (one, other):
        taken = []
        for length in before:
            try:
                taken.append(pool.take(length))
            except InvalidRequest:
                break
        pool.give(taken[::2])
    single = []
    try:
        single = [other.take(length).base for length in lengths]
        missing = None
    except InvalidRequest:
        missing = True
    try:
        bases, taken = one.take_some(lengths)
    except InvalidRequest as error:
        assert missing
        assert error.index is not None
        assert error.index < len(lengths)
    else:
        assert not missing
        assert bases == single
        assert sum(slots.length for slots in taken) == sum(lengths)
