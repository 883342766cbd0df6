# SPDX-License-Identifier: Apache-2.0
"""An image that is to be added, as the maps have it: all that can be made of it before anything is written."""

from array import array
from collections.abc import Iterable, Mapping, Sequence

from loxilb.kernel.bpf import layouts, maps
from loxilb.kernel.bpf.clock import JiffyClock
from loxilb.kernel.bpf.listeners import Leads, leads_of
from loxilb.model.image import Add, EndpointId
from loxilb.model.tables import EndpointTable, RuleTable

_WORD = 4


class Packed(Add, frozen=True, kw_only=True, gc=False):
    """An image, and its elements in a row.

    ``slots`` and ``places`` are where endpoints and rules belong, ``addresses`` says how many endpoints there are at
    each. ``slices`` are parts of the ring, each with the byte where it begins.
    """

    slots: Sequence[int]
    endpoints: bytes
    addresses: Mapping[bytes, int]
    places: Sequence[int]
    rules: bytes
    slices: Sequence[tuple[int, bytes]]
    leads: Leads


def packed(op: Add, clock: JiffyClock) -> Packed:
    """Return the operation as it is carried out."""
    if isinstance(op, Packed):
        return op
    image = op.image
    rules, endpoints = RuleTable.of(image.rules), EndpointTable.of(image.endpoints)
    values, bases = layouts.endpoints_to_values(endpoints), rules.bases
    return Packed(
        image=image,
        slots=maps.in_a_row(endpoints.numbers),
        endpoints=values,
        addresses=layouts.endpoints_counted(values),
        places=maps.in_a_row(rules.numbers),
        rules=layouts.rules_to_values(rules, clock),
        slices=joined((bases[rule], ring) for rule, ring in image.rings.items()),
        leads=leads_of(image.listeners),
    )


def joined(slices: Iterable[tuple[int, Sequence[EndpointId]]]) -> list[tuple[int, bytes]]:
    """Return slices of the ring, given by their first slots, those as one that follow each other."""
    found, start, end, slots = list[tuple[int, bytes]](), 0, 0, array("I")
    for base, endpoints in slices:
        if base != end:
            found.append((start * _WORD, slots.tobytes()))
            start, end, slots = base, base, array("I")
        slots.extend(endpoints)
        end += len(endpoints)
    return [*found, (start * _WORD, slots.tobytes())]
