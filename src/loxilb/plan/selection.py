# SPDX-License-Identifier: Apache-2.0
"""From the endpoints of a service to its slice of the ring."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address
from itertools import accumulate
from operator import le

from loxilb.model import Endpoint, IPNetwork, Selection
from loxilb.model.image import FULL_SHARE, EndpointId
from loxilb.plan.maglev import maglev_table
from loxilb.plan.smooth import slot_counts, smooth_sequence

_NOWHERE = -1


def in_rule_order(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Return the endpoints in the order in which a rule keeps them and round robin takes them.

    IPv4 endpoints are sorted by the address read as a little-endian integer, then by port; among equals, and
    for IPv6, the given order stays.
    """
    places = list(map(_place_of, endpoints))
    if _NOWHERE in places or places == sorted(places):
        return tuple(endpoints)
    return tuple(sorted(endpoints, key=_place_of))


def all_in_rule_order(many: Sequence[tuple[Endpoint, ...]]) -> Sequence[tuple[Endpoint, ...]]:
    """Return the endpoints of many services in rule order; nearly all are, as that is how they are kept."""
    places = [_place_of(endpoint) for endpoints in many for endpoint in endpoints]
    rising = [True, *map(le, places, places[1:])]
    for first in accumulate(map(len, many[:-1])):
        rising[first] = True
    return many if all(rising) else list(map(in_rule_order, many))


def in_address_order(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """Return the networks sorted by address and length, each once."""
    return tuple(sorted(set(networks), key=lambda one: (int(one.network_address), one.prefixlen)))


@lru_cache(maxsize=1 << 16)
def _place_of(endpoint: Endpoint) -> int:
    """Return what IPv4 endpoints are sorted by; an IPv6 one has no place among them."""
    address = endpoint.address
    return int.from_bytes(address.packed, "little") << 16 | endpoint.port if type(address) is IPv4Address else _NOWHERE


def identities(endpoints: Sequence[Endpoint]) -> list[bytes]:
    """Return what a hash knows an endpoint by: its address and port."""
    return [endpoint.address.packed + endpoint.port.to_bytes(2, "big") for endpoint in endpoints]


def _in_turn(endpoints: Sequence[Endpoint], _shares: Sequence[int]) -> Sequence[int]:
    return range(len(endpoints))


def _round_robin(endpoints: Sequence[Endpoint], shares: Sequence[int]) -> Sequence[int]:
    return _in_turn(endpoints, shares) if len(set(shares)) <= 1 else smooth_sequence(slot_counts(shares))


def _hash(endpoints: Sequence[Endpoint], _shares: Sequence[int]) -> list[int]:
    return maglev_table(identities(endpoints))


def _priority(endpoints: Sequence[Endpoint], shares: Sequence[int]) -> list[int]:
    members = [position for position, endpoint in enumerate(endpoints) if endpoint.weight]
    if not members:
        return []
    counts = slot_counts([endpoints[member].weight * shares[member] for member in members])
    return [members[position] for position in smooth_sequence(counts)]


_SELECTIONS: Mapping[Selection, Callable[[Sequence[Endpoint], Sequence[int]], Sequence[int]]] = {
    Selection.RR: _round_robin,
    Selection.HASH: _hash,
    Selection.PRIORITY: _priority,
    Selection.PERSIST: _in_turn,
    Selection.LC: _in_turn,
}


_IN_TURN = frozenset((Selection.RR, Selection.PERSIST, Selection.LC))
"""Those that take all endpoints in turn while none starts slowly."""


def ring_of(
    selection: Selection, endpoints: Sequence[Endpoint], ids: Sequence[EndpointId], shares: Sequence[int] = ()
) -> tuple[EndpointId, ...]:
    """Return the slice for ``endpoints`` (in rule order) whose ids are ``ids``.

    Only priority heeds the weights: it gives each endpoint its weight's share and weight 0 no new flow. Clients send
    any weight with the others, zero included, and expect equal shares. Persist takes turns for clients that are new,
    lc looks through the slice and takes the first of several with the fewest flows.

    ``shares`` (in FULL_SHARE parts; all in full unless given) are those of endpoints that start slowly: rr and priority
    put them less often into the slice, lc heeds the shares in the entries of the endpoints.
    """
    if not shares and selection in _IN_TURN:  # as most often
        return tuple(ids)
    places = _SELECTIONS[selection](endpoints, shares or [FULL_SHARE] * len(endpoints))
    return tuple(map(ids.__getitem__, places))
