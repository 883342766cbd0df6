# SPDX-License-Identifier: Apache-2.0
"""Desired services and what is programmed, to operations.

The order of the operations keeps every moment right for packets on their way: endpoints and the new slice of the
ring are written before the rule points to them, its allowed sources before it asks for them, the rule before a
listener leads to it; what nobody names any more is dropped last. A plan costs in proportion to the change, however
many services there are.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter

from msgspec import structs

from loxilb.errors import Conflict, InvalidRequest
from loxilb.model import Endpoint, IPAddress, LossPolicy, Mode, Service, ServiceKey
from loxilb.model.image import (
    FULL_SHARE,
    DropEndpoint,
    DropRule,
    DropSource,
    EndpointEntry,
    EndpointFlags,
    EndpointId,
    Listener,
    PutEndpoint,
    PutRing,
    PutRule,
    PutSource,
)
from loxilb.plan import stay as stays_of
from loxilb.plan.creation import ALL_UP, Health, Sources, as_new, health_of, slice_of
from loxilb.plan.draft import Draft, Plan
from loxilb.plan.ledger import Ledger, places
from loxilb.plan.pools import Limits, exhausted
from loxilb.plan.programmed import Altered, Programmed, listeners_of, rule_entry
from loxilb.plan.selection import in_address_order, in_rule_order
from loxilb.plan.stay import FLAGS, Phase, Policy, Stay
from loxilb.plan.support import check_supported

# Members of an Enum are slow to name; there may be very many services.
_FULLNAT, _ONEARM = Mode.FULLNAT, Mode.ONEARM


def plan(
    changes: Mapping[ServiceKey, Service | None],
    ledger: Ledger,
    sources: Sources,
    health: Health = ALL_UP,
    *,
    now: float = 0.0,
    without_flows: Collection[EndpointId] = (),
) -> Plan:
    """Plan how to get from what ``ledger`` says to ``changes`` (None: delete); the rest stays as it is.

    ``sources`` has this host's address towards each endpoint of a onearm service. An endpoint without one is
    programmed without a source, so that a service may come before its route; plan again when routes change.
    ``health`` names the endpoints that are not up: they keep slot and counters and get no new flow. ``now`` is in
    seconds of a clock that only goes forward. Slots of removed endpoints stay while their service's policy says so,
    unless ``without_flows`` names them.

    Raises NotBuilt (a field that the data plane cannot honour), Conflict (a port that another service listens
    on) and InvalidRequest (a limit is reached); the ledger is then as before.
    """
    draft = Draft(ledger=ledger, sources=sources, health=health, now=now, without_flows=without_flows)
    try:
        _plan_all(draft, changes)
        _check_listeners(draft)
        _check_sources(draft)
    except InvalidRequest:
        ledger.give(draft.taken)
        raise
    return draft.finish()


def _plan_all(draft: Draft, changes: Mapping[ServiceKey, Service | None]) -> None:
    """Plan each; an error says which service it is about."""
    key, present, new = None, draft.ledger.services, list[Service]()
    try:
        for key, service in changes.items():
            if service is not None:
                check(service, draft.ledger.limits)
            before = present.get(key)
            if before is not None:
                _plan_one(draft, key, service, before)
            elif service is not None:
                new.append(service)
    except InvalidRequest as error:
        error.about = key
        raise
    _create(draft, new)


def check(service: Service, limits: Limits) -> None:
    """Raise NotBuilt or InvalidRequest for a service that cannot be programmed, whatever else is."""
    check_supported(service)
    if len(service.endpoints) > limits.service_endpoints:
        cause = f"{len(service.endpoints)} of at most {limits.service_endpoints}"
        raise InvalidRequest("endpoints-range error", field="endpoints", cause=cause)


def _plan_one(draft: Draft, key: ServiceKey, service: Service | None, before: Programmed) -> None:
    if service is None:
        _drop(draft, before)
        draft.after[key] = None
        return
    after, before = _program(draft, service, before), before.spelled_out
    if after != before:
        _put(draft, before, after)
        draft.after[key] = after


def _create(draft: Draft, services: Sequence[Service]) -> None:
    """Plan services that are new: all of them is written. An error says which it is about."""
    ledger, taken = draft.ledger, draft.taken
    try:
        draft.new += as_new(
            services,
            rules=ledger.take_rules(taken, len(services)),
            ids=ledger.take_endpoints(taken, [len(one.endpoints) for one in services]),
            listeners=[listeners_of(one) for one in services],
            bases_of=lambda lengths: ledger.take_slices(taken, lengths),
            sources=draft.sources,
            health=draft.health,
        )
    except InvalidRequest as error:
        error.about, error.index = services[error.index or 0].key, None
        raise
    draft.after.update((one.service.key, one) for one in draft.new)


def _program(draft: Draft, service: Service, before: Programmed) -> Altered:
    """Say how ``service`` is to be programmed from now on, with the ids and the slice of ``before`` where they fit."""
    ordered = in_rule_order(service.endpoints)
    rule, policy = before.rule, Policy.of(service)
    ids = _endpoint_ids(draft, ordered, before)
    stays = _stays(draft, service, policy, dict(zip(ids, ordered, strict=True)), before)
    shares = [stays_of.share(policy, stays[slot], draft.now) for slot in ids]
    taking = [share if stays[slot].phase is Phase.TAKING else 0 for slot, share in zip(ids, shares, strict=True)]
    ring = slice_of(service, ordered, ids, taking)
    place = before.slice if before.ring == ring else draft.ledger.take_slice(draft.taken, len(ring))
    present = {
        slot: EndpointEntry(
            rule=rule,
            address=endpoint.address,
            port=endpoint.port,
            source=_source(service, endpoint, draft.sources),
            flags=FLAGS[stays[slot].phase],
            share=share,
        )
        for slot, endpoint, share in zip(ids, ordered, shares, strict=True)
    }
    return Altered(
        rule=rule,
        entry=rule_entry(service, place),
        ring=ring,
        ids=ids,
        endpoints=present | _removed_entries(policy, stays, ids, before),
        listeners=listeners_of(service),
        sources=frozenset(service.allowed_sources),
        policy=policy,
        stays=stays,
    )


def _stays(
    draft: Draft, service: Service, policy: Policy, endpoints: Mapping[EndpointId, Endpoint], before: Programmed
) -> dict[EndpointId, Stay]:
    """Say what each slot does from now on, those of removed endpoints last."""
    old, always = before.stays, dict.fromkeys(endpoints, stays_of.ALWAYS)
    if not draft.health and old == always:  # as of nearly all when a daemon starts
        return always
    stays = {
        slot: stays_of.present(health_of(service, endpoint, draft.health), policy, old.get(slot), draft.now)
        for slot, endpoint in endpoints.items()
    }
    for slot in old.keys() - endpoints.keys() - set(draft.without_flows):
        stay = stays_of.removed(policy, old[slot], draft.now)
        if stay is not None:
            stays[slot] = stay
    return stays


def _removed_entries(
    policy: Policy, stays: Mapping[EndpointId, Stay], ids: Collection[EndpointId], before: Programmed
) -> dict[EndpointId, EndpointEntry]:
    if len(stays) == len(ids):
        return {}
    timed = EndpointFlags.TIMED if policy.loss is LossPolicy.DRAIN else EndpointFlags.NONE
    flags = FLAGS[Phase.LEAVING] | EndpointFlags.REMOVED | timed
    old = before.endpoints
    return {slot: structs.replace(old[slot], flags=flags, share=FULL_SHARE) for slot in sorted(stays.keys() - set(ids))}


def _source(service: Service, endpoint: Endpoint, sources: Sources) -> IPAddress | None:
    if service.mode is _FULLNAT:
        return service.data_address
    return sources.get(endpoint.address) if service.mode is _ONEARM else None


def _endpoint_ids(draft: Draft, ordered: Sequence[Endpoint], before: Programmed) -> tuple[EndpointId, ...]:
    """Give each endpoint the slot it has, or a new one.

    Equal endpoints hold their slots in ascending order, so that a ledger read back from the kernel agrees. One that was
    removed and still has flows is taken back with them.
    """
    if _unchanged(ordered, before):
        return before.ids
    present: defaultdict[tuple[IPAddress, int], list[EndpointId]] = defaultdict(list)
    for slot, entry in sorted(before.endpoints.items(), key=itemgetter(0)):
        present[entry.address, entry.port].append(slot)
    wanted: defaultdict[tuple[IPAddress, int], list[EndpointId]] = defaultdict(list)
    for endpoint in ordered:
        old = present[endpoint.address, endpoint.port]
        slot = old.pop(0) if old else draft.ledger.take_endpoint(draft.taken)
        wanted[endpoint.address, endpoint.port].append(slot)
    queues = {place: deque(sorted(slots)) for place, slots in wanted.items()}
    return tuple(queues[endpoint.address, endpoint.port].popleft() for endpoint in ordered)


def _unchanged(ordered: Sequence[Endpoint], before: Programmed) -> bool:
    """Tell of a service that has just these endpoints, as nearly all of them when a daemon starts."""
    same = len(before.ids) == len(before.endpoints)
    return same and are_of(ordered, [before.endpoints[slot] for slot in before.ids])


def are_of(ordered: Sequence[Endpoint], entries: Collection[EndpointEntry]) -> bool:
    """Tell whether ``entries`` are those of just these endpoints, in their order."""
    # Lists, as they compare what is one object in no time.
    return [(one.address, one.port) for one in ordered] == [(one.address, one.port) for one in entries]


def _put(draft: Draft, before: Programmed, after: Programmed) -> None:
    _put_endpoints(draft, before, after)
    _put_sources(draft, before, after)
    if before.ring != after.ring:
        if after.ring:
            draft.first.append(PutRing(base=after.entry.ring_base, endpoints=after.ring))
        draft.freed.slices.append(before.slice)
    if before.entry != after.entry:
        draft.first.append(PutRule(rule=after.rule, entry=after.entry, fresh=False))
    _put_losses(draft, before, after)
    old, new = set(before.listeners), set(after.listeners)
    draft.listeners.update((listener, after.rule) for listener in sorted(new - old))
    draft.gone.extend(sorted(old - new))
    for slot in before.endpoints:
        if slot not in after.endpoints:
            draft.last.append(DropEndpoint(endpoint=slot))
            draft.freed.endpoints.append(slot)


def _put_endpoints(draft: Draft, before: Programmed, after: Programmed) -> None:
    for slot, entry in after.endpoints.items():
        old = before.endpoints.get(slot)
        if old is None or (old != entry and not _loses(old, entry)):
            draft.first.append(PutEndpoint(endpoint=slot, entry=entry, fresh=old is None))


def _put_sources(draft: Draft, before: Programmed, after: Programmed) -> None:
    """Let new sources in before the rule asks for them; old ones stay until it has changed."""
    added, removed = in_address_order(after.sources - before.sources), in_address_order(before.sources - after.sources)
    draft.first.extend(PutSource(rule=after.rule, network=one) for one in added)
    draft.last.extend(DropSource(rule=after.rule, network=one) for one in removed)


def _put_losses(draft: Draft, before: Programmed, after: Programmed) -> None:
    """Endpoints lose something only after the rule has stopped to need it."""
    for slot, entry in after.endpoints.items():
        old = before.endpoints.get(slot)
        if old is not None and old != entry and _loses(old, entry):
            draft.first.append(PutEndpoint(endpoint=slot, entry=entry, fresh=False))


def _loses(old: EndpointEntry, entry: EndpointEntry) -> bool:
    """Tell whether the slice of before needs ``old``: that it takes flows, or a source that it has.

    An endpoint that took no flow is in no slice, so all of its new entry may come first.
    """
    return old.takes_flows and (not entry.takes_flows or entry.source is None)


def _drop(draft: Draft, before: Programmed) -> None:
    draft.gone.extend(sorted(before.listeners))
    draft.last.append(DropRule(rule=before.rule))
    draft.last.extend(DropSource(rule=before.rule, network=one) for one in in_address_order(before.sources))
    draft.last.extend(DropEndpoint(endpoint=slot) for slot in before.endpoints)
    draft.freed.rules.append(before.rule)
    draft.freed.endpoints.extend(before.endpoints)
    draft.freed.slices.append(before.slice)


def _check_listeners(draft: Draft) -> None:
    """Refuse a listener of two services (those that leave it now do not count), and too many."""
    ledger, owners = draft.ledger, draft.ledger.owners
    claimed = [listener for after in draft.after.values() if after for listener in after.listeners]
    new = set(claimed)  # as nearly all are where there are many
    if len(new) < len(claimed) or not owners.keys().isdisjoint(new):
        _check_claims(draft.after, owners)
        new.difference_update([listener for listener in claimed if listener in owners])
    added, gone = sum(map(places, new)), sum(map(places, draft.dropped))
    if ledger.places + added - gone > ledger.limits.listeners:
        raise exhausted("listeners (one a port, two with a mark)", ledger.limits.listeners)


def _check_claims(planned: Mapping[ServiceKey, Programmed | None], owners: Mapping[Listener, ServiceKey]) -> None:
    """Refuse the first listener that two services claim, or that one has which is not planned anew."""
    claimed: dict[Listener, ServiceKey] = {}
    for listener, key in ((listener, key) for key, after in planned.items() if after for listener in after.listeners):
        owner = claimed.setdefault(listener, key)
        if owner is key and listener in owners:
            owner = key if owners[listener] in planned else owners[listener]
        if owner is not key:
            raise _taken(listener, owner, key)


def _check_sources(draft: Draft) -> None:
    """Refuse too many; new ones come before old ones go, so both count."""
    added = sum([len(one.sources) for one in draft.new]) + sum(isinstance(op, PutSource) for op in draft.first)
    limit = draft.ledger.limits.sources
    if added and draft.ledger.sources + added > limit:
        raise exhausted("allowed sources", limit)


def _taken(listener: Listener, owner: ServiceKey, key: ServiceKey) -> Conflict:
    error = Conflict(
        "lbrule-exists error",
        field="port",
        cause=f"port {listener.port}/{listener.protocol} belongs to the service "
        f"{owner.address} {owner.port}-{owner.port_max}",
    )
    error.about = key
    return error
