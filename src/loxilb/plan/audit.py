# SPDX-License-Identifier: Apache-2.0
"""What the data plane holds against what it was told, and the operations that repair it.

Something else may write to the maps. A repair writes only what differs, and nothing is fresh in it: flows, counters and
round-robin positions go on. A slice or a rule that differs is written to another place of the ring, and the rule points
to it then: no packet sees half of a slice.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loxilb.model import IPNetwork, ServiceKey
from loxilb.model.image import (
    DropEndpoint,
    DropListener,
    DropRule,
    DropSource,
    EndpointId,
    Image,
    Listener,
    Op,
    PutEndpoint,
    PutListener,
    PutRing,
    PutRule,
    PutSource,
)
from loxilb.plan.columns import misfits
from loxilb.plan.draft import Plan
from loxilb.plan.ledger import Holdings, Ledger
from loxilb.plan.programmed import Programmed
from loxilb.plan.selection import in_address_order
from loxilb.plan.strays import strays


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What differs of one service: elements that are missing or changed, and ``excess`` sources it does not have."""

    key: ServiceKey
    endpoints: tuple[EndpointId, ...]
    missing: frozenset[IPNetwork]
    excess: frozenset[IPNetwork]
    rule: bool
    ring: bool
    listeners: tuple[Listener, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that differs; ``strays`` drop what belongs to no service."""

    differences: tuple[Difference, ...] = ()
    strays: tuple[Op, ...] = ()

    def __bool__(self) -> bool:
        """Tell whether anything does."""
        return bool(self.differences or self.strays)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many elements differ, by the kind of element."""
        found = Counter({"endpoint": 0, "listener": 0, "ring": 0, "rule": 0, "source": 0})
        for one in self.differences:
            found["endpoint"] += len(one.endpoints)
            found["listener"] += len(one.listeners)
            found["ring"] += one.ring
            found["rule"] += one.rule
            found["source"] += len(one.missing) + len(one.excess)
        found.update(_STRAYS[type(op)] for op in self.strays)
        return {kind: count for kind, count in found.items() if count}


_STRAYS: Mapping[type, str] = {
    DropListener: "listener",
    DropRule: "rule",
    DropSource: "source",
    DropEndpoint: "endpoint",
}


def audit(image: Image, services: Mapping[ServiceKey, Programmed]) -> Findings:
    """Compare what is observed with what the services are programmed as."""
    keys = {one.rule: key for key, one in services.items()}
    programmed = services.values()
    differences = tuple(_difference(image, keys[one.rule], one) for one in misfits(image, list(programmed)))
    # With every element of every service there, more elements than those are strays: no need to look which.
    complete = not differences and _sizes(image) == (
        sum(len(one.listeners) for one in programmed),
        len(programmed),
        sum(len(one.slots) for one in programmed),
        sum(bool(one.sources) for one in programmed),
    )
    return Findings(differences=differences, strays=() if complete else tuple(strays(image, programmed)))


def repair(findings: Findings, ledger: Ledger) -> Plan:
    """Plan the repair; ``ledger`` is as it was when the findings were made. Raises InvalidRequest without room."""
    first: list[Op] = []
    puts: list[Op] = []
    after: dict[ServiceKey, Programmed | None] = {}
    taken, freed = Holdings(), Holdings()
    try:
        for one in findings.differences:
            before = ledger.services[one.key]
            now = _moved(before, ledger, taken, freed) if one.rule or one.ring else before
            after[one.key] = now
            first.extend(_mending(one, before, now))
            puts.extend(PutListener(listener=listener, rule=now.rule) for listener in one.listeners)
    except BaseException:
        ledger.give(taken)
        raise
    excess = [
        DropSource(rule=ledger.services[one.key].rule, network=network)
        for one in findings.differences
        for network in in_address_order(one.excess)
    ]
    return Plan(ops=(*first, *puts, *excess, *findings.strays), after=after, taken=taken, freed=freed)


def _sizes(image: Image) -> tuple[int, int, int, int]:
    return len(image.listeners), len(image.rules), len(image.endpoints), len(image.sources)


def _difference(image: Image, key: ServiceKey, one: Programmed) -> Difference:
    sources = image.sources.get(one.rule, frozenset())
    rule = image.rules.get(one.rule) != one.entry
    return Difference(
        key=key,
        endpoints=tuple(slot for slot, entry in one.endpoints.items() if image.endpoints.get(slot) != entry),
        missing=one.sources - sources,
        excess=sources - one.sources,
        rule=rule,
        ring=not rule and image.rings[one.rule] != one.ring,
        listeners=tuple(sorted(listener for listener in one.listeners if image.listeners.get(listener) != one.rule)),
    )


def _moved(before: Programmed, ledger: Ledger, taken: Holdings, freed: Holdings) -> Programmed:
    """Return ``before`` with its slice elsewhere: what is in the old one cannot be trusted."""
    if not before.ring:
        return before
    place = ledger.take_slice(taken, len(before.ring))
    freed.slices.append(before.slice)
    return before.moved(place.base)


def _mending(one: Difference, before: Programmed, now: Programmed) -> Iterable[Op]:
    """Write what takes flows before the rule, and what does not after it, as the slice of before may name it."""
    entries = [PutEndpoint(endpoint=slot, entry=before.endpoints[slot], fresh=False) for slot in one.endpoints]
    yield from (op for op in entries if op.entry.takes_flows)
    yield from (PutSource(rule=now.rule, network=network) for network in in_address_order(one.missing))
    if one.rule or one.ring:
        if now.ring:
            yield PutRing(base=now.entry.ring_base, endpoints=now.ring)
        yield PutRule(rule=now.rule, entry=now.entry, fresh=False)
    yield from (op for op in entries if not op.entry.takes_flows)
