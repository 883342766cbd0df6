# SPDX-License-Identifier: Apache-2.0
"""How far the data plane was from the stored configuration when a daemon took over."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from msgspec import structs

from loxilb.model import ServiceKey
from loxilb.model.image import Image
from loxilb.plan.ledger import Ledger
from loxilb.plan.programmed import Programmed


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Services that were missing in the data plane, that were there and unknown, and that were programmed otherwise."""

    missing: int = 0
    unknown: int = 0
    different: int = 0

    def __bool__(self) -> bool:
        """Tell whether there was any."""
        return bool(self.missing or self.unknown or self.different)


def drift_of(image: Image, before: Ledger, after: Mapping[ServiceKey, Programmed | None]) -> Drift:
    """Compare the adopted ledger with what a plan makes of it.

    A data plane with nothing in it is new, not adrift. What health decides (live or not, the share of an endpoint that
    was not) and the routes (sources) is none either: it is found out anew.
    """
    if not image.rules and not image.listeners:
        return Drift()
    adopted = {one.rule for one in before.services.values()}
    pairs = [(before.services.get(key), one) for key, one in after.items() if one is not None]
    return Drift(
        missing=sum(was is None for was, _ in pairs),
        unknown=len(image.rules.keys() - adopted),
        different=sum(was is not None and _essence(was) != _essence(now) for was, now in pairs),
    )


def _essence(one: Programmed) -> tuple[object, ...]:
    """Return what the configuration alone decides; the slice of the ring follows from it and from health."""
    return (
        structs.replace(one.entry, ring_base=0, ring_length=0),
        frozenset(one.listeners),
        one.sources,
        Counter((endpoint.address, endpoint.port) for endpoint in one.endpoints.values()),
    )
