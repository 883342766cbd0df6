# SPDX-License-Identifier: Apache-2.0
"""From an observed image back to services, and to a ledger.

A daemon that starts finds what its predecessor programmed. What the image does not hold (name, monitor, the
public address in front of a private one, slow start) comes back with its default; the weights of priority come back
from the ring. Slots of removed endpoints that still have flows come back as such, and what becomes of them.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import compress, pairwise
from math import gcd, lcm

from loxilb.errors import InvalidRequest
from loxilb.model import Endpoint, IPAddress, IPNetwork, L4Protocol, LossPolicy, Selection, Service, ServiceKey
from loxilb.model.image import (
    DropEndpoint,
    DropListener,
    DropRule,
    DropSource,
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
from loxilb.plan.ledger import Ledger, Programmed
from loxilb.plan.planner import are_of, listeners_of
from loxilb.plan.pools import Limits
from loxilb.plan.selection import in_address_order, in_rule_order
from loxilb.plan.stay import Policy, adopted

_Slots = Mapping[RuleId, Mapping[EndpointId, EndpointEntry]]

_NO_SOURCES: frozenset[IPNetwork] = frozenset()


def recover(image: Image) -> list[Service]:
    """Return the services that ``image`` carries out; what makes no whole service is left out."""
    listeners: defaultdict[RuleId, list[Listener]] = defaultdict(list)
    for listener, rule in sorted(image.listeners.items()):
        listeners[rule].append(listener)
    slots = _slots(image)
    services = (_service(image, rule, ports, slots) for rule, ports in listeners.items())
    return [service for service in services if service is not None]


def adopt(image: Image, limits: Limits, services: Iterable[Service], now: float = 0.0) -> tuple[Ledger, list[Op]]:
    """Return the ledger of ``image`` for ``services``, and operations that drop what belongs to none.

    Carry the operations out before the ledger is used. ``now`` is the time of its plans.
    """
    slots = _slots(image)
    programmed: dict[ServiceKey, Programmed] = {}
    for service in services:
        one = _programmed(image, service, slots, now)
        if one is not None:
            programmed[service.key] = one
    return Ledger(limits, programmed), _strays(image, slots, programmed.values())


def found_down(services: Iterable[Service], ledger: Ledger) -> frozenset[EndpointKey]:
    """Return the endpoints that take no new flow in an adopted ledger."""
    known = ((service, ledger.services[service.key]) for service in services if service.key in ledger.services)
    found = ((service, one.endpoints[slot]) for service, one in known for slot in one.ids)
    return frozenset(
        EndpointKey.of(service, Endpoint(address=entry.address, port=entry.port))
        for service, entry in found
        if not entry.takes_flows
    )


def _slots(image: Image) -> _Slots:
    slots: defaultdict[RuleId, dict[EndpointId, EndpointEntry]] = defaultdict(dict)
    for slot, entry in sorted(image.endpoints.items()):
        slots[entry.rule][slot] = entry
    return slots


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
            loss=_loss(slots.get(rule, {}).values()),
        )
    except InvalidRequest:
        return None


def _in_ring_order(image: Image, rule: RuleId, slots: _Slots) -> dict[EndpointId, EndpointEntry]:
    """Return the endpoints in the order in which they first take a flow; those that take none come last."""
    present = _kept(slots.get(rule, {}))
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


def _programmed(image: Image, service: Service, slots: _Slots, now: float) -> Programmed | None:
    wanted = listeners_of(service)
    leads_to = [image.listeners.get(one) for one in wanted]
    known = [rule for rule in leads_to if rule is not None and rule in image.rules]
    if not known:
        return None
    rule = min(known)
    policy, endpoints = Policy.of(service), slots.get(rule, {})
    return Programmed(
        rule=rule,
        entry=image.rules[rule],
        ring=image.rings.get(rule, ()),
        ids=_ids(in_rule_order(service.endpoints), endpoints),
        endpoints=endpoints,
        listeners=frozenset(compress(wanted, [one == rule for one in leads_to])),
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


def _strays(image: Image, slots: _Slots, programmed: Iterable[Programmed]) -> list[Op]:
    kept = {one.rule: one for one in programmed}
    return [
        *(DropListener(listener=one) for one in sorted(_stray_listeners(image, kept.values()))),
        *(DropRule(rule=one) for one in sorted(image.rules.keys() - kept.keys())),
        *(
            DropSource(rule=rule, network=one)
            for rule, networks in sorted(image.sources.items())
            if rule not in kept
            for one in in_address_order(networks)
        ),
        *(
            DropEndpoint(endpoint=one)
            for one in sorted(one for rule in slots.keys() - kept.keys() for one in slots[rule])
        ),
    ]


def _stray_listeners(image: Image, kept: Collection[Programmed]) -> Collection[Listener]:
    # Each leads to one rule, so that none is counted twice: where there are no more, there is no need to look which.
    if len(image.listeners) == sum(len(one.listeners) for one in kept):
        return ()
    return image.listeners.keys() - {listener for one in kept for listener in one.listeners}
