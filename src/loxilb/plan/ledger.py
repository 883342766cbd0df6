# SPDX-License-Identifier: Apache-2.0
"""What the data plane holds, by service, and what is free in it.

A ledger is made from an observed image and follows the plans that the kernel has carried out; it is the only
thing here that changes, and its owner calls from one thread at a time.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import cast

from msgspec import Struct, field

from loxilb.errors import InvalidRequest
from loxilb.model import ServiceKey
from loxilb.model.image import EndpointId, Listener, RuleId
from loxilb.plan.pools import IdPool, Limits, Slice, SlicePool
from loxilb.plan.programmed import Programmed


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
        self._marked = sum([1 for listener in self.owners if listener.mark])
        self.sources = sum([len(one.sources) for one in present if one.has_sources])
        self.records = 0
        self.restless = {key for key, one in self.services.items() if one.restless}
        self._rules = IdPool("rules", limits.rules, [one.rule for one in present])
        self._endpoints = IdPool("endpoints", limits.endpoints, [slot for one in present for slot in one.slots])
        self._ring = SlicePool(limits.ring, [(one.base, len(one.ring)) for one in present])

    @property
    def places(self) -> int:
        """How many elements of their map the listeners may take."""
        return len(self.owners) + self._marked

    @property
    def free(self) -> tuple[int, int, int]:
        """Free rule ids, endpoint ids and ring slots."""
        return self._rules.free, self._endpoints.free, self._ring.free

    def take_rules(self, taken: Holdings, count: int) -> Sequence[RuleId]:
        """Take so many rule ids and note them in ``taken``; raises InvalidRequest about the place that gets none."""
        found = cast("tuple[RuleId, ...]", self._rules.take_some(count))
        taken.rules.extend(found)
        return found

    def take_endpoint(self, taken: Holdings) -> EndpointId:
        """Take an endpoint id and note it in ``taken``; raises InvalidRequest when none is left."""
        taken.endpoints.append(EndpointId(self._endpoints.take()))
        return taken.endpoints[-1]

    def take_endpoints(self, taken: Holdings, counts: Sequence[int]) -> list[tuple[EndpointId, ...]]:
        """Take so many endpoint ids for each, in ascending order, and note them.

        Raises InvalidRequest about the place in ``counts`` that gets too few.
        """
        try:
            found = cast("tuple[EndpointId, ...]", self._endpoints.take_some(sum(counts)))
        except InvalidRequest as error:
            error.index = bisect_right(list(accumulate(counts)), error.index or 0)
            raise
        taken.endpoints.extend(found)
        return [found[end - count : end] for count, end in zip(counts, accumulate(counts), strict=True)]

    def take_slice(self, taken: Holdings, length: int) -> Slice:
        """Take ring slots and note them in ``taken``; raises InvalidRequest when too few are in a row."""
        found = self._ring.take(length)
        taken.slices.append(found)
        return found

    def take_slices(self, taken: Holdings, lengths: Sequence[int]) -> list[int]:
        """Take ring slots for each and note them; returns where they begin.

        Raises InvalidRequest about the place in ``lengths`` that gets none.
        """
        bases, slices = self._ring.take_some(lengths)
        taken.slices.extend(slices)
        return bases

    def give(self, holdings: Holdings) -> None:
        """Make ``holdings`` free again."""
        self._rules.give(holdings.rules)
        self._endpoints.give(holdings.endpoints)
        self._ring.give(holdings.slices)

    def record(self, after: Mapping[ServiceKey, Programmed | None]) -> None:
        """Note what the services are programmed as now (None: not any more)."""
        self.records += 1
        for key in [key for key in after if key in self.services]:
            self._forget(key, self.services.pop(key))
        present = {key: one for key, one in after.items() if one is not None}
        self.services.update(present)
        led = [(listener, key) for key, one in present.items() for listener in one.listeners]
        self._marked += sum([1 for listener, _ in led if listener.mark and listener not in self.owners])
        self.owners.update(led)
        self.sources += sum([len(one.sources) for one in present.values() if one.has_sources])
        self.restless.update([key for key, one in present.items() if one.restless])

    def _forget(self, key: ServiceKey, before: Programmed) -> None:
        self.restless.discard(key)
        self.sources -= len(before.sources)
        for listener in before.listeners:
            if self.owners.pop(listener, None) and listener.mark:
                self._marked -= 1
