# SPDX-License-Identifier: Apache-2.0
"""What very many services are programmed as, as columns, and whether that is what a data plane holds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from itertools import accumulate, chain
from operator import attrgetter

from loxilb.model import IPNetwork, Mode, Selection
from loxilb.model.image import FULL_SHARE, EndpointFlags, Image, Listener, RuleId
from loxilb.model.tables import EndpointTable, RuleTable
from loxilb.plan.portions import portions
from loxilb.plan.programmed import Altered, AsNew, Programmed

_LIVE = int(EndpointFlags.LIVE)
_FULLNAT, _PERSIST = Mode.FULLNAT, Selection.PERSIST  # members of an Enum are slow to name
_PARTS = 32  # that some are cut into to find the one that differs
_NO_NETWORKS: frozenset[IPNetwork] = frozenset()


def image_of(programmed: Sequence[Programmed]) -> Image:
    """Return everything that ``programmed`` consist of; rules with an empty slice have no ring in it."""
    tables = [_tables(some) for some in portions(programmed)]
    rules = RuleTable.joined([one for one, _ in tables])
    endpoints = EndpointTable.joined([one for _, one in tables])
    return Image(
        listeners=_led(programmed),
        rules=rules,
        endpoints=endpoints,
        rings={one.rule: one.ring for one in programmed if one.ring},
        sources={one.rule: one.sources for one in programmed if one.has_sources},
    )


def _tables(ones: Sequence[Programmed]) -> tuple[RuleTable, EndpointTable]:
    new = [one for one in ones if type(one) is AsNew]
    rules, endpoints = _rules(new), _endpoints(new)
    if len(new) == len(ones):
        return rules, endpoints
    others = [one for one in ones if type(one) is Altered]
    entries = {slot: entry for one in others for slot, entry in one.endpoints.items()}
    return (
        RuleTable.joined([rules, RuleTable.of({one.rule: one.entry for one in others})]),
        EndpointTable.joined([endpoints, EndpointTable.of(entries)]),
    )


def _led(ones: Sequence[Programmed]) -> dict[Listener, RuleId]:
    return {listener: one.rule for one in ones for listener in one.listeners}


def _rules(new: Sequence[AsNew]) -> RuleTable:
    """Return what :attr:`AsNew.entry` is of each."""
    services = [one.service for one in new]
    return RuleTable(
        [one.rule for one in new],
        [
            [one.mode for one in services],
            [one.selection for one in services],
            [one.inactive_timeout or one.timeout for one in services],
            [one.base for one in new],
            [len(one.ring) for one in new],
            [one.persistence if one.selection is _PERSIST else 0 for one in services],
            [1 if one.allowed_sources else 0 for one in services],
            [one.half_open_limit for one in services],
        ],
    )


def _endpoints(new: Sequence[AsNew]) -> EndpointTable:
    """Return what :attr:`AsNew.endpoints` are of all of them."""
    flat = list(chain.from_iterable([one.ordered for one in new]))
    addresses = [one.address for one in flat]
    sources, flags = [0] * len(flat), [_LIVE] * len(flat)
    ends = accumulate([len(one.ids) for one in new])
    for one, end in zip(new, ends, strict=True):
        if not (one.unwell or one.routed or one.service.mode is _FULLNAT):
            continue
        for at, entry in enumerate(one.endpoints.values(), end - len(one.ids)):
            sources[at] = int(entry.source) if entry.source is not None else 0
            flags[at] = int(entry.flags)
    return EndpointTable(
        list(chain.from_iterable([one.ids for one in new])),
        [
            [one.rule for one in new for _ in one.ids],
            [4 if type(one) is IPv4Address else 6 for one in addresses],
            list(map(int, addresses)),
            [one.port for one in flat],
            sources,
            flags,
            [FULL_SHARE] * len(flat),
        ],
    )


def misfits(image: Image, programmed: Sequence[Programmed]) -> list[Programmed]:
    """Return those of ``programmed`` that are not in the image just as they are.

    That is so of hardly any, so many are compared at once, in the order that tables have most often.
    """
    tables = replace(image, rules=RuleTable.of(image.rules), endpoints=EndpointTable.of(image.endpoints))
    ordered = sorted(programmed, key=attrgetter("rule"))
    return [one for some in portions(ordered) for one in _misfits(tables, some)]


def _misfits(image: Image, ones: Sequence[Programmed]) -> Iterator[Programmed]:
    if _holds(image, ones):
        return
    if len(ones) == 1:
        yield ones[0]
        return
    step = -(-len(ones) // _PARTS)
    for at in range(0, len(ones), step):
        yield from _misfits(image, ones[at : at + step])


def _holds(image: Image, ones: Sequence[Programmed]) -> bool:
    """Tell whether all that the services consist of is there; one that names no sources must have none."""
    rules, endpoints = _tables(ones)
    listeners, rings = image.listeners, image.rings
    return (
        RuleTable.of(image.rules).holds(rules)
        and EndpointTable.of(image.endpoints).holds(endpoints)
        and [rings.get(one.rule) for one in ones] == [one.ring for one in ones]
        and [listeners.get(led) for one in ones for led in one.listeners]
        == [one.rule for one in ones for _ in one.listeners]
        and _holds_sources(image, ones)
    )


def _holds_sources(image: Image, ones: Sequence[Programmed]) -> bool:
    if not image.sources and not any(one.has_sources for one in ones):  # as most often
        return True
    return [image.sources.get(one.rule, _NO_NETWORKS) for one in ones] == [one.sources for one in ones]
