# SPDX-License-Identifier: Apache-2.0
"""From an observed image back to services, and to a ledger.

A daemon that starts finds what its predecessor programmed. What the image does not hold (name, monitor, the
public address in front of a private one, slow start) comes back with its default; the weights of priority come back
from the ring. Slots of removed endpoints that still have flows come back as such, and what becomes of them.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from math import gcd, lcm
from operator import attrgetter
from typing import NamedTuple

from msgspec import Struct

from loxilb.errors import InvalidRequest
from loxilb.model import Endpoint, IPAddress, IPNetwork, L4Protocol, LossPolicy, Selection, Service, ServiceKey
from loxilb.model.image import (
    EndpointEntry,
    EndpointFlags,
    EndpointId,
    Image,
    Listener,
    Op,
    RuleId,
)
from loxilb.model.probe import EndpointKey
from loxilb.model.service import DEFAULT_PERSISTENCE_S, MAX_WEIGHT
from loxilb.model.tables import EndpointTable, RuleTable
from loxilb.plan.columns import misfits
from loxilb.plan.creation import ALL_UP, Health, Sources, as_new
from loxilb.plan.ledger import Ledger
from loxilb.plan.planner import are_of, check
from loxilb.plan.pools import Limits
from loxilb.plan.portions import portions
from loxilb.plan.programmed import Altered, Programmed, listeners_of
from loxilb.plan.selection import in_address_order, in_rule_order
from loxilb.plan.stay import Policy, adopted
from loxilb.plan.strays import strays

_NO_SOURCES: frozenset[IPNetwork] = frozenset()
_NO_ADDRESSES: Sources = {}


def recover(image: Image) -> list[Service]:
    """Return the services that ``image`` carries out; what makes no whole service is left out."""
    listeners: defaultdict[RuleId, list[Listener]] = defaultdict(list)
    for listener, rule in sorted(image.listeners.items()):
        listeners[rule].append(listener)
    slots = _Slots(image.endpoints)
    services = (_service(image, rule, ports, slots) for rule, ports in listeners.items())
    return [service for service in services if service is not None]


class Adoption(NamedTuple):
    """What is made of an image: a ledger, operations that drop what belongs to no service, and what is left to plan.

    ``unsettled`` are the services that are not programmed as new ones would be: missing, changed, or with a past.
    """

    ledger: Ledger
    strays: Sequence[Op]
    unsettled: Sequence[Service]


def adopt(
    image: Image,
    limits: Limits,
    services: Iterable[Service],
    now: float = 0.0,
    *,
    sources: Sources = _NO_ADDRESSES,
    health: Health = ALL_UP,
) -> Adoption:
    """Take over ``image`` for ``services``; ``sources`` and ``health`` are those of the plans to come.

    Carry the operations out before the ledger is used. ``now`` is the time of its plans. A plan of a service that is
    not among the unsettled ones has nothing to do. Raises NotBuilt and InvalidRequest as they would.
    """
    asked, free = list(services), set(image.rules)
    image = replace(image, rules=RuleTable.of(image.rules), endpoints=EndpointTable.of(image.endpoints))
    for service in asked:
        check(service, limits)
    found = sorted(_found(image, asked, free), key=attrgetter("rule"))  # as the image has them
    slots = _Slots(image.endpoints)
    bases = RuleTable.of(image.rules).bases
    settled = dict[ServiceKey, Programmed]()
    for some in portions(found):
        settled |= _settled(image, some, slots, bases, sources, health)
    rest = {
        one.service.key: _programmed(image, one, slots.of(one.rule), now)
        for one in found
        if one.service.key not in settled
    }
    ledger = Ledger(limits, settled | rest)
    unsettled = [one for one in asked if one.key not in settled]
    # What is owned is in the image: where that has no more, there is no need to look which.
    owned = not free and slots.counts.keys() | image.sources.keys() <= image.rules.keys()
    whole = owned and len(image.listeners) == len(ledger.owners)
    return Adoption(ledger, [] if whole else list(strays(image, ledger.services.values())), unsettled)


class _Found(Struct, frozen=True, kw_only=True, gc=False):
    """A service, and the rule that is its own."""

    service: Service
    rule: RuleId
    listeners: tuple[Listener, ...]


def _found(image: Image, services: Sequence[Service], free: set[RuleId]) -> Iterator[_Found]:
    """Return those of ``services`` that have a rule, which is not ``free`` any more.

    Of several the first; where it is another service's already, this one has none.
    """
    led = image.listeners
    for service in services:
        listeners = listeners_of(service)
        if len(listeners) == 1:  # as most often
            rule = led.get(listeners[0])
        else:
            rule = min((one for listener in listeners if (one := led.get(listener)) in free), default=None)
        if rule in free:
            free.discard(rule)
            yield _Found(service=service, rule=rule, listeners=listeners)


class _Slots:
    """The slots that each rule has in an image."""

    def __init__(self, endpoints: Mapping[EndpointId, EndpointEntry]) -> None:
        self._table = EndpointTable.of(endpoints)
        self.counts = self._table.counts

    @cached_property
    def _by_rule(self) -> Mapping[RuleId, Sequence[EndpointId]]:
        slots: defaultdict[RuleId, list[EndpointId]] = defaultdict(list)
        for slot, rule in self._table.owners:
            slots[rule].append(slot)
        return slots

    def of(self, rule: RuleId) -> Sequence[EndpointId]:
        """Return those of a rule in ascending order."""
        return self._by_rule.get(rule, ()) if rule in self.counts else ()


def _settled(
    image: Image,
    found: Sequence[_Found],
    slots: _Slots,
    bases: Mapping[RuleId, int],
    sources: Sources,
    health: Health,
) -> dict[ServiceKey, Programmed]:
    """Return what is programmed just as it would be if it were new, in these places."""
    pairs = [(one, _places(image, one, slots)) for one in found]
    whole = [(one, ids) for one, ids in pairs if len(ids) == len(one.service.endpoints)]
    rules = [one.rule for one, _ in whole]
    wanted = as_new(
        [one.service for one, _ in whole],
        rules=rules,
        ids=[ids for _, ids in whole],
        listeners=[one.listeners for one, _ in whole],
        bases_of=lambda lengths: [bases[rule] if length else 0 for rule, length in zip(rules, lengths, strict=True)],
        sources=sources,
        health=health,
    )
    wrong = {one.rule for one in misfits(image, wanted)}
    return {one.service.key: one for one in wanted if one.rule not in wrong}


def _places(image: Image, one: _Found, slots: _Slots) -> tuple[EndpointId, ...]:
    """Return the slots of the endpoints, as far as these are all that the rule has: most often its ring is just them.

    That they are the rule's own is left to a comparison of all of them.
    """
    wanted, ring = len(one.service.endpoints), image.rings.get(one.rule, ())
    if slots.counts[one.rule] != wanted:
        return ()
    if len(ring) == wanted == len(set(ring)):
        return ring
    return _ids(in_rule_order(one.service.endpoints), _entries(image, slots.of(one.rule)))


def found_down(services: Iterable[Service], ledger: Ledger) -> frozenset[EndpointKey]:
    """Return the endpoints of ``services`` that take no new flow in an adopted ledger."""
    known = ((service, ledger.services[service.key]) for service in services if service.key in ledger.services)
    found = ((service, one.endpoints[slot]) for service, one in known for slot in one.ids)
    return frozenset(
        EndpointKey.of(service, Endpoint(address=entry.address, port=entry.port))
        for service, entry in found
        if not entry.takes_flows
    )


def _entries(image: Image, slots: Iterable[EndpointId]) -> dict[EndpointId, EndpointEntry]:
    return {slot: image.endpoints[slot] for slot in slots}


def _service(image: Image, rule: RuleId, listeners: list[Listener], slots: _Slots) -> Service | None:
    entry = image.rules.get(rule)
    primary = [one for one in listeners if not one.secondary] or listeners
    first = primary[0]
    allowed = image.sources.get(rule, frozenset()) if entry and entry.restricted else frozenset()
    if entry is None or (entry.restricted and not allowed):
        return None
    present = _in_ring_order(image, rule, slots)
    weights = _weights(image, rule, present)
    endpoints = [
        Endpoint(address=one.address, port=one.port, weight=weights.get(slot, 1)) for slot, one in present.items()
    ]
    try:
        return Service(
            key=ServiceKey(
                address=first.ip,
                protocol=L4Protocol(first.protocol),
                port=first.port,
                port_max=_last_port(primary),
                block=first.mark,
            ),
            secondary_addresses=tuple(dict.fromkeys(one.ip for one in listeners if one.secondary)),
            endpoints=in_rule_order(endpoints),
            mode=entry.mode,
            selection=entry.selection,
            inactive_timeout=entry.timeout,
            persist_timeout=0 if entry.persist == DEFAULT_PERSISTENCE_S else entry.persist,
            half_open_limit=entry.half_open_limit,
            allowed_sources=in_address_order(allowed),
            loss=_loss(_entries(image, slots.of(rule)).values()),
        )
    except InvalidRequest:
        return None


def _in_ring_order(image: Image, rule: RuleId, slots: _Slots) -> dict[EndpointId, EndpointEntry]:
    """Return the endpoints in the order in which they first take a flow; those that take none come last."""
    present = _kept(_entries(image, slots.of(rule)))
    ring = [slot for slot in dict.fromkeys(image.rings.get(rule, ())) if slot in present]
    return {slot: present[slot] for slot in (*ring, *sorted(present.keys() - set(ring)))}


def _loss(entries: Iterable[EndpointEntry]) -> LossPolicy:
    """Read from removed endpoints what becomes of them; without one, nothing tells."""
    removed = [entry.flags for entry in entries if EndpointFlags.REMOVED in entry.flags]
    timed = any(EndpointFlags.TIMED in flags for flags in removed)
    return (LossPolicy.DRAIN if timed else LossPolicy.KEEP) if removed else LossPolicy.RESET


def _weights(image: Image, rule: RuleId, present: Mapping[EndpointId, EndpointEntry]) -> dict[EndpointId, int]:
    """Read the weights of priority from the slice; endpoints that start slowly have fewer places than they deserve.

    One that takes no new flow now has no place to read; it must not come back as one that never takes any.
    """
    if image.rules[rule].selection is not Selection.PRIORITY:
        return {}
    places = Counter(image.rings.get(rule, ()))
    deserved = {slot: Fraction(places[slot], one.share) for slot, one in present.items() if one.takes_flows}
    scale = lcm(*(one.denominator for one in deserved.values()))
    whole = {slot: int(one * scale) for slot, one in deserved.items()}
    common = gcd(*whole.values()) or 1
    excess = max(1.0, max(whole.values(), default=0) / common / MAX_WEIGHT)
    return {slot: one and max(1, round(one / common / excess)) for slot, one in whole.items()}


def _kept(slots: Mapping[EndpointId, EndpointEntry]) -> dict[EndpointId, EndpointEntry]:
    return {slot: entry for slot, entry in slots.items() if not entry.is_removed}


def _last_port(listeners: list[Listener]) -> int:
    """Return the last port of the run that starts with the first listener."""
    last = listeners[0]
    for one, following in pairwise(listeners):
        if one._replace(port=one.port + 1) != following:
            break
        last = following
    return last.port


def _programmed(image: Image, found: _Found, slots: Sequence[EndpointId], now: float) -> Altered:
    """Return what is programmed of a service, as far as it is its own."""
    service, rule = found.service, found.rule
    policy, endpoints = Policy.of(service), _entries(image, slots)
    return Altered(
        rule=rule,
        entry=image.rules[rule],
        ring=image.rings.get(rule, ()),
        ids=_ids(in_rule_order(service.endpoints), endpoints),
        endpoints=endpoints,
        listeners=tuple(one for one in found.listeners if image.listeners.get(one) == rule),
        sources=image.sources.get(rule, _NO_SOURCES),
        policy=policy,
        stays={slot: adopted(policy, entry, now) for slot, entry in endpoints.items()},
    )


def _ids(ordered: Sequence[Endpoint], slots: Mapping[EndpointId, EndpointEntry]) -> tuple[EndpointId, ...]:
    """Return the slots that the endpoints have, those of equal ones in ascending order."""
    kept = _kept(slots)
    if are_of(ordered, kept.values()):
        return tuple(kept)
    queues: defaultdict[tuple[IPAddress, int], deque[EndpointId]] = defaultdict(deque)
    for slot, entry in kept.items():
        queues[entry.address, entry.port].append(slot)
    places = [queues[endpoint.address, endpoint.port] for endpoint in ordered]
    return tuple(place.popleft() for place in places if place)
