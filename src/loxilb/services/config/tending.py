# SPDX-License-Identifier: Apache-2.0
"""When services have to be planned again though nobody changes them."""

from collections.abc import Collection, Iterable, Mapping

from loxilb.model.image import EndpointId
from loxilb.plan import POLL_S, Programmed

LINGER_S = 2.0
"""Seconds without a flow before a removed endpoint goes: what is still under way has arrived by then."""


class Quiet:
    """Since when slots have no flow."""

    def __init__(self) -> None:
        """Start with none."""
        self._since: dict[EndpointId, float] = {}

    def follow(self, flows: Mapping[EndpointId, int], now: float) -> frozenset[EndpointId]:
        """Take the flows that slots have at ``now``; returns those that have had none for long enough.

        A slot that is not named is forgotten.
        """
        self._since = {slot: self._since.get(slot, now) for slot, count in flows.items() if not count}
        return frozenset(slot for slot, since in self._since.items() if now - since >= LINGER_S)

    def forget(self, slots: Collection[EndpointId]) -> None:
        """Forget slots that were dropped: they may be another endpoint's by the next look."""
        for slot in slots:
            self._since.pop(slot, None)


def is_due(programmed: Programmed, ended: Collection[EndpointId], now: float) -> bool:
    """Tell whether a plan at ``now`` would change a service, with the slots in ``ended`` having no flow any more."""
    return programmed.next_change <= now or any(slot in ended for slot in programmed.leaving)


def next_look(restless: Iterable[Programmed], now: float) -> float | None:
    """Return the seconds from ``now`` until any of these services has to be looked at again; None without one."""
    times = [min(one.next_change, now + POLL_S) if one.leaving else one.next_change for one in restless]
    return max(0.0, min(times) - now) if times else None
