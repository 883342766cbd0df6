# SPDX-License-Identifier: Apache-2.0
"""How one service is programmed: as a new one is, or otherwise.

Of a new service nearly all follows from the service itself and its places in the data plane. There may be very many of
them, so that is worked out when somebody asks, and for all of them at once where they are written or compared
(``columns``).
"""

from collections.abc import Collection, Mapping
from math import inf
from types import MappingProxyType

from msgspec import Struct, structs

from loxilb.model import Endpoint, IPAddress, IPNetwork, Mode, Service
from loxilb.model.image import EndpointEntry, EndpointFlags, EndpointId, Listener, RuleEntry, RuleId
from loxilb.plan.pools import Slice
from loxilb.plan.stay import ALWAYS, FLAGS, PLAIN, Policy, Stay, next_change

ALL_WELL: Mapping[EndpointId, Stay] = MappingProxyType({})
UNROUTED: Mapping[EndpointId, IPAddress] = MappingProxyType({})
_FULLNAT = Mode.FULLNAT  # members of an Enum are slow to name


class AsNew(Struct, frozen=True, kw_only=True, gc=False):
    """A service programmed as a new one: ``ids`` are the slots of ``ordered``, its endpoints in rule order.

    ``ring`` is its slice, from slot ``base`` of the ring on. ``unwell`` has the stays of endpoints that health knows to
    be anything but up, ``routed`` the sources that routes have given them.
    """

    service: Service
    ordered: tuple[Endpoint, ...]
    rule: RuleId
    ids: tuple[EndpointId, ...]
    ring: tuple[EndpointId, ...]
    base: int
    listeners: tuple[Listener, ...]
    unwell: Mapping[EndpointId, Stay] = ALL_WELL
    routed: Mapping[EndpointId, IPAddress] = UNROUTED

    @property
    def entry(self) -> RuleEntry:
        """The rule."""
        return rule_entry(self.service, self.slice)

    @property
    def endpoints(self) -> Mapping[EndpointId, EndpointEntry]:
        """The entry of each slot."""
        rule, source = self.rule, self.source
        if not self.unwell and not self.routed:
            return {
                slot: EndpointEntry(rule=rule, address=one.address, port=one.port, source=source)
                for slot, one in zip(self.ids, self.ordered, strict=True)
            }
        stays = self.stays
        return {
            slot: EndpointEntry(
                rule=rule,
                address=one.address,
                port=one.port,
                source=self.routed.get(slot, source),
                flags=FLAGS[stays[slot].phase],
            )
            for slot, one in zip(self.ids, self.ordered, strict=True)
        }

    @property
    def source(self) -> IPAddress | None:
        """What its endpoints see as the source, where no route says otherwise: None stands for the client."""
        return self.service.data_address if self.service.mode is _FULLNAT else None

    @property
    def slots(self) -> Collection[EndpointId]:
        """Every slot it has."""
        return self.ids

    @property
    def sources(self) -> frozenset[IPNetwork]:
        """Who may use it; nobody named means everybody."""
        return frozenset(self.service.allowed_sources)

    @property
    def has_sources(self) -> bool:
        """Whether only those may use it that are named."""
        return bool(self.service.allowed_sources)

    @property
    def policy(self) -> Policy:
        """What becomes of endpoints that are lost or new."""
        return Policy.of(self.service)

    @property
    def stays(self) -> Mapping[EndpointId, Stay]:
        """What each slot does, and since when."""
        return {**dict.fromkeys(self.ids, ALWAYS), **self.unwell}

    @property
    def slice(self) -> Slice:
        """The slots of the ring that the rule points to."""
        return Slice(self.base, len(self.ring))

    @property
    def leaving(self) -> tuple[EndpointId, ...]:
        """No slot of a removed endpoint."""
        return ()

    @property
    def next_change(self) -> float:
        """Time alone changes nothing of it."""
        return inf

    @property
    def restless(self) -> bool:
        """Nor does it have to be looked at again."""
        return False

    @property
    def spelled_out(self) -> "Altered":
        """The same with all that follows said."""
        return Altered(
            rule=self.rule,
            entry=self.entry,
            ring=self.ring,
            ids=self.ids,
            endpoints=self.endpoints,
            listeners=self.listeners,
            policy=self.policy,
            sources=self.sources,
            stays=self.stays,
        )

    def moved(self, base: int) -> "AsNew":
        """Return the same with its slice elsewhere."""
        return structs.replace(self, base=base)


class Altered(Struct, frozen=True, kw_only=True, gc=False):
    """A service that was changed since it was new, or found so; ``ids`` names its endpoints' slots in rule order.

    ``endpoints`` has the slots of removed endpoints too, while they have flows. ``stays`` says since when each slot
    does what it does; the kernel does not know it.
    """

    rule: RuleId
    entry: RuleEntry
    ring: tuple[EndpointId, ...]
    ids: tuple[EndpointId, ...]
    endpoints: Mapping[EndpointId, EndpointEntry]
    listeners: tuple[Listener, ...]
    policy: Policy
    sources: frozenset[IPNetwork]
    stays: Mapping[EndpointId, Stay]

    @property
    def has_sources(self) -> bool:
        """Whether only those may use it that are named."""
        return bool(self.sources)

    @property
    def slots(self) -> Collection[EndpointId]:
        """Every slot it has."""
        return self.endpoints

    @property
    def base(self) -> int:
        """The first slot of its slice of the ring."""
        return self.entry.ring_base

    @property
    def slice(self) -> Slice:
        """The slots of the ring that the rule points to."""
        return Slice(self.entry.ring_base, self.entry.ring_length)

    @property
    def leaving(self) -> tuple[EndpointId, ...]:
        """The slots of removed endpoints, which are kept for their flows."""
        if len(self.endpoints) == len(self.ids):
            return ()
        return tuple(slot for slot, entry in self.endpoints.items() if EndpointFlags.REMOVED in entry.flags)

    @property
    def next_change(self) -> float:
        """When the time alone will change it; infinity where it will not."""
        if self.policy is PLAIN:
            return inf
        times = (next_change(self.policy, stay, self.endpoints[slot]) for slot, stay in self.stays.items())
        return min(times, default=inf)

    @property
    def restless(self) -> bool:
        """Whether it has to be looked at again, for its time or its flows."""
        return bool(self.leaving) or (self.policy is not PLAIN and self.next_change < inf)

    @property
    def spelled_out(self) -> "Altered":
        """The same."""
        return self

    def moved(self, base: int) -> "Altered":
        """Return the same with its slice elsewhere."""
        return structs.replace(self, entry=structs.replace(self.entry, ring_base=base))


Programmed = AsNew | Altered
"""One service as programmed."""


def listeners_of(service: Service) -> tuple[Listener, ...]:
    """Return the listeners of a service: one for each of its addresses and ports."""
    key = service.key
    if key.port == key.port_max and not service.secondary_addresses:
        return (Listener.primary(service.data_address, key.protocol, key.port, key.block),)
    addresses = (service.data_address, *service.secondary_addresses)
    return tuple(
        Listener.of(address, key.protocol, port, mark=key.block, secondary=bool(place))
        for place, address in enumerate(addresses)
        for port in range(key.port, key.port_max + 1)
    )


def rule_entry(service: Service, place: Slice) -> RuleEntry:
    """Return the rule of a service whose slice is at ``place``."""
    return RuleEntry(
        mode=service.mode,
        selection=service.selection,
        timeout=service.timeout,
        ring_base=place.base,
        ring_length=place.length,
        persist=service.persistence,
        restricted=bool(service.allowed_sources),
        half_open_limit=service.half_open_limit,
    )
