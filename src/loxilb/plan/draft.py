# SPDX-License-Identifier: Apache-2.0
"""A plan, and how it is put together from what its services need."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from loxilb.model import ServiceKey
from loxilb.model.image import Add, DropListener, EndpointId, Listener, Op, PutListener, RuleId
from loxilb.plan.columns import image_of
from loxilb.plan.creation import Health, Sources
from loxilb.plan.ledger import Holdings, Ledger
from loxilb.plan.programmed import AsNew, Programmed


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
        ledger.record(self.after)
        ledger.give(self.freed)

    def abandon(self, ledger: Ledger) -> None:
        """Give back what the plan had set aside."""
        ledger.give(self.taken)


@dataclass(slots=True, kw_only=True)
class Draft:
    """A plan in the making: first what is new, then the lists of operations, one after the other."""

    ledger: Ledger
    sources: Sources
    health: Health
    now: float
    without_flows: Collection[EndpointId]
    new: list[AsNew] = field(default_factory=list)
    first: list[Op] = field(default_factory=list)
    listeners: dict[Listener, RuleId] = field(default_factory=dict)
    gone: list[Listener] = field(default_factory=list)
    last: list[Op] = field(default_factory=list)
    after: dict[ServiceKey, Programmed | None] = field(default_factory=dict)
    taken: Holdings = field(default_factory=Holdings)
    freed: Holdings = field(default_factory=Holdings)

    @property
    def dropped(self) -> list[Listener]:
        """The listeners that lead to no service of the plan any more."""
        if not self.gone:
            return []
        led = self.listeners.keys() | {listener for one in self.new for listener in one.listeners}
        return [listener for listener in self.gone if listener not in led]

    def finish(self) -> Plan:
        """Put the operations in order; a listener that moves to another rule is overwritten, not dropped."""
        added = [Add(image=image_of(self.new))] if self.new else []
        puts = [PutListener(listener=listener, rule=rule) for listener, rule in self.listeners.items()]
        drops = [DropListener(listener=listener) for listener in self.dropped]
        ops = (*added, *self.first, *puts, *drops, *self.last)
        return Plan(ops=ops, after=self.after, taken=self.taken, freed=self.freed)
