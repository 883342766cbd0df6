# SPDX-License-Identifier: Apache-2.0
"""What the data plane would make of a packet, and what it made of one that it dropped."""

from dataclasses import dataclass
from enum import Enum

from loxilb.model.flow import Flow
from loxilb.model.packet import Headers
from loxilb.model.port import IfIndex
from loxilb.model.service import IPAddress


class Verdict(Enum):
    """What becomes of a packet at a hook; the value is its word in the REST API."""

    PASSED = "passed"
    FORWARDED = "forwarded"
    ANSWERED = "answered"
    DROPPED = "dropped"


class Table(Enum):
    """Where the data plane has a flow; the value is its word in the REST API."""

    LARGE = "large table"
    OVERFLOW = "overflow map"
    HALF_OPEN = "half-open table"


@dataclass(frozen=True, slots=True, kw_only=True)
class HookTrace:
    """One hook that the packet came by.

    ``reason`` is the word it is counted by. Where the packet was answered, ``cause`` is the reason it is not forwarded
    for. ``plain`` says that the plain path alone finished it.
    """

    hook: str
    verdict: Verdict
    reason: str
    cause: str = ""
    plain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Where a forwarded packet goes: a device, and (None: not resolved) the neighbour there.

    Without a neighbour the kernel resolves ``gateway`` and sends the packet then.
    """

    interface: IfIndex
    mac: bytes | None = None
    gateway: IPAddress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What the programs made of a packet. ``rule`` and ``endpoint`` are slots, 0 for none.

    ``table`` and ``flow`` say which flow the packet belonged to before it came, None for none. ``sent`` is the packet
    that leaves (rewritten, or the answer), None where none does. ``untraced`` are hooks of the interface
    that cannot be run on a made packet.
    """

    hooks: tuple[HookTrace, ...]
    made: Headers
    table: Table | None = None
    flow: Flow | None = None
    rule: int = 0
    endpoint: int = 0
    endpoint_address: IPAddress | None = None
    endpoint_port: int = 0
    sent: Headers | None = None
    way: Way | None = None
    untraced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedPacket:
    """A packet that was dropped: ``at`` in seconds of CLOCK_MONOTONIC, ``length`` in bytes of the whole frame.

    ``headers`` are those it had when it was dropped, which for a few reasons is after it was rewritten.
    """

    at: float
    interface: IfIndex
    hook: str
    reason: str
    length: int
    headers: Headers
