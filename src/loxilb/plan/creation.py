# SPDX-License-Identifier: Apache-2.0
"""How services are programmed that are new: many at once."""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from types import MappingProxyType

from loxilb.model import Endpoint, IPAddress, Mode, Selection, Service
from loxilb.model.image import FULL_SHARE, EndpointId, Listener, RuleId
from loxilb.model.probe import Availability, EndpointKey
from loxilb.plan import stay as stays_of
from loxilb.plan.programmed import ALL_WELL, UNROUTED, AsNew
from loxilb.plan.selection import all_in_rule_order, ring_of
from loxilb.plan.stay import Policy, Stay

Sources = Mapping[IPAddress, IPAddress]
Health = Mapping[EndpointKey, Availability]

ALL_UP: Health = MappingProxyType({})
_ONEARM, _RR = Mode.ONEARM, Selection.RR  # members of an Enum are slow to name


def as_new(
    services: Sequence[Service],
    *,
    rules: Sequence[RuleId],
    ids: Sequence[tuple[EndpointId, ...]],
    listeners: Sequence[tuple[Listener, ...]],
    bases_of: Callable[[Sequence[int]], Sequence[int]],
    sources: Sources,
    health: Health,
) -> list[AsNew]:
    """Say how services are programmed that are new: what a change would make of them, without a past.

    ``ids`` are for the endpoints of each in rule order; ``bases_of`` says where slices of such lengths begin.
    """
    ordered = all_in_rule_order([one.endpoints for one in services])
    places = zip(services, ids, ordered, strict=True)
    unwell = [_unwell(*one, health) for one in places] if health else [ALL_WELL] * len(ids)
    rings = [
        # As most often, ring_of says so too.
        slots if service.selection is _RR and not ill else _first_ring(service, slots, endpoints, ill)
        for service, slots, endpoints, ill in zip(services, ids, ordered, unwell, strict=True)
    ]
    return [
        AsNew(
            service=service,
            ordered=endpoints,
            rule=rule,
            ids=slots,
            ring=ring,
            base=base,
            listeners=led,
            unwell=ill,
            routed=_routed(slots, endpoints, sources) if service.mode is _ONEARM else UNROUTED,
        )
        for service, endpoints, rule, slots, ring, base, led, ill in zip(
            services, ordered, rules, ids, rings, bases_of(list(map(len, rings))), listeners, unwell, strict=True
        )
    ]


def _unwell(
    service: Service, ids: Sequence[EndpointId], ordered: Sequence[Endpoint], health: Health
) -> dict[EndpointId, Stay]:
    """Return the stays of endpoints of a new service that are not up: as if they had always been so."""
    policy = Policy.of(service)
    found = {slot: health_of(service, endpoint, health) for slot, endpoint in zip(ids, ordered, strict=True)}
    return {
        slot: stays_of.present(state, policy, None, -inf)
        for slot, state in found.items()
        if state is not Availability.UP
    }


def _first_ring(
    service: Service, ids: tuple[EndpointId, ...], ordered: Sequence[Endpoint], unwell: Mapping[EndpointId, Stay]
) -> tuple[EndpointId, ...]:
    if not unwell:
        return ring_of(service.selection, ordered, ids)
    return slice_of(service, ordered, ids, [0 if slot in unwell else FULL_SHARE for slot in ids])


def _routed(ids: Sequence[EndpointId], ordered: Sequence[Endpoint], sources: Sources) -> dict[EndpointId, IPAddress]:
    pairs = zip(ids, ordered, strict=True)
    return {slot: sources[endpoint.address] for slot, endpoint in pairs if endpoint.address in sources}


def health_of(service: Service, endpoint: Endpoint, health: Health) -> Availability:
    """Return what is known of an endpoint."""
    return health.get(EndpointKey.of(service, endpoint), Availability.UP) if health else Availability.UP


def slice_of(
    service: Service, ordered: Sequence[Endpoint], ids: Sequence[EndpointId], shares: Sequence[int]
) -> tuple[EndpointId, ...]:
    """Return the slice for the endpoints with a share of new flows; most often that is all of them."""
    if all(shares):
        return ring_of(service.selection, ordered, ids, shares)
    up = [place for place, share in enumerate(shares) if share]
    return ring_of(
        service.selection,
        [ordered[place] for place in up],
        [ids[place] for place in up],
        [shares[place] for place in up],
    )
