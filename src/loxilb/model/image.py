# SPDX-License-Identifier: Apache-2.0
"""The data plane's configuration as values: what the planner writes and the kernel reads back.

The image mirrors the maps of ``bpf/abi.h`` one to one, in host order and with addresses as objects. Selection slices
live in one flat array (the *ring*); a rule points to its slice with (base, length), which the kernel swaps in one
write. Mutable state of the packet path (round-robin position, counters) is not part of the image.

Entries and operations are made by the hundred thousand, so they are structs: made in a tenth of a dataclass's time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, NewType, cast

from msgspec import Struct

from loxilb.model.service import IPAddress, IPNetwork, L4Protocol, Mode, Selection

RuleId = NewType("RuleId", int)
EndpointId = NewType("EndpointId", int)

_new = cast("Callable[[type[Listener], tuple[object, ...]], Listener]", tuple.__new__)
_WORDS = {protocol: protocol.value for protocol in L4Protocol}  # members of an Enum are slow to ask

FULL_SHARE = 10
"""Parts that a share of new flows is counted in."""


class Listener(NamedTuple):
    """Key of the service maps: one address, port and protocol that the packet path looks up.

    With a ``mark`` it is for packets of that mark, before the one without. A tuple, as it is looked up very often.
    """

    version: int
    address: int
    protocol: str
    port: int
    mark: int = 0

    @property
    def ip(self) -> IPAddress:
        """The address as a value of its family."""
        return IPv4Address(self.address) if self.version == 4 else IPv6Address(self.address)

    @property
    def secondary(self) -> bool:
        """Whether the address is a further one of its service; no part of the key."""
        return False

    @classmethod
    def of(
        cls, address: IPAddress, protocol: L4Protocol, port: int, *, mark: int = 0, secondary: bool = False
    ) -> "Listener":
        """Build the key for one port of a service."""
        kind = SecondaryListener if secondary else Listener
        return _new(kind, Listener.primary(address, protocol, port, mark))

    @staticmethod
    def primary(address: IPAddress, protocol: L4Protocol, port: int, mark: int) -> "Listener":
        """Build the key for one port at the first address of a service."""
        version = 4 if type(address) is IPv4Address else 6
        # Without the slow constructor of a named tuple.
        return _new(Listener, (version, int(address), _WORDS[protocol], port, mark))


class SecondaryListener(Listener):
    """One at a further address of its service; it equals the one that is not."""

    __slots__ = ()

    @property
    def secondary(self) -> bool:
        """It is."""
        return True


class EndpointFlags(IntFlag):
    """State of an endpoint slot; the values are shared with the data plane (``enum lox_endpoint_flags``).

    LIVE: its flows go on. DRAINING: it takes no new flow. REMOVED: it is none of its service's endpoints any more.
    TIMED: ... and its flows have to end at some time.
    """

    NONE = 0
    LIVE = 1
    DRAINING = 2
    REMOVED = 4
    TIMED = 8


_TAKING_BITS = int(EndpointFlags.LIVE | EndpointFlags.DRAINING)
_REMOVED_BIT = int(EndpointFlags.REMOVED)


class EndpointEntry(Struct, frozen=True, kw_only=True, gc=False):
    """One endpoint of one rule.

    ``source`` is what the endpoint sees as the source in the modes that rewrite it, None in the others. ``share`` is
    the part of its full share that it gets while it starts slowly: of two endpoints with least connections, one with
    half the share has enough with half the flows.
    """

    rule: RuleId
    address: IPAddress
    port: int
    source: IPAddress | None = None
    flags: EndpointFlags = EndpointFlags.LIVE
    share: int = FULL_SHARE

    @property
    def takes_flows(self) -> bool:
        """Whether a slice may name it."""
        return int(self.flags) & _TAKING_BITS == EndpointFlags.LIVE

    @property
    def is_removed(self) -> bool:
        """Whether it is none of its service's endpoints any more, and kept for its flows."""
        return bool(int(self.flags) & _REMOVED_BIT)


