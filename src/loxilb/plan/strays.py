# SPDX-License-Identifier: Apache-2.0
"""What a data plane holds and no service owns."""

from collections.abc import Iterable, Iterator

from loxilb.model.image import (
    DropEndpoint,
    DropListener,
    DropRule,
    DropSource,
    EndpointId,
    Image,
    Listener,
    RuleId,
    Single,
)
from loxilb.plan.programmed import Programmed
from loxilb.plan.selection import in_address_order


def strays(image: Image, programmed: Iterable[Programmed]) -> Iterator[Single]:
    """Drop what none of ``programmed`` consists of; nothing that is named goes before what names it."""
    kept: set[RuleId] = set()
    listeners: set[Listener] = set()
    slots: set[EndpointId] = set()
    for one in programmed:
        kept.add(one.rule)
        listeners.update(one.listeners)
        slots.update(one.slots)
    yield from (DropListener(listener=one) for one in sorted(image.listeners.keys() - listeners))
    yield from (DropRule(rule=one) for one in sorted(image.rules.keys() - kept))
    for rule in sorted(image.sources.keys() - kept):
        yield from (DropSource(rule=rule, network=one) for one in in_address_order(image.sources[rule]))
    yield from (DropEndpoint(endpoint=one) for one in sorted(image.endpoints.keys() - slots))
