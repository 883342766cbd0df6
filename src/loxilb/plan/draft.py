# SPDX-License-Identifier: Apache-2.0
"""A plan, and how it is put together from what its services need."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from loxilb.model import IPAddress, IPNetwork, ServiceKey
from loxilb.model.image import (
    Add,
    DropListener,
    EndpointEntry,
    EndpointId,
    Image,
    Listener,
    Op,
    PutListener,
    RuleEntry,
    RuleId,
)
from loxilb.model.probe import Availability, EndpointKey
from loxilb.plan.ledger import Holdings, Ledger, Programmed
from loxilb.plan.pools import Slice

Sources = Mapping[IPAddress, IPAddress]
Health = Mapping[EndpointKey, Availability]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Operations and what they mean for the ledger.

    The ids and slices in ``taken`` are set aside when the plan is made. ``commit`` once the operations are
    carried out, ``abandon`` when they are not; never plan again in between.
    """

    ops: tuple[Op, ...]
    after: Mapping[ServiceKey, Programmed | None]
    taken: Holdings
    freed: Holdings

    def commit(self, ledger: Ledger) -> None:
        """Note in ``ledger`` that the operations are done; only now what they left behind is free."""
        ledger.record(self.after.items())
        ledger.give(self.freed)

    def abandon(self, ledger: Ledger) -> None:
        """Give back what the plan had set aside."""
        ledger.give(self.taken)


@dataclass(slots=True, kw_only=True)
class New:
    """What services that are new consist of."""

    listeners: dict[Listener, RuleId] = field(default_factory=dict)
    rules: dict[RuleId, RuleEntry] = field(default_factory=dict)
    endpoints: dict[EndpointId, EndpointEntry] = field(default_factory=dict)
    rings: dict[RuleId, tuple[EndpointId, ...]] = field(default_factory=dict)
    sources: dict[RuleId, frozenset[IPNetwork]] = field(default_factory=dict)

    def note(self, one: Programmed) -> None:
        """Add a service."""
        self.endpoints.update(one.endpoints)
        self.rules[one.rule] = one.entry
        if one.ring:
            self.rings[one.rule] = one.ring
        if one.sources:
            self.sources[one.rule] = one.sources
        for listener in one.listeners if len(one.listeners) == 1 else sorted(one.listeners):
            self.listeners[listener] = one.rule

    @property
    def operations(self) -> tuple[Op, ...]:
        """What writes all of it: one operation."""
        if not self.rules:
            return ()
        image = Image(
            listeners=self.listeners,
            rules=self.rules,
            endpoints=self.endpoints,
            rings=self.rings,
            sources=self.sources,
        )
        return (Add(image=image),)


@dataclass(slots=True, kw_only=True)
class Draft:
    """A plan in the making: first what is new, then the lists of operations, one after the other."""

    ledger: Ledger
    sources: Sources
    health: Health
    now: float
    without_flows: Collection[EndpointId]
    new: New = field(default_factory=New)
    first: list[Op] = field(default_factory=list)
    listeners: dict[Listener, RuleId] = field(default_factory=dict)
    gone: list[Listener] = field(default_factory=list)
    last: list[Op] = field(default_factory=list)
    after: dict[ServiceKey, Programmed | None] = field(default_factory=dict)
    taken: Holdings = field(default_factory=Holdings)
    freed: Holdings = field(default_factory=Holdings)

    def take_slice(self, length: int) -> Slice:
        """Take slots of the ring; raises InvalidRequest."""
        return self.ledger.take_slice(self.taken, length)

    def leads(self, listener: Listener) -> bool:
        """Tell whether a listener leads to a service of the plan."""
        return listener in self.listeners or listener in self.new.listeners

    def finish(self) -> Plan:
        """Put the operations in order; a listener that moves to another rule is overwritten, not dropped."""
        puts = [PutListener(listener=listener, rule=rule) for listener, rule in self.listeners.items()]
        drops = [DropListener(listener=listener) for listener in self.gone if not self.leads(listener)]
        ops = (*self.new.operations, *self.first, *puts, *drops, *self.last)
        return Plan(ops=ops, after=self.after, taken=self.taken, freed=self.freed)