class RuleEntry(Struct, frozen=True, kw_only=True, gc=False):
    """One rule; its slice of the ring is ``ring_length`` endpoint ids from ``ring_base``.

    ``timeout`` is in seconds. An empty slice means that no endpoint can take a flow. ``persist`` is how many seconds a
    client is remembered (0: the selection remembers none); ``restricted`` says that only its sources may use the rule;
    ``half_open_limit`` is how many half-open flows it may have (0: any number).
    """

    mode: Mode
    selection: Selection
    timeout: int
    ring_base: int
    ring_length: int
    persist: int = 0
    restricted: bool = False
    half_open_limit: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Everything programmed: listeners, rules, endpoints, the slice of each rule, and the sources of those with any."""

    listeners: Mapping[Listener, RuleId] = field(default_factory=dict)
    rules: Mapping[RuleId, RuleEntry] = field(default_factory=dict)
    endpoints: Mapping[EndpointId, EndpointEntry] = field(default_factory=dict)
    rings: Mapping[RuleId, tuple[EndpointId, ...]] = field(default_factory=dict)
    sources: Mapping[RuleId, frozenset[IPNetwork]] = field(default_factory=dict)


class Add(Struct, frozen=True, kw_only=True, gc=False):
    """Write all of an image that is new: nothing uses its rules, endpoints and slices; listeners may lead elsewhere.

    Counters start at zero, round robin at the first endpoint. One operation for very many services.
    """

    image: Image


class PutEndpoint(Struct, frozen=True, kw_only=True, gc=False):
    """Write an endpoint slot; ``fresh`` says that its counters start at zero.

    Flows that point to a slot that is not LIVE any more end at the next ageing pass.
    """

    endpoint: EndpointId
    entry: EndpointEntry
    fresh: bool = True


class DropEndpoint(Struct, frozen=True, kw_only=True, gc=False):
    """Mark an endpoint slot unused; flows that still point to it end at the next ageing pass."""

    endpoint: EndpointId


class PutRing(Struct, frozen=True, kw_only=True, gc=False):
    """Write a slice of the ring, before any rule points to it."""

    base: int
    endpoints: tuple[EndpointId, ...]


class PutRule(Struct, frozen=True, kw_only=True, gc=False):
    """Write a rule (one write: a packet sees the old or the new one); ``fresh`` restarts its round robin."""

    rule: RuleId
    entry: RuleEntry
    fresh: bool = True


class DropRule(Struct, frozen=True, kw_only=True, gc=False):
    """Mark a rule unused."""

    rule: RuleId


class PutListener(Struct, frozen=True, kw_only=True, gc=False):
    """Send the packets of a listener to a rule."""

    listener: Listener
    rule: RuleId


class DropListener(Struct, frozen=True, kw_only=True, gc=False):
    """Stop looking at packets of a listener."""

    listener: Listener


class PutSource(Struct, frozen=True, kw_only=True, gc=False):
    """Let clients of a prefix use a rule; one that is not there yet."""

    rule: RuleId
    network: IPNetwork


class DropSource(Struct, frozen=True, kw_only=True, gc=False):
    """Take a prefix that is there from a rule."""

    rule: RuleId
    network: IPNetwork


Single = PutEndpoint | DropEndpoint | PutRing | PutRule | DropRule | PutListener | DropListener | PutSource | DropSource
"""What changes one thing."""
Op = Add | Single


def one_by_one(ops: Iterable[Op]) -> Iterator[Single]:
    """Return what ``ops`` come to, in order; of what is added, what leads to something comes after it."""
    for op in ops:
        if not isinstance(op, Add):
            yield op
            continue
        image = op.image
        yield from (PutEndpoint(endpoint=slot, entry=entry) for slot, entry in image.endpoints.items())
        yield from (PutSource(rule=rule, network=one) for rule, some in image.sources.items() for one in some)
        yield from (PutRing(base=image.rules[rule].ring_base, endpoints=ring) for rule, ring in image.rings.items())
        yield from (PutRule(rule=rule, entry=entry) for rule, entry in image.rules.items())
        yield from (PutListener(listener=listener, rule=rule) for listener, rule in image.listeners.items())
