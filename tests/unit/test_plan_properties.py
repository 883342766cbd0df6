# SPDX-License-Identifier: Apache-2.0
"""Whatever the sequence of changes: what is programmed is what was asked for, and nothing leaks."""

from collections import Counter
from collections.abc import Mapping
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from loxilb.errors import InvalidRequest
from loxilb.kernel.fake import FakeDataPlane
from loxilb.model import Endpoint, Mode, Selection, Service, ServiceKey
from loxilb.model.image import EndpointId, Image, Listener, RuleId
from loxilb.plan import Ledger, Limits, adopt, listeners_of, plan
from loxilb.plan.selection import in_rule_order, ring_of
from tests.support.services import key

LIMITS = Limits(rules=4, endpoints=12, ring=70_000, service_endpoints=6)
SOURCES = {ip_address(f"10.0.{net}.1"): ip_address(f"10.0.{net}.254") for net in range(3)}

endpoints = st.builds(
    Endpoint,
    address=st.sampled_from([ip_address(f"10.0.{net}.1") for net in range(4)]),
    port=st.sampled_from([80, 81]),
    weight=st.sampled_from([0, 1, 2, 5, 50_000]),
)
keys = st.sampled_from(
    [
        key("20.0.0.1", 1),
        key("20.0.0.1", 2, port_max=4),
        key("20.0.0.1", 4),
        key("20.0.0.2", 1),
        key("2001::1", 1),
    ]
)


@st.composite
def services(draw: st.DrawFn) -> Service:
    where = draw(keys)
    chosen = draw(st.lists(endpoints, min_size=1, max_size=6))
    if where.address.version == 6:
        chosen = [Endpoint(address=ip_address("4ffe::1"), port=one.port, weight=one.weight) for one in chosen]
    return Service(
        key=where,
        endpoints=tuple(chosen),
        mode=draw(st.sampled_from([Mode.DEFAULT, Mode.ONEARM, Mode.FULLNAT])),
        selection=draw(st.sampled_from([Selection.RR, Selection.PRIORITY, Selection.HASH])),
        inactive_timeout=draw(st.sampled_from([0, 30])),
        private_address=draw(st.sampled_from([None, ip_address("10.9.9.9")])) if where.address.version == 4 else None,
    )


changes = st.lists(
    st.one_of(st.dictionaries(keys, st.none(), min_size=1), services().map(lambda one: {one.key: one})),
    max_size=12,
)


class World:
    """Desired services, a ledger and a fake data plane."""

    def __init__(self) -> None:
        self.fake = FakeDataPlane(LIMITS)
        self.ledger = Ledger(LIMITS)
        self.desired: dict[ServiceKey, Service] = {}

    def change(self, wanted: Mapping[ServiceKey, Service | None]) -> bool:
        """Carry a change out; false where it was refused, which must change nothing."""
        before = self.fake.observe(), self.ledger.free
        try:
            planned = plan(wanted, self.ledger, SOURCES)
        except InvalidRequest:
            assert (self.fake.observe(), self.ledger.free) == before
            return False
        self.fake.apply(planned.ops)
        planned.commit(self.ledger)
        self.desired = {one: what for one, what in {**self.desired, **wanted}.items() if what is not None}
        return True


def meaning(image: Image) -> dict[Listener, object]:
    """Say what an image does, whatever its ids and places in the ring."""

    def place(slot: EndpointId) -> tuple[object, ...]:
        return image.endpoints[slot].address, image.endpoints[slot].port, image.endpoints[slot].source

    def rule(number: RuleId) -> tuple[object, ...]:
        entry = image.rules[number]
        own = Counter(place(slot) for slot, one in image.endpoints.items() if one.rule == number)
        return entry.mode, entry.selection, entry.timeout, list(map(place, image.rings[number])), own

    return {listener: rule(number) for listener, number in image.listeners.items()}


def expected(desired: Mapping[ServiceKey, Service]) -> dict[Listener, object]:
    """Build what the image must mean, straight from the services."""
    result: dict[Listener, object] = {}
    for service in desired.values():
        ordered = in_rule_order(service.endpoints)
        places = [(one.address, one.port, source(service, one)) for one in ordered]
        slots = [EndpointId(number) for number in range(len(places))]
        ring = [places[slot] for slot in ring_of(service.selection, ordered, slots)]
        rule = service.mode, service.selection, service.timeout, ring, Counter(places)
        result.update(dict.fromkeys(listeners_of(service), rule))
    return result


def source(service: Service, one: Endpoint) -> object:
    """Return what the endpoint must see as the source, None for the client."""
    if service.mode is Mode.ONEARM:
        return SOURCES.get(one.address)
    return service.data_address if service.mode is Mode.FULLNAT else None


@settings(max_examples=60, deadline=None)
@given(changes)
def test_what_is_programmed_is_what_was_asked_for(steps):
    world = World()
    for step in steps:
        world.change(step)

        assert meaning(world.fake.observe()) == expected(world.desired)
        assert plan(world.desired, world.ledger, SOURCES).ops == ()


@settings(max_examples=40, deadline=None)
@given(changes)
def test_a_ledger_read_back_agrees_with_the_one_that_followed(steps):
    world = World()
    for step in steps:
        world.change(step)

    ledger, strays = adopt(world.fake.observe(), LIMITS, world.desired.values())

    assert strays == []
    assert ledger.services == world.ledger.services
    assert ledger.owners == world.ledger.owners
    assert ledger.free == world.ledger.free
    assert plan(world.desired, ledger, SOURCES).ops == ()


@settings(max_examples=60, deadline=None)
@given(changes)
def test_deleting_everything_frees_everything(steps):
    world = World()
    for step in steps:
        world.change(step)

    world.change(dict.fromkeys(world.desired))

    assert world.fake.observe() == Image()
    assert world.ledger.free == Ledger(LIMITS).free


@settings(max_examples=60, deadline=None)
@given(changes, services())
def test_there_and_back_restores_what_it_does(steps, other):
    world = World()
    for step in steps:
        world.change(step)
    before, image = dict(world.desired), world.fake.observe()

    if world.change({other.key: other}):
        world.change({other.key: before.get(other.key)})

    assert world.desired == before
    assert meaning(world.fake.observe()) == meaning(image)
    assert world.fake.observe().listeners.keys() == image.listeners.keys()
