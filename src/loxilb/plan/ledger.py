# SPDX-License-Identifier: Apache-2.0
"""What the data plane holds, by service, and what is free in it.

A ledger is made from an observed image and follows the plans that the kernel has carried out; it is the only
thing here that changes, and its owner calls from one thread at a time.
"""

from collections.abc import Iterable, Mapping
from math import inf
from typing import cast

from msgspec import Struct, field

from loxilb.model import IPNetwork, ServiceKey
from loxilb.model.image import EndpointEntry, EndpointFlags, EndpointId, Listener, RuleEntry, RuleId
from loxilb.plan.pools import IdPool, Limits, Slice, SlicePool
from loxilb.plan.stay import PLAIN, Policy, Stay, next_change


class Programmed(Struct, frozen=True, kw_only=True, gc=False):
    """One service as programmed; ``ids`` names the slot of each of its endpoints in rule order.

    ``endpoints`` has the slots of removed endpoints too, while they have flows. ``stays`` says since when each slot
    does what it does; the kernel does not know it.
    """

    rule: RuleId
    entry: RuleEntry
    ring: tuple[EndpointId, ...]
    ids: tuple[EndpointId, ...]
    endpoints: Mapping[EndpointId, EndpointEntry]
    listeners: frozenset[Listener]
    policy: Policy
    sources: frozenset[IPNetwork] = frozenset()
    stays: Mapping[EndpointId, Stay] = field(default_factory=dict)

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


class Holdings(Struct, kw_only=True, gc=False):
    """Ids and slices that a plan took, or leaves behind."""

    rules: list[RuleId] = field(default_factory=list)
    endpoints: list[EndpointId] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)


def places(listener: Listener) -> int:
    """Return how many elements of its map a listener may take: one with a mark needs the one without, too."""
    return 2 if listener.mark else 1


class Ledger:
    """Every programmed service, the owner of every listener, and the free ids and slots.

    ``restless`` names the services that time changes; ``records`` counts the changes.
    """

    def __init__(self, limits: Limits, programmed: Mapping[ServiceKey, Programmed] | None = None) -> None:
        """Start with ``programmed`` and everything else free."""
        self.limits = limits
        self.services: dict[ServiceKey, Programmed] = dict(programmed or {})
        present = self.services.values()
        self.owners = {listener: key for key, one in self.services.items() for listener in one.listeners}
        self.places = sum(map(places, self.owners))
        self.sources = sum(len(one.sources) for one in present)
        self.records = 0
        self.restless = {key for key, one in self.services.items() if one.restless}
        self._rules = IdPool("rules", limits.rules, {one.rule for one in present})
        self._endpoints = IdPool("endpoints", limits.endpoints, {slot for one in present for slot in one.endpoints})
        self._ring = SlicePool(limits.ring, (one.slice for one in present))

    @property
    def free(self) -> tuple[int, int, int]:
        """Free rule ids, endpoint ids and ring slots."""
        return self._rules.free, self._endpoints.free, self._ring.free

    def take_rule(self, taken: Holdings) -> RuleId:
        """Take a rule id and note it in ``taken``; raises InvalidRequest when none is left."""
        rule = RuleId(self._rules.take())
        taken.rules.append(rule)
        return rule

    def take_endpoint(self, taken: Holdings) -> EndpointId:
        """Take an endpoint id and note it in ``taken``; raises InvalidRequest when none is left."""
        taken.endpoints.append(EndpointId(self._endpoints.take()))
        return taken.endpoints[-1]

    def take_endpoints(self, taken: Holdings, count: int) -> tuple[EndpointId, ...]:
        """Take endpoint ids in ascending order and note them; raises InvalidRequest when too few are left."""
        found = cast("tuple[EndpointId, ...]", self._endpoints.take_some(count))
        taken.endpoints.extend(found)
        return found

    def take_slice(self, taken: Holdings, length: int) -> Slice:
        """Take ring slots and note them in ``taken``; raises InvalidRequest when too few are in a row."""
        found = self._ring.take(length)
        taken.slices.append(found)
        return found

    def give(self, holdings: Holdings) -> None:
        """Make ``holdings`` free again."""
        self._rules.give(holdings.rules)
        self._endpoints.give(holdings.endpoints)
        self._ring.give(holdings.slices)

    def record(self, after: Iterable[tuple[ServiceKey, Programmed | None]]) -> None:
        """Note what the services are programmed as now (None: not any more)."""
        changes = list(after)
        self.records += 1
        for key, _ in changes:
            before = self.services.pop(key, None)
            if before is not None:
                self.restless.discard(key)
                self.sources -= len(before.sources)
                for listener in before.listeners:
                    self.places -= places(listener) if self.owners.pop(listener, None) else 0
        for key, one in changes:
            if one is not None:
                self.services[key] = one
                for listener in one.listeners:
                    self.places += places(listener) if listener not in self.owners else 0
                    self.owners[listener] = key
                self.sources += len(one.sources)
                if one.restless:
                    self.restless.add(key)
