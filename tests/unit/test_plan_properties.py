# SPDX-License-Identifier: Apache-2.0
"""Whatever the sequence of changes: what is programmed is what was asked for, and nothing leaks."""

from collections import Counter
from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from loxilb.errors import InvalidRequest
from loxilb.kernel.fake import FakeDataPlane
from loxilb.model import Endpoint, IPAddress, LossPolicy, Mode, Selection, Service, ServiceKey
from loxilb.model.image import EndpointId, Image, Listener, RuleId
from loxilb.plan import Ledger, Limits, adopt, listeners_of, plan
from loxilb.plan.programmed import Altered
from loxilb.plan.selection import in_rule_order, ring_of
from tests.support.services import key

LIMITS = Limits(rules=4, endpoints=12, ring=70_000, service_endpoints=6, sources=6)
NETWORKS = {
    4: [ip_network(text) for text in ("0.0.0.0/0", "10.0.0.0/8", "10.10.10.0/24", "10.10.10.1/32")],
    6: [ip_network(text) for text in ("::/0", "2001:db8::/32", "2001:db8::1/128")],
}
RAMPED = (Selection.RR, Selection.PRIORITY, Selection.LC)
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
    mode = draw(st.sampled_from([Mode.DEFAULT, Mode.ONEARM, Mode.FULLNAT, Mode.DSR]))
    selections = [Selection.RR, Selection.PRIORITY, Selection.HASH, Selection.PERSIST, Selection.LC]
    if mode is Mode.DSR:
        chosen, selections = [replace(one, port=where.port) for one in chosen], [Selection.HASH]
    selection, loss = draw(st.sampled_from(selections)), draw(st.sampled_from(LossPolicy))
    return Service(
        key=where,
        endpoints=tuple(chosen),
        mode=mode,
        selection=selection,
        persist_timeout=draw(st.sampled_from([0, 60])) if selection is Selection.PERSIST else 0,
        allowed_sources=tuple(draw(st.lists(st.sampled_from(NETWORKS[where.address.version]), max_size=3))),
        inactive_timeout=draw(st.sampled_from([0, 30])),
        loss=loss,
        drain_timeout=draw(st.sampled_from([0, 20])) if loss is LossPolicy.DRAIN else 0,
        slow_start=draw(st.sampled_from([0, 30])) if selection in RAMPED else 0,
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
        self.now = 0.0

    def change(self, wanted: Mapping[ServiceKey, Service | None]) -> bool:
        """Carry a change out; false where it was refused, which must change nothing."""
        before = self.fake.observe(), self.ledger.free
        try:
            planned = plan(wanted, self.ledger, SOURCES, now=self.now)
        except InvalidRequest:
            assert (self.fake.observe(), self.ledger.free) == before
            return False
        self.fake.apply(planned.ops)
        planned.commit(self.ledger)
        self.desired = {one: what for one, what in {**self.desired, **wanted}.items() if what is not None}
        return True

    def settle(self) -> None:
        """Let time pass until removed endpoints are gone, and all others have their full share."""
        self.now += 1_000
        leaving = [slot for one in self.ledger.services.values() for slot in one.leaving]
        planned = plan(self.desired, self.ledger, SOURCES, now=self.now, without_flows=leaving)
        self.fake.apply(planned.ops)
        planned.commit(self.ledger)


def meaning(image: Image) -> dict[Listener, object]:
    """Say what an image does, whatever its ids and places in the ring."""

    def place(slot: EndpointId) -> tuple[object, ...]:
        return image.endpoints[slot].address, image.endpoints[slot].port, image.endpoints[slot].source

    def rule(number: RuleId) -> tuple[object, ...]:
        entry = image.rules[number]
        own = Counter(place(slot) for slot, one in image.endpoints.items() if one.rule == number)
        behaviour = entry.mode, entry.selection, entry.timeout, entry.persist, entry.restricted
        return *behaviour, image.sources.get(number, frozenset()), list(map(place, image.rings[number])), own

    return {listener: rule(number) for listener, number in image.listeners.items()}


def expected(desired: Mapping[ServiceKey, Service]) -> dict[Listener, object]:
    """Build what the image must mean, straight from the services."""
    result: dict[Listener, object] = {}
    for service in desired.values():
        ordered = in_rule_order(service.endpoints)
        places = [(one.address, one.port, source(service, one)) for one in ordered]
        slots = [EndpointId(number) for number in range(len(places))]
        ring = [places[slot] for slot in ring_of(service.selection, ordered, slots)]
        allowed = frozenset(service.allowed_sources)
        behaviour = service.mode, service.selection, service.timeout, persistence(service), bool(allowed)
        rule = *behaviour, allowed, ring, Counter(places)
        result.update(dict.fromkeys(listeners_of(service), rule))
    return result


def persistence(service: Service) -> int:
    """Return for how many seconds a client is remembered: three hours unless the service says otherwise."""
    return (service.persist_timeout or 10_800) if service.selection is Selection.PERSIST else 0


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
        assert plan(world.desired, world.ledger, SOURCES, now=world.now).ops == ()
        world.settle()

        assert meaning(world.fake.observe()) == expected(world.desired)
        assert plan(world.desired, world.ledger, SOURCES, now=world.now).ops == ()
        assert not world.ledger.restless


def spelled_out(ledger: Ledger) -> dict[ServiceKey, Altered]:
    return {key: one.spelled_out for key, one in ledger.services.items()}


def timeless(ledger: Ledger) -> dict[ServiceKey, Altered]:
    return {key: replace(one, stays={}) for key, one in spelled_out(ledger).items()}


@settings(max_examples=80, deadline=None)
@given(changes, st.sampled_from([SOURCES, {}]))
def test_a_ledger_read_back_agrees_with_the_one_that_followed(steps, sources):
    world = World()
    for step in steps:
        world.change(step)

    ledger, strays, unsettled = adopt(world.fake.observe(), LIMITS, world.desired.values(), world.now, sources=sources)

    assert strays == []
    plain = [one for one in unsettled if one.mode is not Mode.ONEARM and not ledger.services[one.key].restless]
    assert plain == []
    # The kernel does not know since when an endpoint does what it does.
    assert timeless(ledger) == timeless(world.ledger)
    assert ledger.owners == world.ledger.owners
    assert ledger.free == world.ledger.free
    assert ledger.sources == world.ledger.sources
    assert ledger.restless == world.ledger.restless
    assert plan(world.desired, ledger, SOURCES, now=world.now).ops == ()


@settings(max_examples=60, deadline=None)
@given(changes)
def test_deleting_everything_frees_everything(steps):
    world = World()
    for step in steps:
        world.change(step)

    world.change(dict.fromkeys(world.desired))

    assert world.fake.observe() == Image()
    assert world.ledger.free == Ledger(LIMITS).free
    assert world.ledger.sources == 0


@settings(max_examples=60, deadline=None)
@given(changes, services())
def test_there_and_back_restores_what_it_does(steps, other):
    world = World()
    for step in steps:
        world.change(step)
    world.settle()
    before, image = dict(world.desired), world.fake.observe()

    if world.change({other.key: other}):
        world.change({other.key: before.get(other.key)})
        world.settle()

    assert world.desired == before
    assert meaning(world.fake.observe()) == meaning(image)
    assert world.fake.observe().listeners.keys() == image.listeners.keys()


CLIENTS = {
    4: [ip_address(text) for text in ("10.10.10.1", "10.10.10.2", "10.9.9.9", "11.0.0.1")],
    6: [ip_address(text) for text in ("2001:db8::1", "2001:db8::2", "3ffe::1")],
}


@settings(max_examples=60, deadline=None)
@given(services(), services())
def test_no_moment_of_a_change_lets_a_stranger_in_or_a_friend_out(one, other):
    """After each operation: who was allowed before and after is, and who was by neither is not."""
    version = one.key.address.version
    after = replace(one, allowed_sources=other.allowed_sources if other.key.address.version == version else ())
    world = World()
    assert world.change({one.key: one})
    rule = world.ledger.services[one.key].rule

    for op in plan({one.key: after}, world.ledger, SOURCES).ops:
        world.fake.apply([op])
        image = world.fake.observe()
        entry, networks = image.rules[rule], image.sources.get(rule, frozenset())
        for client in CLIENTS[version]:
            now = not entry.restricted or any(client in network for network in networks)
            assert now in (allows(one, client), allows(after, client))


def allows(service: Service, client: IPAddress) -> bool:
    """Say whether a service is for this client."""
    return not service.allowed_sources or any(client in network for network in service.allowed_sources)
