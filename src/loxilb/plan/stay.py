# SPDX-License-Identifier: Apache-2.0
"""What an endpoint slot does, since when, and when that ends by itself.

Flows of an endpoint that is lost may be given time to end; one that is new or well again gets its share of new flows
in steps. Both follow from the time alone, which is an argument: seconds of any clock that only goes forward.
"""

from dataclasses import dataclass
from enum import Enum
from math import inf

from loxilb.model import LossPolicy, Service
from loxilb.model.image import FULL_SHARE, EndpointEntry, EndpointFlags
from loxilb.model.probe import Availability

POLL_S = 1.0
"""Seconds between two looks at the flows of endpoints that were removed."""
_ROUNDING = 1e-9
_RESET = LossPolicy.RESET  # members of an Enum are slow to name


class Phase(Enum):
    """What a slot does.

    TAKING: it takes new flows. RESTING: it takes none and keeps what it has. LEAVING: the same, for as long as the
    policy of its service allows. OUT: it has no flows.
    """

    TAKING = "taking"
    RESTING = "resting"
    LEAVING = "leaving"
    OUT = "out"

    # Of itself, as each is one object: that of an Enum is that of its name, and asked for very often.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """A phase and when it began; minus infinity stands for ever."""

    phase: Phase
    since: float = -inf


ALWAYS = Stay(phase=Phase.TAKING)
"""That of an endpoint that is up, of a new service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a service says about endpoints that are lost or new; times are in seconds."""

    loss: LossPolicy
    drain_time: int
    slow_start: int

    @classmethod
    def of(cls, service: Service) -> "Policy":
        """Return that of a service."""
        if service.loss is _RESET and not service.slow_start:
            return PLAIN
        return cls(loss=service.loss, drain_time=service.drain_time, slow_start=service.slow_start)


PLAIN = Policy(loss=LossPolicy.RESET, drain_time=0, slow_start=0)
"""That of most services: one for all of them."""


_SIMPLE = {Availability.UP: Phase.TAKING, Availability.DRAINING: Phase.RESTING, Availability.OUT: Phase.OUT}
FLAGS = {
    Phase.TAKING: EndpointFlags.LIVE,
    Phase.RESTING: EndpointFlags.LIVE | EndpointFlags.DRAINING,
    Phase.LEAVING: EndpointFlags.LIVE | EndpointFlags.DRAINING,
    Phase.OUT: EndpointFlags.NONE,
}


def present(state: Availability, policy: Policy, before: Stay | None, now: float) -> Stay:
    """Return the stay of an endpoint of a service, whose slot's stay was ``before`` (None: a new slot)."""
    phase = _SIMPLE[state] if state is not Availability.DOWN else _failing(policy, before, now)
    return before if before is not None and before.phase is phase else Stay(phase=phase, since=now)


def _failing(policy: Policy, before: Stay | None, now: float) -> Phase:
    if before is None or before.phase is Phase.OUT or policy.loss is LossPolicy.RESET:
        return Phase.OUT
    return Phase.OUT if now >= deadline(policy, before) else Phase.LEAVING


def removed(policy: Policy, before: Stay, now: float) -> Stay | None:
    """Return the stay of a slot that is none of its service's endpoints any more; None where it is to be dropped."""
    if before.phase is Phase.OUT or policy.loss is LossPolicy.RESET or now >= deadline(policy, before):
        return None
    return before if before.phase is Phase.LEAVING else Stay(phase=Phase.LEAVING, since=now)


def deadline(policy: Policy, stay: Stay) -> float:
    """Return when the flows of a slot that is LEAVING have to end; infinity where nothing says so."""
    limited = stay.phase is Phase.LEAVING and policy.loss is LossPolicy.DRAIN
    return stay.since + policy.drain_time if limited else inf


def share(policy: Policy, stay: Stay, now: float) -> int:
    """Return the share of new flows: as much as has gone of ``slow_start``, in whole tenths, and at least one."""
    if stay.phase is not Phase.TAKING or not policy.slow_start:
        return FULL_SHARE
    ramp = (now - stay.since) * FULL_SHARE / policy.slow_start + _ROUNDING
    return FULL_SHARE if ramp >= FULL_SHARE else max(1, int(ramp))


def next_change(policy: Policy, stay: Stay, entry: EndpointEntry) -> float:
    """Return when another plan will differ for a slot by the time alone; infinity where it will not."""
    if stay.phase is Phase.TAKING and entry.share < FULL_SHARE:
        return stay.since + (entry.share + 1) * policy.slow_start / FULL_SHARE
    return deadline(policy, stay)


def adopted(policy: Policy, entry: EndpointEntry, now: float) -> Stay:
    """Return the stay of a slot that is found programmed.

    What it has left of its time is not known: a deadline starts again, a slow start goes on where it was.
    """
    if entry.flags == EndpointFlags.LIVE and entry.share == FULL_SHARE:
        return ALWAYS
    if EndpointFlags.LIVE not in entry.flags:
        return Stay(phase=Phase.OUT)
    if EndpointFlags.DRAINING in entry.flags:
        leaving = EndpointFlags.REMOVED in entry.flags
        return Stay(phase=Phase.LEAVING, since=now) if leaving else Stay(phase=Phase.RESTING)
    return Stay(phase=Phase.TAKING, since=now - policy.slow_start * entry.share / FULL_SHARE)
