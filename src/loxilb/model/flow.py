# SPDX-License-Identifier: Apache-2.0
"""Flows and counters: what the data plane reports."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from loxilb.model.service import IPAddress, Mode


class FlowState(IntEnum):
    """State of a flow; the values are shared with the data plane (``enum lox_flow_state`` in ``bpf/abi.h``)."""

    NONE = 0
    SYN_SENT = 1
    SYN_RECEIVED = 2
    ESTABLISHED = 3
    CLOSING = 4
    TIME_WAIT = 5
    RESET = 6
    ONE_WAY = 7
    TWO_WAY = 8


class Counter(NamedTuple):
    """Packets and bytes (from the IP header on) seen. A tuple: tens of thousands are made for each scrape."""

    packets: int = 0
    bytes: int = 0

    def __add__(self, other: tuple[int, ...]) -> "Counter":  # type: ignore[override]
        """Add both members."""
        packets, size = other
        return Counter(self.packets + packets, self.bytes + size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One direction of one flow as it arrives, and what it is rewritten to.

    Ports are host order; for ICMP echo ``source_port`` or ``destination_port`` holds the identifier. ``idle`` and
    ``age`` are in seconds. ``reply`` is true for the direction from the endpoint to the client. ``protocol`` is the
    IANA number.
    """

    protocol: int
    source: IPAddress
    destination: IPAddress
    source_port: int
    destination_port: int
    new_source: IPAddress
    new_destination: IPAddress
    new_source_port: int
    new_destination_port: int
    reply: bool
    mode: Mode
    state: FlowState
    rule: int
    endpoint: int
    idle: float
    age: float
    counter: Counter


class FlowEventKind(IntEnum):
    """What happened to a flow; the values are shared with the data plane (``enum lox_event_kind``)."""

    OPENED = 1
    ENDED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowEvent:
    """A flow was established, or ended: the direction from the client, as it arrives.

    Ports are host order, ``protocol`` is the IANA number. ``state`` and ``counter`` are those of the moment; a flow
    that was never established ends without having been opened.
    """

    kind: FlowEventKind
    protocol: int
    source: IPAddress
    destination: IPAddress
    source_port: int
    destination_port: int
    state: FlowState
    rule: int
    endpoint: int
    counter: Counter


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One end of an aborted connection, and who it believes to talk to.

    ``expects`` is the sequence number it expects next (RFC 9293 section 3.10.7.1), ``sent`` that up to which the other
    end has acknowledged what it sent, 0 if that is not known. Ports are host order.
    """

    address: IPAddress
    port: int
    other: IPAddress
    other_port: int
    expects: int
    sent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortedConnection:
    """A TCP connection that the data plane gave up while its ends believed in it; ``ends`` are those to be told.

    ``active``: it was in use just now, so the ends may expect more than was seen of them. ``at`` is the time of
    CLOCK_MONOTONIC in seconds.
    """

    ends: tuple[Peer, ...]
    active: bool
    rule: int
    state: FlowState
    at: float
