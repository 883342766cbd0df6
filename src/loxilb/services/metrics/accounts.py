# SPDX-License-Identifier: Apache-2.0
"""Totals by service and endpoint: counters that only grow, whatever becomes of the slots they are counted in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loxilb.model import Counter, L4Protocol, Service
from loxilb.model.image import EndpointEntry, EndpointId
from loxilb.ports import Account, FlowCount
from loxilb.proto.metrics import labelled

MAX_SERVICES = 10_000
MAX_PLACES = 20_000
OTHER = "other"
_WORD = 1 << 32
_NOTHING = Counter()
_NO_FLOWS = FlowCount(0, 0)


@dataclass(slots=True)
class Total:
    """Traffic and flows so far; ``active`` are the flows of now."""

    packets: int = 0
    bytes: int = 0
    opened: int = 0
    active: int = 0


@dataclass(slots=True, kw_only=True)
class _Slot:
    """Whose a slot is, the totals it counts for, and what it showed last."""

    service: Service
    entry: EndpointEntry
    labels: str
    owner: str
    totals: tuple[Total, Total, Total]
    counter: Counter = _NOTHING
    opened: int = 0

    def count(self, counter: Counter, flows: FlowCount) -> None:
        """Add what came since the last time; a slot that shows less than before has started again from zero."""
        before, first = self.counter, self.opened
        if counter.bytes < before.bytes:
            before, first = _NOTHING, 0
        active, opened = flows
        packets, size, new = counter.packets - before.packets, counter.bytes - before.bytes, (opened - first) % _WORD
        for total in self.totals:
            total.packets += packets
            total.bytes += size
            total.opened += new
            total.active += active
        self.counter, self.opened = counter, opened


@dataclass(slots=True)
class Accounts:
    """Totals of now. A name is the service's, or its address, port and protocol.

    At most so many services and endpoints have totals of their own; the others share the name ``other``, and the sums
    over all stay right. ``shares`` says which service an endpoint's labels belong to.
    """

    max_services: int = MAX_SERVICES
    max_places: int = MAX_PLACES
    protocols: dict[L4Protocol, Total] = field(default_factory=lambda: {one: Total() for one in L4Protocol})
    services: dict[str, Total] = field(default_factory=dict)
    places: dict[str, Total] = field(default_factory=dict)
    shares: dict[str, str] = field(default_factory=dict)
    _slots: dict[EndpointId, _Slot] = field(default_factory=dict)

    def follow(
        self,
        accounts: Sequence[Account],
        counters: Mapping[EndpointId, Counter],
        flows: Mapping[EndpointId, FlowCount],
    ) -> None:
        """Add what was counted since the last time."""
        for total in (*self.protocols.values(), *self.services.values(), *self.places.values()):
            total.active = 0
        seen: dict[EndpointId, _Slot] = {}
        for service, slots in accounts:
            for number, entry in slots.items():
                slot = self._slots.get(number)
                if slot is None or slot.entry != entry or slot.service is not service:
                    slot = self._assigned(service, entry, slot)
                slot.count(counters.get(number, _NOTHING), flows.get(number, _NO_FLOWS))
                seen[number] = slot
        self._slots = seen
        self._forget()

    def _assigned(self, service: Service, entry: EndpointEntry, last: _Slot | None) -> _Slot:
        """Return whose a slot is now; the same endpoint of the same service goes on from what it showed."""
        name, address = service.name or str(service.key), str(entry.address)
        owner = _admit(self.services, labelled(service=name), labelled(service=OTHER), self.max_services)
        own, other = labelled(service=name, dip=address), labelled(service=OTHER, dip=OTHER)
        labels = _admit(self.places, own, other, self.max_places)
        totals = self.protocols[service.key.protocol], self.services[owner], self.places[labels]
        slot = _Slot(service=service, entry=entry, labels=labels, owner=owner, totals=totals)
        if last and last.service.key == service.key and last.entry.address == entry.address:
            slot.counter, slot.opened = last.counter, last.opened
        return slot

    def _forget(self) -> None:
        """Forget totals that nobody counts for any more."""
        self.shares = {slot.labels: slot.owner for slot in self._slots.values()}
        for gone in self.places.keys() - self.shares.keys():
            del self.places[gone]
        for gone in self.services.keys() - set(self.shares.values()):
            del self.services[gone]


def _admit(totals: dict[str, Total], own: str, other: str, limit: int) -> str:
    """Return ``own`` where it has a total or there is room for one, else ``other``."""
    name = own if own in totals or len(totals) < limit else other
    totals.setdefault(name, Total())
    return name
